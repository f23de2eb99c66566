//! PostgreSQL: where all state lives.
//!
//! With no `database_url` the control plane starts and owns a PostgreSQL of its own ([`managed`]); with one, any number of replicas share it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{
    PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::error::Result;

mod bus;
pub mod managed;
pub mod request_id;

pub use bus::{Bus, Signal, notify};

/// Serialises migrations of replicas that start together.
const MIGRATION_LOCK: i64 = 0x6672_6565_686f_6c64;

/// Connections of one replica. More than PostgreSQL's default of 100 divided by the replicas would make the last one fail to start.
const POOL_SIZE: u32 = 24;

/// Connects, waiting up to a minute for a server that is coming up.
///
/// # Errors
/// When no server answers in time.
pub async fn connect(url: &str) -> anyhow::Result<PgPool> {
    use anyhow::Context as _;
    let options: PgConnectOptions = url
        .parse()
        .context("database_url is not a PostgreSQL URL")?;
    let options = options.application_name("freehold");
    let pool = PgPoolOptions::new()
        .max_connections(POOL_SIZE)
        .acquire_timeout(Duration::from_secs(10))
        .connect_lazy_with(options);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        match sqlx::query("select 1").execute(&pool).await {
            Ok(_) => return Ok(pool),
            Err(error) if tokio::time::Instant::now() > deadline => {
                return Err(error).context("PostgreSQL does not answer");
            }
            Err(error) => tracing::info!(%error, "waiting for PostgreSQL"),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Brings the schema up to date, one replica at a time.
///
/// # Errors
/// When a migration fails, or when the database has migrations that this build does not know.
pub async fn migrate(pool: &PgPool) -> anyhow::Result<()> {
    let mut connection = pool.acquire().await?;
    sqlx::query("select pg_advisory_lock($1)")
        .bind(MIGRATION_LOCK)
        .execute(&mut *connection)
        .await?;
    let migrated = sqlx::migrate!().run(&mut *connection).await;
    sqlx::query("select pg_advisory_unlock($1)")
        .bind(MIGRATION_LOCK)
        .execute(&mut *connection)
        .await?;
    Ok(migrated?)
}

/// The database's clock. Read once per transaction and passed in.
///
/// # Errors
/// When the database does not answer.
pub async fn now(connection: &mut PgConnection) -> Result<DateTime<Utc>> {
    Ok(sqlx::query_scalar!(r#"select now() as "now!""#)
        .fetch_one(connection)
        .await?)
}
