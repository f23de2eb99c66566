//! What happened to a lease, and what it cost.

use chrono::{DateTime, Utc};
use freehold_proto::id::LeaseId;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::error::Result;

/// Rows of each kind that are shown; of longer histories the newest.
const MAX_ROWS: i64 = 1000;

/// A lease's past.
#[derive(Debug, Clone)]
pub struct History {
    /// Oldest first.
    pub events: Vec<EventRow>,
    /// Oldest first.
    pub availability: Vec<AvailabilityRow>,
    /// What has been posted, and its currency; `None`: nothing has.
    pub cost: Option<(i64, String)>,
}

/// Something that happened.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the columns of the schema")]
pub struct EventRow {
    pub at: DateTime<Utc>,
    pub kind: String,
    pub detail: String,
    pub instance_id: Option<Uuid>,
}

/// A stretch of one instance's time.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the columns of the schema")]
pub struct AvailabilityRow {
    pub instance_id: Uuid,
    pub from_at: DateTime<Utc>,
    /// `None`: it goes on.
    pub to_at: Option<DateTime<Utc>>,
    pub state: String,
    pub fault_party: String,
    pub evidence: String,
}

/// Reads a lease's past.
///
/// # Errors
/// When the database does not answer.
pub async fn load_history(connection: &mut PgConnection, lease: LeaseId) -> Result<History> {
    let events = sqlx::query_as!(
        EventRow,
        r#"select at as "at!", kind as "kind!", detail as "detail!", instance_id from (
               select id, at, kind, detail, instance_id from lease_event where lease_id = $1 order by id desc limit $2) newest
           order by at, id"#,
        lease.uuid(),
        MAX_ROWS
    )
    .fetch_all(&mut *connection)
    .await?;
    let availability = sqlx::query_as!(
        AvailabilityRow,
        r#"select instance_id as "instance_id!", from_at as "from_at!", to_at, state as "state!", fault_party as "fault_party!",
               evidence as "evidence!"
           from (select a.* from availability a join instance i on i.id = a.instance_id
                 where i.lease_id = $1 and a.replaced_at is null order by a.from_at desc, a.id desc limit $2) newest
           order by from_at, id"#,
        lease.uuid(),
        MAX_ROWS
    )
    .fetch_all(&mut *connection)
    .await?;
    let cost = sqlx::query!(
        r#"select sum(amount_micros)::bigint as "micros!", currency from usage_record where lease_id = $1
           group by currency order by currency limit 1"#,
        lease.uuid()
    )
    .fetch_optional(connection)
    .await?;
    Ok(History {
        events,
        availability,
        cost: cost.map(|row| (row.micros, row.currency)),
    })
}
