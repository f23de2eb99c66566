//! Reading leases with all that belongs to them.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use freehold_proto::id::LeaseId;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    error::{Error, Result},
    gate::Caller,
    organizations::scope::Scope,
    page::Page,
};

/// A lease with all that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRecord {
    /// The lease itself.
    pub lease: LeaseRow,
    /// By ordinal.
    pub instances: Vec<InstanceRow>,
    /// Oldest first.
    pub segments: Vec<SegmentRow>,
    /// In OpenSSH's format.
    pub ssh_public_keys: Vec<String>,
}

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the columns of the schema")]
pub struct LeaseRow {
    pub id: Uuid,
    pub organization_id: Uuid,
    pub organization: String,
    pub project_id: Uuid,
    pub project: String,
    pub name: String,
    pub instance_type: String,
    pub count: i32,
    pub image: String,
    pub labels: serde_json::Value,
    pub state: String,
    pub state_reason: String,
    pub start_at: DateTime<Utc>,
    /// `None`: open-ended.
    pub end_at: Option<DateTime<Utc>>,
    pub created_by: Uuid,
    pub created_at: DateTime<Utc>,
    pub end_requested_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    pub settled_at: Option<DateTime<Utc>>,
}

/// One node of a lease, with its host and the cleaning after it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the columns of the schema")]
pub struct InstanceRow {
    pub id: Uuid,
    pub lease_id: Uuid,
    pub ordinal: i32,
    pub recorded: String,
    pub state_reason: String,
    pub reported: String,
    pub host_id: Option<Uuid>,
    pub host: Option<String>,
    pub generation: i64,
    pub gpu_uuids: Vec<String>,
    pub usable_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    /// Once it has ended.
    pub scrub: Option<ScrubRow>,
}

/// The record of a cleaning that has ended.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[allow(missing_docs, reason = "the columns of the schema")]
pub struct ScrubRow {
    pub id: Uuid,
    pub host_id: Uuid,
    /// `passed` or `failed`.
    pub result: String,
    pub steps: Vec<StepRow>,
    pub started_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
}

/// One step of a cleaning.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields of the schema")]
pub struct StepRow {
    pub name: String,
    /// `passed`, `failed` or `skipped`.
    pub result: String,
    pub detail: String,
    pub duration_ms: i64,
}

/// A priced part of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the columns of the schema")]
pub struct SegmentRow {
    pub id: Uuid,
    pub lease_id: Uuid,
    pub start_at: DateTime<Utc>,
    /// `None`: open-ended.
    pub end_at: Option<DateTime<Utc>>,
    pub price_micros: i64,
    pub currency: String,
    pub rounding: String,
}

/// What a list of leases is limited to.
#[derive(Debug, Clone, Default)]
pub struct LeaseFilter {
    /// Only in these states; empty: in all.
    pub states: Vec<String>,
}

/// Finds a lease by id or name. A name means the lease of that name that has not ended, else the newest; the caller's own organization goes
/// before others.
///
/// # Errors
/// `NotFound` for what does not exist or is another tenant's, `InvalidField` for a name that several live leases have.
pub async fn find_lease(
    connection: &mut PgConnection,
    caller: &Caller,
    scope: Scope,
    lease: &str,
) -> Result<LeaseId> {
    let id = lease.parse::<LeaseId>().ok().map(LeaseId::uuid);
    let found = sqlx::query!(
        r#"select id, state not in ('ended', 'failed') as "live!", organization_id = $5 as "own!" from lease
           where (id = $1 or ($1 is null and name = $2))
               and ($3::uuid is null or organization_id = $3) and ($4::uuid is null or project_id = $4)
           order by 3 desc, 2 desc, id desc limit 2"#,
        id,
        lease,
        scope.organization_uuid(),
        scope.project_uuid(),
        caller.organization.uuid()
    )
    .fetch_all(connection)
    .await?;
    match found.as_slice() {
        [] => Err(Error::not_found("lease", lease)),
        [first, second] if first.live && second.live && first.own == second.own => {
            Err(Error::field(
                "lease",
                format!(
                    "several leases that have not ended are called `{lease}`; give the id, or the project"
                ),
            ))
        }
        [first, ..] => Ok(first.id.into()),
    }
}

