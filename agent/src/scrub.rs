//! What makes a host fit for the next tenant, step by step, each with what came of it.
//!
//! Only what carries this host's labels is touched. A step that cannot be done fails; one that does not apply is skipped and says why.

mod leftovers;
mod outcomes;

use std::path::Path;

use freehold_proto::id::HostId;
use tokio::time::Instant;

use crate::{
    model::{Baseline, GpuGate, Step, StepResult},
    network::{self, Firewall},
    policy::Policy,
    runtime::{Engine, LABEL_HOST, Names},
    scratch::Scratch,
};

pub(crate) use outcomes::Outcomes;

/// The steps so far.
#[derive(Debug, Default)]
pub(crate) struct Protocol {
    pub(crate) steps: Vec<Step>,
}

impl Protocol {
    /// Does a step: `Ok` says what was found, `Err` what is wrong. Returns whether it passed.
    pub(crate) async fn step(
        &mut self,
        name: &str,
        work: impl Future<Output = Result<String, String>>,
    ) -> bool {
        let began = Instant::now();
        let done = work.await;
        let result = if done.is_ok() {
            StepResult::Passed
        } else {
            StepResult::Failed
        };
        self.add(name, result, done.unwrap_or_else(|reason| reason), began);
        result == StepResult::Passed
    }

    /// Notes that a step does not apply.
    fn skip(&mut self, name: &str, why: &str) {
        self.add(name, StepResult::Skipped, why.to_owned(), Instant::now());
    }

    fn add(&mut self, name: &str, result: StepResult, detail: String, began: Instant) {
        if result == StepResult::Failed {
            tracing::error!(step = name, detail, "a step of the scrub has failed");
        }
        self.steps.push(Step {
            name: name.to_owned(),
            result,
            detail,
            duration: began.elapsed(),
        });
    }
}

/// The host that is scrubbed.
pub(crate) struct Site<'a> {
    pub(crate) host: HostId,
    pub(crate) engine: &'a Engine,
    pub(crate) firewall: &'a Firewall,
    pub(crate) policy: &'a Policy,
    pub(crate) gate: &'a dyn GpuGate,
    pub(crate) scratch_dir: &'a Path,
}

impl Site<'_> {
    /// Removes what an instance has besides its container, and looks for what is left of it. `container`: the id that its container had.
    pub(crate) async fn scrub_instance(
        &self,
        protocol: &mut Protocol,
        names: &Names,
        scratch: &Scratch,
        container: Option<&str>,
    ) {
        let destroy = async { scratch.destroy().await.map_err(|error| error.to_string()) };
        protocol.step("scratch_destroyed", destroy).await;
        protocol
            .step("network_removed", self.remove_network(names))
            .await;
        let look = leftovers::look(self.engine, names, scratch, container);
        protocol.step("leftovers", look).await;
    }

    /// Brings the GPUs back to the baseline and checks the host. Not before everything else was removed.
    pub(crate) async fn scrub_host(&self, protocol: &mut Protocol, baseline: &Baseline) {
        protocol.steps.extend(self.gate.restore().await);
        if self.policy.dedicated {
            protocol
                .step("unknown_containers", self.check_unknown())
                .await;
        } else {
            let why = "the host's policy does not say that it is dedicated";
            protocol.skip("unknown_containers", why);
        }
        let checks = self.gate.health_gate(baseline).await;
        protocol.steps.extend(checks);
    }

    /// Removes what instances that have ended left behind, on a host that was found idle.
    pub(crate) async fn sweep(&self, protocol: &mut Protocol) {
        protocol
            .step("containers_removed", self.sweep_containers())
            .await;
        protocol
            .step("scratches_destroyed", self.sweep_scratches())
            .await;
        protocol
            .step("networks_removed", self.sweep_networks())
            .await;
    }

    async fn remove_network(&self, names: &Names) -> Result<String, String> {
        let said = network::remove_network(self.engine, names).await;
        said.map_err(|error| error.to_string())?;
        if network::has_bridge(names) {
            return Err(format!("the interface {} is still there", names.bridge));
        }
        self.remove_rules_of_nobody().await?;
        Ok(format!("{} is gone", names.object))
    }

    /// The last instance takes the rules with it.
    async fn remove_rules_of_nobody(&self) -> Result<(), String> {
        let host = self.host.to_string();
        let left = network::list_networks(self.engine, &[(LABEL_HOST, &host)]).await;
        if left.map_err(|error| error.to_string())?.is_empty() {
            let removed = self.firewall.remove().await;
            removed.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    async fn check_unknown(&self) -> Result<String, String> {
        let all = self.engine.list(&[]).await;
        let all = all.map_err(|error| error.to_string())?;
        let host = self.host.to_string();
        let unknown = all
            .iter()
            .filter(|(_, labels)| labels.get(LABEL_HOST) != Some(&host));
        let unknown: Vec<&str> = unknown.map(|(name, _)| name.as_str()).collect();
        if unknown.is_empty() {
            return Ok("there are none".to_owned());
        }
        Err(format!(
            "containers that are not Freehold's are on this dedicated host: {}; remove them",
            unknown.join(", ")
        ))
    }

    async fn sweep_containers(&self) -> Result<String, String> {
        let host = self.host.to_string();
        let found = self.engine.list(&[(LABEL_HOST, &host)]).await;
        let found = found.map_err(|error| error.to_string())?;
        for (name, _) in &found {
            let removed = self.engine.remove(name).await;
            removed.map_err(|error| error.to_string())?;
        }
        Ok(count(found.len()))
    }

    async fn sweep_scratches(&self) -> Result<String, String> {
        let scratches = Scratch::all(self.scratch_dir, self.host);
        for scratch in &scratches {
            let destroyed = scratch.destroy().await;
            destroyed.map_err(|error| error.to_string())?;
        }
        Ok(count(scratches.len()))
    }

    async fn sweep_networks(&self) -> Result<String, String> {
        let host = self.host.to_string();
        let found = network::list_networks(self.engine, &[(LABEL_HOST, &host)]).await;
        let found = found.map_err(|error| error.to_string())?;
        for name in &found {
            let removed = network::remove_named(self.engine, name).await;
            removed.map_err(|error| error.to_string())?;
        }
        self.remove_rules_of_nobody().await?;
        Ok(count(found.len()))
    }
}

fn count(removed: usize) -> String {
    match removed {
        0 => "there were none".to_owned(),
        count => format!("removed {count}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_protocol_keeps_the_order_and_never_shows_a_skipped_step_as_passed() {
        let mut protocol = Protocol::default();
        assert!(protocol.step("one", async { Ok("done".to_owned()) }).await);
        protocol.skip("two", "it does not apply");
        assert!(
            !protocol
                .step("three", async { Err("broken".to_owned()) })
                .await
        );
        let results = protocol
            .steps
            .iter()
            .map(|step| (step.result, step.detail.as_str()));
        let expected = [
            (StepResult::Passed, "done"),
            (StepResult::Skipped, "it does not apply"),
            (StepResult::Failed, "broken"),
        ];
        assert!(results.eq(expected));
    }
}
