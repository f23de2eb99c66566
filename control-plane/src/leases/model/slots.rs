//! When a request that does not fit now would: the earliest start in every sector.

use std::collections::BTreeMap;

use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};

use super::{
    placement::{Candidate, Sector},
    span::{Margins, Span},
};

/// What is looked for.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// Earliest start.
    pub from: DateTime<Utc>,
    /// Length of the window; `None`: without an end.
    pub length: Option<TimeDelta>,
    /// Hosts, all in one sector.
    pub count: usize,
    /// The database's time.
    pub now: DateTime<Utc>,
}

/// A window that would fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Where.
    pub sector: Sector,
    /// Start of the window.
    pub start: DateTime<Utc>,
    /// Hosts of the sector that are free for all of it.
    pub hosts: usize,
}

/// The earliest start in every sector that has one, earliest first. Starts later than the wished one are whole minutes.
#[must_use]
pub fn earliest_slots(candidates: &[Candidate], wish: &Wish, margins: Margins) -> Vec<Slot> {
    let mut sectors: BTreeMap<&Sector, Vec<(DateTime<Utc>, i32)>> = BTreeMap::new();
    for candidate in candidates {
        let changes = sectors.entry(&candidate.sector).or_default();
        for (first, last) in feasible_starts(&candidate.busy, wish, margins) {
            changes.push((first, 1));
            if let Some(last) = last {
                // The last start is itself feasible.
                changes.push((last + TimeDelta::microseconds(1), -1));
            }
        }
    }
    let mut slots: Vec<Slot> = sectors
        .into_iter()
        .filter_map(|(sector, changes)| {
            let (start, hosts) = first_with(changes, wish.count)?;
            Some(Slot {
                sector: sector.clone(),
                start,
                hosts,
            })
        })
        .collect();
    slots.sort_by(|a, b| (a.start, &a.sector).cmp(&(b.start, &b.sector)));
    slots
}

/// The first instant at which `count` hosts have a feasible start, and how many have.
fn first_with(
    mut changes: Vec<(DateTime<Utc>, i32)>,
    count: usize,
) -> Option<(DateTime<Utc>, usize)> {
    changes.sort_unstable();
    let mut hosts = 0_i32;
    for at_once in changes.chunk_by(|a, b| a.0 == b.0) {
        hosts += at_once.iter().map(|(_, change)| change).sum::<i32>();
        let free = usize::try_from(hosts).unwrap_or(0);
        if free >= count.max(1) {
            return at_once.first().map(|(at, _)| (*at, free));
        }
    }
    None
}

/// The starts at which a host with these bookings could serve the window: closed ranges, the last without an end when nothing follows.
fn feasible_starts(
    busy: &[Span],
    wish: &Wish,
    margins: Margins,
) -> Vec<(DateTime<Utc>, Option<DateTime<Utc>>)> {
    let mut busy = busy.to_vec();
    busy.sort_by_key(|span| span.from);
    let mut starts = Vec::new();
    // `None`: free since before now.
    let mut free_from: Option<DateTime<Utc>> = None;
    for span in busy
        .iter()
        .filter(|span| span.to.is_none_or(|to| to > wish.now))
    {
        // Without an end, a window fits only behind the last booking.
        if let Some(length) = wish.length {
            let last = span.from - margins.turnaround - length;
            let first = first_start(free_from, wish, margins);
            if first <= last {
                starts.push((first, Some(last)));
            }
        }
        let Some(to) = span.to else {
            return starts;
        };
        free_from = Some(free_from.map_or(to, |from| from.max(to)));
    }
    starts.push((first_start(free_from, wish, margins), None));
    starts
}

fn first_start(free_from: Option<DateTime<Utc>>, wish: &Wish, margins: Margins) -> DateTime<Utc> {
    let Some(free_from) = free_from else {
        return wish.from;
    };
    let first = free_from + margins.lead;
    if first <= wish.from {
        return wish.from;
    }
    let minute = TimeDelta::minutes(1);
    first.duration_trunc(minute).map_or(first, |whole| {
        if whole == first {
            first
        } else {
            whole + minute
        }
    })
}

#[cfg(test)]
mod tests {
    use freehold_proto::id::HostId;
    use proptest::prelude::*;

    use super::*;
    use crate::leases::model::placement::place;

    const MARGINS: Margins = Margins {
        lead: TimeDelta::minutes(5),
        turnaround: TimeDelta::minutes(10),
    };

    fn at(minutes: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::minutes(minutes)
    }

    fn host(sector: &str, busy: &[(i64, Option<i64>)]) -> Candidate {
        Candidate {
            host: HostId::new(),
            sector: Sector {
                region: "here".to_owned(),
                name: sector.to_owned(),
            },
            busy: busy
                .iter()
                .map(|(from, to)| Span {
                    from: at(*from),
                    to: to.map(at),
                })
                .collect(),
        }
    }

    fn wish(from: i64, minutes: Option<i64>, count: usize) -> Wish {
        Wish {
            from: at(from),
            length: minutes.map(TimeDelta::minutes),
            count,
            now: at(0),
        }
    }

    #[test]
    fn the_earliest_start_is_behind_the_booking_and_its_lead() {
        let hosts = [
            host("a", &[(0, Some(70))]),
            host("a", &[(0, Some(100))]),
            host("b", &[(0, None)]),
        ];
        let slots = earliest_slots(&hosts, &wish(0, Some(60), 1), MARGINS);
        assert_eq!(slots.len(), 1);
        assert_eq!((slots[0].start, slots[0].hosts), (at(75), 1));
        let slots = earliest_slots(&hosts, &wish(0, Some(60), 2), MARGINS);
        assert_eq!((slots[0].start, slots[0].hosts), (at(105), 2));
        assert!(earliest_slots(&hosts, &wish(0, Some(60), 3), MARGINS).is_empty());
    }

    #[test]
    fn a_gap_is_offered_only_when_the_window_fits_with_its_margins() {
        let hosts = [host("a", &[(0, Some(100)), (175, Some(300))])];
        let start = |minutes| earliest_slots(&hosts, &wish(0, Some(minutes), 1), MARGINS)[0].start;
        assert_eq!(start(60), at(105));
        assert_eq!(start(61), at(305));
    }

    proptest! {
        #[test]
        fn a_slot_can_be_placed_and_no_earlier_whole_minute_can(
            bookings in prop::collection::vec(prop::collection::vec((0_i64..300, 1_i64..80), 0..4), 1..6),
            from in 0_i64..200, minutes in prop::option::of(1_i64..90), count in 1_usize..4,
        ) {
            let hosts: Vec<Candidate> = bookings.iter().map(|spans| {
                host("a", &spans.iter().map(|(from, length)| (*from, Some(from + length))).collect::<Vec<_>>())
            }).collect();
            let wish = wish(from, minutes, count);
            let fits = |start: DateTime<Utc>| {
                let window = Span { from: start, to: wish.length.map(|length| start + length) };
                place(&hosts, &MARGINS.around(&window, wish.now), count, 0).is_some()
            };
            let slots = earliest_slots(&hosts, &wish, MARGINS);
            let first = (from..1000).find(|minute| fits(at(*minute)));
            prop_assert_eq!(slots.first().map(|slot| slot.start), first.map(at));
        }
    }
}
