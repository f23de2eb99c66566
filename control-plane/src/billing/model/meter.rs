//! The meter's rule.
//!
//! **What counts.** Time counts while *every* instance of the lease is usable, or is not by its tenant's own doing: when one node of a cluster
//! fails or is silent, the meter of all of them stands still. Time before an instance's first usable stretch does not count, nor does time
//! outside the lease's segments.
//!
//! **Hours of the meter.** Within a segment, hours follow one another from the first instant that counts. Each is one usage record of every
//! instance; its key is the instant at which it begins. `usable` is the time within the hour that counts, in whole seconds.
//!
//! ```text
//! billed = usable rounded up to the price's unit    when the meter stood still at no time in the hour
//!        = usable in whole seconds, rounded down    when it did: the provider's fault (or silence) cut the hour short
//! ```
//!
//! So an unbroken lease is billed each started hour (minute, second), an hour with an outage by what was usable of it, and an outage never
//! makes a bill larger. The end of the lease, its window or its segment does not cut: it ends the last hour, which has been started.
//!
//! Hours are cut by the clock from the first instant on and not counted in usable time: a two-hour lease with ten minutes of outage is billed
//! 110 minutes, where two started hours of usable time would cost the tenant the outage.

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::catalog::model::Rounding;

/// An hour of the meter.
pub const HOUR: TimeDelta = TimeDelta::hours(1);

/// How often the record of an hour that goes on is corrected where what is owed grows by the minute or second.
const REFRESH: TimeDelta = TimeDelta::minutes(10);

const MICROS_PER_SECOND: i64 = 1_000_000;

/// What a stretch of availability means to the meter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StretchKind {
    /// Seen to be usable: counts, and the meter may start.
    Usable,
    /// Not usable by the tenant's own doing: counts once the meter has started.
    TenantFault,
    /// The provider's fault or unknown: the meter stands still.
    Paused,
}

/// A stretch of one instance's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// Start.
    pub from: DateTime<Utc>,
    /// End; `None`: it goes on.
    pub to: Option<DateTime<Utc>>,
    /// What it means.
    pub kind: StretchKind,
}

/// A priced part of a lease, as far as its time goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Which segment.
    pub id: Uuid,
    /// Start.
    pub from: DateTime<Utc>,
    /// End; `None`: open-ended.
    pub to: Option<DateTime<Utc>>,
    /// Of usable time.
    pub rounding: Rounding,
}

/// What is owed by each instance for one hour of the meter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// The segment that prices it.
    pub segment: Uuid,
    /// Its key: when the hour of the meter begins.
    pub start: DateTime<Utc>,
    /// The end of the hour, or what came before: the end of the meter, of the segment, or now.
    pub end: DateTime<Utc>,
    /// Seconds that count.
    pub usable_seconds: i64,
    /// Seconds to pay for.
    pub billed_seconds: i64,
    /// The meter stood still within it.
    pub cut_by_provider: bool,
    /// It goes on: `usable_seconds` grows.
    pub open: bool,
}

#[derive(Debug, Clone, Copy)]
struct Interval {
    from: DateTime<Utc>,
    to: DateTime<Utc>,
}

/// What is owed by each instance of a lease up to `until`, for the hours of the meter that begin after `after` (`None`: for all).
///
/// `instances` has the stretches of each instance, none overlapping another of the same instance, in any order.
#[must_use]
pub fn meter(
    instances: &[Vec<Stretch>],
    segments: &[Segment],
    until: DateTime<Utc>,
    after: Option<DateTime<Utc>>,
) -> Vec<Period> {
    let Some(end) = end_of(instances, until) else {
        return Vec::new();
    };
    let runs_on = instances
        .iter()
        .all(|stretches| stretches.iter().any(|stretch| stretch.to.is_none()));
    let counting = counting(instances, until);
    let mut periods = Vec::new();
    for segment in segments {
        let span = Interval {
            from: segment.from,
            to: segment.to.map_or(end, |to| to.min(end)),
        };
        let open_until = (runs_on && segment.to.is_none_or(|to| to > until)).then_some(until);
        segment_periods(
            segment,
            &clip(&counting, span),
            span.to,
            open_until,
            after,
            &mut periods,
        );
    }
    periods
}

