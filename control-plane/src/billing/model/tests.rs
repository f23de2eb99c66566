//! The meter's rule and what follows from it.

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::catalog::model::Rounding;

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

/// Makes the postings that the changes ask for.
fn post(books: &mut Vec<Posted>, changes: &[Change], now: DateTime<Utc>) -> i64 {
    let mut sum = 0;
    for change in changes {
        match change {
            Change::Reverse(id) => {
                let record = books.iter_mut().find(|r| r.id == *id).unwrap();
                assert!(!record.reversed);
                record.reversed = true;
                sum -= record.billed_seconds;
            }
            Change::Post(period, revision) => {
                assert!(
                    !books
                        .iter()
                        .any(|r| r.start == period.start && r.revision == *revision)
                );
                sum += period.billed_seconds;
                books.push(Posted {
                    id: Uuid::from_u128(books.len() as u128),
                    revision: *revision,
                    reversed: false,
                    segment: period.segment,
                    start: period.start,
                    end: period.end,
                    usable_seconds: period.usable_seconds,
                    billed_seconds: period.billed_seconds,
                    cut_by_provider: period.cut_by_provider,
                    posted_at: now,
                });
            }
        }
    }
    sum
}

fn latest(books: &[Posted]) -> Vec<Posted> {
    let mut starts: Vec<_> = books.iter().map(|r| r.start).collect();
    starts.sort();
    starts.dedup();
    starts
        .iter()
        .filter_map(|start| {
            books
                .iter()
                .filter(|r| r.start == *start)
                .max_by_key(|r| r.revision)
                .cloned()
        })
        .collect()
}

#[test]
fn a_correction_reverses_and_posts_the_next_revision() {
    let segments = always(Rounding::Hour);
    let now = minute(300);
    let unknown = [vec![usable(0, 20), paused(20, 30), usable(30, 60)]];
    let mut books = Vec::new();
    let first = difference(&meter(&unknown, &segments, now, None), &books, now);
    assert_eq!(post(&mut books, &first, now), 50 * 60);
    let filled_in = [vec![usable(0, 20), usable(20, 30), usable(30, 60)]];
    let owed = meter(&filled_in, &segments, now, None);
    let changes = difference(&owed, &latest(&books), now);
    assert_eq!(
        changes,
        [Change::Reverse(books[0].id), Change::Post(owed[0], 1)]
    );
    assert_eq!(post(&mut books, &changes, now), 10 * 60);
    assert!(difference(&owed, &latest(&books), now).is_empty());
    let undone = difference(&[], &latest(&books), now);
    assert_eq!(undone.len(), 1);
    post(&mut books, &undone, now);
    assert!(difference(&[], &latest(&books), now).is_empty());
    assert_eq!(
        difference(&owed, &latest(&books), now),
        [Change::Post(owed[0], 2)]
    );
}

#[test]
fn an_hour_that_goes_on_is_not_corrected_for_every_second() {
    let stretches = [vec![stretch(StretchKind::Usable, 0, None)]];
    for (rounding, corrected_after) in [(Rounding::Hour, 60), (Rounding::Second, 11)] {
        let segments = always(rounding);
        let mut books = Vec::new();
        let posted_at = minute(1);
        let changes = difference(
            &meter(&stretches, &segments, posted_at, None),
            &books,
            posted_at,
        );
        post(&mut books, &changes, posted_at);
        for now in 2..60 {
            let owed = meter(&stretches, &segments, minute(now), None);
            let changes = difference(&owed, &books, minute(now));
            assert_eq!(changes.is_empty(), now < corrected_after, "{now}");
        }
        let owed = meter(&stretches, &segments, minute(60), None);
        assert_eq!(difference(&owed, &books, minute(60)).len(), 2);
    }
}

const KINDS: [StretchKind; 3] = [
    StretchKind::Usable,
    StretchKind::TenantFault,
    StretchKind::Paused,
];

/// Adjoining stretches in seconds, the first usable.
fn any_stretches() -> impl Strategy<Value = Vec<Stretch>> {
    prop::collection::vec((0_usize..3, 1_i64..5000), 1..12).prop_map(|parts| {
        let mut from = 0;
        parts
            .into_iter()
            .enumerate()
            .map(|(index, (kind, length))| {
                let stretch = Stretch {
                    from: at(from),
                    to: Some(at(from + length)),
                    kind: if index == 0 {
                        StretchKind::Usable
                    } else {
                        KINDS[kind]
                    },
                };
                from += length;
                stretch
            })
            .collect()
    })
}

fn any_rounding() -> impl Strategy<Value = Rounding> {
    prop::sample::select(Rounding::ALL)
}

fn split(stretches: &[Stretch], point: DateTime<Utc>) -> Vec<Stretch> {
    stretches
        .iter()
        .flat_map(|stretch| {
            let inside = stretch.from < point && stretch.to.is_none_or(|to| point < to);
            let first = Stretch {
                to: if inside { Some(point) } else { stretch.to },
                ..*stretch
            };
            let second = Stretch {
                from: point,
                ..*stretch
            };
            [Some(first), inside.then_some(second)]
        })
        .flatten()
        .collect()
}

