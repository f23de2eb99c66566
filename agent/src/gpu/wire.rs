//! What the agent and its NVML worker say to each other: one JSON value on a line. The two are always the same binary, so there are no
//! versions. What is said often is written as arrays instead of objects: a tenth of the bytes.

use serde::{Deserialize, Serialize};

use crate::model::{GpuInfo, Step};

/// What the agent asks. The worker answers each with one line, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// The measures that telemetry shows.
    Sample,
    /// Everything that the checks look at.
    Health,
    /// Bring modes, clocks and limits back to what a tenant should find.
    Restore,
}

/// What the worker says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    /// NVML is there. The first line, unasked.
    Hello(Hello),
    /// NVML is not there. The first and last line.
    Unavailable(Unavailable),
    /// Answers [`Request::Sample`].
    Sample(Vec<Measures>),
    /// Answers [`Request::Health`].
    Health(Vec<GpuHealth>),
    /// Answers [`Request::Restore`].
    Restored(Vec<Step>),
    /// An Xid from NVML's event set, unasked.
    Xid(XidEvent),
}

/// What does not change while the worker lives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) driver_version: String,
    pub(crate) cuda_version: String,
    pub(crate) simulated: bool,
    /// Those that could be opened, in the order of their indexes.
    pub(crate) gpus: Vec<GpuInfo>,
    /// Indexes that NVML counts and cannot open, with why.
    pub(crate) unreachable: Vec<(u32, String)>,
}

/// Why there is no NVML.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}. {remedy}")]
pub(crate) struct Unavailable {
    /// What is wrong.
    pub(crate) reason: String,
    /// What to do.
    pub(crate) remedy: String,
}

/// One sample of one GPU, as an array.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Measures(
    /// Position in [`Hello::gpus`].
    pub(crate) usize,
    /// `false`: off the bus; nothing else is set.
    pub(crate) bool,
    pub(crate) Readings,
);

/// Utilization in percent, memory used and in total in bytes, degrees Celsius, milliwatts, MHz of SM and memory, ECC errors corrected
/// and uncorrected since the driver was loaded.
pub(crate) type Readings = (
    Option<u32>,
    Option<u64>,
    Option<u64>,
    Option<u32>,
    Option<u32>,
    Option<u32>,
    Option<u32>,
    Option<u64>,
    Option<u64>,
);

/// Everything that the checks and the gate look at of one GPU. `None`: this GPU or driver does not tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct GpuHealth {
    pub(crate) uuid: String,
    /// Off the bus; nothing else is set.
    pub(crate) lost: bool,
    /// NVML says that it has to be reset before it can be used.
    pub(crate) reset_required: bool,
    pub(crate) temperature_celsius: Option<u32>,
    pub(crate) memory_temperature_celsius: Option<u32>,
    /// From here on the hardware slows down.
    pub(crate) slowdown_celsius: Option<u32>,
    pub(crate) shutdown_celsius: Option<u32>,
    /// NVML's bits.
    pub(crate) throttle_reasons: Option<u64>,
    pub(crate) ecc_enabled: Option<bool>,
    pub(crate) ecc_pending: Option<bool>,
    /// Since the driver was loaded.
    pub(crate) ecc_corrected: Option<u64>,
    pub(crate) ecc_uncorrected: Option<u64>,
    /// Of the SRAMs alone, over the board's life.
    pub(crate) sram_uncorrected: Option<u64>,
    pub(crate) rows_uncorrected: Option<u64>,
    pub(crate) rows_pending: Option<bool>,
    pub(crate) rows_failure: Option<bool>,
    /// NVML's `nvmlDeviceGpuRecoveryAction_t`.
    pub(crate) recovery_action: Option<u64>,
    pub(crate) pcie_generation: Option<u32>,
    pub(crate) pcie_width: Option<u32>,
    pub(crate) pcie_width_max: Option<u32>,
    pub(crate) pcie_replays: Option<u32>,
    pub(crate) nvlinks: Option<u32>,
    pub(crate) nvlinks_active: Option<u32>,
    pub(crate) compute_mode: Option<String>,
    pub(crate) persistence: Option<bool>,
    pub(crate) mig: Option<bool>,
    pub(crate) power_limit_milliwatts: Option<u32>,
    pub(crate) power_default_milliwatts: Option<u32>,
    /// Processes that hold it. `None`: NVML does not tell.
    pub(crate) processes: Option<Vec<u32>>,
}

/// An Xid from NVML's event set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct XidEvent {
    pub(crate) uuid: String,
    pub(crate) xid: u32,
}
