//! Windows that are over.

use uuid::Uuid;

use crate::{
    app::App,
    error::Result,
    leases::{model::lease::EndCause, store::end_instances},
};

/// Leases that are ended by one pass.
const BATCH: i64 = 200;

/// Ends every lease whose window is over.
pub(super) async fn end_what_is_over(app: &App) -> Result<()> {
    let over = sqlx::query_scalar!(
        "select id from lease where settled_at is null and end_requested_at is null and state not in ('ended', 'failed')
             and upper(lease_window) <= now() order by id limit $1",
        BATCH
    )
    .fetch_all(&app.pool)
    .await?;
    for lease in over {
        end_one(app, lease).await?;
    }
    Ok(())
}

async fn end_one(app: &App, lease: Uuid) -> Result<()> {
    let mut tx = app.pool.begin().await?;
    let still = sqlx::query_scalar!(
        "select id from lease where id = $1 and end_requested_at is null and state not in ('ended', 'failed') for update",
        lease
    )
    .fetch_optional(&mut *tx)
    .await?;
    if still.is_some() {
        end_instances(app, &mut tx, lease, EndCause::Window).await?;
        tx.commit().await?;
    }
    Ok(())
}
