//! The meter, the ledger and the reports against a real PostgreSQL.

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::{reconcile, store};
use crate::{
    app::App,
    gate::Caller,
    leases::{
        model::request::{self, Asked},
        store::{Booked, Create, create_lease},
    },
    testing,
};

mod posting;
mod reports;

const TYPE: &str = "gpu_8x_h100_sxm5";
/// What an hour of eight H100 costs at the seeded price.
const HOUR_MICROS: i64 = 8 * 1_890_000;

/// A lease that began ten hours ago.
struct Lease {
    id: Uuid,
    /// By ordinal.
    instances: Vec<Uuid>,
    start: DateTime<Utc>,
}

impl Lease {
    /// Minutes after its start.
    fn minute(&self, minutes: i64) -> DateTime<Utc> {
        self.start + TimeDelta::minutes(minutes)
    }
}

async fn lease(app: &App, caller: &Caller, count: i32) -> Lease {
    lease_with(app, caller, count, &[], "").await
}

async fn lease_with(
    app: &App,
    caller: &Caller,
    count: i32,
    labels: &[(&str, &str)],
    project: &str,
) -> Lease {
    for _ in 0..count {
        testing::host(app, "sector-1").await;
    }
    let asked = Asked {
        instance_type: TYPE.to_owned(),
        count: Some(count),
        labels: labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        ..Asked::default()
    };
    let create = Create {
        caller,
        organization: "",
        project,
        reservation: &request::check(asked).unwrap(),
        idempotency: None,
    };
    let Booked::Lease(id) = create_lease(app, create).await.unwrap() else {
        panic!("no host is free");
    };
    let start: DateTime<Utc> = sqlx::query_scalar(
        "update lease_segment set during = tstzrange(now() - interval '10 hours', null) where lease_id = $1 returning lower(during)",
    )
    .bind(id.uuid())
    .fetch_one(&app.pool)
    .await
    .unwrap();
    let instances =
        sqlx::query_scalar("select id from instance where lease_id = $1 order by ordinal")
            .bind(id.uuid())
            .fetch_all(&app.pool)
            .await
            .unwrap();
    Lease {
        id: id.uuid(),
        instances,
        start,
    }
}

/// Adds a stretch of an instance's availability, in minutes after the lease's start.
async fn stretch(
    app: &App,
    lease: &Lease,
    ordinal: usize,
    what: (&str, &str),
    from: i64,
    to: Option<i64>,
) {
    let (state, party) = what;
    sqlx::query(
        "insert into availability (id, instance_id, from_at, to_at, state, fault_party, evidence) values ($1, $2, $3, $4, $5, $6, 'seen')",
    )
    .bind(Uuid::now_v7())
    .bind(lease.instances[ordinal])
    .bind(lease.minute(from))
    .bind(to.map(|to| lease.minute(to)))
    .bind(state)
    .bind(party)
    .execute(&app.pool)
    .await
    .unwrap();
}

const USABLE: (&str, &str) = ("usable", "none");
const PROVIDER: (&str, &str) = ("unusable", "provider");
const TENANT: (&str, &str) = ("unusable", "tenant");
const UNKNOWN: (&str, &str) = ("unknown", "provider");

/// Says that every instance of a lease has ended.
async fn end(app: &App, lease: &Lease) {
    sqlx::query("update instance set recorded = 'ended', desired = 'ended', ended_at = now() where lease_id = $1")
        .bind(lease.id)
        .execute(&app.pool)
        .await
        .unwrap();
}

async fn post(app: &App, lease: &Lease) {
    reconcile::post_lease(app, lease.id).await.unwrap();
    assert_books_balance(app).await;
}

/// (ordinal, minute after the start, revision, reversal, billed seconds, amount) in the order of posting.
type Line = (i32, i64, i32, bool, i64, i64);

async fn books(app: &App, lease: &Lease) -> Vec<Line> {
    let rows: Vec<(i32, DateTime<Utc>, i32, bool, i64, i64)> = sqlx::query_as(
        "select i.ordinal, u.period_start, u.revision, u.reverses_id is not null, u.billed_seconds, u.amount_micros
         from usage_record u join instance i on i.id = u.instance_id where u.lease_id = $1 order by u.id",
    )
    .bind(lease.id)
    .fetch_all(&app.pool)
    .await
    .unwrap();
    rows.into_iter()
        .map(|(ordinal, start, revision, reversal, billed, amount)| {
            let minute = (start - lease.start).num_minutes();
            (ordinal, minute, revision, reversal, billed, amount)
        })
        .collect()
}

async fn owed(app: &App, lease: &Lease) -> i64 {
    books(app, lease).await.iter().map(|line| line.5).sum()
}

async fn meter_is_closed(app: &App, lease: &Lease) -> bool {
    count(
        app,
        "select count(*) from instance where meter_closed_at is null and lease_id = ",
        lease.id,
    )
    .await
        == 0
}

async fn count(app: &App, sql: &str, id: Uuid) -> i64 {
    sqlx::query_scalar(sqlx::AssertSqlSafe(format!("{sql}'{id}'")))
        .fetch_one(&app.pool)
        .await
        .unwrap()
}

/// Every ledger transaction sums to zero, and receivables are what usage records say, for each transaction and currency.
async fn assert_books_balance(app: &App) {
    let wrong: Vec<(Uuid, String)> = sqlx::query_as(
        "select coalesce(e.transaction_id, u.ledger_transaction_id), coalesce(e.currency, u.currency)
         from (select e.transaction_id, e.currency, sum(e.amount_micros) as total,
                   sum(e.amount_micros) filter (where a.kind = 'receivable') as receivable
               from ledger_entry e join ledger_account a on a.id = e.account_id and a.currency = e.currency group by 1, 2) e
             full join (select ledger_transaction_id, currency, sum(amount_micros) as billed from usage_record group by 1, 2) u
                 on u.ledger_transaction_id = e.transaction_id and u.currency = e.currency
         where total is distinct from 0 or receivable is distinct from billed",
    )
    .fetch_all(&app.pool)
    .await
    .unwrap();
    assert!(wrong.is_empty(), "{wrong:?}");
}
