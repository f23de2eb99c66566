//! The links to the host and to other GPUs.

use super::{Prevents, Snapshot, each, finding};
use crate::model::HealthFinding;

/// The generation of the link to the host is not looked at: an idle link saves power by a lower one.
pub(super) fn check(snapshot: &Snapshot) -> Vec<HealthFinding> {
    let narrow = each(snapshot, |gpu| {
        let (width, most) = (gpu.pcie_width?, gpu.pcie_width_max?);
        let detail = format!(
            "PCIe runs on {width} of {most} lanes: reseat the board, look at the slot and the riser"
        );
        (width < most).then(|| finding(&gpu.uuid, "pcie_width", Prevents::Allocation, detail))
    });
    // Boards without a bridge have links that lead nowhere, so the fullest GPU of the host is what the others are held to.
    let expected = snapshot.gpus.iter().filter_map(|gpu| gpu.nvlinks_active);
    let expected = expected.max().unwrap_or(0);
    let cut = each(snapshot, |gpu| {
        let active = gpu.nvlinks_active?;
        let detail = format!(
            "{active} NVLinks are up, {expected} on the host's other GPUs: look at the fabric manager, reset the GPU"
        );
        (active < expected).then(|| finding(&gpu.uuid, "nvlink_down", Prevents::Allocation, detail))
    });
    [narrow, cut].concat()
}
