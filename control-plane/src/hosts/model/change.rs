//! What the operator does with hosts.

/// What the operator wants of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hosts) enum Change<'a> {
    /// Take no new bookings.
    Cordon { reason: &'a str },
    /// Take bookings again.
    Uncordon,
    /// Out of quarantine, into a scrub.
    Release { reason: &'a str },
    /// Gone for good.
    Remove,
}

impl Change<'_> {
    /// As the audit log names it.
    pub(in crate::hosts) fn action(self) -> &'static str {
        match self {
            Self::Cordon { .. } => "host.cordon",
            Self::Uncordon => "host.uncordon",
            Self::Release { .. } => "host.release",
            Self::Remove => "host.remove",
        }
    }
}
