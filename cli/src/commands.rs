//! The commands: a file each, holding its arguments and what it does.

pub(crate) mod audit;
pub(crate) mod bill;
pub(crate) mod completion;
pub(crate) mod host;
pub(crate) mod instance_type;
pub(crate) mod key;
pub(crate) mod lease;
pub(crate) mod offer;
pub(crate) mod organization;
pub(crate) mod project;
pub(crate) mod ssh;
pub(crate) mod telemetry;

use std::process::ExitCode;

use freehold_proto::v1;

use crate::{
    args::{Command, Global},
    connect::{Session, call},
    error::CliError,
    output::Output,
};

/// What every command is given.
pub(crate) struct Context {
    /// The global options.
    pub(crate) global: Global,
    /// Where results go.
    pub(crate) out: Output,
}

impl Context {
    pub(crate) fn new(global: Global) -> Self {
        let out = Output::new(global.output);
        Self { global, out }
    }

    /// Connects to the control plane.
    pub(crate) async fn connect(&self) -> Result<Session, CliError> {
        Session::open(&self.global).await
    }
}

/// Runs a command. Only ssh has exit codes of its own.
pub(crate) async fn run(context: &Context, command: Command) -> Result<ExitCode, CliError> {
    match command {
        Command::Org(command) => organization::run(context, command).await?,
        Command::Project(command) => project::run(context, command).await?,
        Command::Key(command) => key::run(context, command).await?,
        Command::Host(command) => host::run(context, command).await?,
        Command::Type(command) => instance_type::run(context, command).await?,
        Command::Offer(command) => offer::run(context, command).await?,
        Command::Lease(command) => lease::run(context, command).await?,
        Command::Ssh(args) => return ssh::run(context, &args).await,
        Command::SshConfig(args) => ssh::print_config(context, &args).await?,
        Command::SshCert(args) => ssh::print_certificate(context, &args).await?,
        Command::Telemetry(args) => telemetry::run(context, args).await?,
        Command::Bill(command) => bill::run(context, command).await?,
        Command::Audit(command) => audit::run(context, command).await?,
        Command::Whoami => whoami(context).await?,
        Command::Completion(args) => completion::run(&args)?,
        Command::Version => version(context)?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn whoami(context: &Context) -> Result<(), CliError> {
    let session = context.connect().await?;
    let caller = call!(session.access(), get_caller, v1::GetCallerRequest {})?;
    context.out.print(&caller)
}

fn version(context: &Context) -> Result<(), CliError> {
    let version = env!("CARGO_PKG_VERSION");
    context.out.print_local(
        &serde_json::json!({ "version": version }),
        &format!("freehold {version}"),
    )
}
