//! Which hosts may be leased. One condition, used by bookings, offers and re-placement.
//!
//! A host qualifies when it is of the exact model and count, not removed, cordoned or quarantined, and no finding prevents its allocation. For
//! what begins at once it must also be clean and heard; for what begins later it need only be known: it may be busy, or out of sight for a
//! moment, and a booking whose host is not there when it begins is re-placed.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use freehold_proto::id::HostId;
use sqlx::{Connection as _, PgConnection, Result};
use uuid::Uuid;

use crate::leases::model::{
    placement::{self, Candidate, Plan, Sector},
    span::Span,
};

/// How many hosts a search looks at before it looks at all of them.
const SAMPLE: i64 = 256;

/// Hosts whose bookings a search for a later window looks at: more than one deployment is designed for.
const MAX_CALENDARS: i64 = 20_000;

/// What is asked of hosts.
#[derive(Debug, Clone)]
pub(crate) struct Need {
    /// Exact model.
    pub gpu_model: String,
    /// Exact number.
    pub gpu_count: i32,
    /// Hosts, all in one sector.
    pub count: i32,
    /// What is taken of each host's time: the window with its margins.
    pub during: Span,
    /// The database's time.
    pub now: DateTime<Utc>,
    /// Hosts that were not heard for so long cannot take what begins at once.
    pub host_timeout: TimeDelta,
}

impl Need {
    /// True when the hosts have to be ready now.
    fn at_once(&self) -> bool {
        self.during.from <= self.now
    }

    fn heard_after(&self) -> DateTime<Utc> {
        self.now - self.host_timeout
    }

    fn usize_count(&self) -> usize {
        usize::try_from(self.count).unwrap_or(usize::MAX)
    }
}

struct FreeHost {
    id: Uuid,
    region: String,
    sector: String,
}

impl From<FreeHost> for Candidate {
    fn from(row: FreeHost) -> Self {
        Self {
            host: HostId::from(row.id),
            sector: Sector {
                region: row.region,
                name: row.sector,
            },
            busy: Vec::new(),
        }
    }
}

/// A query over the hosts that qualify and are free for the whole of `$need.during`; parameters 1 to 6 are the condition's.
macro_rules! free_hosts {
    ($row:ident, $head:tt, $hosts:tt, $tail:tt, $need:expr $(, $more:expr)*) => {
        sqlx::query_as!(
            $row,
            $head + " from " + $hosts + " h where h.removed_at is null and not h.cordoned and h.quarantine_reason is null
             and h.gpu_model = $1 and h.gpu_count = $2
             and (not $3 or (h.clean and h.last_seen_at > $4))
             and not exists (select 1 from host_finding f where f.host_id = h.id and f.prevents_allocation)
             and not exists (select 1 from occupancy o where o.host_id = h.id
                 and o.gpus && int4range(0, $2) and o.during && tstzrange($5, $6)) " + $tail,
            $need.gpu_model,
            $need.gpu_count,
            $need.at_once(),
            $need.heard_after(),
            $need.during.from,
            $need.during.to
            $(, $more)*
        )
    };
}

/// Chooses and locks hosts for a booking; `None` when no sector has enough. The locks keep others from choosing the same hosts; that
/// nothing is booked twice is the exclusion constraint's business.
pub(crate) async fn claim_hosts(
    connection: &mut PgConnection,
    need: &Need,
    seed: u64,
) -> Result<Option<Plan>> {
    if need.count == 1 {
        let sampled = sample(connection, need, seed).await?;
        if let Some(plan) = placement::place(&sampled, &need.during, 1, seed) {
            return Ok(Some(plan));
        }
    }
    let sectors = free_by_sector(connection, need).await?;
    let Some(sector) = placement::choose_sector(&sectors, need.usize_count(), seed) else {
        return Ok(None);
    };
    claim_in_sector(connection, need, sector, seed).await
}

/// [`claim_hosts`] in one sector.
pub(crate) async fn claim_in_sector(
    connection: &mut PgConnection,
    need: &Need,
    sector: &Sector,
    seed: u64,
) -> Result<Option<Plan>> {
    let mut attempt = connection.begin().await?;
    let unlocked = lock_free(&mut attempt, need, sector).await?;
    if let Some(plan) = placement::place(&unlocked, &need.during, need.usize_count(), seed) {
        attempt.commit().await?;
        return Ok(Some(plan));
    }
    // Others hold locks on hosts of this sector: wait for them, without locks of our own and in the order of ids, so that two that wait do
    // not wait for each other.
    attempt.rollback().await?;
    let all = wait_for_free(connection, need, sector).await?;
    Ok(placement::place(
        &all,
        &need.during,
        need.usize_count(),
        seed,
    ))
}

