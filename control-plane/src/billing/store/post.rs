//! A posting: usage records and the ledger entries that balance.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use freehold_proto::id::{LeaseId, LedgerTransactionId, UsageId};
use sqlx::PgConnection;
use uuid::Uuid;

use super::load::{METER, Metered};
use crate::{
    billing::model::{Change, Period, amount_micros},
    error::{Error, Result},
};

/// What a posting came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::billing) struct Posting {
    pub(in crate::billing) records: usize,
    pub(in crate::billing) reversals: usize,
    /// By currency: new records less reversals, in micros.
    pub(in crate::billing) micros: BTreeMap<String, i64>,
}

/// Posts the changes of a lease's instances as one ledger transaction. No changes: nothing.
pub(in crate::billing) async fn post(
    connection: &mut PgConnection,
    metered: &Metered,
    changes: &[(Uuid, Change)],
) -> Result<Posting> {
    if changes.is_empty() {
        return Ok(Posting::default());
    }
    let ledger_transaction = LedgerTransactionId::new();
    let mut sums = Sums::default();
    let reversed: Vec<Uuid> = changes
        .iter()
        .filter_map(|(_, change)| match change {
            Change::Reverse(id) => Some(*id),
            Change::Post(..) => None,
        })
        .collect();
    for id in &reversed {
        let (amount, currency) = metered
            .amounts
            .get(id)
            .ok_or_else(|| Error::internal(anyhow::anyhow!("{id} is not posted")))?;
        sums.add(currency, true, -amount)?;
    }
    insert_reversals(connection, &reversed, ledger_transaction).await?;
    let mut records = Records::default();
    for (instance, change) in changes {
        if let Change::Post(period, revision) = change {
            let price = metered
                .prices
                .get(&period.segment)
                .ok_or_else(|| Error::internal(anyhow::anyhow!("a period without a segment")))?;
            let (micros, quantity) = (price.micros, price.quantity);
            let amount = amount_micros(micros, quantity, metered.gpu_count, period.billed_seconds)
                .ok_or_else(|| Error::internal(anyhow::anyhow!("an amount beyond 64 bits")))?;
            sums.add(&price.currency, false, amount)?;
            records.push(*instance, period, *revision, amount);
        }
    }
    insert_records(connection, metered, &records, ledger_transaction).await?;
    for ((currency, is_reversal), micros) in &sums.0 {
        let described = if *is_reversal {
            "reversed usage"
        } else {
            "usage"
        };
        let description = format!("{described} of {}", LeaseId::from(metered.lease));
        let entry = (currency.as_str(), *micros, description.as_str());
        insert_entries(connection, metered.organization, ledger_transaction, entry).await?;
    }
    Ok(Posting {
        records: records.ids.len(),
        reversals: reversed.len(),
        micros: sums.by_currency()?,
    })
}

/// By currency, and whether they are reversals.
#[derive(Default)]
struct Sums(BTreeMap<(String, bool), i64>);

impl Sums {
    fn add(&mut self, currency: &str, is_reversal: bool, micros: i64) -> Result<()> {
        let sum = self
            .0
            .entry((currency.to_owned(), is_reversal))
            .or_default();
        *sum = checked_sum(*sum, micros)?;
        Ok(())
    }

    fn by_currency(&self) -> Result<BTreeMap<String, i64>> {
        let mut sums: BTreeMap<String, i64> = BTreeMap::new();
        for ((currency, _), micros) in &self.0 {
            let sum = sums.entry(currency.clone()).or_default();
            *sum = checked_sum(*sum, *micros)?;
        }
        Ok(sums)
    }
}

fn checked_sum(a: i64, b: i64) -> Result<i64> {
    a.checked_add(b)
        .ok_or_else(|| Error::internal(anyhow::anyhow!("a sum beyond 64 bits")))
}

/// Columns of what differs between the records of one posting.
#[derive(Default)]
struct Records {
    ids: Vec<Uuid>,
    instances: Vec<Uuid>,
    segments: Vec<Uuid>,
    starts: Vec<DateTime<Utc>>,
    ends: Vec<DateTime<Utc>>,
    revisions: Vec<i32>,
    usable: Vec<i64>,
    billed: Vec<i64>,
    cut: Vec<bool>,
    amounts: Vec<i64>,
}

