//! Flags and environment, read once in `main`. Tests build the structs literally or parse them from arguments.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;

/// Everything a replica is told from outside.
#[derive(Debug, Clone, Args)]
pub struct Config {
    /// Directory for this replica's state: keys, the operator's first token, the managed PostgreSQL
    #[arg(long, env = "FREEHOLD_DATA_DIR")]
    pub data_dir: PathBuf,

    /// PostgreSQL to use instead of a managed one. Every replica of a deployment uses the same
    #[arg(long, env = "FREEHOLD_DATABASE_URL")]
    pub database_url: Option<String>,

    /// Where clients connect: gRPC over TLS
    #[arg(long, env = "FREEHOLD_PUBLIC_LISTEN", default_value = "127.0.0.1:8443")]
    pub public_listen: SocketAddr,

    /// Where agents connect: gRPC over mutual TLS
    #[arg(long, env = "FREEHOLD_AGENT_LISTEN", default_value = "127.0.0.1:8444")]
    pub agent_listen: SocketAddr,

    /// Metrics and probes. Keep it on loopback
    #[arg(long, env = "FREEHOLD_ADMIN_LISTEN", default_value = "127.0.0.1:8445")]
    pub admin_listen: SocketAddr,

    /// The SSH gateway
    #[arg(long, env = "FREEHOLD_SSH_LISTEN", default_value = "127.0.0.1:2222")]
    pub ssh_listen: SocketAddr,

    /// A name or address clients use for this deployment; the first is advertised. `localhost` and 127.0.0.1 are always in the
    /// certificate
    #[arg(
        long = "public-host",
        env = "FREEHOLD_PUBLIC_HOST",
        value_delimiter = ','
    )]
    pub public_hosts: Vec<String>,

    /// What agents dial to reach this replica. Default: the first public host and the agent listener's port
    #[arg(long, env = "FREEHOLD_AGENT_ADDRESS")]
    pub agent_address: Option<String>,

    /// What SSH clients dial. Default: the first public host and the SSH listener's port
    #[arg(long, env = "FREEHOLD_SSH_ADDRESS")]
    pub ssh_address: Option<String>,

    /// PEM certificate chain of the public listener. Default: one from the built-in CA
    #[arg(long, env = "FREEHOLD_TLS_CERT", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// PEM private key that belongs to --tls-cert
    #[arg(long, env = "FREEHOLD_TLS_KEY", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// File with the key-encryption key, 64 hexadecimal digits. Default: `kek` in the data directory, made on the first start. Every replica of a
    /// deployment uses the same
    #[arg(long, env = "FREEHOLD_KEK_FILE")]
    pub kek_file: Option<PathBuf>,

    /// Image of leases that name none
    #[arg(
        long,
        env = "FREEHOLD_DEFAULT_IMAGE",
        default_value = "freehold/base:latest"
    )]
    pub default_image: String,

    /// Limits of time.
    #[command(flatten)]
    pub limits: Limits,
}

/// How long things may take. Past a limit the instance is re-placed or the lease fails; what breaks is said at each.
#[derive(Debug, Clone, Args)]
pub struct Limits {
    /// How long before a window its instances are brought up. Shorter: a window may begin before its instances are usable
    #[arg(long, env = "FREEHOLD_LEAD", default_value = "5m", value_parser = humantime::parse_duration)]
    pub lead: Duration,

    /// How long after a window its host stays booked for cleaning. Shorter: a slow scrub delays the next booking
    #[arg(long, env = "FREEHOLD_TURNAROUND", default_value = "10m", value_parser = humantime::parse_duration)]
    pub turnaround: Duration,

    /// How long an image may take to be there
    #[arg(long, env = "FREEHOLD_IMAGE_TIMEOUT", default_value = "50s", value_parser = humantime::parse_duration)]
    pub image_timeout: Duration,

    /// How long an instance may take from provisioning to usable, the image's time included
    #[arg(long, env = "FREEHOLD_PROVISION_TIMEOUT", default_value = "3m", value_parser = humantime::parse_duration)]
    pub provision_timeout: Duration,

    /// How long an instance that runs may take until its sshd answers and its GPUs are seen
    #[arg(long, env = "FREEHOLD_VERIFY_TIMEOUT", default_value = "45s", value_parser = humantime::parse_duration)]
    pub verify_timeout: Duration,

    /// How long a scrub may take before its host is quarantined
    #[arg(long, env = "FREEHOLD_SCRUB_TIMEOUT", default_value = "30m", value_parser = humantime::parse_duration)]
    pub scrub_timeout: Duration,

    /// Silence after which a host is unknown. Shorter than two heartbeats: a delayed packet makes hosts flap
    #[arg(long, env = "FREEHOLD_HOST_TIMEOUT", default_value = "15s", value_parser = humantime::parse_duration)]
    pub host_timeout: Duration,

    /// Interval of agents' heartbeats
    #[arg(long, env = "FREEHOLD_HEARTBEAT", default_value = "5s", value_parser = humantime::parse_duration)]
    pub heartbeat: Duration,

    /// How long an unknown stretch may be filled in from the agent's journal. Longer ones stay unbilled
    #[arg(long, env = "FREEHOLD_BACKFILL", default_value = "15m", value_parser = humantime::parse_duration)]
    pub backfill: Duration,

    /// How often an instance that is usable is verified again
    #[arg(long, env = "FREEHOLD_PROBE_INTERVAL", default_value = "30s", value_parser = humantime::parse_duration)]
    pub probe_interval: Duration,

    /// Longest time between two passes of a reconciler
    #[arg(long, env = "FREEHOLD_RECONCILE_INTERVAL", default_value = "2s", value_parser = humantime::parse_duration)]
    pub reconcile_interval: Duration,
}

impl Config {
    /// The name clients use for this deployment.
    #[must_use]
    pub fn advertised_host(&self) -> String {
        self.public_hosts.first().cloned().unwrap_or_else(|| {
            let ip = self.public_listen.ip();
            if ip.is_unspecified() {
                "localhost".to_owned()
            } else {
                ip.to_string()
            }
        })
    }
}
