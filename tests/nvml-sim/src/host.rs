//! The host that follows from a scenario and from what setters set: what every call answers from.

use std::collections::BTreeMap;

use crate::{
    model::Board,
    scenario::{Overrides, Process, Scenario},
    state::{Setting, Settings, State},
};

const MIB: u64 = 1024 * 1024;

/// The whole of it, immutable.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) driver_version: String,
    /// 1000 × major + 10 × minor.
    pub(crate) cuda_version: i32,
    pub(crate) hang: Vec<String>,
    pub(crate) errors: BTreeMap<String, u32>,
    /// All slots, absent ones too: a handle is a slot.
    pub(crate) slots: Vec<Gpu>,
    /// (slot, code), oldest first.
    pub(crate) xids: Vec<(u32, u64)>,
}

/// One GPU.
#[derive(Debug)]
pub(crate) struct Gpu {
    pub(crate) slot: u32,
    /// NVML's index: the slot less the absent ones before it.
    pub(crate) index: u32,
    pub(crate) board: &'static Board,
    pub(crate) name: String,
    pub(crate) uuid: String,
    pub(crate) serial: String,
    pub(crate) overrides: Overrides,
    pub(crate) utilization: u32,
    pub(crate) memory_used_bytes: u64,
    pub(crate) temperature: u32,
    pub(crate) power_mw: u32,
    pub(crate) settings: Settings,
    /// What the settings are without any setter's doing.
    pub(crate) base: Settings,
}

impl Host {
    pub(crate) fn new(scenario: &Scenario, state: &State) -> Result<Self, String> {
        let mut slots = Vec::new();
        let mut index = 0;
        for slot in 0..scenario.count {
            let overrides = scenario.overrides(slot)?;
            let gpu = Gpu::new(scenario, slot, index, overrides, state);
            index += u32::from(!gpu.overrides.absent);
            slots.push(gpu);
        }
        let mut errors = BTreeMap::new();
        for (function, name) in &scenario.errors {
            let code = crate::call::code_named(name)
                .ok_or_else(|| format!("errors: `{name}` is not an error of NVML"))?;
            errors.insert(function.clone(), code);
        }
        Ok(Self {
            driver_version: scenario.driver_version.clone(),
            cuda_version: cuda_version(&scenario.cuda_version)?,
            hang: scenario.hang.clone(),
            errors,
            slots,
            xids: scenario.xid.iter().map(|xid| (xid.gpu, xid.code)).collect(),
        })
    }

    /// The GPUs that NVML counts.
    pub(crate) fn present(&self) -> impl Iterator<Item = &Gpu> {
        self.slots.iter().filter(|gpu| !gpu.overrides.absent)
    }
}

fn cuda_version(text: &str) -> Result<i32, String> {
    let parsed = text
        .split_once('.')
        .and_then(|(major, minor)| Some((major.parse::<i32>().ok()?, minor.parse::<i32>().ok()?)));
    match parsed {
        Some((major, minor)) => Ok(1000 * major + 10 * minor),
        None => Err(format!("cuda_version is `{text}`; write it as `12.8`")),
    }
}

impl Gpu {
    fn new(
        scenario: &Scenario,
        slot: u32,
        index: u32,
        overrides: Overrides,
        state: &State,
    ) -> Self {
        let board = scenario.model.board();
        let identity = Identity::new(&scenario.seed, slot);
        let uuid = overrides.uuid.clone().unwrap_or_else(|| identity.uuid());
        let utilization = overrides.utilization.unwrap_or(0).min(100);
        let between = |low: u32, high: u32| low + (high - low) * utilization / 100;
        let used_by_processes: u64 = overrides
            .processes
            .iter()
            .map(|process| process.memory_mib)
            .sum();
        let base = base_settings(board, &overrides);
        let settings = state.apply(&uuid, base);
        let cap_mw = u32::try_from(settings[Setting::PowerLimitMw as usize]).unwrap_or(u32::MAX);
        let power_mw = match overrides.power_watts {
            // A figure of the scenario in whole milliwatts.
            Some(watts) => (watts * 1000.0).clamp(0.0, f64::from(u32::MAX)) as u32,
            None => (between(board.power_idle_w, board.power_limit_w) * 1000).min(cap_mw),
        };
        Self {
            slot,
            index,
            board,
            name: overrides.name.clone().unwrap_or_else(|| board.name.into()),
            serial: overrides
                .serial
                .clone()
                .unwrap_or_else(|| identity.serial()),
            uuid,
            utilization,
            memory_used_bytes: overrides
                .memory_used_mib
                .unwrap_or(used_by_processes)
                .min(board.memory_mib)
                * MIB,
            temperature: overrides.temperature.unwrap_or_else(|| {
                between(board.temperature_idle, board.temperature_busy) + slot % 3
            }),
            power_mw,
            settings,
            base,
            overrides,
        }
    }

    pub(crate) fn setting(&self, setting: Setting) -> i64 {
        self.settings[setting as usize]
    }

    pub(crate) fn is_on(&self, setting: Setting) -> bool {
        self.setting(setting) != 0
    }

    pub(crate) fn busy(&self) -> bool {
        self.utilization > 0
    }

