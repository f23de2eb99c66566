//! The host's own tools: `mkfs.ext4`, `mount`, `iptables` …

use std::{process::Stdio, time::Duration};

use tokio::{io::AsyncWriteExt as _, process::Command};

/// No tool that the agent runs needs this long on a host that works.
const LIMIT: Duration = Duration::from_secs(60);

/// What a tool that failed has said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CommandError {
    /// It is not installed.
    #[error("`{0}` is not on this host: install it")]
    Missing(String),
    /// It ran and failed.
    #[error("`{program}` failed: {reason}")]
    Failed {
        /// Its name.
        program: String,
        /// Its last words.
        reason: String,
    },
}

/// Runs a tool with `input` on its standard input, and returns what it printed.
///
/// # Errors
/// When it is not there, exits with anything but 0, or takes longer than a minute.
pub(crate) async fn run(program: &str, args: &[&str], input: &str) -> Result<String, CommandError> {
    let failed = |reason: String| CommandError::Failed {
        program: program.to_owned(),
        reason,
    };
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => CommandError::Missing(program.to_owned()),
            _ => failed(error.to_string()),
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that does not read all of it says why by its exit status.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let output = tokio::time::timeout(LIMIT, child.wait_with_output())
        .await
        .map_err(|_| failed("no end after 60 s".to_owned()))?
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rev().find(|line| !line.trim().is_empty());
    Err(failed(format!(
        "{} ({})",
        last.unwrap_or("it said nothing").trim(),
        output.status
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tool_reads_its_input_and_says_why_it_failed() {
        assert_eq!(run("cat", &[], "hello").await, Ok("hello".to_owned()));
        let error = run("ls", &["/nonexistent"], "").await.expect_err("no file");
        assert!(error.to_string().contains("/nonexistent"), "{error}");
        let missing = run("freehold-no-such-tool", &[], "").await;
        assert!(matches!(missing, Err(CommandError::Missing(_))));
    }
}
