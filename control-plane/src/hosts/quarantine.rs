//! Quarantine: a host that failed a step is out of use until the operator's recorded release.

use freehold_proto::id::HostId;
use sqlx::{Connection as _, PgConnection};

use crate::{
    audit,
    database::{Signal, notify},
    error::{Result, violates},
};

/// Quarantines a host; the first reason stays. Its occupancy goes on as one of kind `quarantine`; bookings behind it are re-placed by the
/// reconciler of leases.
///
/// # Errors
/// When the database does not answer.
pub async fn quarantine(connection: &mut PgConnection, host: HostId, reason: &str) -> Result<()> {
    let fresh = sqlx::query!(
        "update host set clean = false, quarantine_reason = $2 where id = $1 and quarantine_reason is null",
        host.uuid(),
        reason
    )
    .execute(&mut *connection)
    .await?;
    if fresh.rows_affected() == 0 {
        return Ok(());
    }
    tracing::warn!(host.id = %host, reason, "a host is quarantined");
    keep_occupied(connection, host).await?;
    audit::Entry::new(None, None, "host.quarantine", host)
        .with("reason", reason)
        .write(connection)
        .await?;
    notify(connection, &Signal::Host(host.uuid())).await
}

/// Turns what occupies the host now into a quarantine, without end where no booking stands behind it.
async fn keep_occupied(connection: &mut PgConnection, host: HostId) -> Result<()> {
    sqlx::query!(
        "update occupancy set kind = 'quarantine' where host_id = $1 and kind in ('lease', 'scrub') and not movable
             and lower(during) <= now() and (upper_inf(during) or upper(during) > now())",
        host.uuid()
    )
    .execute(&mut *connection)
    .await?;
    let mut savepoint = connection.begin().await?;
    let endless = sqlx::query!(
        "update occupancy set during = tstzrange(lower(during), null) where host_id = $1 and kind = 'quarantine'
             and lower(during) <= now() and upper(during) > now()",
        host.uuid()
    )
    .execute(&mut *savepoint)
    .await;
    match endless {
        Ok(_) => savepoint.commit().await?,
        Err(error) if violates(&error, "occupancy_no_double_booking") => {
            savepoint.rollback().await?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
