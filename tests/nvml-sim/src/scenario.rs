//! The scenario file: what the simulated host has and how it fares.
//!
//! ```toml
//! model = "h100"                      # a100-80gb, h100, h200
//! count = 8                           # 1 to 8
//! seed = "host-a"                     # GPU UUIDs and serials follow from it
//! driver_version = "570.133.20"
//! cuda_version = "12.8"
//! hang = ["nvmlDeviceGetTemperature"] # calls that do not return until the scenario says otherwise
//! errors = { nvmlDeviceGetSerial = "not_supported" }
//!
//! [gpu.all]                           # overrides for every GPU
//! utilization = 40
//!
//! [gpu.3]                             # and for one, by its slot; wins over `all`
//! lost = true
//!
//! [[xid]]                             # delivered to NVML event sets that exist when the entry appears
//! gpu = 3
//! code = 79
//! ```
//!
//! [`Overrides`] lists what a `[gpu.…]` table may say. Unknown keys are refused.

use std::collections::BTreeMap;

use serde::Deserialize;

pub use crate::model::Model;

/// The file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scenario {
    /// The board.
    pub model: Model,
    /// Boards, 1 to 8.
    pub count: u32,
    /// Hosts with different seeds have different GPUs.
    pub seed: String,
    /// As `nvidia-smi` shows it.
    pub driver_version: String,
    /// Of the driver: `12.8`.
    pub cuda_version: String,
    /// NVML functions that do not return.
    pub hang: Vec<String>,
    /// NVML functions that fail, and how: `not_supported`, `unknown`, `gpu_is_lost` …
    pub errors: BTreeMap<String, String>,
    /// Overrides: `all`, then the slot's number.
    pub gpu: BTreeMap<String, toml::Table>,
    /// Xids for event sets. Appending delivers.
    pub xid: Vec<XidEntry>,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            model: Model::default(),
            count: 8,
            seed: "freehold".into(),
            driver_version: "570.133.20".into(),
            cuda_version: "12.8".into(),
            hang: Vec::new(),
            errors: BTreeMap::new(),
            gpu: BTreeMap::new(),
            xid: Vec::new(),
        }
    }
}

/// An Xid.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct XidEntry {
    /// Slot of the GPU.
    pub gpu: u32,
    /// The code.
    pub code: u64,
}

/// What a `[gpu.…]` table may say. What it does not say follows from the model and the utilization.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Overrides {
    /// Off the bus: every call with its handle answers "GPU is lost". It still counts, as under a driver that has not been reloaded.
    pub lost: bool,
    /// Not there at all: the count is lower and later GPUs move up.
    pub absent: bool,
    /// NVML functions that do not return for this GPU.
    pub hang: Vec<String>,
    /// `GPU-` and a UUID.
    pub uuid: Option<String>,
    /// Board serial number.
    pub serial: Option<String>,
    /// Product name, with the vendor.
    pub name: Option<String>,
    /// Percent.
    pub utilization: Option<u32>,
    /// Percent of time in which memory was read or written.
    pub memory_utilization: Option<u32>,
    /// MiB in use.
    pub memory_used_mib: Option<u64>,
    /// Degrees Celsius.
    pub temperature: Option<u32>,
    /// Degrees Celsius of the HBM.
    pub memory_temperature: Option<u32>,
    /// Draw in watts.
    pub power_watts: Option<f64>,
    /// MHz.
    pub sm_clock_mhz: Option<u32>,
    /// MHz.
    pub memory_clock_mhz: Option<u32>,
    /// NVML's bits: 4 power cap, 8 hardware slowdown, 32 software thermal, 64 hardware thermal, 128 power brake. Default: idle or none.
    pub throttle_reasons: Option<u64>,
    /// Corrected errors since the driver was loaded.
    pub ecc_corrected: u64,
    /// Uncorrected errors since the driver was loaded.
    pub ecc_uncorrected: u64,
    /// Corrected errors of the board's life, in addition to those since the driver was loaded.
    pub ecc_corrected_before: u64,
    /// Uncorrected errors of the board's life, in addition to those since the driver was loaded.
    pub ecc_uncorrected_before: u64,
    /// Default: on.
    pub ecc_enabled: Option<bool>,
    /// Rows remapped after corrected errors.
    pub rows_corrected: u32,
    /// Rows remapped after uncorrected errors.
    pub rows_uncorrected: u32,
    /// A remapping waits for a reset.
    pub rows_pending: bool,
    /// A remapping failed.
    pub rows_failure: bool,
    /// NVML's recovery action: 0 none, 1 reset, 2 reboot …
    pub recovery_action: u32,
    /// Processes on it.
    pub processes: Vec<Process>,
    /// `default`, `prohibited` or `exclusive_process`.
    pub compute_mode: ComputeMode,
    /// Default: on.
    pub persistence: Option<bool>,
    /// Default: off.
    pub mig: bool,
    /// Default: the board's.
    pub power_limit_watts: Option<u32>,
    /// The SMs' clock is locked to at most this.
    pub locked_sm_clock_mhz: Option<u32>,
    /// Default: all of the board's.
    pub nvlinks_active: Option<u32>,
    /// Default: the board's.
    pub pcie_generation: Option<u32>,
    /// Default: 16.
    pub pcie_width: Option<u32>,
    /// Replays on the PCIe link.
    pub pcie_replays: u32,
}

