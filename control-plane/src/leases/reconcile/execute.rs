//! What was decided, made so: a transaction each, that does nothing when the instance is no longer what the snapshot said.

use freehold_proto::id::{HostId, InstanceId, ScrubId};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    orders::{self, Sent},
    snapshot::View,
};
use crate::{
    app::App,
    error::{Error, Result},
    hosts::quarantine::quarantine,
    leases::{
        availability,
        model::{
            condition::{Availability, Condition, FaultParty},
            instance::{Event, Recorded, transition},
            lease::EndCause,
        },
        store::{end_instances, record_event, refold},
    },
};

/// Locks the lease's row and says whether the instance is still what the snapshot said.
pub(super) async fn lock(connection: &mut PgConnection, view: &View) -> Result<bool> {
    sqlx::query!(
        "select id from lease where id = $1 for update",
        view.lease.uuid()
    )
    .fetch_one(&mut *connection)
    .await?;
    let row = sqlx::query!(
        "select recorded, generation from instance where id = $1 for update",
        view.instance.uuid()
    )
    .fetch_one(connection)
    .await?;
    Ok(row.recorded == view.situation.recorded.as_str()
        && row.generation == view.situation.generation)
}

/// Takes an instance to its next state.
pub(super) async fn advance(
    connection: &mut PgConnection,
    view: &View,
    event: Event,
    reason: &str,
) -> Result<Recorded> {
    let to = transition(view.situation.recorded, event).map_err(Error::internal)?;
    sqlx::query!(
        "update instance set recorded = $2, state_reason = $3,
             state_since = case when recorded = $2 then state_since else now() end,
             usable_at = case when $2 = 'usable' then coalesce(usable_at, now()) else usable_at end,
             ended_at = case when $2 = 'ended' then coalesce(ended_at, now()) end
         where id = $1",
        view.instance.uuid(),
        to.as_str(),
        reason
    )
    .execute(connection)
    .await?;
    Ok(to)
}

/// Its time has come: the host is its own from now on. Says whether that was so.
pub(super) async fn begin(app: &App, view: &View) -> Result<bool> {
    let Some(host) = view.host else {
        return Ok(false);
    };
    let mut tx = app.pool.begin().await?;
    if !lock(&mut tx, view).await? {
        return Ok(false);
    }
    let taken = sqlx::query!(
        "update host set clean = false where id = $1 and clean and quarantine_reason is null and removed_at is null returning name",
        host.uuid()
    )
    .fetch_optional(&mut *tx)
    .await?;
    let Some(taken) = taken else {
        return Ok(false);
    };
    sqlx::query!(
        "update occupancy set movable = false where instance_id = $1 and kind = 'lease'",
        view.instance.uuid()
    )
    .execute(&mut *tx)
    .await?;
    advance(&mut tx, view, Event::Provision, "").await?;
    sqlx::query!(
        "update instance set reported = 'unknown', reported_since = now(), reported_detail = '' where id = $1",
        view.instance.uuid()
    )
    .execute(&mut *tx)
    .await?;
    event(
        &mut tx,
        view,
        "provisioning",
        &format!("on host {}", taken.name),
    )
    .await?;
    refold(app, &mut tx, view.lease.uuid()).await?;
    tx.commit().await?;
    Ok(true)
}

