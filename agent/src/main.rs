//! The agent's binary: parse → build → run → drain.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong command line; `probe` ends with 3 when a check found something.

use std::{
    io::{IsTerminal as _, Write as _},
    path::Path,
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Parser as _;
use freehold_agent::{
    config::{
        Command, CommandLine, DEFAULT_KMSG, EnrollArgs, LogFormat, NvmlWorkerArgs, ProbeArgs,
        ProbeOutput, RunArgs,
    },
    daemon, enroll, gpu, probe,
};
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// `probe` found something that keeps a GPU from being used or leased.
const FOUND: u8 = 3;

fn main() -> ExitCode {
    let line = CommandLine::parse();
    if let Command::NvmlWorker(args) = &line.command {
        // Before there are logs or a runtime: this process stays as small as NVML lets it.
        return serve_nvml(args);
    }
    start_logging(line.log_format);
    // Fails only when one is installed already, which is then the one in use.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let done = match line.command {
        Command::Enroll(args) => enroll_host(&args),
        Command::Probe(args) => probe_host(args),
        Command::Run(args) => serve(args),
        Command::NvmlWorker(args) => Ok(serve_nvml(&args)),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("freehold-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn enroll_host(args: &EnrollArgs) -> anyhow::Result<ExitCode> {
    let host_id = runtime()?.block_on(enroll::enroll(args))?;
    println!("{host_id}");
    eprintln!(
        "This host is enrolled. Start it with: freehold-agent run --data-dir {}",
        args.data_dir.display()
    );
    Ok(ExitCode::SUCCESS)
}

fn serve(args: RunArgs) -> anyhow::Result<ExitCode> {
    let runtime = runtime()?;
    let served = runtime.block_on(async {
        let cancel = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let told = cancel.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            told.cancel();
        });
        anyhow::Ok(daemon::run(args, cancel).await?)
    });
    // A thread that waits for a disk must not hold the end up.
    runtime.shutdown_background();
    served.map(|()| ExitCode::SUCCESS)
}

fn probe_host(args: ProbeArgs) -> anyhow::Result<ExitCode> {
    let program = gpu::Program::own(args.nvml_lib);
    let look = runtime()?.block_on(gpu::look(program, Path::new(DEFAULT_KMSG)))?;
    let text = match args.output {
        ProbeOutput::Table => probe::to_table(&look),
        ProbeOutput::Json => format!("{}\n", probe::to_json(&look)),
    };
    let mut output = std::io::stdout().lock();
    output.write_all(text.as_bytes()).context("stdout")?;
    Ok(if look.findings.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FOUND)
    })
}

fn serve_nvml(args: &NvmlWorkerArgs) -> ExitCode {
    match gpu::run_worker(args.nvml_lib.as_deref()) {
        Ok(()) => ExitCode::SUCCESS,
        // The parent is gone, and with it whoever could be told.
        Err(_) => ExitCode::FAILURE,
    }
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
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().init(),
    }
}
