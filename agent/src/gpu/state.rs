//! What is known of the GPUs now.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    str::FromStr,
    sync::Arc,
};

use super::{
    checks::{Snapshot, XidMark},
    rollup::Rollups,
    wire::{GpuHealth, Hello, Measure, Measures, Readings},
    xid::{self, Severity},
};
use crate::{
    journal::Journal,
    model::{GpuEvent, GpuInfo, GpuInventory, GpuSample},
};

/// The kernel log and NVML tell of the same Xid within this time.
const SAME_XID_MICROS: i64 = 5_000_000;

/// Xids that are remembered to know them again.
const RECENT: usize = 64;

/// Marks beyond this many say nothing new.
const MOST_MARKS: usize = 256;

/// The journal's notes: up to where Xids were told, and up to where a gate cleared them.
const TOLD_NOTE: &str = "xid_told";
const CLEARED_NOTE: &str = "xid_cleared";

/// A place in the kernel's log. Places of different generations (boots, files) cannot be compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) generation: String,
    pub(super) at: u64,
}

impl Position {
    fn covers(&self, other: &Self) -> bool {
        self.generation == other.generation && self.at >= other.at
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.generation, self.at)
    }
}

impl FromStr for Position {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (generation, at) = text.rsplit_once(' ').ok_or(())?;
        Ok(Self {
            generation: generation.to_owned(),
            at: at.parse().map_err(|_| ())?,
        })
    }
}

/// Which GPU an Xid is of.
#[derive(Debug, Clone, Copy)]
pub(super) enum Whose<'a> {
    Uuid(&'a str),
    /// As [`xid::normalise`] writes it.
    Pci(&'a str),
}

/// An Xid as it was seen.
#[derive(Debug, Clone)]
pub(super) struct SeenXid<'a> {
    pub(super) whose: Whose<'a>,
    pub(super) xid: u32,
    pub(super) detail: String,
    pub(super) time_micros: i64,
    /// `None`: NVML told.
    pub(super) position: Option<Position>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) inventory: GpuInventory,
    pub(super) snapshot: Snapshot,
    pub(super) rollups: Rollups,
    /// The hello that the inventory was last brought up to.
    hello: Option<Arc<Hello>>,
    last_xids: BTreeMap<String, (u32, i64)>,
    recent: VecDeque<(String, u32, i64)>,
    /// The newest place that was read.
    read: Position,
    told: Position,
    cleared: Position,
}

impl State {
    pub(super) fn new(journal: Option<&Journal>) -> Self {
        let recall = |name| journal.and_then(|journal| journal.recall(name)?.parse().ok());
        Self {
            told: recall(TOLD_NOTE).unwrap_or_default(),
            cleared: recall(CLEARED_NOTE).unwrap_or_default(),
            ..Self::default()
        }
    }

    /// Takes over what a worker found at its start. GPUs that it did not find stay.
    pub(super) fn greeted(&mut self, hello: &Arc<Hello>) {
        if self
            .hello
            .as_ref()
            .is_some_and(|known| Arc::ptr_eq(known, hello))
        {
            return;
        }
        self.hello = Some(Arc::clone(hello));
        let inventory = &mut self.inventory;
        for info in &hello.gpus {
            match inventory.gpus.iter_mut().find(|gpu| gpu.uuid == info.uuid) {
                Some(known) => known.clone_from(info),
                None => inventory.gpus.push(info.clone()),
            }
        }
        inventory.gpus.sort_by_key(|gpu| gpu.index);
        inventory.driver_version.clone_from(&hello.driver_version);
        inventory.cuda_version.clone_from(&hello.cuda_version);
        inventory.simulated = hello.simulated;
        self.snapshot.known.clone_from(&self.inventory.gpus);
        self.snapshot.unreachable.clone_from(&hello.unreachable);
    }

    /// Takes a sample over. Every GPU that is known has one; a lost one's has no measures.
    pub(super) fn sampled(
        &mut self,
        hello: &Arc<Hello>,
        measures: &[Measures],
        now_micros: i64,
    ) -> Vec<GpuSample> {
        self.greeted(hello);
        self.snapshot.failure = None;
        let mut samples = Vec::with_capacity(self.inventory.gpus.len());
        for (place, info) in self.inventory.gpus.iter().enumerate() {
            let is_it = |uuid: &str| uuid == info.uuid;
            let own = find(place, &hello.gpus, |gpu| is_it(&gpu.uuid));
            let measured = own.and_then(|own| *measures.get(own)?);
            let mut sample = measured.map(to_sample).unwrap_or_default();
            sample.uuid.clone_from(&info.uuid);
            sample.index = info.index;
            sample.last_xid = self.last_xids.get(&info.uuid).copied();
            samples.push(sample);
            let health = find(place, &self.snapshot.gpus, |gpu| is_it(&gpu.uuid));
            if let Some(health) = health.and_then(|at| self.snapshot.gpus.get_mut(at)) {
                health.lost = measured.is_none();
            }
        }
        self.rollups.add(now_micros, &samples);
        samples
    }

