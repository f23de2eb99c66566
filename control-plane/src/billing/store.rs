//! SQL of the meter, the ledger and the reports.

mod due;
mod load;
mod post;
mod report;
mod usage;

use sqlx::{Connection as _, PgConnection, Postgres, Transaction};

use crate::error::Result;

pub(super) use due::{close_meter, due_leases, mark_metered, set_due};
pub(super) use load::{Metered, hold_meter, load_metered};
pub(super) use post::{Posting, post};
pub(super) use report::{ReportQuery, ReportRow, load_report};
pub(super) use usage::{UsageFilter, UsageRow, list_usage};

/// A transaction whose queries are planned for the values of the call. A plan for any values would read an index that does not fit them, or test
/// conditions that hold for all of ten million rows. Nothing is compiled: that costs more than it saves up to tens of millions of rows.
async fn plan_for_values(connection: &mut PgConnection) -> Result<Transaction<'_, Postgres>> {
    let mut tx = connection.begin().await?;
    sqlx::query!(
        "select set_config('plan_cache_mode', 'force_custom_plan', true) as planning, set_config('jit', 'off', true) as compilation"
    )
    .fetch_one(&mut *tx)
    .await?;
    Ok(tx)
}
