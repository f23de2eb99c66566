//! The command line client of Freehold: gRPC only.
//!
//! Results go to stdout in the wanted format, progress and errors to stderr. Exit codes: 0 done, 1 failed (with the reason), 2 the command line
//! was wrong; `freehold ssh` returns ssh's own.

mod args;
mod commands;
mod connect;
mod error;
mod input;
mod output;
mod paging;
mod progress;

use std::{ffi::OsString, process::ExitCode};

use clap::Parser as _;

use crate::{args::Cli, commands::Context};

/// Parses the process's arguments and runs the command.
#[must_use]
pub fn main() -> ExitCode {
    run(std::env::args_os())
}

fn run(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => {
            // clap prints help to stdout and mistakes to stderr; a closed pipe is nobody's mistake.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    // A second call finds it installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let Cli { global, command } = cli;
    let context = Context::new(global);
    match runtime.block_on(commands::run(&context, command)) {
        Ok(code) => code,
        Err(error) => {
            if let Some(text) = error.render() {
                eprintln!("{text}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}
