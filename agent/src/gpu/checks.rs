//! What is wrong with the GPUs: each check is a function of what was last seen, in a file of its own.

mod bus;
mod ecc;
mod lost;
mod nvml;
mod recovery;
mod row_remap;
mod temperature;
mod xid;

use super::{NvmlError, wire::GpuHealth, xid::Severity};
use crate::model::{GpuInfo, HealthFinding};

/// What was last seen.
#[derive(Debug, Clone, Default)]
pub(super) struct Snapshot {
    /// Why NVML does not answer, and how often in a row it did not.
    pub(super) failure: Option<(NvmlError, u32)>,
    /// Every GPU that was seen since the agent started.
    pub(super) known: Vec<GpuInfo>,
    /// As NVML last told; a GPU that is known and not here is lost.
    pub(super) gpus: Vec<GpuHealth>,
    /// Whether NVML ever told.
    pub(super) examined: bool,
    /// Indexes that NVML counts and cannot open, with why.
    pub(super) unreachable: Vec<(u32, String)>,
    /// Xids with a consequence that no gate has cleared.
    pub(super) xids: Vec<XidMark>,
}

/// An Xid that holds until a gate clears it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct XidMark {
    /// The GPU. Empty when it is not known which.
    pub(super) gpu_uuid: String,
    pub(super) xid: u32,
    pub(super) severity: Severity,
    /// A gate failed because of it: the next, which only the operator's release can start, does not.
    pub(super) judged: bool,
}

type Check = fn(&Snapshot) -> Vec<HealthFinding>;

const CHECKS: [Check; 8] = [
    nvml::check,
    lost::check,
    xid::check,
    recovery::check,
    row_remap::check,
    ecc::check,
    temperature::check,
    bus::check,
];

/// Everything that the checks find, in a fixed order.
pub(super) fn run(snapshot: &Snapshot) -> Vec<HealthFinding> {
    CHECKS.iter().flat_map(|check| check(snapshot)).collect()
}

/// How far a finding goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Prevents {
    /// Not to be leased again before a gate passed.
    Allocation,
    /// Not to be used now either.
    Use,
}

fn finding(gpu_uuid: &str, check: &str, prevents: Prevents, detail: String) -> HealthFinding {
    HealthFinding {
        gpu_uuid: gpu_uuid.to_owned(),
        check: check.to_owned(),
        detail,
        prevents_use: prevents == Prevents::Use,
        prevents_allocation: true,
    }
}

/// Runs a check over each GPU that answers.
fn each(
    snapshot: &Snapshot,
    check: impl Fn(&GpuHealth) -> Option<HealthFinding>,
) -> Vec<HealthFinding> {
    let present = snapshot.gpus.iter().filter(|gpu| !gpu.lost);
    present.filter_map(check).collect()
}

#[cfg(test)]
mod tests;
