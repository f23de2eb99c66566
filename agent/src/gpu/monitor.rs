//! The two tasks that watch: one asks NVML how the GPUs fare, one follows Xids. The second does not depend on the first: Xids come
//! through while NVML hangs.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use super::{
    Shared,
    kernel_log::KernelLog,
    state::{SeenXid, Whose},
    wire::XidEvent,
    xid,
};
use crate::facts;

/// Between looks at the kernel's log.
const LOG_INTERVAL: Duration = Duration::from_millis(500);

/// Between attempts to find a lost GPU by starting NVML anew.
const REOPEN_INTERVAL: Duration = Duration::from_mins(1);

/// How long Xids of the past wait for NVML to tell which GPU is at which address.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);

/// Examines the GPUs from time to time.
pub(super) async fn watch_health(shared: Arc<Shared>) {
    let mut opened = Instant::now();
    loop {
        let pause = match shared.examine().await {
            Ok(_) => shared.timing.health,
            Err(_) => shared.timing.shortest_pause.min(shared.timing.health),
        };
        if shared.state().lacks_gpus() && opened.elapsed() >= REOPEN_INTERVAL {
            shared.nvml.restart().await;
            opened = Instant::now();
        }
        sleep(pause).await;
    }
}

/// Follows the kernel's log and NVML's events.
pub(super) async fn follow_xids(
    shared: Arc<Shared>,
    mut events: mpsc::Receiver<XidEvent>,
    kmsg: Option<PathBuf>,
) {
    let mut settled = shared.settled.subscribe();
    let _ = tokio::time::timeout(SETTLE_LIMIT, settled.wait_for(|settled| *settled)).await;
    let boot_id = facts::boot_id().unwrap_or_default();
    let mut log = kmsg.map(|path| KernelLog::new(&path, &boot_id));
    let mut said: Option<io::ErrorKind> = None;
    let mut looks = interval(LOG_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // The log says more than the event, and both tell of the same Xid: it goes first.
            biased;
            _ = looks.tick() => {
                let Some(log) = &mut log else { continue };
                match shared.read_log(log) {
                    Ok(()) => said = None,
                    Err(error) => {
                        if said.replace(error.kind()) != Some(error.kind()) {
                            tracing::warn!(%error, "the kernel's log cannot be read; Xids come from NVML alone. Check --kmsg");
                        }
                    }
                }
            }
            Some(event) = events.recv() => {
                shared.saw_xid(SeenXid {
                    whose: Whose::Uuid(&event.uuid),
                    xid: event.xid,
                    detail: format!("Xid {}: {}", event.xid, xid::meaning(event.xid)),
                    time_micros: shared.clock.now_micros(),
                    position: None,
                });
            }
        }
    }
}

impl Shared {
    fn read_log(&self, log: &mut KernelLog) -> io::Result<()> {
        log.read(|record| {
            let Some(message) = xid::parse(record.text) else {
                return;
            };
            let time = record.monotonic_micros;
            let seen = SeenXid {
                whose: Whose::Pci(&message.pci),
                xid: message.xid,
                detail: format!(
                    "Xid {} (PCI {}): {}",
                    message.xid, message.pci, message.detail
                ),
                time_micros: time.map_or_else(
                    || self.clock.now_micros(),
                    |time| self.clock.instant_micros(time),
                ),
                position: Some(record.position.clone()),
            };
            self.saw_xid(seen);
        })
    }

    fn saw_xid(&self, seen: SeenXid<'_>) {
        let is_logged = seen.position.is_some();
        let Some(event) = self.change(|state| state.saw_xid(seen)) else {
            return;
        };
        tracing::warn!(
            gpu.uuid = event.gpu_uuid,
            xid = event.xid,
            detail = event.detail,
            "Xid"
        );
        // Without a reader nobody is told.
        let _ = self.events.send(event);
        if let Some(journal) = self.journal.as_ref().filter(|_| is_logged) {
            self.state().remember_told(journal);
        }
    }
}
