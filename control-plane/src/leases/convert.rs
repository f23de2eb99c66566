//! Between leases' own types and the protocol's.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use freehold_proto::{
    id::{HostId, InstanceId, LeaseId, OrganizationId, PrincipalId, ProjectId, ScrubId, SegmentId},
    v1,
};
use prost_types::Timestamp;

use super::{
    explain::Explanation,
    model::{
        instance::{Recorded, Reported},
        lease::LeaseState,
        request::Asked,
    },
    store::{
        AvailabilityRow, EventRow, InstanceRow, LeaseFilter, LeaseRecord, ScrubRow, SegmentRow,
        StepRow,
    },
};
use crate::{
    error::{Error, Result},
    page::{parse_time, timestamp},
};

impl TryFrom<v1::CreateLeaseRequest> for Asked {
    type Error = Error;

    fn try_from(body: v1::CreateLeaseRequest) -> Result<Self> {
        Ok(Self {
            start: parse_time("start_time", body.start_time.as_ref())?,
            instance_type: body.instance_type,
            count: body.count,
            hours: body.hours,
            ssh_public_keys: body.ssh_public_keys,
            image: body.image,
            name: body.name,
            labels: body.labels,
        })
    }
}

pub(super) fn lease_filter(states: &[i32]) -> Result<LeaseFilter> {
    let states = states
        .iter()
        .map(|number| {
            let state = v1::LeaseState::try_from(*number).unwrap_or_default();
            LeaseState::ALL
                .iter()
                .find(|known| v1::LeaseState::from(**known) == state)
                .map(|known| known.as_str().to_owned())
                .ok_or_else(|| {
                    Error::field("states", format!("{number} is not a state of a lease"))
                })
        })
        .collect::<Result<_>>()?;
    Ok(LeaseFilter { states })
}

impl From<LeaseState> for v1::LeaseState {
    fn from(state: LeaseState) -> Self {
        match state {
            LeaseState::Waitlisted => Self::Waitlisted,
            LeaseState::Scheduled => Self::Scheduled,
            LeaseState::Provisioning => Self::Provisioning,
            LeaseState::Active => Self::Active,
            LeaseState::Impaired => Self::Impaired,
            LeaseState::Ending => Self::Ending,
            LeaseState::Ended => Self::Ended,
            LeaseState::Failed => Self::Failed,
        }
    }
}

impl From<LeaseRecord> for v1::Lease {
    fn from(record: LeaseRecord) -> Self {
        let row = record.lease;
        let state: v1::LeaseState = row
            .state
            .parse::<LeaseState>()
            .map(Into::into)
            .unwrap_or_default();
        Self {
            id: LeaseId::from(row.id).to_string(),
            name: row.name,
            state: state.into(),
            state_reason: row.state_reason,
            organization_id: OrganizationId::from(row.organization_id).to_string(),
            organization: row.organization,
            project_id: ProjectId::from(row.project_id).to_string(),
            project: row.project,
            instance_type: row.instance_type,
            count: row.count,
            image: row.image,
            labels: serde_json::from_value::<BTreeMap<String, String>>(row.labels)
                .unwrap_or_default(),
            create_time: Some(timestamp(row.created_at)),
            start_time: Some(timestamp(row.start_at)),
            end_time: instant(row.end_at),
            end_request_time: instant(row.end_requested_at),
            ended_time: instant(row.ended_at),
            settle_time: instant(row.settled_at),
            instances: record.instances.into_iter().map(Into::into).collect(),
            segments: record.segments.into_iter().map(Into::into).collect(),
            ssh_public_keys: record.ssh_public_keys,
            creator_id: PrincipalId::from(row.created_by).to_string(),
        }
    }
}

pub(super) fn instant(time: Option<DateTime<Utc>>) -> Option<Timestamp> {
    time.map(timestamp)
}

impl From<InstanceRow> for v1::Instance {
    fn from(row: InstanceRow) -> Self {
        let state: v1::InstanceState = row
            .recorded
            .parse::<Recorded>()
            .map(Into::into)
            .unwrap_or_default();
        let reported: v1::ReportedState = row
            .reported
            .parse::<Reported>()
            .map(Into::into)
            .unwrap_or_default();
        Self {
            id: InstanceId::from(row.id).to_string(),
            ordinal: row.ordinal,
            state: state.into(),
            state_reason: row.state_reason,
            reported_state: reported.into(),
            host_id: row
                .host_id
                .map(|id| HostId::from(id).to_string())
                .unwrap_or_default(),
            host: row.host.unwrap_or_default(),
            generation: row.generation,
            gpu_uuids: row.gpu_uuids,
            usable_time: instant(row.usable_at),
            ended_time: instant(row.ended_at),
            ssh_user: format!("{}.{}", LeaseId::from(row.lease_id), row.ordinal),
            scrub: row.scrub.map(|scrub| scrub_record(scrub, row.id.into())),
        }
    }
}

