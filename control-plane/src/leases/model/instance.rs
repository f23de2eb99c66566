//! The states of an instance: what is wanted, what is recorded, what its agent says.
//!
//! ```text
//! pending → placed → provisioning → usable ⇄ impaired → ending → ended
//!             ↑___________|  (re-placed: next generation)
//! ```
//! A lease can be ended from every state. What never left `placed` has nothing on a host and ends at once; everything else passes through
//! `ending`, and its host through a scrub.

macro_rules! stored_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// As stored and shown.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl std::str::FromStr for $name {
            type Err = anyhow::Error;

            fn from_str(text: &str) -> anyhow::Result<Self> {
                match text {
                    $($text => Ok(Self::$variant),)*
                    _ => Err(anyhow::anyhow!(concat!("`{}` is not a ", stringify!($name)), text)),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

pub(crate) use stored_enum;

stored_enum! {
    /// What is wanted of an instance.
    Desired {
        /// Up for its window.
        Running = "running",
        /// Gone.
        Ended = "ended",
    }
}

stored_enum! {
    /// Where an instance is in its life.
    Recorded {
        /// Reserved without a host.
        Pending = "pending",
        /// Has a host; nothing runs yet.
        Placed = "placed",
        /// Being brought up.
        Provisioning = "provisioning",
        /// Its SSH answered through the gateway and all its GPUs were seen inside.
        Usable = "usable",
        /// Was usable; is not, or is unknown.
        Impaired = "impaired",
        /// Access is off; being removed.
        Ending = "ending",
        /// Nothing of it is left but the scrub of its host.
        Ended = "ended",
    }
}

stored_enum! {
    /// What the agent says. Unknown is a state of its own: nothing is concluded from silence.
    Reported {
        /// The agent has not said, or cannot be heard.
        Unknown = "unknown",
        /// Nothing of it is on the host.
        Absent = "absent",
        /// Image, network, scratch or container are being made.
        Preparing = "preparing",
        /// Its container runs.
        Running = "running",
        /// Its container exists and does not run.
        Stopped = "stopped",
        /// Being removed.
        Removing = "removing",
        /// Could not be brought up.
        Failed = "failed",
    }
}

/// What happens to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It was given a host.
    Place,
    /// Its host was taken away before anything ran there.
    Unplace,
    /// Its time has come: the agent is told to bring it up.
    Provision,
    /// It could not be brought up on its host, and is given another.
    Replace,
    /// It was verified usable.
    Verify,
    /// It was usable and is not, or is unknown.
    Impair,
    /// Its end was asked for or fell due, or its lease failed.
    End,
    /// The agent said that nothing of it is left.
    Gone,
}

/// An event that does not fit the state: somebody else was faster, and the state is read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an instance that is {from} cannot {event:?}")]
pub struct Refused {
    /// The state.
    pub from: Recorded,
    /// The event.
    pub event: Event,
}

/// The only way from one recorded state to another.
///
/// # Errors
/// [`Refused`] when the event does not fit the state. An event that was already answered is not refused: `End` of what is ending or ended,
/// `Verify` of what is usable, and so on, change nothing.
pub fn transition(from: Recorded, event: Event) -> Result<Recorded, Refused> {
    use Recorded::{Ended, Ending, Impaired, Pending, Placed, Provisioning, Usable};
    match (from, event) {
        (Pending, Event::Place) => Ok(Placed),
        (Placed, Event::Place | Event::Replace) => Ok(Placed),
        (Pending | Placed, Event::Unplace) => Ok(Pending),
        (Placed | Provisioning, Event::Provision) => Ok(Provisioning),
        (Provisioning, Event::Replace) => Ok(Placed),
        (Provisioning | Impaired | Usable, Event::Verify) => Ok(Usable),
        (Usable | Impaired, Event::Impair) => Ok(Impaired),
        (Pending | Placed, Event::End) => Ok(Ended),
        (Provisioning | Usable | Impaired | Ending, Event::End) => Ok(Ending),
        (Ending | Ended, Event::Gone) | (Ended, Event::End) => Ok(Ended),
        _ => Err(Refused { from, event }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [Event; 8] = [
        Event::Place,
        Event::Unplace,
        Event::Provision,
        Event::Replace,
        Event::Verify,
        Event::Impair,
        Event::End,
        Event::Gone,
    ];

    /// The whole table, a row a state, in the order of `EVENTS`; `None`: refused.
    #[test]
    fn every_pair_of_state_and_event_is_as_the_diagram_says() {
        use Recorded::{Ended, Ending, Impaired, Pending, Placed, Provisioning, Usable};
        let table: [(Recorded, [Option<Recorded>; 8]); 7] = [
            (
                Pending,
                [
                    Some(Placed),
                    Some(Pending),
                    None,
                    None,
                    None,
                    None,
                    Some(Ended),
                    None,
                ],
            ),
            (
                Placed,
                [
                    Some(Placed),
                    Some(Pending),
                    Some(Provisioning),
                    Some(Placed),
                    None,
                    None,
                    Some(Ended),
                    None,
                ],
            ),
            (
                Provisioning,
                [
                    None,
                    None,
                    Some(Provisioning),
                    Some(Placed),
                    Some(Usable),
                    None,
                    Some(Ending),
                    None,
                ],
            ),
            (
                Usable,
                [
                    None,
                    None,
                    None,
                    None,
                    Some(Usable),
                    Some(Impaired),
                    Some(Ending),
                    None,
                ],
            ),
            (
                Impaired,
                [
                    None,
                    None,
                    None,
                    None,
                    Some(Usable),
                    Some(Impaired),
                    Some(Ending),
                    None,
                ],
            ),
            (
                Ending,
                [
                    None,
                    None,
                    None,
                    None,
                    None,
                    None,
                    Some(Ending),
                    Some(Ended),
                ],
            ),
            (
                Ended,
                [None, None, None, None, None, None, Some(Ended), Some(Ended)],
            ),
        ];
        for (from, row) in table {
            for (event, expected) in EVENTS.into_iter().zip(row) {
                assert_eq!(transition(from, event).ok(), expected, "{from} {event:?}");
            }
        }
    }

    #[test]
    fn a_lease_can_be_ended_from_every_state() {
        for from in Recorded::ALL {
            let ended = transition(*from, Event::End).unwrap();
            assert!(
                matches!(ended, Recorded::Ending | Recorded::Ended),
                "{from}"
            );
        }
    }

    #[test]
    fn states_round_trip_through_their_text() {
        for state in Recorded::ALL {
            assert_eq!(state.as_str().parse::<Recorded>().unwrap(), *state);
        }
        for state in Reported::ALL {
            assert_eq!(state.as_str().parse::<Reported>().unwrap(), *state);
        }
    }
}
