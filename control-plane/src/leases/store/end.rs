//! Ending a lease, from any state.

use freehold_proto::id::{LeaseId, OrganizationId};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    app::App,
    audit,
    database::{Signal, notify},
    error::{Error, Result},
    gate::Caller,
    leases::{
        availability,
        model::{
            instance::{Event, Recorded, transition},
            lease::EndCause,
        },
        store::{record_event, refold},
    },
};

/// Ends a lease on behalf of a caller. Ending one that is ending, has ended or has failed changes nothing.
///
/// # Errors
/// When the database does not answer.
pub async fn end_lease(app: &App, caller: &Caller, lease: LeaseId) -> Result<()> {
    let mut tx = app.pool.begin().await?;
    let row = sqlx::query!(
        "select organization_id, name, state, end_requested_at from lease where id = $1 for update",
        lease.uuid()
    )
    .fetch_one(&mut *tx)
    .await?;
    if row.end_requested_at.is_some() || matches!(row.state.as_str(), "ended" | "failed") {
        return Ok(());
    }
    let organization = OrganizationId::from(row.organization_id);
    let cause = if caller.sees_all() && caller.organization != organization {
        EndCause::Operator
    } else {
        EndCause::Tenant
    };
    end_instances(app, &mut tx, lease.uuid(), cause).await?;
    audit::Entry::new(
        Some(caller.principal),
        Some(organization),
        "lease.end",
        lease,
    )
    .with("name", &row.name)
    .with("cause", cause)
    .write(&mut tx)
    .await?;
    tx.commit().await?;
    Ok(())
}

/// Writes down that a lease is ended and why, and takes its instances on their way: those that have nothing on a host end at once and free it,
/// the others are `ending` until their agents say that nothing is left. The first cause stays. The meter stops here.
///
/// The caller holds the lease's row lock, and sets `failure` before where that is the cause.
///
/// # Errors
/// When the database does not answer.
pub async fn end_instances(
    app: &App,
    connection: &mut PgConnection,
    lease: Uuid,
    cause: EndCause,
) -> Result<()> {
    sqlx::query!(
        "update lease set end_requested_at = coalesce(end_requested_at, now()), end_cause = coalesce(end_cause, $2) where id = $1",
        lease,
        cause.as_str()
    )
    .execute(&mut *connection)
    .await?;
    let instances = sqlx::query!(
        r#"select id, recorded, now() as "now!" from instance where lease_id = $1 and recorded <> 'ended' order by ordinal for update"#,
        lease
    )
    .fetch_all(&mut *connection)
    .await?;
    for instance in instances {
        let from = instance
            .recorded
            .parse::<Recorded>()
            .map_err(Error::internal)?;
        let to = transition(from, Event::End).map_err(Error::internal)?;
        availability::end(connection, instance.id, instance.now).await?;
        sqlx::query!(
            "update instance set desired = 'ended', recorded = $2, state_reason = $3,
                 state_since = case when recorded = $2 then state_since else now() end,
                 ended_at = case when $2 = 'ended' then now() end
             where id = $1",
            instance.id,
            to.as_str(),
            format!("the lease was ended {}", cause.in_words())
        )
        .execute(&mut *connection)
        .await?;
        if to == Recorded::Ended {
            leave_host(connection, instance.id).await?;
        }
    }
    record_event(
        connection,
        lease,
        None,
        "end_requested",
        &format!("the lease was ended {}", cause.in_words()),
    )
    .await?;
    refold(app, connection, lease).await?;
    notify(connection, &Signal::Lease(lease)).await
}

/// Frees the host of an instance that never had anything on it, and destroys the key that it never used.
async fn leave_host(connection: &mut PgConnection, instance: Uuid) -> Result<()> {
    sqlx::query!(
        "delete from occupancy where instance_id = $1 and kind = 'lease'",
        instance
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "update incarnation set ended_at = now(), end_reason = 'ended before anything ran' where instance_id = $1 and ended_at is null",
        instance
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "update instance set scratch_key = null, scratch_key_destroyed_at = now() where id = $1",
        instance
    )
    .execute(connection)
    .await?;
    Ok(())
}
