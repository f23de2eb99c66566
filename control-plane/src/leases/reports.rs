//! What agents say, written down: an older (epoch, generation) changes nothing.

use chrono::{DateTime, Utc};
use freehold_proto::{
    agent_v1,
    id::{HostId, InstanceId, ScrubId},
    time::micros_from_timestamp,
    v1,
};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{availability, model::instance::Reported};
use crate::{
    app::App,
    database::{Signal, notify},
    error::{Error, Result},
};

/// Records what an agent says of an instance. A report from another host, of an older generation or epoch changes nothing.
///
/// # Errors
/// `InvalidField` for ids that are none; when the database does not answer.
pub async fn instance_report(
    app: &App,
    host: HostId,
    report: &agent_v1::InstanceReport,
) -> Result<()> {
    let instance: InstanceId = report.instance_id.parse()?;
    if report.epoch != app.epoch && report.epoch != 0 {
        // Sent under another epoch: the agent hears of the new one in its hello and reports again.
        return Ok(());
    }
    if report.fenced {
        tracing::warn!(instance.id = %instance, host.id = %host, "the agent refused an order with an older generation");
        return Ok(());
    }
    let state = Reported::from(report.state());
    let mut tx = app.pool.begin().await?;
    let updated = sqlx::query_scalar!(
        "update instance set reported = $4, reported_detail = $5, reported_tenant_fault = $6, visible_gpu_uuids = $7,
             sshd_listening = $8, reported_at = now(),
             reported_since = case when reported = $4 then reported_since else now() end
         where id = $1 and host_id = $2 and generation = $3 and recorded <> 'ended'
         returning lease_id",
        instance.uuid(),
        host.uuid(),
        report.generation,
        state.as_str(),
        report.detail,
        report.tenant_fault,
        &report.visible_gpu_uuids,
        report.sshd_listening
    )
    .fetch_optional(&mut *tx)
    .await?;
    if let Some(lease) = updated {
        notify(&mut tx, &Signal::Lease(lease)).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Records what an agent's hello says of every instance on its host. One that it does not name is unknown, and so ordered again: an agent that died
/// while it brought an instance up knows nothing of it.
///
/// # Errors
/// `InvalidField` for ids that are none; when the database does not answer.
pub async fn hello(app: &App, host: HostId, instances: &[agent_v1::InstanceReport]) -> Result<()> {
    let mut named = Vec::with_capacity(instances.len());
    for report in instances {
        instance_report(app, host, report).await?;
        named.push(report.instance_id.parse::<InstanceId>()?.uuid());
    }
    let mut tx = app.pool.begin().await?;
    let leases = sqlx::query_scalar!(
        "update instance set reported = 'unknown', reported_detail = 'the agent does not know it', sshd_listening = false,
             visible_gpu_uuids = '{}', reported_at = now(), reported_since = now()
         where host_id = $1 and recorded in ('provisioning', 'usable', 'impaired', 'ending')
             and reported not in ('unknown', 'absent') and id <> all($2)
         returning lease_id",
        host.uuid(),
        &named
    )
    .fetch_all(&mut *tx)
    .await?;
    for lease in leases {
        notify(&mut tx, &Signal::Lease(lease)).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Records the outcome of a scrub, once: a repeated report changes nothing.
///
/// # Errors
/// `InvalidField` for ids and times that are none; when the database does not answer.
pub async fn scrub_report(app: &App, host: HostId, report: &agent_v1::ScrubReport) -> Result<()> {
    let scrub: ScrubId = report.scrub_id.parse()?;
    let passed = report.result() == v1::StepResult::Passed
        && report
            .steps
            .iter()
            .all(|step| step.result() != v1::StepResult::Failed);
    let steps: Vec<serde_json::Value> = report.steps.iter().map(step_json).collect();
    let mut tx = app.pool.begin().await?;
    let updated = sqlx::query!(
        "update scrub set result = $3, steps = $4, started_at = $5, ended_at = coalesce($6, now())
         where id = $1 and host_id = $2 and result is null returning instance_id",
        scrub.uuid(),
        host.uuid(),
        if passed { "passed" } else { "failed" },
        serde_json::Value::Array(steps),
        instant(report.start_time.as_ref()),
        instant(report.end_time.as_ref())
    )
    .fetch_optional(&mut *tx)
    .await?;
    let Some(updated) = updated else {
        return Ok(());
    };
    let failure = (!passed).then(|| failed_steps(&report.steps));
    conclude_scrub(
        &mut tx,
        host.uuid(),
        updated.instance_id,
        failure.as_deref(),
    )
    .await?;
    tx.commit().await?;
    Ok(())
}

/// A passed scrub frees the host; a failed one quarantines it.
async fn conclude_scrub(
    connection: &mut PgConnection,
    host: Uuid,
    instance: Option<Uuid>,
    failure: Option<&str>,
) -> Result<()> {
    match failure {
        None => {
            sqlx::query!(
                "update host set clean = true where id = $1 and quarantine_reason is null",
                host
            )
            .execute(&mut *connection)
            .await?;
            release_occupancy(connection, host, instance).await?;
            if instance.is_none() {
                end_quarantine(connection, host).await?;
            }
        }
        Some(reason) => {
            crate::hosts::quarantine::quarantine(connection, host.into(), reason).await?;
        }
    }
    if let Some(instance) = instance {
        let lease = sqlx::query_scalar!("select lease_id from instance where id = $1", instance)
            .fetch_one(&mut *connection)
            .await?;
        super::store::record_event(
            connection,
            lease,
            Some(instance),
            if failure.is_none() {
                "scrubbed"
            } else {
                "scrub_failed"
            },
            failure.unwrap_or("the host was scrubbed and passed its health gate"),
        )
        .await?;
        notify(connection, &Signal::Lease(lease)).await?;
    }
    notify(connection, &Signal::Host(host)).await
}

/// Ends the occupancy that the scrub was the last part of.
async fn release_occupancy(
    connection: &mut PgConnection,
    host: Uuid,
    instance: Option<Uuid>,
) -> Result<()> {
    // An occupancy that has not begun covers nothing; one that has ends now.
    sqlx::query!(
        "delete from occupancy where host_id = $1 and kind in ('lease', 'scrub')
             and instance_id is not distinct from $2 and lower(during) >= now()",
        host,
        instance
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "update occupancy set during = tstzrange(lower(during), now()), kind = 'scrub'
         where host_id = $1 and kind in ('lease', 'scrub') and instance_id is not distinct from $2
             and (upper_inf(during) or upper(during) > now())",
        host,
        instance
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Ends the occupancy that a quarantine left behind: the host was released, and is clean.
async fn end_quarantine(connection: &mut PgConnection, host: Uuid) -> Result<()> {
    sqlx::query!(
        "update occupancy set during = tstzrange(lower(during), now()) where host_id = $1 and kind = 'quarantine'
             and lower(during) < now() and (upper_inf(during) or upper(during) > now())
             and exists (select 1 from host where id = $1 and quarantine_reason is null)",
        host
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Fills unknown stretches in from an agent's journal.
///
/// # Errors
/// `InvalidField` for ids that are none; when the database does not answer.
pub async fn journal_batch(app: &App, host: HostId, batch: &agent_v1::JournalBatch) -> Result<()> {
    let longest =
        chrono::Duration::from_std(app.config.limits.backfill).map_err(Error::internal)?;
    let mut tx = app.pool.begin().await?;
    for entry in batch.entries.iter().filter(|entry| entry.healthy) {
        let instance: InstanceId = entry.instance_id.parse()?;
        let (Some(from), Some(to)) = (
            instant(entry.from_time.as_ref()),
            instant(entry.to_time.as_ref()),
        ) else {
            continue;
        };
        // The monotonic clock is the witness: a stretch that it does not cover was a jump of the wall clock.
        let covered = (to - from).num_milliseconds() <= entry.duration_ms + 2_000;
        if to <= from || !covered || !ran_here(&mut tx, instance, host, from).await? {
            continue;
        }
        availability::fill_in(&mut tx, instance.uuid(), from, to, longest).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// True when the instance was placed on the host at that time: a journal proves nothing for other hosts.
async fn ran_here(
    connection: &mut PgConnection,
    instance: InstanceId,
    host: HostId,
    at: DateTime<Utc>,
) -> Result<bool> {
    Ok(sqlx::query_scalar!(
        r#"select exists(select 1 from incarnation where instance_id = $1 and host_id = $2
               and placed_at <= $3 and (ended_at is null or ended_at > $3)) as "ran!""#,
        instance.uuid(),
        host.uuid(),
        at
    )
    .fetch_one(connection)
    .await?)
}

fn instant(time: Option<&prost_types::Timestamp>) -> Option<DateTime<Utc>> {
    time.and_then(micros_from_timestamp)
        .and_then(DateTime::from_timestamp_micros)
}

fn step_json(step: &v1::Step) -> serde_json::Value {
    serde_json::json!({
        "name": step.name,
        "result": step.result().as_str_name().trim_start_matches("STEP_RESULT_").to_ascii_lowercase(),
        "detail": step.detail,
        "duration_ms": step.duration_ms,
    })
}

fn failed_steps(steps: &[v1::Step]) -> String {
    let failed: Vec<String> = steps
        .iter()
        .filter(|step| step.result() == v1::StepResult::Failed)
        .map(|step| format!("{}: {}", step.name, step.detail))
        .collect();
    format!(
        "the scrub failed: {}",
        if failed.is_empty() {
            "no step passed".to_owned()
        } else {
            failed.join("; ")
        }
    )
}
