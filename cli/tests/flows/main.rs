//! The program as it is typed: exit codes, what is on stdout and what on stderr, against a server behind real TLS.

mod access;
mod connection;
mod lists;
mod server;
mod wait;

use std::{path::Path, process::Output};

use freehold_proto::v1::{Lease, LeaseState};
use server::{ControlPlane, TOKEN};
use tempfile::TempDir;
use tokio::process::Command;

const LEASE: &str = "lease_0193f0f0f0f07000800000000000000a";

/// A lease in a state.
fn lease(state: LeaseState) -> Lease {
    Lease {
        id: LEASE.to_owned(),
        name: "vision".to_owned(),
        state: state.into(),
        count: 1,
        ..Default::default()
    }
}

/// A home of its own, with the control plane's CA in it.
fn home(control_plane: &ControlPlane) -> TempDir {
    let home = tempfile::tempdir().expect("a directory");
    std::fs::write(home.path().join("ca.pem"), &control_plane.ca_pem).expect("written");
    home
}

/// The program with nothing of this machine's environment.
fn freehold(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_freehold"));
    command
        .env_clear()
        .env("HOME", home)
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

/// Runs the program against the control plane, as its admitted caller.
async fn run(control_plane: &ControlPlane, home: &Path, words: &[&str]) -> Output {
    freehold(home)
        .env("FREEHOLD_SERVER", &control_plane.url)
        .env("FREEHOLD_TOKEN", TOKEN)
        .env("FREEHOLD_CA", home.join("ca.pem"))
        .args(words)
        .output()
        .await
        .expect("the program runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {} {}", stdout(output), stderr(output)))
}