    pub(crate) fn memory_total_bytes(&self) -> u64 {
        self.board.memory_mib * MIB
    }

    pub(crate) fn memory_reserved_bytes(&self) -> u64 {
        self.board.reserved_mib * MIB
    }

    pub(crate) fn sm_clock_mhz(&self) -> u32 {
        let natural = if self.busy() {
            self.board.sm_max_mhz
        } else {
            self.board.sm_idle_mhz
        };
        let lock = u32::try_from(self.setting(Setting::SmClockLockMhz)).unwrap_or(0);
        let clock = self.overrides.sm_clock_mhz.unwrap_or(natural);
        if lock == 0 { clock } else { clock.min(lock) }
    }

    pub(crate) fn memory_clock_mhz(&self) -> u32 {
        self.overrides
            .memory_clock_mhz
            .unwrap_or(self.board.memory_mhz)
    }

    pub(crate) fn bus(&self) -> u32 {
        self.board.buses[self.slot as usize % 8]
    }

    /// `00000000:1B:00.0`.
    pub(crate) fn pci_bus_id(&self) -> String {
        format!("00000000:{:02X}:00.0", self.bus())
    }

    pub(crate) fn processes(&self, graphics: bool) -> impl Iterator<Item = &Process> {
        self.overrides
            .processes
            .iter()
            .filter(move |process| process.graphics == graphics)
    }
}

fn base_settings(board: &Board, overrides: &Overrides) -> Settings {
    let mut base = Settings::default();
    let mut set = |setting: Setting, value: i64| base[setting as usize] = value;
    set(
        Setting::Persistence,
        i64::from(overrides.persistence.unwrap_or(true)),
    );
    set(Setting::ComputeMode, overrides.compute_mode as i64);
    set(Setting::Mig, i64::from(overrides.mig));
    set(
        Setting::PowerLimitMw,
        i64::from(overrides.power_limit_watts.unwrap_or(board.power_limit_w)) * 1000,
    );
    set(
        Setting::Ecc,
        i64::from(overrides.ecc_enabled.unwrap_or(true)),
    );
    set(
        Setting::EccPending,
        i64::from(overrides.ecc_enabled.unwrap_or(true)),
    );
    set(
        Setting::SmClockLockMhz,
        i64::from(overrides.locked_sm_clock_mhz.unwrap_or(0)),
    );
    set(
        Setting::EccCorrected,
        i64::try_from(overrides.ecc_corrected).unwrap_or(i64::MAX),
    );
    set(
        Setting::EccUncorrected,
        i64::try_from(overrides.ecc_uncorrected).unwrap_or(i64::MAX),
    );
    base
}

/// What tells two boards apart. FNV-1a over the seed and the slot: the same on every run and machine.
struct Identity(u64, u64);

impl Identity {
    fn new(seed: &str, slot: u32) -> Self {
        let hash = |start: u64| {
            let bytes = seed.bytes().chain(slot.to_le_bytes());
            let mixed = bytes.fold(start, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
            });
            // FNV's high bits hardly depend on the last byte: spread them (the finalizer of MurmurHash3).
            let mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
            let mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
            mixed ^ (mixed >> 33)
        };
        Self(hash(0xcbf2_9ce4_8422_2325), hash(0x9e37_79b9_7f4a_7c15))
    }

    fn uuid(&self) -> String {
        let (high, low) = (self.0, self.1);
        format!(
            "GPU-{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            high & 0xffff,
            low >> 48,
            low & 0xffff_ffff_ffff
        )
    }

    fn serial(&self) -> String {
        format!("165{:010}", self.1 % 10_000_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Host {
        Host::new(&Scenario::parse(text).expect("valid"), &State::default()).expect("valid")
    }

    #[test]
    fn uuids_follow_from_the_seed_and_differ() {
        let uuids = |seed: &str| -> Vec<String> {
            host(&format!("seed = '{seed}'"))
                .slots
                .into_iter()
                .map(|gpu| gpu.uuid)
                .collect()
        };
        assert_eq!(uuids("a"), uuids("a"));
        let mut all = [uuids("a"), uuids("b")].concat();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 16);
        assert!(
            all.iter()
                .all(|uuid| uuid.len() == 40 && uuid.starts_with("GPU-"))
        );
    }

    #[test]
    fn an_absent_gpu_moves_the_later_ones_up() {
        let host = host("count = 3\n[gpu.1]\nabsent = true");
        let present: Vec<_> = host.present().map(|gpu| (gpu.slot, gpu.index)).collect();
        assert_eq!(present, [(0, 0), (2, 1)]);
    }

    #[test]
    fn load_shows_in_power_and_temperature() {
        let host = host("count = 2\n[gpu.1]\nutilization = 100");
        assert!(host.slots[0].power_mw < 100_000 && host.slots[1].power_mw == 700_000);
        assert!(host.slots[1].temperature > host.slots[0].temperature + 20);
    }

    #[test]
    fn an_unknown_error_name_is_refused() {
        let scenario =
            Scenario::parse("errors = { nvmlDeviceGetName = 'broken' }").expect("valid so far");
        let error = Host::new(&scenario, &State::default()).expect_err("no such error");
        assert!(error.contains("broken"), "{error}");
    }
}
