//! The PostgreSQL that the deployments of one test process share, each with a database of its own.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use freehold_control_plane::database::managed::Managed;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, postgres::PgConnectOptions};
use tokio::sync::OnceCell;

use super::{Reaper, directory};

static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

struct Cluster {
    managed: Managed,
    /// Never dropped: statics are not. Its pipe closes when this process ends.
    _reaper: Reaper,
}

/// Makes an empty database and returns its URL.
pub(super) async fn create() -> anyhow::Result<String> {
    let cluster = CLUSTER.get_or_try_init(start).await?;
    let name = format!("it_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
    let mut admin = PgConnection::connect(&cluster.managed.url()).await?;
    let statement = format!("create database {name}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
        .execute(&mut admin)
        .await?;
    let options: PgConnectOptions = cluster.managed.url().parse()?;
    Ok(options.database(&name).to_url_lossy().to_string())
}

async fn start() -> anyhow::Result<Cluster> {
    let dir: PathBuf = directory("pg")?;
    let reaper = Reaper::of(&dir)?;
    // Where the reaper looks for the pid file.
    let data_dir = dir.join("replica-none");
    std::fs::create_dir(&data_dir)?;
    let managed = Managed::start(&data_dir).await?;
    let mut admin = PgConnection::connect(&managed.url()).await?;
    // What is thrown away need not survive a crash. Each replica takes up to 24 connections.
    for statement in [
        "alter system set fsync = off",
        "alter system set max_connections = 400",
    ] {
        sqlx::raw_sql(statement).execute(&mut admin).await?;
    }
    admin.close().await?;
    managed.stop().await?;
    let managed = Managed::start(&data_dir).await?;
    Ok(Cluster {
        managed,
        _reaper: reaper,
    })
}
