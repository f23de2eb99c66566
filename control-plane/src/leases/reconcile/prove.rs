//! The proof that an instance is usable: a login through the gateway's own way to its sshd.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use freehold_proto::id::{HostId, InstanceId};
use tokio::io::AsyncReadExt as _;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::{execute, snapshot::View};
use crate::{
    app::App,
    error::Result,
    leases::model::{
        condition::{Availability, Condition},
        decision::login_failed,
        instance::Recorded,
    },
};

/// A login that takes longer did not work.
const TIMEOUT: Duration = Duration::from_secs(10);

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

/// Why a login did not work.
#[derive(Debug, thiserror::Error)]
enum ProbeError {
    /// No bytes came from the instance.
    #[error("{0}")]
    Unreachable(String),
    /// Something answered, and it was no sshd that lets us in.
    #[error("{0}")]
    Refused(String),
}

async fn login(
    app: &App,
    host: HostId,
    instance: InstanceId,
) -> std::result::Result<(), ProbeError> {
    let unreachable = |error: std::io::Error| ProbeError::Unreachable(error.to_string());
    let mut stream = app
        .links
        .open_ssh(host, instance)
        .await
        .map_err(unreachable)?;
    let mut banner = [0; 4];
    stream.read_exact(&mut banner).await.map_err(unreachable)?;
    if banner == *b"SSH-" {
        Ok(())
    } else {
        Err(ProbeError::Refused(
            "what answers on port 22 does not speak SSH".to_owned(),
        ))
    }
}

async fn try_login(app: &App, view: &View) -> std::result::Result<(), ProbeError> {
    let Some(host) = view.host else {
        return Err(ProbeError::Unreachable("it has no host".to_owned()));
    };
    let mut pause = Duration::from_millis(50);
    let mut tried = 0;
    loop {
        let login = login(app, host, view.instance);
        let result = tokio::time::timeout(TIMEOUT, login)
            .await
            .unwrap_or_else(|_| {
                Err(ProbeError::Unreachable(format!(
                    "no answer within {} s",
                    TIMEOUT.as_secs()
                )))
            });
        tried += 1;
        match result {
            Err(_) if tried < TRIES => tokio::time::sleep(pause).await,
            result => return result,
        }
        pause *= 4;
    }
}
