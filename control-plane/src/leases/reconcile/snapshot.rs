//! What is known of every instance that has not ended.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use freehold_proto::id::{HostId, InstanceId, LeaseId};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    app::App,
    error::{Error, Result},
    leases::model::{
        condition::Observation,
        decision::Situation,
        instance::{Recorded, Reported},
    },
};

/// One instance at the time of the snapshot.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) instance: InstanceId,
    pub(super) lease: LeaseId,
    pub(super) ordinal: i32,
    pub(super) host: Option<HostId>,
    /// Since when what is observed has been so, as far as that is known.
    pub(super) observed_from: DateTime<Utc>,
    pub(super) situation: Situation,
}

/// Which instances a snapshot is of; none that has ended.
#[derive(Debug, Clone, Copy)]
pub(super) enum Selection {
    /// All, but those whose time has not come.
    Due,
    /// Booked on a host that is quarantined, removed or unhealthy.
    OnUnfitHosts,
    /// Booked on this host, and taking it before that time from now.
    OnHostWithin(Uuid, Duration),
}

/// Takes a snapshot of at most `limit` instances.
pub(super) async fn take(
    app: &App,
    connection: &mut PgConnection,
    selection: Selection,
    limit: i64,
) -> Result<Vec<View>> {
    let (mode, host, within) = match selection {
        Selection::Due => ("due", None, 0.0),
        Selection::OnUnfitHosts => ("unfit", None, 0.0),
        Selection::OnHostWithin(host, within) => ("within", Some(host), within.as_secs_f64()),
    };
    let lead = app.config.limits.lead.as_secs_f64();
    let silence = app.config.limits.host_timeout.as_secs_f64();
    let rows = sqlx::query_as!(
        Row,
        r#"select i.id, i.lease_id, i.ordinal, i.recorded, i.reported, i.reported_detail, i.reported_tenant_fault, i.sshd_listening,
               i.state_since, i.reported_since, i.generation, i.host_id, now() as "now!",
               cardinality(array(select unnest(i.gpu_uuids) except select unnest(i.visible_gpu_uuids))) as "missing!",
               lower(l.lease_window) - make_interval(secs => $1) as "due_at!",
               h.quarantine_reason as "quarantine_reason?", h.removed_at as "removed_at?", h.clean as "clean?", h.last_seen_at as "last_seen_at?",
               coalesce(h.last_seen_at > now() - make_interval(secs => $2), false) as "heard!",
               f.detail as "finding?", f.since as "finding_since?",
               exists(select 1 from host_finding a where a.host_id = i.host_id and a.prevents_allocation) as "unfit!"
           from instance i join lease l on l.id = i.lease_id left join host h on h.id = i.host_id
               left join lateral (
                   select string_agg(distinct check_name || case when detail = '' then '' else ': ' || detail end, '; ') as detail, min(since) as since
                   from host_finding where host_id = i.host_id and prevents_use and (gpu_uuid = '' or gpu_uuid = any(i.gpu_uuids))
               ) f on true
           where i.recorded <> 'ended' and case $3
               when 'due' then i.recorded not in ('pending', 'placed') or lower(l.lease_window) - make_interval(secs => $1) <= now()
               when 'unfit' then i.recorded = 'placed' and (h.quarantine_reason is not null or h.removed_at is not null
                   or exists (select 1 from host_finding a where a.host_id = i.host_id and a.prevents_allocation))
               else i.recorded = 'placed' and i.host_id = $4 and exists (select 1 from occupancy o where o.instance_id = i.id
                   and o.movable and lower(o.during) < now() + make_interval(secs => $5))
               end
           order by i.lease_id, i.ordinal limit $6"#,
        lead,
        silence,
        mode,
        host,
        within,
        limit
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(View::try_from).collect()
}

struct Row {
    id: Uuid,
    lease_id: Uuid,
    ordinal: i32,
    recorded: String,
    reported: String,
    reported_detail: String,
    reported_tenant_fault: bool,
    sshd_listening: bool,
    state_since: DateTime<Utc>,
    reported_since: DateTime<Utc>,
    generation: i64,
    host_id: Option<Uuid>,
    now: DateTime<Utc>,
    missing: i32,
    due_at: DateTime<Utc>,
    quarantine_reason: Option<String>,
    removed_at: Option<DateTime<Utc>>,
    clean: Option<bool>,
    last_seen_at: Option<DateTime<Utc>>,
    heard: bool,
    finding: Option<String>,
    finding_since: Option<DateTime<Utc>>,
    unfit: bool,
}

impl Row {
    fn host_refuses(&self) -> Option<String> {
        if self.host_id.is_none() {
            Some("no host is free".to_owned())
        } else if self.removed_at.is_some() {
            Some("its host was removed".to_owned())
        } else if let Some(reason) = &self.quarantine_reason {
            Some(format!("its host is quarantined: {reason}"))
        } else if self.unfit {
            Some("its host is not healthy".to_owned())
        } else if !self.heard {
            Some("its host is not heard".to_owned())
        } else if self.clean != Some(true) {
            Some("its host is still being cleaned".to_owned())
        } else {
            None
        }
    }

    /// Silence began when the host was heard last, a finding when it was found, and not knowing when the agent first said so.
    fn observed_from(&self) -> DateTime<Utc> {
        match (self.heard, self.last_seen_at, self.finding_since) {
            (false, Some(last_seen), _) => last_seen,
            (true, _, Some(found)) => found,
            _ if self.reported == Reported::Unknown.as_str() => self.reported_since,
            _ => self.now,
        }
    }
}

impl TryFrom<Row> for View {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self> {
        let since = |at: DateTime<Utc>| (row.now - at).max(TimeDelta::zero());
        Ok(Self {
            instance: row.id.into(),
            lease: row.lease_id.into(),
            ordinal: row.ordinal,
            host: row.host_id.map(Into::into),
            observed_from: row.observed_from(),
            situation: Situation {
                recorded: row.recorded.parse::<Recorded>().map_err(Error::internal)?,
                recorded_for: since(row.state_since),
                reported_for: since(row.reported_since),
                tenant_fault: row.reported_tenant_fault,
                generation: row.generation,
                due: row.due_at <= row.now,
                // What was placed again counts from then.
                due_for: since(row.due_at.max(row.state_since)),
                host_refuses: row.host_refuses(),
                observation: Observation {
                    host_heard: row.heard,
                    reported: row.reported.parse::<Reported>().map_err(Error::internal)?,
                    detail: row.reported_detail,
                    sshd_listening: row.sshd_listening,
                    missing_gpus: usize::try_from(row.missing).unwrap_or(0),
                    finding: row.finding,
                },
            },
        })
    }
}
