//! Protobuf to and from this crate's types, validated once.

use std::time::Duration;

use freehold_proto::{
    agent_v1 as proto,
    id::{InstanceId, ParseIdError},
    time::timestamp_from_micros,
    v1::{self, ReportedState as ProtoState, StepResult as ProtoResult},
};

use crate::{
    journal::Stretch,
    model::{
        Baseline, Fence, GoneOrder, GpuEvent, GpuInfo, GpuRollup, GpuSample, HealthFinding,
        InstanceSpec, InstanceStatus, NetworkKind, ReportedState, ScratchKey, ScrubOrder,
        ScrubOutcome, StepResult,
    },
};

/// An order that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BadOrder {
    /// The instance it is about, where that much can be told.
    pub(super) instance: Option<(InstanceId, Fence)>,
    /// Which field, and what would be right.
    pub(super) reason: String,
}

impl BadOrder {
    fn of(instance: InstanceId, fence: Fence, reason: String) -> Self {
        Self {
            instance: Some((instance, fence)),
            reason,
        }
    }
}

impl From<ParseIdError> for BadOrder {
    fn from(error: ParseIdError) -> Self {
        Self {
            instance: None,
            reason: error.to_string(),
        }
    }
}

pub(super) fn spec(order: proto::EnsureRunning) -> Result<InstanceSpec, BadOrder> {
    let spec = order.spec.ok_or_else(|| BadOrder {
        instance: None,
        reason: "spec is missing".to_owned(),
    })?;
    let instance_id = spec.instance_id.parse()?;
    let fence = Fence {
        epoch: spec.epoch,
        generation: spec.generation,
    };
    let bad = |reason: String| BadOrder::of(instance_id, fence, reason);
    let positive = |name: &str, value: i64| {
        u64::try_from(value)
            .ok()
            .filter(|value| *value > 0)
            .ok_or_else(|| bad(format!("{name} is {value}: expected more than 0")))
    };
    let network = spec.network.unwrap_or_default();
    if network.kind() != proto::network_spec::Kind::Bridge {
        return Err(bad(
            "network.kind: this agent only knows KIND_BRIDGE".to_owned()
        ));
    }
    if spec.image.is_empty() {
        return Err(bad("image is empty".to_owned()));
    }
    let vcpus = positive("vcpus", i64::from(spec.vcpus))?;
    Ok(InstanceSpec {
        instance_id,
        lease_id: spec
            .lease_id
            .parse()
            .map_err(|error: ParseIdError| BadOrder::of(instance_id, fence, error.to_string()))?,
        ordinal: u32::try_from(spec.ordinal)
            .map_err(|_| bad(format!("ordinal is {}", spec.ordinal)))?,
        fence,
        image: spec.image,
        gpu_uuids: spec.gpu_uuids,
        vcpus: u32::try_from(vcpus).map_err(|_| bad("vcpus is out of range".to_owned()))?,
        memory_bytes: positive("memory_bytes", spec.memory_bytes)?,
        scratch_bytes: positive("scratch_bytes", spec.scratch_bytes)?,
        scratch_key: ScratchKey::from_slice(&spec.scratch_key)
            .ok_or_else(|| bad("scratch_key does not have 64 bytes".to_owned()))?,
        network: NetworkKind::Bridge,
        user_ca: spec.user_ca,
        principals: spec.principals,
        authorized_keys: spec.authorized_keys,
        image_timeout: Duration::from_millis(positive("image_timeout_ms", spec.image_timeout_ms)?),
        hostname: spec.hostname,
    })
}

pub(super) fn gone(order: proto::EnsureGone) -> Result<GoneOrder, BadOrder> {
    let instance_id = order.instance_id.parse()?;
    let fence = Fence {
        epoch: order.epoch,
        generation: order.generation,
    };
    Ok(GoneOrder {
        instance_id,
        fence,
        scrub_id: order
            .scrub_id
            .parse()
            .map_err(|error: ParseIdError| BadOrder::of(instance_id, fence, error.to_string()))?,
        baseline: baseline(order.baseline),
    })
}

