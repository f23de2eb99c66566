//! From what is posted to what is owed.
//!
//! Posted records are never changed: what turned out otherwise is reversed, and the next revision posted.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::meter::{Period, refresh_is_due};

/// The latest revision that is posted for one hour of an instance's meter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posted {
    /// Its record.
    pub id: Uuid,
    /// From 0.
    pub revision: i32,
    /// True once it has been taken back.
    pub reversed: bool,
    /// The segment that priced it.
    pub segment: Uuid,
    /// Its key.
    pub start: DateTime<Utc>,
    /// The end of what it covers.
    pub end: DateTime<Utc>,
    /// Seconds that counted.
    pub usable_seconds: i64,
    /// Seconds that are billed.
    pub billed_seconds: i64,
    /// The meter stood still within it.
    pub cut_by_provider: bool,
    /// When it was posted.
    pub posted_at: DateTime<Utc>,
}

/// A step towards what is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Take this record back.
    Reverse(Uuid),
    /// Post this hour as this revision.
    Post(Period, i32),
}

/// What has to be posted for one instance. Empty when the books say what is owed; posting the result and asking again gives nothing.
///
/// `posted` has the latest revision of each hour among those that `owed` was computed for.
#[must_use]
pub fn difference(owed: &[Period], posted: &[Posted], now: DateTime<Utc>) -> Vec<Change> {
    let mut latest: HashMap<DateTime<Utc>, &Posted> =
        posted.iter().map(|record| (record.start, record)).collect();
    let mut changes = Vec::new();
    for period in owed {
        match latest.remove(&period.start) {
            None => changes.push(Change::Post(*period, 0)),
            Some(record) if record.reversed => {
                changes.push(Change::Post(*period, record.revision + 1));
            }
            Some(record) if stands(record, period, now) => {}
            Some(record) => {
                changes.push(Change::Reverse(record.id));
                changes.push(Change::Post(*period, record.revision + 1));
            }
        }
    }
    let mut unfounded: Vec<&Posted> = latest
        .into_values()
        .filter(|record| !record.reversed)
        .collect();
    unfounded.sort_by_key(|record| record.start);
    changes.extend(
        unfounded
            .into_iter()
            .map(|record| Change::Reverse(record.id)),
    );
    changes
}

/// Whether a record may stay. That of an hour that goes on says how much was usable when it was posted; it is corrected when its bill is wrong,
/// but for what was added since only every ten minutes.
fn stands(record: &Posted, period: &Period, now: DateTime<Utc>) -> bool {
    let same_terms =
        record.segment == period.segment && record.cut_by_provider == period.cut_by_provider;
    if !period.open {
        return same_terms
            && record.usable_seconds == period.usable_seconds
            && record.billed_seconds == period.billed_seconds
            && record.end == period.end;
    }
    // Another replica whose clock reading is later was here.
    let older_view = record.end > period.end;
    let only_grew = record.billed_seconds < period.billed_seconds;
    same_terms
        && (record.billed_seconds == period.billed_seconds
            || older_view
            || (only_grew && !refresh_is_due(record.posted_at, now)))
}
