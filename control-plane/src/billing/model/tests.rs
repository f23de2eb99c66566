//! The meter's rule and what follows from it.

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::*;
use crate::catalog::model::Rounding;

mod books;
mod properties;

const SEGMENT: Uuid = Uuid::from_u128(1);

/// Seconds after an arbitrary instant.
fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(20_000) + TimeDelta::seconds(seconds)
}

fn minute(minutes: i64) -> DateTime<Utc> {
    at(minutes * 60)
}

fn stretch(kind: StretchKind, from: i64, to: Option<i64>) -> Stretch {
    Stretch {
        from: minute(from),
        to: to.map(minute),
        kind,
    }
}

fn usable(from: i64, to: i64) -> Stretch {
    stretch(StretchKind::Usable, from, Some(to))
}

fn paused(from: i64, to: i64) -> Stretch {
    stretch(StretchKind::Paused, from, Some(to))
}

fn tenant_fault(from: i64, to: i64) -> Stretch {
    stretch(StretchKind::TenantFault, from, Some(to))
}

fn segment(from: DateTime<Utc>, to: Option<DateTime<Utc>>, rounding: Rounding) -> Segment {
    Segment {
        id: SEGMENT,
        from,
        to,
        rounding,
    }
}

fn always(rounding: Rounding) -> [Segment; 1] {
    [segment(minute(-10_000), None, rounding)]
}

/// Billed minutes of each hour of the meter.
fn billed(instances: &[Vec<Stretch>], rounding: Rounding) -> Vec<i64> {
    meter(instances, &always(rounding), minute(100_000), None)
        .iter()
        .map(|period| {
            assert_eq!(period.billed_seconds % 60, 0, "{period:?}");
            period.billed_seconds / 60
        })
        .collect()
}

fn total(periods: &[Period]) -> i64 {
    periods.iter().map(|period| period.billed_seconds).sum()
}

#[test]
fn each_started_hour_of_an_unbroken_lease_is_billed() {
    assert_eq!(billed(&[vec![usable(7, 8)]], Rounding::Hour), [60]);
    assert_eq!(billed(&[vec![usable(7, 67)]], Rounding::Hour), [60]);
    assert_eq!(billed(&[vec![usable(7, 68)]], Rounding::Hour), [60, 60]);
    let moment = Stretch {
        to: Some(minute(61) + TimeDelta::microseconds(1)),
        ..usable(1, 0)
    };
    assert_eq!(billed(&[vec![moment]], Rounding::Hour), [60, 60]);
}

#[test]
fn started_minutes_and_seconds_are_billed_where_the_price_says_so() {
    let stretches = vec![vec![Stretch {
        from: at(0),
        to: Some(at(90) + TimeDelta::milliseconds(1)),
        kind: StretchKind::Usable,
    }]];
    for (rounding, seconds) in [
        (Rounding::Hour, 3600),
        (Rounding::Minute, 120),
        (Rounding::Second, 91),
    ] {
        let periods = meter(&stretches, &always(rounding), at(1000), None);
        assert_eq!(periods.len(), 1);
        assert_eq!(
            (periods[0].usable_seconds, periods[0].billed_seconds),
            (90, seconds)
        );
    }
}

#[test]
fn time_cut_short_by_the_provider_is_billed_to_the_second_under_every_rounding() {
    let ended_while_down = vec![
        Stretch {
            from: at(0),
            to: Some(at(100)),
            kind: StretchKind::Usable,
        },
        Stretch {
            from: at(100),
            to: Some(at(200)),
            kind: StretchKind::Paused,
        },
    ];
    for rounding in [Rounding::Hour, Rounding::Minute, Rounding::Second] {
        let periods = meter(
            std::slice::from_ref(&ended_while_down),
            &always(rounding),
            at(1000),
            None,
        );
        assert_eq!(
            (periods[0].usable_seconds, periods[0].billed_seconds),
            (100, 100)
        );
        assert!(periods[0].cut_by_provider);
    }
}

#[test]
fn an_outage_reduces_the_hour_it_falls_into_and_no_other() {
    // Two booked hours with ten minutes of outage are 110 minutes, not two started hours of usable time.
    let stretches = vec![usable(0, 30), paused(30, 40), usable(40, 120)];
    assert_eq!(billed(&[stretches], Rounding::Hour), [50, 60]);
    let across = vec![usable(0, 50), paused(50, 70), usable(70, 125)];
    assert_eq!(billed(&[across], Rounding::Hour), [50, 50, 60]);
    let whole_hour = vec![usable(0, 60), paused(60, 120), usable(120, 121)];
    assert_eq!(billed(&[whole_hour], Rounding::Hour), [60, 60]);
}

