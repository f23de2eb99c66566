//! What was promised and measured, on disk: the highest fence of each instance, the epoch, a few notes, and the stretches of time in
//! which each instance was seen healthy or not.
//!
//! Invariant: a fence is on disk before the order that carried it is obeyed, so that no restart makes the agent obey an older one.
//! Stretches are written without waiting for the disk: a lost one is unbilled time. A full disk never stops a tenant: the journal then
//! holds in memory, says so in the log, and is written whole as soon as the disk allows it.

mod file;
mod state;

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use freehold_proto::id::InstanceId;

use crate::{clock::Clock, model::Fence};
use file::LogFile;
use state::{Record, State};

pub(crate) use file::sync_parent;
pub use state::{FenceEntry, Observation, Stretch};

/// A log this long is compacted as soon as it is four times what it has to hold.
const COMPACT_BYTES: u64 = 256 * 1024;

/// A shared handle; clones write the same journal.
#[derive(Debug, Clone)]
pub struct Journal {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    boot_id: String,
    clock: Clock,
    /// Held for a moment only, never while the disk is waited for.
    state: Mutex<State>,
    /// Serialises writers, so that the order on disk is the order of the state's changes.
    file: Mutex<LogFile>,
}

/// What became of a fence that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It is not lower than any before.
    Accepted,
    /// A higher one was seen: the order must change nothing.
    Refused {
        /// The highest.
        highest: Fence,
    },
}

