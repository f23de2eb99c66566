//! Memory and utilization.

use std::ffi::c_uint;

use nvml_wrapper_sys::bindings::{
    nvmlBAR1Memory_t, nvmlDevice_t, nvmlMemory_t, nvmlMemory_v2_t, nvmlUtilization_t,
};

use crate::{
    call::{ARGUMENT_VERSION_MISMATCH, INVALID_ARGUMENT, export, put},
    host::Gpu,
};

const MIB: u64 = 1024 * 1024;
/// Sample period that encoder and decoder report, in microseconds.
const PERIOD_US: c_uint = 167_000;
const MEMORY_V2: c_uint = size_of::<nvmlMemory_v2_t>() as c_uint | 2 << 24;

/// Version 1 counts what the driver keeps for itself as used, version 2 does not.
fn memory_v1(gpu: &Gpu) -> nvmlMemory_t {
    let total = gpu.memory_total_bytes();
    let used = (gpu.memory_used_bytes + gpu.memory_reserved_bytes()).min(total);
    nvmlMemory_t {
        total,
        free: total - used,
        used,
    }
}

fn memory_v2(gpu: &Gpu) -> nvmlMemory_v2_t {
    let total = gpu.memory_total_bytes();
    let reserved = gpu.memory_reserved_bytes();
    let used = gpu.memory_used_bytes.min(total - reserved);
    nvmlMemory_v2_t {
        version: MEMORY_V2,
        total,
        reserved,
        free: total - reserved - used,
        used,
    }
}

fn utilization(gpu: &Gpu) -> nvmlUtilization_t {
    let memory = gpu
        .overrides
        .memory_utilization
        .unwrap_or(gpu.utilization * 3 / 5);
    nvmlUtilization_t {
        gpu: gpu.utilization,
        memory,
    }
}

export! {
    fn nvmlDeviceGetMemoryInfo(device: nvmlDevice_t, memory: *mut nvmlMemory_t) =
        |call| put(memory, memory_v1(call.gpu(device)?));
    fn nvmlDeviceGetMemoryInfo_v2(device: nvmlDevice_t, memory: *mut nvmlMemory_v2_t) = |call| {
        let gpu = call.gpu(device)?;
        if memory.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        if (*memory).version != MEMORY_V2 {
            return Err(ARGUMENT_VERSION_MISMATCH);
        }
        put(memory, memory_v2(gpu))
    };
    fn nvmlDeviceGetBAR1MemoryInfo(device: nvmlDevice_t, memory: *mut nvmlBAR1Memory_t) = |call| {
        call.gpu(device)?;
        let (total, used) = (131_072 * MIB, MIB);
        put(memory, nvmlBAR1Memory_t { bar1Total: total, bar1Free: total - used, bar1Used: used })
    };
    fn nvmlDeviceGetUtilizationRates(device: nvmlDevice_t, rates: *mut nvmlUtilization_t) =
        |call| put(rates, utilization(call.gpu(device)?));
    fn nvmlDeviceGetEncoderUtilization(device: nvmlDevice_t, percent: *mut c_uint, period: *mut c_uint) = |call| {
        call.gpu(device)?;
        put(percent, 0)?;
        put(period, PERIOD_US)
    };
    fn nvmlDeviceGetDecoderUtilization(device: nvmlDevice_t, percent: *mut c_uint, period: *mut c_uint) = |call| {
        call.gpu(device)?;
        put(percent, 0)?;
        put(period, PERIOD_US)
    };
}