/// A login worked: it is usable from now on.
pub(super) async fn verify(app: &App, view: &View) -> Result<()> {
    let mut tx = app.pool.begin().await?;
    if !lock(&mut tx, view).await? {
        return Ok(());
    }
    let before = view.situation.recorded;
    let condition = Condition {
        availability: Availability::Usable,
        fault: FaultParty::None,
        evidence: "a login through the gateway worked, all GPUs visible".to_owned(),
    };
    let now = sqlx::query_scalar!(r#"select now() as "now!""#)
        .fetch_one(&mut *tx)
        .await?;
    let began = availability::begin(&mut tx, view.instance.uuid(), now, &condition).await?;
    if before != Recorded::Usable {
        advance(&mut tx, view, Event::Verify, "").await?;
        event(&mut tx, view, "usable", &condition.evidence).await?;
        refold(app, &mut tx, view.lease.uuid()).await?;
    } else if !began {
        return Ok(());
    }
    tx.commit().await?;
    Ok(())
}

/// Writes down whether an instance can be used.
pub(super) async fn observe(app: &App, view: &View, condition: &Condition) -> Result<()> {
    let mut connection = app.pool.acquire().await?;
    let known = availability::is_open(&mut connection, view.instance.uuid(), condition).await?;
    let good = condition.availability == Availability::Usable;
    let recorded = view.situation.recorded;
    if known && good == (recorded == Recorded::Usable) {
        return Ok(());
    }
    drop(connection);
    let mut tx = app.pool.begin().await?;
    if !lock(&mut tx, view).await? {
        return Ok(());
    }
    let from = view.observed_from;
    availability::begin(&mut tx, view.instance.uuid(), from, condition).await?;
    if !good {
        advance(&mut tx, view, Event::Impair, &condition.evidence).await?;
        event(&mut tx, view, "impaired", &condition.evidence).await?;
    }
    refold(app, &mut tx, view.lease.uuid()).await?;
    tx.commit().await?;
    Ok(())
}

/// The lease cannot be made usable: the first reason stays, and all its instances end.
pub(super) async fn fail(app: &App, view: &View, reason: &str) -> Result<()> {
    let mut tx = app.pool.begin().await?;
    if lock(&mut tx, view).await? {
        fail_locked(app, &mut tx, view, reason).await?;
        tx.commit().await?;
    }
    Ok(())
}

/// [`fail`] within a transaction that holds the lease's row.
pub(super) async fn fail_locked(
    app: &App,
    connection: &mut PgConnection,
    view: &View,
    reason: &str,
) -> Result<()> {
    sqlx::query!(
        "update lease set failure = coalesce(failure, $2) where id = $1",
        view.lease.uuid(),
        format!("instance {}: {reason}", view.ordinal)
    )
    .execute(&mut *connection)
    .await?;
    event(connection, view, "failed", reason).await?;
    end_instances(app, connection, view.lease.uuid(), EndCause::Failure).await
}

/// Has the agent remove what is left of an instance, and clean its host.
pub(super) async fn remove(app: &App, sent: &Sent, view: &View) -> Result<()> {
    let Some(host) = view.host else { return Ok(()) };
    let mut connection = app.pool.acquire().await?;
    let generation = view.situation.generation;
    let scrub = ensure_scrub(&mut connection, host, view.instance, generation).await?;
    orders::remove(
        app,
        sent,
        &mut connection,
        (host, view.instance, generation),
        scrub,
    )
    .await
}

/// The record of the scrub after an instance, made when there is none.
pub(super) async fn ensure_scrub(
    connection: &mut PgConnection,
    host: HostId,
    instance: InstanceId,
    generation: i64,
) -> Result<ScrubId> {
    sqlx::query!(
        "insert into scrub (id, host_id, instance_id, generation) values ($1, $2, $3, $4)
         on conflict (instance_id, generation) where instance_id is not null do nothing",
        ScrubId::new().uuid(),
        host.uuid(),
        instance.uuid(),
        generation
    )
    .execute(&mut *connection)
    .await?;
    let id = sqlx::query_scalar!(
        "select id from scrub where instance_id = $1 and generation = $2",
        instance.uuid(),
        generation
    )
    .fetch_one(connection)
    .await?;
    Ok(id.into())
}

/// Nothing of an instance is left on its host. Its key goes now; the host stays taken until its scrub has passed.
pub(super) async fn conclude(app: &App, view: &View) -> Result<()> {
    let mut tx = app.pool.begin().await?;
    if lock(&mut tx, view).await? {
        conclude_locked(app, &mut tx, view, "removed").await?;
        tx.commit().await?;
    }
    Ok(())
}

async fn conclude_locked(
    app: &App,
    connection: &mut PgConnection,
    view: &View,
    how: &str,
) -> Result<()> {
    if let Some(host) = view.host {
        ensure_scrub(connection, host, view.instance, view.situation.generation).await?;
    }
    advance(connection, view, Event::Gone, how).await?;
    sqlx::query!(
        "update instance set scratch_key = null, scratch_key_destroyed_at = now() where id = $1",
        view.instance.uuid()
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "update incarnation set ended_at = now(), end_reason = $2 where instance_id = $1 and ended_at is null",
        view.instance.uuid(),
        how
    )
    .execute(&mut *connection)
    .await?;
    event(
        connection,
        view,
        "removed",
        &format!("{how}; the key of its scratch is destroyed"),
    )
    .await?;
    refold(app, connection, view.lease.uuid()).await?;
    Ok(())
}

/// The host never said that the instance is gone: it is out of use until the operator releases it, which scrubs it.
pub(super) async fn give_up(app: &App, view: &View, reason: &str) -> Result<()> {
    let mut tx = app.pool.begin().await?;
    if !lock(&mut tx, view).await? {
        return Ok(());
    }
    conclude_locked(app, &mut tx, view, reason).await?;
    if let Some(host) = view.host {
        fail_scrubs(&mut tx, host.uuid(), Some(view.instance.uuid()), reason).await?;
        quarantine(&mut tx, host, reason).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Ends scrubs that were never answered.
pub(super) async fn fail_scrubs(
    connection: &mut PgConnection,
    host: Uuid,
    instance: Option<Uuid>,
    reason: &str,
) -> Result<()> {
    let steps = serde_json::json!([{"name": "answered", "result": "failed", "detail": reason, "duration_ms": 0}]);
    sqlx::query!(
        "update scrub set result = 'failed', steps = $3, ended_at = now()
         where host_id = $1 and result is null and ($2::uuid is null or instance_id = $2)",
        host,
        instance,
        steps
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Writes an event of an instance.
pub(super) async fn event(
    connection: &mut PgConnection,
    view: &View,
    kind: &str,
    detail: &str,
) -> Result<()> {
    let instance = Some(view.instance.uuid());
    record_event(connection, view.lease.uuid(), instance, kind, detail).await
}