pub(super) fn scrub(order: proto::ScrubHost) -> Result<ScrubOrder, BadOrder> {
    Ok(ScrubOrder {
        scrub_id: order.scrub_id.parse()?,
        epoch: order.epoch,
        baseline: baseline(order.baseline),
    })
}

fn baseline(baseline: Option<proto::Baseline>) -> Baseline {
    Baseline {
        gpu_uuids: baseline.unwrap_or_default().gpu_uuids,
    }
}

pub(super) fn report(status: &InstanceStatus) -> proto::InstanceReport {
    let state = match status.state {
        ReportedState::Unknown => ProtoState::Unknown,
        ReportedState::Absent => ProtoState::Absent,
        ReportedState::Preparing => ProtoState::Preparing,
        ReportedState::Running => ProtoState::Running,
        ReportedState::Stopped => ProtoState::Stopped,
        ReportedState::Removing => ProtoState::Removing,
        ReportedState::Failed => ProtoState::Failed,
    };
    proto::InstanceReport {
        instance_id: status.instance_id.to_string(),
        epoch: status.fence.epoch,
        generation: status.fence.generation,
        state: state.into(),
        detail: status.detail.clone(),
        tenant_fault: status.tenant_fault,
        visible_gpu_uuids: status.visible_gpu_uuids.clone(),
        sshd_listening: status.sshd_listening,
        fenced: status.fenced,
    }
}

fn result(result: StepResult) -> ProtoResult {
    match result {
        StepResult::Passed => ProtoResult::Passed,
        StepResult::Failed => ProtoResult::Failed,
        StepResult::Skipped => ProtoResult::Skipped,
    }
}

pub(super) fn scrub_report(outcome: &ScrubOutcome) -> proto::ScrubReport {
    let step = |step: &crate::model::Step| v1::Step {
        name: step.name.clone(),
        result: result(step.result).into(),
        detail: step.detail.clone(),
        duration_ms: i64::try_from(step.duration.as_millis()).unwrap_or(i64::MAX),
    };
    proto::ScrubReport {
        scrub_id: outcome.scrub_id.to_string(),
        instance_id: outcome
            .instance_id
            .map_or_else(String::new, |id| id.to_string()),
        epoch: outcome.fence.epoch,
        generation: outcome.fence.generation,
        result: result(outcome.result).into(),
        steps: outcome.steps.iter().map(step).collect(),
        start_time: Some(timestamp_from_micros(outcome.start_micros)),
        end_time: Some(timestamp_from_micros(outcome.end_micros)),
    }
}

pub(super) fn journal_entry(stretch: &Stretch) -> proto::JournalEntry {
    proto::JournalEntry {
        instance_id: stretch.instance_id.to_string(),
        from_time: Some(timestamp_from_micros(stretch.from_us)),
        to_time: Some(timestamp_from_micros(stretch.to_us)),
        healthy: stretch.healthy,
        boot_id: stretch.boot_id.clone(),
        duration_ms: stretch.duration_ms(),
    }
}

pub(super) fn gpu(info: &GpuInfo) -> v1::Gpu {
    v1::Gpu {
        uuid: info.uuid.clone(),
        index: signed(info.index),
        model: info.model.clone(),
        serial: info.serial.clone(),
        pci_bus_id: info.pci_bus_id.clone(),
        memory_bytes: long(info.memory_bytes),
    }
}

pub(super) fn sample(sample: &GpuSample) -> v1::GpuTelemetry {
    v1::GpuTelemetry {
        uuid: sample.uuid.clone(),
        index: signed(sample.index),
        utilization_percent: sample.utilization_percent.map(signed),
        memory_used_bytes: sample.memory_used_bytes.map(long),
        memory_total_bytes: sample.memory_total_bytes.map(long),
        temperature_celsius: sample.temperature_celsius,
        power_milliwatts: sample.power_milliwatts.map(long),
        sm_clock_mhz: sample.sm_clock_mhz.map(signed),
        memory_clock_mhz: sample.memory_clock_mhz.map(signed),
        ecc_corrected: sample.ecc_corrected.map(long),
        ecc_uncorrected: sample.ecc_uncorrected.map(long),
        last_xid: sample.last_xid.map(|(xid, _)| signed(xid)),
        last_xid_time: sample.last_xid.map(|(_, at)| timestamp_from_micros(at)),
    }
}

