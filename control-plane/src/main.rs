//! `freehold-control-plane`: parse, build, run, drain.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use freehold_control_plane::{Server, config::Config};
use tokio::signal::unix::{SignalKind, signal};

/// Freehold's control plane.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// How log lines look
    #[arg(long, global = true, env = "FREEHOLD_LOG_FORMAT", default_value = "text", value_parser = ["text", "json"])]
    log_format: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a replica until SIGTERM or SIGINT
    Serve(Box<Config>),
    /// After a backup was restored: fence off everything that was decided after it was taken
    RaiseEpoch {
        /// PostgreSQL of the deployment
        #[arg(long, env = "FREEHOLD_DATABASE_URL")]
        database_url: String,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_logging(&arguments.log_format);
    let result = match arguments.command {
        Command::Serve(config) => serve(*config).await,
        Command::RaiseEpoch { database_url } => raise_epoch(&database_url).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("freehold-control-plane: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let server = Server::start(config).await?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    server.stop().await
}

async fn raise_epoch(database_url: &str) -> anyhow::Result<()> {
    let pool = freehold_control_plane::database::connect(database_url).await?;
    let epoch = freehold_control_plane::cluster::raise_epoch(&pool).await?;
    println!("epoch {epoch}; restart every replica");
    Ok(())
}

fn start_logging(format: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("FREEHOLD_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,sqlx=warn"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if format == "json" {
        builder.json().init();
    } else {
        builder.with_target(false).init();
    }
}
