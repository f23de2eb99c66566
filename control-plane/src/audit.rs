//! The audit log: one entry for every change, in the change's own transaction.

use std::{collections::BTreeMap, fmt};

use freehold_proto::id::{AuditId, OrganizationId, PrincipalId};
use sqlx::PgConnection;

use crate::{error::Result, gate::call_id};

mod convert;
pub mod rpc;
mod service;
mod store;
#[cfg(test)]
mod tests;

/// A change, as it is about to be recorded.
#[derive(Debug)]
pub struct Entry {
    principal: Option<PrincipalId>,
    organization: Option<OrganizationId>,
    action: &'static str,
    target: String,
    details: BTreeMap<String, String>,
}

impl Entry {
    /// A change to `target` by a principal; `None`: by the platform itself.
    pub fn new(
        principal: Option<PrincipalId>,
        organization: Option<OrganizationId>,
        action: &'static str,
        target: impl fmt::Display,
    ) -> Self {
        Self {
            principal,
            organization,
            action,
            target: target.to_string(),
            details: BTreeMap::new(),
        }
    }

    /// Adds what else is known. Never a secret.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.details.insert(key.to_owned(), value.to_string());
        self
    }

    /// Writes the entry.
    ///
    /// # Errors
    /// When the database does not answer; the caller's transaction must then not commit.
    pub async fn write(self, connection: &mut PgConnection) -> Result<()> {
        sqlx::query!(
            "insert into audit_entry (id, principal_id, organization_id, action, target_id, call_id, details)
             values ($1, $2, $3, $4, $5, $6, $7)",
            AuditId::new().uuid(),
            self.principal.map(PrincipalId::uuid),
            self.organization.map(OrganizationId::uuid),
            self.action,
            self.target,
            call_id(),
            serde_json::to_value(self.details).unwrap_or_default()
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}
