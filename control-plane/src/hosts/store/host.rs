//! Reading hosts with all that belongs to them.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use freehold_proto::id::HostId;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    error::{Error, Result},
    hosts::model::{
        inventory::Gpu,
        state::{Facts, HostState, Noticed, state_of},
    },
    leases::store::StepRow,
    page::Page,
};

/// A host with all that belongs to it.
#[derive(Debug, Clone)]
pub(in crate::hosts) struct HostRecord {
    pub(in crate::hosts) row: HostRow,
    pub(in crate::hosts) state: HostState,
    pub(in crate::hosts) state_reason: String,
    /// By index.
    pub(in crate::hosts) gpus: Vec<Gpu>,
    pub(in crate::hosts) last_scrub: Option<LastScrub>,
}

/// A host.
#[derive(Debug, Clone)]
pub(in crate::hosts) struct HostRow {
    pub(in crate::hosts) id: Uuid,
    pub(in crate::hosts) name: String,
    pub(in crate::hosts) region: String,
    pub(in crate::hosts) sector: String,
    pub(in crate::hosts) gpu_model: String,
    pub(in crate::hosts) gpu_count: i32,
    pub(in crate::hosts) vcpus: i32,
    pub(in crate::hosts) memory_bytes: i64,
    pub(in crate::hosts) scratch_bytes: i64,
    pub(in crate::hosts) driver_version: String,
    pub(in crate::hosts) cuda_version: String,
    pub(in crate::hosts) agent_version: String,
    pub(in crate::hosts) simulated: bool,
    pub(in crate::hosts) cordoned: bool,
    pub(in crate::hosts) quarantine_reason: Option<String>,
    pub(in crate::hosts) clean: bool,
    pub(in crate::hosts) last_seen_at: Option<DateTime<Utc>>,
    pub(in crate::hosts) silent_seconds: Option<i64>,
    pub(in crate::hosts) removed_at: Option<DateTime<Utc>>,
    pub(in crate::hosts) created_at: DateTime<Utc>,
    pub(in crate::hosts) lease_id: Option<Uuid>,
    pub(in crate::hosts) instance_state: Option<String>,
}

/// The newest cleaning of a host.
#[derive(Debug, Clone)]
pub(in crate::hosts) struct LastScrub {
    pub(in crate::hosts) id: Uuid,
    pub(in crate::hosts) host_id: Uuid,
    pub(in crate::hosts) instance_id: Option<Uuid>,
    /// `None` while it runs.
    pub(in crate::hosts) result: Option<String>,
    pub(in crate::hosts) steps: Vec<StepRow>,
    pub(in crate::hosts) started_at: Option<DateTime<Utc>>,
    pub(in crate::hosts) ended_at: Option<DateTime<Utc>>,
}

/// Finds a host by id, or by the name of one that was not removed.
pub(crate) async fn find(connection: &mut PgConnection, host: &str) -> Result<HostId> {
    let id = host.parse::<HostId>().ok().map(HostId::uuid);
    let found = sqlx::query_scalar!(
        "select id from host where id = $1 or (name = $2 and removed_at is null)",
        id,
        host
    )
    .fetch_optional(connection)
    .await?;
    found
        .map(HostId::from)
        .ok_or_else(|| Error::not_found("host", host))
}

/// Reads one host.
pub(in crate::hosts) async fn load(
    connection: &mut PgConnection,
    host: HostId,
    timeout_seconds: i64,
) -> Result<HostRecord> {
    let rows = load_rows(connection, None, None, Some(host.uuid()), 1).await?;
    let records = complete(connection, rows, timeout_seconds, |_| true).await?;
    records
        .into_iter()
        .next()
        .ok_or_else(|| Error::not_found("host", host))
}

/// Hosts of one state (`None`: every one but removed) behind the page's key. The state is a fold of facts, so that rows are read in
/// batches until the page is full.
pub(in crate::hosts) async fn list(
    connection: &mut PgConnection,
    wanted: Option<HostState>,
    page: Page,
    timeout_seconds: i64,
) -> Result<Vec<HostRecord>> {
    let removed = wanted == Some(HostState::Removed);
    let full = usize::try_from(page.fetch()).unwrap_or(usize::MAX);
    let batch = page.fetch().max(200);
    let mut after = page.after;
    let mut found: Vec<HostRecord> = Vec::new();
    loop {
        let rows = load_rows(connection, after, Some(removed), None, batch).await?;
        let last = i64::try_from(rows.len()).unwrap_or(i64::MAX) < batch;
        after = rows.last().map(|row| row.id).or(after);
        let room = full - found.len();
        let mut kept = complete(connection, rows, timeout_seconds, |state| {
            wanted.is_none_or(|wanted| wanted == state)
        })
        .await?;
        kept.truncate(room);
        found.append(&mut kept);
        if last || found.len() == full {
            return Ok(found);
        }
    }
}

