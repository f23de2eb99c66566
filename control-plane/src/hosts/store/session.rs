//! Control streams, as the database knows them.

use freehold_proto::id::{HostId, ReplicaId};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::error::Result;

/// One stream of one host's agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hosts) struct Session {
    pub(in crate::hosts) host: HostId,
    pub(in crate::hosts) replica: ReplicaId,
    /// Counts the hellos of the host.
    pub(in crate::hosts) generation: i64,
}

/// Begins a session under the next generation, in the place of an older one of the same replica. The caller holds the host's row lock.
pub(in crate::hosts) async fn begin(
    connection: &mut PgConnection,
    host: HostId,
    replica: ReplicaId,
) -> Result<Session> {
    let generation = sqlx::query_scalar!(
        "with counted as (
             update host set session_generation = session_generation + 1 where id = $1 returning session_generation
         )
         insert into agent_session (host_id, replica_id, generation) select $1, $2, session_generation from counted
         on conflict (host_id, replica_id) do update
             set generation = excluded.generation, telemetry = false, connected_at = now()
         returning generation",
        host.uuid(),
        replica.uuid()
    )
    .fetch_one(connection)
    .await?;
    Ok(Session {
        host,
        replica,
        generation,
    })
}

/// Forgets a session; a newer one stays.
pub(in crate::hosts) async fn end(connection: &mut PgConnection, session: Session) -> Result<()> {
    sqlx::query!(
        "delete from agent_session where host_id = $1 and replica_id = $2 and generation = $3",
        session.host.uuid(),
        session.replica.uuid(),
        session.generation
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// True while no newer session of the host has taken this one's place; the answer holds until the transaction ends. A row that is missing went
/// with its replica's, when that could not reach the database for a while, and comes back.
pub(in crate::hosts) async fn is_current(
    connection: &mut PgConnection,
    session: Session,
) -> Result<bool> {
    let current = sqlx::query_scalar!(
        "select generation from agent_session where host_id = $1 and replica_id = $2 for share",
        session.host.uuid(),
        session.replica.uuid()
    )
    .fetch_optional(connection)
    .await?;
    Ok(current.is_none_or(|generation| generation == session.generation))
}

/// Writes sessions down again that were forgotten together with their replica.
pub(in crate::hosts) async fn restore(
    connection: &mut PgConnection,
    replica: ReplicaId,
    sessions: &[Session],
) -> Result<()> {
    let (hosts, generations): (Vec<Uuid>, Vec<i64>) = sessions
        .iter()
        .map(|session| (session.host.uuid(), session.generation))
        .unzip();
    sqlx::query!(
        "insert into agent_session (host_id, replica_id, generation)
         select held.host_id, $1, held.generation from unnest($2::uuid[], $3::int8[]) as held (host_id, generation)
         where exists (select 1 from replica where id = $1) order by held.host_id
         on conflict do nothing",
        replica.uuid(),
        &hosts,
        &generations
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Forgets what is written down of a replica's sessions that it does not hold: one that ended while it was being restored. A hello that is being
/// welcomed is not held yet, and is given time.
pub(in crate::hosts) async fn forget_others(
    connection: &mut PgConnection,
    replica: ReplicaId,
    held: &[Session],
) -> Result<()> {
    let hosts: Vec<Uuid> = held.iter().map(|session| session.host.uuid()).collect();
    sqlx::query!(
        "delete from agent_session where replica_id = $1 and host_id <> all($2) and connected_at < now() - interval '30 seconds'",
        replica.uuid(),
        &hosts
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Makes the session the one that carries telemetry, unless another of a living replica does. Agents send to the one that was told last, so
/// that a replica that is only slow to die does no harm. The caller holds the host's row lock: of two replicas that claim at once one is second.
pub(in crate::hosts) async fn claim_telemetry(
    connection: &mut PgConnection,
    session: Session,
) -> Result<bool> {
    sqlx::query!(
        "update agent_session s set telemetry = false from replica r
         where s.host_id = $1 and s.telemetry and r.id = s.replica_id and r.seen_at < now() - interval '20 seconds'",
        session.host.uuid()
    )
    .execute(&mut *connection)
    .await?;
    let claimed = sqlx::query!(
        "update agent_session set telemetry = true where host_id = $1 and replica_id = $2 and generation = $3
             and not exists (select 1 from agent_session where host_id = $1 and telemetry)",
        session.host.uuid(),
        session.replica.uuid(),
        session.generation
    )
    .execute(connection)
    .await?;
    Ok(claimed.rows_affected() == 1)
}

/// Sessions of a replica whose hosts send telemetry to nobody.
pub(in crate::hosts) async fn without_telemetry(
    connection: &mut PgConnection,
    replica: ReplicaId,
) -> Result<Vec<Session>> {
    let rows = sqlx::query!(
        "select s.host_id, s.generation from agent_session s where s.replica_id = $1 and not exists (
             select 1 from agent_session t join replica r on r.id = t.replica_id
             where t.host_id = s.host_id and t.telemetry and r.seen_at >= now() - interval '20 seconds')
         order by s.host_id limit 500",
        replica.uuid()
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Session {
            host: row.host_id.into(),
            replica,
            generation: row.generation,
        })
        .collect())
}
