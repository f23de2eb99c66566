//! One replica: the real binary as a process that can be killed and started again.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::{Child, Command},
};

use super::Cut;
use crate::{ports, wait};

/// A replica, running or not.
pub struct Replica {
    /// The network between it and the agents.
    pub network: Cut,
    dir: PathBuf,
    environment: Vec<(String, String)>,
    ports: Ports,
    process: Option<Child>,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    public: u16,
    agent: u16,
    admin: u16,
    ssh: u16,
}

impl Replica {
    /// Prepares a replica with its state in `dir`.
    ///
    /// # Errors
    /// When there are no ports or no directory.
    pub async fn prepare(dir: &Path, environment: &[(String, String)]) -> anyhow::Result<Self> {
        fs::create_dir_all(dir)?;
        let ports = Ports {
            public: ports::free(),
            agent: ports::free(),
            admin: ports::free(),
            ssh: ports::free(),
        };
        Ok(Self {
            network: Cut::before(ports.agent).await?,
            dir: dir.to_owned(),
            environment: environment.to_vec(),
            ports,
            process: None,
        })
    }

    /// Starts the process and waits until it is ready.
    ///
    /// # Errors
    /// When it ends, or is not ready within a minute; with the end of its log.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("log"))?;
        let local = |port: u16| format!("127.0.0.1:{port}");
        let mut command = Command::new(super::binary("freehold-control-plane"));
        command
            .arg("serve")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("RUST_LOG", "info,sqlx=warn")
            .env("FREEHOLD_DATA_DIR", &self.dir)
            .env("FREEHOLD_PUBLIC_LISTEN", local(self.ports.public))
            .env("FREEHOLD_AGENT_LISTEN", local(self.ports.agent))
            .env("FREEHOLD_ADMIN_LISTEN", local(self.ports.admin))
            .env("FREEHOLD_SSH_LISTEN", local(self.ports.ssh))
            .env("FREEHOLD_AGENT_ADDRESS", local(self.network.port()))
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true);
        let child = command
            .spawn()
            .context("freehold-control-plane cannot be started")?;
        let pid = child.id().context("it ended at once")?;
        fs::write(self.dir.join("pid"), pid.to_string())?;
        self.process = Some(child);
        self.wait_until_ready().await
    }

    async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + wait::SOON;
        loop {
            let ended = match &mut self.process {
                Some(child) => child.try_wait()?,
                None => None,
            };
            ensure!(ended.is_none(), "it ended: {}", self.log_end());
            if is_ready(self.ports.admin).await {
                return Ok(());
            }
            let late = tokio::time::Instant::now() > deadline;
            ensure!(!late, "it is not ready: {}", self.log_end());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// kill -9.
    pub async fn kill(&mut self) {
        if let Some(mut child) = self.process.take() {
            // Ended already is as good.
            let _ = child.kill().await;
        }
    }

    /// Where clients connect.
    #[must_use]
    pub fn server(&self) -> String {
        format!("https://127.0.0.1:{}", self.ports.public)
    }

    /// The SSH gateway's port on 127.0.0.1.
    #[must_use]
    pub fn ssh_port(&self) -> u16 {
        self.ports.ssh
    }

    /// The agent listener itself, behind the network that can be cut.
    #[must_use]
    pub fn agent_port(&self) -> u16 {
        self.ports.agent
    }

    /// Its data directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_end(&self) -> String {
        let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

async fn is_ready(admin_port: u16) -> bool {
    let asked = async {
        let mut stream = TcpStream::connect(("127.0.0.1", admin_port)).await?;
        stream
            .write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            .await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = tokio::time::timeout(Duration::from_secs(5), asked).await;
    matches!(answer, Ok(Ok(answer)) if answer.starts_with("HTTP/1.1 200"))
}
