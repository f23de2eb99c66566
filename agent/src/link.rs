//! The control streams: one to each replica of the control plane, for as long as both live.
//!
//! ```text
//! replicas' addresses ──► one task each: dial → hello → orders in, reports out ──► backoff ──► dial …
//! instances' events ────► every stream          telemetry, health ───► the stream that asked for it
//! ```
//!
//! Invariant: nothing that happens to a stream changes what runs on this host. Only an order does, and only one that
//! [`Journal::admit`](crate::journal::Journal::admit) took.

mod convert;
mod orders;
mod renewal;
mod replicas;
mod sampling;
mod session;
mod telemetry;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{broadcast, mpsc, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::{
    clock::Clock,
    identity::{self, IdentityStore},
    journal::Journal,
    model::{Event, GpuSource, InstanceControl, ScrubOutcome},
};

pub use replicas::Replicas;

/// Events that a stream may be behind before it is closed; its next hello then says everything anew.
const EVENT_BACKLOG: usize = 256;

/// Scrub outcomes that are repeated after a hello, for those that came while no stream was up.
const OUTCOMES_KEPT: usize = 32;

/// The pause between attempts grows up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// What a stream's end is worth: one that held this long is dialled again at once.
const STABLE_AFTER: Duration = Duration::from_secs(30);

/// What the machine has besides GPUs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Logical processors.
    pub vcpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// What scratches may take together, in bytes.
    pub scratch_bytes: u64,
}

/// What the link is made of.
pub struct Parts {
    /// Where the replicas' addresses are remembered.
    pub data_dir: PathBuf,
    /// Who this host is.
    pub identity: IdentityStore,
    /// What was promised.
    pub journal: Journal,
    /// Set by every hello and heartbeat.
    pub clock: Clock,
    /// The replicas that are connected.
    pub replicas: Replicas,
    /// Obeys orders.
    pub instances: Arc<dyn InstanceControl>,
    /// What `instances` reports.
    pub events: mpsc::Receiver<Event>,
    /// Tells of the GPUs.
    pub gpus: Arc<dyn GpuSource>,
    /// What the hello says of the machine.
    pub facts: HostFacts,
    /// Optional abilities that the hello names.
    pub capabilities: Vec<String>,
}

