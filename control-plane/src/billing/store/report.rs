//! SQL of reports: one aggregate over the usage records; names, order, totals and the page come after it.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::plan_for_values;
use crate::{
    billing::model::{GroupBy, ReportPage},
    error::Result,
    organizations::scope::Scope,
};

/// A report that is asked for.
#[derive(Debug, Clone)]
pub(in crate::billing) struct ReportQuery {
    pub(in crate::billing) from: DateTime<Utc>,
    pub(in crate::billing) to: DateTime<Utc>,
    pub(in crate::billing) group_by: GroupBy,
    pub(in crate::billing) scope: Scope,
    pub(in crate::billing) page: ReportPage,
}

/// A line, or the total of a currency when `total` is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::billing) struct ReportRow {
    pub(in crate::billing) total: bool,
    pub(in crate::billing) group: String,
    pub(in crate::billing) group_name: String,
    pub(in crate::billing) usage_records: i64,
    pub(in crate::billing) usable_gpu_seconds: i64,
    pub(in crate::billing) billed_gpu_seconds: i64,
    pub(in crate::billing) amount_micros: i64,
    pub(in crate::billing) currency: String,
}

/// The report's query for one grouping: `$key` is what is grouped by, as it is stored; `$shown` is it as text; `$name` what people call it.
/// Rows are grouped as they are stored, so that nothing is turned into text ten million times.
macro_rules! report {
    ($connection:ident, $query:ident, $key:literal, $shown:literal, $name:literal $(, $label:expr)?) => {
        sqlx::query_as!(
            ReportRow,
            r#"with line as materialized (
                   select "# + $key + r#" as key, currency, count(*) as usage_records, sum(usable_seconds * gpu_count) as usable,
                       sum(billed_seconds * gpu_count) as billed, sum(amount_micros) as amount
                   from usage_record
                   where period_start >= $1 and period_start < $2 and ($3::uuid is null or organization_id = $3)
                       and ($4::uuid is null or project_id = $4)
                   group by 1, 2
               ), page as (
                   select * from (select line.*, "# + $shown + r#" as shown from line) as line
                   where $5::text is null or (shown collate "C", currency collate "C") > ($5, $6::text)
                   order by shown collate "C", currency collate "C" limit $7
               )
               select false as "total!", shown as "group!", coalesce("# + $name + r#", '') as "group_name!", usage_records as "usage_records!",
                   usable::bigint as "usable_gpu_seconds!", billed::bigint as "billed_gpu_seconds!", amount::bigint as "amount_micros!",
                   currency as "currency!"
               from page
               union all
               select true, '', '', sum(usage_records)::bigint, sum(usable)::bigint, sum(billed)::bigint, sum(amount)::bigint, currency
               from line group by currency"#,
            $query.from,
            $query.to,
            $query.scope.organization_uuid(),
            $query.scope.project_uuid(),
            $query.page.after.as_ref().map(|after| after.group.as_str()),
            $query.page.after.as_ref().map(|after| after.currency.as_str()),
            $query.page.size + 1
            $(, $label)?
        )
        .fetch_all(&mut *$connection)
        .await?
    };
}

/// The lines of one page, one more than asked for where there are more, and the totals of all pages, in order.
pub(in crate::billing) async fn load_report(
    connection: &mut PgConnection,
    query: &ReportQuery,
) -> Result<Vec<ReportRow>> {
    let mut tx = plan_for_values(connection).await?;
    let mut rows = match &query.group_by {
        GroupBy::Organization => report!(
            tx,
            query,
            "organization_id",
            "'org_' || replace(key::text, '-', '')",
            "(select name from organization where id = page.key)"
        ),
        GroupBy::Project => report!(
            tx,
            query,
            "project_id",
            "'project_' || replace(key::text, '-', '')",
            "(select name from project where id = page.key)"
        ),
        GroupBy::Lease => report!(
            tx,
            query,
            "lease_id",
            "'lease_' || replace(key::text, '-', '')",
            "(select name from lease where id = page.key)"
        ),
        GroupBy::Type => report!(tx, query, "instance_type", "key", "''"),
        GroupBy::Label(label) => report!(
            tx,
            query,
            "coalesce(labels ->> $8::text, '')",
            "key",
            "''",
            label
        ),
        GroupBy::Day => report!(
            tx,
            query,
            "(period_start at time zone 'UTC')::date",
            "to_char(key, 'YYYY-MM-DD')",
            "''"
        ),
    };
    // Bytes are compared, as the "C" collation does.
    rows.sort_by(|a, b| (a.total, &a.group, &a.currency).cmp(&(b.total, &b.group, &b.currency)));
    Ok(rows)
}
