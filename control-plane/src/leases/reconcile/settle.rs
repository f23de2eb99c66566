//! A lease is settled when nothing about it can change any more: every instance has ended, every host it was on is scrubbed or quarantined, and
//! the last usage records are posted.

use crate::{
    app::App,
    database::{Signal, notify},
    error::Result,
};

/// Settles every lease that can be.
pub(super) async fn settle(app: &App) -> Result<()> {
    let mut tx = app.pool.begin().await?;
    let settled = sqlx::query_scalar!(
        "update lease l set settled_at = now()
         where l.settled_at is null and l.ended_at is not null
             and not exists (select 1 from instance i where i.lease_id = l.id and (i.recorded <> 'ended' or i.meter_closed_at is null))
             and not exists (select 1 from instance i join scrub s on s.instance_id = i.id where i.lease_id = l.id and s.result is null)
         returning l.id"
    )
    .fetch_all(&mut *tx)
    .await?;
    if settled.is_empty() {
        return Ok(());
    }
    for lease in settled {
        notify(&mut tx, &Signal::Lease(lease)).await?;
    }
    tx.commit().await?;
    Ok(())
}
