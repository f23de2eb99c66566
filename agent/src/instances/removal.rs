//! The end of an instance: access off, then the scrub.

use std::time::Duration;

use freehold_proto::id::InstanceId;
use tokio::time::Instant;

use super::{Shared, owner::Owner};
use crate::{
    model::{Event, Fence, GoneOrder, ReportedState, ScrubOrder, ScrubOutcome, Step, StepResult},
    runtime::{EngineError, LABEL_HOST, Names, Record},
    scrub::{Protocol, Site},
};

/// An engine that restarts is waited for this long before the removal has failed.
const ENGINE_LIMIT: Duration = Duration::from_mins(2);

impl Shared {
    /// What a scrub looks at.
    fn site(&self) -> Site<'_> {
        Site {
            host: self.host,
            engine: &self.engine,
            firewall: &self.firewall,
            policy: &self.policy,
            gate: self.gate.as_ref(),
            scratch_dir: &self.scratch_dir,
        }
    }

    /// The instances that are not gone.
    pub(super) fn present(&self) -> Vec<(InstanceId, Fence)> {
        let slots = self.slots();
        let here = slots.values().map(|slot| &slot.status);
        here.filter(|status| status.state != ReportedState::Absent)
            .map(|status| (status.instance_id, status.fence))
            .collect()
    }

    async fn tell_outcome(&self, outcome: ScrubOutcome) {
        let _ = self.events.send(Event::Scrub(outcome)).await;
    }
}

/// Removes an instance and scrubs the host. An order that was done already has its outcome repeated.
pub(super) async fn remove(owner: &mut Owner, order: GoneOrder) {
    let shared = owner.shared.clone();
    if let Some(outcome) = shared.outcomes.get(order.scrub_id) {
        shared.tell_outcome(outcome).await;
        return;
    }
    owner.ended = owner.ended.max(Some(order.fence));
    owner.set(ReportedState::Removing, "being removed").await;
    let start_micros = shared.clock.now_micros();
    let mut protocol = Protocol::default();
    let container = shared.engine.find(&owner.names).await;
    let container = container.ok().flatten().map(|found| found.id);
    let removal = remove_container(&shared, &owner.names);
    let gone = protocol.step("container_removed", removal).await;
    if gone {
        // From here on nobody can get in: that is what `absent` promises. What is left is the scrub's.
        owner.set(ReportedState::Absent, "removed").await;
    }
    let _one_at_a_time = shared.scrubbing.lock().await;
    let site = shared.site();
    let scratch = shared.scratch(owner.names.instance);
    site.scrub_instance(&mut protocol, &owner.names, &scratch, container.as_deref())
        .await;
    site.scrub_host(&mut protocol, &order.baseline).await;
    if gone {
        owner.forget();
    } else {
        let detail = "it could not be removed; the scrub's record says why";
        owner.set(ReportedState::Failed, detail).await;
    }
    let outcome = ScrubOutcome {
        scrub_id: order.scrub_id,
        instance_id: Some(order.instance_id),
        fence: order.fence,
        result: result_of(&protocol.steps),
        steps: protocol.steps,
        start_micros,
        end_micros: shared.clock.now_micros(),
    };
    shared.outcomes.keep(&outcome);
    shared.tell_outcome(outcome).await;
}

/// Scrubs and checks the host itself.
pub(super) async fn scrub_host(shared: &Shared, order: ScrubOrder) {
    let _one_at_a_time = shared.scrubbing.lock().await;
    if let Some(outcome) = shared.outcomes.get(order.scrub_id) {
        shared.tell_outcome(outcome).await;
        return;
    }
    let start_micros = shared.clock.now_micros();
    let mut protocol = Protocol::default();
    let site = shared.site();
    if protocol.step("host_idle", check_idle(shared)).await {
        site.sweep(&mut protocol).await;
        site.scrub_host(&mut protocol, &order.baseline).await;
    }
    let outcome = ScrubOutcome {
        scrub_id: order.scrub_id,
        instance_id: None,
        fence: Fence {
            epoch: order.epoch,
            generation: 0,
        },
        result: result_of(&protocol.steps),
        steps: protocol.steps,
        start_micros,
        end_micros: shared.clock.now_micros(),
    };
    shared.outcomes.keep(&outcome);
    shared.tell_outcome(outcome).await;
    for (instance, _) in shared.present() {
        shared.look(instance);
    }
}

/// Nothing is here but what was ordered to end. An idle host is one that the control plane has placed nothing on; this host knows better
/// when it was restored from a backup.
async fn check_idle(shared: &Shared) -> Result<String, String> {
    let host = shared.host.to_string();
    let found = shared.engine.list(&[(LABEL_HOST, &host)]).await;
    let found = found.map_err(|error| error.to_string())?;
    let labelled = found
        .iter()
        .filter_map(|(_, labels)| Record::from_labels(labels));
    let mut fences: Vec<_> = labelled
        .map(|record| (record.instance_id, record.fence))
        .collect();
    fences.extend(shared.present());
    fences.retain(|(id, fence)| {
        let ended = shared.outcomes.last_fence(*id);
        ended.is_none_or(|ended| *fence > ended)
    });
    match fences.first() {
        None => Ok("no instance is here".to_owned()),
        Some((id, _)) => Err(format!("the instance {id} is here: end its lease first")),
    }
}

fn result_of(steps: &[Step]) -> StepResult {
    if steps.iter().any(|step| step.result == StepResult::Failed) {
        StepResult::Failed
    } else {
        StepResult::Passed
    }
}

/// Kills and deletes the container, and sees that it is gone.
async fn remove_container(shared: &Shared, names: &Names) -> Result<String, String> {
    let deadline = Instant::now() + ENGINE_LIMIT;
    loop {
        match try_remove(shared, names).await {
            Ok(said) => return Ok(said),
            Err(error) if Instant::now() < deadline => {
                tracing::warn!(instance.id = %names.instance, %error, "the container is not removed yet");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

async fn try_remove(shared: &Shared, names: &Names) -> Result<String, EngineError> {
    let Some(found) = shared.engine.find(names).await? else {
        return Ok("there was none".to_owned());
    };
    shared.engine.remove(&found.id).await?;
    match shared.engine.find(names).await? {
        None => Ok(format!("removed {}", names.object)),
        Some(_) => Err(EngineError::Refused(format!(
            "{} is still there",
            names.object
        ))),
    }
}
