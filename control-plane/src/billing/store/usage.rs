//! SQL of the records behind a bill.

use chrono::{DateTime, Utc};
use freehold_proto::id::LeaseId;
use sqlx::PgConnection;
use uuid::Uuid;

use super::plan_for_values;
use crate::{error::Result, organizations::scope::Scope, page::Page};

/// What a list of usage records is limited to.
#[derive(Debug, Clone, Copy)]
pub(in crate::billing) struct UsageFilter {
    pub(in crate::billing) scope: Scope,
    pub(in crate::billing) lease: Option<LeaseId>,
}

/// A usage record.
#[derive(Debug, Clone)]
pub(in crate::billing) struct UsageRow {
    pub(in crate::billing) id: Uuid,
    pub(in crate::billing) organization_id: Uuid,
    pub(in crate::billing) project_id: Uuid,
    pub(in crate::billing) lease_id: Uuid,
    pub(in crate::billing) instance_id: Uuid,
    pub(in crate::billing) segment_id: Uuid,
    pub(in crate::billing) instance_type: String,
    pub(in crate::billing) meter: String,
    pub(in crate::billing) period_start: DateTime<Utc>,
    pub(in crate::billing) period_end: DateTime<Utc>,
    pub(in crate::billing) revision: i32,
    pub(in crate::billing) reverses_id: Option<Uuid>,
    pub(in crate::billing) usable_seconds: i64,
    pub(in crate::billing) billed_seconds: i64,
    pub(in crate::billing) gpu_count: i32,
    pub(in crate::billing) price_micros: i64,
    pub(in crate::billing) rounding: String,
    pub(in crate::billing) cut_by_provider: bool,
    pub(in crate::billing) amount_micros: i64,
    pub(in crate::billing) currency: String,
    pub(in crate::billing) labels: serde_json::Value,
    pub(in crate::billing) posted_at: DateTime<Utc>,
    pub(in crate::billing) ledger_transaction_id: Uuid,
}

/// Usage records, oldest period first; within a period in the order of posting.
pub(in crate::billing) async fn list_usage(
    connection: &mut PgConnection,
    filter: UsageFilter,
    page: Page,
) -> Result<Vec<UsageRow>> {
    // Which index serves depends on what the list is limited to.
    let mut tx = plan_for_values(connection).await?;
    Ok(sqlx::query_as!(
        UsageRow,
        "select id, organization_id, project_id, lease_id, instance_id, segment_id, instance_type, meter, period_start, period_end, revision,
             reverses_id, usable_seconds, billed_seconds, gpu_count, price_micros, rounding, cut_by_provider, amount_micros, currency, labels,
             posted_at, ledger_transaction_id
         from usage_record
         where ($1::uuid is null or organization_id = $1) and ($2::uuid is null or project_id = $2) and ($3::uuid is null or lease_id = $3)
             and ($4::uuid is null or (period_start, id) > (select period_start, id from usage_record where id = $4))
         order by period_start, id limit $5",
        filter.scope.organization_uuid(),
        filter.scope.project_uuid(),
        filter.lease.map(LeaseId::uuid),
        page.after,
        page.fetch()
    )
    .fetch_all(&mut *tx)
    .await?)
}