/// A process on a GPU.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// What `nvidia-smi` shows.
    #[serde(default)]
    pub name: String,
    /// MiB that it uses.
    #[serde(default)]
    pub memory_mib: u64,
    /// Graphics instead of compute.
    #[serde(default)]
    pub graphics: bool,
}

/// Who may use a GPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ComputeMode {
    /// Any number of processes.
    #[default]
    Default = 0,
    /// None.
    Prohibited = 2,
    /// One.
    ExclusiveProcess = 3,
}

impl Scenario {
    /// Reads a scenario.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        let scenario: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        if !(1..=8).contains(&scenario.count) {
            return Err(format!("count is {}; it must be 1 to 8", scenario.count));
        }
        for key in scenario.gpu.keys() {
            if key != "all" && key.parse().is_ok_and(|slot: u32| slot < scenario.count) {
                continue;
            }
            if key != "all" {
                return Err(format!(
                    "[gpu.{key}]: use `all` or a slot from 0 to {}",
                    scenario.count - 1
                ));
            }
        }
        for xid in &scenario.xid {
            if xid.gpu >= scenario.count {
                return Err(format!("[[xid]]: there is no GPU {}", xid.gpu));
            }
        }
        Ok(scenario)
    }

    /// What the tables say of one slot.
    ///
    /// # Errors
    /// An unknown key or a value of the wrong kind.
    pub fn overrides(&self, slot: u32) -> Result<Overrides, String> {
        let mut merged = self.gpu.get("all").cloned().unwrap_or_default();
        if let Some(own) = self.gpu.get(&slot.to_string()) {
            merged.extend(own.clone());
        }
        merged
            .try_into()
            .map_err(|error: toml::de::Error| format!("[gpu.{slot}]: {}", error.message()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slots_table_wins_over_all() {
        let text =
            "count = 2\n[gpu.all]\nutilization = 40\ntemperature = 50\n[gpu.1]\nutilization = 90\n";
        let scenario = Scenario::parse(text).expect("valid");
        let first = scenario.overrides(0).expect("valid");
        let second = scenario.overrides(1).expect("valid");
        assert_eq!((first.utilization, first.temperature), (Some(40), Some(50)));
        assert_eq!(
            (second.utilization, second.temperature),
            (Some(90), Some(50))
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, word) in [
            ("count = 9", "count"),
            ("modle = 'h100'", "modle"),
            ("count = 2\n[gpu.2]\nlost = true", "gpu.2"),
            ("count = 2\n[[xid]]\ngpu = 2\ncode = 79", "GPU 2"),
            ("model = 'b300'", "b300"),
        ] {
            let error = Scenario::parse(text).expect_err(text);
            assert!(error.contains(word), "{text}: {error}");
        }
        let misspelt =
            Scenario::parse("[gpu.0]\ntemprature = 1").expect("tables are read one by one");
        let error = misspelt.overrides(0).expect_err("an unknown key");
        assert!(error.contains("temprature"), "{error}");
    }

    #[test]
    fn the_examples_are_valid() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let mut count = 0;
        for entry in std::fs::read_dir(folder).expect("the folder") {
            let path = entry.expect("an entry").path();
            let scenario =
                Scenario::parse(&std::fs::read_to_string(&path).expect("text")).expect("valid");
            for slot in 0..scenario.count {
                scenario
                    .overrides(slot)
                    .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            }
            count += 1;
        }
        assert!(count >= 7, "{count} examples");
    }
}
