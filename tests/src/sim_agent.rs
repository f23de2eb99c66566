//! A simulated host: the agent's own enrolment, link, tunnel and journal over instances that are `sshd` processes and GPUs that are
//! data. So it speaks the real protocol by construction, and its faults are switches.

mod faults;
mod gpus;
mod instances;
mod scrub;
mod sshd;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::JoinHandle,
};

use anyhow::Context as _;
use freehold_agent::{
    clock::Clock,
    config::EnrollArgs,
    enroll::{self, EnrollError},
    facts,
    identity::IdentityStore,
    journal::Journal,
    link::{self, HostFacts, Replicas},
};
use freehold_proto::id::{HostId, InstanceId};
use tokio::{runtime::Handle, sync::mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use faults::{Faults, Stage};
pub use gpus::SimGpus;
use instances::{Instances, Parts};

/// A simulated host and, while it runs, its agent.
pub struct SimAgent {
    /// Made by the control plane at enrolment.
    pub host_id: HostId,
    /// What goes wrong with instances and scrubs.
    pub faults: Arc<Faults>,
    /// What goes wrong with GPUs.
    pub gpus: Arc<SimGpus>,
    dir: PathBuf,
    running: Option<Running>,
}

struct Running {
    handle: Handle,
    ended: CancellationToken,
    thread: JoinHandle<()>,
    gate: Arc<Gate>,
}

/// Where a frozen agent waits.
#[derive(Default)]
struct Gate {
    frozen: Mutex<bool>,
    thawed: Condvar,
}

/// What a host is enrolled with.
#[derive(Debug, Clone)]
pub struct Enrollment<'a> {
    /// `https://HOST:PORT` of a public listener.
    pub server: &'a str,
    /// An enrolment token.
    pub token: &'a str,
    /// The host's name, which also stands for its machine.
    pub name: &'a str,
    /// Where everything of the host is kept; nobody may enrol another host in it.
    pub dir: &'a Path,
}

impl SimAgent {
    /// Enrols a host with 8 H100 as `freehold-agent enroll` does. Its agent does not run yet.
    ///
    /// # Errors
    /// What the agent would print.
    pub async fn enroll(enrollment: &Enrollment<'_>) -> Result<Self, EnrollError> {
        let args = EnrollArgs {
            server: enrollment.server.to_owned(),
            token: enrollment.token.to_owned(),
            data_dir: enrollment.dir.to_owned(),
            machine_id: Some(format!("machine-{}", enrollment.name)),
            hostname: Some(enrollment.name.to_owned()),
        };
        let host_id = enroll::enroll(&args).await?;
        Ok(Self {
            host_id,
            faults: Arc::default(),
            gpus: Arc::new(SimGpus::new("H100 80GB HBM3", 8)),
            dir: enrollment.dir.to_owned(),
            running: None,
        })
    }

    /// Starts the agent, as after a boot or a crash: everything that it knows is on the disk.
    ///
    /// # Panics
    /// When it runs, or its files cannot be used.
    pub fn start(&mut self) {
        assert!(self.running.is_none(), "the agent runs already");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let handle = runtime.handle().clone();
        let ended = CancellationToken::new();
        {
            let _entered = runtime.enter();
            self.spawn_parts().expect("the agent starts");
        }
        let until = ended.clone();
        let thread = std::thread::spawn(move || {
            runtime.block_on(until.cancelled());
            // Nothing is told, saved or ended: as with kill -9.
            runtime.shutdown_background();
        });
        self.running = Some(Running {
            handle,
            ended,
            thread,
            gate: Arc::default(),
        });
    }

    fn spawn_parts(&self) -> anyhow::Result<()> {
        let clock = Clock::default();
        let (events, received) = mpsc::channel(64);
        let replicas = Replicas::default();
        let instances = Instances::open(Parts {
            dir: self.instances_dir(),
            certifier: Arc::new(replicas.clone()),
            gpus: Arc::clone(&self.gpus),
            faults: Arc::clone(&self.faults),
            clock: clock.clone(),
            events,
        })?;
        tokio::spawn(instances.clone().watch());
        let parts = link::Parts {
            data_dir: self.dir.clone(),
            identity: IdentityStore::open(&self.dir)?,
            journal: Journal::open(&self.dir, facts::boot_id()?, clock.clone())?,
            clock,
            replicas,
            instances: Arc::new(instances),
            events: received,
            gpus: Arc::clone(&self.gpus) as _,
            facts: HostFacts {
                vcpus: 224,
                memory_bytes: 2 << 40,
                scratch_bytes: 8 << 40,
            },
            capabilities: Vec::new(),
        };
        link::start(parts, &TaskTracker::new(), &CancellationToken::new());
        Ok(())
    }

    /// Stops the agent as kill -9 does. Its instances run on.
    pub fn crash(&mut self) {
        self.thaw();
        if let Some(running) = self.running.take() {
            running.ended.cancel();
            let _ = running.thread.join();
        }
    }

    /// The agent does nothing any more, with its connections open: a machine that hangs.
    pub fn freeze(&self) {
        let Some(running) = &self.running else { return };
        let gate = Arc::clone(&running.gate);
        *gate.lock() = true;
        running.handle.spawn(async move {
            // Blocks the agent's only thread, which is the point.
            let mut frozen = gate.lock();
            while *frozen {
                frozen = gate
                    .thawed
                    .wait(frozen)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        });
    }

    /// Lets a frozen agent go on.
    pub fn thaw(&self) {
        if let Some(running) = &self.running {
            *running.gate.lock() = false;
            running.gate.thawed.notify_all();
        }
    }

    /// The process that stands for an instance's container. `None`: it does not run.
    #[must_use]
    pub fn sshd_pid(&self, instance: InstanceId) -> Option<i32> {
        sshd::pid(&self.instances_dir().join(instance.to_string()))
    }

    /// Ends an instance's sshd, as its tenant can.
    pub fn kill_sshd(&self, instance: InstanceId) {
        sshd::kill(&self.instances_dir().join(instance.to_string()));
    }

    /// The instances of which something is on the host.
    ///
    /// # Errors
    /// When the host's folder cannot be read.
    pub fn instances_on_disk(&self) -> anyhow::Result<Vec<InstanceId>> {
        std::fs::read_dir(self.instances_dir())?
            .map(|entry| {
                let name = entry?.file_name();
                let name = name.to_str().context("a folder's name")?;
                Ok(name.parse()?)
            })
            .collect()
    }

    /// Where the host's identity and journal are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn instances_dir(&self) -> PathBuf {
        self.dir.join("instances")
    }
}

impl Gate {
    fn lock(&self) -> std::sync::MutexGuard<'_, bool> {
        self.frozen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SimAgent {
    fn drop(&mut self) {
        self.crash();
        let instances = std::fs::read_dir(self.instances_dir());
        for folder in instances.into_iter().flatten().flatten() {
            sshd::kill(&folder.path());
        }
    }
}
