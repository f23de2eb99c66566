//! Writes down how each instance fares, link or no link: what the meter's gaps are filled from.

use std::{sync::Arc, time::Duration};

use tokio::time::MissedTickBehavior;

use super::Shared;
use crate::{
    journal::Observation,
    model::{HealthFinding, InstanceStatus, ReportedState},
};

const INTERVAL: Duration = Duration::from_secs(5);

/// Looks and writes until the agent stops.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let findings = shared.gpus.findings().borrow().clone();
        let seen = shared
            .instances
            .statuses()
            .into_iter()
            .filter_map(|status| {
                let entry = shared.journal.fence(status.instance_id);
                let given = entry.map(|entry| entry.gpu_uuids).unwrap_or_default();
                observe(&status, &given, &findings)
            });
        let seen: Vec<Observation> = seen.collect();
        if !seen.is_empty() {
            shared.journal.observe(seen).await;
        }
        shared.journal.retry().await;
    }
}

/// What a status says for the meter. `None`: nothing, since the instance is not up yet, no more, or cannot be looked at.
fn observe(
    status: &InstanceStatus,
    given: &[String],
    findings: &[HealthFinding],
) -> Option<Observation> {
    let running = match status.state {
        ReportedState::Running => true,
        ReportedState::Stopped => false,
        _ => return None,
    };
    let is_lost = |uuid: &String| {
        findings.iter().any(|finding| {
            finding.prevents_use && (finding.gpu_uuid.is_empty() || finding.gpu_uuid == *uuid)
        })
    };
    let visible = &status.visible_gpu_uuids;
    let gpus = if given.is_empty() { visible } else { given };
    let usable = gpus
        .iter()
        .all(|uuid| visible.contains(uuid) && !is_lost(uuid));
    Some(Observation {
        instance_id: status.instance_id,
        healthy: running && status.sshd_listening && !gpus.is_empty() && usable,
    })
}

#[cfg(test)]
mod tests {
    use freehold_proto::id::InstanceId;

    use super::*;
    use crate::model::Fence;

    fn running() -> InstanceStatus {
        InstanceStatus {
            visible_gpu_uuids: vec!["GPU-a".to_owned(), "GPU-b".to_owned()],
            sshd_listening: true,
            ..InstanceStatus::new(InstanceId::new(), Fence::default(), ReportedState::Running)
        }
    }

    fn healthy(status: &InstanceStatus, findings: &[HealthFinding]) -> Option<bool> {
        let given = ["GPU-a".to_owned(), "GPU-b".to_owned()];
        observe(status, &given, findings).map(|seen| seen.healthy)
    }

    fn finding(gpu_uuid: &str, prevents_use: bool) -> HealthFinding {
        HealthFinding {
            gpu_uuid: gpu_uuid.to_owned(),
            prevents_use,
            ..HealthFinding::default()
        }
    }

    #[test]
    fn an_instance_is_healthy_only_when_everything_in_it_is() {
        assert_eq!(healthy(&running(), &[]), Some(true));
        let mut no_sshd = running();
        no_sshd.sshd_listening = false;
        assert_eq!(healthy(&no_sshd, &[]), Some(false));
        let mut gpu_gone = running();
        gpu_gone.visible_gpu_uuids.pop();
        assert_eq!(healthy(&gpu_gone, &[]), Some(false));
        let mut stopped = running();
        stopped.state = ReportedState::Stopped;
        assert_eq!(healthy(&stopped, &[]), Some(false));
    }

    #[test]
    fn only_findings_that_prevent_use_of_its_own_gpus_count() {
        assert_eq!(healthy(&running(), &[finding("GPU-b", true)]), Some(false));
        assert_eq!(healthy(&running(), &[finding("", true)]), Some(false));
        assert_eq!(healthy(&running(), &[finding("GPU-b", false)]), Some(true));
        assert_eq!(healthy(&running(), &[finding("GPU-x", true)]), Some(true));
    }

    #[test]
    fn what_cannot_be_looked_at_is_neither_healthy_nor_not() {
        for state in [
            ReportedState::Unknown,
            ReportedState::Preparing,
            ReportedState::Absent,
            ReportedState::Removing,
            ReportedState::Failed,
        ] {
            let mut status = running();
            status.state = state;
            assert_eq!(healthy(&status, &[]), None, "{state:?}");
        }
    }
}
