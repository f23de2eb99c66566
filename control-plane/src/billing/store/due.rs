//! Which leases the meter has to look at, and that it has.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::Metered;
use crate::{
    database::{Signal, notify},
    error::Result,
};

/// Leases after `after`, in the order of their ids, whose availability changed, for which time alone changes what is owed, or whose meter waits
/// to be closed.
pub(in crate::billing) async fn due_leases(
    pool: &PgPool,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Uuid>> {
    Ok(sqlx::query_scalar!(
        r#"select lease_id as "id!" from (
               select i.lease_id from availability a join instance i on i.id = a.instance_id
               where a.replaced_at is null and a.metered_to is distinct from coalesce(a.to_at, 'infinity'::timestamptz)
               union
               select id from lease where meter_due_at <= now()
               union
               select i.lease_id from instance i join lease l on l.id = i.lease_id
               where i.meter_closed_at is null and i.recorded in ('ending', 'ended')
                   and (l.meter_due_at is null or l.meter_due_at <= now())) due
           where $1::uuid is null or lease_id > $1 order by lease_id limit $2"#,
        after,
        limit
    )
    .fetch_all(pool)
    .await?)
}

/// Says when the meter has to look at the lease again, whatever its availability does.
pub(in crate::billing) async fn set_due(
    connection: &mut PgConnection,
    lease: Uuid,
    due: Option<DateTime<Utc>>,
) -> Result<()> {
    sqlx::query!(
        "update lease set meter_due_at = $2 where id = $1 and meter_due_at is distinct from $2",
        lease,
        due
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Closes the meter of every instance of a lease, once.
pub(in crate::billing) async fn close_meter(
    connection: &mut PgConnection,
    lease: Uuid,
) -> Result<()> {
    let closed = sqlx::query!(
        "update instance set meter_closed_at = now() where lease_id = $1 and meter_closed_at is null",
        lease
    )
    .execute(&mut *connection)
    .await?;
    if closed.rows_affected() > 0 {
        notify(connection, &Signal::Lease(lease)).await?;
    }
    Ok(())
}

/// Remembers which availability the meter has taken in. What changed since it was read, or is being changed, stays unmetered: the next pass
/// takes it in. No row is waited for, so that the meter stands in nobody's way.
pub(in crate::billing) async fn mark_metered(
    connection: &mut PgConnection,
    metered: &Metered,
) -> Result<()> {
    let (ids, ends): (Vec<Uuid>, Vec<Option<DateTime<Utc>>>) = metered
        .unmetered
        .iter()
        .map(|stretch| (stretch.id, stretch.to))
        .unzip();
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "update availability set metered_to = coalesce(to_at, 'infinity'::timestamptz) where id in (
             select a.id from availability a join unnest($1::uuid[], $2::timestamptz[]) read (id, to_at) on read.id = a.id
             where a.to_at is not distinct from read.to_at order by a.id for no key update of a skip locked)",
        &ids,
        &ends as &[Option<DateTime<Utc>>]
    )
    .execute(connection)
    .await?;
    Ok(())
}
