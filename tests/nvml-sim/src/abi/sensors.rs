//! Temperature, power, clocks and what throttles them.

use std::ffi::{c_int, c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlMarginTemperature_v1_t, nvmlTemperature_v1_t};

use crate::{
    call::{ARGUMENT_VERSION_MISMATCH, Code, INVALID_ARGUMENT, NOT_SUPPORTED, export, put},
    host::Gpu,
    state::Setting,
};

const SENSOR_GPU: c_uint = 0;
const TEMPERATURE_V1: c_uint = size_of::<nvmlTemperature_v1_t>() as c_uint | 1 << 24;
const MARGIN_V1: c_uint = size_of::<nvmlMarginTemperature_v1_t>() as c_uint | 1 << 24;
const THROTTLE_IDLE: c_ulonglong = 1;
/// All reasons that NVML 12 knows.
const THROTTLE_SUPPORTED: c_ulonglong = 0x1ff;
const THROTTLE_SW_POWER_CAP: c_ulonglong = 4;
const POWER_MANAGEMENT_ENABLED: c_uint = 1;

fn clock(gpu: &Gpu, kind: c_uint) -> Result<c_uint, Code> {
    match kind {
        // Graphics and SM run at one clock; the video clock follows at about 4/5.
        0 | 1 => Ok(gpu.sm_clock_mhz()),
        2 => Ok(gpu.memory_clock_mhz()),
        3 => Ok(gpu.sm_clock_mhz() * 4 / 5),
        _ => Err(INVALID_ARGUMENT),
    }
}

fn max_clock(gpu: &Gpu, kind: c_uint) -> Result<c_uint, Code> {
    match kind {
        0 | 1 => Ok(gpu.board.sm_max_mhz),
        2 => Ok(gpu.board.memory_mhz),
        3 => Ok(gpu.board.sm_max_mhz * 4 / 5),
        _ => Err(INVALID_ARGUMENT),
    }
}

fn application_clock(gpu: &Gpu, kind: c_uint) -> Result<c_uint, Code> {
    let set = c_uint::try_from(gpu.setting(Setting::ApplicationClocks)).unwrap_or(0);
    match (set, kind) {
        (0, _) => max_clock(gpu, kind),
        (_, 0 | 1) => Ok(set % 100_000),
        (_, 2) => Ok(set / 100_000),
        _ => Err(INVALID_ARGUMENT),
    }
}

fn threshold(gpu: &Gpu, kind: c_uint) -> Result<c_uint, Code> {
    match kind {
        0 => Ok(gpu.board.shutdown_celsius),
        1 => Ok(gpu.board.slowdown_celsius),
        2 | 3 => Ok(gpu.board.slowdown_celsius - 2),
        _ => Err(NOT_SUPPORTED),
    }
}

fn throttle_reasons(gpu: &Gpu) -> c_ulonglong {
    let limit = i64::from(gpu.power_mw) >= gpu.setting(Setting::PowerLimitMw);
    let natural = match (gpu.busy(), limit) {
        (false, _) => THROTTLE_IDLE,
        (true, true) => THROTTLE_SW_POWER_CAP,
        (true, false) => 0,
    };
    gpu.overrides.throttle_reasons.unwrap_or(natural)
}

fn power_limit(gpu: &Gpu) -> c_uint {
    c_uint::try_from(gpu.setting(Setting::PowerLimitMw)).unwrap_or(c_uint::MAX)
}

