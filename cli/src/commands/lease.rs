//! `freehold lease`: reserve, look, wait, end, explain.

mod create;
mod wait;

use clap::{Args, Subcommand, ValueEnum};
use freehold_proto::v1;

use super::Context;
use crate::{
    args::PageArgs,
    connect::{Session, call},
    error::CliError,
    paging,
    progress::Progress,
};

/// Leases.
#[derive(Debug, Subcommand)]
pub(crate) enum LeaseCommand {
    /// Reserve instances, for a window or from now until the lease is ended.
    #[command(after_help = create::EXAMPLES)]
    Create(create::CreateArgs),
    /// List leases, newest first.
    List {
        /// Only leases in this state; may be repeated.
        #[arg(long, value_enum)]
        state: Vec<State>,
        #[command(flatten)]
        page: PageArgs,
    },
    /// Show a lease and its instances.
    Get(LeaseName),
    /// End a lease, whatever its state. Ending an ended lease changes nothing.
    End {
        #[command(flatten)]
        lease: LeaseName,
        /// Return when access is off, the scrub has ended and the last usage records are posted; fail when a host is quarantined.
        #[arg(long)]
        wait: bool,
    },
    /// Print the lease now and after every change, until it is settled. JSON output is one object a line.
    Watch(LeaseName),
    /// Say why a lease is where it is, was paused, and cost what it cost.
    Explain(LeaseName),
}

/// Which lease.
#[derive(Debug, Args)]
pub(crate) struct LeaseName {
    /// The lease's id, or its name within the project.
    lease: String,
}

/// A lease's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum State {
    /// Waits for capacity.
    Waitlisted,
    /// Reserved; the window has not begun.
    Scheduled,
    /// Instances are being brought up.
    Provisioning,
    /// Every instance is usable.
    Active,
    /// An instance that was usable is not, or is unknown.
    Impaired,
    /// Instances are being removed.
    Ending,
    /// Over.
    Ended,
    /// Never became usable.
    Failed,
}

impl From<State> for v1::LeaseState {
    fn from(state: State) -> Self {
        match state {
            State::Waitlisted => Self::Waitlisted,
            State::Scheduled => Self::Scheduled,
            State::Provisioning => Self::Provisioning,
            State::Active => Self::Active,
            State::Impaired => Self::Impaired,
            State::Ending => Self::Ending,
            State::Ended => Self::Ended,
            State::Failed => Self::Failed,
        }
    }
}

/// Runs `freehold lease …`.
pub(crate) async fn run(context: &Context, command: LeaseCommand) -> Result<(), CliError> {
    // What is wrong with the arguments is said before anything is sent.
    if let LeaseCommand::Create(args) = command {
        return create::run(context, args).await;
    }
    let session = context.connect().await?;
    match command {
        LeaseCommand::Create(_) => Ok(()),
        LeaseCommand::List { state, page } => list(context, &session, &state, &page).await,
        LeaseCommand::Get(LeaseName { lease }) => {
            context.out.print(&get(context, &session, lease).await?)
        }
        LeaseCommand::End { lease, wait } => end(context, &session, lease.lease, wait).await,
        LeaseCommand::Watch(LeaseName { lease }) => watch(context, &session, lease).await,
        LeaseCommand::Explain(LeaseName { lease }) => {
            let (organization, project) = (context.global.organization(), context.global.project());
            let request = v1::ExplainLeaseRequest {
                lease,
                organization,
                project,
            };
            let explanation = call!(session.leases(), explain_lease, request)?;
            context.out.print_explanation(&explanation)
        }
    }
}

/// Gets a lease by id or name.
pub(crate) async fn get(
    context: &Context,
    session: &Session,
    lease: String,
) -> Result<v1::Lease, CliError> {
    let (organization, project) = (context.global.organization(), context.global.project());
    let request = v1::GetLeaseRequest {
        lease,
        organization,
        project,
    };
    call!(session.leases(), get_lease, request)
}

/// Lists leases in the given states; none means all.
pub(crate) async fn fetch(
    context: &Context,
    session: &Session,
    states: &[v1::LeaseState],
    page: &PageArgs,
) -> Result<v1::ListLeasesResponse, CliError> {
    let states: Vec<i32> = states.iter().map(|state| i32::from(*state)).collect();
    paging::fetch(page, async |page_size, page_token| {
        let request = v1::ListLeasesRequest {
            page_size,
            page_token,
            organization: context.global.organization(),
            project: context.global.project(),
            states: states.clone(),
        };
        call!(session.leases(), list_leases, request)
    })
    .await
}

async fn list(
    context: &Context,
    session: &Session,
    states: &[State],
    page: &PageArgs,
) -> Result<(), CliError> {
    let states: Vec<_> = states
        .iter()
        .map(|state| v1::LeaseState::from(*state))
        .collect();
    context
        .out
        .print(&fetch(context, session, &states, page).await?)
}

async fn end(
    context: &Context,
    session: &Session,
    lease: String,
    wait: bool,
) -> Result<(), CliError> {
    let (organization, project) = (context.global.organization(), context.global.project());
    let request = v1::EndLeaseRequest {
        lease,
        organization,
        project,
    };
    let lease = call!(session.leases(), end_lease, request)?;
    if !wait {
        return context.out.print(&lease);
    }
    let mut progress = Progress::new();
    let (lease, verdict) =
        wait::until(context, session, lease, wait::judge_end, &mut progress).await?;
    drop(progress);
    context.out.print(&lease)?;
    verdict.map_err(CliError::Outcome)
}

async fn watch(context: &Context, session: &Session, lease: String) -> Result<(), CliError> {
    let lease = get(context, session, lease).await?;
    let mut first = true;
    wait::follow(context, session, lease.id, |lease| {
        context.out.print_change(lease, first)?;
        first = false;
        Ok(wait::Next::Go)
    })
    .await
}
