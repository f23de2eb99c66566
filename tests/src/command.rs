//! The command line client as a user types it, and OpenSSH.

use std::{ffi::OsStr, path::Path};

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::deployment::binary;

/// A shell of a user: server, key and CA in the environment, and a home.
#[derive(Debug)]
pub struct Cli {
    environment: Vec<(&'static str, String)>,
    home: TempDir,
}

/// What a command printed.
#[derive(Debug)]
pub struct Printed {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Results.
    pub stdout: String,
    /// Progress and errors.
    pub stderr: String,
}

impl Printed {
    /// The JSON on stdout of a command that succeeded.
    ///
    /// # Panics
    /// When it failed, or printed something else.
    #[must_use]
    pub fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error} in {}", self.stdout))
    }
}

impl Cli {
    pub(crate) fn new(server: &str, token: &str, ca: &Path, home: TempDir) -> Self {
        let path = std::env::var("PATH").unwrap_or_default();
        Self {
            environment: vec![
                ("FREEHOLD_SERVER", server.to_owned()),
                ("FREEHOLD_TOKEN", token.to_owned()),
                ("FREEHOLD_CA", ca.display().to_string()),
                ("HOME", home.path().display().to_string()),
                ("PATH", path),
            ],
            home,
        }
    }

    /// Where its certificates are cached.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Runs `freehold` with these words.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn run(&self, words: &[&str]) -> Printed {
        self.program(binary("freehold"), words).await
    }

    /// Runs `freehold` and takes its JSON.
    pub async fn json(&self, words: &[&str]) -> Value {
        let words: Vec<&str> = words.iter().copied().chain(["--output", "json"]).collect();
        self.run(&words).await.json()
    }

    /// Runs any other program in the same shell: `ssh`, `scp` …
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn program(&self, program: impl AsRef<OsStr>, words: &[&str]) -> Printed {
        let output = Command::new(program)
            .args(words)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .expect("it starts");
        Printed {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}
