//! A GPU that is too hot, or that its hardware slows down.

use super::{Prevents, Snapshot, each, finding};
use crate::{gpu::wire::GpuHealth, model::HealthFinding};

/// `nvmlClocksThrottleReasonHwSlowdown`, `…HwThermalSlowdown`, `…HwPowerBrakeSlowdown` of nvml.h. The others are the ordinary ways of
/// staying within power and temperature.
const REASONS: [(u64, &str); 3] = [
    (0x08, "hardware slowdown"),
    (0x40, "hardware thermal slowdown"),
    (0x80, "power brake"),
];

/// Of the HBM, where the board has a sensor: VESSL's critical limit.
const MEMORY_CRITICAL_CELSIUS: u32 = 95;

pub(super) fn check(snapshot: &Snapshot) -> Vec<HealthFinding> {
    let hot = each(snapshot, |gpu| {
        let detail = too_hot(gpu)?;
        Some(finding(
            &gpu.uuid,
            "temperature",
            Prevents::Allocation,
            detail,
        ))
    });
    let slow = each(snapshot, |gpu| {
        let set = gpu.throttle_reasons?;
        let reasons = REASONS.iter().filter(|(bit, _)| set & bit != 0);
        let reasons: Vec<&str> = reasons.map(|(_, name)| *name).collect();
        let detail = format!("its clocks are held down: {}", reasons.join(", "));
        let found = finding(&gpu.uuid, "hardware_slowdown", Prevents::Allocation, detail);
        (!reasons.is_empty()).then_some(found)
    });
    [hot, slow].concat()
}

fn too_hot(gpu: &GpuHealth) -> Option<String> {
    // Zero is what boards without such a threshold answer.
    if let (Some(now), Some(limit @ 1..)) = (gpu.temperature_celsius, gpu.slowdown_celsius)
        && now >= limit
    {
        return Some(format!(
            "{now} °C; the hardware slows down from {limit} °C: look at the cooling"
        ));
    }
    let memory = gpu.memory_temperature_celsius?;
    (memory >= MEMORY_CRITICAL_CELSIUS).then(|| {
        format!("the memory has {memory} °C; {MEMORY_CRITICAL_CELSIUS} °C is critical: look at the cooling")
    })
}