    pub(super) fn examined(&mut self, hello: &Arc<Hello>, gpus: Vec<GpuHealth>) {
        self.greeted(hello);
        self.snapshot.failure = None;
        self.snapshot.gpus = gpus;
        self.snapshot.examined = true;
    }

    /// Whether starting NVML anew may bring a GPU back.
    pub(super) fn lacks_gpus(&self) -> bool {
        let found = self.snapshot.gpus.iter().filter(|gpu| !gpu.lost).count();
        self.snapshot.examined && found < self.inventory.gpus.len()
            || !self.snapshot.unreachable.is_empty()
    }

    /// Takes an Xid over. `Some`: it has to be told.
    pub(super) fn saw_xid(&mut self, seen: SeenXid<'_>) -> Option<GpuEvent> {
        let gpu_uuid = self.uuid_of(seen.whose);
        let position = seen.position;
        let is_new = position.as_ref().is_none_or(|at| !self.told.covers(at));
        let is_cleared = position.as_ref().is_some_and(|at| self.cleared.covers(at));
        if let Some(position) = position {
            if is_new {
                self.told = position.clone();
            }
            self.read = position;
        }
        let (xid, time) = (seen.xid, seen.time_micros);
        let is_same = |(uuid, code, at): &(String, u32, i64)| {
            *uuid == gpu_uuid && *code == xid && time.abs_diff(*at) < SAME_XID_MICROS as u64
        };
        if self.recent.iter().any(is_same) {
            return None;
        }
        self.recent.push_back((gpu_uuid.clone(), xid, time));
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        if !gpu_uuid.is_empty() {
            self.last_xids.insert(gpu_uuid.clone(), (xid, time));
        }
        let severity = xid::severity(xid);
        if severity != Severity::Application && !is_cleared && self.snapshot.xids.len() < MOST_MARKS
        {
            self.snapshot.xids.push(XidMark {
                gpu_uuid: gpu_uuid.clone(),
                xid,
                severity,
                judged: false,
            });
        }
        is_new.then_some(GpuEvent {
            time_micros: time,
            gpu_uuid,
            kind: "xid".to_owned(),
            xid: Some(xid),
            detail: seen.detail,
        })
    }

    fn uuid_of(&self, whose: Whose<'_>) -> String {
        let is_it = |gpu: &&GpuInfo| match whose {
            Whose::Uuid(uuid) => gpu.uuid == uuid,
            Whose::Pci(pci) => xid::normalise(&gpu.pci_bus_id).as_deref() == Some(pci),
        };
        let known = self.inventory.gpus.iter().find(is_it);
        known.map(|gpu| gpu.uuid.clone()).unwrap_or_default()
    }

    /// Writes down up to where Xids were told.
    pub(super) fn remember_told(&self, journal: &Journal) {
        journal.remember(TOLD_NOTE, &self.told.to_string());
    }

    /// A gate failed because of the Xids that there are.
    pub(super) fn judge_xids(&mut self) {
        for mark in &mut self.snapshot.xids {
            mark.judged = true;
        }
    }

    /// A gate passed: what there was is over, also after a restart.
    pub(super) fn clear_xids(&mut self, journal: Option<&Journal>) {
        self.snapshot.xids.retain(|mark| !mark.judged);
        if self.snapshot.xids.is_empty() && !self.read.generation.is_empty() {
            self.cleared = self.read.clone();
            if let Some(journal) = journal {
                journal.remember(CLEARED_NOTE, &self.cleared.to_string());
            }
        }
    }

    /// Forgets GPUs that are neither here nor wanted: they were taken out.
    pub(super) fn forget_removed(&mut self, wanted: &[String]) {
        let here = self.snapshot.gpus.iter().filter(|gpu| !gpu.lost);
        let here: Vec<&String> = here.map(|gpu| &gpu.uuid).collect();
        let keep = |gpu: &GpuInfo| wanted.contains(&gpu.uuid) || here.contains(&&gpu.uuid);
        self.inventory.gpus.retain(keep);
        self.snapshot.known.clone_from(&self.inventory.gpus);
    }
}

/// Where an element is, which in all lists of GPUs is the same place, unless one was lost.
fn find<T>(place: usize, list: &[T], is_it: impl Fn(&T) -> bool) -> Option<usize> {
    if list.get(place).is_some_and(&is_it) {
        return Some(place);
    }
    list.iter().position(is_it)
}

fn to_sample(readings: Readings) -> GpuSample {
    let temperature = readings.get(Measure::TemperatureCelsius);
    GpuSample {
        utilization_percent: readings.get_small(Measure::UtilizationPercent),
        memory_used_bytes: readings.get(Measure::MemoryUsedBytes),
        memory_total_bytes: readings.get(Measure::MemoryTotalBytes),
        temperature_celsius: temperature.and_then(|celsius| i32::try_from(celsius).ok()),
        power_milliwatts: readings.get(Measure::PowerMilliwatts),
        sm_clock_mhz: readings.get_small(Measure::SmClockMhz),
        memory_clock_mhz: readings.get_small(Measure::MemoryClockMhz),
        ecc_corrected: readings.get(Measure::EccCorrected),
        ecc_uncorrected: readings.get(Measure::EccUncorrected),
        ..GpuSample::default()
    }
}

#[cfg(test)]
mod tests;
