//! The cluster: its epoch, and the registry of replicas.
//!
//! There is no leader: row locks and fences decide. A replica that stops beating is forgotten, and agents then drop their streams to it.

use std::time::Duration;

use freehold_proto::id::ReplicaId;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::error::Result;

/// How often a replica says that it lives.
const BEAT: Duration = Duration::from_secs(5);

/// Reads the epoch, making the cluster's row on the first start of all.
///
/// # Errors
/// When the database does not answer.
pub async fn ensure_cluster(pool: &PgPool) -> Result<i64> {
    sqlx::query!(
        "insert into cluster (id) values ($1) on conflict do nothing",
        Uuid::now_v7()
    )
    .execute(pool)
    .await?;
    Ok(sqlx::query_scalar!("select epoch from cluster")
        .fetch_one(pool)
        .await?)
}

/// Raises the epoch: what was decided before is fenced off. For the operator, after restoring a backup.
///
/// # Errors
/// When the database does not answer.
pub async fn raise_epoch(pool: &PgPool) -> Result<i64> {
    Ok(
        sqlx::query_scalar!("update cluster set epoch = epoch + 1 returning epoch")
            .fetch_one(pool)
            .await?,
    )
}

/// Announces a replica and the address agents reach it at.
///
/// # Errors
/// When the database does not answer.
pub async fn register(pool: &PgPool, replica: ReplicaId, agent_address: &str) -> Result<()> {
    sqlx::query!(
        "insert into replica (id, agent_address) values ($1, $2)
         on conflict (id) do update set agent_address = excluded.agent_address, seen_at = now()",
        replica.uuid(),
        agent_address
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Takes a replica out of the registry.
///
/// # Errors
/// When the database does not answer.
pub async fn unregister(pool: &PgPool, replica: ReplicaId) -> Result<()> {
    sqlx::query!("delete from replica where id = $1", replica.uuid())
        .execute(pool)
        .await?;
    Ok(())
}

/// The addresses of the replicas that live.
///
/// # Errors
/// When the database does not answer.
pub async fn agent_addresses(pool: &PgPool) -> Result<Vec<String>> {
    let addresses = sqlx::query_scalar!(
        "select agent_address from replica where seen_at > now() - interval '30 seconds' order by agent_address"
    )
    .fetch_all(pool)
    .await?;
    Ok(addresses)
}

/// Says every few seconds that the replica lives, and forgets those that have been silent for a minute.
pub async fn beat(
    pool: PgPool,
    replica: ReplicaId,
    agent_address: String,
    cancel: CancellationToken,
) {
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(BEAT) => {}
        }
        let beaten = async {
            register(&pool, replica, &agent_address).await?;
            sqlx::query!("delete from replica where seen_at < now() - interval '60 seconds'")
                .execute(&pool)
                .await?;
            Result::Ok(())
        };
        if let Err(error) = beaten.await {
            tracing::warn!(%error, "the replica registry cannot be updated");
        }
    }
}
