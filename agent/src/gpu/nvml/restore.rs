//! Brings modes, clocks and limits back to what a tenant should find: every process may use the GPU, the driver stays loaded, nothing
//! is locked or limited, memory errors are corrected as before, and the GPU is whole. What can be read back is.

use std::time::Instant;

use nvml_wrapper::{Device, enum_wrappers::device::ComputeMode, error::NvmlError};

use super::Library;
use crate::model::{Step, StepResult};

/// What became of one GPU.
enum Done {
    /// It is so now.
    Passed,
    /// The GPU or its driver has no such thing.
    Unsupported,
    /// It was told so and is not.
    Unchanged,
}

type Action = fn(&mut Device<'static>) -> Result<Done, NvmlError>;

const ACTIONS: [(&str, Action); 6] = [
    ("gpu_mig", turn_mig_off),
    ("gpu_compute_mode", reset_compute_mode),
    ("gpu_persistence", turn_persistence_on),
    ("gpu_clocks", unlock_clocks),
    ("gpu_power_limit", reset_power_limit),
    ("gpu_ecc", keep_ecc),
];

impl Library {
    /// Restores every GPU that was opened: one step for each thing restored.
    pub(in crate::gpu) fn restore(&mut self) -> Vec<Step> {
        let Self { gpus, hello, .. } = self;
        ACTIONS
            .into_iter()
            .map(|(name, action)| {
                let outcomes = gpus.iter_mut().zip(&hello.gpus);
                let outcomes = outcomes.map(|(gpu, info)| (info.uuid.as_str(), action(gpu)));
                fold(name, outcomes)
            })
            .collect()
    }
}

/// Failed when it failed on one GPU, skipped when none has such a thing.
fn fold<'a>(
    name: &str,
    outcomes: impl Iterator<Item = (&'a str, Result<Done, NvmlError>)>,
) -> Step {
    let began = Instant::now();
    let mut passed = 0_u32;
    let mut failures = Vec::new();
    for (uuid, outcome) in outcomes {
        match outcome {
            Ok(Done::Passed) => passed += 1,
            Ok(Done::Unsupported)
            | Err(NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_)) => {}
            Ok(Done::Unchanged) => failures.push(format!("{uuid}: the setting did not take")),
            Err(error) => failures.push(format!("{uuid}: {error}")),
        }
    }
    let (result, detail) = match (failures.is_empty(), passed) {
        (false, _) => (StepResult::Failed, failures.join("; ")),
        (true, 0) => (
            StepResult::Skipped,
            "no GPU of this host supports it".to_owned(),
        ),
        (true, _) => (StepResult::Passed, format!("{passed} GPUs")),
    };
    Step {
        name: name.to_owned(),
        result,
        detail,
        duration: began.elapsed(),
    }
}

fn verified(holds: bool) -> Done {
    if holds { Done::Passed } else { Done::Unchanged }
}

fn turn_mig_off(gpu: &mut Device<'static>) -> Result<Done, NvmlError> {
    if gpu.mig_mode()?.current == 0 {
        return Ok(Done::Passed);
    }
    gpu.set_mig_mode(false)?;
    Ok(verified(gpu.mig_mode()?.current == 0))
}

fn reset_compute_mode(gpu: &mut Device<'static>) -> Result<Done, NvmlError> {
    if gpu.compute_mode()? == ComputeMode::Default {
        return Ok(Done::Passed);
    }
    gpu.set_compute_mode(ComputeMode::Default)?;
    Ok(verified(gpu.compute_mode()? == ComputeMode::Default))
}

fn turn_persistence_on(gpu: &mut Device<'static>) -> Result<Done, NvmlError> {
    if gpu.is_in_persistent_mode()? {
        return Ok(Done::Passed);
    }
    gpu.set_persistent(true)?;
    Ok(verified(gpu.is_in_persistent_mode()?))
}

/// NVML does not tell whether clocks are locked, so the locks are always taken off.
fn unlock_clocks(gpu: &mut Device<'static>) -> Result<Done, NvmlError> {
    let mut supported = false;
    for outcome in [
        gpu.reset_gpu_locked_clocks(),
        gpu.reset_mem_locked_clocks(),
        gpu.reset_applications_clocks(),
    ] {
        match outcome {
            Ok(()) => supported = true,
            Err(NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(if supported {
        Done::Passed
    } else {
        Done::Unsupported
    })
}

fn reset_power_limit(gpu: &mut Device<'static>) -> Result<Done, NvmlError> {
    let default = gpu.power_management_limit_default()?;
    if gpu.power_management_limit()? == default {
        return Ok(Done::Passed);
    }
    gpu.set_power_management_limit(default)?;
    Ok(verified(gpu.power_management_limit()? == default))
}

/// A change of ECC waits for a reset: one that waits is taken back. Whether it is on is the owner's choice, and off on some boards.
fn keep_ecc(gpu: &mut Device<'static>) -> Result<Done, NvmlError> {
    let mode = gpu.is_ecc_enabled()?;
    if mode.pending_enabled == mode.currently_enabled {
        return Ok(Done::Passed);
    }
    gpu.set_ecc(mode.currently_enabled)?;
    let now = gpu.is_ecc_enabled()?;
    Ok(verified(now.pending_enabled == now.currently_enabled))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(outcomes: Vec<Result<Done, NvmlError>>) -> StepResult {
        fold("x", outcomes.into_iter().map(|outcome| ("GPU-a", outcome))).result
    }

    #[test]
    fn what_no_gpu_supports_is_skipped_and_never_passed() {
        assert_eq!(
            result(vec![Err(NvmlError::NotSupported), Ok(Done::Unsupported)]),
            StepResult::Skipped
        );
        assert_eq!(result(Vec::new()), StepResult::Skipped);
    }

    #[test]
    fn one_gpu_that_did_not_follow_fails_the_step() {
        for bad in [Ok(Done::Unchanged), Err(NvmlError::NoPermission)] {
            assert_eq!(result(vec![Ok(Done::Passed), bad]), StepResult::Failed);
        }
        assert_eq!(
            result(vec![Ok(Done::Passed), Err(NvmlError::NotSupported)]),
            StepResult::Passed
        );
    }
}