#[test]
fn a_tenants_own_fault_does_not_pause_the_meter() {
    let stretches = vec![usable(0, 10), tenant_fault(10, 70), usable(70, 80)];
    assert_eq!(billed(&[stretches], Rounding::Hour), [60, 60]);
}

#[test]
fn time_before_the_first_usable_stretch_is_free() {
    let stretches = vec![paused(0, 5), tenant_fault(5, 60), usable(60, 61)];
    assert_eq!(
        billed(std::slice::from_ref(&stretches), Rounding::Minute),
        [1]
    );
    assert!(billed(&[vec![tenant_fault(0, 60)]], Rounding::Hour).is_empty());
    assert!(billed(&[vec![]], Rounding::Hour).is_empty());
    assert!(billed(&[], Rounding::Hour).is_empty());
}

#[test]
fn one_failing_node_pauses_the_meter_of_the_whole_cluster() {
    let good = vec![usable(0, 120)];
    let failing = vec![usable(5, 20), paused(20, 50), usable(50, 120)];
    assert_eq!(
        billed(&[good.clone(), failing], Rounding::Hour),
        [30, 60],
        "from minute 5 on, without minutes 20 to 50"
    );
    let never_up: Vec<Stretch> = vec![paused(0, 120)];
    assert!(billed(&[good.clone(), never_up], Rounding::Hour).is_empty());
    let own_fault = vec![usable(0, 20), tenant_fault(20, 120)];
    assert_eq!(billed(&[good, own_fault], Rounding::Hour), [60, 60]);
}

#[test]
fn a_gap_between_stretches_is_unknown_time() {
    let stretches = vec![usable(0, 10), usable(20, 60)];
    assert_eq!(billed(&[stretches], Rounding::Hour), [50]);
}

#[test]
fn time_outside_the_segments_is_not_billed_and_each_segment_has_its_own_hours() {
    let second = Uuid::from_u128(2);
    let segments = [
        segment(minute(10), Some(minute(40)), Rounding::Hour),
        Segment {
            id: second,
            ..segment(minute(40), Some(minute(110)), Rounding::Minute)
        },
    ];
    let periods = meter(&[vec![usable(0, 300)]], &segments, minute(400), None);
    let lines: Vec<_> = periods
        .iter()
        .map(|p| (p.segment, p.start, p.billed_seconds / 60, p.cut_by_provider))
        .collect();
    assert_eq!(
        lines,
        [
            (SEGMENT, minute(10), 60, false),
            (second, minute(40), 60, false),
            (second, minute(100), 10, false)
        ]
    );
}

#[test]
fn the_hour_that_goes_on_is_owed_as_soon_as_it_has_started() {
    let stretches = vec![vec![stretch(StretchKind::Usable, 0, None)]];
    let segments = always(Rounding::Hour);
    let periods = meter(&stretches, &segments, minute(61), None);
    assert_eq!((periods[0].billed_seconds, periods[0].open), (3600, false));
    assert_eq!((periods[1].billed_seconds, periods[1].open), (3600, true));
    assert_eq!(periods[1].usable_seconds, 60);
    assert_eq!(next_due(&periods, &segments, minute(61)), Some(minute(120)));
    let by_the_minute = always(Rounding::Minute);
    let periods = meter(&stretches, &by_the_minute, minute(61), None);
    assert_eq!(
        next_due(&periods, &by_the_minute, minute(61)),
        Some(minute(71))
    );
}

#[test]
fn only_hours_after_the_given_instant_are_computed() {
    let stretches = vec![vec![usable(0, 1000)]];
    let segments = always(Rounding::Hour);
    let all = meter(&stretches, &segments, minute(2000), None);
    for after in [0, 59, 60, 61, 700, 5000] {
        let late = meter(&stretches, &segments, minute(2000), Some(minute(after)));
        let expected: Vec<Period> = all
            .iter()
            .copied()
            .filter(|period| period.start > minute(after))
            .collect();
        assert_eq!(late, expected, "{after}");
    }
}
