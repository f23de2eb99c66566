//! An agent's link on a host whose instances and GPUs are in the test's hands.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
};

use freehold_agent::{
    clock::Clock,
    identity::{self, Identity, IdentityStore},
    journal::Journal,
    link::{self, HostFacts, Replicas},
    model::{
        Event, GoneOrder, GpuEvent, GpuInfo, GpuInventory, GpuRollup, GpuSample, GpuSource,
        HealthFinding, InstanceControl, InstanceSpec, InstanceStatus, ScrubOrder, TargetError,
    },
};
use freehold_proto::id::InstanceId;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What the link asked of the instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    Run(InstanceSpec),
    Remove(GoneOrder),
    Scrub(ScrubOrder),
}

#[derive(Debug, Default)]
pub(crate) struct Instances {
    pub(crate) asked: Mutex<Vec<Asked>>,
    pub(crate) statuses: Mutex<Vec<InstanceStatus>>,
    pub(crate) targets: Mutex<HashMap<InstanceId, Result<SocketAddr, TargetError>>>,
}

impl Instances {
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("not poisoned").clone()
    }

    fn push(&self, asked: Asked) {
        self.asked.lock().expect("not poisoned").push(asked);
    }
}

impl InstanceControl for Instances {
    fn ensure_running(&self, spec: InstanceSpec) {
        self.push(Asked::Run(spec));
    }

    fn ensure_gone(&self, order: GoneOrder) {
        self.push(Asked::Remove(order));
    }

    fn scrub_host(&self, order: ScrubOrder) {
        self.push(Asked::Scrub(order));
    }

    fn statuses(&self) -> Vec<InstanceStatus> {
        self.statuses.lock().expect("not poisoned").clone()
    }

    fn ssh_target(&self, instance: InstanceId) -> Result<SocketAddr, TargetError> {
        let targets = self.targets.lock().expect("not poisoned");
        let target = targets.get(&instance).copied();
        target.unwrap_or(Err(TargetError::NotHere))
    }
}

pub(crate) struct Gpus {
    pub(crate) events: broadcast::Sender<GpuEvent>,
    pub(crate) findings: watch::Sender<Vec<HealthFinding>>,
    pub(crate) inventory: Mutex<GpuInventory>,
}

fn inventory() -> GpuInventory {
    GpuInventory {
        gpus: vec![GpuInfo {
            uuid: "GPU-a".to_owned(),
            model: "H100 80GB HBM3".to_owned(),
            ..GpuInfo::default()
        }],
        driver_version: "550.54.15".to_owned(),
        cuda_version: "12.4".to_owned(),
        simulated: true,
    }
}

#[async_trait::async_trait]
impl GpuSource for Gpus {
    fn inventory(&self) -> GpuInventory {
        self.inventory.lock().expect("not poisoned").clone()
    }

    async fn sample(&self) -> Vec<GpuSample> {
        vec![GpuSample {
            uuid: "GPU-a".to_owned(),
            utilization_percent: Some(40),
            ..GpuSample::default()
        }]
    }

    fn take_rollups(&self) -> Vec<GpuRollup> {
        Vec::new()
    }

    fn events(&self) -> broadcast::Receiver<GpuEvent> {
        self.events.subscribe()
    }

    fn findings(&self) -> watch::Receiver<Vec<HealthFinding>> {
        self.findings.subscribe()
    }
}

/// A running link. Stops when dropped.
pub(crate) struct Host {
    pub(crate) instances: Arc<Instances>,
    pub(crate) gpus: Arc<Gpus>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) journal: Journal,
    pub(crate) identity: IdentityStore,
    pub(crate) replicas: Replicas,
    pub(crate) tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Host {
    /// Stores an enrolment in `dir` and starts the link on it.
    pub(crate) fn enrolled(dir: &Path, identity: &Identity, addresses: &[&str]) -> Self {
        identity::save(dir, identity).expect("stored");
        let addresses: Vec<String> = addresses.iter().map(|a| (*a).to_owned()).collect();
        identity::save_replicas(dir, &addresses).expect("stored");
        Self::start(dir)
    }

    /// Starts the link on what is in `dir`.
    pub(crate) fn start(dir: &Path) -> Self {
        let clock = Clock::default();
        let (events, received) = mpsc::channel(64);
        let host = Self {
            instances: Arc::default(),
            gpus: Arc::new(Gpus {
                events: broadcast::Sender::new(16),
                findings: watch::Sender::new(Vec::new()),
                inventory: Mutex::new(inventory()),
            }),
            events,
            journal: Journal::open(dir, "boot-1".to_owned(), clock.clone()).expect("opens"),
            identity: IdentityStore::open(dir).expect("enrolled"),
            replicas: Replicas::default(),
            tasks: TaskTracker::new(),
            cancel: CancellationToken::new(),
        };
        let parts = link::Parts {
            data_dir: dir.to_owned(),
            identity: host.identity.clone(),
            journal: host.journal.clone(),
            clock,
            replicas: host.replicas.clone(),
            instances: host.instances.clone(),
            events: received,
            gpus: host.gpus.clone(),
            facts: HostFacts {
                vcpus: 8,
                memory_bytes: 1 << 34,
                scratch_bytes: 1 << 36,
            },
            capabilities: Vec::new(),
        };
        link::start(parts, &host.tasks, &host.cancel);
        host
    }

    /// Stops every task and waits until they are gone.
    pub(crate) async fn stop(self) {
        self.cancel.cancel();
        self.tasks.close();
        crate::soon("the agent stops", self.tasks.wait()).await;
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}