fn segment_periods(
    segment: &Segment,
    counting: &[Interval],
    end: DateTime<Utc>,
    open_until: Option<DateTime<Utc>>,
    after: Option<DateTime<Utc>>,
    periods: &mut Vec<Period>,
) {
    let Some(anchor) = counting.first().map(|first| first.from) else {
        return;
    };
    // Whole hours between the anchor and `after` begin no later than `after`.
    let skipped = after.map_or(0, |after| ((after - anchor).num_hours()).max(0));
    let mut start = anchor + TimeDelta::hours(skipped);
    while start < end {
        let stop = (start + HOUR).min(end);
        let usable = overlap_micros(counting, start, stop);
        let cut = usable < micros_between(start, stop);
        let usable_seconds = usable / MICROS_PER_SECOND;
        let billed_seconds = if cut {
            usable_seconds
        } else {
            let unit = segment.rounding.seconds();
            let unit_micros = unit * MICROS_PER_SECOND;
            (usable + unit_micros - 1) / unit_micros * unit
        };
        if billed_seconds > 0 && after.is_none_or(|after| start > after) {
            periods.push(Period {
                segment: segment.id,
                start,
                end: stop,
                usable_seconds,
                billed_seconds,
                cut_by_provider: cut,
                open: open_until.is_some_and(|until| start + HOUR > until),
            });
        }
        start += HOUR;
    }
}

/// When time alone changes what is owed or what should be posted; `None`: never.
#[must_use]
pub fn next_due(
    periods: &[Period],
    segments: &[Segment],
    now: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    let open = periods.iter().filter(|period| period.open).map(|period| {
        let rounding = segments
            .iter()
            .find(|segment| segment.id == period.segment)
            .map(|segment| segment.rounding);
        let hour_end = period.start + HOUR;
        if period.cut_by_provider || rounding != Some(Rounding::Hour) {
            hour_end.min(now + REFRESH)
        } else {
            hour_end
        }
    });
    // At a segment's bounds the price changes, or the meter stops.
    let bounds = segments
        .iter()
        .flat_map(|segment| [Some(segment.from), segment.to])
        .flatten()
        .filter(|at| *at > now);
    open.chain(bounds).min()
}

/// How long the record of an hour that goes on stands before it is corrected for what was added.
#[must_use]
pub(super) fn refresh_is_due(posted_at: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    now - posted_at >= REFRESH
}

/// When the first instance's stretches end: from then on the lease as a whole is over. `None`: an instance never had any.
fn end_of(instances: &[Vec<Stretch>], until: DateTime<Utc>) -> Option<DateTime<Utc>> {
    instances
        .iter()
        .map(|stretches| {
            let ends = stretches
                .iter()
                .map(|stretch| stretch.to.unwrap_or(until).min(until));
            ends.max()
        })
        .min()
        .flatten()
}

/// The time that counts for the lease: what counts for each of its instances.
fn counting(instances: &[Vec<Stretch>], until: DateTime<Utc>) -> Vec<Interval> {
    let mut instances = instances.iter();
    let Some(first) = instances.next() else {
        return Vec::new();
    };
    instances.fold(counting_alone(first, until), |common, stretches| {
        intersect(&common, &counting_alone(stretches, until))
    })
}

/// The time that counts for one instance, in order, without touching neighbours.
fn counting_alone(stretches: &[Stretch], until: DateTime<Utc>) -> Vec<Interval> {
    let first_usable = stretches
        .iter()
        .filter(|stretch| stretch.kind == StretchKind::Usable)
        .map(|stretch| stretch.from)
        .min();
    let Some(first_usable) = first_usable else {
        return Vec::new();
    };
    let mut intervals: Vec<Interval> = stretches
        .iter()
        .filter(|stretch| stretch.kind != StretchKind::Paused)
        .map(|stretch| Interval {
            from: stretch.from.max(first_usable),
            to: stretch.to.unwrap_or(until).min(until),
        })
        .filter(|interval| interval.from < interval.to)
        .collect();
    intervals.sort_by_key(|interval| interval.from);
    let mut joined: Vec<Interval> = Vec::with_capacity(intervals.len());
    for interval in intervals {
        match joined.last_mut() {
            Some(last) if last.to >= interval.from => last.to = last.to.max(interval.to),
            _ => joined.push(interval),
        }
    }
    joined
}

fn intersect(a: &[Interval], b: &[Interval]) -> Vec<Interval> {
    let (mut a, mut b) = (a.iter().copied().peekable(), b.iter().copied().peekable());
    let mut common = Vec::new();
    while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
        let both = Interval {
            from: x.from.max(y.from),
            to: x.to.min(y.to),
        };
        if both.from < both.to {
            common.push(both);
        }
        if x.to < y.to {
            a.next();
        } else {
            b.next();
        }
    }
    common
}

fn clip(intervals: &[Interval], span: Interval) -> Vec<Interval> {
    intersect(intervals, &[span])
}

fn overlap_micros(intervals: &[Interval], from: DateTime<Utc>, to: DateTime<Utc>) -> i64 {
    let first = intervals.partition_point(|interval| interval.to <= from);
    intervals
        .iter()
        .skip(first)
        .take_while(|interval| interval.from < to)
        .map(|interval| micros_between(interval.from.max(from), interval.to.min(to)))
        .sum()
}

fn micros_between(from: DateTime<Utc>, to: DateTime<Utc>) -> i64 {
    to.timestamp_micros() - from.timestamp_micros()
}
