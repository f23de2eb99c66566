//! Roles.

use std::{fmt, str::FromStr};

/// What a principal may do; the table in [`super::rules`] says what that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Everything within its organization.
    Owner,
    /// Everything within its organization but keys of owners.
    Admin,
    /// Leases and access within its organization.
    Developer,
    /// Reads bills and leases.
    Billing,
    /// Reads leases.
    Viewer,
    /// Runs the platform.
    Operator,
    /// Reads everything, changes nothing.
    Auditor,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 7] = [
        Self::Owner,
        Self::Admin,
        Self::Developer,
        Self::Billing,
        Self::Viewer,
        Self::Operator,
        Self::Auditor,
    ];

    /// As stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Admin => "admin",
            Self::Developer => "developer",
            Self::Billing => "billing",
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Auditor => "auditor",
        }
    }

    /// Whether a principal with this role may hand out the other: nobody hands out more than it has.
    #[must_use]
    pub fn may_grant(self, other: Self) -> bool {
        match self {
            Self::Operator => true,
            Self::Owner => !matches!(other, Self::Operator | Self::Auditor),
            Self::Admin => !matches!(other, Self::Operator | Self::Auditor | Self::Owner),
            _ => false,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| anyhow::anyhow!("`{text}` is not a role"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_grants_more_than_it_has() {
        assert!(!Role::Admin.may_grant(Role::Owner));
        assert!(!Role::Owner.may_grant(Role::Operator));
        assert!(!Role::Developer.may_grant(Role::Viewer));
        assert!(!Role::Auditor.may_grant(Role::Auditor));
        assert!(Role::Operator.may_grant(Role::Operator));
    }

    #[test]
    fn every_role_round_trips_through_its_text() {
        for role in Role::ALL {
            assert_eq!(role.as_str().parse::<Role>().ok(), Some(role));
        }
    }
}
