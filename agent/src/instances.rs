//! The instances of this host. Each has an owner, a task that does one thing after the other to it; only an end that was ordered
//! interrupts it.
//!
//! ```text
//! link ──► ensure_running ─┐                    ┌─► policy, image, host key, network, scratch, container, sshd, GPUs
//!          ensure_gone ────┼─► owner (inbox) ───┤
//! watch ─► look ───────────┘                    └─► container away → absent → scrub → outcome
//! ```
//!
//! Invariant: an owner's death touches nothing. What runs is found again by its labels and by the records in the data directory, and
//! what cannot be asked about is unknown, never absent.

mod bring_up;
mod login;
mod owner;
mod records;
mod removal;
mod watch;

use std::{
    collections::{BTreeMap, HashSet},
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use freehold_proto::id::{HostId, InstanceId};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    clock::Clock,
    journal::Journal,
    model::{
        Event, Fence, GoneOrder, GpuGate, GpuSource, HostKeyCertifier, InstanceControl,
        InstanceSpec, InstanceStatus, ReportedState, ScrubOrder, TargetError,
    },
    network::Firewall,
    policy::Policy,
    runtime::{Engine, Names, Record},
    scratch::Scratch,
    scrub::Outcomes,
};
use owner::{Message, Owner};

pub use crate::runtime::SimulatorFiles;

/// Messages that an owner may have waiting. More are dropped: the control plane repeats what was not done.
const INBOX: usize = 64;

/// Instances that are gone and still reported as such.
const ABSENT_KEPT: usize = 32;

/// What the instances are made of.
pub struct Parts {
    /// Scopes everything on an engine that other agents may share.
    pub host_id: HostId,
    /// The container engine's socket.
    pub docker_socket: PathBuf,
    /// Where records and host keys are kept.
    pub data_dir: PathBuf,
    /// Where scratches are kept.
    pub scratch_dir: PathBuf,
    /// What this host allows.
    pub policy: Policy,
    /// Knows the fences.
    pub journal: Journal,
    /// The control plane's time.
    pub clock: Clock,
    /// Says whether the GPUs are simulated.
    pub gpus: Arc<dyn GpuSource>,
    /// Cleans and checks the GPUs.
    pub gate: Arc<dyn GpuGate>,
    /// Certifies host keys.
    pub certifier: Arc<dyn HostKeyCertifier>,
    /// The simulator's files, for hosts whose GPUs are simulated.
    pub simulator: Option<SimulatorFiles>,
    /// Where changes are told.
    pub events: mpsc::Sender<Event>,
}

/// What every owner shares.
struct Shared {
    host: HostId,
    engine: Engine,
    firewall: Firewall,
    data_dir: PathBuf,
    scratch_dir: PathBuf,
    policy: Policy,
    journal: Journal,
    clock: Clock,
    gpus: Arc<dyn GpuSource>,
    gate: Arc<dyn GpuGate>,
    certifier: Arc<dyn HostKeyCertifier>,
    simulator: Option<SimulatorFiles>,
    events: mpsc::Sender<Event>,
    outcomes: Outcomes,
    slots: Mutex<BTreeMap<InstanceId, Slot>>,
    /// Images, by their ids, that were seen to have an sshd.
    with_sshd: Mutex<HashSet<String>>,
    /// GPUs are cleaned by one scrub at a time.
    scrubbing: tokio::sync::Mutex<()>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

/// One instance as others see it.
struct Slot {
    status: InstanceStatus,
    target: Option<SocketAddr>,
    inbox: mpsc::Sender<Message>,
}

/// The handle. Clones are the same instances.
#[derive(Clone)]
pub struct Instances {
    shared: Arc<Shared>,
}

/// Finds what runs on this host and begins to watch it. The tasks end when `cancel` is, and leave every instance as it is.
pub async fn start(
    parts: Parts,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) -> Arc<Instances> {
    let outcomes = Outcomes::open(parts.data_dir.join("scrubs"));
    let shared = Arc::new(Shared {
        host: parts.host_id,
        engine: Engine::new(parts.docker_socket),
        firewall: Firewall::new(parts.host_id, parts.policy.denied_networks.clone()),
        data_dir: parts.data_dir,
        scratch_dir: parts.scratch_dir,
        policy: parts.policy,
        journal: parts.journal,
        clock: parts.clock,
        gpus: parts.gpus,
        gate: parts.gate,
        certifier: parts.certifier,
        simulator: parts.simulator,
        events: parts.events,
        outcomes,
        slots: Mutex::default(),
        with_sshd: Mutex::default(),
        scrubbing: tokio::sync::Mutex::default(),
        tasks: tasks.clone(),
        cancel: cancel.clone(),
    });
    watch::rebuild(&shared).await;
    shared.spawn(watch::run(Arc::clone(&shared)));
    Arc::new(Instances { shared })
}

impl InstanceControl for Instances {
    fn ensure_running(&self, spec: InstanceSpec) {
        let id = spec.instance_id;
        self.shared
            .tell(id, spec.fence, Message::Run(Box::new(spec)));
    }

