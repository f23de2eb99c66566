//! Modes and limits that can be set.

use std::ffi::c_uint;

use nvml_wrapper_sys::bindings::nvmlDevice_t;

use crate::{
    call::{Call, Code, INVALID_ARGUMENT, NOT_SUPPORTED, export, put},
    state::Setting,
};

fn get(
    call: &Call,
    device: nvmlDevice_t,
    setting: Setting,
    target: *mut c_uint,
) -> Result<(), Code> {
    let value = call.gpu(device)?.setting(setting);
    // SAFETY: the caller of the exported function vouches for it.
    unsafe { put(target, c_uint::try_from(value).unwrap_or(c_uint::MAX)) }
}

fn set(call: &Call, device: nvmlDevice_t, setting: Setting, value: c_uint) -> Result<(), Code> {
    call.set(call.gpu(device)?, setting, i64::from(value))
}

fn set_power_limit(call: &Call, device: nvmlDevice_t, limit_mw: c_uint) -> Result<(), Code> {
    let board = call.gpu(device)?.board;
    if !(board.power_min_w * 1000..=board.power_limit_w * 1000).contains(&limit_mw) {
        return Err(INVALID_ARGUMENT);
    }
    set(call, device, Setting::PowerLimitMw, limit_mw)
}

fn set_clocks(
    call: &Call,
    device: nvmlDevice_t,
    memory: c_uint,
    graphics: c_uint,
) -> Result<(), Code> {
    let board = call.gpu(device)?.board;
    if memory != board.memory_mhz || !(board.sm_idle_mhz..=board.sm_max_mhz).contains(&graphics) {
        return Err(INVALID_ARGUMENT);
    }
    call.set(
        call.gpu(device)?,
        Setting::ApplicationClocks,
        i64::from(memory) * 100_000 + i64::from(graphics),
    )
}

export! {
    fn nvmlDeviceGetPersistenceMode(device: nvmlDevice_t, mode: *mut c_uint) =
        |call| get(call, device, Setting::Persistence, mode);
    fn nvmlDeviceSetPersistenceMode(device: nvmlDevice_t, mode: c_uint) =
        |call| set(call, device, Setting::Persistence, mode.min(1));
    fn nvmlDeviceGetComputeMode(device: nvmlDevice_t, mode: *mut c_uint) = |call| get(call, device, Setting::ComputeMode, mode);
    fn nvmlDeviceSetComputeMode(device: nvmlDevice_t, mode: c_uint) = |call| match mode {
        0 | 2 | 3 => set(call, device, Setting::ComputeMode, mode),
        1 => Err(NOT_SUPPORTED),
        _ => Err(INVALID_ARGUMENT),
    };
    fn nvmlDeviceGetMigMode(device: nvmlDevice_t, current: *mut c_uint, pending: *mut c_uint) = |call| {
        get(call, device, Setting::Mig, current)?;
        get(call, device, Setting::Mig, pending)
    };
    fn nvmlDeviceSetMigMode(device: nvmlDevice_t, mode: c_uint, status: *mut c_uint) = |call| {
        set(call, device, Setting::Mig, mode.min(1))?;
        put(status, 0)
    };
    fn nvmlDeviceSetPowerManagementLimit(device: nvmlDevice_t, limit: c_uint) = |call| set_power_limit(call, device, limit);
    fn nvmlDeviceSetGpuLockedClocks(device: nvmlDevice_t, _min: c_uint, max: c_uint) =
        |call| set(call, device, Setting::SmClockLockMhz, max);
    fn nvmlDeviceResetGpuLockedClocks(device: nvmlDevice_t) = |call| set(call, device, Setting::SmClockLockMhz, 0);
    fn nvmlDeviceSetMemoryLockedClocks(device: nvmlDevice_t, _min: c_uint, max: c_uint) =
        |call| set(call, device, Setting::MemoryClockLockMhz, max);
    fn nvmlDeviceResetMemoryLockedClocks(device: nvmlDevice_t) = |call| set(call, device, Setting::MemoryClockLockMhz, 0);
    fn nvmlDeviceSetApplicationsClocks(device: nvmlDevice_t, memory: c_uint, graphics: c_uint) =
        |call| set_clocks(call, device, memory, graphics);
    fn nvmlDeviceResetApplicationsClocks(device: nvmlDevice_t) = |call| set(call, device, Setting::ApplicationClocks, 0);
    fn nvmlDeviceGetAccountingMode(device: nvmlDevice_t, mode: *mut c_uint) = |call| get(call, device, Setting::Accounting, mode);
    fn nvmlDeviceSetAccountingMode(device: nvmlDevice_t, mode: c_uint) =
        |call| set(call, device, Setting::Accounting, mode.min(1));
    fn nvmlDeviceClearAccountingPids(device: nvmlDevice_t) = |call| call.gpu(device).map(|_| ());
}
