//! Between protobuf and the types of telemetry.

use chrono::{DateTime, Utc};
use freehold_proto::{agent_v1, id::HostId, time::micros_from_timestamp, v1};
use prost_types::Timestamp;

use super::model::{Batch, Event, GpuSample, Rollup, Sample, Shown};
use crate::page::timestamp;

/// More GPUs than any machine has.
const MAX_GPUS: usize = 64;

/// Texts that agents send are cut to this many characters.
const MAX_TEXT: usize = 500;

/// A message of an agent. What has no time or no GPU is left out: there is nobody to tell.
pub(crate) fn batch(batch: &agent_v1::TelemetryBatch) -> Batch {
    let at = instant(batch.sample_time.as_ref());
    let sample = at.filter(|_| !batch.gpus.is_empty()).map(|at| Sample {
        at,
        gpus: batch.gpus.iter().take(MAX_GPUS).map(sample_of).collect(),
    });
    Batch {
        sample,
        rollups: batch.rollups.iter().filter_map(rollup_of).collect(),
        events: batch.events.iter().filter_map(event_of).collect(),
    }
}

fn instant(time: Option<&Timestamp>) -> Option<DateTime<Utc>> {
    time.and_then(micros_from_timestamp)
        .and_then(DateTime::from_timestamp_micros)
}

/// PostgreSQL takes no NUL in texts.
fn cut(text: &str) -> String {
    text.chars().filter(|c| *c != '\0').take(MAX_TEXT).collect()
}

fn sample_of(gpu: &v1::GpuTelemetry) -> GpuSample {
    GpuSample {
        uuid: cut(&gpu.uuid),
        index: gpu.index,
        utilization_percent: gpu.utilization_percent,
        memory_used_bytes: gpu.memory_used_bytes,
        memory_total_bytes: gpu.memory_total_bytes,
        temperature_celsius: gpu.temperature_celsius,
        power_milliwatts: gpu.power_milliwatts,
        sm_clock_mhz: gpu.sm_clock_mhz,
        memory_clock_mhz: gpu.memory_clock_mhz,
        ecc_corrected: gpu.ecc_corrected,
        ecc_uncorrected: gpu.ecc_uncorrected,
        last_xid: gpu.last_xid,
        last_xid_at: instant(gpu.last_xid_time.as_ref()),
    }
}

fn rollup_of(rollup: &v1::GpuRollup) -> Option<Rollup> {
    let at = instant(rollup.time.as_ref())?;
    let minute = DateTime::from_timestamp(at.timestamp().div_euclid(60) * 60, 0)?;
    Some(Rollup {
        gpu_uuid: cut(&rollup.uuid),
        minute,
        samples: rollup.samples.max(0),
        utilization_percent_mean: finite(rollup.utilization_percent_mean),
        utilization_percent_max: rollup.utilization_percent_max,
        memory_used_bytes_max: rollup.memory_used_bytes_max,
        temperature_celsius_max: rollup.temperature_celsius_max,
        power_milliwatts_mean: finite(rollup.power_milliwatts_mean),
    })
}

fn finite(value: Option<f64>) -> Option<f64> {
    value.filter(|value| value.is_finite())
}

fn event_of(event: &v1::GpuEvent) -> Option<Event> {
    Some(Event {
        gpu_uuid: cut(&event.gpu_uuid),
        at: instant(event.time.as_ref())?,
        kind: cut(&event.kind),
        xid: event.xid,
        detail: cut(&event.detail),
    })
}

pub(super) fn shown(host: HostId, shown: Shown) -> v1::HostTelemetry {
    let at = shown.sample.as_ref().map(|sample| timestamp(sample.at));
    let gpus = shown.sample.into_iter().flat_map(|sample| sample.gpus);
    v1::HostTelemetry {
        host_id: host.to_string(),
        sample_time: at,
        gpus: gpus.map(gpu).collect(),
        rollups: shown.rollups.into_iter().map(rollup).collect(),
        events: shown.events.into_iter().map(event).collect(),
    }
}

fn gpu(gpu: GpuSample) -> v1::GpuTelemetry {
    v1::GpuTelemetry {
        uuid: gpu.uuid,
        index: gpu.index,
        utilization_percent: gpu.utilization_percent,
        memory_used_bytes: gpu.memory_used_bytes,
        memory_total_bytes: gpu.memory_total_bytes,
        temperature_celsius: gpu.temperature_celsius,
        power_milliwatts: gpu.power_milliwatts,
        sm_clock_mhz: gpu.sm_clock_mhz,
        memory_clock_mhz: gpu.memory_clock_mhz,
        ecc_corrected: gpu.ecc_corrected,
        ecc_uncorrected: gpu.ecc_uncorrected,
        last_xid: gpu.last_xid,
        last_xid_time: gpu.last_xid_at.map(timestamp),
    }
}

fn rollup(rollup: Rollup) -> v1::GpuRollup {
    v1::GpuRollup {
        uuid: rollup.gpu_uuid,
        time: Some(timestamp(rollup.minute)),
        samples: rollup.samples,
        utilization_percent_mean: rollup.utilization_percent_mean,
        utilization_percent_max: rollup.utilization_percent_max,
        memory_used_bytes_max: rollup.memory_used_bytes_max,
        temperature_celsius_max: rollup.temperature_celsius_max,
        power_milliwatts_mean: rollup.power_milliwatts_mean,
    }
}

fn event(event: Event) -> v1::GpuEvent {
    v1::GpuEvent {
        time: Some(timestamp(event.at)),
        gpu_uuid: event.gpu_uuid,
        kind: event.kind,
        xid: event.xid,
        detail: event.detail,
    }
}
