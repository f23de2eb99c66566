//! What came of scrubs, kept on disk: an order that comes again after a restart has its outcome repeated, and an instance that was ended
//! stays ended.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use freehold_proto::id::{InstanceId, ScrubId};

use crate::{
    identity::write_json,
    model::{Fence, ScrubOutcome},
};

/// Beyond these the oldest are dropped: the control plane has long asked for something else.
const KEPT: usize = 256;

/// The newest ends are reported as absent after a restart.
const REPORTED: usize = 32;

/// The outcomes of this host's scrubs.
#[derive(Debug)]
pub(crate) struct Outcomes {
    dir: PathBuf,
    known: Mutex<BTreeMap<ScrubId, ScrubOutcome>>,
}

impl Outcomes {
    /// Reads what is in `dir`. What cannot be read is as if it had not been done.
    pub(crate) fn open(dir: PathBuf) -> Self {
        let known = fs::read_dir(&dir).into_iter().flatten();
        let known = known
            .filter_map(|entry| load(&entry.ok()?.path()))
            .map(|outcome| (outcome.scrub_id, outcome));
        let known = Mutex::new(known.collect());
        Self { dir, known }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<ScrubId, ScrubOutcome>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, scrub: ScrubId) -> Option<ScrubOutcome> {
        self.known().get(&scrub).cloned()
    }

    /// The highest fence that an instance's end was ordered with.
    pub(crate) fn last_fence(&self, instance: InstanceId) -> Option<Fence> {
        let known = self.known();
        let of_instance = known
            .values()
            .filter(|outcome| outcome.instance_id == Some(instance));
        of_instance.map(|outcome| outcome.fence).max()
    }

    /// The newest ends of instances.
    pub(crate) fn latest_ends(&self) -> Vec<ScrubOutcome> {
        let known = self.known();
        let ends = known
            .values()
            .rev()
            .filter(|outcome| outcome.instance_id.is_some());
        ends.take(REPORTED).cloned().collect()
    }

    /// Keeps an outcome. On a full disk it is kept in memory.
    pub(crate) fn keep(&self, outcome: &ScrubOutcome) {
        let mut known = self.known();
        known.insert(outcome.scrub_id, outcome.clone());
        if let Err(error) = self.save(outcome) {
            tracing::warn!(%error, path = %self.dir.display(), "cannot keep a scrub's outcome over a restart");
        }
        while known.len() > KEPT {
            if let Some((oldest, _)) = known.pop_first() {
                let _ = fs::remove_file(self.path(oldest));
            }
        }
    }

    fn save(&self, outcome: &ScrubOutcome) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        write_json(&self.path(outcome.scrub_id), outcome)
    }

    fn path(&self, scrub: ScrubId) -> PathBuf {
        self.dir.join(format!("{scrub}.json"))
    }
}

fn load(path: &Path) -> Option<ScrubOutcome> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::StepResult;

    #[test]
    fn outcomes_survive_a_restart() {
        let dir = tempfile::tempdir().expect("a directory");
        let instance = InstanceId::new();
        let fence = |generation| Fence {
            epoch: 1,
            generation,
        };
        let outcomes = Outcomes::open(dir.path().join("scrubs"));
        for generation in [1, 3, 2] {
            outcomes.keep(&ScrubOutcome {
                scrub_id: ScrubId::new(),
                instance_id: Some(instance),
                fence: fence(generation),
                result: StepResult::Passed,
                steps: Vec::new(),
                start_micros: 1,
                end_micros: 2,
            });
        }
        let again = Outcomes::open(dir.path().join("scrubs"));
        assert_eq!(again.last_fence(instance), Some(fence(3)));
        assert_eq!(again.last_fence(InstanceId::new()), None);
        let ends = again.latest_ends();
        assert_eq!(ends.len(), 3);
        assert_eq!(again.get(ends[0].scrub_id).as_ref(), Some(&ends[0]));
    }
}