async fn load_rows(
    connection: &mut PgConnection,
    after: Option<Uuid>,
    removed: Option<bool>,
    id: Option<Uuid>,
    limit: i64,
) -> Result<Vec<HostRow>> {
    Ok(sqlx::query_as!(
        HostRow,
        r#"select h.id, h.name, h.region, h.sector, h.gpu_model, h.gpu_count, h.vcpus, h.memory_bytes, h.scratch_bytes, h.driver_version,
               h.cuda_version, h.agent_version, h.simulated, h.cordoned, h.quarantine_reason, h.clean, h.last_seen_at,
               extract(epoch from now() - h.last_seen_at)::bigint as silent_seconds, h.removed_at, h.created_at,
               i.lease_id as "lease_id?", i.recorded as "instance_state?"
           from host h left join lateral (
               select lease_id, recorded from instance where host_id = h.id
                   and recorded in ('provisioning', 'usable', 'impaired', 'ending') limit 1
           ) i on true
           where ($1::uuid is null or h.id > $1) and ($2::boolean is null or (h.removed_at is not null) = $2)
               and ($3::uuid is null or h.id = $3)
           order by h.id limit $4"#,
        after,
        removed,
        id,
        limit
    )
    .fetch_all(connection)
    .await?)
}

/// Folds the states, and adds GPUs and scrubs to the rows whose state is wanted.
async fn complete(
    connection: &mut PgConnection,
    rows: Vec<HostRow>,
    timeout_seconds: i64,
    wanted: impl Fn(HostState) -> bool,
) -> Result<Vec<HostRecord>> {
    let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
    let mut findings = load_findings(connection, &ids).await?;
    let mut records = Vec::new();
    for row in rows {
        let findings = findings.remove(&row.id).unwrap_or_default();
        let (state, state_reason) = state_of(&facts(&row, timeout_seconds, findings));
        if wanted(state) {
            records.push(HostRecord {
                row,
                state,
                state_reason,
                gpus: Vec::new(),
                last_scrub: None,
            });
        }
    }
    let ids: Vec<Uuid> = records.iter().map(|record| record.row.id).collect();
    let mut gpus = load_gpus(connection, &ids).await?;
    let mut scrubs = load_scrubs(connection, &ids).await?;
    for record in &mut records {
        record.gpus = gpus.remove(&record.row.id).unwrap_or_default();
        record.last_scrub = scrubs.remove(&record.row.id);
    }
    Ok(records)
}

fn facts(row: &HostRow, timeout_seconds: i64, findings: Vec<Noticed>) -> Facts {
    let lease = row.lease_id.map(Into::into).zip(row.instance_state.clone());
    Facts {
        removed: row.removed_at.is_some(),
        quarantine_reason: row.quarantine_reason.clone(),
        silent_seconds: row.silent_seconds,
        host_timeout_seconds: timeout_seconds,
        lease,
        clean: row.clean,
        cordoned: row.cordoned,
        findings,
    }
}

pub(super) async fn load_findings(
    connection: &mut PgConnection,
    hosts: &[Uuid],
) -> Result<HashMap<Uuid, Vec<Noticed>>> {
    let rows = sqlx::query!(
        "select host_id, gpu_uuid, check_name, detail, prevents_allocation from host_finding
         where host_id = any($1) order by since, gpu_uuid, check_name",
        hosts
    )
    .fetch_all(connection)
    .await?;
    let mut findings: HashMap<Uuid, Vec<Noticed>> = HashMap::new();
    for row in rows {
        findings.entry(row.host_id).or_default().push(Noticed {
            gpu_uuid: row.gpu_uuid,
            check: row.check_name,
            detail: row.detail,
            prevents_allocation: row.prevents_allocation,
        });
    }
    Ok(findings)
}

async fn load_gpus(
    connection: &mut PgConnection,
    hosts: &[Uuid],
) -> Result<HashMap<Uuid, Vec<Gpu>>> {
    let rows = sqlx::query!(
        "select host_id, gpu_index, uuid, model, serial, pci_bus_id, memory_bytes from host_gpu
         where host_id = any($1) order by gpu_index, uuid",
        hosts
    )
    .fetch_all(connection)
    .await?;
    let mut gpus: HashMap<Uuid, Vec<Gpu>> = HashMap::new();
    for row in rows {
        gpus.entry(row.host_id).or_default().push(Gpu {
            uuid: row.uuid,
            index: row.gpu_index,
            model: row.model,
            serial: row.serial,
            pci_bus_id: row.pci_bus_id,
            memory_bytes: row.memory_bytes,
        });
    }
    Ok(gpus)
}

/// The newest scrub of each host, however many there were.
async fn load_scrubs(
    connection: &mut PgConnection,
    hosts: &[Uuid],
) -> Result<HashMap<Uuid, LastScrub>> {
    let rows = sqlx::query!(
        "select s.id, s.host_id, s.instance_id, s.result, s.steps, s.started_at, s.ended_at
         from unnest($1::uuid[]) as wanted (id)
         cross join lateral (select * from scrub where host_id = wanted.id order by id desc limit 1) s",
        hosts
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            let scrub = LastScrub {
                id: row.id,
                host_id: row.host_id,
                instance_id: row.instance_id,
                result: row.result,
                steps: serde_json::from_value(row.steps).map_err(Error::internal)?,
                started_at: row.started_at,
                ended_at: row.ended_at,
            };
            Ok((row.host_id, scrub))
        })
        .collect()
}
