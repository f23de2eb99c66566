//! What the meter reads of a lease.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    billing::model::{Ending, HOUR, Posted, Segment, Stretch, StretchKind, Unknown},
    database::now,
    error::{Error, Result},
};

/// The only meter there is.
pub(super) const METER: &str = "gpu_time";

/// A lease as the meter sees it.
pub(in crate::billing) struct Metered {
    pub(in crate::billing) now: DateTime<Utc>,
    pub(in crate::billing) lease: Uuid,
    pub(in crate::billing) organization: Uuid,
    /// By ordinal.
    pub(in crate::billing) instances: Vec<Uuid>,
    /// Of each instance.
    pub(in crate::billing) stretches: Vec<Vec<Stretch>>,
    /// Of each instance.
    pub(in crate::billing) endings: Vec<Ending>,
    /// True once every instance's meter is closed.
    pub(in crate::billing) closed: bool,
    pub(in crate::billing) gpu_count: i32,
    pub(in crate::billing) segments: Vec<Segment>,
    pub(in crate::billing) prices: HashMap<Uuid, SegmentPrice>,
    /// Only hours that begin after this can have changed; `None`: all.
    pub(in crate::billing) after: Option<DateTime<Utc>>,
    /// Of each instance: what is posted for the hours that begin after `after`.
    pub(in crate::billing) posted: HashMap<Uuid, Vec<Posted>>,
    pub(in crate::billing) amounts: HashMap<Uuid, (i64, String)>,
    pub(in crate::billing) unmetered: Vec<ReadStretch>,
}

/// What a segment's time costs.
#[derive(Debug, Clone)]
pub(in crate::billing) struct SegmentPrice {
    pub(in crate::billing) micros: i64,
    pub(in crate::billing) quantity: i64,
    pub(in crate::billing) currency: String,
}

/// A row of availability as it was when it was read.
pub(in crate::billing) struct ReadStretch {
    pub(in crate::billing) id: Uuid,
    pub(in crate::billing) to: Option<DateTime<Utc>>,
}

/// Takes hold of a lease's meter until the transaction ends; false when another replica has it.
pub(in crate::billing) async fn hold_meter(
    connection: &mut PgConnection,
    lease: Uuid,
) -> Result<bool> {
    Ok(sqlx::query_scalar!(
        r#"select pg_try_advisory_xact_lock(hashtextextended('meter:' || $1::text, 0)) as "held!""#,
        lease.to_string()
    )
    .fetch_one(connection)
    .await?)
}

/// Reads a lease for its meter. `None`: there is no such lease.
pub(in crate::billing) async fn load_metered(
    connection: &mut PgConnection,
    lease: Uuid,
) -> Result<Option<Metered>> {
    let now = now(connection).await?;
    let Some(row) = sqlx::query!(
        "select l.organization_id, t.gpu_count from lease l join instance_type t on t.id = l.instance_type_id where l.id = $1",
        lease
    )
    .fetch_optional(&mut *connection)
    .await?
    else {
        return Ok(None);
    };
    let mut metered = Metered {
        now,
        lease,
        organization: row.organization_id,
        instances: Vec::new(),
        stretches: Vec::new(),
        endings: Vec::new(),
        closed: true,
        gpu_count: row.gpu_count,
        segments: Vec::new(),
        prices: HashMap::new(),
        after: None,
        posted: HashMap::new(),
        amounts: HashMap::new(),
        unmetered: Vec::new(),
    };
    load_segments(connection, &mut metered).await?;
    let changed_at = load_availability(connection, &mut metered).await?;
    metered.after = unchanged_up_to(connection, lease, changed_at).await?;
    load_posted(connection, &mut metered).await?;
    Ok(Some(metered))
}

async fn load_segments(connection: &mut PgConnection, metered: &mut Metered) -> Result<()> {
    let rows = sqlx::query!(
        r#"select id, lower(during) as "from!", upper(during) as to, price_micros, quantity, currency, rounding
           from lease_segment where lease_id = $1 order by during"#,
        metered.lease
    )
    .fetch_all(connection)
    .await?;
    for row in rows {
        metered.segments.push(Segment {
            id: row.id,
            from: row.from,
            to: row.to,
            rounding: row.rounding.parse().map_err(Error::internal)?,
        });
        let price = SegmentPrice {
            micros: row.price_micros,
            quantity: row.quantity,
            currency: row.currency,
        };
        metered.prices.insert(row.id, price);
    }
    Ok(())
}