/// Leases, newest first.
///
/// # Errors
/// When the database does not answer.
pub async fn list_leases(
    connection: &mut PgConnection,
    scope: Scope,
    filter: &LeaseFilter,
    page: Page,
) -> Result<Vec<LeaseRecord>> {
    let ids = sqlx::query_scalar!(
        "select id from lease
         where ($1::uuid is null or organization_id = $1) and ($2::uuid is null or project_id = $2)
             and ($3::uuid is null or id < $3) and (cardinality($4::text[]) = 0 or state = any($4))
         order by id desc limit $5",
        scope.organization_uuid(),
        scope.project_uuid(),
        page.after,
        &filter.states,
        page.fetch()
    )
    .fetch_all(&mut *connection)
    .await?;
    load_leases(connection, &ids).await
}

/// One lease with all that belongs to it.
///
/// # Errors
/// `NotFound`; when the database does not answer.
pub async fn load_lease(connection: &mut PgConnection, lease: LeaseId) -> Result<LeaseRecord> {
    load_leases(connection, &[lease.uuid()])
        .await?
        .pop()
        .ok_or_else(|| Error::not_found("lease", lease))
}

/// Leases with all that belongs to them, newest first. Ids that are none are left out.
///
/// # Errors
/// When the database does not answer.
pub async fn load_leases(connection: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<LeaseRecord>> {
    let leases = load_rows(connection, ids).await?;
    let mut instances = grouped(load_instances(connection, ids).await?, |row| row.lease_id);
    let mut segments = grouped(load_segments(connection, ids).await?, |row| row.lease_id);
    let mut keys = grouped(load_keys(connection, ids).await?, |(lease, _)| *lease);
    Ok(leases
        .into_iter()
        .map(|lease| LeaseRecord {
            instances: instances.remove(&lease.id).unwrap_or_default(),
            segments: segments.remove(&lease.id).unwrap_or_default(),
            ssh_public_keys: keys
                .remove(&lease.id)
                .unwrap_or_default()
                .into_iter()
                .map(|(_, line)| line)
                .collect(),
            lease,
        })
        .collect())
}

fn grouped<T>(rows: Vec<T>, key: impl Fn(&T) -> Uuid) -> HashMap<Uuid, Vec<T>> {
    let mut groups: HashMap<Uuid, Vec<T>> = HashMap::new();
    for row in rows {
        groups.entry(key(&row)).or_default().push(row);
    }
    groups
}

async fn load_rows(connection: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<LeaseRow>> {
    Ok(sqlx::query_as!(
        LeaseRow,
        r#"select l.id, l.organization_id, o.name as organization, l.project_id, p.name as project, l.name, t.name as instance_type,
               l.count, l.image, l.labels, l.state, l.state_reason, lower(l.lease_window) as "start_at!", upper(l.lease_window) as end_at,
               l.created_by, l.created_at, l.end_requested_at, l.ended_at, l.settled_at
           from lease l join organization o on o.id = l.organization_id join project p on p.id = l.project_id
               join instance_type t on t.id = l.instance_type_id
           where l.id = any($1) order by l.id desc"#,
        ids
    )
    .fetch_all(connection)
    .await?)
}

async fn load_instances(connection: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<InstanceRow>> {
    let rows = sqlx::query!(
        r#"select i.id, i.lease_id, i.ordinal, i.recorded, i.state_reason, i.reported, i.host_id, h.name as "host?", i.generation,
               i.gpu_uuids, i.usable_at, i.ended_at, to_jsonb(s) as scrub
           from instance i left join host h on h.id = i.host_id
               left join scrub s on s.instance_id = i.id and s.generation = i.generation and s.result is not null
           where i.lease_id = any($1) order by i.lease_id, i.ordinal"#,
        ids
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            let scrub = row.scrub.map(serde_json::from_value).transpose();
            Ok(InstanceRow {
                id: row.id,
                lease_id: row.lease_id,
                ordinal: row.ordinal,
                recorded: row.recorded,
                state_reason: row.state_reason,
                reported: row.reported,
                host_id: row.host_id,
                host: row.host,
                generation: row.generation,
                gpu_uuids: row.gpu_uuids,
                usable_at: row.usable_at,
                ended_at: row.ended_at,
                scrub: scrub.map_err(Error::internal)?,
            })
        })
        .collect()
}

async fn load_segments(connection: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<SegmentRow>> {
    Ok(sqlx::query_as!(
        SegmentRow,
        r#"select id, lease_id, lower(during) as "start_at!", upper(during) as end_at, price_micros, currency, rounding
           from lease_segment where lease_id = any($1) order by lease_id, during"#,
        ids
    )
    .fetch_all(connection)
    .await?)
}

async fn load_keys(connection: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<(Uuid, String)>> {
    let rows = sqlx::query!(
        "select lease_id, public_key from lease_ssh_key where lease_id = any($1) order by lease_id, fingerprint",
        ids
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.lease_id, row.public_key))
        .collect())
}
