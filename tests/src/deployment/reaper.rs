//! What a test leaves behind goes with it, however it ends: a shell waits for the end of this process, or for the deployment's.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
};

/// Kills every process that has a pid file in the directory, and removes the directory.
const SCRIPT: &str = r#"read -r _
for file in "$0"/replica-*/pid "$0"/hosts/*/instances/*/sshd.pid "$0"/replica-*/postgresql/data/postmaster.pid; do
    [ -e "$file" ] && kill -9 "$(head -n 1 "$file")"
done
for _ in 1 2 3 4 5 6 7 8 9 10; do rm -rf "$0" && break; sleep 0.2; done"#;

/// Cleans up when dropped, or when this process is gone.
#[derive(Debug)]
pub struct Reaper(Child);

impl Reaper {
    /// Watches over a directory.
    ///
    /// # Errors
    /// When there is no shell.
    pub fn of(dir: &Path) -> std::io::Result<Self> {
        Command::new("sh")
            .args(["-c", SCRIPT])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map(Self)
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
