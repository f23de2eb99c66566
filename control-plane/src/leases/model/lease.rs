//! The state of a lease: a fold of its instances'.
//!
//! ```text
//! waitlisted ⇄ scheduled → provisioning → active ⇄ impaired → ending → ended
//!                               └→ failed
//! ```

use chrono::{DateTime, Utc};

use super::instance::{Recorded, stored_enum};

stored_enum! {
    /// Where a lease is in its life.
    LeaseState {
        /// Waits for capacity.
        Waitlisted = "waitlisted",
        /// Reserved; its window has not begun.
        Scheduled = "scheduled",
        /// Being brought up.
        Provisioning = "provisioning",
        /// Every instance is usable.
        Active = "active",
        /// An instance that was usable is not, or is unknown.
        Impaired = "impaired",
        /// Access is off; instances are being removed.
        Ending = "ending",
        /// Every instance has ended.
        Ended = "ended",
        /// Never became usable.
        Failed = "failed",
    }
}

impl LeaseState {
    /// True for the states that nothing leads out of.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Ended | Self::Failed)
    }
}

stored_enum! {
    /// Who or what ended a lease.
    EndCause {
        /// Somebody of the organization that has it.
        Tenant = "tenant",
        /// The operator.
        Operator = "operator",
        /// Its window was over.
        Window = "window",
        /// It could not be made usable.
        Failure = "failure",
    }
}

impl EndCause {
    /// In words, after "the lease was ended".
    #[must_use]
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Tenant => "by its organization",
            Self::Operator => "by the operator",
            Self::Window => "at the end of its window",
            Self::Failure => "since it could not be made usable",
        }
    }
}

/// One instance, as far as its lease's state goes.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// 0 to count-1.
    pub ordinal: i32,
    /// Its state.
    pub recorded: Recorded,
    /// Why, in words.
    pub reason: &'a str,
}

/// A lease, as far as its state goes.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot<'a> {
    /// Its instances.
    pub parts: &'a [Part<'a>],
    /// True once its window, less the lead, has begun.
    pub begun: bool,
    /// Start of its window.
    pub start: DateTime<Utc>,
    /// Who ended it; `None`: nobody.
    pub end_cause: Option<EndCause>,
    /// Why it could not be made usable; the first reason stays.
    pub failure: Option<&'a str>,
}

/// The state of a lease with these instances. The first rule that applies holds.
#[must_use]
pub fn fold(lease: &Snapshot<'_>) -> LeaseState {
    let any = |state| lease.parts.iter().any(|part| part.recorded == state);
    let all = |state| lease.parts.iter().all(|part| part.recorded == state);
    if lease.failure.is_some() {
        LeaseState::Failed
    } else if all(Recorded::Ended) {
        LeaseState::Ended
    } else if lease.end_cause.is_some() || any(Recorded::Ending) || any(Recorded::Ended) {
        LeaseState::Ending
    } else if any(Recorded::Impaired) {
        LeaseState::Impaired
    } else if all(Recorded::Usable) {
        LeaseState::Active
    } else if any(Recorded::Usable) || any(Recorded::Provisioning) {
        LeaseState::Provisioning
    } else if any(Recorded::Pending) {
        LeaseState::Waitlisted
    } else if lease.begun {
        LeaseState::Provisioning
    } else {
        LeaseState::Scheduled
    }
}

/// Why a lease is in its state, in words.
#[must_use]
pub fn reason(lease: &Snapshot<'_>) -> String {
    let of = |state: Recorded, otherwise: &str| parts_in_words(lease.parts, state, otherwise);
    match fold(lease) {
        LeaseState::Failed => lease.failure.unwrap_or_default().to_owned(),
        LeaseState::Ended => match lease.end_cause {
            Some(cause) => format!("the lease was ended {}", cause.in_words()),
            None => "every instance has ended".to_owned(),
        },
        LeaseState::Ending => match lease.end_cause {
            Some(cause) => format!(
                "the lease was ended {}; access is off and its instances are being removed",
                cause.in_words()
            ),
            None => "access is off and its instances are being removed".to_owned(),
        },
        LeaseState::Impaired => of(Recorded::Impaired, "is not usable"),
        LeaseState::Active => "every instance is usable".to_owned(),
        LeaseState::Provisioning => of(Recorded::Provisioning, "is being brought up"),
        LeaseState::Waitlisted => of(Recorded::Pending, "waits for a free host"),
        LeaseState::Scheduled => format!(
            "the window begins at {}",
            lease.start.format("%Y-%m-%dT%H:%M:%SZ")
        ),
    }
}

