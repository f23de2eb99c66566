//! What follows from the rule, whatever happens.

use proptest::prelude::*;

use super::{
    books::{latest, post},
    *,
};

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