/// Reads instances with their stretches; returns the first instant at which something is not taken in yet.
async fn load_availability(
    connection: &mut PgConnection,
    metered: &mut Metered,
) -> Result<Option<DateTime<Utc>>> {
    let rows = sqlx::query!(
        r#"select i.id, i.recorded, i.meter_closed_at, h.last_seen_at as "host_seen_at?", a.id as "stretch_id?", a.from_at as "from_at?",
               a.to_at as "to_at?", a.state as "state?", a.fault_party as "fault_party?",
               case when a.metered_to is not distinct from coalesce(a.to_at, 'infinity'::timestamptz) then null
                   when a.metered_to is null then a.from_at else least(a.to_at, a.metered_to) end as changed_at
           from instance i left join host h on h.id = i.host_id
               left join availability a on a.instance_id = i.id and a.replaced_at is null
           where i.lease_id = $1 order by i.ordinal, a.from_at, a.id"#,
        metered.lease
    )
    .fetch_all(connection)
    .await?;
    let mut changed_at: Option<DateTime<Utc>> = None;
    for row in rows {
        if metered.instances.last() != Some(&row.id) {
            metered.instances.push(row.id);
            metered.stretches.push(Vec::new());
            metered.endings.push(Ending {
                over: matches!(row.recorded.as_str(), "ending" | "ended"),
                unknown: Vec::new(),
                host_seen_at: row.host_seen_at,
            });
            metered.closed &= row.meter_closed_at.is_some();
        }
        let (Some(stretches), Some(ending)) =
            (metered.stretches.last_mut(), metered.endings.last_mut())
        else {
            continue;
        };
        let (Some(id), Some(from), Some(state)) = (row.stretch_id, row.from_at, row.state) else {
            continue;
        };
        let by_tenant = row.fault_party.as_deref() == Some("tenant");
        stretches.push(Stretch {
            from,
            to: row.to_at,
            kind: kind_of(&state, by_tenant),
        });
        match row.to_at {
            None => ending.over = false,
            Some(to) if state == "unknown" => ending.unknown.push(Unknown { from, to }),
            Some(_) => {}
        }
        if let Some(at) = row.changed_at {
            changed_at = Some(changed_at.map_or(at, |earliest| earliest.min(at)));
            metered.unmetered.push(ReadStretch { id, to: row.to_at });
        }
    }
    Ok(changed_at)
}

fn kind_of(state: &str, by_tenant: bool) -> StretchKind {
    match (state, by_tenant) {
        ("usable", _) => StretchKind::Usable,
        ("unusable", true) => StretchKind::TenantFault,
        _ => StretchKind::Paused,
    }
}

/// The hours that begin no later than this are posted and as they were: what is new begins after it, or in the last hour that is posted.
async fn unchanged_up_to(
    connection: &mut PgConnection,
    lease: Uuid,
    changed_at: Option<DateTime<Utc>>,
) -> Result<Option<DateTime<Utc>>> {
    let last_posted = sqlx::query_scalar!(
        "select max(period_start) from usage_record where lease_id = $1 and meter = $2",
        lease,
        METER
    )
    .fetch_one(connection)
    .await?;
    // An hour that holds a changed instant begins less than an hour before it. A microsecond more, since what is skipped is `<= after`.
    let margin = HOUR + TimeDelta::microseconds(1);
    Ok(last_posted.map(|last| changed_at.map_or(last, |at| at.min(last)) - margin))
}

async fn load_posted(connection: &mut PgConnection, metered: &mut Metered) -> Result<()> {
    let rows = sqlx::query!(
        r#"select distinct on (u.instance_id, u.period_start) u.id, u.instance_id, u.segment_id, u.period_start, u.period_end, u.revision,
               u.usable_seconds, u.billed_seconds, u.cut_by_provider, u.amount_micros, u.currency, u.posted_at,
               exists (select 1 from usage_record r where r.instance_id = u.instance_id and r.meter = u.meter
                   and r.period_start = u.period_start and r.revision = u.revision and r.reverses_id is not null) as "reversed!"
           from usage_record u
           where u.lease_id = $1 and u.meter = $2 and u.reverses_id is null and ($3::timestamptz is null or u.period_start > $3)
           order by u.instance_id, u.period_start, u.revision desc"#,
        metered.lease,
        METER,
        metered.after
    )
    .fetch_all(connection)
    .await?;
    for row in rows {
        let posted = Posted {
            id: row.id,
            revision: row.revision,
            reversed: row.reversed,
            segment: row.segment_id,
            start: row.period_start,
            end: row.period_end,
            usable_seconds: row.usable_seconds,
            billed_seconds: row.billed_seconds,
            cut_by_provider: row.cut_by_provider,
            posted_at: row.posted_at,
        };
        metered
            .amounts
            .insert(row.id, (row.amount_micros, row.currency));
        metered
            .posted
            .entry(row.instance_id)
            .or_default()
            .push(posted);
    }
    Ok(())
}
