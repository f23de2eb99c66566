//! The agent's binary: parse → build → run → drain.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong command line.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use freehold_agent::{
    config::{Command, CommandLine, EnrollArgs, LogFormat},
    enroll,
};
use tokio::runtime::{Builder, Runtime};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let line = CommandLine::parse();
    start_logging(line.log_format);
    // Fails only when one is installed already, which is then the one in use.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let done = match line.command {
        Command::Enroll(args) => enroll_host(&args),
        Command::Run(_) | Command::Probe(_) | Command::NvmlWorker(_) => {
            Err(anyhow::anyhow!("this build has no NVML"))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("freehold-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn enroll_host(args: &EnrollArgs) -> anyhow::Result<()> {
    let host_id = runtime()?.block_on(enroll::enroll(args))?;
    println!("{host_id}");
    eprintln!(
        "This host is enrolled. Start it with: freehold-agent run --data-dir {}",
        args.data_dir.display()
    );
    Ok(())
}

/// Two threads: one may copy bytes while the other answers heartbeats. More would only cost memory.
fn runtime() -> anyhow::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .enable_all()
        .build()
        .context("cannot start")
}

/// Logs go to stderr: stdout belongs to results.
fn start_logging(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().init(),
    }
}
