//! `freehold ssh`, `ssh-config` and `ssh-cert`: the system's own OpenSSH with a certificate that is fetched by itself. The private key is made
//! here and never leaves this machine.

mod config;
mod credentials;

use std::{
    io,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, ExitCode},
};

use clap::Args;
use freehold_proto::v1::{self, LeaseState};
use serde_json::json;

use super::{Context, lease};
use crate::{args::PageArgs, connect::Session, error::CliError, output};
use credentials::Credentials;

const SSH_EXAMPLES: &str = "\
LEASE is an id or a name; LEASE.1 is the second instance of a lease of several. The words after `--` are joined with spaces for the login's
shell, as OpenSSH does; the exit code is the remote command's, or 255 when ssh itself failed.

Examples:
  freehold ssh vision
  freehold ssh vision.1 -- nvidia-smi -L
  freehold ssh vision -L 8888:localhost:8888 -- jupyter lab";

/// What `ssh` takes.
#[derive(Debug, Args)]
#[command(after_help = SSH_EXAMPLES)]
pub(crate) struct SshArgs {
    /// The lease, by id or name, with `.N` for its Nth instance.
    lease: String,
    /// Forward a local port: [BIND:]PORT:HOST:PORT; may be repeated.
    #[arg(short = 'L', value_name = "FORWARD")]
    local_forward: Vec<String>,
    /// Forward a remote port: [BIND:]PORT:HOST:PORT; may be repeated.
    #[arg(short = 'R', value_name = "FORWARD")]
    remote_forward: Vec<String>,
    /// Ask for a terminal even for a command.
    #[arg(short = 't')]
    terminal: bool,
    /// An option for ssh as in `ssh_config`: `-o ServerAliveInterval=30`; may be repeated.
    #[arg(short = 'o', value_name = "OPTION")]
    option: Vec<String>,
    /// The command; without one, a shell.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// What `ssh-config` takes.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  freehold ssh-config > ~/.ssh/freehold.conf   # and in ~/.ssh/config, at the top: Include freehold.conf\n  scp -F <(freehold ssh-config) model.pt vision:/lease/\n\nThe certificates are fetched now and again by ssh itself, as long as FREEHOLD_TOKEN is set where ssh runs."
)]
pub(crate) struct ConfigArgs {}

/// What `ssh-cert` takes.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  freehold ssh-cert vision --out ./keys\n  ssh -i ./keys/id -o CertificateFile=./keys/id-cert.pub -o UserKnownHostsFile=./keys/known_hosts -p 2222 LEASE_ID@GATEWAY"
)]
pub(crate) struct CertificateArgs {
    /// The lease, by id or name.
    lease: String,
    /// Directory for `id`, `id-cert.pub` and `known_hosts` [default: the cache, where a certificate that is still good is kept].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// A lease as people name it for ssh: `LEASE` or `LEASE.N`.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    lease: String,
    ordinal: Option<u32>,
}

impl Target {
    fn parse(text: &str) -> Self {
        let whole = || Self {
            lease: text.to_owned(),
            ordinal: None,
        };
        match text.rsplit_once('.') {
            Some((lease, ordinal)) => match ordinal.parse() {
                Ok(ordinal) => Self {
                    lease: lease.to_owned(),
                    ordinal: Some(ordinal),
                },
                Err(_) => whole(),
            },
            None => whole(),
        }
    }

    /// The user name for the gateway.
    fn user(&self, lease_id: &str) -> String {
        match self.ordinal {
            Some(ordinal) => format!("{lease_id}.{ordinal}"),
            None => lease_id.to_owned(),
        }
    }
}

/// Runs `freehold ssh`: this process becomes ssh.
pub(crate) async fn run(context: &Context, args: &SshArgs) -> Result<ExitCode, CliError> {
    let target = Target::parse(&args.lease);
    let credentials = checked(context, &target).await?;
    let mut ssh = Command::new("ssh");
    ssh.arg("-p").arg(credentials.port.to_string());
    for (key, value) in credentials.ssh_options() {
        ssh.arg("-o").arg(format!("{key}={value}"));
    }
    for (flag, values) in [
        ("-L", &args.local_forward),
        ("-R", &args.remote_forward),
        ("-o", &args.option),
    ] {
        for value in values {
            ssh.arg(flag).arg(value);
        }
    }
    if args.terminal {
        ssh.arg("-t");
    }
    // Behind `--` OpenSSH reads no options, so that words of the command are never taken for some.
    ssh.arg("--").arg(format!(
        "{}@{}",
        target.user(&credentials.lease_id),
        credentials.host
    ));
    if !args.command.is_empty() {
        ssh.arg(args.command.join(" "));
    }
    Err(match ssh.exec() {
        error if error.kind() == io::ErrorKind::NotFound => CliError::local(
            "no `ssh` on this machine; install an OpenSSH client (Debian: apt install openssh-client)",
            error,
        ),
        error => CliError::local("starting ssh", error),
    })
}

/// Credentials for a lease that is asked about first, so that one that is over is refused in words.
async fn checked(context: &Context, target: &Target) -> Result<Credentials, CliError> {
    let session = context.connect().await?;
    let lease = lease::get(context, &session, target.lease.clone()).await?;
    check(&lease, target)?;
    fetch(context, &session, &lease.id, None).await
}

