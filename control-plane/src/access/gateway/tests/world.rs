//! A lease, an instance that is an OpenSSH server on loopback, the gateway between, and OpenSSH clients.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use freehold_proto::v1::{self, access_service_server::AccessService as _};
use russh::keys::{PrivateKey, ssh_key::LineEnding, ssh_key::private::Ed25519Keypair};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    process::{Child, Command},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::super::{Dialer, Gateway, auth::Place};
use crate::{
    access::{
        ca,
        rpc::AccessRpc,
        tests::{Leased, lease, request},
    },
    database::{Signal, notify},
    gate::Caller,
    hosts::links::ByteStream,
    testing::{self, TestApp},
};

/// What any of the commands may take.
const LIMIT: Duration = Duration::from_secs(60);

pub(super) struct World {
    pub(super) app: TestApp,
    pub(super) owner: Caller,
    pub(super) leased: Leased,
    pub(super) dir: tempfile::TempDir,
    pub(super) dialer: Dialer,
    pub(super) gateway: SocketAddr,
    /// The account that runs the tests: the only one that an sshd without privileges lets in.
    pub(super) user: String,
    cancel: CancellationToken,
    _sshd: Child,
}

impl Drop for World {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl World {
    pub(super) async fn new() -> Self {
        Self::with_sshd(|_, _| {}).await
    }

