//! One replica: start in order, stop in the reverse one.

use std::{fs::File, net::SocketAddr, time::Duration};

use anyhow::Context as _;
use freehold_proto::id::ReplicaId;
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    access::gateway::Activity,
    app::{App, Parts},
    bootstrap, cluster,
    config::Config,
    database::{self, Bus, managed},
    hosts::links::Links,
    listeners,
    pki::Pki,
    services,
    telemetry::Telemetry,
};

/// How long calls that are under way may take once the replica stops.
const DRAIN: Duration = Duration::from_secs(10);

/// A running replica.
pub struct Server {
    app: App,
    addresses: Addresses,
    cancel: CancellationToken,
    tasks: TaskTracker,
    managed: Option<managed::Managed>,
    _lock: File,
}

/// Where a replica listens; with port 0 in the configuration, the ports it was given.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// gRPC for clients.
    pub public: SocketAddr,
    /// gRPC for agents.
    pub agent: SocketAddr,
    /// Metrics and probes.
    pub admin: SocketAddr,
    /// The SSH gateway.
    pub ssh: SocketAddr,
}

struct Sockets {
    public: TcpListener,
    agent: TcpListener,
    admin: TcpListener,
    ssh: TcpListener,
}

impl Sockets {
    async fn bind(config: &Config) -> anyhow::Result<Self> {
        Ok(Self {
            public: bind("--public-listen", config.public_listen).await?,
            agent: bind("--agent-listen", config.agent_listen).await?,
            admin: bind("--admin-listen", config.admin_listen).await?,
            ssh: bind("--ssh-listen", config.ssh_listen).await?,
        })
    }

    fn addresses(&self) -> anyhow::Result<Addresses> {
        Ok(Addresses {
            public: self.public.local_addr()?,
            agent: self.agent.local_addr()?,
            admin: self.admin.local_addr()?,
            ssh: self.ssh.local_addr()?,
        })
    }
}

impl Server {
    /// Starts a replica; returns when it serves.
    ///
    /// # Errors
    /// When a port is taken, the database cannot be had, or the keys do not fit.
    pub async fn start(mut config: Config) -> anyhow::Result<Self> {
        // A second call, as in tests with two replicas, finds the provider installed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let lock = managed::lock_data_dir(&config.data_dir)?;
        config.data_dir = std::fs::canonicalize(&config.data_dir)?;
        let sockets = Sockets::bind(&config).await?;
        let addresses = sockets.addresses()?;
        let cancel = CancellationToken::new();
        let tasks = TaskTracker::new();
        let (managed, pool) = open_database(&config, &tasks, &cancel).await?;
        let app = build_app(config, addresses, pool, cancel.clone()).await?;
        bootstrap::ensure_first_start(&app).await?;
        cluster::register(&app.pool, app.replica_id, &agent_address(&app.config)).await?;
        spawn_listeners(&app, sockets, &tasks, &cancel)?;
        spawn_background(&app, &tasks, &cancel);
        tracing::info!(replica.id = %app.replica_id, public = %addresses.public, agent = %addresses.agent, ssh = %addresses.ssh, "serving");
        Ok(Self {
            app,
            addresses,
            cancel,
            tasks,
            managed,
            _lock: lock,
        })
    }

    /// Where the replica listens.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// The parts, for tests that look behind the services.
    #[must_use]
    pub fn app(&self) -> &App {
        &self.app
    }

    /// Stops accepting, waits for calls under way, leaves the registry, and stops the managed PostgreSQL. Instances stay up.
    ///
    /// # Errors
    /// When PostgreSQL does not stop.
    pub async fn stop(self) -> anyhow::Result<()> {
        tracing::info!("stopping");
        self.cancel.cancel();
        self.tasks.close();
        if tokio::time::timeout(DRAIN, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("some calls did not end in time");
        }
        if let Err(error) = cluster::unregister(&self.app.pool, self.app.replica_id).await {
            tracing::warn!(%error, "the replica could not leave the registry");
        }
        self.app.pool.close().await;
        match &self.managed {
            Some(managed) => managed.stop().await,
            None => Ok(()),
        }
    }
}

