//! From hosts to protobuf.

use freehold_proto::{
    id::{HostId, InstanceId, LeaseId, ScrubId},
    v1,
};

use super::{
    model::{inventory::Gpu, state::HostState},
    store::host::{HostRecord, LastScrub},
};
use crate::{
    error::{Error, Result},
    leases::store::StepRow,
    page::timestamp,
};

impl From<HostState> for v1::HostState {
    fn from(state: HostState) -> Self {
        match state {
            HostState::Available => Self::Available,
            HostState::Leased => Self::Leased,
            HostState::Scrubbing => Self::Scrubbing,
            HostState::Quarantined => Self::Quarantined,
            HostState::Cordoned => Self::Cordoned,
            HostState::Unknown => Self::Unknown,
            HostState::Removed => Self::Removed,
        }
    }
}

/// The state that a request names; `None`: every state but removed.
pub(super) fn wanted_state(state: i32) -> Result<Option<HostState>> {
    let state = v1::HostState::try_from(state)
        .map_err(|_| Error::field("state", "is not a state of hosts"))?;
    Ok(match state {
        v1::HostState::Unspecified => None,
        v1::HostState::Available => Some(HostState::Available),
        v1::HostState::Leased => Some(HostState::Leased),
        v1::HostState::Scrubbing => Some(HostState::Scrubbing),
        v1::HostState::Quarantined => Some(HostState::Quarantined),
        v1::HostState::Cordoned => Some(HostState::Cordoned),
        v1::HostState::Unknown => Some(HostState::Unknown),
        v1::HostState::Removed => Some(HostState::Removed),
    })
}

impl From<HostRecord> for v1::Host {
    fn from(record: HostRecord) -> Self {
        let row = record.row;
        Self {
            id: HostId::from(row.id).to_string(),
            name: row.name,
            state: v1::HostState::from(record.state).into(),
            state_reason: record.state_reason,
            region: row.region,
            sector: row.sector,
            gpu_model: row.gpu_model,
            gpu_count: row.gpu_count,
            gpus: record.gpus.into_iter().map(gpu).collect(),
            vcpus: row.vcpus,
            memory_bytes: row.memory_bytes,
            scratch_bytes: row.scratch_bytes,
            driver_version: row.driver_version,
            cuda_version: row.cuda_version,
            agent_version: row.agent_version,
            simulated: row.simulated,
            cordoned: row.cordoned,
            lease_id: row
                .lease_id
                .map_or_else(String::new, |id| LeaseId::from(id).to_string()),
            create_time: Some(timestamp(row.created_at)),
            last_seen_time: row.last_seen_at.map(timestamp),
            last_scrub: record.last_scrub.map(scrub),
        }
    }
}

fn gpu(gpu: Gpu) -> v1::Gpu {
    v1::Gpu {
        uuid: gpu.uuid,
        index: gpu.index,
        model: gpu.model,
        serial: gpu.serial,
        pci_bus_id: gpu.pci_bus_id,
        memory_bytes: gpu.memory_bytes,
    }
}

fn scrub(scrub: LastScrub) -> v1::ScrubRecord {
    v1::ScrubRecord {
        id: ScrubId::from(scrub.id).to_string(),
        host_id: HostId::from(scrub.host_id).to_string(),
        instance_id: scrub
            .instance_id
            .map_or_else(String::new, |id| InstanceId::from(id).to_string()),
        result: result(scrub.result.as_deref().unwrap_or_default()).into(),
        steps: scrub.steps.into_iter().map(step).collect(),
        start_time: scrub.started_at.map(timestamp),
        end_time: scrub.ended_at.map(timestamp),
    }
}

fn step(row: StepRow) -> v1::Step {
    v1::Step {
        result: result(&row.result).into(),
        name: row.name,
        detail: row.detail,
        duration_ms: row.duration_ms,
    }
}

fn result(text: &str) -> v1::StepResult {
    match text {
        "passed" => v1::StepResult::Passed,
        "failed" => v1::StepResult::Failed,
        "skipped" => v1::StepResult::Skipped,
        _ => v1::StepResult::Unspecified,
    }
}
