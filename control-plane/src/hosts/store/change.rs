//! What the operator does with hosts. Each is a transaction with its audit entry.

use freehold_proto::id::{HostId, LeaseId};
use sqlx::{PgConnection, PgPool};

use super::{certificate, host::find};
use crate::{
    audit,
    database::{Signal, notify},
    error::{Error, Result},
    gate::Caller,
    hosts::model::change::Change,
};

struct Locked {
    name: String,
    cordoned: bool,
    quarantine_reason: Option<String>,
    removed: bool,
}

/// Applies a change. One that was applied before changes nothing.
///
/// # Errors
/// `NotFound`; `Precondition` when the host was removed, is not in quarantine, or still has something of a lease.
pub(in crate::hosts) async fn apply(
    pool: &PgPool,
    caller: &Caller,
    host: &str,
    change: Change<'_>,
) -> Result<HostId> {
    let mut tx = pool.begin().await?;
    let id = find(&mut tx, host).await?;
    let locked = lock(&mut tx, id).await?;
    let entry = audit::Entry::new(
        Some(caller.principal),
        Some(caller.organization),
        change.action(),
        id,
    )
    .with("name", &locked.name);
    if locked.removed && change == Change::Remove {
        return Ok(id);
    }
    if locked.removed {
        return Err(refuse(
            "HOST_REMOVED",
            format!(
                "the host `{}` was removed; enrol the machine again",
                locked.name
            ),
        ));
    }
    let entry = match change {
        Change::Cordon { .. } | Change::Uncordon => {
            let cordoned = change != Change::Uncordon;
            if locked.cordoned == cordoned {
                return Ok(id);
            }
            set_cordoned(&mut tx, id, cordoned).await?;
            entry
        }
        Change::Release { .. } => {
            let Some(quarantined_for) = &locked.quarantine_reason else {
                return Err(refuse(
                    "HOST_NOT_QUARANTINED",
                    format!(
                        "the host `{}` is not in quarantine: there is nothing to release",
                        locked.name
                    ),
                ));
            };
            let entry = entry.with("quarantined_for", quarantined_for);
            release(&mut tx, id).await?;
            entry
        }
        Change::Remove => {
            refuse_while_leased(&mut tx, id, &locked.name).await?;
            remove(&mut tx, id).await?;
            entry
        }
    };
    let entry = match change {
        Change::Cordon { reason } | Change::Release { reason } => entry.with("reason", reason),
        Change::Uncordon | Change::Remove => entry,
    };
    entry.write(&mut tx).await?;
    notify(&mut tx, &Signal::Host(id.uuid())).await?;
    tx.commit().await?;
    Ok(id)
}

fn refuse(reason: &'static str, message: String) -> Error {
    Error::Precondition { reason, message }
}

async fn lock(connection: &mut PgConnection, host: HostId) -> Result<Locked> {
    Ok(sqlx::query_as!(
        Locked,
        r#"select name, cordoned, quarantine_reason, removed_at is not null as "removed!" from host where id = $1 for no key update"#,
        host.uuid()
    )
    .fetch_one(connection)
    .await?)
}

async fn set_cordoned(connection: &mut PgConnection, host: HostId, cordoned: bool) -> Result<()> {
    sqlx::query!(
        "update host set cordoned = $2 where id = $1",
        host.uuid(),
        cordoned
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Out of quarantine. It is not clean, so that the next thing that happens to it is a scrub with its gate.
async fn release(connection: &mut PgConnection, host: HostId) -> Result<()> {
    sqlx::query!(
        "update host set quarantine_reason = null, clean = false where id = $1",
        host.uuid()
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "delete from occupancy where host_id = $1 and kind = 'quarantine' and lower(during) >= now()",
        host.uuid()
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "update occupancy set during = tstzrange(lower(during), now())
         where host_id = $1 and kind = 'quarantine' and (upper_inf(during) or upper(during) > now())",
        host.uuid()
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Refuses while something of a lease is on the host, or is being cleaned away. What is only booked is placed elsewhere.
async fn refuse_while_leased(
    connection: &mut PgConnection,
    host: HostId,
    name: &str,
) -> Result<()> {
    let lease = sqlx::query_scalar!(
        "select i.lease_id from instance i where i.host_id = $1 and (i.recorded in ('provisioning', 'usable', 'impaired', 'ending')
             or exists (select 1 from scrub s join host h on h.id = s.host_id
                 where s.instance_id = i.id and s.host_id = $1 and s.result is null and h.quarantine_reason is null))
         limit 1",
        host.uuid()
    )
    .fetch_optional(connection)
    .await?;
    match lease {
        None => Ok(()),
        Some(lease) => Err(refuse(
            "HOST_LEASED",
            format!(
                "the host `{name}` has something of {} on it; cordon it and wait for the lease's end, or end it (`freehold lease end`), \
                 and wait for its scrub",
                LeaseId::from(lease)
            ),
        )),
    }
}

async fn remove(connection: &mut PgConnection, host: HostId) -> Result<()> {
    sqlx::query!(
        "update host set removed_at = now(), clean = false where id = $1",
        host.uuid()
    )
    .execute(&mut *connection)
    .await?;
    certificate::revoke_all(connection, host).await?;
    Ok(())
}
