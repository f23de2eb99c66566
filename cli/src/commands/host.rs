//! `freehold host`: the machines.

use clap::{Subcommand, ValueEnum};
use freehold_proto::v1;

use super::Context;
use crate::{
    args::PageArgs,
    connect::{Session, call},
    error::CliError,
    input, output, paging,
};

/// GPU hosts.
#[derive(Debug, Subcommand)]
pub(crate) enum HostCommand {
    /// Make a token that enrols hosts, and print the line to type on them.
    #[command(
        after_help = "Examples:\n  freehold host enroll-token --region eu-north --sector rack-7 --uses 16"
    )]
    EnrollToken {
        /// Region of the hosts [default: `default`].
        #[arg(long, default_value = "", hide_default_value = true)]
        region: String,
        /// Their InfiniBand or NVLink domain: a lease of several instances stays in one [default: `sector_1`].
        #[arg(long, default_value = "", hide_default_value = true)]
        sector: String,
        /// How many hosts may use the token.
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=10_000))]
        uses: i32,
        /// How long it is valid: `24h`, `7d`; at most 30 days.
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = input::parse_lifetime)]
        expires: i64,
        /// A CIDR network that agents must come from; may be repeated [default: any].
        #[arg(long, value_name = "CIDR")]
        network: Vec<String>,
        /// Makes the create safe to repeat for 24 hours [default: a fresh one].
        #[arg(long, value_name = "ID")]
        request_id: Option<String>,
    },
    /// List hosts: every state but removed, unless `--state` says which.
    List {
        /// Only hosts in this state.
        #[arg(long, value_enum)]
        state: Option<State>,
        #[command(flatten)]
        page: PageArgs,
    },
    /// Show one host: its GPUs, what runs on it, its last scrub.
    Get {
        /// Id or name.
        host: String,
    },
    /// Take no new bookings; those it has go on.
    Cordon {
        /// Id or name.
        host: String,
        /// Recorded in the audit log.
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
    },
    /// Take bookings again.
    Uncordon {
        /// Id or name.
        host: String,
    },
    /// Release a host from quarantine: it is scrubbed again and must pass its health gate.
    Release {
        /// Id or name.
        host: String,
        /// What was found and done; recorded in the audit log.
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
    },
    /// Remove a host that holds no lease, and revoke its certificate.
    Remove {
        /// Id or name.
        host: String,
    },
}

/// A host's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum State {
    /// Clean, healthy, connected and free.
    Available,
    /// An instance is on it.
    Leased,
    /// Being cleaned and checked.
    Scrubbing,
    /// A step failed; only `host release` ends it.
    Quarantined,
    /// Takes no new bookings.
    Cordoned,
    /// Its agent is not connected.
    Unknown,
    /// Removed.
    Removed,
}

impl From<State> for v1::HostState {
    fn from(state: State) -> Self {
        match state {
            State::Available => Self::Available,
            State::Leased => Self::Leased,
            State::Scrubbing => Self::Scrubbing,
            State::Quarantined => Self::Quarantined,
            State::Cordoned => Self::Cordoned,
            State::Unknown => Self::Unknown,
            State::Removed => Self::Removed,
        }
    }
}

/// Runs `freehold host …`.
pub(crate) async fn run(context: &Context, command: HostCommand) -> Result<(), CliError> {
    let session = context.connect().await?;
    let host = match command {
        HostCommand::EnrollToken {
            region,
            sector,
            uses,
            expires,
            network,
            request_id,
        } => {
            let request = v1::CreateEnrollmentTokenRequest {
                region,
                sector,
                uses,
                ttl_seconds: expires,
                networks: network,
                request_id: input::request_id(request_id),
            };
            return enroll_token(context, &session, request).await;
        }
        HostCommand::List { state, page } => return list(context, &session, state, &page).await,
        HostCommand::Get { host } => call!(session.hosts(), get_host, v1::GetHostRequest { host })?,
        HostCommand::Cordon { host, reason } => call!(
            session.hosts(),
            cordon_host,
            v1::CordonHostRequest { host, reason }
        )?,
        HostCommand::Uncordon { host } => call!(
            session.hosts(),
            uncordon_host,
            v1::UncordonHostRequest { host }
        )?,
        HostCommand::Release { host, reason } => call!(
            session.hosts(),
            release_host,
            v1::ReleaseHostRequest { host, reason }
        )?,
        HostCommand::Remove { host } => {
            call!(session.hosts(), remove_host, v1::RemoveHostRequest { host })?
        }
    };
    context.out.print(&host)
}

async fn list(
    context: &Context,
    session: &Session,
    state: Option<State>,
    page: &PageArgs,
) -> Result<(), CliError> {
    let state = state.map_or(v1::HostState::Unspecified, v1::HostState::from);
    let list = paging::fetch(page, async |page_size, page_token| {
        let request = v1::ListHostsRequest {
            page_size,
            page_token,
            state: state.into(),
        };
        call!(session.hosts(), list_hosts, request)
    })
    .await?;
    context.out.print(&list)
}

async fn enroll_token(
    context: &Context,
    session: &Session,
    request: v1::CreateEnrollmentTokenRequest,
) -> Result<(), CliError> {
    let token = call!(session.hosts(), create_enrollment_token, request)?;
    context.out.print(&token)?;
    if context.out.is_table() {
        let line = format!(
            "\nOn each host, as root:\n  freehold-agent enroll --server {} --token {} --data-dir /var/lib/freehold-agent\n  freehold-agent run --data-dir /var/lib/freehold-agent\n",
            session.server(),
            token.secret
        );
        output::write(&line)?;
    }
    Ok(())
}
