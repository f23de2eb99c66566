//! A GPU that was there is not there any more.

use super::{Prevents, Snapshot, finding};
use crate::model::HealthFinding;

pub(super) fn check(snapshot: &Snapshot) -> Vec<HealthFinding> {
    if !snapshot.examined {
        return Vec::new();
    }
    let lost = snapshot.known.iter().filter(|info| {
        let seen = snapshot.gpus.iter().find(|gpu| gpu.uuid == info.uuid);
        seen.is_none_or(|gpu| gpu.lost)
    });
    let mut findings: Vec<_> = lost
        .map(|info| {
            let detail = format!(
                "GPU {} ({}) is off the bus; power-cycle the host, replace the board if it returns",
                info.index, info.pci_bus_id
            );
            finding(&info.uuid, "gpu_lost", Prevents::Use, detail)
        })
        .collect();
    // Whose it was is not known: it may be one of those above, or one that was lost before the agent started.
    for (index, why) in &snapshot.unreachable {
        let named = snapshot.known.iter().any(|info| info.index == *index);
        if !named {
            let detail = format!("the driver counts a GPU {index} that cannot be opened: {why}");
            findings.push(finding("", "gpu_lost", Prevents::Allocation, detail));
        }
    }
    findings
}
