//! What an agent's hello says, written down.

use freehold_proto::id::{HostId, ReplicaId};
use sqlx::{PgConnection, PgPool};

use super::{
    certificate, finding,
    session::{self, Session},
};
use crate::{
    audit,
    database::{Signal, notify},
    error::{Error, Result},
    hosts::model::inventory::{Gpu, GpuChange, compare, model_of},
};

/// What an agent says of its host.
#[derive(Debug, Clone)]
pub(in crate::hosts) struct Hello {
    pub(in crate::hosts) agent_version: String,
    pub(in crate::hosts) boot_id: String,
    pub(in crate::hosts) vcpus: i32,
    pub(in crate::hosts) memory_bytes: i64,
    pub(in crate::hosts) scratch_bytes: i64,
    pub(in crate::hosts) driver_version: String,
    pub(in crate::hosts) cuda_version: String,
    pub(in crate::hosts) simulated: bool,
    pub(in crate::hosts) gpus: Vec<Gpu>,
}

/// Begins a session and takes over what the agent says of its host. Returns the session and whether it carries telemetry.
///
/// # Errors
/// `PermissionDenied` when the certificate was revoked or the host removed in the meantime.
pub(in crate::hosts) async fn welcome(
    pool: &PgPool,
    replica: ReplicaId,
    host: HostId,
    serial: &str,
    hello: &Hello,
) -> Result<(Session, bool)> {
    let mut tx = pool.begin().await?;
    certificate::lock_host(&mut tx, host).await?;
    certificate::admit(certificate::find(&mut tx, serial).await?)?;
    let session = session::begin(&mut tx, host, replica).await?;
    let telemetry = session::claim_telemetry(&mut tx, session).await?;
    store_facts(&mut tx, host, hello).await?;
    store_gpus(&mut tx, host, &hello.gpus).await?;
    notify(&mut tx, &Signal::Host(host.uuid())).await?;
    tx.commit().await?;
    Ok((session, telemetry))
}

async fn store_facts(connection: &mut PgConnection, host: HostId, hello: &Hello) -> Result<()> {
    sqlx::query!(
        "update host set agent_version = $2, boot_id = $3, vcpus = $4, memory_bytes = $5, scratch_bytes = $6, driver_version = $7,
             cuda_version = $8, simulated = $9, last_seen_at = now()
         where id = $1",
        host.uuid(),
        hello.agent_version,
        hello.boot_id,
        hello.vcpus,
        hello.memory_bytes,
        hello.scratch_bytes,
        hello.driver_version,
        hello.cuda_version,
        hello.simulated
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn store_gpus(connection: &mut PgConnection, host: HostId, gpus: &[Gpu]) -> Result<()> {
    let known = sqlx::query_scalar!("select uuid from host_gpu where host_id = $1", host.uuid())
        .fetch_all(&mut *connection)
        .await?;
    let idle = is_idle(connection, host).await?;
    match compare(&known, gpus, idle) {
        GpuChange::Unseen => {
            tracing::warn!(host.id = %host, "the agent sees none of the host's GPUs");
            Ok(())
        }
        GpuChange::Missing(uuids) => finding::report_missing(connection, host, &uuids).await,
        GpuChange::Accept { added, removed } => {
            finding::clear_missing(connection, host).await?;
            replace_gpus(connection, host, gpus).await?;
            if added.is_empty() && removed.is_empty() {
                return Ok(());
            }
            accept_change(connection, host, &added, &removed).await
        }
    }
}

/// True when nothing of a lease is on the host.
async fn is_idle(connection: &mut PgConnection, host: HostId) -> Result<bool> {
    Ok(sqlx::query_scalar!(
        r#"select not exists(select 1 from instance where host_id = $1
               and recorded in ('provisioning', 'usable', 'impaired', 'ending')) as "idle!""#,
        host.uuid()
    )
    .fetch_one(connection)
    .await?)
}

async fn replace_gpus(connection: &mut PgConnection, host: HostId, gpus: &[Gpu]) -> Result<()> {
    let uuids: Vec<String> = gpus.iter().map(|gpu| gpu.uuid.clone()).collect();
    sqlx::query!(
        "delete from host_gpu where host_id = $1 and uuid <> all($2)",
        host.uuid(),
        &uuids
    )
    .execute(&mut *connection)
    .await?;
    // One statement for all: ten thousand agents may come back at once.
    let rows = serde_json::to_value(gpus).map_err(Error::internal)?;
    sqlx::query!(
        "insert into host_gpu as known (host_id, gpu_index, uuid, model, serial, pci_bus_id, memory_bytes)
         select $1, index, uuid, model, serial, pci_bus_id, memory_bytes from jsonb_to_recordset($2)
             as seen (uuid text, index integer, model text, serial text, pci_bus_id text, memory_bytes bigint)
         on conflict (host_id, uuid) do update set gpu_index = excluded.gpu_index, model = excluded.model, serial = excluded.serial,
             pci_bus_id = excluded.pci_bus_id, memory_bytes = excluded.memory_bytes
         where (known.gpu_index, known.model, known.serial, known.pci_bus_id, known.memory_bytes)
             is distinct from (excluded.gpu_index, excluded.model, excluded.serial, excluded.pci_bus_id, excluded.memory_bytes)",
        host.uuid(),
        rows
    )
    .execute(&mut *connection)
    .await?;
    let count = i32::try_from(gpus.len()).map_err(Error::internal)?;
    sqlx::query!(
        "update host set gpu_model = $2, gpu_count = $3 where id = $1",
        host.uuid(),
        model_of(gpus),
        count
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Other GPUs than before: the host has to pass a gate again, and what is booked on it gets the new ones.
async fn accept_change(
    connection: &mut PgConnection,
    host: HostId,
    added: &[String],
    removed: &[String],
) -> Result<()> {
    sqlx::query!(
        "update instance set gpu_uuids = array(select uuid from host_gpu where host_id = $1 order by gpu_index)
         where host_id = $1 and recorded = 'placed'",
        host.uuid()
    )
    .execute(&mut *connection)
    .await?;
    // More GPUs beside those that a tenant has do not make the tenant's host a dirty one: it is scrubbed at the end anyway.
    sqlx::query!("update host set clean = false where id = $1", host.uuid())
        .execute(&mut *connection)
        .await?;
    tracing::info!(host.id = %host, ?added, ?removed, "a host's GPUs changed");
    audit::Entry::new(None, None, "host.change_gpus", host)
        .with("added", added.join(" "))
        .with("removed", removed.join(" "))
        .write(connection)
        .await
}
