//! Typed ids: UUIDv7 in the database, a prefix and 32 hexadecimal digits everywhere else. An id refuses another kind's prefix.

use std::{fmt, str::FromStr};

use uuid::Uuid;

/// Why a text is not an id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an id of this kind: expected `{prefix}_` and 32 hexadecimal digits")]
pub struct ParseIdError {
    /// What was given, cut to 80 characters.
    pub text: String,
    /// The prefix that was expected.
    pub prefix: &'static str,
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Uuid);

        impl $name {
            /// What stands before the underscore.
            pub const PREFIX: &'static str = $prefix;

            /// A fresh id. Ids made later sort later.
            #[must_use]
            #[allow(clippy::new_without_default, reason = "two calls differ")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// The bare UUID, for the database.
            #[must_use]
            pub fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "_{}"), self.0.simple())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse(text, $prefix).map(Self)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

ids! {
    /// An API key.
    ApiKeyId = "key";
    /// An audit entry.
    AuditId = "audit";
    /// One call, as shown in errors and logs.
    CallId = "call";
    /// An enrolment token.
    EnrollmentId = "enrollment";
    /// A physical machine.
    HostId = "host";
    /// One node of a lease.
    InstanceId = "inst";
    /// The contract.
    LeaseId = "lease";
    /// A posting: entries that sum to zero.
    LedgerTransactionId = "ledger";
    /// Who has which GPUs of which host when.
    OccupancyId = "occupancy";
    /// A tenant.
    OrganizationId = "org";
    /// A price with its validity.
    PriceId = "price";
    /// Whoever acts.
    PrincipalId = "principal";
    /// A cost centre.
    ProjectId = "project";
    /// A running control plane.
    ReplicaId = "replica";
    /// The record of one cleaning.
    ScrubId = "scrub";
    /// A priced part of a lease.
    SegmentId = "segment";
    /// What is sold.
    TypeId = "type";
    /// A metered fact.
    UsageId = "usage";
}

fn parse(text: &str, prefix: &'static str) -> Result<Uuid, ParseIdError> {
    let refuse = || ParseIdError {
        text: text.chars().take(80).collect(),
        prefix,
    };
    let digits = text
        .strip_prefix(prefix)
        .and_then(|rest| rest.strip_prefix('_'))
        .ok_or_else(refuse)?;
    let canonical = digits.len() == 32
        && digits
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if !canonical {
        return Err(refuse());
    }
    Uuid::try_parse(digits).map_err(|_| refuse())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_round_trips_through_its_text() {
        let id = LeaseId::new();
        assert_eq!(id.to_string().parse::<LeaseId>(), Ok(id));
    }

    #[test]
    fn an_id_refuses_other_prefixes_and_other_spellings() {
        let host = HostId::new().to_string();
        assert!(host.parse::<LeaseId>().is_err());
        for text in [
            "",
            "host",
            "host_",
            "host_zz",
            &host.to_uppercase(),
            &host[..36],
            &format!("{host}0"),
        ] {
            assert!(text.parse::<HostId>().is_err(), "{text}");
        }
    }

    #[test]
    fn later_ids_sort_later() {
        let first = LeaseId::new();
        let second = LeaseId::new();
        assert!(first < second);
    }
}
