//! What the journal's records add up to. Pure: no clock and no file.

use std::collections::{BTreeMap, BTreeSet};

use freehold_proto::id::InstanceId;
use serde::{Deserialize, Serialize};

use crate::model::Fence;

/// Two observations further apart than this do not belong to one stretch: nobody looked in between.
const LARGEST_GAP_US: i64 = 15_000_000;

/// A stretch is ended at this length, so that the oldest can be dropped by themselves.
const LONGEST_STRETCH_US: i64 = 3_600_000_000;

/// Stretches that are kept for a control plane that does not come; beyond them the oldest are dropped.
const MOST_STRETCHES: usize = 20_000;

/// Instances whose fences are kept; beyond them those that were ordered longest ago are dropped.
const MOST_FENCES: usize = 4096;

/// The highest fence of an instance, and what it was given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceEntry {
    /// The highest that was accepted.
    pub fence: Fence,
    /// Its GPUs.
    #[serde(default)]
    pub gpu_uuids: Vec<String>,
}

/// What was seen of one instance at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    /// The instance.
    pub instance_id: InstanceId,
    /// Container running, its sshd accepting connections, its GPUs visible and without a finding that prevents use.
    pub healthy: bool,
}

/// A stretch of time in which an instance was seen healthy, or seen not to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretch {
    /// Its number in this journal.
    pub sequence: u64,
    /// The instance.
    pub instance_id: InstanceId,
    /// What was seen all along.
    pub healthy: bool,
    /// The boot that the monotonic times belong to.
    pub boot_id: String,
    /// Start and end on the machine's monotonic clock, in microseconds.
    pub from_monotonic_us: i64,
    /// See `from_monotonic_us`.
    pub to_monotonic_us: i64,
    /// Start and end in microseconds since the Unix epoch, as the agent knew them when it looked.
    pub from_us: i64,
    /// See `from_us`.
    pub to_us: i64,
}

impl Stretch {
    /// Its length on the monotonic clock, in milliseconds.
    #[must_use]
    pub fn duration_ms(&self) -> i64 {
        (self.to_monotonic_us - self.from_monotonic_us) / 1000
    }
}

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Record {
    Epoch(i64),
    Fence(InstanceId, FenceEntry),
    Note(String, String),
    /// Replaces the stretch of the same sequence.
    Stretch(Stretch),
    /// Every stretch up to and with this one.
    Acknowledged(u64),
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) epoch: i64,
    pub(super) fences: BTreeMap<InstanceId, FenceEntry>,
    pub(super) notes: BTreeMap<String, String>,
    pub(super) stretches: BTreeMap<u64, Stretch>,
    /// The last stretch of each instance that was seen of late, acknowledged or not.
    latest: BTreeMap<InstanceId, Stretch>,
    /// Instances whose last stretch may still grow.
    open: BTreeSet<InstanceId>,
    last_sequence: u64,
    acknowledged: u64,
}

impl State {
    pub(super) fn apply(&mut self, record: Record) {
        match record {
            Record::Epoch(epoch) => self.epoch = self.epoch.max(epoch),
            Record::Fence(instance, entry) => {
                self.epoch = self.epoch.max(entry.fence.epoch);
                self.fences.insert(instance, entry);
                if self.fences.len() > MOST_FENCES {
                    // Ids sort by the time at which they were minted.
                    self.fences.pop_first();
                }
            }
            Record::Note(name, text) => {
                self.notes.insert(name, text);
            }
            Record::Stretch(stretch) => self.apply_stretch(stretch),
            Record::Acknowledged(sequence) => {
                self.acknowledged = self.acknowledged.max(sequence);
                self.last_sequence = self.last_sequence.max(sequence);
                self.stretches = self.stretches.split_off(&sequence.saturating_add(1));
                let gone = |stretch: &Stretch| stretch.sequence <= sequence;
                let latest = &self.latest;
                self.open.retain(|id| !latest.get(id).is_some_and(gone));
            }
        }
    }

    fn apply_stretch(&mut self, stretch: Stretch) {
        self.last_sequence = self.last_sequence.max(stretch.sequence);
        self.latest.retain(|_, other| follows(&stretch, other));
        self.latest.insert(stretch.instance_id, stretch.clone());
        self.open.insert(stretch.instance_id);
        self.stretches.insert(stretch.sequence, stretch);
        if self.stretches.len() > MOST_STRETCHES {
            self.stretches.pop_first();
        }
    }

    /// Ends every open stretch: the next observation begins a new one.
    pub(super) fn close_all(&mut self) {
        self.open.clear();
    }

    /// The record that adds an observation: a longer stretch, or a new one.
    ///
    /// A new stretch begins where the instance's last one ended, when that was just now. Only one that begins to be healthy starts at the
    /// observation itself: of the time in between nobody knows that it was.
    pub(super) fn extend(
        &self,
        seen: Observation,
        boot_id: &str,
        monotonic_us: i64,
        now_us: i64,
    ) -> Record {
        let fresh = Stretch {
            sequence: self.last_sequence + 1,
            instance_id: seen.instance_id,
            healthy: seen.healthy,
            boot_id: boot_id.to_owned(),
            from_monotonic_us: monotonic_us,
            to_monotonic_us: monotonic_us,
            from_us: now_us,
            to_us: now_us,
        };
        let last = self.latest.get(&seen.instance_id);
        let Some(last) = last.filter(|last| follows(&fresh, last)) else {
            return Record::Stretch(fresh);
        };
        if last.healthy == seen.healthy
            && self.open.contains(&seen.instance_id)
            && monotonic_us - last.from_monotonic_us <= LONGEST_STRETCH_US
        {
            return Record::Stretch(Stretch {
                to_monotonic_us: monotonic_us,
                to_us: now_us,
                ..last.clone()
            });
        }
        if !last.healthy && seen.healthy {
            return Record::Stretch(fresh);
        }
        Record::Stretch(Stretch {
            from_monotonic_us: last.to_monotonic_us,
            from_us: now_us - (monotonic_us - last.to_monotonic_us),
            ..fresh
        })
    }

    /// The shortest journal that adds up to this state.
    pub(super) fn records(&self) -> Vec<Record> {
        let mut records = vec![
            Record::Epoch(self.epoch),
            Record::Acknowledged(self.acknowledged),
        ];
        let fences = self.fences.iter();
        records.extend(fences.map(|(id, entry)| Record::Fence(*id, entry.clone())));
        let notes = self.notes.iter();
        records.extend(notes.map(|(name, text)| Record::Note(name.clone(), text.clone())));
        let stretches = self.stretches.values();
        records.extend(stretches.cloned().map(Record::Stretch));
        records
    }

    /// About how long [`Self::records`] is on disk.
    pub(super) fn estimated_bytes(&self) -> u64 {
        let lines = self.stretches.len() * 360 + self.fences.len() * 200;
        let notes: usize = self.notes.values().map(String::len).sum();
        (lines + notes) as u64
    }
}

/// Whether a stretch belongs to the same boot as another and ends so shortly after it that nothing can hide in between.
fn follows(stretch: &Stretch, other: &Stretch) -> bool {
    let gap_us = stretch.to_monotonic_us - other.to_monotonic_us;
    stretch.boot_id == other.boot_id && (0..=LARGEST_GAP_US).contains(&gap_us)
}
