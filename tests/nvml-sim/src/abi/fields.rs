//! `nvmlDeviceGetFieldValues`, for the fields that monitors read.

use std::{
    ffi::c_int,
    time::{SystemTime, UNIX_EPOCH},
};

use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlFieldValue_t, nvmlValue_t};

use super::ecc;
use crate::{
    call::{Code, INVALID_ARGUMENT, NOT_SUPPORTED, export},
    host::Gpu,
    state::Setting,
};

const UNSIGNED_INT: u32 = 1;
const UNSIGNED_LONG_LONG: u32 = 3;

enum Value {
    Int(u32),
    Long(u64),
}

/// A field by its number, in the numbering of drivers before 580.82.
fn value(gpu: &Gpu, field: u32) -> Result<Value, Code> {
    let overrides = &gpu.overrides;
    Ok(match field {
        1 => Value::Int(u32::from(gpu.is_on(Setting::Ecc))),
        2 => Value::Int(u32::from(gpu.is_on(Setting::EccPending))),
        3..=6 => Value::Long(ecc::errors(gpu, (field - 3) % 2, (field - 3) / 2)?),
        82 => Value::Int(overrides.memory_temperature.unwrap_or(gpu.temperature + 8)),
        91 => Value::Int(gpu.board.nvlinks),
        94 => Value::Int(overrides.pcie_replays),
        142 => Value::Int(overrides.rows_corrected),
        143 => Value::Int(overrides.rows_uncorrected),
        144 => Value::Int(u32::from(overrides.rows_pending)),
        145 => Value::Int(u32::from(overrides.rows_failure)),
        185 | 186 => Value::Int(gpu.power_mw),
        187 => Value::Int(gpu.board.power_min_w * 1000),
        188 | 189 => Value::Int(gpu.board.power_limit_w * 1000),
        190 | 192 => {
            Value::Int(u32::try_from(gpu.setting(Setting::PowerLimitMw)).unwrap_or(u32::MAX))
        }
        230 => Value::Int(overrides.recovery_action),
        _ => return Err(NOT_SUPPORTED),
    })
}

fn fill(gpu: &Gpu, entry: &mut nvmlFieldValue_t) {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    entry.timestamp = i64::try_from(now.as_micros()).unwrap_or(0);
    entry.latencyUsec = 0;
    entry.value = nvmlValue_t { ullVal: 0 };
    entry.nvmlReturn = 0;
    match value(gpu, entry.fieldId) {
        Ok(Value::Int(uiVal)) => {
            entry.valueType = UNSIGNED_INT;
            entry.value.uiVal = uiVal;
        }
        Ok(Value::Long(ullVal)) => {
            entry.valueType = UNSIGNED_LONG_LONG;
            entry.value.ullVal = ullVal;
        }
        Err(code) => entry.nvmlReturn = code,
    }
}

export! {
    fn nvmlDeviceGetFieldValues(device: nvmlDevice_t, count: c_int, values: *mut nvmlFieldValue_t) = |call| {
        let gpu = call.gpu(device)?;
        let count = usize::try_from(count).map_err(|_| INVALID_ARGUMENT)?;
        if values.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        for entry in std::slice::from_raw_parts_mut(values, count) {
            fill(gpu, entry);
        }
        Ok(())
    };
}
