//! SQL of telemetry.

use chrono::{DateTime, Utc};
use freehold_proto::id::{HostId, OrganizationId, ProjectId};
use serde::Serialize;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::{
    buffer::History,
    model::{Event, GpuSample, Rollup, Sample, View},
};
use crate::error::{Error, Result};

/// Events that are shown.
const MOST_EVENTS: i64 = 100;

#[derive(Serialize)]
struct Of<'a, T> {
    id: Uuid,
    host_id: Uuid,
    #[serde(flatten)]
    row: &'a T,
}

fn rows<T: Serialize>(of: &[(HostId, T)]) -> Result<serde_json::Value> {
    let rows: Vec<Of<'_, T>> = of
        .iter()
        .map(|(host, row)| Of {
            id: Uuid::now_v7(),
            host_id: host.uuid(),
            row,
        })
        .collect();
    serde_json::to_value(rows).map_err(Error::internal)
}

/// Writes rollups and events. What was written before is not written again; a minute with more samples takes the place of one with fewer.
pub(super) async fn write_history(pool: &PgPool, history: &History) -> Result<()> {
    let mut tx = pool.begin().await?;
    if !history.rollups.is_empty() {
        sqlx::query!(
            "insert into telemetry_rollup as known (host_id, gpu_uuid, minute, samples, utilization_percent_mean, utilization_percent_max,
                 memory_used_bytes_max, temperature_celsius_max, power_milliwatts_mean)
             select host_id, gpu_uuid, minute, samples, utilization_percent_mean, utilization_percent_max, memory_used_bytes_max,
                 temperature_celsius_max, power_milliwatts_mean
             from jsonb_to_recordset($1) as sent (host_id uuid, gpu_uuid text, minute timestamptz, samples integer,
                 utilization_percent_mean double precision, utilization_percent_max integer, memory_used_bytes_max bigint,
                 temperature_celsius_max integer, power_milliwatts_mean double precision)
             on conflict (host_id, minute, gpu_uuid) do update set samples = excluded.samples,
                 utilization_percent_mean = excluded.utilization_percent_mean, utilization_percent_max = excluded.utilization_percent_max,
                 memory_used_bytes_max = excluded.memory_used_bytes_max, temperature_celsius_max = excluded.temperature_celsius_max,
                 power_milliwatts_mean = excluded.power_milliwatts_mean
             where known.samples < excluded.samples",
            rows(&history.rollups)?
        )
        .execute(&mut *tx)
        .await?;
    }
    if !history.events.is_empty() {
        sqlx::query!(
            "insert into gpu_event (id, host_id, gpu_uuid, at, kind, xid, detail)
             select id, host_id, gpu_uuid, at, kind, xid, detail from jsonb_to_recordset($1)
                 as sent (id uuid, host_id uuid, gpu_uuid text, at timestamptz, kind text, xid integer, detail text)
             on conflict do nothing",
            rows(&history.events)?
        )
        .execute(&mut *tx)
        .await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Writes the newest samples down.
pub(super) async fn write_latest(pool: &PgPool, samples: &[(HostId, Sample)]) -> Result<()> {
    let hosts: Vec<Uuid> = samples.iter().map(|(host, _)| host.uuid()).collect();
    let times: Vec<DateTime<Utc>> = samples.iter().map(|(_, sample)| sample.at).collect();
    let gpus: Vec<serde_json::Value> = samples
        .iter()
        .map(|(_, sample)| serde_json::to_value(&sample.gpus).map_err(Error::internal))
        .collect::<Result<_>>()?;
    sqlx::query!(
        "insert into telemetry_latest as known (host_id, sampled_at, gpus) select * from unnest($1::uuid[], $2::timestamptz[], $3::jsonb[])
         on conflict (host_id) do update set sampled_at = excluded.sampled_at, gpus = excluded.gpus
         where known.sampled_at < excluded.sampled_at",
        &hosts,
        &times,
        &gpus
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Which of a host's GPUs a tenant leases now, and since when they have been its.
pub(super) async fn view_of(
    connection: &mut PgConnection,
    host: HostId,
    organization: OrganizationId,
    project: Option<ProjectId>,
) -> Result<Option<View>> {
    // A booking may be placed long before it is brought up, while others have the host: their time begins when it is.
    let rows = sqlx::query!(
        r#"select i.gpu_uuids, coalesce(i.usable_at, i.state_since) as "since!"
           from instance i join lease l on l.id = i.lease_id
           where i.host_id = $1 and i.recorded in ('provisioning', 'usable', 'impaired')
               and l.organization_id = $2 and ($3::uuid is null or l.project_id = $3)"#,
        host.uuid(),
        organization.uuid(),
        project.map(ProjectId::uuid)
    )
    .fetch_all(connection)
    .await?;
    let parts = rows.into_iter().map(|row| (row.gpu_uuids, row.since));
    Ok(View::leased(parts.collect()))
}

/// The newest sample that any replica wrote down.
pub(super) async fn latest(connection: &mut PgConnection, host: HostId) -> Result<Option<Sample>> {
    let row = sqlx::query!(
        "select sampled_at, gpus from telemetry_latest where host_id = $1",
        host.uuid()
    )
    .fetch_optional(connection)
    .await?;
    row.map(|row| {
        let gpus: Vec<GpuSample> = serde_json::from_value(row.gpus).map_err(Error::internal)?;
        Ok(Sample {
            at: row.sampled_at,
            gpus,
        })
    })
    .transpose()
}

/// The rollups of the last minutes, oldest first.
pub(super) async fn rollups(
    connection: &mut PgConnection,
    host: HostId,
    minutes: i32,
) -> Result<Vec<Rollup>> {
    Ok(sqlx::query_as!(
        Rollup,
        "select gpu_uuid, minute, samples, utilization_percent_mean, utilization_percent_max, memory_used_bytes_max,
             temperature_celsius_max, power_milliwatts_mean
         from telemetry_rollup where host_id = $1 and minute > now() - make_interval(mins => $2) and minute <= now()
         order by minute, gpu_uuid limit 100000",
        host.uuid(),
        minutes
    )
    .fetch_all(connection)
    .await?)
}

/// The newest events since a time, newest first.
pub(super) async fn events(
    connection: &mut PgConnection,
    host: HostId,
    since: Option<DateTime<Utc>>,
) -> Result<Vec<Event>> {
    Ok(sqlx::query_as!(
        Event,
        "select gpu_uuid, at, kind, xid, detail from gpu_event
         where host_id = $1 and at >= coalesce($2, '-infinity'::timestamptz) order by at desc, id desc limit $3",
        host.uuid(),
        since,
        MOST_EVENTS
    )
    .fetch_all(connection)
    .await?)
}

/// Forgets rollups of more than three days and events of more than 90 days ago, some at a time; returns how many went.
pub(super) async fn forget_old(pool: &PgPool) -> Result<u64> {
    let rollups = sqlx::query!(
        "delete from telemetry_rollup where ctid = any(array(
             select ctid from telemetry_rollup where minute < now() - interval '3 days' limit 50000))"
    )
    .execute(pool)
    .await?;
    let events = sqlx::query!(
        "delete from gpu_event where ctid = any(array(
             select ctid from gpu_event where at < now() - interval '90 days' limit 50000))"
    )
    .execute(pool)
    .await?;
    Ok(rollups.rows_affected() + events.rows_affected())
}
