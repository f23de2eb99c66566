//! Samples, rollups and events, and what of them a tenant sees.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// One sample of one GPU; what the GPU or its driver does not offer is absent.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct GpuSample {
    pub(super) uuid: String,
    pub(super) index: i32,
    pub(super) utilization_percent: Option<i32>,
    pub(super) memory_used_bytes: Option<i64>,
    pub(super) memory_total_bytes: Option<i64>,
    pub(super) temperature_celsius: Option<i32>,
    pub(super) power_milliwatts: Option<i64>,
    pub(super) sm_clock_mhz: Option<i32>,
    pub(super) memory_clock_mhz: Option<i32>,
    pub(super) ecc_corrected: Option<i64>,
    pub(super) ecc_uncorrected: Option<i64>,
    pub(super) last_xid: Option<i32>,
    pub(super) last_xid_at: Option<DateTime<Utc>>,
}

/// One sample of a host's GPUs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    pub(super) at: DateTime<Utc>,
    pub(super) gpus: Vec<GpuSample>,
}

/// One minute of one GPU.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Rollup {
    pub(super) gpu_uuid: String,
    /// The minute's start.
    pub(super) minute: DateTime<Utc>,
    pub(super) samples: i32,
    pub(super) utilization_percent_mean: Option<f64>,
    pub(super) utilization_percent_max: Option<i32>,
    pub(super) memory_used_bytes_max: Option<i64>,
    pub(super) temperature_celsius_max: Option<i32>,
    pub(super) power_milliwatts_mean: Option<f64>,
}

/// Something that happened to a GPU, or, with an empty id, to the host.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Event {
    pub(super) gpu_uuid: String,
    pub(super) at: DateTime<Utc>,
    pub(super) kind: String,
    pub(super) xid: Option<i32>,
    pub(super) detail: String,
}

/// What one message of an agent brings.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Batch {
    pub(super) sample: Option<Sample>,
    pub(super) rollups: Vec<Rollup>,
    pub(super) events: Vec<Event>,
}

/// What is shown of a host.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Shown {
    pub(super) sample: Option<Sample>,
    /// Oldest first.
    pub(super) rollups: Vec<Rollup>,
    /// Newest first.
    pub(super) events: Vec<Event>,
}

/// Which GPUs somebody sees, and since when.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum View {
    /// Everything: the operator's.
    Whole,
    /// A tenant's: each GPU that it leases now, from the time on that its lease has it.
    Leased(HashMap<String, DateTime<Utc>>),
}

impl View {
    /// The view of whoever has these GPUs since these times; `None`: nobody has any.
    pub(super) fn leased(parts: Vec<(Vec<String>, DateTime<Utc>)>) -> Option<Self> {
        let mut since: HashMap<String, DateTime<Utc>> = HashMap::new();
        for (uuids, from) in parts {
            for uuid in uuids {
                since
                    .entry(uuid)
                    .and_modify(|earlier| *earlier = from.min(*earlier))
                    .or_insert(from);
            }
        }
        (!since.is_empty()).then_some(Self::Leased(since))
    }

    /// The time before which nothing is seen.
    pub(super) fn since(&self) -> Option<DateTime<Utc>> {
        match self {
            Self::Whole => None,
            Self::Leased(since) => since.values().min().copied(),
        }
    }

    /// True when what a GPU, or with an empty id the host, did at that time is seen.
    fn sees(&self, gpu_uuid: &str, at: DateTime<Utc>) -> bool {
        match self {
            Self::Whole => true,
            Self::Leased(_) if gpu_uuid.is_empty() => self.since().is_some_and(|from| at >= from),
            Self::Leased(since) => since.get(gpu_uuid).is_some_and(|from| at >= *from),
        }
    }

    /// Leaves what is seen.
    pub(super) fn narrow(&self, shown: Shown) -> Shown {
        let sample = shown.sample.map(|mut sample| {
            let at = sample.at;
            sample.gpus.retain(|gpu| self.sees(&gpu.uuid, at));
            for gpu in &mut sample.gpus {
                // An Xid of whoever had the GPU before is none of this tenant's business.
                if !gpu
                    .last_xid_at
                    .is_none_or(|xid_at| self.sees(&gpu.uuid, xid_at))
                {
                    (gpu.last_xid, gpu.last_xid_at) = (None, None);
                }
            }
            sample
        });
        let kept = |rollup: &Rollup| self.sees(&rollup.gpu_uuid, rollup.minute);
        Shown {
            sample: sample.filter(|sample| !sample.gpus.is_empty()),
            rollups: shown.rollups.into_iter().filter(kept).collect(),
            events: shown
                .events
                .into_iter()
                .filter(|event| self.sees(&event.gpu_uuid, event.at))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn at(minutes: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap() + TimeDelta::minutes(minutes)
    }

    fn shown(minute: i64, uuids: &[&str]) -> Shown {
        let sample = |uuid: &&str| GpuSample {
            uuid: (*uuid).to_owned(),
            last_xid: Some(13),
            last_xid_at: Some(at(0)),
            ..GpuSample::default()
        };
        let event = |uuid: &&str| Event {
            gpu_uuid: (*uuid).to_owned(),
            at: at(minute),
            kind: "xid".to_owned(),
            xid: Some(13),
            detail: String::new(),
        };
        Shown {
            sample: Some(Sample {
                at: at(minute),
                gpus: uuids
                    .iter()
                    .filter(|uuid| !uuid.is_empty())
                    .map(sample)
                    .collect(),
            }),
            rollups: Vec::new(),
            events: uuids.iter().map(event).collect(),
        }
    }

    fn view() -> View {
        View::leased(vec![(vec!["a".to_owned()], at(10))]).unwrap()
    }

    #[test]
    fn a_tenant_sees_its_gpus_and_nobody_elses() {
        let seen = view().narrow(shown(11, &["a", "b", ""]));
        let gpus: Vec<String> = seen
            .sample
            .unwrap()
            .gpus
            .into_iter()
            .map(|gpu| gpu.uuid)
            .collect();
        assert_eq!(gpus, ["a"]);
        let events: Vec<String> = seen
            .events
            .into_iter()
            .map(|event| event.gpu_uuid)
            .collect();
        assert_eq!(
            events,
            ["a", ""],
            "what happened to the whole host is its too"
        );
    }

    #[test]
    fn a_tenant_sees_nothing_from_before_its_lease() {
        assert_eq!(view().narrow(shown(9, &["a", ""])), Shown::default());
        let seen = view().narrow(shown(11, &["a"]));
        assert_eq!(seen.sample.unwrap().gpus[0].last_xid, None);
    }

    #[test]
    fn the_operator_sees_everything_and_who_leases_nothing_has_no_view() {
        let all = shown(1, &["a", "b"]);
        assert_eq!(View::Whole.narrow(all.clone()), all);
        assert_eq!(View::leased(Vec::new()), None);
    }
}
