//! NVML does not answer.

use super::{Prevents, Snapshot, finding};
use crate::{gpu::NvmlError, model::HealthFinding};

/// A worker that ended is started again within a second or two; this many in a row are a fault.
const MOST_DEATHS: u32 = 3;

/// A hanging call is what a dying GPU looks like, and it hangs the tenant's `nvidia-smi` and frameworks as well.
pub(super) fn check(snapshot: &Snapshot) -> Vec<HealthFinding> {
    let Some((error, times)) = &snapshot.failure else {
        return Vec::new();
    };
    let name = match error {
        NvmlError::Timeout(_) => "nvml_timeout",
        NvmlError::Unavailable(_) => "nvml_unavailable",
        NvmlError::Died(_) if *times >= MOST_DEATHS => "nvml_unavailable",
        NvmlError::Died(_) => return Vec::new(),
    };
    vec![finding("", name, Prevents::Use, error.to_string())]
}