async fn bind(flag: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("{flag}: {address} cannot be listened on"))
}

async fn open_database(
    config: &Config,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) -> anyhow::Result<(Option<managed::Managed>, PgPool)> {
    let managed = match &config.database_url {
        Some(_) => None,
        None => Some(managed::Managed::start(&config.data_dir).await?),
    };
    let url = match (&managed, &config.database_url) {
        (Some(managed), _) => managed.url(),
        (None, Some(url)) => url.clone(),
        (None, None) => unreachable!("one of the two was just made sure of"),
    };
    let pool = database::connect(&url).await?;
    database::migrate(&pool).await?;
    if let Some(managed) = &managed {
        tasks.spawn(managed.clone().supervise(cancel.clone()));
    }
    Ok((managed, pool))
}

async fn build_app(
    mut config: Config,
    addresses: Addresses,
    pool: PgPool,
    shutdown: CancellationToken,
) -> anyhow::Result<App> {
    // Ports that were left to the system are known by now, and are what others are told.
    config.public_listen = addresses.public;
    config.agent_listen = addresses.agent;
    config.admin_listen = addresses.admin;
    config.ssh_listen = addresses.ssh;
    let kek_file = config
        .kek_file
        .clone()
        .unwrap_or_else(|| config.data_dir.join("kek"));
    let epoch = cluster::ensure_cluster(&pool).await?;
    // A second replica that made a key of its own could not open what the first sealed.
    let first = sqlx::query_scalar!(r#"select count(*) as "count!" from sealed_secret"#)
        .fetch_one(&pool)
        .await?
        == 0;
    let pki = Pki::load(&pool, &kek_file, first).await?;
    Ok(App::new(Parts {
        config,
        replica_id: ReplicaId::new(),
        epoch,
        pool,
        bus: Bus::default(),
        links: Links::default(),
        telemetry: Telemetry::default(),
        pki,
        ssh: Activity::default(),
        shutdown,
    }))
}

fn agent_address(config: &Config) -> String {
    config.agent_address.clone().unwrap_or_else(|| {
        format!(
            "{}:{}",
            config.advertised_host(),
            config.agent_listen.port()
        )
    })
}

fn spawn_listeners(
    app: &App,
    sockets: Sockets,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    let (public_tls, public_certificate) = listeners::public_tls(&app.config, &app.pki)?;
    let (agent_tls, agent_certificate) = listeners::agent_tls(&app.config, &app.pki)?;
    let public = services::public(app);
    tasks.spawn(listeners::accept::accept(
        sockets.public,
        public_tls,
        tasks.clone(),
        cancel.clone(),
        move |connection, cancel| listeners::accept::serve_http(connection, public.clone(), cancel),
    ));
    let agent = (app.clone(), services::agent(app));
    tasks.spawn(listeners::accept::accept(
        sockets.agent,
        agent_tls,
        tasks.clone(),
        cancel.clone(),
        move |connection, cancel| {
            let (app, router) = agent.clone();
            services::serve_agent(app, router, connection, cancel)
        },
    ));
    tasks.spawn(listeners::serve_admin(
        app.clone(),
        sockets.admin,
        cancel.clone(),
    ));
    tasks.spawn(services::serve_ssh(
        app.clone(),
        sockets.ssh,
        tasks.clone(),
        cancel.clone(),
    ));
    tasks.spawn(listeners::renew_certificates(
        app.clone(),
        public_certificate,
        agent_certificate,
        cancel.clone(),
    ));
    Ok(())
}

fn spawn_background(app: &App, tasks: &TaskTracker, cancel: &CancellationToken) {
    tasks.spawn(app.bus.clone().listen(app.pool.clone(), cancel.clone()));
    tasks.spawn(cluster::beat(
        app.pool.clone(),
        app.replica_id,
        agent_address(&app.config),
        cancel.clone(),
    ));
    services::spawn_reconcilers(app, tasks, cancel);
}
