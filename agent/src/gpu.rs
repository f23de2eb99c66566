//! The host's GPUs: what there is, how it fares, what befell it.
//!
//! ```text
//! nvml-worker (child process) ──► sample ──► telemetry, minute rollups
//!        │                    └─► health ──► checks ──► findings
//!        └─► Xid events ─┐
//! kernel log ────────────┴► deduplicated ──► events, checks
//! ```
//!
//! Invariant: NVML is called in the worker only, and nothing here waits for it longer than [`Timing`] says. A call that hangs costs the
//! worker, which is replaced, and is a finding.

mod checks;
mod child;
mod gate;
mod kernel_log;
mod look;
mod monitor;
mod nvml;
mod rollup;
mod state;
mod wire;
mod worker;
mod xid;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    clock::Clock,
    journal::Journal,
    model::{GpuEvent, GpuInventory, GpuRollup, GpuSample, GpuSource, HealthFinding},
};
use child::Nvml;
use state::State;
use wire::{Answer, Request};

pub use child::{NvmlError, Program, Timing};
pub use look::{Look, look};
pub(crate) use wire::GpuHealth;
pub use worker::run as run_worker;

/// Events that a reader may be behind.
const EVENT_BACKLOG: usize = 256;

/// Xids of NVML's event set that wait to be looked at.
const XID_BACKLOG: usize = 64;

/// How the GPUs are watched.
#[derive(Debug, Clone)]
pub struct Options {
    /// How the NVML worker is started.
    pub program: Program,
    /// How long things may take.
    pub timing: Timing,
    /// The kernel's log, or a file that stands for it. `None`: NVML's events alone.
    pub kmsg: Option<PathBuf>,
}

/// The host's GPUs. Clones are the same.
#[derive(Debug, Clone)]
pub struct Gpus {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    nvml: Nvml,
    clock: Clock,
    /// Remembers over restarts which Xids were told and which a gate has cleared.
    journal: Option<Journal>,
    /// Held for a moment only.
    state: Mutex<State>,
    findings: watch::Sender<Vec<HealthFinding>>,
    events: broadcast::Sender<GpuEvent>,
    /// Whether NVML told what there is, or failed to.
    settled: watch::Sender<bool>,
    timing: Timing,
}

impl Gpus {
    /// Starts to watch. `journal`: where is remembered which Xids were told.
    #[must_use]
    pub fn start(
        options: Options,
        clock: Clock,
        journal: Option<Journal>,
        tasks: &TaskTracker,
        cancel: &CancellationToken,
    ) -> Self {
        let (xids, xids_seen) = mpsc::channel(XID_BACKLOG);
        let shared = Arc::new(Shared {
            nvml: Nvml::new(options.program, options.timing.clone(), xids),
            state: Mutex::new(State::new(journal.as_ref())),
            clock,
            journal,
            findings: watch::Sender::new(Vec::new()),
            events: broadcast::Sender::new(EVENT_BACKLOG),
            settled: watch::Sender::new(false),
            timing: options.timing,
        });
        let watch = monitor::watch_health(Arc::clone(&shared));
        tasks.spawn(cancel.clone().run_until_cancelled_owned(watch));
        let follow = monitor::follow_xids(Arc::clone(&shared), xids_seen, options.kmsg);
        tasks.spawn(cancel.clone().run_until_cancelled_owned(follow));
        Self { shared }
    }

    /// Waits until NVML told what there is, or failed to, for at most `limit`.
    pub async fn settle(&self, limit: Duration) {
        let mut settled = self.shared.settled.subscribe();
        let _ = tokio::time::timeout(limit, settled.wait_for(|settled| *settled)).await;
    }

    /// Why NVML does not answer now. `None`: it does.
    #[must_use]
    pub fn failure(&self) -> Option<NvmlError> {
        let state = self.shared.state();
        state
            .snapshot
            .failure
            .as_ref()
            .map(|(error, _)| error.clone())
    }
}

#[async_trait::async_trait]
impl GpuSource for Gpus {
    fn inventory(&self) -> GpuInventory {
        self.shared.state().inventory.clone()
    }

    async fn sample(&self) -> Vec<GpuSample> {
        match self.shared.nvml.ask(Request::Sample).await {
            Ok((hello, Answer::Sample(measures))) => {
                let now_micros = self.shared.clock.now_micros();
                self.shared
                    .change(|state| state.sampled(&hello, &measures, now_micros))
            }
            Ok(_) => {
                self.shared.nvml.restart().await;
                Vec::new()
            }
            Err(error) => {
                self.shared.failed(error);
                Vec::new()
            }
        }
    }

    fn take_rollups(&self) -> Vec<GpuRollup> {
        let now_micros = self.shared.clock.now_micros();
        self.shared.state().rollups.take(now_micros)
    }

    fn events(&self) -> broadcast::Receiver<GpuEvent> {
        self.shared.events.subscribe()
    }

    fn findings(&self) -> watch::Receiver<Vec<HealthFinding>> {
        self.shared.findings.subscribe()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and tells what follows from it.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let outcome = change(&mut state);
        let findings = checks::run(&state.snapshot);
        // Told while the state is held, so that what is told last is what is so.
        self.findings.send_if_modified(|known| {
            if *known == findings {
                return false;
            }
            for event in new_faults(known, &findings, self.clock.now_micros()) {
                // Without a reader nobody is told.
                let _ = self.events.send(event);
            }
            *known = findings;
            true
        });
        outcome
    }

    fn failed(&self, error: NvmlError) {
        let times = self.nvml.failures();
        self.change(|state| state.snapshot.failure = Some((error, times)));
        self.settled.send_replace(true);
    }

    /// Looks at everything now.
    async fn examine(&self) -> Result<Vec<GpuHealth>, NvmlError> {
        match self.nvml.ask(Request::Health).await {
            Ok((hello, Answer::Health(gpus))) => {
                self.change(|state| state.examined(&hello, gpus.clone()));
                self.settled.send_replace(true);
                Ok(gpus)
            }
            Ok(_) => {
                self.nvml.restart().await;
                Err(NvmlError::Died("it answered something else".to_owned()))
            }
            Err(error) => {
                self.failed(error.clone());
                Err(error)
            }
        }
    }
}

/// The faults that are events as well as findings, when they are new.
fn new_faults<'a>(
    known: &'a [HealthFinding],
    findings: &'a [HealthFinding],
    now_micros: i64,
) -> impl Iterator<Item = GpuEvent> + 'a {
    let is_fault = |check: &str| matches!(check, "gpu_lost" | "nvml_timeout" | "nvml_unavailable");
    let same =
        |a: &HealthFinding, b: &HealthFinding| a.check == b.check && a.gpu_uuid == b.gpu_uuid;
    let new = move |finding: &&HealthFinding| {
        is_fault(&finding.check) && !known.iter().any(|other| same(other, finding))
    };
    findings.iter().filter(new).map(move |finding| GpuEvent {
        time_micros: now_micros,
        gpu_uuid: finding.gpu_uuid.clone(),
        kind: finding.check.clone(),
        xid: None,
        detail: finding.detail.clone(),
    })
}
