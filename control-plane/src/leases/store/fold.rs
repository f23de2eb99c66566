//! A lease's state, computed again from its instances.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    app::App,
    database::{Signal, notify},
    error::{Error, Result},
    leases::{
        model::{
            instance::Recorded,
            lease::{EndCause, LeaseState, Part, Snapshot, fold, reason},
        },
        store::record_event,
    },
};

/// Computes a lease's state from its instances' and stores it, with the reason, the time it changed and, once every instance has ended, the
/// time of the end. Locks the lease's row: whoever changes several instances of a lease locks that row first.
///
/// Says what it stored; listeners are told when anything changed.
///
/// # Errors
/// When there is no such lease or the database does not answer.
pub async fn refold(app: &App, connection: &mut PgConnection, lease: Uuid) -> Result<LeaseState> {
    let lead = TimeDelta::from_std(app.config.limits.lead).map_err(Error::internal)?;
    let row = sqlx::query!(
        r#"select state, state_reason, lower(lease_window) as "start!", end_cause, failure, ended_at, now() as "now!"
           from lease where id = $1 for update"#,
        lease
    )
    .fetch_one(&mut *connection)
    .await?;
    let instances = sqlx::query!(
        "select ordinal, recorded, state_reason, ended_at from instance where lease_id = $1 order by ordinal",
        lease
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut parts = Vec::with_capacity(instances.len());
    for instance in &instances {
        parts.push(Part {
            ordinal: instance.ordinal,
            recorded: instance
                .recorded
                .parse::<Recorded>()
                .map_err(Error::internal)?,
            reason: &instance.state_reason,
        });
    }
    let end_cause = row
        .end_cause
        .as_deref()
        .map(str::parse::<EndCause>)
        .transpose()
        .map_err(Error::internal)?;
    let snapshot = Snapshot {
        parts: &parts,
        begun: row.start - lead <= row.now,
        start: row.start,
        end_cause,
        failure: row.failure.as_deref(),
    };
    let (state, reason) = (fold(&snapshot), reason(&snapshot));
    let ended_at: Option<DateTime<Utc>> = parts
        .iter()
        .all(|part| part.recorded == Recorded::Ended)
        .then(|| {
            instances
                .iter()
                .filter_map(|instance| instance.ended_at)
                .max()
        })
        .map(|last| last.unwrap_or(row.now));
    let state_changed = state.as_str() != row.state;
    if !state_changed && reason == row.state_reason && ended_at == row.ended_at {
        return Ok(state);
    }
    sqlx::query!(
        "update lease set state = $2, state_reason = $3, ended_at = $4, state_since = case when state = $2 then state_since else now() end
         where id = $1",
        lease,
        state.as_str(),
        reason,
        ended_at
    )
    .execute(&mut *connection)
    .await?;
    if state_changed {
        record_event(connection, lease, None, state.as_str(), &reason).await?;
    }
    notify(connection, &Signal::Lease(lease)).await?;
    Ok(state)
}
