//! `freehold`: parse, run, exit.

use std::process::ExitCode;

fn main() -> ExitCode {
    freehold::main()
}
