//! The embedded default: a PostgreSQL that the control plane starts in its data directory and owns.
//!
//! The server runs as an unprivileged user on a unix socket that only it and this process can reach. It outlives a control plane that is
//! killed, and the next one adopts it by its pid file; a clean stop stops it too. One lock file per data directory keeps a second control
//! plane out.

use std::{
    fs::{self, File},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{PermissionsExt as _, chown},
    },
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, getuid, kill_process, test_kill_process};
use tokio::{process::Command, time::Instant};
use tokio_util::sync::CancellationToken;

mod launch;

use launch::{Account, find_binaries, launch};

/// How long a start or a stop may take. A crash recovery of a large database takes longer than a clean start.
const PATIENCE: Duration = Duration::from_secs(60);

/// A unix socket's path may have 107 bytes; `/.s.PGSQL.5432` takes 14.
const MAX_SOCKET_DIR: usize = 92;

/// A PostgreSQL server that belongs to one data directory.
#[derive(Debug, Clone)]
pub struct Managed {
    binaries: PathBuf,
    root: PathBuf,
    account: Option<Account>,
}

impl Managed {
    /// Makes the cluster when there is none, and starts or adopts its server.
    ///
    /// # Errors
    /// When PostgreSQL is not installed, its major version differs from the data's, or it does not come up.
    pub async fn start(data_dir: &Path) -> anyhow::Result<Self> {
        let root = data_dir.join("postgresql");
        let managed = Self {
            binaries: find_binaries()?,
            account: Account::find()?,
            root,
        };
        managed.prepare_directories()?;
        managed.ensure_cluster().await?;
        managed.ensure_running().await?;
        Ok(managed)
    }

    /// Where to connect.
    #[must_use]
    pub fn url(&self) -> String {
        format!(
            "postgres://postgres@localhost/postgres?host={}",
            percent_encoded(&self.socket_dir())
        )
    }

