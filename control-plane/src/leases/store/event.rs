//! Writing a lease's history, as `freehold lease explain` shows it.

use freehold_proto::id::{InstanceId, LeaseId};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::error::Result;

/// Writes an event into a lease's history.
///
/// # Errors
/// When the database does not answer.
pub async fn record_event(
    connection: &mut PgConnection,
    lease: Uuid,
    instance: Option<Uuid>,
    kind: &str,
    detail: &str,
) -> Result<()> {
    sqlx::query!(
        "insert into lease_event (id, lease_id, instance_id, at, kind, detail) values ($1, $2, $3, clock_timestamp(), $4, $5)",
        Uuid::now_v7(),
        lease,
        instance,
        kind,
        detail
    )
    .execute(connection)
    .await?;
    tracing::info!(
        lease.id = %LeaseId::from(lease),
        instance.id = instance.map(|id| InstanceId::from(id).to_string()),
        kind,
        detail,
        "lease event"
    );
    Ok(())
}
