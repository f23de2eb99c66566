//! Another host for an instance that cannot run on the one it has.

use chrono::{DateTime, TimeDelta, Utc};
use freehold_proto::id::{HostId, OccupancyId};
use sqlx::PgConnection;

use super::{
    execute::{advance, ensure_scrub, event, fail_locked, lock},
    snapshot::View,
};
use crate::{
    app::App,
    error::{Error, Result, violates},
    leases::{
        model::{
            instance::{Event, Recorded},
            placement::{Plan, Sector},
            span::Span,
        },
        store::{Need, claim_hosts, claim_in_sector, margins, refold},
    },
};

/// Gives an instance an equal host that is free for its window, in its lease's sector where the lease has several. Without one, an instance that
/// nothing has run of waits, and one that could not be brought up fails its lease.
pub(super) async fn replace(app: &App, view: &View, reason: &str) -> Result<()> {
    let mut tx = app.pool.begin().await?;
    if !lock(&mut tx, view).await? {
        return Ok(());
    }
    match claim(app, &mut tx, view).await? {
        Some(host) => match move_to(app, &mut tx, view, host, reason).await {
            Ok(()) => tx.commit().await?,
            // Somebody else booked it in between: the next pass looks again.
            Err(Error::Contention(_)) => tx.rollback().await?,
            Err(error) => return Err(error),
        },
        None if view.situation.recorded == Recorded::Provisioning => {
            let reason = format!(
                "{reason}. No other host of its type is free; nothing was billed, create the lease again"
            );
            fail_locked(app, &mut tx, view, &reason).await?;
            tx.commit().await?;
        }
        None => tx.rollback().await?,
    }
    Ok(())
}

/// Takes the host away from an instance that nothing has run of, and leaves it without one: it is placed again when one is free.
pub(super) async fn unplace(app: &App, view: &View, reason: &str) -> Result<()> {
    let mut tx = app.pool.begin().await?;
    if !lock(&mut tx, view).await? {
        return Ok(());
    }
    leave_host(&mut tx, view, reason).await?;
    sqlx::query!(
        "update instance set host_id = null, gpu_uuids = '{}' where id = $1",
        view.instance.uuid()
    )
    .execute(&mut *tx)
    .await?;
    advance(&mut tx, view, Event::Unplace, reason).await?;
    event(&mut tx, view, "unplaced", reason).await?;
    refold(app, &mut tx, view.lease.uuid()).await?;
    tx.commit().await?;
    Ok(())
}

struct Wanted {
    gpu_model: String,
    gpu_count: i32,
    count: i32,
    window: Span,
    now: DateTime<Utc>,
    sector: Option<Sector>,
}

async fn claim(app: &App, connection: &mut PgConnection, view: &View) -> Result<Option<HostId>> {
    let wanted = load_wanted(connection, view).await?;
    let need = Need {
        gpu_model: wanted.gpu_model,
        gpu_count: wanted.gpu_count,
        count: 1,
        during: margins(app)?.around(&wanted.window, wanted.now),
        now: wanted.now,
        host_timeout: TimeDelta::from_std(app.config.limits.host_timeout)
            .map_err(Error::internal)?,
    };
    let plan: Option<Plan> = match &wanted.sector {
        Some(sector) if wanted.count > 1 => {
            claim_in_sector(connection, &need, sector, rand::random()).await?
        }
        _ => claim_hosts(connection, &need, rand::random()).await?,
    };
    Ok(plan.and_then(|plan| plan.hosts.first().copied()))
}

async fn load_wanted(connection: &mut PgConnection, view: &View) -> Result<Wanted> {
    let row = sqlx::query!(
        r#"select t.gpu_model, t.gpu_count, l.count, lower(l.lease_window) as "start!", upper(l.lease_window) as end, now() as "now!",
               s.region as "region?", s.sector as "sector?"
           from lease l join instance_type t on t.id = l.instance_type_id
               left join lateral (
                   select h.region, h.sector from instance o join host h on h.id = o.host_id
                   where o.lease_id = l.id and o.recorded <> 'ended' order by o.id = $2, o.ordinal limit 1
               ) s on true
           where l.id = $1"#,
        view.lease.uuid(),
        view.instance.uuid()
    )
    .fetch_one(connection)
    .await?;
    Ok(Wanted {
        gpu_model: row.gpu_model,
        gpu_count: row.gpu_count,
        count: row.count,
        window: Span {
            from: row.start,
            to: row.end,
        },
        now: row.now,
        sector: row
            .region
            .zip(row.sector)
            .map(|(region, name)| Sector { region, name }),
    })
}

async fn move_to(
    app: &App,
    connection: &mut PgConnection,
    view: &View,
    host: HostId,
    reason: &str,
) -> Result<()> {
    leave_host(connection, view, reason).await?;
    let generation = view.situation.generation + 1;
    let wanted = load_wanted(connection, view).await?;
    let during = margins(app)?.around(&wanted.window, wanted.now);
    let booked = sqlx::query!(
        "insert into occupancy (id, host_id, gpus, during, kind, instance_id, movable)
         values ($1, $2, int4range(0, $3), tstzrange($4, $5), 'lease', $6, true)",
        OccupancyId::new().uuid(),
        host.uuid(),
        wanted.gpu_count,
        during.from,
        during.to,
        view.instance.uuid()
    )
    .execute(&mut *connection)
    .await;
    if let Err(error) = booked {
        return Err(if violates(&error, "occupancy_no_double_booking") {
            Error::Contention("the host was booked".to_owned())
        } else {
            error.into()
        });
    }
    sqlx::query!(
        "with placed as (
             update instance set host_id = $2, generation = $3, reported = 'unknown', reported_detail = '', reported_since = now(),
                 reported_tenant_fault = false, sshd_listening = false, visible_gpu_uuids = '{}',
                 gpu_uuids = array(select uuid from host_gpu where host_id = $2 order by gpu_index)
             where id = $1
         )
         insert into incarnation (instance_id, generation, host_id) values ($1, $3, $2)",
        view.instance.uuid(),
        host.uuid(),
        generation
    )
    .execute(&mut *connection)
    .await?;
    let step = match view.situation.recorded {
        Recorded::Provisioning => Event::Replace,
        _ => Event::Place,
    };
    advance(connection, view, step, reason).await?;
    event(
        connection,
        view,
        "placed",
        &format!("on another host: {reason}"),
    )
    .await?;
    refold(app, connection, view.lease.uuid()).await?;
    Ok(())
}

/// Ends an instance's claim on its host. What may have something of it is scrubbed before anybody else has it.
async fn leave_host(connection: &mut PgConnection, view: &View, reason: &str) -> Result<()> {
    sqlx::query!(
        "update incarnation set ended_at = now(), end_reason = $2 where instance_id = $1 and ended_at is null",
        view.instance.uuid(),
        reason
    )
    .execute(&mut *connection)
    .await?;
    let ran = view.situation.recorded == Recorded::Provisioning;
    if let (true, Some(host)) = (ran, view.host) {
        ensure_scrub(connection, host, view.instance, view.situation.generation).await?;
        sqlx::query!(
            "update occupancy set kind = 'scrub', movable = false where instance_id = $1 and kind = 'lease'",
            view.instance.uuid()
        )
        .execute(connection)
        .await?;
    } else {
        sqlx::query!(
            "delete from occupancy where instance_id = $1 and kind = 'lease'",
            view.instance.uuid()
        )
        .execute(connection)
        .await?;
    }
    Ok(())
}
