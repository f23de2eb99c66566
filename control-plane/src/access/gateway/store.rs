//! SQL of the gateway: reading only.

use chrono::{DateTime, Utc};
use freehold_proto::id::{HostId, InstanceId, LeaseId};
use sqlx::PgPool;

use super::auth::Place;
use crate::error::Result;

/// A lease and one of its instances, as far as entering depends on them.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) name: String,
    pub(super) count: i32,
    /// False once its end was asked for or came.
    pub(super) live: bool,
    pub(super) window_start: DateTime<Utc>,
    /// `None`: open-ended.
    pub(super) window_end: Option<DateTime<Utc>>,
    /// The database's time.
    pub(super) now: DateTime<Utc>,
    /// `None`: the lease has no such ordinal.
    pub(super) instance: Option<InstanceFacts>,
}

#[derive(Debug, Clone)]
pub(super) struct InstanceFacts {
    pub(super) id: InstanceId,
    pub(super) host: Option<HostId>,
    pub(super) recorded: String,
}

/// True when a lease goes by this id or name.
pub(super) async fn is_called(pool: &PgPool, lease: LeaseId, called: &str) -> Result<bool> {
    if called.parse() == Ok(lease) {
        return Ok(true);
    }
    let name = sqlx::query_scalar!("select name from lease where id = $1", lease.uuid())
        .fetch_optional(pool)
        .await?;
    Ok(name.as_deref() == Some(called))
}

/// The lease of this id or name with which a plain key is registered. By name only one that is live is found, and none when there are several.
pub(super) async fn find_by_key(
    pool: &PgPool,
    lease: &str,
    fingerprint: &str,
) -> Result<Option<LeaseId>> {
    let id = lease.parse::<LeaseId>().ok().map(LeaseId::uuid);
    let found = sqlx::query_scalar!(
        "select l.id from lease_ssh_key k join lease l on l.id = k.lease_id
         where k.fingerprint = $1 and (l.id = $2 or (l.name = $3 and l.state not in ('ended', 'failed'))) limit 2",
        fingerprint,
        id,
        lease
    )
    .fetch_all(pool)
    .await?;
    match found.as_slice() {
        [one] => Ok(Some((*one).into())),
        _ => Ok(None),
    }
}

/// Reads a lease and the instance of this ordinal.
pub(super) async fn facts(pool: &PgPool, lease: LeaseId, ordinal: i32) -> Result<Facts> {
    let row = sqlx::query!(
        r#"select l.name, l.count, lower(l.lease_window) as "window_start!", upper(l.lease_window) as window_end, now() as "now!",
               (l.end_requested_at is null and l.state not in ('ending', 'ended', 'failed')
                   and (upper_inf(l.lease_window) or upper(l.lease_window) > now())) as "live!",
               i.id as "instance?", i.host_id as "host?", i.recorded as "recorded?"
           from lease l left join instance i on i.lease_id = l.id and i.ordinal = $2 where l.id = $1"#,
        lease.uuid(),
        ordinal
    )
    .fetch_one(pool)
    .await?;
    let instance = row
        .instance
        .zip(row.recorded)
        .map(|(id, recorded)| InstanceFacts {
            id: id.into(),
            host: row.host.map(Into::into),
            recorded,
        });
    Ok(Facts {
        name: row.name,
        count: row.count,
        live: row.live,
        window_start: row.window_start,
        window_end: row.window_end,
        now: row.now,
        instance,
    })
}

/// An instance of this lease that can be entered.
pub(super) async fn find_instance(
    pool: &PgPool,
    lease: LeaseId,
    instance: InstanceId,
) -> Result<Option<Place>> {
    let host = sqlx::query_scalar!(
        r#"select host_id as "host!" from instance
           where id = $1 and lease_id = $2 and host_id is not null and recorded in ('usable', 'impaired')"#,
        instance.uuid(),
        lease.uuid()
    )
    .fetch_optional(pool)
    .await?;
    Ok(host.map(|host| Place {
        host: host.into(),
        instance,
    }))
}

/// False once a lease's end was asked for or came.
pub(super) async fn is_live(pool: &PgPool, lease: LeaseId) -> Result<bool> {
    Ok(sqlx::query_scalar!(
        r#"select (end_requested_at is null and state not in ('ending', 'ended', 'failed')
               and (upper_inf(lease_window) or upper(lease_window) > now())) as "live!"
           from lease where id = $1"#,
        lease.uuid()
    )
    .fetch_one(pool)
    .await?)
}
