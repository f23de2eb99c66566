//! Reads everything that the checks and the gate look at.

use nvml_wrapper::{
    Device,
    enum_wrappers::device::{
        EccCounter, MemoryError, MemoryLocation, TemperatureSensor, TemperatureThreshold,
    },
    enums::device::SampleValue,
    error::NvmlError,
    structs::device::FieldId,
};

use super::Library;
use crate::gpu::wire::GpuHealth;

/// `NVML_FI_DEV_MEMORY_TEMP`, `…_NVLINK_LINK_COUNT`, `…_REMAPPED_UNC`, `…_REMAPPED_PENDING`, `…_REMAPPED_FAILURE`,
/// `…_GET_GPU_RECOVERY_ACTION`: the crate does not name the last, nor wrap what the others answer.
const FIELDS: [FieldId; 6] = [
    FieldId(82),
    FieldId(91),
    FieldId(143),
    FieldId(144),
    FieldId(145),
    FieldId(230),
];

impl Library {
    /// Everything that the checks look at, of every GPU that was opened.
    pub(in crate::gpu) fn health(&self) -> Vec<GpuHealth> {
        let gpus = self.gpus.iter().zip(&self.hello.gpus);
        gpus.map(|(gpu, info)| {
            let mut health = examine(gpu);
            health.uuid.clone_from(&info.uuid);
            health
        })
        .collect()
    }
}

fn examine(gpu: &Device<'_>) -> GpuHealth {
    // The cheapest call that every GPU answers.
    match gpu.index() {
        Err(NvmlError::GpuLost) => {
            return GpuHealth {
                lost: true,
                ..GpuHealth::default()
            };
        }
        Err(NvmlError::ResetRequired) => {
            return GpuHealth {
                reset_required: true,
                ..GpuHealth::default()
            };
        }
        _ => {}
    }
    let mut health = GpuHealth::default();
    read_sensors(gpu, &mut health);
    read_memory_errors(gpu, &mut health);
    read_fields(gpu, &mut health);
    read_links(gpu, &mut health);
    read_settings(gpu, &mut health);
    health
}

fn read_sensors(gpu: &Device<'_>, health: &mut GpuHealth) {
    let threshold = |kind| gpu.temperature_threshold(kind).ok();
    let temperature = gpu.temperature(TemperatureSensor::Gpu);
    health.reset_required = matches!(temperature, Err(NvmlError::ResetRequired));
    health.lost = matches!(temperature, Err(NvmlError::GpuLost));
    health.temperature_celsius = temperature.ok();
    health.slowdown_celsius = threshold(TemperatureThreshold::Slowdown);
    health.shutdown_celsius = threshold(TemperatureThreshold::Shutdown);
    health.throttle_reasons = gpu.current_throttle_reasons().ok().map(|set| set.bits());
}

fn read_memory_errors(gpu: &Device<'_>, health: &mut GpuHealth) {
    if let Ok(mode) = gpu.is_ecc_enabled() {
        health.ecc_enabled = Some(mode.currently_enabled);
        health.ecc_pending = Some(mode.pending_enabled);
    }
    let volatile = |kind| gpu.total_ecc_errors(kind, EccCounter::Volatile).ok();
    health.ecc_corrected = volatile(MemoryError::Corrected);
    health.ecc_uncorrected = volatile(MemoryError::Uncorrected);
    let sram = gpu.memory_error_counter(
        MemoryError::Uncorrected,
        EccCounter::Volatile,
        MemoryLocation::SRAM,
    );
    health.sram_uncorrected = sram.ok();
}

fn read_fields(gpu: &Device<'_>, health: &mut GpuHealth) {
    let values = gpu.field_values_for(&FIELDS).unwrap_or_default();
    for value in values.into_iter().flatten() {
        let Ok(number) = value.value.as_ref().map(as_number) else {
            continue;
        };
        match value.field.0 {
            // Zero stands for a memory without a sensor.
            82 if number > 0 => health.memory_temperature_celsius = u32::try_from(number).ok(),
            91 => health.nvlinks = u32::try_from(number).ok(),
            143 => health.rows_uncorrected = Some(number),
            144 => health.rows_pending = Some(number != 0),
            145 => health.rows_failure = Some(number != 0),
            230 => health.recovery_action = Some(number),
            _ => {}
        }
    }
}

fn as_number(value: &SampleValue) -> u64 {
    match value {
        SampleValue::U32(number) => u64::from(*number),
        SampleValue::U64(number) => *number,
        SampleValue::I64(number) => u64::try_from(*number).unwrap_or(0),
        // No field of ours is one.
        SampleValue::F64(_) => 0,
    }
}

fn read_links(gpu: &Device<'_>, health: &mut GpuHealth) {
    health.pcie_generation = gpu.current_pcie_link_gen().ok();
    health.pcie_width = gpu.current_pcie_link_width().ok();
    health.pcie_width_max = gpu.max_pcie_link_width().ok();
    health.pcie_replays = gpu.pcie_replay_counter().ok();
    let Some(links) = health.nvlinks else {
        return;
    };
    let states: Result<Vec<bool>, _> = (0..links)
        .map(|link| gpu.link_wrapper_for(link).is_active())
        .collect();
    if let Ok(states) = states {
        let active = states.iter().filter(|active| **active).count();
        health.nvlinks_active = u32::try_from(active).ok();
    }
}

fn read_settings(gpu: &Device<'_>, health: &mut GpuHealth) {
    health.compute_mode = gpu.compute_mode().ok().map(|mode| format!("{mode:?}"));
    health.persistence = gpu.is_in_persistent_mode().ok();
    health.mig = gpu.mig_mode().ok().map(|mode| mode.current != 0);
    health.power_limit_milliwatts = gpu.power_management_limit().ok();
    health.power_default_milliwatts = gpu.power_management_limit_default().ok();
    // Graphics processes are the host's own: a lease has none that does not also compute.
    let processes = gpu.running_compute_processes().ok();
    health.processes = processes.map(|list| list.into_iter().map(|one| one.pid).collect());
}