    /// Keeps the server running until cancelled: one that died is started again.
    pub async fn supervise(self, cancel: CancellationToken) {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(Duration::from_millis(500)) => {}
            }
            if self.running_pid().is_none() {
                tracing::error!("PostgreSQL has died; starting it again");
                if let Err(error) = self.ensure_running().await {
                    tracing::error!(error = format!("{error:#}"), "PostgreSQL does not start");
                }
            }
        }
    }

    /// Stops the server, ending its connections.
    ///
    /// # Errors
    /// When it does not stop in time.
    pub async fn stop(&self) -> anyhow::Result<()> {
        let Some(pid) = self.running_pid() else {
            return Ok(());
        };
        kill_process(pid, Signal::INT).context("PostgreSQL cannot be signalled")?;
        let deadline = Instant::now() + PATIENCE;
        while self.running_pid().is_some() {
            ensure!(Instant::now() < deadline, "PostgreSQL does not stop");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    fn socket_dir(&self) -> PathBuf {
        self.root.join("socket")
    }

    fn prepare_directories(&self) -> anyhow::Result<()> {
        let socket_dir = self.socket_dir();
        ensure!(
            socket_dir.as_os_str().len() <= MAX_SOCKET_DIR,
            "{} is too long for a unix socket; choose a --data-dir with at most {} characters",
            socket_dir.display(),
            MAX_SOCKET_DIR - "/postgresql/socket".len()
        );
        for dir in [self.root.clone(), self.data(), socket_dir] {
            fs::create_dir_all(&dir)
                .with_context(|| format!("{} cannot be made", dir.display()))?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
            if let Some(account) = &self.account {
                chown(&dir, Some(account.uid), Some(account.gid))?;
            }
        }
        Ok(())
    }

    async fn ensure_cluster(&self) -> anyhow::Result<()> {
        let version_file = self.data().join("PG_VERSION");
        if let Ok(found) = fs::read_to_string(&version_file) {
            let installed = major_version(&self.binaries).await?;
            ensure!(
                found.trim() == installed,
                "{} was made by PostgreSQL {} and {installed} is installed: install postgresql-{} again, or move the data with pg_upgrade",
                self.data().display(),
                found.trim(),
                found.trim()
            );
            return Ok(());
        }
        tracing::info!(directory = %self.data().display(), "making a PostgreSQL cluster");
        let mut command = launch(
            self.account.as_ref(),
            &self.root,
            &self.binaries.join("initdb"),
        );
        command.args([
            "-D",
            "data",
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
        ]);
        let output = command.output().await.context("initdb cannot be started")?;
        if !output.status.success() {
            // Half a cluster would be taken for a whole one on the next start.
            let _ = fs::remove_dir_all(self.data());
            bail!(
                "initdb failed: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }

    async fn ensure_running(&self) -> anyhow::Result<()> {
        if self.running_pid().is_some() {
            tracing::info!("adopting the PostgreSQL that runs");
        } else {
            self.spawn_server()?;
        }
        let deadline = Instant::now() + PATIENCE;
        while !self.is_ready().await {
            if Instant::now() > deadline {
                let log = fs::read_to_string(self.root.join("log")).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(5).collect();
                bail!(
                    "PostgreSQL does not come up: {}",
                    tail.into_iter().rev().collect::<Vec<_>>().join(" | ")
                );
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        Ok(())
    }

    fn spawn_server(&self) -> anyhow::Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.root.join("log"))?;
        let mut command = launch(
            self.account.as_ref(),
            &self.root,
            &self.binaries.join("postgres"),
        );
        command
            .args(["-D", "data", "-k", "../socket"])
            .args([
                "-c",
                "listen_addresses=",
                "-c",
                "unix_socket_permissions=0700",
            ])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(false);
        let mut child = command.spawn().context("postgres cannot be started")?;
        // Reaped when it ends, so that its pid does not stay taken by a zombie.
        tokio::task::spawn(async move { child.wait().await });
        Ok(())
    }

    async fn is_ready(&self) -> bool {
        use sqlx::Connection as _;
        match sqlx::PgConnection::connect(&self.url()).await {
            Ok(connection) => connection.close().await.is_ok(),
            Err(_) => false,
        }
    }

    /// The pid in the pid file, if a process named `postgres` has it.
    fn running_pid(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        let raw: i32 = text.lines().next()?.trim().parse().ok()?;
        let pid = Pid::from_raw(raw)?;
        let name = fs::read_to_string(format!("/proc/{raw}/comm")).ok()?;
        let state = fs::read_to_string(format!("/proc/{raw}/stat")).ok()?;
        let zombie = state
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with('Z'));
        (name.trim() == "postgres" && !zombie && test_kill_process(pid).is_ok()).then_some(pid)
    }
}

async fn major_version(binaries: &Path) -> anyhow::Result<String> {
    let output = Command::new(binaries.join("postgres"))
        .arg("--version")
        .output()
        .await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text
        .split_whitespace()
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    let major = version
        .and_then(|v| v.split('.').next())
        .context("postgres --version says no version")?;
    Ok(major.to_owned())
}

/// Locks a data directory for this process's life.
///
/// # Errors
/// When another control plane has it.
pub fn lock_data_dir(data_dir: &Path) -> anyhow::Result<File> {
    fs::create_dir_all(data_dir)
        .with_context(|| format!("--data-dir: {} cannot be made", data_dir.display()))?;
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(data_dir.join("lock"))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        anyhow::anyhow!(
            "--data-dir: another control plane uses {}; stop it, or give this one a directory of its own and the same --database-url",
            data_dir.display()
        )
    })?;
    Ok(lock)
}

/// True when this process is root, which PostgreSQL refuses to run as.
fn is_root() -> bool {
    getuid().is_root()
}

/// A path as the value of a URL's parameter.
fn percent_encoded(path: &Path) -> String {
    let mut encoded = String::new();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' => {
                encoded.push(char::from(*byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_below_any_path_can_be_named_in_a_url() {
        let managed = Managed {
            binaries: PathBuf::new(),
            root: PathBuf::from("/srv/a b+c#d/control/postgresql"),
            account: None,
        };
        let options: sqlx::postgres::PgConnectOptions = managed.url().parse().unwrap();
        assert_eq!(
            options.get_socket().map(|socket| socket.as_path()),
            Some(managed.socket_dir().as_path())
        );
    }
}
