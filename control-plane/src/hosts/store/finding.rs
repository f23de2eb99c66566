//! What the checks say of hosts now.

use std::collections::BTreeMap;

use freehold_proto::id::HostId;
use sqlx::{PgConnection, PgPool};

use super::{
    certificate::lock_host,
    host::load_findings,
    session::{self, Session},
};
use crate::{
    database::{Signal, notify},
    error::Result,
    hosts::{model::state::preventing, quarantine::quarantine},
};

/// The check behind findings that the control plane makes itself, from the inventory; agents' reports leave them alone.
const MISSING: &str = "gpu_missing";

/// A finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hosts) struct Finding {
    /// Empty: the whole host.
    pub(in crate::hosts) gpu_uuid: String,
    pub(in crate::hosts) check: String,
    pub(in crate::hosts) detail: String,
    pub(in crate::hosts) prevents_use: bool,
    pub(in crate::hosts) prevents_allocation: bool,
}

/// Makes the findings of a host those of its agent's report. A report of a session that a newer one replaced changes nothing.
pub(in crate::hosts) async fn replace(
    pool: &PgPool,
    session: Session,
    findings: Vec<Finding>,
) -> Result<()> {
    // A check that says two things of one GPU is one finding; the later one stands.
    let findings: BTreeMap<(String, String), Finding> = findings
        .into_iter()
        .filter(|finding| finding.check != MISSING)
        .map(|finding| ((finding.gpu_uuid.clone(), finding.check.clone()), finding))
        .collect();
    let mut tx = pool.begin().await?;
    if !session::is_current(&mut tx, session).await? {
        return Ok(());
    }
    let host = session.host.uuid();
    let (gpus, checks): (Vec<String>, Vec<String>) = findings.keys().cloned().unzip();
    let gone = sqlx::query!(
        "delete from host_finding where host_id = $1 and check_name <> $4
             and (gpu_uuid, check_name) not in (select * from unnest($2::text[], $3::text[]))",
        host,
        &gpus,
        &checks,
        MISSING
    )
    .execute(&mut *tx)
    .await?;
    let mut changed = gone.rows_affected();
    for finding in findings.values() {
        changed += upsert(&mut tx, session.host, finding).await?;
    }
    if changed > 0 {
        notify(&mut tx, &Signal::Host(host)).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Returns the rows that changed: `since` stays when the finding does.
async fn upsert(connection: &mut PgConnection, host: HostId, finding: &Finding) -> Result<u64> {
    let written = sqlx::query!(
        "insert into host_finding as f (host_id, gpu_uuid, check_name, detail, prevents_use, prevents_allocation)
         values ($1, $2, $3, $4, $5, $6)
         on conflict (host_id, gpu_uuid, check_name) do update set detail = excluded.detail,
             prevents_use = excluded.prevents_use, prevents_allocation = excluded.prevents_allocation
         where (f.detail, f.prevents_use, f.prevents_allocation)
             is distinct from (excluded.detail, excluded.prevents_use, excluded.prevents_allocation)",
        host.uuid(),
        finding.gpu_uuid,
        finding.check,
        finding.detail,
        finding.prevents_use,
        finding.prevents_allocation
    )
    .execute(connection)
    .await?;
    Ok(written.rows_affected())
}

/// Writes down that GPUs which the host had are not in its agent's inventory.
pub(in crate::hosts) async fn report_missing(
    connection: &mut PgConnection,
    host: HostId,
    uuids: &[String],
) -> Result<()> {
    clear_found(connection, host, uuids).await?;
    for uuid in uuids {
        let finding = Finding {
            gpu_uuid: uuid.clone(),
            check: MISSING.to_owned(),
            detail: "the host had this GPU, and its agent no longer sees it; bring it back, or remove the host and enrol it again without it"
                .to_owned(),
            prevents_use: true,
            prevents_allocation: true,
        };
        upsert(connection, host, &finding).await?;
    }
    Ok(())
}

/// Takes back what [`report_missing`] said.
pub(in crate::hosts) async fn clear_missing(
    connection: &mut PgConnection,
    host: HostId,
) -> Result<()> {
    clear_found(connection, host, &[]).await
}

async fn clear_found(
    connection: &mut PgConnection,
    host: HostId,
    still_missing: &[String],
) -> Result<()> {
    sqlx::query!(
        "delete from host_finding where host_id = $1 and check_name = $2 and gpu_uuid <> all($3)",
        host.uuid(),
        MISSING,
        still_missing
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Hosts that would be free but for a finding.
pub(in crate::hosts) async fn unfit_hosts(connection: &mut PgConnection) -> Result<Vec<HostId>> {
    let hosts = sqlx::query_scalar!(
        "select h.id from host h where h.clean and h.quarantine_reason is null and h.removed_at is null
             and exists (select 1 from host_finding f where f.host_id = h.id and f.prevents_allocation)
             and not exists (select 1 from instance i where i.host_id = h.id
                 and i.recorded in ('provisioning', 'usable', 'impaired', 'ending'))
         order by h.id limit 100"
    )
    .fetch_all(connection)
    .await?;
    Ok(hosts.into_iter().map(HostId::from).collect())
}

/// Quarantines a host for its findings, if it is still free and they still stand.
pub(in crate::hosts) async fn quarantine_unfit(pool: &PgPool, host: HostId) -> Result<()> {
    let mut tx = pool.begin().await?;
    lock_host(&mut tx, host).await?;
    let still = sqlx::query_scalar!(
        r#"select h.clean and not exists (select 1 from instance i where i.host_id = h.id
               and i.recorded in ('provisioning', 'usable', 'impaired', 'ending')) as "free!" from host h where h.id = $1"#,
        host.uuid()
    )
    .fetch_one(&mut *tx)
    .await?;
    let findings = load_findings(&mut tx, &[host.uuid()]).await?;
    let noticed = findings.into_values().next().unwrap_or_default();
    if let Some(reason) = preventing(&noticed).filter(|_| still) {
        quarantine(&mut tx, host, &reason).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Signals the hosts whose silence became too long within the last three seconds: a pass a second notices each, and a pass that failed does
/// no harm.
pub(in crate::hosts) async fn notify_silent(
    connection: &mut PgConnection,
    timeout_seconds: f64,
) -> Result<()> {
    let silent = sqlx::query_scalar!(
        "select id from host where removed_at is null
             and last_seen_at <= now() - make_interval(secs => $1) and last_seen_at > now() - make_interval(secs => $1 + 3)",
        timeout_seconds
    )
    .fetch_all(&mut *connection)
    .await?;
    for host in silent {
        notify(connection, &Signal::Host(host)).await?;
    }
    Ok(())
}