/// Credentials for a lease: from the cache without a call where the lease's id is given. OpenSSH runs this before every connection.
async fn ready(context: &Context, target: &Target) -> Result<Credentials, CliError> {
    let identity = crate::connect::identity_of(&context.global).unwrap_or_default();
    if target.lease.starts_with("lease_")
        && let Some(cached) = Credentials::cached(&target.lease, &identity)?
    {
        return Ok(cached);
    }
    checked(context, target).await
}

/// Says at once what the gateway would only refuse.
fn check(lease: &v1::Lease, target: &Target) -> Result<(), CliError> {
    let called = &target.lease;
    let refuse = |what: &str| Err(CliError::Outcome(format!("{called} {what}")));
    match lease.state() {
        LeaseState::Ending | LeaseState::Ended => return refuse("has ended; its access is off"),
        LeaseState::Failed => return refuse(&format!("failed: {}", lease.state_reason)),
        LeaseState::Scheduled | LeaseState::Waitlisted => {
            return refuse("has not begun; `freehold lease watch` shows when it does");
        }
        _ => {}
    }
    match target.ordinal {
        Some(ordinal) if i64::from(ordinal) >= i64::from(lease.count) => refuse(&format!(
            "has {} instances, 0 to {}; there is no instance {ordinal}",
            lease.count,
            lease.count - 1
        )),
        _ => Ok(()),
    }
}

/// A certificate that is good for a while yet: the one in the directory, else a new one.
async fn fetch(
    context: &Context,
    session: &Session,
    lease_id: &str,
    out: Option<PathBuf>,
) -> Result<Credentials, CliError> {
    let identity = session.identity();
    if out.is_none()
        && let Some(cached) = Credentials::cached(lease_id, &identity)?
    {
        return Ok(cached);
    }
    Credentials::fetch(context, session, lease_id, out, identity).await
}

/// Runs `freehold ssh-cert`.
pub(crate) async fn print_certificate(
    context: &Context,
    args: &CertificateArgs,
) -> Result<(), CliError> {
    let target = Target::parse(&args.lease);
    let credentials = match &args.out {
        None => ready(context, &target).await?,
        Some(out) => {
            let session = context.connect().await?;
            let lease = lease::get(context, &session, target.lease.clone()).await?;
            fetch(context, &session, &lease.id, Some(out.clone())).await?
        }
    };
    let paths = [
        credentials.key_file(),
        credentials.certificate_file(),
        credentials.known_hosts_file(),
    ];
    let [key, certificate, known_hosts] = paths.map(|path| path.display().to_string());
    let value = json!({
        "lease_id": credentials.lease_id,
        "identity_file": key,
        "certificate_file": certificate,
        "known_hosts_file": known_hosts,
        "valid_before": credentials.valid_before_text(),
        "host": credentials.host,
        "port": credentials.port,
        "user": target.user(&credentials.lease_id),
    });
    let table = format!(
        "{key}\n{certificate}\n{known_hosts}\n\nGood until {}. Use them so:\n  ssh -i {key} -o CertificateFile={certificate} -o UserKnownHostsFile={known_hosts} -o IdentitiesOnly=yes -p {} {}@{}",
        credentials.valid_before_text(),
        credentials.port,
        target.user(&credentials.lease_id),
        credentials.host
    );
    context.out.print_local(&value, &table)
}

/// Runs `freehold ssh-config`.
pub(crate) async fn print_config(context: &Context, _: &ConfigArgs) -> Result<(), CliError> {
    let session = context.connect().await?;
    let states = [LeaseState::Active, LeaseState::Impaired];
    let leases = lease::fetch(context, &session, &states, &PageArgs::default())
        .await?
        .leases;
    let mut blocks = Vec::new();
    for lease in leases {
        match fetch(context, &session, &lease.id, None).await {
            Ok(credentials) => blocks.extend(config::blocks(&lease, &credentials)),
            // An operator sees leases that may have ended meanwhile; one of them must not hide the others.
            Err(CliError::Call(status)) => {
                eprintln!(
                    "warning: no certificate for {}: {}",
                    lease.id,
                    output::printable(status.message())
                );
            }
            Err(error) => return Err(error),
        }
    }
    let refresh = config::Refresh::of(context);
    context.out.print_hosts(
        &blocks.iter().map(config::Block::json).collect::<Vec<_>>(),
        &config::render(&blocks, &refresh),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_lease_with_or_without_an_ordinal() {
        for (text, lease, ordinal) in [
            ("vision", "vision", None),
            ("vision.1", "vision", Some(1)),
            ("lease_01.12", "lease_01", Some(12)),
            ("vision.x", "vision.x", None),
            ("vision.", "vision.", None),
        ] {
            assert_eq!(
                Target::parse(text),
                Target {
                    lease: lease.to_owned(),
                    ordinal
                },
                "{text}"
            );
        }
    }

    #[test]
    fn an_instance_that_the_lease_has_not_is_refused_before_ssh_is_started() {
        let lease = v1::Lease {
            state: LeaseState::Active.into(),
            count: 2,
            ..Default::default()
        };
        assert!(check(&lease, &Target::parse("vision.1")).is_ok());
        let error = check(&lease, &Target::parse("vision.2"))
            .expect_err("refused")
            .to_string();
        assert!(error.contains("0 to 1"), "{error}");
    }

    #[test]
    fn a_lease_that_is_over_is_refused_before_ssh_is_started() {
        let lease = v1::Lease {
            state: LeaseState::Ended.into(),
            count: 1,
            ..Default::default()
        };
        assert!(check(&lease, &Target::parse("vision")).is_err());
    }
}
