//! A deployment of real processes: control plane replicas, a PostgreSQL, and simulated hosts, all of the test's own.

mod cut;
mod database;
mod reaper;
mod replica;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use freehold_proto::v1;
use sqlx::PgPool;

pub use cut::Cut;
pub use reaper::Reaper;
pub use replica::Replica;

use crate::{
    client::Client,
    command::Cli,
    sim_agent::{Enrollment, SimAgent},
    wait::{self, until},
};

/// Limits that make a lease's life short, yet let a busy machine keep them.
const SETTINGS: [(&str, &str); 11] = [
    ("FREEHOLD_LEAD", "2s"),
    ("FREEHOLD_TURNAROUND", "5s"),
    ("FREEHOLD_IMAGE_TIMEOUT", "10s"),
    ("FREEHOLD_PROVISION_TIMEOUT", "40s"),
    ("FREEHOLD_VERIFY_TIMEOUT", "10s"),
    ("FREEHOLD_SCRUB_TIMEOUT", "60s"),
    ("FREEHOLD_HOST_TIMEOUT", "6s"),
    ("FREEHOLD_HEARTBEAT", "1s"),
    ("FREEHOLD_BACKFILL", "15m"),
    ("FREEHOLD_PROBE_INTERVAL", "1s"),
    ("FREEHOLD_RECONCILE_INTERVAL", "500ms"),
];

/// What a deployment is made of.
#[derive(Debug, Clone)]
pub struct Options {
    replicas: usize,
    managed_postgresql: bool,
    settings: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        let settings = SETTINGS.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Self {
            replicas: 1,
            managed_postgresql: false,
            settings: settings.into(),
        }
    }
}

impl Options {
    /// So many control planes on one database.
    #[must_use]
    pub fn replicas(mut self, count: usize) -> Self {
        self.replicas = count;
        self
    }

    /// The control plane starts a PostgreSQL of its own.
    #[must_use]
    pub fn managed_postgresql(mut self) -> Self {
        self.managed_postgresql = true;
        self
    }

    /// Another value of a setting.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts it.
    ///
    /// # Panics
    /// When something does not start, with the reason.
    pub async fn start(self) -> Deployment {
        Deployment::build(self)
            .await
            .unwrap_or_else(|error| panic!("the deployment does not start: {error:#}"))
    }
}

/// A running deployment. Everything goes when it is dropped.
pub struct Deployment {
    /// The control planes.
    pub replicas: Vec<Replica>,
    operator_token: String,
    database_url: String,
    dir: PathBuf,
    _reaper: Reaper,
}

/// A tenant: its organization, and its owner's key.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// The organization's id.
    pub organization: String,
    /// The owner's API key.
    pub token: String,
    /// The owner's client of the first replica.
    pub client: Client,
}

impl Deployment {
    /// One control plane.
    pub async fn start() -> Self {
        Options::default().start().await
    }

    async fn build(options: Options) -> anyhow::Result<Self> {
        let dir = directory("it")?;
        let reaper = Reaper::of(&dir)?;
        let mut environment = options.settings;
        let database_url = if options.managed_postgresql {
            let socket = dir.join("replica-0/postgresql/socket");
            format!(
                "postgres://postgres@localhost/postgres?host={}",
                socket.display()
            )
        } else {
            let url = database::create().await?;
            environment.push(("FREEHOLD_DATABASE_URL".to_owned(), url.clone()));
            url
        };
        let kek = dir.join("kek").display().to_string();
        environment.push(("FREEHOLD_KEK_FILE".to_owned(), kek));
        let mut replicas = Vec::new();
        for index in 0..options.replicas {
            let data_dir = dir.join(format!("replica-{index}"));
            let mut replica = Replica::prepare(&data_dir, &environment).await?;
            replica.start().await?;
            replicas.push(replica);
        }
        let token = dir.join("replica-0/operator-token");
        let operator_token = fs::read_to_string(token).context("the operator's token")?;
        Ok(Self {
            replicas,
            operator_token: operator_token.trim().to_owned(),
            database_url,
            dir,
            _reaper: reaper,
        })
    }

    /// The operator's API key.
    #[must_use]
    pub fn operator_token(&self) -> &str {
        &self.operator_token
    }