fn scrub_record(scrub: ScrubRow, instance: InstanceId) -> v1::ScrubRecord {
    v1::ScrubRecord {
        id: ScrubId::from(scrub.id).to_string(),
        host_id: HostId::from(scrub.host_id).to_string(),
        instance_id: instance.to_string(),
        result: step_result(&scrub.result).into(),
        steps: scrub.steps.into_iter().map(step).collect(),
        start_time: instant(scrub.started_at),
        end_time: instant(scrub.ended_at),
    }
}

fn step(row: StepRow) -> v1::Step {
    v1::Step {
        result: step_result(&row.result).into(),
        name: row.name,
        detail: row.detail,
        duration_ms: row.duration_ms,
    }
}

fn step_result(text: &str) -> v1::StepResult {
    match text {
        "passed" => v1::StepResult::Passed,
        "failed" => v1::StepResult::Failed,
        "skipped" => v1::StepResult::Skipped,
        _ => v1::StepResult::Unspecified,
    }
}

impl From<SegmentRow> for v1::LeaseSegment {
    fn from(row: SegmentRow) -> Self {
        let rounding = match row.rounding.as_str() {
            "hour" => v1::Rounding::Hour,
            "minute" => v1::Rounding::Minute,
            "second" => v1::Rounding::Second,
            _ => v1::Rounding::Unspecified,
        };
        Self {
            id: SegmentId::from(row.id).to_string(),
            start_time: Some(timestamp(row.start_at)),
            end_time: instant(row.end_at),
            price_micros: row.price_micros,
            currency: row.currency,
            rounding: rounding.into(),
        }
    }
}

impl From<Explanation> for v1::ExplainLeaseResponse {
    fn from(explanation: Explanation) -> Self {
        let currency = explanation
            .record
            .segments
            .first()
            .map(|segment| segment.currency.clone())
            .unwrap_or_default();
        let history = explanation.history;
        let (micros, currency) = history.cost.unwrap_or((0, currency));
        Self {
            lease: Some(explanation.record.into()),
            summary: explanation.summary,
            events: history.events.into_iter().map(Into::into).collect(),
            availability: history.availability.into_iter().map(Into::into).collect(),
            cost: Some(v1::Money { micros, currency }),
        }
    }
}

impl From<EventRow> for v1::LeaseEvent {
    fn from(row: EventRow) -> Self {
        Self {
            time: Some(timestamp(row.at)),
            kind: row.kind,
            detail: row.detail,
            instance_id: row
                .instance_id
                .map(|id| InstanceId::from(id).to_string())
                .unwrap_or_default(),
        }
    }
}

impl From<AvailabilityRow> for v1::Availability {
    fn from(row: AvailabilityRow) -> Self {
        let state = match row.state.as_str() {
            "usable" => v1::AvailabilityState::Usable,
            "unusable" => v1::AvailabilityState::Unusable,
            _ => v1::AvailabilityState::Unknown,
        };
        let fault = match row.fault_party.as_str() {
            "provider" => v1::FaultParty::Provider,
            "tenant" => v1::FaultParty::Tenant,
            _ => v1::FaultParty::None,
        };
        Self {
            instance_id: InstanceId::from(row.instance_id).to_string(),
            from_time: Some(timestamp(row.from_at)),
            to_time: instant(row.to_at),
            state: state.into(),
            fault_party: fault.into(),
            evidence: row.evidence,
        }
    }
}

impl From<Recorded> for v1::InstanceState {
    fn from(state: Recorded) -> Self {
        match state {
            Recorded::Pending => Self::Pending,
            Recorded::Placed => Self::Placed,
            Recorded::Provisioning => Self::Provisioning,
            Recorded::Usable => Self::Usable,
            Recorded::Impaired => Self::Impaired,
            Recorded::Ending => Self::Ending,
            Recorded::Ended => Self::Ended,
        }
    }
}

impl From<Reported> for v1::ReportedState {
    fn from(state: Reported) -> Self {
        match state {
            Reported::Unknown => Self::Unknown,
            Reported::Absent => Self::Absent,
            Reported::Preparing => Self::Preparing,
            Reported::Running => Self::Running,
            Reported::Stopped => Self::Stopped,
            Reported::Removing => Self::Removing,
            Reported::Failed => Self::Failed,
        }
    }
}

impl From<v1::ReportedState> for Reported {
    fn from(state: v1::ReportedState) -> Self {
        match state {
            v1::ReportedState::Unspecified | v1::ReportedState::Unknown => Self::Unknown,
            v1::ReportedState::Absent => Self::Absent,
            v1::ReportedState::Preparing => Self::Preparing,
            v1::ReportedState::Running => Self::Running,
            v1::ReportedState::Stopped => Self::Stopped,
            v1::ReportedState::Removing => Self::Removing,
            v1::ReportedState::Failed => Self::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reported_states_round_trip_through_the_protocol() {
        for state in Reported::ALL {
            assert_eq!(Reported::from(v1::ReportedState::from(*state)), *state);
        }
    }
}