impl Records {
    fn push(&mut self, instance: Uuid, period: &Period, revision: i32, amount: i64) {
        self.ids.push(UsageId::new().uuid());
        self.instances.push(instance);
        self.segments.push(period.segment);
        self.starts.push(period.start);
        self.ends.push(period.end);
        self.revisions.push(revision);
        self.usable.push(period.usable_seconds);
        self.billed.push(period.billed_seconds);
        self.cut.push(period.cut_by_provider);
        self.amounts.push(amount);
    }
}

/// Project, labels and price are copied as they are now.
async fn insert_records(
    connection: &mut PgConnection,
    metered: &Metered,
    records: &Records,
    ledger_transaction: LedgerTransactionId,
) -> Result<()> {
    if records.ids.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "insert into usage_record (id, organization_id, project_id, lease_id, instance_id, segment_id, instance_type, meter, period_start,
             period_end, revision, usable_seconds, billed_seconds, gpu_count, price_micros, quantity, unit, rounding, cut_by_provider,
             amount_micros, currency, labels, ledger_transaction_id)
         select n.id, l.organization_id, l.project_id, l.id, n.instance_id, s.id, t.name, $2, n.period_start, n.period_end, n.revision, n.usable,
             n.billed, t.gpu_count, s.price_micros, s.quantity, s.unit, s.rounding, n.cut, n.amount, s.currency, l.labels, $3
         from unnest($4::uuid[], $5::uuid[], $6::uuid[], $7::timestamptz[], $8::timestamptz[], $9::int4[], $10::int8[], $11::int8[],
                 $12::bool[], $13::int8[])
                 as n (id, instance_id, segment_id, period_start, period_end, revision, usable, billed, cut, amount)
             join lease_segment s on s.id = n.segment_id join lease l on l.id = $1
             join instance_type t on t.id = l.instance_type_id
         order by n.id",
        metered.lease,
        METER,
        ledger_transaction.uuid(),
        &records.ids,
        &records.instances,
        &records.segments,
        &records.starts,
        &records.ends,
        &records.revisions,
        &records.usable,
        &records.billed,
        &records.cut,
        &records.amounts
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_reversals(
    connection: &mut PgConnection,
    reversed: &[Uuid],
    ledger_transaction: LedgerTransactionId,
) -> Result<()> {
    if reversed.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = reversed.iter().map(|_| UsageId::new().uuid()).collect();
    sqlx::query!(
        "insert into usage_record (id, reverses_id, organization_id, project_id, lease_id, instance_id, segment_id, instance_type, meter,
             period_start, period_end, revision, usable_seconds, billed_seconds, gpu_count, price_micros, quantity, unit, rounding,
             cut_by_provider, amount_micros, currency, labels, ledger_transaction_id)
         select n.id, u.id, u.organization_id, u.project_id, u.lease_id, u.instance_id, u.segment_id, u.instance_type, u.meter, u.period_start,
             u.period_end, u.revision, -u.usable_seconds, -u.billed_seconds, u.gpu_count, u.price_micros, u.quantity, u.unit, u.rounding,
             u.cut_by_provider, -u.amount_micros, u.currency, u.labels, $3
         from unnest($1::uuid[], $2::uuid[]) n (id, reverses_id) join usage_record u on u.id = n.reverses_id
         order by n.id",
        &ids,
        reversed,
        ledger_transaction.uuid()
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// What the tenant owes, and what it is owed for. The accounts are made on their first use.
async fn insert_entries(
    connection: &mut PgConnection,
    organization: Uuid,
    ledger_transaction: LedgerTransactionId,
    (currency, micros, description): (&str, i64, &str),
) -> Result<()> {
    sqlx::query!(
        "insert into ledger_account (id, organization_id, kind, currency)
         select account.id, $2, account.kind, $3 from unnest($1::uuid[], array['receivable', 'revenue']) account (id, kind)
         on conflict do nothing",
        &[Uuid::now_v7(), Uuid::now_v7()],
        organization,
        currency
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "insert into ledger_entry (transaction_id, account_id, amount_micros, currency, description)
         select $1, id, case kind when 'receivable' then $4::int8 else -$4::int8 end, currency, $5
         from ledger_account where organization_id = $2 and currency = $3 and kind in ('receivable', 'revenue') order by kind",
        ledger_transaction.uuid(),
        organization,
        currency,
        micros,
        description
    )
    .execute(connection)
    .await?;
    Ok(())
}
