//! The HBM's row remapper (<https://docs.nvidia.com/deploy/a100-gpu-mem-error-mgmt/>): a remapping that waits needs a reset before the
//! next lease; one that failed, or too many, need another board.

use super::{Prevents, Snapshot, each, finding};
use crate::model::HealthFinding;

/// Rows remapped after uncorrected errors at which the board is worn out: DCGM's and Azure's limit.
const MOST_ROWS: u64 = 512;

pub(super) fn check(snapshot: &Snapshot) -> Vec<HealthFinding> {
    each(snapshot, |gpu| {
        let rows = gpu.rows_uncorrected.unwrap_or(0);
        let (name, detail) = if gpu.rows_failure == Some(true) {
            (
                "row_remap_failure",
                "a memory row could not be remapped: replace the board".to_owned(),
            )
        } else if rows >= MOST_ROWS {
            (
                "row_remap_exhausted",
                format!(
                    "{rows} memory rows were remapped, the limit is {MOST_ROWS}: replace the board"
                ),
            )
        } else if gpu.rows_pending == Some(true) {
            (
                "row_remap_pending",
                "a memory row waits to be remapped: reset the GPU".to_owned(),
            )
        } else {
            return None;
        };
        Some(finding(&gpu.uuid, name, Prevents::Allocation, detail))
    })
}