/// One free host behind a random one; none when the sample has none.
async fn sample(connection: &mut PgConnection, need: &Need, seed: u64) -> Result<Vec<Candidate>> {
    // 53 bits: what a double holds exactly.
    let pivot = (seed >> 11) as f64 / (1_u64 << 53) as f64;
    let rows = free_hosts!(
        FreeHost,
        "select h.id, h.region, h.sector",
        "(select * from host where removed_at is null and gpu_model = $1 and gpu_count = $2 and shuffle >= $7
              order by shuffle limit $8)",
        "order by h.shuffle limit 4",
        need,
        pivot,
        SAMPLE
    )
    .fetch_all(&mut *connection)
    .await?;
    for row in rows {
        if lock_one(connection, row.id).await? {
            return Ok(vec![row.into()]);
        }
    }
    Ok(Vec::new())
}

/// Locks a host unless somebody else has locked it or it is no longer to be had.
async fn lock_one(connection: &mut PgConnection, host: Uuid) -> Result<bool> {
    let locked = sqlx::query_scalar!(
        "select id from host where id = $1 and removed_at is null and not cordoned and quarantine_reason is null
         for no key update skip locked",
        host
    )
    .fetch_optional(connection)
    .await?;
    Ok(locked.is_some())
}

async fn lock_free(
    connection: &mut PgConnection,
    need: &Need,
    sector: &Sector,
) -> Result<Vec<Candidate>> {
    let rows = free_hosts!(
        FreeHost,
        "select h.id, h.region, h.sector",
        "host",
        "and h.region = $7 and h.sector = $8 order by h.id limit $9 for no key update of h skip locked",
        need,
        sector.region,
        sector.name,
        i64::from(need.count)
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(Into::into).collect())
}

async fn wait_for_free(
    connection: &mut PgConnection,
    need: &Need,
    sector: &Sector,
) -> Result<Vec<Candidate>> {
    let rows = free_hosts!(
        FreeHost,
        "select h.id, h.region, h.sector",
        "host",
        "and h.region = $7 and h.sector = $8 order by h.id limit $9 for no key update of h",
        need,
        sector.region,
        sector.name,
        i64::from(need.count)
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(Into::into).collect())
}

struct FreeSector {
    region: String,
    sector: String,
    hosts: i64,
}

/// How many hosts are free in every sector that has one.
pub(crate) async fn free_by_sector(
    connection: &mut PgConnection,
    need: &Need,
) -> Result<Vec<(Sector, usize)>> {
    let rows = free_hosts!(
        FreeSector,
        r#"select h.region, h.sector, count(*) as "hosts!""#,
        "host",
        "group by h.region, h.sector order by h.region, h.sector",
        need
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let sector = Sector {
                region: row.region,
                name: row.sector,
            };
            (sector, usize::try_from(row.hosts).unwrap_or(0))
        })
        .collect())
}

/// Every host that could serve the need at some time, with when it is taken from now on. A host that is not ready now is taken for the
/// moment: it can only serve what begins later.
pub(crate) async fn calendars(
    connection: &mut PgConnection,
    need: &Need,
) -> Result<Vec<Candidate>> {
    let hosts = sqlx::query!(
        r#"select h.id, h.region, h.sector, (h.clean and coalesce(h.last_seen_at > $3, false)) as "ready!" from host h
           where h.removed_at is null and not h.cordoned and h.quarantine_reason is null and h.gpu_model = $1 and h.gpu_count = $2
               and not exists (select 1 from host_finding f where f.host_id = h.id and f.prevents_allocation)
           order by h.region, h.sector, h.id limit $4"#,
        need.gpu_model,
        need.gpu_count,
        need.heard_after(),
        MAX_CALENDARS
    )
    .fetch_all(&mut *connection)
    .await?;
    let ids: Vec<Uuid> = hosts.iter().map(|host| host.id).collect();
    let taken = sqlx::query!(
        r#"select host_id, lower(during) as "from!", upper(during) as to from occupancy
           where host_id = any($1) and during && tstzrange($2, null)"#,
        &ids,
        need.now
    )
    .fetch_all(connection)
    .await?;
    let mut busy: HashMap<Uuid, Vec<Span>> = HashMap::new();
    for span in taken {
        busy.entry(span.host_id).or_default().push(Span {
            from: span.from,
            to: span.to,
        });
    }
    Ok(hosts
        .into_iter()
        .map(|host| {
            let mut busy = busy.remove(&host.id).unwrap_or_default();
            if !host.ready {
                busy.push(Span {
                    from: need.now,
                    to: Some(need.now + TimeDelta::microseconds(1)),
                });
            }
            Candidate {
                host: host.id.into(),
                sector: Sector {
                    region: host.region,
                    name: host.sector,
                },
                busy,
            }
        })
        .collect())
}
