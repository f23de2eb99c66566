//! Which hosts a lease gets: a function of what is free, what is asked, and a seed.
//!
//! All of a lease's instances are in one sector, or none is placed. Leases of several instances take the sector that they leave the
//! fewest hosts over in, so that whole sectors stay free for larger ones; what is equal otherwise is decided by the seed, so that
//! requests that come together do not all want the same host.

use freehold_proto::id::HostId;

use super::span::Span;

/// A host that may be leased, as far as its state goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The host.
    pub host: HostId,
    /// Where it is.
    pub sector: Sector,
    /// When it is taken.
    pub busy: Vec<Span>,
}

/// An InfiniBand or NVLink domain.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sector {
    /// Region.
    pub region: String,
    /// Name within the region.
    pub name: String,
}

/// Which hosts, all in one sector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The sector.
    pub sector: Sector,
    /// One for each instance, in the order of their ordinals.
    pub hosts: Vec<HostId>,
}

/// Chooses `count` hosts of one sector that are free during all of `during`; `None` when no sector has so many.
#[must_use]
pub fn place(candidates: &[Candidate], during: &Span, count: usize, seed: u64) -> Option<Plan> {
    let mut free: Vec<&Candidate> = candidates
        .iter()
        .filter(|candidate| !candidate.busy.iter().any(|busy| busy.overlaps(during)))
        .collect();
    free.sort_by_key(|candidate| (&candidate.sector, shuffle(candidate.host, seed)));
    let sectors = free.chunk_by(|a, b| a.sector == b.sector);
    let chosen = sectors
        .filter(|hosts| !hosts.is_empty() && hosts.len() >= count)
        .min_by_key(|hosts| {
            let left_over = if count > 1 { hosts.len() } else { 0 };
            (left_over, hosts.first().map(|c| shuffle(c.host, seed)))
        })?;
    Some(Plan {
        sector: chosen.first()?.sector.clone(),
        hosts: chosen.iter().take(count).map(|c| c.host).collect(),
    })
}

/// Chooses among sectors of which only the number of free hosts is known; by the same rule as [`place`].
#[must_use]
pub fn choose_sector(free: &[(Sector, usize)], count: usize, seed: u64) -> Option<&Sector> {
    free.iter()
        .enumerate()
        .filter(|(_, (_, hosts))| *hosts >= count)
        .min_by_key(|(index, (_, hosts))| {
            let left_over = if count > 1 { *hosts } else { 0 };
            (left_over, mix(seed ^ *index as u64))
        })
        .map(|(_, (sector, _))| sector)
}

fn shuffle(host: HostId, seed: u64) -> u64 {
    let (high, low) = host.uuid().as_u64_pair();
    mix(mix(high ^ seed) ^ low)
}

/// The finaliser of `SplitMix64`: every bit of the input moves every bit of the output.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use chrono::{DateTime, TimeDelta, Utc};
    use proptest::prelude::*;

    use super::*;

    fn at(hours: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::hours(hours)
    }

    fn fleet(sizes: &[usize]) -> Vec<Candidate> {
        sizes
            .iter()
            .enumerate()
            .flat_map(|(index, size)| {
                (0..*size).map(move |_| Candidate {
                    host: HostId::new(),
                    sector: Sector {
                        region: "here".to_owned(),
                        name: format!("sector-{index}"),
                    },
                    busy: Vec::new(),
                })
            })
            .collect()
    }

    /// The slow and obvious way: is there a sector with enough hosts that are free in every hour of the span?
    fn placeable(candidates: &[Candidate], during: &Span, count: usize) -> bool {
        let mut free: HashMap<&Sector, usize> = HashMap::new();
        for candidate in candidates {
            let last = during.to.map_or(at(400), |to| to.min(at(400)));
            let mut hour = during.from;
            let mut taken = false;
            while hour < last {
                taken |= candidate
                    .busy
                    .iter()
                    .any(|busy| busy.from <= hour && busy.to.is_none_or(|to| hour < to));
                hour += TimeDelta::hours(1);
            }
            *free.entry(&candidate.sector).or_default() += usize::from(!taken);
        }
        free.values().any(|hosts| *hosts >= count)
    }

    proptest! {
        #[test]
        fn bookings_never_overlap_stay_in_one_sector_and_are_found_when_they_exist(
            sizes in prop::collection::vec(0_usize..5, 1..4),
            asks in prop::collection::vec((0_i64..60, prop::option::of(1_i64..30), 1_usize..5, any::<u64>()), 1..40),
        ) {
            let mut candidates = fleet(&sizes);
            for (start, hours, count, seed) in asks {
                let during = Span { from: at(start), to: hours.map(|hours| at(start + hours)) };
                let expected = placeable(&candidates, &during, count);
                let plan = place(&candidates, &during, count, seed);
                prop_assert_eq!(plan.is_some(), expected);
                let Some(plan) = plan else { continue };
                let distinct: HashSet<HostId> = plan.hosts.iter().copied().collect();
                prop_assert_eq!(distinct.len(), count);
                for candidate in candidates.iter_mut().filter(|c| distinct.contains(&c.host)) {
                    prop_assert_eq!(&candidate.sector, &plan.sector);
                    prop_assert!(candidate.busy.iter().all(|busy| !busy.overlaps(&during)));
                    candidate.busy.push(during);
                }
            }
        }

        #[test]
        fn the_same_seed_chooses_the_same_hosts_in_any_order(sizes in prop::collection::vec(1_usize..6, 1..4), count in 1_usize..4, seed: u64) {
            let candidates = fleet(&sizes);
            let reversed: Vec<Candidate> = candidates.iter().rev().cloned().collect();
            let during = Span { from: at(0), to: None };
            prop_assert_eq!(place(&candidates, &during, count, seed), place(&reversed, &during, count, seed));
        }
    }

    #[test]
    fn several_instances_take_the_sector_that_fits_best() {
        let during = Span {
            from: at(0),
            to: None,
        };
        for seed in 0..20 {
            let plan = place(&fleet(&[5, 2, 9]), &during, 2, seed).unwrap();
            assert_eq!(plan.sector.name, "sector-1");
        }
    }

    #[test]
    fn seeds_spread_single_instances_over_the_hosts() {
        let during = Span {
            from: at(0),
            to: None,
        };
        let candidates = fleet(&[4, 4]);
        let chosen: HashSet<HostId> = (0..200)
            .filter_map(|seed| place(&candidates, &during, 1, seed))
            .flat_map(|plan| plan.hosts)
            .collect();
        assert_eq!(chosen.len(), 8);
    }

    #[test]
    fn a_sector_is_chosen_only_when_it_has_enough() {
        let sector = |name: &str| Sector {
            region: String::new(),
            name: name.to_owned(),
        };
        let free = [(sector("a"), 3), (sector("b"), 8), (sector("c"), 5)];
        assert_eq!(choose_sector(&free, 4, 1), Some(&free[2].0));
        assert_eq!(choose_sector(&free, 9, 1), None);
        let spread: HashSet<&Sector> = (0..50)
            .filter_map(|seed| choose_sector(&free, 1, seed))
            .collect();
        assert_eq!(spread.len(), 3);
    }
}
