//! The GPUs' part of a scrub: settings back to the baseline, then the checks.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    Gpus, checks,
    wire::{Answer, GpuHealth, Request},
};
use crate::model::{Baseline, GpuGate, Step, StepResult};

/// How long processes may take to let go of the GPUs after their container was removed.
const PROCESS_LIMIT: Duration = Duration::from_secs(10);
const PROCESS_INTERVAL: Duration = Duration::from_millis(500);

#[async_trait::async_trait]
impl GpuGate for Gpus {
    async fn restore(&self) -> Vec<Step> {
        let mut steps = vec![self.wait_for_processes().await];
        let began = Instant::now();
        match self.shared.nvml.ask(Request::Restore).await {
            Ok((_, Answer::Restored(restored))) => steps.extend(restored),
            Ok(_) => {
                self.shared.nvml.restart().await;
                steps.push(failed(
                    "gpu_settings",
                    "NVML answered something else",
                    began,
                ));
            }
            Err(error) => {
                self.shared.failed(error.clone());
                steps.push(failed("gpu_settings", &error.to_string(), began));
            }
        }
        steps
    }

    async fn health_gate(&self, baseline: &Baseline) -> Vec<Step> {
        let began = Instant::now();
        // A GPU that came or went since NVML was started shows only to a new one.
        self.shared.nvml.restart().await;
        let gpus = match self.shared.examine().await {
            Ok(gpus) => gpus,
            Err(error) => {
                let why = error.to_string();
                return ["gpu_count", "gpu_uuids", "gpu_health"]
                    .map(|name| failed(name, &why, began))
                    .into();
            }
        };
        let steps = vec![
            count(baseline, &gpus, began),
            identities(baseline, &gpus, began),
            self.health(baseline, began),
        ];
        self.shared.change(|state| {
            if steps.iter().all(|step| step.result == StepResult::Passed) {
                state.clear_xids(self.shared.journal.as_ref());
            } else {
                state.judge_xids();
            }
        });
        steps
    }
}

impl Gpus {
    async fn wait_for_processes(&self) -> Step {
        let name = "gpu_processes";
        let began = Instant::now();
        loop {
            let gpus = match self.shared.examine().await {
                Ok(gpus) => gpus,
                Err(error) => return failed(name, &error.to_string(), began),
            };
            let held: Vec<String> = gpus.iter().filter_map(holders).collect();
            if held.is_empty() {
                return if gpus.iter().any(|gpu| gpu.processes.is_some()) {
                    step(name, StepResult::Passed, "no process holds a GPU", began)
                } else {
                    let why = "NVML does not tell which processes hold a GPU";
                    step(name, StepResult::Skipped, why, began)
                };
            }
            if began.elapsed() >= PROCESS_LIMIT {
                let why = format!("{}; end them", held.join("; "));
                return failed(name, &why, began);
            }
            sleep(PROCESS_INTERVAL).await;
        }
    }

    /// What the checks find now, less Xids for which a gate has failed already: that host was looked at and released by an operator.
    fn health(&self, baseline: &Baseline, began: Instant) -> Step {
        let findings = self.shared.change(|state| {
            state.forget_removed(&baseline.gpu_uuids);
            let mut snapshot = state.snapshot.clone();
            snapshot.xids.retain(|mark| !mark.judged);
            checks::run(&snapshot)
        });
        let found: Vec<String> = findings
            .iter()
            .filter(|finding| finding.prevents_allocation)
            .map(|finding| format!("{} {}: {}", finding.check, finding.gpu_uuid, finding.detail))
            .collect();
        if found.is_empty() {
            step(
                "gpu_health",
                StepResult::Passed,
                "no check finds anything",
                began,
            )
        } else {
            failed("gpu_health", &found.join("; "), began)
        }
    }
}

fn holders(gpu: &GpuHealth) -> Option<String> {
    let processes = gpu.processes.as_deref().unwrap_or_default();
    let list: Vec<String> = processes.iter().map(u32::to_string).collect();
    (!list.is_empty()).then(|| format!("{} is held by process {}", gpu.uuid, list.join(", ")))
}

fn count(baseline: &Baseline, gpus: &[GpuHealth], began: Instant) -> Step {
    let here = gpus.iter().filter(|gpu| !gpu.lost).count();
    let wanted = baseline.gpu_uuids.len();
    let result = if here == wanted {
        StepResult::Passed
    } else {
        StepResult::Failed
    };
    step(
        "gpu_count",
        result,
        &format!("{here} of {wanted} GPUs"),
        began,
    )
}

fn identities(baseline: &Baseline, gpus: &[GpuHealth], began: Instant) -> Step {
    let here = gpus.iter().filter(|gpu| !gpu.lost);
    let here: BTreeSet<&str> = here.map(|gpu| gpu.uuid.as_str()).collect();
    let wanted: BTreeSet<&str> = baseline.gpu_uuids.iter().map(String::as_str).collect();
    let missing: Vec<&str> = wanted.difference(&here).copied().collect();
    let strange: Vec<&str> = here.difference(&wanted).copied().collect();
    if missing.is_empty() && strange.is_empty() {
        return step(
            "gpu_uuids",
            StepResult::Passed,
            "every GPU is the one it was",
            began,
        );
    }
    let list = |uuids: &[&str]| match uuids {
        [] => "none".to_owned(),
        _ => uuids.join(", "),
    };
    let why = format!("missing: {}; unknown: {}", list(&missing), list(&strange));
    failed("gpu_uuids", &why, began)
}

fn failed(name: &str, why: &str, began: Instant) -> Step {
    step(name, StepResult::Failed, why, began)
}

fn step(name: &str, result: StepResult, detail: &str, began: Instant) -> Step {
    Step {
        name: name.to_owned(),
        result,
        detail: detail.to_owned(),
        duration: began.elapsed(),
    }
}
