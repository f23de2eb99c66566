//! What every exported function has in common: initialized or not, hanging, failing, and the ways to hand a value to C.

use std::{
    ffi::{c_char, c_uint},
    ops::Deref,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlReturn_t};

use crate::{
    host::{Gpu, Host},
    live,
    state::Setting,
};

/// A code of NVML other than success.
pub(crate) type Code = nvmlReturn_t;

pub(crate) const UNINITIALIZED: Code = 1;
pub(crate) const INVALID_ARGUMENT: Code = 2;
pub(crate) const NOT_SUPPORTED: Code = 3;
pub(crate) const NO_PERMISSION: Code = 4;
pub(crate) const NOT_FOUND: Code = 6;
pub(crate) const INSUFFICIENT_SIZE: Code = 7;
pub(crate) const DRIVER_NOT_LOADED: Code = 9;
pub(crate) const TIMEOUT: Code = 10;
pub(crate) const GPU_IS_LOST: Code = 15;
pub(crate) const ARGUMENT_VERSION_MISMATCH: Code = 25;
const UNKNOWN: Code = 999;
/// Not NVML's: the call does not return for now.
const HANG: Code = Code::MAX;

/// How often a hanging call looks whether it still has to.
const HANG_POLL: Duration = Duration::from_millis(20);

/// Names as scenarios write them, with the text of `nvmlErrorString`.
pub(crate) const CODES: [(Code, &str, &std::ffi::CStr); 30] = [
    (0, "success", c"Success"),
    (1, "uninitialized", c"Uninitialized"),
    (2, "invalid_argument", c"Invalid Argument"),
    (3, "not_supported", c"Not Supported"),
    (4, "no_permission", c"Insufficient Permissions"),
    (5, "already_initialized", c"Already Initialized"),
    (6, "not_found", c"Not Found"),
    (7, "insufficient_size", c"Insufficient Size"),
    (8, "insufficient_power", c"Insufficient External Power"),
    (9, "driver_not_loaded", c"Driver Not Loaded"),
    (10, "timeout", c"Timeout"),
    (11, "irq_issue", c"Interrupt Request Issue"),
    (12, "library_not_found", c"NVML Shared Library Not Found"),
    (13, "function_not_found", c"Function Not Found"),
    (14, "corrupted_inforom", c"Corrupted infoROM"),
    (15, "gpu_is_lost", c"GPU is lost"),
    (16, "reset_required", c"GPU requires reset"),
    (
        17,
        "operating_system",
        c"GPU access blocked by the operating system",
    ),
    (
        18,
        "lib_rm_version_mismatch",
        c"Driver/library version mismatch",
    ),
    (19, "in_use", c"In use by another client"),
    (20, "memory", c"Insufficient Memory"),
    (21, "no_data", c"No data"),
    (
        22,
        "vgpu_ecc_not_supported",
        c"The requested vgpu operation is not available on target device, becasue ECC is enabled",
    ),
    (23, "insufficient_resources", c"Insufficient Resources"),
    (
        24,
        "freq_not_supported",
        c"Requested frequency is not supported",
    ),
    (
        25,
        "argument_version_mismatch",
        c"Argument version mismatch",
    ),
    (
        26,
        "deprecated",
        c"The requested functionality has been deprecated",
    ),
    (27, "not_ready", c"System is not ready for the request"),
    (28, "gpu_not_found", c"No GPUs found"),
    (999, "unknown", c"Unknown Error"),
];

pub(crate) fn code_named(name: &str) -> Option<Code> {
    CODES
        .iter()
        .find(|(_, known, _)| *known == name)
        .map(|(code, ..)| *code)
}

/// How often the library was initialized more than shut down.
pub(crate) static INITIALIZED: AtomicU32 = AtomicU32::new(0);

/// One call: the host as it is now and the function's name.
pub(crate) struct Call {
    host: Arc<Host>,
    function: &'static str,
}

impl Deref for Call {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

impl Call {
    /// The GPU behind a handle.
    pub(crate) fn gpu(&self, device: nvmlDevice_t) -> Result<&Gpu, Code> {
        let slot = (device as usize)
            .checked_sub(HANDLE_BASE)
            .ok_or(INVALID_ARGUMENT)?;
        let gpu = self.host.slots.get(slot).ok_or(INVALID_ARGUMENT)?;
        self.reachable(gpu)
    }

