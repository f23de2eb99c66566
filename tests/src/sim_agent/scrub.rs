//! The scrub of a simulated host: real steps on what the simulation made, and a gate on its GPUs.

use std::time::{Duration, Instant};

use freehold_agent::{
    clock::Clock,
    model::{Baseline, Fence, ScrubOutcome, Step, StepResult},
};
use freehold_proto::id::{InstanceId, ScrubId};

use super::{Faults, SimGpus};

/// What a scrub is of.
#[derive(Debug, Clone)]
pub(super) struct Scrub {
    pub(super) id: ScrubId,
    pub(super) instance: Option<InstanceId>,
    pub(super) fence: Fence,
    pub(super) baseline: Baseline,
}

/// Runs the steps in order; one that fails does not keep the others from running.
pub(super) fn run(
    scrub: &Scrub,
    is_removed: bool,
    gpus: &SimGpus,
    faults: &Faults,
    clock: &Clock,
) -> ScrubOutcome {
    let start_micros = clock.now_micros();
    let began = Instant::now();
    let step = |name: &str, found: Result<String, String>| {
        let found = faults.failure_of(name).map_or(found, Err);
        let result = match found {
            Ok(_) => StepResult::Passed,
            Err(_) => StepResult::Failed,
        };
        Step {
            name: name.to_owned(),
            result,
            detail: found.unwrap_or_else(|detail| detail),
            duration: began.elapsed().min(Duration::from_secs(1)),
        }
    };
    let removed = || {
        if is_removed {
            Ok(String::new())
        } else {
            Err("the instance's sshd is still running".to_owned())
        }
    };
    let steps = vec![
        step("container_removed", removed()),
        step("scratch_removed", removed()),
        Step {
            name: "gpu_reset".to_owned(),
            result: StepResult::Skipped,
            detail: "the GPUs are simulated".to_owned(),
            duration: Duration::ZERO,
        },
        step("gpu_count", same_gpus(&scrub.baseline, gpus)),
        step(
            "gpu_health",
            gpus.prevents_allocation().map_or(Ok(String::new()), Err),
        ),
    ];
    let failed = steps.iter().any(|step| step.result == StepResult::Failed);
    ScrubOutcome {
        scrub_id: scrub.id,
        instance_id: scrub.instance,
        fence: scrub.fence,
        result: if failed {
            StepResult::Failed
        } else {
            StepResult::Passed
        },
        steps,
        start_micros,
        end_micros: clock.now_micros(),
    }
}

fn same_gpus(baseline: &Baseline, gpus: &SimGpus) -> Result<String, String> {
    let (mut expected, mut found) = (baseline.gpu_uuids.clone(), gpus.uuids());
    expected.sort();
    found.sort();
    if expected == found {
        Ok(format!("{} GPUs", found.len()))
    } else {
        Err(format!(
            "{} GPUs are there and the baseline has {}, or they differ",
            found.len(),
            expected.len()
        ))
    }
}