    /// PEM file of the CA that signs the public listeners' certificates.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.dir.join("replica-0/ca.pem")
    }

    /// A folder that goes with the deployment.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A client of a replica. An empty token sends no credentials.
    #[must_use]
    pub fn client_of(&self, replica: usize, token: &str) -> Client {
        let ca = fs::read(self.ca_file()).expect("the first start wrote it");
        Client::new(&self.replicas[replica].server(), &ca, token)
    }

    /// The operator's client of the first replica.
    #[must_use]
    pub fn operator(&self) -> Client {
        self.client_of(0, &self.operator_token)
    }

    /// The command line with a key, at the first replica, with a home of its own.
    #[must_use]
    pub fn cli(&self, token: &str) -> Cli {
        let home = tempfile::tempdir_in(&self.dir).expect("the deployment's folder is writable");
        Cli::new(&self.replicas[0].server(), token, &self.ca_file(), home)
    }

    /// Connections to its database, to look behind the services.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn database(&self) -> PgPool {
        sqlx::postgres::PgPoolOptions::new()
            .max_connections(2)
            .connect(&self.database_url)
            .await
            .expect("the database answers")
    }

    /// Makes a tenant.
    ///
    /// # Panics
    /// When the control plane refuses.
    pub async fn tenant(&self, name: &str) -> Tenant {
        let organization = self
            .operator()
            .organizations()
            .create_organization(v1::CreateOrganizationRequest {
                name: name.to_owned(),
                ..Default::default()
            })
            .await
            .expect("an organization")
            .into_inner();
        let token = self.key(&organization.id, v1::Role::Owner).await;
        Tenant {
            client: self.client_of(0, &token),
            organization: organization.id,
            token,
        }
    }

    /// Makes an API key.
    ///
    /// # Panics
    /// When the control plane refuses.
    pub async fn key(&self, organization: &str, role: v1::Role) -> String {
        let request = v1::CreateApiKeyRequest {
            organization: organization.to_owned(),
            role: role.into(),
            ..Default::default()
        };
        let made = self.operator().access().create_api_key(request).await;
        made.expect("a key").into_inner().secret
    }

    /// Makes a token that enrols hosts.
    ///
    /// # Panics
    /// When the control plane refuses.
    pub async fn enrollment_token(&self, request: v1::CreateEnrollmentTokenRequest) -> String {
        let mut hosts = self.operator().hosts();
        let made = hosts.create_enrollment_token(request).await;
        made.expect("a token").into_inner().secret
    }

    /// Where a host of this name keeps its files.
    #[must_use]
    pub fn host_dir(&self, name: &str) -> PathBuf {
        self.dir.join("hosts").join(name)
    }

    /// Enrols a host, starts its agent and waits until it can be leased.
    ///
    /// # Panics
    /// When it does not come to that.
    pub async fn host(&self, name: &str) -> SimAgent {
        self.host_in(name, "").await
    }

    /// [`Self::host`] in a sector.
    ///
    /// # Panics
    /// When it does not come to that.
    pub async fn host_in(&self, name: &str, sector: &str) -> SimAgent {
        let request = v1::CreateEnrollmentTokenRequest {
            sector: sector.to_owned(),
            ..Default::default()
        };
        let token = self.enrollment_token(request).await;
        let mut agent = SimAgent::enroll(&Enrollment {
            server: &self.replicas[0].server(),
            token: &token,
            name,
            dir: &self.host_dir(name),
        })
        .await
        .unwrap_or_else(|error| panic!("{name} does not enrol: {error}"));
        agent.start();
        self.wait_for_host(name, v1::HostState::Available).await;
        agent
    }

    /// Waits until a host is in a state.
    ///
    /// # Panics
    /// When it is not within a minute.
    pub async fn wait_for_host(&self, name: &str, state: v1::HostState) -> v1::Host {
        let client = self.operator();
        let what = format!("{name} is {}", state.as_str_name());
        until(&what, wait::SOON, || async {
            let request = v1::GetHostRequest {
                host: name.to_owned(),
            };
            let host = client.hosts().get_host(request).await;
            let host = host.map_err(|status| status.to_string())?.into_inner();
            if host.state() == state {
                Ok(host)
            } else {
                Err(format!(
                    "{} ({}); last scrub {:?}",
                    host.state().as_str_name(),
                    host.state_reason,
                    host.last_scrub
                ))
            }
        })
        .await
    }

    /// Kills the managed PostgreSQL as kill -9 does.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_postgresql(&self) -> anyhow::Result<()> {
        let file = self.dir.join("replica-0/postgresql/data/postmaster.pid");
        let text = fs::read_to_string(file)?;
        let pid: i32 = text.lines().next().context("empty")?.trim().parse()?;
        let pid = rustix::process::Pid::from_raw(pid).context("no pid")?;
        rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
        Ok(())
    }

    /// Waits until a replica has seen every agent again after it was started, at most for the agents' longest pause.
    pub async fn restart(&mut self, replica: usize) {
        let restarted = self.replicas[replica].start().await;
        restarted.unwrap_or_else(|error| panic!("the replica does not start again: {error:#}"));
    }
}

/// A directory that every user may pass through: PostgreSQL and sshd do not run as root.
fn directory(prefix: &str) -> anyhow::Result<PathBuf> {
    let dir = tempfile::Builder::new()
        .prefix(&format!("freehold-{prefix}-"))
        .tempdir()?
        .keep();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o711))?;
    Ok(dir)
}

/// The path of a binary of this workspace.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a path");
    // target/debug/deps/it-… → target/debug
    let built = test.ancestors().nth(2).expect("a target directory");
    let path = built.join(name);
    assert!(
        path.exists(),
        "{} does not exist: run `cargo build --workspace` first, as scripts/test does",
        path.display()
    );
    path
}

/// How long a replica may take to notice that a host is silent, to be on the safe side.
pub const PAST_EVERY_TIMEOUT: Duration = Duration::from_secs(12);
