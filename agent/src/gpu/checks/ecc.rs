//! Memory errors since the driver was loaded.

use super::{Prevents, Snapshot, each, finding};
use crate::model::HealthFinding;

/// Corrected errors beyond which Azure's health checks refuse a board.
const MOST_CORRECTED: u64 = 20_000_000;

pub(super) fn check(snapshot: &Snapshot) -> Vec<HealthFinding> {
    each(snapshot, |gpu| {
        let uncorrected = gpu.ecc_uncorrected.unwrap_or(0);
        let corrected = gpu.ecc_corrected.unwrap_or(0);
        let (name, detail) = if uncorrected > 0 {
            let sram = match gpu.sram_uncorrected {
                Some(count) if count > 0 => ", some of them in its SRAM: replace the board",
                _ => ": reset the GPU",
            };
            (
                "ecc_uncorrected",
                format!(
                    "{uncorrected} uncorrected memory errors since the driver was loaded{sram}"
                ),
            )
        } else if corrected > MOST_CORRECTED {
            (
                "ecc_corrected",
                format!(
                    "{corrected} corrected memory errors since the driver was loaded, the limit is {MOST_CORRECTED}"
                ),
            )
        } else {
            return None;
        };
        Some(finding(&gpu.uuid, name, Prevents::Allocation, detail))
    })
}
