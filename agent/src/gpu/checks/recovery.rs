//! The driver's own advice on what a GPU needs.

use super::{Prevents, Snapshot, each, finding};
use crate::model::HealthFinding;

/// `nvmlDeviceGpuRecoveryAction_t` of nvml.h: 0 is none.
const ACTIONS: [&str; 8] = [
    "nothing",
    "reset the GPU",
    "restart the host",
    "drain the GPU's peers",
    "drain the GPU and reset it",
    "recover the IMEX domain",
    "reset the GPU's bus",
    "restart the whole system",
];

pub(super) fn check(snapshot: &Snapshot) -> Vec<HealthFinding> {
    each(snapshot, |gpu| {
        if gpu.reset_required {
            let detail = "the driver refuses to use the GPU before it is reset".to_owned();
            return Some(finding(
                &gpu.uuid,
                "gpu_reset_required",
                Prevents::Use,
                detail,
            ));
        }
        let action = gpu.recovery_action.filter(|action| *action != 0)?;
        let advice = usize::try_from(action).ok().and_then(|at| ACTIONS.get(at));
        let advice = advice
            .copied()
            .unwrap_or("an action that this agent does not know");
        let detail = format!("the driver asks for recovery action {action}: {advice}");
        Some(finding(
            &gpu.uuid,
            "recovery_action",
            Prevents::Allocation,
            detail,
        ))
    })
}