    /// The GPU itself, unless it is lost or hangs.
    pub(crate) fn reachable<'a>(&self, gpu: &'a Gpu) -> Result<&'a Gpu, Code> {
        if gpu.overrides.hang.iter().any(|name| name == self.function) {
            return Err(HANG);
        }
        if gpu.overrides.lost || gpu.overrides.absent {
            return Err(GPU_IS_LOST);
        }
        Ok(gpu)
    }

    /// Sets something of a GPU.
    pub(crate) fn set(&self, gpu: &Gpu, setting: Setting, value: i64) -> Result<(), Code> {
        live::set(&gpu.uuid, setting, gpu.base[setting as usize], value).map_err(|_| NO_PERMISSION)
    }
}

pub(crate) const HANDLE_BASE: usize = 0x1000;

/// The handle of a GPU.
pub(crate) fn handle(gpu: &Gpu) -> nvmlDevice_t {
    (HANDLE_BASE + gpu.slot as usize) as nvmlDevice_t
}

/// Runs a function that needs an initialized library.
pub(crate) fn answer(
    function: &'static str,
    body: impl Fn(&Call) -> Result<(), Code>,
) -> nvmlReturn_t {
    if INITIALIZED.load(Ordering::Acquire) == 0 {
        return UNINITIALIZED;
    }
    answer_always(function, body)
}

/// Runs a function whether the library was initialized or not.
pub(crate) fn answer_always(
    function: &'static str,
    body: impl Fn(&Call) -> Result<(), Code>,
) -> nvmlReturn_t {
    loop {
        let Some(host) = live::current() else {
            return DRIVER_NOT_LOADED;
        };
        let call = Call { host, function };
        // A panic must not cross the C ABI: it would end the caller's process.
        let code = catch_unwind(AssertUnwindSafe(|| run(&call, &body))).unwrap_or(UNKNOWN);
        if code != HANG {
            return code;
        }
        std::thread::sleep(HANG_POLL);
    }
}

fn run(call: &Call, body: &impl Fn(&Call) -> Result<(), Code>) -> Code {
    if call.hang.iter().any(|name| name == call.function) {
        return HANG;
    }
    if let Some(code) = call.errors.get(call.function) {
        return *code;
    }
    body(call).err().unwrap_or(0)
}

/// Stores a result.
///
/// # Safety
/// `target` is null or valid for a write.
pub(crate) unsafe fn put<T>(target: *mut T, value: T) -> Result<(), Code> {
    if target.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: valid by contract; C may have passed an unaligned one.
    unsafe { target.write_unaligned(value) };
    Ok(())
}

/// Stores a text with its final zero.
///
/// # Safety
/// `target` is null or valid for `length` bytes.
pub(crate) unsafe fn put_text(target: *mut c_char, length: c_uint, text: &str) -> Result<(), Code> {
    if target.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    if text.len() >= length as usize {
        return Err(INSUFFICIENT_SIZE);
    }
    // SAFETY: text and zero fit into `length` bytes.
    unsafe {
        target.copy_from_nonoverlapping(text.as_ptr().cast(), text.len());
        target.add(text.len()).write(0);
    }
    Ok(())
}

/// A text as an array of C, cut when too long.
pub(crate) fn text_array<const N: usize>(text: &str) -> [c_char; N] {
    let mut array = [0; N];
    for (to, from) in array.iter_mut().take(N - 1).zip(text.bytes()) {
        *to = from as c_char;
    }
    array
}

/// The text behind a pointer of C.
///
/// # Safety
/// `text` is null or ends with a zero.
pub(crate) unsafe fn text_of<'a>(text: *const c_char) -> Result<&'a str, Code> {
    if text.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: ends with a zero by contract.
    unsafe { std::ffi::CStr::from_ptr(text) }
        .to_str()
        .map_err(|_| INVALID_ARGUMENT)
}

/// Defines functions of NVML: `fn name(arguments) = |call| body;`. The body may dereference what the caller passed; it answers
/// `Result<(), Code>`.
macro_rules! export {
    ($(fn $name:ident($($argument:ident: $type:ty),* $(,)?) = |$call:pat_param| $body:expr;)+) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> nvml_wrapper_sys::bindings::nvmlReturn_t {
            // SAFETY: pointers are the caller's to vouch for, as in NVML.
            #[allow(unused_unsafe, clippy::redundant_closure_call, reason = "not every body has a pointer")]
            $crate::call::answer(stringify!($name), |$call: &$crate::call::Call| unsafe { $body })
        }
    )+};
}
pub(crate) use export;
