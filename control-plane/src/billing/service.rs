//! Use cases of bills.

use chrono::{DateTime, Utc};

use super::{
    model::{GroupBy, ReportCursor, ReportPage, report_range},
    store::{self, ReportQuery, ReportRow, UsageFilter, UsageRow},
};
use crate::{
    app::App, database::now, error::Result, gate::Caller, leases, organizations::scope, page::Page,
};

/// A report as it is asked for.
pub(super) struct Asked<'a> {
    /// `None`: the first instant of this month.
    pub(super) from: Option<DateTime<Utc>>,
    /// `None`: now.
    pub(super) to: Option<DateTime<Utc>>,
    pub(super) group_by: GroupBy,
    /// Id or name; empty: the caller's, or every one that it may see.
    pub(super) organization: &'a str,
    /// Id or name; empty: every one that the caller may see.
    pub(super) project: &'a str,
    pub(super) page: ReportPage,
}

/// A page of a report.
pub(super) struct Report {
    pub(super) from: DateTime<Utc>,
    pub(super) to: DateTime<Utc>,
    pub(super) group_by: GroupBy,
    pub(super) lines: Vec<ReportRow>,
    /// Of all pages, one a currency.
    pub(super) totals: Vec<ReportRow>,
    pub(super) next_page_token: String,
}

pub(super) async fn get_report(app: &App, caller: &Caller, asked: Asked<'_>) -> Result<Report> {
    let mut connection = app.pool.acquire().await?;
    let (from, to) = match &asked.page.after {
        Some(after) => (after.from, after.to),
        None => report_range(asked.from, asked.to, now(&mut connection).await?)?,
    };
    let query = ReportQuery {
        from,
        to,
        group_by: asked.group_by,
        scope: scope::visible(&mut connection, caller, asked.organization, asked.project).await?,
        page: asked.page,
    };
    let rows = store::load_report(&mut connection, &query).await?;
    let (totals, mut lines): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.total);
    let size = usize::try_from(query.page.size).unwrap_or(usize::MAX);
    let more = lines.len() > size;
    lines.truncate(size);
    let next_page_token = match lines.last() {
        Some(last) if more => {
            let (group, currency) = (last.group.clone(), last.currency.clone());
            let cursor = ReportCursor {
                from,
                to,
                group,
                currency,
            };
            cursor.encode()
        }
        _ => String::new(),
    };
    Ok(Report {
        from,
        to,
        group_by: query.group_by,
        lines,
        totals,
        next_page_token,
    })
}

pub(super) async fn list_usage(
    app: &App,
    caller: &Caller,
    (organization, project, lease): (&str, &str, &str),
    page: Page,
) -> Result<(Vec<UsageRow>, String)> {
    let mut connection = app.pool.acquire().await?;
    let scope = scope::visible(&mut connection, caller, organization, project).await?;
    let lease = match lease {
        "" => None,
        lease => Some(leases::store::find_lease(&mut connection, caller, scope, lease).await?),
    };
    let filter = UsageFilter { scope, lease };
    let mut rows = store::list_usage(&mut connection, filter, page).await?;
    let next = page.cut(&mut rows, |row| row.id);
    Ok((rows, next))
}
