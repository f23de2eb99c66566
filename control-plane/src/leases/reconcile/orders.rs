//! What agents are told. Orders are repeated until a report shows their effect, at most every [`PAUSE`] for the same state of things.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use freehold_proto::{
    agent_v1::{
        Baseline, EnsureGone, EnsureRunning, InstanceSpec, NetworkSpec, ScrubHost,
        attach_response::Message, network_spec,
    },
    id::{HostId, InstanceId, LeaseId, ScrubId},
};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    access::ca,
    app::App,
    error::{Error, Result},
    leases::store::scratch_secret_name,
};

/// Between two of the same order: an agent that works on one says nothing new for a while.
const PAUSE: Duration = Duration::from_secs(2);

const GIB: i64 = 1 << 30;

/// When which order was sent last: a hint of this replica's own, and lost without harm.
#[derive(Default)]
pub(super) struct Sent(Mutex<HashMap<(Uuid, i64, &'static str), Instant>>);

impl Sent {
    /// True, once in a while, when it is time for an order.
    fn is_time(&self, subject: Uuid, generation: i64, order: &'static str) -> bool {
        let mut sent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        sent.retain(|_, at| now.duration_since(*at) < PAUSE);
        if sent.contains_key(&(subject, generation, order)) {
            return false;
        }
        sent.insert((subject, generation, order), now);
        true
    }
}

/// Tells the agent of a host that an instance has to run. Does nothing when the agent is not connected to this replica.
pub(super) async fn run(
    app: &App,
    sent: &Sent,
    connection: &mut PgConnection,
    (host, instance, generation): (HostId, InstanceId, i64),
) -> Result<()> {
    if !app.links.is_connected(host) || !sent.is_time(instance.uuid(), generation, "run") {
        return Ok(());
    }
    if let Some(spec) = load_spec(app, connection, instance, generation).await? {
        // An agent that left meanwhile gets the order when it is back.
        let _ = app.links.send(
            host,
            Message::EnsureRunning(EnsureRunning { spec: Some(spec) }),
        );
    }
    Ok(())
}

async fn load_spec(
    app: &App,
    connection: &mut PgConnection,
    instance: InstanceId,
    generation: i64,
) -> Result<Option<InstanceSpec>> {
    let row = sqlx::query!(
        r#"select i.lease_id, i.ordinal, i.gpu_uuids, i.scratch_key, l.image, l.name, l.count, t.vcpus, t.memory_gib, t.scratch_gib,
               array(select public_key from lease_ssh_key k where k.lease_id = l.id order by fingerprint) as "keys!"
           from instance i join lease l on l.id = i.lease_id join instance_type t on t.id = l.instance_type_id
           where i.id = $1 and i.generation = $2 and i.desired = 'running'"#,
        instance.uuid(),
        generation
    )
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let sealed = row.scratch_key.ok_or_else(|| {
        Error::internal(anyhow::anyhow!("an instance that runs has no scratch key"))
    })?;
    let key = app.pki.kek.open(&scratch_secret_name(instance), &sealed);
    let lease = LeaseId::from(row.lease_id);
    Ok(Some(InstanceSpec {
        instance_id: instance.to_string(),
        lease_id: lease.to_string(),
        ordinal: row.ordinal,
        epoch: app.epoch,
        generation,
        image: row.image,
        gpu_uuids: row.gpu_uuids,
        vcpus: row.vcpus,
        memory_bytes: i64::from(row.memory_gib) * GIB,
        scratch_bytes: i64::from(row.scratch_gib) * GIB,
        scratch_key: key.map_err(Error::internal)?,
        network: Some(NetworkSpec {
            kind: network_spec::Kind::Bridge.into(),
        }),
        user_ca: ca::user_ca_line(app)?,
        principals: ca::principals_for(lease),
        authorized_keys: row.keys,
        image_timeout_ms: i64::try_from(app.config.limits.image_timeout.as_millis())
            .unwrap_or(i64::MAX),
        hostname: if row.count == 1 {
            row.name
        } else {
            format!("{}-{}", row.name, row.ordinal)
        },
    }))
}

/// Tells the agent of a host that an instance has to be gone and the host cleaned after it.
pub(super) async fn remove(
    app: &App,
    sent: &Sent,
    connection: &mut PgConnection,
    (host, instance, generation): (HostId, InstanceId, i64),
    scrub: ScrubId,
) -> Result<()> {
    if !app.links.is_connected(host) || !sent.is_time(scrub.uuid(), generation, "remove") {
        return Ok(());
    }
    let order = EnsureGone {
        instance_id: instance.to_string(),
        epoch: app.epoch,
        generation,
        scrub_id: scrub.to_string(),
        baseline: Some(baseline(connection, host).await?),
    };
    let _ = app.links.send(host, Message::EnsureGone(order));
    Ok(())
}

/// Tells the agent of a host that the host itself has to be scrubbed and checked.
pub(super) async fn scrub(
    app: &App,
    sent: &Sent,
    connection: &mut PgConnection,
    host: HostId,
    scrub: ScrubId,
) -> Result<()> {
    if !app.links.is_connected(host) || !sent.is_time(scrub.uuid(), 0, "scrub") {
        return Ok(());
    }
    let order = ScrubHost {
        scrub_id: scrub.to_string(),
        epoch: app.epoch,
        baseline: Some(baseline(connection, host).await?),
    };
    let _ = app.links.send(host, Message::ScrubHost(order));
    Ok(())
}

/// The GPUs that the host is known to have.
async fn baseline(connection: &mut PgConnection, host: HostId) -> Result<Baseline> {
    let gpu_uuids = sqlx::query_scalar!(
        "select uuid from host_gpu where host_id = $1 order by gpu_index",
        host.uuid()
    )
    .fetch_all(connection)
    .await?;
    Ok(Baseline { gpu_uuids })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_not_repeated_while_the_agent_may_still_be_at_it() {
        let sent = Sent::default();
        let (first, second) = (Uuid::now_v7(), Uuid::now_v7());
        assert!(sent.is_time(first, 1, "run"));
        assert!(!sent.is_time(first, 1, "run"));
        assert!(sent.is_time(first, 2, "run"), "another generation");
        assert!(sent.is_time(first, 1, "remove"), "another order");
        assert!(sent.is_time(second, 1, "run"), "another instance");
    }
}
