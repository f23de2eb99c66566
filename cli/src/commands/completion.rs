//! `freehold completion`: completion scripts.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::{args::Cli, error::CliError, output};

/// What `completion` takes.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  source <(freehold completion bash)\n  freehold completion zsh > ~/.zfunc/_freehold\n  freehold completion fish > ~/.config/fish/completions/freehold.fish"
)]
pub(crate) struct CompletionArgs {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// Runs `freehold completion`.
pub(crate) fn run(args: &CompletionArgs) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "freehold", &mut script);
    output::write(&String::from_utf8_lossy(&script))
}
