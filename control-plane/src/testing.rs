//! What store tests stand on: one throw-away PostgreSQL for each test process, one database with the schema for each test.

use std::{
    ops::Deref,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use chrono::{TimeDelta, Utc};
use clap::Parser;
use freehold_proto::id::{HostId, OrganizationId, PrincipalId, ProjectId, ReplicaId};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, postgres::PgConnectOptions};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::{
    access::gateway::Activity,
    app::{App, Parts},
    bootstrap, cluster,
    config::Config,
    database::{self, Bus, managed::Managed},
    gate::{Caller, Role},
    hosts::links::Links,
    pki::Pki,
    telemetry::Telemetry,
};

static CLUSTER: OnceCell<Managed> = OnceCell::const_new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// A database with the schema that the others are copies of.
const TEMPLATE: &str = "freehold_template";

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    config: Config,
}

/// An application on a database of its own. The database goes with the cluster when the test process ends.
pub(crate) struct TestApp {
    app: App,
    _data_dir: tempfile::TempDir,
}

impl Deref for TestApp {
    type Target = App;

    fn deref(&self) -> &App {
        &self.app
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        self.app.shutdown.cancel();
    }
}

/// An application as after the first start of all: the operator's organization and the seeded catalogue. Arguments are those of the binary.
pub(crate) async fn app_with(arguments: &[&str]) -> TestApp {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let managed = CLUSTER.get_or_init(start_cluster).await;
    let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
    let mut admin = PgConnection::connect(&managed.url()).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "create database {name} template {TEMPLATE}"
    )))
    .execute(&mut admin)
    .await
    .unwrap();
    let pool = database::connect(&url_of(managed, &name)).await.unwrap();
    let data_dir = tempfile::tempdir().unwrap();
    let app = build(data_dir.path(), arguments, pool).await;
    bootstrap::ensure_first_start(&app).await.unwrap();
    TestApp {
        app,
        _data_dir: data_dir,
    }
}

/// [`app_with`] the defaults.
pub(crate) async fn app() -> TestApp {
    app_with(&[]).await
}

async fn build(data_dir: &Path, arguments: &[&str], pool: sqlx::PgPool) -> App {
    let dir = data_dir.to_str().unwrap();
    let config = Arguments::parse_from(
        ["test", "--data-dir", dir]
            .into_iter()
            .chain(arguments.iter().copied()),
    )
    .config;
    let epoch = cluster::ensure_cluster(&pool).await.unwrap();
    let pki = Pki::load(&pool, &data_dir.join("kek"), true).await.unwrap();
    App::new(Parts {
        config,
        replica_id: ReplicaId::new(),
        epoch,
        pool,
        bus: Bus::default(),
        links: Links::default(),
        telemetry: Telemetry::default(),
        pki,
        ssh: Activity::default(),
        shutdown: CancellationToken::new(),
    })
}

async fn start_cluster() -> Managed {
    let dir = tempfile::tempdir().unwrap().keep();
    let managed = Managed::start(&dir).await.unwrap();
    stop_with_this_process(&dir);
    let mut admin = PgConnection::connect(&managed.url()).await.unwrap();
    // What is thrown away need not survive a crash.
    for statement in [
        "alter system set fsync = off",
        "select pg_reload_conf()",
        "create database freehold_template",
    ] {
        sqlx::raw_sql(statement).execute(&mut admin).await.unwrap();
    }
    let template = database::connect(&url_of(&managed, TEMPLATE))
        .await
        .unwrap();
    database::migrate(&template).await.unwrap();
    template.close().await;
    managed
}

/// A shell waits for the end of this process, however it ends, and then stops the server and removes its files.
fn stop_with_this_process(dir: &Path) {
    let script = r#"read -r _; kill -QUIT "$(head -n 1 "$0/postgresql/data/postmaster.pid")"; sleep 1; rm -rf "$0""#;
    let child = Command::new("sh")
        .args(["-c", script])
        .arg(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // The pipe closes when this process ends.
    std::mem::forget(child);
}

fn url_of(managed: &Managed, database: &str) -> String {
    let options: PgConnectOptions = managed.url().parse().unwrap();
    options.database(database).to_url_lossy().to_string()
}

/// A tenant with its project `default`, and its owner.
pub(crate) async fn tenant(app: &App, name: &str) -> Caller {
    let organization = OrganizationId::new();
    sqlx::query("insert into organization (id, name) values ($1, $2)")
        .bind(organization.uuid())
        .bind(name)
        .execute(&app.pool)
        .await
        .unwrap();
    sqlx::query("insert into project (id, organization_id, name) values ($1, $2, 'default')")
        .bind(ProjectId::new().uuid())
        .bind(organization.uuid())
        .execute(&app.pool)
        .await
        .unwrap();
    caller(app, organization, Role::Owner).await
}

/// Somebody of the operator's organization.
pub(crate) async fn operator(app: &App) -> Caller {
    let id: uuid::Uuid = sqlx::query_scalar("select id from organization where name = 'operator'")
        .fetch_one(&app.pool)
        .await
        .unwrap();
    caller(app, id.into(), Role::Operator).await
}

async fn caller(app: &App, organization: OrganizationId, role: Role) -> Caller {
    let principal = PrincipalId::new();
    sqlx::query("insert into principal (id, kind, organization_id) values ($1, 'api_key', $2)")
        .bind(principal.uuid())
        .bind(organization.uuid())
        .execute(&app.pool)
        .await
        .unwrap();
    Caller {
        principal,
        organization,
        project: None,
        role,
        expires_at: Utc::now() + TimeDelta::days(1),
    }
}

/// A clean, connected host of eight H100 in a sector.
pub(crate) async fn host(app: &App, sector: &str) -> HostId {
    let id = HostId::new();
    sqlx::query(
        "insert into host (id, name, machine_id, region, sector, gpu_model, gpu_count, vcpus, memory_bytes, scratch_bytes, clean, last_seen_at)
         values ($1, $2, $2, 'region-1', $3, 'H100 80GB HBM3', 8, 208, 1 << 40, 1 << 42, true, now())",
    )
    .bind(id.uuid())
    .bind(id.to_string())
    .bind(sector)
    .execute(&app.pool)
    .await
    .unwrap();
    sqlx::query(
        "insert into host_gpu (host_id, gpu_index, uuid, model) select $1, n, 'GPU-' || n || '-' || $1::text, 'H100 80GB HBM3'
         from generate_series(0, 7) n",
    )
    .bind(id.uuid())
    .execute(&app.pool)
    .await
    .unwrap();
    id
}
