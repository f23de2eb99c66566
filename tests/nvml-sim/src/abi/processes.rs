//! Processes on a GPU.

use std::ffi::c_uint;

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlProcessInfo_v1_t, nvmlProcessInfo_v2_t, nvmlProcessUtilizationSample_t,
};

use crate::{
    call::{Call, Code, INSUFFICIENT_SIZE, INVALID_ARGUMENT, NOT_FOUND, export, put},
    host::Gpu,
    scenario::Process,
};

const MIB: u64 = 1024 * 1024;
/// No MIG instance.
const NO_INSTANCE: c_uint = c_uint::MAX;

fn info_v1(process: &Process) -> nvmlProcessInfo_v1_t {
    nvmlProcessInfo_v1_t {
        pid: process.pid,
        usedGpuMemory: process.memory_mib * MIB,
    }
}

fn info_v2(process: &Process) -> nvmlProcessInfo_v2_t {
    nvmlProcessInfo_v2_t {
        pid: process.pid,
        usedGpuMemory: process.memory_mib * MIB,
        gpuInstanceId: NO_INSTANCE,
        computeInstanceId: NO_INSTANCE,
    }
}

/// Fills `infos` as NVML does: `count` holds the room before and the number after; too little room says how much is needed.
unsafe fn list<T>(
    gpu: &Gpu,
    graphics: bool,
    (count, infos): (*mut c_uint, *mut T),
    info: impl Fn(&Process) -> T,
) -> Result<(), Code> {
    if count.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    let found: Vec<T> = gpu.processes(graphics).map(info).collect();
    // SAFETY: the caller of the exported function vouches for both pointers and for the room.
    unsafe {
        let room = *count as usize;
        *count = found.len() as c_uint;
        if room < found.len() || (infos.is_null() && !found.is_empty()) {
            return Err(INSUFFICIENT_SIZE);
        }
        for (at, info) in found.into_iter().enumerate() {
            put(infos.add(at), info)?;
        }
    }
    Ok(())
}

fn none(call: &Call, device: nvmlDevice_t, count: *mut c_uint) -> Result<(), Code> {
    call.gpu(device)?;
    // SAFETY: the caller of the exported function vouches for it.
    unsafe { put(count, 0) }
}

export! {
    fn nvmlDeviceGetComputeRunningProcesses(device: nvmlDevice_t, count: *mut c_uint, infos: *mut nvmlProcessInfo_v1_t) =
        |call| list(call.gpu(device)?, false, (count, infos), info_v1);
    fn nvmlDeviceGetComputeRunningProcesses_v2(device: nvmlDevice_t, count: *mut c_uint, infos: *mut nvmlProcessInfo_v2_t) =
        |call| list(call.gpu(device)?, false, (count, infos), info_v2);
    fn nvmlDeviceGetComputeRunningProcesses_v3(device: nvmlDevice_t, count: *mut c_uint, infos: *mut nvmlProcessInfo_v2_t) =
        |call| list(call.gpu(device)?, false, (count, infos), info_v2);
    fn nvmlDeviceGetGraphicsRunningProcesses(device: nvmlDevice_t, count: *mut c_uint, infos: *mut nvmlProcessInfo_v1_t) =
        |call| list(call.gpu(device)?, true, (count, infos), info_v1);
    fn nvmlDeviceGetGraphicsRunningProcesses_v2(device: nvmlDevice_t, count: *mut c_uint, infos: *mut nvmlProcessInfo_v2_t) =
        |call| list(call.gpu(device)?, true, (count, infos), info_v2);
    fn nvmlDeviceGetGraphicsRunningProcesses_v3(device: nvmlDevice_t, count: *mut c_uint, infos: *mut nvmlProcessInfo_v2_t) =
        |call| list(call.gpu(device)?, true, (count, infos), info_v2);
    fn nvmlDeviceGetMPSComputeRunningProcesses_v2(device: nvmlDevice_t, count: *mut c_uint, _infos: *mut nvmlProcessInfo_v2_t) =
        |call| none(call, device, count);
    fn nvmlDeviceGetMPSComputeRunningProcesses_v3(device: nvmlDevice_t, count: *mut c_uint, _infos: *mut nvmlProcessInfo_v2_t) =
        |call| none(call, device, count);
    fn nvmlDeviceGetProcessUtilization(
        device: nvmlDevice_t, _samples: *mut nvmlProcessUtilizationSample_t, count: *mut c_uint, _since: u64,
    ) = |call| {
        none(call, device, count)?;
        Err(NOT_FOUND)
    };
}