    fn ensure_gone(&self, order: GoneOrder) {
        let id = order.instance_id;
        self.shared
            .tell(id, order.fence, Message::Gone(Box::new(order)));
    }

    fn scrub_host(&self, order: ScrubOrder) {
        let shared = Arc::clone(&self.shared);
        self.shared
            .spawn(async move { removal::scrub_host(&shared, order).await });
    }

    fn statuses(&self) -> Vec<InstanceStatus> {
        let slots = self.shared.slots();
        slots.values().map(|slot| slot.status.clone()).collect()
    }

    fn ssh_target(&self, instance: InstanceId) -> Result<SocketAddr, TargetError> {
        let slots = self.shared.slots();
        let slot = slots.get(&instance).ok_or(TargetError::NotHere)?;
        match slot.status.state {
            ReportedState::Absent => Err(TargetError::NotHere),
            // An engine that cannot be asked is no reason to keep tenants out.
            ReportedState::Running | ReportedState::Unknown => {
                slot.target.ok_or(TargetError::NotRunning)
            }
            _ => Err(TargetError::NotRunning),
        }
    }
}

impl Shared {
    fn slots(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a task until it ends or the agent stops.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let cancel = self.cancel.clone();
        self.tasks.spawn(async move {
            cancel.run_until_cancelled(task).await;
        });
    }

    fn names(&self, instance: InstanceId) -> Names {
        Names::new(self.host, instance)
    }

    fn scratch(&self, instance: InstanceId) -> Scratch {
        Scratch::new(&self.scratch_dir, self.host, instance)
    }

    /// Where everything that the agent remembers of an instance is kept.
    fn instance_dir(&self, instance: InstanceId) -> PathBuf {
        self.data_dir.join("instances").join(instance.to_string())
    }

    /// Hands a message to an instance's owner, who is made if there is none.
    fn tell(self: &Arc<Self>, instance: InstanceId, fence: Fence, message: Message) {
        let mut slots = self.slots();
        let slot = slots.entry(instance).or_insert_with(|| {
            let status = InstanceStatus::new(instance, fence, ReportedState::Unknown);
            self.new_slot(status, None)
        });
        if slot.inbox.try_send(message).is_err() {
            tracing::warn!(instance.id = %instance, "an order is dropped: too many are waiting");
        }
    }

    /// A slot with an owner who works on it.
    fn new_slot(self: &Arc<Self>, status: InstanceStatus, record: Option<Record>) -> Slot {
        let (inbox, messages) = mpsc::channel(INBOX);
        let owner = Owner::new(Arc::clone(self), status.instance_id, record);
        self.spawn(owner.run(messages));
        Slot {
            status,
            target: None,
            inbox,
        }
    }

    /// Has an instance looked at.
    fn look(&self, instance: InstanceId) {
        if let Some(slot) = self.slots().get(&instance) {
            // A full inbox has plenty to do that ends with a look.
            let _ = slot.inbox.try_send(Message::Look);
        }
    }

    fn status(&self, instance: InstanceId) -> Option<InstanceStatus> {
        let slots = self.slots();
        slots.get(&instance).map(|slot| slot.status.clone())
    }

    fn target(&self, instance: InstanceId) -> Option<SocketAddr> {
        self.slots().get(&instance)?.target
    }

    /// Takes over what an owner saw, and tells it if it is news.
    async fn set_status(&self, status: InstanceStatus, target: Option<SocketAddr>) {
        let changed = {
            let mut slots = self.slots();
            let Some(slot) = slots.get_mut(&status.instance_id) else {
                return;
            };
            slot.target = target;
            let changed = slot.status != status;
            slot.status = status.clone();
            if status.state == ReportedState::Absent {
                forget_oldest(&mut slots);
            }
            changed
        };
        if changed {
            tracing::info!(
                instance.id = %status.instance_id,
                state = ?status.state,
                detail = status.detail,
                sshd = status.sshd_listening,
                gpus = status.visible_gpu_uuids.len(),
                "instance"
            );
            // Fails only when the link has gone, and then nobody listens any more.
            let _ = self.events.send(Event::Instance(status)).await;
        }
    }
}

/// Ids sort by the time at which they were minted.
fn forget_oldest(slots: &mut BTreeMap<InstanceId, Slot>) {
    let is_absent = |slot: &Slot| slot.status.state == ReportedState::Absent;
    let absent = slots.iter().filter(|(_, slot)| is_absent(slot));
    let absent: Vec<InstanceId> = absent.map(|(id, _)| *id).collect();
    let surplus = absent.len().saturating_sub(ABSENT_KEPT);
    for id in &absent[..surplus] {
        slots.remove(id);
    }
}
