//! Memory errors: ECC counters, remapped rows, retired pages.

use std::ffi::{c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlEccErrorCounts_t, nvmlRowRemapperHistogramValues_t,
};

use crate::{
    call::{Code, INVALID_ARGUMENT, NOT_SUPPORTED, export, put},
    host::Gpu,
    state::Setting,
};

const CORRECTED: c_uint = 0;
const UNCORRECTED: c_uint = 1;
const VOLATILE: c_uint = 0;
const AGGREGATE: c_uint = 1;
const LOCATION_DEVICE_MEMORY: c_uint = 2;
const LOCATION_LAST: c_uint = 7;
/// Banks of the HBM's row remapper.
const BANKS: c_uint = 640;

/// Errors of a kind, of the time since the driver was loaded or of the board's life.
pub(super) fn errors(gpu: &Gpu, kind: c_uint, span: c_uint) -> Result<c_ulonglong, Code> {
    if !gpu.is_on(Setting::Ecc) {
        return Err(NOT_SUPPORTED);
    }
    let (setting, before) = match kind {
        CORRECTED => (Setting::EccCorrected, gpu.overrides.ecc_corrected_before),
        UNCORRECTED => (
            Setting::EccUncorrected,
            gpu.overrides.ecc_uncorrected_before,
        ),
        _ => return Err(INVALID_ARGUMENT),
    };
    let volatile = c_ulonglong::try_from(gpu.setting(setting)).unwrap_or(0);
    let of_life = c_ulonglong::try_from(gpu.base[setting as usize]).unwrap_or(0);
    match span {
        VOLATILE => Ok(volatile),
        AGGREGATE => Ok(before.saturating_add(of_life.max(volatile))),
        _ => Err(INVALID_ARGUMENT),
    }
}

/// The scenario's errors are all the HBM's.
fn errors_at(gpu: &Gpu, kind: c_uint, span: c_uint, location: c_uint) -> Result<c_ulonglong, Code> {
    let all = errors(gpu, kind, span)?;
    match location {
        LOCATION_DEVICE_MEMORY => Ok(all),
        0..=LOCATION_LAST => Ok(0),
        _ => Err(INVALID_ARGUMENT),
    }
}

fn histogram(gpu: &Gpu) -> nvmlRowRemapperHistogramValues_t {
    let used = (gpu.overrides.rows_corrected + gpu.overrides.rows_uncorrected).min(BANKS);
    nvmlRowRemapperHistogramValues_t {
        max: BANKS - used,
        high: used,
        partial: 0,
        low: 0,
        none: 0,
    }
}

export! {
    fn nvmlDeviceGetEccMode(device: nvmlDevice_t, current: *mut c_uint, pending: *mut c_uint) = |call| {
        let gpu = call.gpu(device)?;
        put(current, c_uint::from(gpu.is_on(Setting::Ecc)))?;
        put(pending, c_uint::from(gpu.is_on(Setting::EccPending)))
    };
    fn nvmlDeviceGetDefaultEccMode(device: nvmlDevice_t, mode: *mut c_uint) = |call| {
        call.gpu(device)?;
        put(mode, 1)
    };
    fn nvmlDeviceSetEccMode(device: nvmlDevice_t, mode: c_uint) = |call| {
        // Takes effect after a reset: only the pending mode changes.
        call.set(call.gpu(device)?, Setting::EccPending, i64::from(mode == 1))
    };
    fn nvmlDeviceGetTotalEccErrors(device: nvmlDevice_t, kind: c_uint, span: c_uint, count: *mut c_ulonglong) =
        |call| put(count, errors(call.gpu(device)?, kind, span)?);
    fn nvmlDeviceGetDetailedEccErrors(device: nvmlDevice_t, kind: c_uint, span: c_uint, counts: *mut nvmlEccErrorCounts_t) =
        |call| {
            let deviceMemory = errors(call.gpu(device)?, kind, span)?;
            put(counts, nvmlEccErrorCounts_t { l1Cache: 0, l2Cache: 0, deviceMemory, registerFile: 0 })
        };
    fn nvmlDeviceGetMemoryErrorCounter(
        device: nvmlDevice_t, kind: c_uint, span: c_uint, location: c_uint, count: *mut c_ulonglong,
    ) = |call| put(count, errors_at(call.gpu(device)?, kind, span, location)?);
    fn nvmlDeviceClearEccErrorCounts(device: nvmlDevice_t, span: c_uint) = |call| {
        let gpu = call.gpu(device)?;
        if span != VOLATILE {
            return Err(NOT_SUPPORTED);
        }
        call.set(gpu, Setting::EccCorrected, 0)?;
        call.set(gpu, Setting::EccUncorrected, 0)
    };
    fn nvmlDeviceGetRemappedRows(
        device: nvmlDevice_t, corrected: *mut c_uint, uncorrected: *mut c_uint, pending: *mut c_uint, failure: *mut c_uint,
    ) = |call| {
        let rows = &call.gpu(device)?.overrides;
        put(corrected, rows.rows_corrected)?;
        put(uncorrected, rows.rows_uncorrected)?;
        put(pending, c_uint::from(rows.rows_pending))?;
        put(failure, c_uint::from(rows.rows_failure))
    };
    fn nvmlDeviceGetRowRemapperHistogram(device: nvmlDevice_t, values: *mut nvmlRowRemapperHistogramValues_t) =
        |call| put(values, histogram(call.gpu(device)?));
    fn nvmlDeviceGetRetiredPages(device: nvmlDevice_t, _cause: c_uint, _count: *mut c_uint, _addresses: *mut c_ulonglong) =
        |call| {
            // Boards with a row remapper retire no pages.
            call.gpu(device)?;
            Err(NOT_SUPPORTED)
        };
    fn nvmlDeviceGetRetiredPagesPendingStatus(device: nvmlDevice_t, _pending: *mut c_uint) = |call| {
        call.gpu(device)?;
        Err(NOT_SUPPORTED)
    };
}