/// What the first instance in a state says of itself, and how many others are in it.
fn parts_in_words(parts: &[Part<'_>], state: Recorded, otherwise: &str) -> String {
    let mut matching = parts.iter().filter(|part| part.recorded == state);
    let Some(first) = matching.next() else {
        return "its instances are being brought up".to_owned();
    };
    let words = if first.reason.is_empty() {
        format!("instance {} {otherwise}", first.ordinal)
    } else {
        format!("instance {}: {}", first.ordinal, first.reason)
    };
    match matching.count() {
        0 => words,
        others => format!("{words} (and {others} more)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(states: &[Recorded]) -> Vec<Part<'static>> {
        states
            .iter()
            .zip(0..)
            .map(|(recorded, ordinal)| Part {
                ordinal,
                recorded: *recorded,
                reason: "",
            })
            .collect()
    }

    fn snapshot<'a>(parts: &'a [Part<'a>]) -> Snapshot<'a> {
        Snapshot {
            parts,
            begun: true,
            start: DateTime::UNIX_EPOCH,
            end_cause: None,
            failure: None,
        }
    }

    /// What a lease of two instances is once its window has begun; a row is the first instance, a column the second, in the order of
    /// `Recorded::ALL`.
    #[test]
    fn every_pair_of_instances_folds_to_what_the_table_says() {
        const TABLE: [&str; 7] = [
            // pending placed provisioning usable impaired ending ended
            "WWPPIEE", "WPPPIEE", "PPPPIEE", "PPPAIEE", "IIIIIEE", "EEEEEEE", "EEEEEE-",
        ];
        let letter = |state| match state {
            LeaseState::Waitlisted => 'W',
            LeaseState::Scheduled => 'S',
            LeaseState::Provisioning => 'P',
            LeaseState::Active => 'A',
            LeaseState::Impaired => 'I',
            LeaseState::Ending => 'E',
            LeaseState::Ended => '-',
            LeaseState::Failed => 'F',
        };
        for (first, row) in Recorded::ALL.iter().zip(TABLE) {
            for (second, expected) in Recorded::ALL.iter().zip(row.chars()) {
                let parts = parts(&[*first, *second]);
                assert_eq!(
                    letter(fold(&snapshot(&parts))),
                    expected,
                    "{first} {second}"
                );
            }
        }
    }

    #[test]
    fn a_lease_is_scheduled_only_before_its_window_with_every_instance_placed() {
        for state in Recorded::ALL {
            let parts = parts(&[*state, Recorded::Placed]);
            let early = Snapshot {
                begun: false,
                ..snapshot(&parts)
            };
            assert_eq!(
                fold(&early) == LeaseState::Scheduled,
                *state == Recorded::Placed,
                "{state}"
            );
        }
    }

    #[test]
    fn an_end_outweighs_every_state_but_ended_and_failed() {
        for state in Recorded::ALL {
            let parts = parts(&[*state]);
            let ended = Snapshot {
                end_cause: Some(EndCause::Tenant),
                ..snapshot(&parts)
            };
            let expected = if *state == Recorded::Ended {
                LeaseState::Ended
            } else {
                LeaseState::Ending
            };
            assert_eq!(fold(&ended), expected, "{state}");
        }
    }

    #[test]
    fn a_failed_lease_stays_failed_and_says_why() {
        for state in Recorded::ALL {
            let parts = parts(&[*state]);
            let failed = Snapshot {
                failure: Some("the image cannot be had"),
                end_cause: Some(EndCause::Failure),
                ..snapshot(&parts)
            };
            assert_eq!(fold(&failed), LeaseState::Failed);
            assert_eq!(reason(&failed), "the image cannot be had");
        }
    }

    #[test]
    fn the_reason_names_the_instance_that_is_behind_it() {
        let mut parts = parts(&[Recorded::Usable, Recorded::Impaired, Recorded::Impaired]);
        parts[1].reason = "a GPU fell off the bus";
        assert_eq!(
            reason(&snapshot(&parts)),
            "instance 1: a GPU fell off the bus (and 1 more)"
        );
        assert_eq!(reason(&snapshot(&parts[2..])), "instance 2 is not usable");
    }
}
