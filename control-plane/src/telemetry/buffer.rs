//! Telemetry between its arrival and the database: bounded, and lost with the process.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, Utc};
use freehold_proto::id::HostId;

use super::model::{Batch, Event, Rollup, Sample};

/// Rollups that may wait: two minutes of ten thousand hosts with eight GPUs.
const MOST_ROLLUPS: usize = 160_000;

/// Events that may wait.
const MOST_EVENTS: usize = 20_000;

/// What agents sent to this replica. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Telemetry(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    /// The newest sample of each host, and whether it was written down.
    latest: HashMap<HostId, (Sample, bool)>,
    /// A minute that is sent again, with more samples, takes the place of the first.
    rollups: BTreeMap<(HostId, DateTime<Utc>, String), Rollup>,
    events: Vec<(HostId, Event)>,
    dropped: usize,
}

/// What is to be written.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) rollups: Vec<(HostId, Rollup)>,
    pub(super) events: Vec<(HostId, Event)>,
}

impl Telemetry {
    /// Takes what an agent sent. When too much waits, because the database does not answer, what comes is dropped.
    pub(crate) fn take(&self, host: HostId, batch: Batch) {
        let mut waiting = self.lock();
        if let Some(sample) = batch.sample {
            let newer = waiting
                .latest
                .get(&host)
                .is_none_or(|(known, _)| known.at <= sample.at);
            if newer {
                waiting.latest.insert(host, (sample, false));
            }
        }
        for rollup in batch.rollups {
            waiting.add_rollup(host, rollup);
        }
        for event in batch.events {
            waiting.add_event(host, event);
        }
    }

    /// The newest sample of a host that came to this replica.
    pub(super) fn latest(&self, host: HostId) -> Option<Sample> {
        self.lock()
            .latest
            .get(&host)
            .map(|(sample, _)| sample.clone())
    }

    /// Takes what waits to be written.
    pub(super) fn drain(&self) -> History {
        let mut waiting = self.lock();
        if waiting.dropped > 0 {
            tracing::warn!(
                dropped = waiting.dropped,
                "telemetry was dropped: the database is too slow for it"
            );
            waiting.dropped = 0;
        }
        let rollups = std::mem::take(&mut waiting.rollups);
        History {
            rollups: rollups
                .into_iter()
                .map(|((host, _, _), rollup)| (host, rollup))
                .collect(),
            events: std::mem::take(&mut waiting.events),
        }
    }

    /// Puts back what could not be written.
    pub(super) fn put_back(&self, history: History) {
        let mut waiting = self.lock();
        for (host, rollup) in history.rollups {
            waiting.add_rollup(host, rollup);
        }
        for (host, event) in history.events {
            waiting.add_event(host, event);
        }
    }

    /// The samples that are newer than what is written down; they then count as written.
    pub(super) fn take_samples(&self) -> Vec<(HostId, Sample)> {
        let mut waiting = self.lock();
        let fresh = waiting
            .latest
            .iter_mut()
            .filter(|(_, (_, written))| !*written);
        let mut fresh: Vec<(HostId, Sample)> = fresh
            .map(|(host, (sample, written))| {
                *written = true;
                (*host, sample.clone())
            })
            .collect();
        fresh.sort_by_key(|(host, _)| *host);
        fresh
    }

    /// Has samples written again.
    pub(super) fn put_back_samples(&self, samples: &[(HostId, Sample)]) {
        let mut waiting = self.lock();
        for (host, _) in samples {
            if let Some((_, written)) = waiting.latest.get_mut(host) {
                *written = false;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn add_rollup(&mut self, host: HostId, rollup: Rollup) {
        let key = (host, rollup.minute, rollup.gpu_uuid.clone());
        let full = self.rollups.len() >= MOST_ROLLUPS;
        match self.rollups.get_mut(&key) {
            Some(known) if known.samples >= rollup.samples => {}
            Some(known) => *known = rollup,
            None if full => self.dropped += 1,
            None => {
                self.rollups.insert(key, rollup);
            }
        }
    }

    fn add_event(&mut self, host: HostId, event: Event) {
        if self.events.len() >= MOST_EVENTS {
            self.dropped += 1;
        } else {
            self.events.push((host, event));
        }
    }
}
