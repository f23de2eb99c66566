//! From what is posted to what is owed.

use super::*;

/// Makes the postings that the changes ask for.
pub(super) fn post(books: &mut Vec<Posted>, changes: &[Change], now: DateTime<Utc>) -> i64 {
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

pub(super) fn latest(books: &[Posted]) -> Vec<Posted> {
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
