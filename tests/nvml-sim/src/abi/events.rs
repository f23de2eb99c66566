//! Event sets: Xids that appear in the scenario after the set was made.

use std::{
    ffi::{c_uint, c_ulonglong},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlEventData_t, nvmlEventSet_t, nvmlReturn_t};

use crate::{
    call::{
        Call, Code, HANDLE_BASE, INVALID_ARGUMENT, TIMEOUT, UNINITIALIZED, answer, export, put,
    },
    host::Host,
    live,
};

const EVENT_XID: c_ulonglong = 8;
/// Single-bit ECC, double-bit ECC, performance state, Xid, clock.
const SUPPORTED: c_ulonglong = 0x1f;
/// How often a waiting call looks at the scenario.
const POLL: Duration = Duration::from_millis(10);

/// An event set. Its handle is its number from 1.
#[derive(Debug, Default)]
struct Set {
    /// Slots whose Xids it takes.
    slots: Vec<u32>,
    /// How many of the scenario's Xids it has seen.
    seen: usize,
}

static SETS: Mutex<Vec<Option<Set>>> = Mutex::new(Vec::new());

fn with<T>(handle: nvmlEventSet_t, use_set: impl FnOnce(&mut Set) -> T) -> Result<T, Code> {
    let mut sets = SETS.lock().unwrap_or_else(PoisonError::into_inner);
    let number = (handle as usize).checked_sub(1).ok_or(INVALID_ARGUMENT)?;
    let set = sets
        .get_mut(number)
        .and_then(Option::as_mut)
        .ok_or(INVALID_ARGUMENT)?;
    Ok(use_set(set))
}

fn create(call: &Call) -> nvmlEventSet_t {
    let mut sets = SETS.lock().unwrap_or_else(PoisonError::into_inner);
    sets.push(Some(Set {
        slots: Vec::new(),
        seen: call.xids.len(),
    }));
    sets.len() as nvmlEventSet_t
}

fn free(handle: nvmlEventSet_t) -> Result<(), Code> {
    let mut sets = SETS.lock().unwrap_or_else(PoisonError::into_inner);
    let number = (handle as usize).checked_sub(1).ok_or(INVALID_ARGUMENT)?;
    let set = sets.get_mut(number).ok_or(INVALID_ARGUMENT)?;
    set.take().map(|_| ()).ok_or(INVALID_ARGUMENT)
}

/// The next Xid of a registered GPU. A list that became shorter was started anew.
fn next(set: &mut Set, host: &Host) -> Option<nvmlEventData_t> {
    if host.xids.len() < set.seen {
        set.seen = 0;
    }
    while let Some((slot, code)) = host.xids.get(set.seen) {
        set.seen += 1;
        if set.slots.contains(slot) {
            return Some(nvmlEventData_t {
                device: (HANDLE_BASE + *slot as usize) as nvmlDevice_t,
                eventType: EVENT_XID,
                eventData: *code,
                gpuInstanceId: c_uint::MAX,
                computeInstanceId: c_uint::MAX,
            });
        }
    }
    None
}

unsafe fn wait(
    handle: nvmlEventSet_t,
    data: *mut nvmlEventData_t,
    timeout_ms: c_uint,
) -> Result<(), Code> {
    let deadline = Instant::now() + Duration::from_millis(u64::from(timeout_ms));
    loop {
        let host = live::current().ok_or(UNINITIALIZED)?;
        if let Some(event) = with(handle, |set| next(set, &host))? {
            // SAFETY: the caller of the exported function vouches for it.
            return unsafe { put(data, event) };
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(TIMEOUT);
        }
        std::thread::sleep(left.min(POLL));
    }
}

export! {
    fn nvmlEventSetCreate(set: *mut nvmlEventSet_t) = |call| put(set, create(call));
    fn nvmlEventSetFree(set: nvmlEventSet_t) = |_| free(set);
    fn nvmlDeviceGetSupportedEventTypes(device: nvmlDevice_t, types: *mut c_ulonglong) = |call| {
        call.gpu(device)?;
        put(types, SUPPORTED)
    };
    fn nvmlDeviceRegisterEvents(device: nvmlDevice_t, types: c_ulonglong, set: nvmlEventSet_t) = |call| {
        let slot = call.gpu(device)?.slot;
        if types & !SUPPORTED != 0 {
            return Err(crate::call::NOT_SUPPORTED);
        }
        with(set, |set| if types & EVENT_XID != 0 && !set.slots.contains(&slot) { set.slots.push(slot) })
    };
    fn nvmlEventSetWait_v2(set: nvmlEventSet_t, data: *mut nvmlEventData_t, timeout_ms: c_uint) =
        |_| wait(set, data, timeout_ms);
}

/// The first version, whose data has no MIG instances: its structure is the beginning of the second's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetWait(
    set: nvmlEventSet_t,
    data: *mut EventDataV1,
    timeout_ms: c_uint,
) -> nvmlReturn_t {
    answer("nvmlEventSetWait", |_| {
        let mut full = std::mem::MaybeUninit::<nvmlEventData_t>::uninit();
        // SAFETY: `full` is written when the wait succeeds; `data` is the caller's to vouch for.
        unsafe {
            wait(set, full.as_mut_ptr(), timeout_ms)?;
            let full = full.assume_init();
            put(
                data,
                EventDataV1 {
                    device: full.device,
                    kind: full.eventType,
                    data: full.eventData,
                },
            )
        }
    })
}

/// `nvmlEventData_t` of NVML before MIG.
#[repr(C)]
pub struct EventDataV1 {
    device: nvmlDevice_t,
    kind: c_ulonglong,
    data: c_ulonglong,
}