export! {
    fn nvmlDeviceGetTemperature(device: nvmlDevice_t, sensor: c_uint, celsius: *mut c_uint) = |call| {
        let gpu = call.gpu(device)?;
        if sensor != SENSOR_GPU {
            return Err(INVALID_ARGUMENT);
        }
        put(celsius, gpu.temperature)
    };
    fn nvmlDeviceGetTemperatureV(device: nvmlDevice_t, temperature: *mut nvmlTemperature_v1_t) = |call| {
        let gpu = call.gpu(device)?;
        if temperature.is_null() || (*temperature).sensorType != SENSOR_GPU {
            return Err(INVALID_ARGUMENT);
        }
        if (*temperature).version != TEMPERATURE_V1 {
            return Err(ARGUMENT_VERSION_MISMATCH);
        }
        (*temperature).temperature = gpu.temperature as c_int;
        Ok(())
    };
    fn nvmlDeviceGetMarginTemperature(device: nvmlDevice_t, margin: *mut nvmlMarginTemperature_v1_t) = |call| {
        let gpu = call.gpu(device)?;
        if margin.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        if (*margin).version != MARGIN_V1 {
            return Err(ARGUMENT_VERSION_MISMATCH);
        }
        (*margin).marginTemperature = gpu.board.slowdown_celsius as c_int - gpu.temperature as c_int;
        Ok(())
    };
    fn nvmlDeviceGetTemperatureThreshold(device: nvmlDevice_t, kind: c_uint, celsius: *mut c_uint) =
        |call| put(celsius, threshold(call.gpu(device)?, kind)?);
    fn nvmlDeviceGetPowerUsage(device: nvmlDevice_t, power: *mut c_uint) = |call| put(power, call.gpu(device)?.power_mw);
    fn nvmlDeviceGetPowerManagementMode(device: nvmlDevice_t, mode: *mut c_uint) = |call| {
        call.gpu(device)?;
        put(mode, POWER_MANAGEMENT_ENABLED)
    };
    fn nvmlDeviceGetPowerManagementLimit(device: nvmlDevice_t, limit: *mut c_uint) =
        |call| put(limit, power_limit(call.gpu(device)?));
    fn nvmlDeviceGetEnforcedPowerLimit(device: nvmlDevice_t, limit: *mut c_uint) =
        |call| put(limit, power_limit(call.gpu(device)?));
    fn nvmlDeviceGetPowerManagementDefaultLimit(device: nvmlDevice_t, limit: *mut c_uint) =
        |call| put(limit, call.gpu(device)?.board.power_limit_w * 1000);
    fn nvmlDeviceGetPowerManagementLimitConstraints(device: nvmlDevice_t, min: *mut c_uint, max: *mut c_uint) = |call| {
        let board = call.gpu(device)?.board;
        put(min, board.power_min_w * 1000)?;
        put(max, board.power_limit_w * 1000)
    };
    fn nvmlDeviceGetTotalEnergyConsumption(device: nvmlDevice_t, energy: *mut c_ulonglong) = |call| {
        let gpu = call.gpu(device)?;
        // Millijoules since the machine booted, at the present draw.
        let up = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
        let seconds: f64 = up.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0.0);
        put(energy, (seconds * f64::from(gpu.power_mw)) as c_ulonglong)
    };
    fn nvmlDeviceGetClockInfo(device: nvmlDevice_t, kind: c_uint, mhz: *mut c_uint) =
        |call| put(mhz, clock(call.gpu(device)?, kind)?);
    fn nvmlDeviceGetMaxClockInfo(device: nvmlDevice_t, kind: c_uint, mhz: *mut c_uint) =
        |call| put(mhz, max_clock(call.gpu(device)?, kind)?);
    fn nvmlDeviceGetClock(device: nvmlDevice_t, kind: c_uint, _id: c_uint, mhz: *mut c_uint) =
        |call| put(mhz, clock(call.gpu(device)?, kind)?);
    fn nvmlDeviceGetMaxCustomerBoostClock(device: nvmlDevice_t, kind: c_uint, mhz: *mut c_uint) =
        |call| put(mhz, max_clock(call.gpu(device)?, kind)?);
    fn nvmlDeviceGetApplicationsClock(device: nvmlDevice_t, kind: c_uint, mhz: *mut c_uint) =
        |call| put(mhz, application_clock(call.gpu(device)?, kind)?);
    fn nvmlDeviceGetDefaultApplicationsClock(device: nvmlDevice_t, kind: c_uint, mhz: *mut c_uint) =
        |call| put(mhz, max_clock(call.gpu(device)?, kind)?);
    fn nvmlDeviceGetPerformanceState(device: nvmlDevice_t, state: *mut c_uint) = |call| {
        call.gpu(device)?;
        // Data centre boards stay in P0.
        put(state, 0)
    };
    fn nvmlDeviceGetPowerState(device: nvmlDevice_t, state: *mut c_uint) = |call| {
        call.gpu(device)?;
        put(state, 0)
    };
    fn nvmlDeviceGetCurrentClocksThrottleReasons(device: nvmlDevice_t, reasons: *mut c_ulonglong) =
        |call| put(reasons, throttle_reasons(call.gpu(device)?));
    fn nvmlDeviceGetCurrentClocksEventReasons(device: nvmlDevice_t, reasons: *mut c_ulonglong) =
        |call| put(reasons, throttle_reasons(call.gpu(device)?));
    fn nvmlDeviceGetSupportedClocksThrottleReasons(device: nvmlDevice_t, reasons: *mut c_ulonglong) = |call| {
        call.gpu(device)?;
        put(reasons, THROTTLE_SUPPORTED)
    };
    fn nvmlDeviceGetSupportedClocksEventReasons(device: nvmlDevice_t, reasons: *mut c_ulonglong) = |call| {
        call.gpu(device)?;
        put(reasons, THROTTLE_SUPPORTED)
    };
}