pub(super) fn rollup(rollup: &GpuRollup) -> v1::GpuRollup {
    v1::GpuRollup {
        uuid: rollup.uuid.clone(),
        time: Some(timestamp_from_micros(rollup.minute_micros)),
        samples: signed(rollup.samples),
        utilization_percent_mean: rollup.utilization_percent_mean,
        utilization_percent_max: rollup.utilization_percent_max.map(signed),
        memory_used_bytes_max: rollup.memory_used_bytes_max.map(long),
        temperature_celsius_max: rollup.temperature_celsius_max,
        power_milliwatts_mean: rollup.power_milliwatts_mean,
    }
}

pub(super) fn event(event: &GpuEvent) -> v1::GpuEvent {
    v1::GpuEvent {
        time: Some(timestamp_from_micros(event.time_micros)),
        gpu_uuid: event.gpu_uuid.clone(),
        kind: event.kind.clone(),
        xid: event.xid.map(signed),
        detail: event.detail.clone(),
    }
}

pub(super) fn finding(finding: &HealthFinding) -> proto::HealthFinding {
    proto::HealthFinding {
        gpu_uuid: finding.gpu_uuid.clone(),
        check: finding.check.clone(),
        detail: finding.detail.clone(),
        prevents_use: finding.prevents_use,
        prevents_allocation: finding.prevents_allocation,
    }
}

/// No measure comes near the limit; one that did would be shown as it.
pub(super) fn signed(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

/// See [`signed`].
pub(super) fn long(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use freehold_proto::id::LeaseId;

    use super::*;

    fn order() -> proto::InstanceSpec {
        proto::InstanceSpec {
            instance_id: InstanceId::new().to_string(),
            lease_id: LeaseId::new().to_string(),
            epoch: 1,
            generation: 2,
            image: "base".to_owned(),
            vcpus: 4,
            memory_bytes: 1 << 30,
            scratch_bytes: 1 << 30,
            scratch_key: vec![1; 64],
            network: Some(proto::NetworkSpec {
                kind: proto::network_spec::Kind::Bridge.into(),
            }),
            image_timeout_ms: 60_000,
            ..proto::InstanceSpec::default()
        }
    }

    fn convert(change: impl FnOnce(&mut proto::InstanceSpec)) -> Result<InstanceSpec, BadOrder> {
        let mut spec_of_order = order();
        change(&mut spec_of_order);
        spec(proto::EnsureRunning {
            spec: Some(spec_of_order),
        })
    }

    #[test]
    fn a_whole_order_is_taken() {
        let spec = convert(|_| ()).expect("whole");
        assert_eq!(spec.fence.generation, 2);
        assert_eq!(spec.image_timeout, Duration::from_mins(1));
    }

    #[test]
    fn a_wrong_field_is_named_with_its_instance() {
        type Change = fn(&mut proto::InstanceSpec);
        let changes: [(Change, &str); 8] = [
            (|s| s.vcpus = 0, "vcpus"),
            (|s| s.memory_bytes = -1, "memory_bytes"),
            (|s| s.scratch_bytes = 0, "scratch_bytes"),
            (|s| s.scratch_key.truncate(63), "scratch_key"),
            (|s| s.network = None, "network"),
            (|s| s.image.clear(), "image"),
            (|s| s.lease_id.clear(), "lease"),
            (|s| s.image_timeout_ms = 0, "image_timeout_ms"),
        ];
        for (change, name) in changes {
            let bad = convert(change).expect_err(name);
            assert!(bad.reason.contains(name), "{name}: {}", bad.reason);
            assert!(bad.instance.is_some(), "{name}");
        }
        assert!(convert(|s| s.instance_id = "inst_1".to_owned()).is_err());
        assert!(spec(proto::EnsureRunning { spec: None }).is_err());
    }
}
