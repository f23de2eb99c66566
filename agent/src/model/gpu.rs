//! What the agent says of GPUs. A measure is `None` when the GPU or its driver does not offer it.

use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, watch};

use super::{Baseline, Step};

/// One GPU as NVML names it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuInfo {
    /// `GPU-` and a UUID.
    pub uuid: String,
    /// NVML's index, from 0.
    pub index: u32,
    /// Without the vendor: `H100 80GB HBM3`.
    pub model: String,
    /// Empty when the board has none.
    pub serial: String,
    /// `00000000:1B:00.0`.
    pub pci_bus_id: String,
    /// Memory in bytes.
    pub memory_bytes: u64,
}

/// All GPUs of the host and the driver's versions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuInventory {
    /// In the order of their indexes.
    pub gpus: Vec<GpuInfo>,
    /// `550.54.15`. Empty when there is no driver.
    pub driver_version: String,
    /// `12.4`. Empty when there is no driver.
    pub cuda_version: String,
    /// The NVML library says that it is the simulator.
    pub simulated: bool,
}

/// One sample of one GPU.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuSample {
    /// The GPU.
    pub uuid: String,
    /// NVML's index.
    pub index: u32,
    /// Percent of the last sample period in which a kernel ran.
    pub utilization_percent: Option<u32>,
    /// Memory in use, in bytes.
    pub memory_used_bytes: Option<u64>,
    /// Memory, in bytes.
    pub memory_total_bytes: Option<u64>,
    /// Degrees Celsius.
    pub temperature_celsius: Option<i32>,
    /// Draw in milliwatts.
    pub power_milliwatts: Option<u64>,
    /// Clock of the SMs in MHz.
    pub sm_clock_mhz: Option<u32>,
    /// Clock of the memory in MHz.
    pub memory_clock_mhz: Option<u32>,
    /// Corrected errors since the driver was loaded.
    pub ecc_corrected: Option<u64>,
    /// Uncorrected errors since the driver was loaded.
    pub ecc_uncorrected: Option<u64>,
    /// The last Xid, and when it was seen in microseconds since the epoch.
    pub last_xid: Option<(u32, i64)>,
}

/// One minute of one GPU.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GpuRollup {
    /// The GPU.
    pub uuid: String,
    /// Start of the minute in microseconds since the epoch.
    pub minute_micros: i64,
    /// Samples that went into it.
    pub samples: u32,
    /// Mean of the utilisation in percent.
    pub utilization_percent_mean: Option<f64>,
    /// Peak of the utilisation in percent.
    pub utilization_percent_max: Option<u32>,
    /// Peak of the memory in use, in bytes.
    pub memory_used_bytes_max: Option<u64>,
    /// Peak of the temperature in degrees Celsius.
    pub temperature_celsius_max: Option<i32>,
    /// Mean of the draw in milliwatts.
    pub power_milliwatts_mean: Option<f64>,
}

/// Something that befell a GPU.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuEvent {
    /// When, in microseconds since the epoch.
    pub time_micros: i64,
    /// The GPU. Empty: unknown, or the whole host.
    pub gpu_uuid: String,
    /// `xid`, `gpu_lost`, `nvml_timeout` …
    pub kind: String,
    /// Set when `kind` is `xid`.
    pub xid: Option<u32>,
    /// In words.
    pub detail: String,
}

/// Something that the health checks find now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthFinding {
    /// The GPU. Empty: the whole host.
    pub gpu_uuid: String,
    /// `gpu_lost`, `xid_79`, `nvml_timeout`, `row_remap_failure` …
    pub check: String,
    /// In words.
    pub detail: String,
    /// The tenant cannot use the GPU now: pauses the meter.
    pub prevents_use: bool,
    /// The host must not be leased again before it passed a gate.
    pub prevents_allocation: bool,
}

/// What `link` needs of the GPUs: `gpu`'s handle implements it.
#[async_trait::async_trait]
pub trait GpuSource: Send + Sync + 'static {
    /// The GPUs as last seen; those that were lost since the start are still in it.
    fn inventory(&self) -> GpuInventory;

    /// Samples every GPU now. Empty when NVML does not answer, which is a finding of its own.
    async fn sample(&self) -> Vec<GpuSample>;

    /// The whole minutes that ended since the last call, oldest first.
    fn take_rollups(&self) -> Vec<GpuRollup>;

    /// Xids and other faults as they come.
    fn events(&self) -> broadcast::Receiver<GpuEvent>;

    /// What the checks find now; changes when they find something else.
    fn findings(&self) -> watch::Receiver<Vec<HealthFinding>>;
}

/// What a scrub needs of the GPUs: `gpu`'s handle implements it. Neither call hangs, whatever NVML does: a call that does not come back
/// is a failed step.
#[async_trait::async_trait]
pub trait GpuGate: Send + Sync + 'static {
    /// Brings the settings of every GPU back to what they were before anybody had it, and says what came of it, one step for each kind
    /// of setting: `gpu_processes`, `gpu_persistence`, `gpu_compute_mode`, `gpu_clocks`, `gpu_power_limit`, `gpu_ecc`, `gpu_mig` …
    /// What a GPU does not offer is skipped, with the reason.
    async fn restore(&self) -> Vec<Step>;

    /// Checks that the host has exactly the baseline's GPUs (`gpu_count`, `gpu_uuids`), and that no check finds anything (`gpu_health`).
    async fn health_gate(&self, baseline: &Baseline) -> Vec<Step>;
}