/// The stretches with an outage laid over them.
fn with_outage(stretches: &[Stretch], from: i64, length: i64) -> Vec<Stretch> {
    let (start, stop) = (at(from), at(from + length));
    split(&split(stretches, start), stop)
        .into_iter()
        .map(|stretch| {
            if stretch.from >= start && stretch.to.is_some_and(|to| to <= stop) {
                Stretch {
                    kind: StretchKind::Paused,
                    ..stretch
                }
            } else {
                stretch
            }
        })
        .collect()
}

proptest! {
    #[test]
    fn how_availability_is_cut_into_rows_changes_nothing(
        stretches in any_stretches(), points in prop::collection::vec(1_i64..30_000, 0..10), rounding in any_rounding(),
    ) {
        let segments = always(rounding);
        let whole = meter(std::slice::from_ref(&stretches), &segments, at(90_000), None);
        let parts = points.iter().fold(stretches, |stretches, point| split(&stretches, at(*point)));
        prop_assert_eq!(meter(&[parts], &segments, at(90_000), None), whole);
    }

    #[test]
    fn what_is_billed_was_usable_but_for_the_last_started_unit_of_an_unbroken_hour(
        stretches in any_stretches(), rounding in any_rounding(),
    ) {
        let periods = meter(std::slice::from_ref(&stretches), &always(rounding), at(90_000), None);
        let counts: i64 = stretches
            .iter()
            .filter(|s| s.kind != StretchKind::Paused)
            .map(|s| (s.to.unwrap() - s.from).num_seconds())
            .sum();
        prop_assert_eq!(periods.iter().map(|p| p.usable_seconds).sum::<i64>(), counts);
        for period in &periods {
            prop_assert!(period.billed_seconds >= period.usable_seconds);
            prop_assert!(period.billed_seconds < period.usable_seconds + rounding.seconds());
            prop_assert!(period.billed_seconds <= 3600);
            if period.cut_by_provider {
                prop_assert_eq!(period.billed_seconds, period.usable_seconds);
            }
        }
    }

    #[test]
    fn an_outage_never_makes_a_bill_larger(
        stretches in any_stretches(), rounding in any_rounding(), from in 1_i64..30_000, length in 1_i64..5000,
    ) {
        let segments = always(rounding);
        let out = with_outage(&stretches, from, length);
        let without = meter(&[stretches], &segments, at(90_000), None);
        let with = meter(&[out], &segments, at(90_000), None);
        prop_assert!(total(&with) <= total(&without));
    }

    #[test]
    fn a_cluster_is_billed_no_more_than_any_of_its_nodes(
        nodes in prop::collection::vec(any_stretches(), 1..4),
    ) {
        // Under rounding to the second, so that rounding does not hide the difference.
        let segments = always(Rounding::Second);
        let cluster = meter(&nodes, &segments, at(90_000), None);
        for node in nodes {
            let alone = meter(&[node], &segments, at(90_000), None);
            prop_assert!(total(&cluster) <= total(&alone));
        }
    }

    #[test]
    fn the_books_always_sum_to_what_is_owed_and_repeating_posts_nothing(
        stretches in any_stretches(), rounding in any_rounding(), looks in prop::collection::vec(1_i64..40_000, 1..8),
        outages in prop::collection::vec((1_i64..30_000, 1_i64..900), 0..4),
    ) {
        let segments = always(rounding);
        let mut looks = looks;
        looks.sort_unstable();
        let mut books: Vec<Posted> = Vec::new();
        let mut sum = 0;
        // First with outages, which are filled in one after the other.
        for filled_in in (0..=outages.len()).rev() {
            let known = outages.iter().take(filled_in).fold(stretches.clone(), |s, (from, length)| with_outage(&s, *from, *length));
            for now in looks.iter().map(|look| at(40_000 + look)) {
                let owed = meter(std::slice::from_ref(&known), &segments, now, None);
                let changes = difference(&owed, &latest(&books), now);
sum += post(&mut books, &changes, now);
                prop_assert!(difference(&owed, &latest(&books), now).is_empty());
                prop_assert_eq!(sum, total(&owed));
            }
        }
    }

    #[test]
    fn watching_a_lease_run_posts_the_same_sum_as_looking_once_at_its_end(
        stretches in any_stretches(), rounding in any_rounding(), looks in prop::collection::vec(1_i64..60_000, 0..12),
    ) {
        let segments = always(rounding);
        let mut looks = looks;
        looks.sort_unstable();
        looks.push(90_000);
        let mut books: Vec<Posted> = Vec::new();
        let mut sum = 0;
        for now in looks.into_iter().map(at) {
            // What is known at that time: the stretch then goes on.
            let known: Vec<Stretch> = stretches
                .iter()
                .filter(|s| s.from <= now)
                .map(|s| Stretch { to: s.to.filter(|to| *to <= now), ..*s })
                .collect();
            let owed = meter(&[known], &segments, now, None);
            let changes = difference(&owed, &latest(&books), now);
sum += post(&mut books, &changes, now);
        }
        let once = meter(&[stretches], &segments, at(90_000), None);
        prop_assert_eq!(sum, total(&once));
    }
}
