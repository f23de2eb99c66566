//! The proof that an instance is usable: a login through the gateway's own way to its sshd.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use freehold_proto::id::InstanceId;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::{execute, snapshot::View};
use crate::{
    access::gateway::{self, ProbeError},
    app::App,
    error::Result,
    leases::model::{
        condition::{Availability, Condition},
        decision::login_failed,
        instance::Recorded,
    },
};

/// Tries of one proof: an sshd that has just begun to listen may refuse the first.
const TRIES: u32 = 3;

/// Logins under way and when they last worked: a hint of this replica's own, and lost without harm.
#[derive(Clone)]
pub(super) struct Proofs {
    state: Arc<Mutex<State>>,
    tasks: TaskTracker,
}

#[derive(Default)]
struct State {
    under_way: HashSet<Uuid>,
    worked: HashMap<Uuid, Instant>,
}

impl Proofs {
    pub(super) fn new(tasks: TaskTracker) -> Self {
        Self {
            state: Arc::default(),
            tasks,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Proves again, once in a while, that an instance is usable whose agent sees nothing wrong.
    pub(super) fn prove_again(&self, app: &App, view: &View, condition: &Condition) {
        let interval = app.config.limits.probe_interval;
        let instance = view.instance.uuid();
        let recently = self
            .state()
            .worked
            .get(&instance)
            .is_some_and(|at| at.elapsed() < interval);
        if condition.availability == Availability::Usable && !recently {
            self.prove(app, view.clone());
        }
    }

    /// Logs in, in a task of its own, when the host's agent is connected to this replica and no login is under way.
    pub(super) fn prove(&self, app: &App, view: View) {
        let Some(host) = view.host else { return };
        if !app.links.is_connected(host) || !self.state().under_way.insert(view.instance.uuid()) {
            return;
        }
        let (proofs, app) = (self.clone(), app.clone());
        self.tasks.spawn(async move {
            let instance = view.instance;
            let done = tokio::select! {
                () = app.shutdown.cancelled() => Ok(()),
                done = proofs.log_in(&app, view) => done,
            };
            proofs.state().under_way.remove(&instance.uuid());
            if let Err(error) = done {
                let error = format!("{:#}", anyhow::Error::new(error));
                tracing::warn!(instance.id = %instance, error, "what a login proved could not be written down");
            }
        });
    }

    fn note_success(&self, instance: InstanceId, interval: Duration) {
        let mut state = self.state();
        state.worked.retain(|_, at| at.elapsed() < 4 * interval);
        state.worked.insert(instance.uuid(), Instant::now());
    }

    async fn log_in(&self, app: &App, view: View) -> Result<()> {
        match try_login(app, &view).await {
            Ok(()) => {
                self.note_success(view.instance, app.config.limits.probe_interval);
                execute::verify(app, &view).await
            }
            // Until it was usable once there is nothing to pause: the next pass tries again, until the limit.
            Err(_) if view.situation.recorded == Recorded::Provisioning => Ok(()),
            Err(error) => {
                let refused = matches!(error, ProbeError::Refused(_));
                let condition = login_failed(refused, &error.to_string());
                execute::observe(app, &view, &condition).await
            }
        }
    }
}

async fn try_login(app: &App, view: &View) -> std::result::Result<(), ProbeError> {
    let Some(host) = view.host else {
        return Err(ProbeError::Unreachable("it has no host".to_owned()));
    };
    let mut pause = Duration::from_millis(50);
    let mut tried = 0;
    loop {
        let login = gateway::login_probe(app, host, view.instance, view.lease, view.ordinal);
        tried += 1;
        match login.await {
            Err(_) if tried < TRIES => tokio::time::sleep(pause).await,
            result => return result,
        }
        pause *= 4;
    }
}
