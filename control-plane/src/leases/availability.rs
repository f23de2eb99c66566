//! The rows behind the meter: which instance was usable when, and why not. A stretch that turned out otherwise is replaced, never changed.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::model::condition::{Availability, Condition};
use crate::{
    database::{Signal, notify},
    error::Result,
};

/// A stretch that goes on.
pub struct OpenStretch {
    /// Its row.
    pub id: Uuid,
    /// Since when.
    pub from_at: DateTime<Utc>,
    /// `usable`, `unusable` or `unknown`.
    pub state: String,
    /// `none`, `provider` or `tenant`.
    pub fault_party: String,
}

/// The stretch of an instance that goes on now.
///
/// # Errors
/// When the database does not answer.
pub async fn find_open(
    connection: &mut PgConnection,
    instance: Uuid,
) -> Result<Option<OpenStretch>> {
    Ok(sqlx::query_as!(
        OpenStretch,
        "select id, from_at, state, fault_party from availability
         where instance_id = $1 and to_at is null and replaced_at is null for update",
        instance
    )
    .fetch_optional(connection)
    .await?)
}

/// True when a stretch of this condition goes on already.
///
/// # Errors
/// When the database does not answer.
pub async fn is_open(
    connection: &mut PgConnection,
    instance: Uuid,
    condition: &Condition,
) -> Result<bool> {
    Ok(sqlx::query_scalar!(
        r#"select exists(select 1 from availability where instance_id = $1 and to_at is null and replaced_at is null
               and state = $2 and fault_party = $3) as "open!""#,
        instance,
        condition.availability.as_str(),
        condition.fault.as_str()
    )
    .fetch_one(connection)
    .await?)
}

/// Begins a stretch at `from` unless the same one goes on already; the one before ends there. Returns whether anything changed.
///
/// A stretch never begins before the one that it follows: `from` is moved on where needed.
///
/// # Errors
/// When the database does not answer.
pub async fn begin(
    connection: &mut PgConnection,
    instance: Uuid,
    from: DateTime<Utc>,
    condition: &Condition,
) -> Result<bool> {
    let mut from = from;
    if let Some(open) = find_open(connection, instance).await? {
        if open.state == condition.availability.as_str()
            && open.fault_party == condition.fault.as_str()
        {
            return Ok(false);
        }
        from = from.max(open.from_at);
        close(connection, &open, from).await?;
    }
    sqlx::query!(
        "insert into availability (id, instance_id, from_at, state, fault_party, evidence) values ($1, $2, $3, $4, $5, $6)",
        Uuid::now_v7(),
        instance,
        from,
        condition.availability.as_str(),
        condition.fault.as_str(),
        condition.evidence
    )
    .execute(&mut *connection)
    .await?;
    notify(connection, &Signal::Meter).await?;
    Ok(true)
}

/// Ends the stretch that goes on, at `at`.
///
/// # Errors
/// When the database does not answer.
pub async fn end(connection: &mut PgConnection, instance: Uuid, at: DateTime<Utc>) -> Result<()> {
    if let Some(open) = find_open(connection, instance).await? {
        let at = at.max(open.from_at);
        close(connection, &open, at).await?;
        notify(connection, &Signal::Meter).await?;
    }
    Ok(())
}

async fn close(connection: &mut PgConnection, open: &OpenStretch, at: DateTime<Utc>) -> Result<()> {
    sqlx::query!(
        "update availability set to_at = $2 where id = $1",
        open.id,
        at
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Fills unknown stretches in from the agent's journal: where it proves that the instance ran and was reachable, the unknown stretch is
/// replaced by a usable one, and what is left of it stays unknown. Stretches longer than `longest` stay as they are.
///
/// # Errors
/// When the database does not answer.
pub async fn fill_in(
    connection: &mut PgConnection,
    instance: Uuid,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    longest: chrono::Duration,
) -> Result<u64> {
    let unknown = sqlx::query!(
        "select id, from_at, to_at from availability
         where instance_id = $1 and state = 'unknown' and replaced_at is null
             and from_at < $3 and (to_at is null or to_at > $2)
             and coalesce(to_at, now()) - from_at <= make_interval(secs => $4)
         order by from_at for update",
        instance,
        from,
        to,
        longest.num_seconds() as f64
    )
    .fetch_all(&mut *connection)
    .await?;
    for stretch in &unknown {
        sqlx::query!(
            "update availability set replaced_at = now() where id = $1",
            stretch.id
        )
        .execute(&mut *connection)
        .await?;
        let usable_from = from.max(stretch.from_at);
        let usable_to = stretch.to_at.map_or(to, |end| end.min(to));
        let parts = [
            (stretch.from_at, Some(usable_from), Availability::Unknown),
            (usable_from, Some(usable_to), Availability::Usable),
            // Still open when the stretch was: what comes after the journal is not known yet.
            (usable_to, stretch.to_at, Availability::Unknown),
        ];
        for (part_from, part_to, state) in parts
            .into_iter()
            .filter(|(from, to, _)| to.is_none_or(|to| *from < to))
        {
            insert_part(connection, instance, (part_from, part_to), state).await?;
        }
    }
    if !unknown.is_empty() {
        notify(connection, &Signal::Meter).await?;
    }
    Ok(unknown.len() as u64)
}

async fn insert_part(
    connection: &mut PgConnection,
    instance: Uuid,
    (from, to): (DateTime<Utc>, Option<DateTime<Utc>>),
    state: Availability,
) -> Result<()> {
    let usable = state == Availability::Usable;
    sqlx::query!(
        "insert into availability (id, instance_id, from_at, to_at, state, fault_party, evidence)
         values ($1, $2, $3, $4, $5, $6, $7)",
        Uuid::now_v7(),
        instance,
        from,
        to,
        state.as_str(),
        if usable { "none" } else { "provider" },
        if usable {
            "the agent's journal"
        } else {
            "the host's agent was not heard, and its journal does not say"
        }
    )
    .execute(connection)
    .await?;
    Ok(())
}
