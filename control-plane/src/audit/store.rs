//! SQL of the audit log's readers.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{error::Result, page::Page};

/// A change that was recorded.
#[derive(Debug, Clone)]
pub(super) struct AuditRow {
    pub(super) id: Uuid,
    pub(super) at: DateTime<Utc>,
    pub(super) principal_id: Option<Uuid>,
    pub(super) organization_id: Option<Uuid>,
    pub(super) action: String,
    pub(super) target_id: String,
    pub(super) call_id: String,
    pub(super) details: serde_json::Value,
}

/// Entries of an organization, or of all, newest first; with `action`, only of that action.
pub(super) async fn list_entries(
    connection: &mut PgConnection,
    organization: Option<Uuid>,
    action: Option<&str>,
    page: Page,
) -> Result<Vec<AuditRow>> {
    Ok(sqlx::query_as!(
        AuditRow,
        "select id, at, principal_id, organization_id, action, target_id, call_id, details from audit_entry
         where ($1::uuid is null or organization_id = $1) and ($2::text is null or action = $2)
             and ($3::uuid is null or id < $3)
         order by id desc limit $4",
        organization,
        action,
        page.after,
        page.fetch()
    )
    .fetch_all(connection)
    .await?)
}
