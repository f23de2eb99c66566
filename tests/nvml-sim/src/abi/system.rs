//! The library itself, versions, counting and finding GPUs.

use std::{
    ffi::{c_char, c_int, c_uint},
    sync::atomic::Ordering,
};

use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlReturn_t};

use crate::{
    call::{
        CODES, Code, DRIVER_NOT_LOADED, INITIALIZED, INVALID_ARGUMENT, NOT_FOUND, UNINITIALIZED,
        answer_always, export, handle, put, put_text, text_of,
    },
    host::Gpu,
};

fn init(function: &'static str) -> nvmlReturn_t {
    answer_always(function, |call| {
        if call.present().next().is_none() {
            return Err(DRIVER_NOT_LOADED);
        }
        INITIALIZED.fetch_add(1, Ordering::AcqRel);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit() -> nvmlReturn_t {
    init("nvmlInit")
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> nvmlReturn_t {
    init("nvmlInit_v2")
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInitWithFlags(_flags: c_uint) -> nvmlReturn_t {
    init("nvmlInitWithFlags")
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> nvmlReturn_t {
    let left = INITIALIZED.fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| {
        count.checked_sub(1)
    });
    if left.is_ok() { 0 } else { UNINITIALIZED }
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlErrorString(code: nvmlReturn_t) -> *const c_char {
    let known = CODES.iter().find(|(known, ..)| *known == code);
    known.map_or(c"Unknown Error", |(.., text)| *text).as_ptr()
}

/// Versions that the driver tells without being initialized.
macro_rules! export_always {
    ($(fn $name:ident($($argument:ident: $type:ty),*) = |$call:pat_param| $body:expr;)+) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> nvmlReturn_t {
            // SAFETY: pointers are the caller's to vouch for, as in NVML.
            answer_always(stringify!($name), |$call| unsafe { $body })
        }
    )+};
}

export_always! {
    fn nvmlSystemGetCudaDriverVersion(version: *mut c_int) = |call| put(version, call.cuda_version);
    fn nvmlSystemGetCudaDriverVersion_v2(version: *mut c_int) = |call| put(version, call.cuda_version);
    fn nvmlSystemGetNVMLVersion(version: *mut c_char, length: c_uint) = |call| {
        put_text(version, length, &format!("{}.{}", call.cuda_version / 1000, call.driver_version))
    };
}

/// The GPU that `test` finds, or "not found". One that is lost is found and then reported lost.
fn find(
    call: &crate::call::Call,
    device: *mut nvmlDevice_t,
    test: impl Fn(&Gpu) -> bool,
) -> Result<(), Code> {
    let found = call.present().find(|gpu| test(gpu)).ok_or(NOT_FOUND)?;
    let gpu = call.reachable(found)?;
    // SAFETY: the caller of the exported function vouches for it.
    unsafe { put(device, handle(gpu)) }
}

fn by_index(
    call: &crate::call::Call,
    index: c_uint,
    device: *mut nvmlDevice_t,
) -> Result<(), Code> {
    let found = find(call, device, |gpu| gpu.index == index);
    found.map_err(|code| {
        if code == NOT_FOUND {
            INVALID_ARGUMENT
        } else {
            code
        }
    })
}

fn by_bus_id(
    call: &crate::call::Call,
    wanted: &str,
    device: *mut nvmlDevice_t,
) -> Result<(), Code> {
    // `0000:1b:00.0` names the same as `00000000:1B:00.0`.
    let (_, wanted) = wanted.split_once(':').ok_or(INVALID_ARGUMENT)?;
    find(call, device, |gpu| {
        gpu.pci_bus_id()[9..].eq_ignore_ascii_case(wanted)
    })
}

fn count(call: &crate::call::Call) -> c_uint {
    call.present().fold(0, |count, _| count + 1)
}

export! {
    fn nvmlSystemGetDriverVersion(version: *mut c_char, length: c_uint) =
        |call| put_text(version, length, &call.driver_version);
    fn nvmlSystemGetProcessName(pid: c_uint, name: *mut c_char, length: c_uint) = |call| {
        let mut processes = call.slots.iter().flat_map(|gpu| &gpu.overrides.processes);
        let process = processes.find(|process| process.pid == pid).ok_or(NOT_FOUND)?;
        put_text(name, length, &process.name)
    };
    fn nvmlDeviceGetCount(target: *mut c_uint) = |call| put(target, count(call));
    fn nvmlDeviceGetCount_v2(target: *mut c_uint) = |call| put(target, count(call));
    fn nvmlUnitGetCount(target: *mut c_uint) = |_| put(target, 0);
    fn nvmlDeviceGetHandleByIndex(index: c_uint, device: *mut nvmlDevice_t) = |call| by_index(call, index, device);
    fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut nvmlDevice_t) = |call| by_index(call, index, device);
    fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, device: *mut nvmlDevice_t) = |call| {
        let uuid = text_of(uuid)?;
        find(call, device, |gpu| gpu.uuid == uuid)
    };
    fn nvmlDeviceGetHandleBySerial(serial: *const c_char, device: *mut nvmlDevice_t) = |call| {
        let serial = text_of(serial)?;
        find(call, device, |gpu| gpu.serial == serial)
    };
    fn nvmlDeviceGetHandleByPciBusId(id: *const c_char, device: *mut nvmlDevice_t) =
        |call| by_bus_id(call, text_of(id)?, device);
    fn nvmlDeviceGetHandleByPciBusId_v2(id: *const c_char, device: *mut nvmlDevice_t) =
        |call| by_bus_id(call, text_of(id)?, device);
}
