//! Keeps the calendar true: a host that is needed for longer stays taken, and the bookings behind it, or on a host that is out of use, get
//! other hosts.

use std::time::Duration;

use uuid::Uuid;

use super::{
    replace::{replace, unplace},
    snapshot::{Selection, View, take},
};
use crate::{
    app::App,
    error::{Result, violates},
};

/// How long before its end an occupancy that goes on is moved on.
const AHEAD: Duration = Duration::from_mins(1);

/// Bookings that are looked at by one pass.
const BATCH: i64 = 100;

/// Moves on the end of what takes longer, and re-places the bookings that stand in its way or on hosts that are out of use.
pub(super) async fn keep_clear(app: &App) -> Result<()> {
    let turnaround = app.config.limits.turnaround;
    for late in find_late(app).await? {
        if clear_the_way(app, late.host_id, turnaround).await? {
            move_on(app, late.id, turnaround).await?;
        }
    }
    for view in find(app, Selection::OnUnfitHosts).await? {
        let reason = view
            .situation
            .host_refuses
            .clone()
            .unwrap_or_else(|| "its host is out of use".to_owned());
        replace(app, &view, &reason).await?;
    }
    Ok(())
}

struct Late {
    id: Uuid,
    host_id: Uuid,
}

/// Occupancies that are about to end while their instance is there or its host not clean.
async fn find_late(app: &App) -> Result<Vec<Late>> {
    Ok(sqlx::query_as!(
        Late,
        "select o.id, o.host_id from occupancy o join instance i on i.id = o.instance_id
         where o.kind in ('lease', 'scrub') and not o.movable and lower(o.during) <= now()
             and upper(o.during) > now() - interval '1 day' and upper(o.during) <= now() + make_interval(secs => $1)
             and (i.recorded in ('provisioning', 'usable', 'impaired', 'ending')
                  or exists (select 1 from scrub s where s.instance_id = i.id and s.host_id = o.host_id and s.result is null))
         limit $2",
        AHEAD.as_secs_f64(),
        BATCH
    )
    .fetch_all(&app.pool)
    .await?)
}

/// Re-places the bookings of a host that begin before an occupancy that is moved on would end. Says whether none is left.
async fn clear_the_way(app: &App, host: Uuid, turnaround: Duration) -> Result<bool> {
    let reason = "its host is not free in time";
    let within = Selection::OnHostWithin(host, turnaround + AHEAD);
    for view in find(app, within).await? {
        replace(app, &view, reason).await?;
    }
    // What no other host was free for waits for one.
    for view in &find(app, within).await? {
        unplace(app, view, reason).await?;
    }
    Ok(find(app, within).await?.is_empty())
}

async fn move_on(app: &App, occupancy: Uuid, turnaround: Duration) -> Result<()> {
    let moved = sqlx::query!(
        "update occupancy set during = tstzrange(lower(during), now() + make_interval(secs => $2))
         where id = $1 and upper(during) <= now() + make_interval(secs => $2)",
        occupancy,
        turnaround.as_secs_f64()
    )
    .execute(&app.pool)
    .await;
    match moved {
        Ok(_) => Ok(()),
        // Somebody booked it in between: the next pass clears the way again.
        Err(error) if violates(&error, "occupancy_no_double_booking") => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn find(app: &App, selection: Selection) -> Result<Vec<View>> {
    let mut connection = app.pool.acquire().await?;
    take(app, &mut connection, selection, BATCH).await
}