/// What every task of the link shares.
struct Shared {
    data_dir: PathBuf,
    identity: IdentityStore,
    journal: Journal,
    clock: Clock,
    replicas: Replicas,
    instances: Arc<dyn InstanceControl>,
    gpus: Arc<dyn GpuSource>,
    facts: HostFacts,
    capabilities: Vec<String>,
    /// The replicas that there are.
    addresses: watch::Sender<BTreeSet<String>>,
    events: broadcast::Sender<Event>,
    outcomes: Mutex<VecDeque<ScrubOutcome>>,
    orders: mpsc::Sender<orders::Received>,
    /// The stream that takes telemetry, and the session it belongs to.
    telemetry: watch::Sender<Option<telemetry::Outlet>>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

/// Starts the link's tasks. They end when `cancel` is, and leave every instance as it is.
pub fn start(parts: Parts, tasks: &TaskTracker, cancel: &CancellationToken) {
    let known = identity::load_replicas(&parts.data_dir);
    let (orders, received) = mpsc::channel(orders::BACKLOG);
    let shared = Arc::new(Shared {
        data_dir: parts.data_dir,
        identity: parts.identity,
        journal: parts.journal,
        clock: parts.clock,
        replicas: parts.replicas,
        instances: parts.instances,
        gpus: parts.gpus,
        facts: parts.facts,
        capabilities: parts.capabilities,
        addresses: watch::Sender::new(known.into_iter().collect()),
        events: broadcast::Sender::new(EVENT_BACKLOG),
        outcomes: Mutex::default(),
        orders,
        telemetry: watch::Sender::new(None),
        tasks: tasks.clone(),
        cancel: cancel.clone(),
    });
    spawn(&shared, spread_events(Arc::clone(&shared), parts.events));
    spawn(&shared, orders::obey(Arc::clone(&shared), received));
    spawn(&shared, telemetry::run(Arc::clone(&shared)));
    spawn(&shared, sampling::run(Arc::clone(&shared)));
    spawn(&shared, follow_replicas(Arc::clone(&shared)));
    spawn(
        &shared,
        renewal::run(
            shared.identity.clone(),
            shared.replicas.clone(),
            shared.clock.clone(),
        ),
    );
}

/// Runs a task until it ends or the agent stops.
fn spawn(shared: &Shared, task: impl Future<Output = ()> + Send + 'static) {
    let cancel = shared.cancel.clone();
    shared.tasks.spawn(async move {
        cancel.run_until_cancelled(task).await;
    });
}

/// Hands every event to every stream.
async fn spread_events(shared: Arc<Shared>, mut events: mpsc::Receiver<Event>) {
    while let Some(event) = events.recv().await {
        if let Event::Scrub(outcome) = &event {
            let mut kept = shared
                .outcomes
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            kept.retain(|other| other.scrub_id != outcome.scrub_id);
            kept.push_back(outcome.clone());
            if kept.len() > OUTCOMES_KEPT {
                kept.pop_front();
            }
        }
        // Without a stream nobody listens; the next hello says it.
        let _ = shared.events.send(event);
    }
}

impl Shared {
    /// Takes over what a replica says of which replicas there are. An empty list would cut the host off, and is ignored.
    fn set_addresses(&self, told: Vec<String>) {
        let told: BTreeSet<String> = told.into_iter().collect();
        if told.is_empty() {
            return;
        }
        self.addresses.send_if_modified(|known| {
            let changed = *known != told;
            if changed {
                let list: Vec<String> = told.iter().cloned().collect();
                if let Err(error) = identity::save_replicas(&self.data_dir, &list) {
                    tracing::warn!(%error, "cannot remember the replicas' addresses");
                }
                *known = told;
            }
            changed
        });
    }
}

/// Keeps one task for each replica. A new enrolment's addresses are taken up as well.
async fn follow_replicas(shared: Arc<Shared>) {
    let mut changes = shared.addresses.subscribe();
    let mut running: BTreeMap<String, CancellationToken> = BTreeMap::new();
    let mut known = shared.identity.current();
    loop {
        let wanted = changes.borrow_and_update().clone();
        running.retain(|address, cancel| {
            let keep = wanted.contains(address);
            if !keep {
                tracing::info!(address, "the replica is gone from the list");
                cancel.cancel();
            }
            keep
        });
        for address in wanted {
            running.entry(address).or_insert_with_key(|address| {
                let cancel = shared.cancel.child_token();
                let task = keep_attached(Arc::clone(&shared), address.clone());
                let until = cancel.clone();
                shared.tasks.spawn(async move {
                    until.run_until_cancelled(task).await;
                });
                cancel
            });
        }
        tokio::select! {
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = tokio::time::sleep(LONGEST_PAUSE) => {
                let current = shared.identity.current();
                if current.identity.host_id != known.identity.host_id {
                    tracing::error!("this host was enrolled under another id: restart the agent");
                }
                if !Arc::ptr_eq(&current, &known) {
                    known = current;
                    shared.set_addresses(identity::load_replicas(&shared.data_dir));
                }
            }
        }
    }
}

/// Dials a replica, serves the stream, and dials again.
async fn keep_attached(shared: Arc<Shared>, address: String) {
    let mut failures = 0_u32;
    let mut said: Option<(String, Instant)> = None;
    loop {
        let began = Instant::now();
        let error = session::run(&shared, &address).await;
        failures = if began.elapsed() >= STABLE_AFTER {
            0
        } else {
            failures.saturating_add(1)
        };
        let text = error.to_string();
        let repeated = matches!(&said, Some((last, at)) if *last == text && at.elapsed() < Duration::from_mins(1));
        if repeated {
            tracing::debug!(address, error = text, "the replica is not connected");
        } else {
            tracing::warn!(
                address,
                error = text,
                remedy = remedy(&shared),
                "the replica is not connected"
            );
            said = Some((text, Instant::now()));
        }
        let jitter = rand::random_range(0.5..1.0);
        tokio::time::sleep(pause_after(failures, jitter)).await;
    }
}

/// 250 ms, doubled with every failure up to [`LONGEST_PAUSE`], times a jitter so that a fleet does not come back at once.
fn pause_after(failures: u32, jitter: f64) -> Duration {
    let doubled = Duration::from_millis(250).saturating_mul(1 << failures.min(10));
    doubled.min(LONGEST_PAUSE).mul_f64(jitter)
}

fn remedy(shared: &Shared) -> &'static str {
    if shared.clock.now_micros() >= shared.identity.current().valid_until_us {
        "the client certificate has expired: enrol this host again with `freehold-agent enroll` and a new token; its id and its instances stay"
    } else {
        "dialled again by itself; instances are not touched"
    }
}

/// A gRPC channel over a connection that exists. It ends with the connection.
///
/// # Errors
/// When the HTTP/2 preface is not answered.
pub async fn channel_over<S>(stream: S) -> Result<Channel, tonic::transport::Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let slot = Arc::new(Mutex::new(Some(TokioIo::new(stream))));
    let connector = tower::service_fn(move |_: Uri| {
        let taken = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        let closed = || std::io::Error::from(std::io::ErrorKind::NotConnected);
        std::future::ready(taken.ok_or_else(closed))
    });
    // The connector is what decides where it goes and that it is encrypted; the authority is not used.
    Endpoint::from_static("http://replica.invalid")
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20))
        .connect_with_connector(connector)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stop_growing() {
        let pauses: Vec<_> = (0..12).map(|n| pause_after(n, 1.0).as_millis()).collect();
        assert_eq!(pauses[..3], [250, 500, 1000]);
        assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(pauses.last(), Some(&15_000));
        assert_eq!(pause_after(u32::MAX, 0.5).as_millis(), 7500);
    }
}