impl Journal {
    /// Opens `dir`/journal, or begins one. Lines that are torn or damaged are dropped and logged.
    ///
    /// # Errors
    /// When the directory or the file cannot be made or read.
    pub fn open(dir: &Path, boot_id: String, clock: Clock) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let (mut file, records) = LogFile::open(dir.join("journal"))?;
        let mut state = State::default();
        for record in records {
            state.apply(record);
        }
        state.close_all();
        if let Err(error) = file.rewrite(&state.records()) {
            tracing::warn!(%error, "cannot compact the journal; it is kept as it is");
        }
        Ok(Self {
            shared: Arc::new(Shared {
                boot_id,
                clock,
                state: Mutex::new(state),
                file: Mutex::new(file),
            }),
        })
    }

    /// The id of this boot of the machine.
    #[must_use]
    pub fn boot_id(&self) -> &str {
        &self.shared.boot_id
    }

    /// The highest epoch that was obeyed.
    #[must_use]
    pub fn epoch(&self) -> i64 {
        self.state().epoch
    }

    /// The highest fence that was accepted for an instance, and the GPUs that were given to it.
    #[must_use]
    pub fn fence(&self, instance: InstanceId) -> Option<FenceEntry> {
        self.state().fences.get(&instance).cloned()
    }

    /// Remembers an epoch. `false`: a higher one was seen.
    pub async fn admit_epoch(&self, epoch: i64) -> bool {
        self.blocking(move |journal| {
            let mut file = journal.file();
            let highest = journal.state().epoch;
            if epoch > highest {
                journal.promise(&mut file, Record::Epoch(epoch));
            }
            epoch >= highest
        })
        .await
        .unwrap_or(false)
    }

    /// Takes the fence of an order, on disk before this returns. `gpu_uuids`: given to the instance from now on; `None` leaves them.
    pub async fn admit(
        &self,
        instance: InstanceId,
        fence: Fence,
        gpu_uuids: Option<Vec<String>>,
    ) -> Admission {
        let shut_down = Admission::Refused { highest: fence };
        self.blocking(move |journal| journal.admit_now(instance, fence, gpu_uuids))
            .await
            .unwrap_or(shut_down)
    }

    /// Keeps a small text under a name, over restarts of the agent.
    pub fn remember(&self, name: &str, text: &str) {
        let mut file = self.shared.file();
        if self.shared.state().notes.get(name).map(String::as_str) != Some(text) {
            let note = Record::Note(name.to_owned(), text.to_owned());
            self.shared.record(&mut file, note);
        }
    }

    /// What was kept under a name.
    #[must_use]
    pub fn recall(&self, name: &str) -> Option<String> {
        self.state().notes.get(name).cloned()
    }

    /// Adds what was seen of the instances at one moment.
    pub async fn observe(&self, seen: Vec<Observation>) {
        let _ = self
            .blocking(move |journal| {
                let mut file = journal.file();
                let monotonic_us = journal.clock.monotonic_micros();
                let now_us = journal.clock.now_micros();
                for one in seen {
                    let boot_id = &journal.boot_id;
                    let record = journal.state().extend(one, boot_id, monotonic_us, now_us);
                    journal.record(&mut file, record);
                }
            })
            .await;
    }

    /// Ends the open stretches and returns everything that was not acknowledged yet, oldest first, in the control plane's time. What was
    /// seen only once has no length, and is left out.
    #[must_use]
    pub fn unacknowledged(&self) -> Vec<Stretch> {
        let mut state = self.state();
        state.close_all();
        let clock = &self.shared.clock;
        let in_control_time = |stretch: &Stretch| {
            let mut stretch = stretch.clone();
            if stretch.boot_id == self.shared.boot_id {
                stretch.from_us = clock.instant_micros(stretch.from_monotonic_us);
                stretch.to_us = clock.instant_micros(stretch.to_monotonic_us);
            }
            stretch
        };
        let stretches = state.stretches.values();
        stretches
            .filter(|stretch| stretch.to_monotonic_us > stretch.from_monotonic_us)
            .map(in_control_time)
            .collect()
    }

    /// Forgets the stretches up to and with `sequence`.
    pub async fn acknowledge(&self, sequence: u64) {
        let _ = self
            .blocking(move |journal| {
                let mut file = journal.file();
                journal.record(&mut file, Record::Acknowledged(sequence));
            })
            .await;
    }

    /// Writes what a full disk has held up. Called from time to time.
    pub async fn retry(&self) {
        let _ = self
            .blocking(|journal| {
                let mut file = journal.file();
                if file.is_behind() {
                    journal.compact(&mut file);
                }
            })
            .await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }

    /// Runs `work` where waiting for the disk holds nobody up. `None`: the runtime shuts down.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> T + Send + 'static,
    ) -> Option<T> {
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || work(&shared))
            .await
            .ok()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self) -> MutexGuard<'_, LogFile> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit_now(
        &self,
        instance: InstanceId,
        fence: Fence,
        gpu_uuids: Option<Vec<String>>,
    ) -> Admission {
        let mut file = self.file();
        let (known, epoch) = {
            let state = self.state();
            (state.fences.get(&instance).cloned(), state.epoch)
        };
        let lowest = Fence {
            epoch,
            generation: i64::MIN,
        };
        let highest = known
            .as_ref()
            .map_or(lowest, |entry| entry.fence.max(lowest));
        if fence < highest {
            return Admission::Refused { highest };
        }
        let mut entry = known.clone().unwrap_or_default();
        entry.fence = fence;
        entry.gpu_uuids = gpu_uuids.unwrap_or(entry.gpu_uuids);
        if fence.epoch > epoch {
            self.record(&mut file, Record::Epoch(fence.epoch));
        }
        if known != Some(entry.clone()) {
            self.promise(&mut file, Record::Fence(instance, entry));
        }
        Admission::Accepted
    }

    /// Writes a record and applies it.
    fn record(&self, file: &mut LogFile, record: Record) {
        if let Err(error) = file.append(&record) {
            warn_of(&error);
        }
        let live = {
            let mut state = self.state();
            state.apply(record);
            state.estimated_bytes()
        };
        if file.len() > COMPACT_BYTES.max(4 * live) {
            self.compact(file);
        }
    }

    /// Writes a record and waits until it is on the disk.
    fn promise(&self, file: &mut LogFile, record: Record) {
        self.record(file, record);
        if let Err(error) = file.sync() {
            warn_of(&error);
        }
    }

    fn compact(&self, file: &mut LogFile) {
        let records = self.state().records();
        if let Err(error) = file.rewrite(&records) {
            warn_of(&error);
        }
    }
}

fn warn_of(error: &io::Error) {
    tracing::warn!(
        %error,
        "cannot write the journal; it is held in memory and tried again. Free space in the data directory"
    );
}

#[cfg(test)]
mod tests;
