//! The command line, read once.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// The kernel's log.
pub const DEFAULT_KMSG: &str = "/dev/kmsg";

/// Freehold's daemon on a GPU host.
#[derive(Debug, Parser)]
#[command(name = "freehold-agent", version, about)]
pub struct CommandLine {
    /// How log lines look. The level is taken from `RUST_LOG`; default `info`.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line of text each.
    Text,
    /// One JSON object each.
    Json,
}

/// What the binary does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Exchange an enrolment token for this host's certificate.
    Enroll(EnrollArgs),
    /// Serve the control plane until stopped. Stopping leaves instances running.
    Run(RunArgs),
    /// Show what NVML says of this machine's GPUs and what the health checks find, and stop. Needs no enrolment.
    ///
    /// Exit codes: 0 no check finds anything, 3 a check finds something, 1 there is no driver or it does not answer, 2 wrong command line.
    Probe(ProbeArgs),
    /// The child process in which NVML runs.
    #[command(hide = true)]
    NvmlWorker(NvmlWorkerArgs),
}

/// Flags of `enroll`.
#[derive(Debug, Args)]
pub struct EnrollArgs {
    /// The control plane's public address, `https://HOST:PORT`.
    #[arg(long)]
    pub server: String,
    /// What `freehold host enroll-token` printed.
    #[arg(long)]
    pub token: String,
    /// Where the agent keeps its identity and its journal.
    #[arg(long)]
    pub data_dir: PathBuf,
    /// What identifies the machine over re-installations. Default: the content of /etc/machine-id.
    #[arg(long)]
    pub machine_id: Option<String>,
    /// The name the host is listed under. Default: the machine's host name.
    #[arg(long)]
    pub hostname: Option<String>,
}

/// Flags of `run`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Where `enroll` stored the identity.
    #[arg(long)]
    pub data_dir: PathBuf,
    /// The NVML library. Default: the one the system's linker finds.
    #[arg(long)]
    pub nvml_lib: Option<PathBuf>,
    /// The kernel's log, or a file that stands for it.
    #[arg(long, default_value = DEFAULT_KMSG)]
    pub kmsg: PathBuf,
    /// The container engine's socket.
    #[arg(long, default_value = "/var/run/docker.sock")]
    pub docker_socket: PathBuf,
    /// The host's own policy. Default: /etc/freehold/agent-policy.toml if it exists.
    #[arg(long)]
    pub policy: Option<PathBuf>,
    /// Where scratches are kept. Default: the policy's `scratch_dir`, else `scratch` in the data directory.
    #[arg(long)]
    pub scratch_dir: Option<PathBuf>,
}

/// Flags of `probe`.
#[derive(Debug, Clone, Args)]
pub struct ProbeArgs {
    /// The NVML library. Default: the one the system's linker finds.
    #[arg(long)]
    pub nvml_lib: Option<PathBuf>,
    /// What is printed.
    #[arg(long, value_enum, default_value_t = ProbeOutput::Table)]
    pub output: ProbeOutput,
}

/// What `probe` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProbeOutput {
    /// For people.
    Table,
    /// One JSON object.
    Json,
}

/// Flags of `nvml-worker`.
#[derive(Debug, Clone, Args)]
pub struct NvmlWorkerArgs {
    /// The NVML library. Default: the one the system's linker finds.
    #[arg(long)]
    pub nvml_lib: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }
}