    /// `change` may spoil the instance's files in the directory before its sshd starts.
    pub(super) async fn with_sshd(change: impl FnOnce(&Path, &mut String)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gateway = listener.local_addr().unwrap();
        let app = testing::app_with(&["--ssh-address", &gateway.to_string()]).await;
        let owner = testing::tenant(&app, "lab").await;
        let leased = lease(&app, &owner, "vision").await;
        let dir = tempfile::tempdir().unwrap();
        let (sshd, port) = start_sshd(&app, &leased, dir.path(), change).await;
        let dialer = Dialer::new(&app, move |_, _| {
            Box::pin(async move {
                let stream = TcpStream::connect(("127.0.0.1", port)).await?;
                Ok(Box::new(stream) as Box<dyn ByteStream>)
            })
        });
        let cancel = CancellationToken::new();
        let bus = app.bus.clone();
        tokio::spawn(bus.listen(app.pool.clone(), cancel.clone()));
        let served = Gateway::new(app.clone(), dialer.clone(), TaskTracker::new());
        tokio::spawn(served.accept(listener, cancel.clone()));
        let world = Self {
            app,
            owner,
            leased,
            dir,
            dialer,
            gateway,
            user: whoami(),
            cancel,
            _sshd: sshd,
        };
        write_key(&world.path("id"), [1; 32]);
        world.fetch_certificate("vision").await;
        world
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn place(&self) -> Place {
        Place {
            host: self.leased.host,
            instance: self.leased.instance,
        }
    }

    /// The user name for the gateway.
    pub(super) fn name(&self) -> String {
        format!("vision+{}", self.user)
    }

    /// Has a certificate for the key `id` signed, and writes it and the known hosts where the clients look.
    pub(super) async fn fetch_certificate(&self, lease: &str) {
        let signed = AccessRpc::new(self.app.clone())
            .sign_ssh_certificate(request(
                &self.owner,
                v1::SignSshCertificateRequest {
                    lease: lease.to_owned(),
                    public_key: fs::read_to_string(self.path("id.pub")).unwrap(),
                    login: self.user.clone(),
                    ..Default::default()
                },
            ))
            .await
            .unwrap()
            .into_inner();
        fs::write(self.path("id-cert.pub"), signed.certificate).unwrap();
        let known_hosts = signed.gateway.unwrap().known_hosts + "\n";
        fs::write(self.path("known_hosts"), known_hosts).unwrap();
    }

    /// Registers the plain key `id` with the lease.
    pub(super) async fn register_key(&self) {
        let line = fs::read_to_string(self.path("id.pub")).unwrap();
        let key = russh::keys::PublicKey::from_openssh(&line).unwrap();
        sqlx::query(
            "insert into lease_ssh_key (lease_id, fingerprint, public_key) values ($1, $2, $3)",
        )
        .bind(self.leased.lease.uuid())
        .bind(key.fingerprint(russh::keys::HashAlg::Sha256).to_string())
        .bind(line)
        .execute(&self.app.pool)
        .await
        .unwrap();
    }

    /// A client with the options that lead to the gateway, as `freehold ssh` gives them.
    pub(super) fn client(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(["-F", "none"]);
        for (option, value) in self.options() {
            command.arg("-o").arg(format!("{option}={value}"));
        }
        command.env_remove("SSH_AUTH_SOCK");
        command.kill_on_drop(true).stdin(Stdio::null());
        command
    }

    pub(super) fn options(&self) -> Vec<(&'static str, String)> {
        let path = |name: &str| self.path(name).display().to_string();
        vec![
            ("Port", self.gateway.port().to_string()),
            ("IdentityFile", path("id")),
            ("CertificateFile", path("id-cert.pub")),
            ("UserKnownHostsFile", path("known_hosts")),
            ("GlobalKnownHostsFile", "/dev/null".to_owned()),
            ("IdentitiesOnly", "yes".to_owned()),
            ("StrictHostKeyChecking", "yes".to_owned()),
            ("PreferredAuthentications", "publickey".to_owned()),
            ("BatchMode", "yes".to_owned()),
        ]
    }

    /// `ssh` to the instance.
    pub(super) fn ssh(&self, words: &[&str]) -> Command {
        let mut command = self.client("ssh");
        command
            .arg(format!("{}@127.0.0.1", self.name()))
            .args(words);
        command
    }

    /// `ssh` under another name.
    pub(super) async fn ssh_as(&self, name: &str, words: &[&str]) -> Output {
        let mut command = self.client("ssh");
        run(command.arg(format!("{name}@127.0.0.1")).args(words)).await
    }
}

/// Has the lease end, and the gateway hear of it.
pub(super) async fn set_ended(world: &World) {
    let lease = world.leased.lease.uuid();
    let mut tx = world.app.pool.begin().await.unwrap();
    sqlx::query("update lease set end_requested_at = now() where id = $1")
        .bind(lease)
        .execute(&mut *tx)
        .await
        .unwrap();
    notify(&mut tx, &Signal::Lease(lease)).await.unwrap();
    tx.commit().await.unwrap();
}

/// Runs a command to its end.
pub(super) async fn run(command: &mut Command) -> Output {
    tokio::time::timeout(LIMIT, command.output())
        .await
        .expect("the command ends in time")
        .unwrap()
}

/// Runs a command to its end with bytes for its input.
pub(super) async fn run_with(command: &mut Command, input: Vec<u8>) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let write = async move {
        stdin.write_all(&input).await.unwrap();
    };
    let (output, ()) = tokio::time::timeout(LIMIT, async {
        tokio::join!(child.wait_with_output(), write)
    })
    .await
    .expect("the command ends in time");
    output.unwrap()
}

pub(super) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(super) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(super) fn write_key(path: &Path, seed: [u8; 32]) {
    let key = PrivateKey::from(Ed25519Keypair::from_seed(&seed));
    fs::write(path, key.to_openssh(LineEnding::LF).unwrap().as_bytes()).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(
        path.with_extension("pub"),
        key.public_key().to_openssh().unwrap(),
    )
    .unwrap();
}

fn whoami() -> String {
    let output = std::process::Command::new("id")
        .arg("-un")
        .output()
        .unwrap();
    stdout(&output).trim().to_owned()
}

/// Starts an sshd as the agent configures the one of an instance.
async fn start_sshd(
    app: &TestApp,
    leased: &Leased,
    dir: &Path,
    change: impl FnOnce(&Path, &mut String),
) -> (Child, u16) {
    let at = |name: &str| dir.join(name).display().to_string();
    write_key(&dir.join("host"), [2; 32]);
    let line = fs::read_to_string(dir.join("host.pub")).unwrap();
    let certificate = ca::certify_host_key(app, leased.host, leased.instance, &line)
        .await
        .unwrap();
    fs::write(dir.join("host-cert.pub"), certificate).unwrap();
    fs::write(dir.join("ca.pub"), ca::user_ca_line(app).unwrap()).unwrap();
    fs::write(
        dir.join("principals"),
        ca::principals_for(leased.lease).join("\n") + "\n",
    )
    .unwrap();
    let port = free_port().await;
    let mut config = format!(
        "ListenAddress 127.0.0.1:{port}\nHostKey {}\nHostCertificate {}\nTrustedUserCAKeys {}\nAuthorizedPrincipalsFile {}\n\
         AuthorizedKeysFile none\nPasswordAuthentication no\nUsePAM no\nStrictModes no\nPidFile none\nPermitRootLogin yes\n\
         AcceptEnv FREEHOLD_TEST\nSubsystem sftp internal-sftp\n",
        at("host"),
        at("host-cert.pub"),
        at("ca.pub"),
        at("principals"),
    );
    change(dir, &mut config);
    fs::write(dir.join("sshd_config"), config).unwrap();
    // Where sshd runs as root it wants this directory.
    let _ = fs::create_dir_all("/run/sshd");
    let log = fs::File::create(dir.join("sshd.log")).unwrap();
    let sshd = Command::new("/usr/sbin/sshd")
        .args(["-D", "-e", "-f", &at("sshd_config")])
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .expect("OpenSSH's server is installed");
    let deadline = tokio::time::Instant::now() + LIMIT;
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "{}",
            fs::read_to_string(dir.join("sshd.log")).unwrap()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (sshd, port)
}

pub(super) async fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}
