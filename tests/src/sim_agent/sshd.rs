//! OpenSSH's `sshd` for one instance: unprivileged, on a loopback port, with the certificate and the keys that the control plane gave.
//!
//! The gateway logs in as `lease`, and sshd wants that user to exist: it gets a view of /etc/passwd of its own in a mount namespace. It
//! outlives the agent, as a container does.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use freehold_agent::model::InstanceSpec;
use rustix::process::{Pid, Signal, getgid, getuid, kill_process};
use tokio::{io::AsyncReadExt as _, net::TcpStream};

/// The user that sshd runs and logs in as when this process is root: `nobody`.
const UNPRIVILEGED: u32 = 65_534;

/// Makes the instance's host key unless there is one, and returns its public line.
pub(super) fn host_key(dir: &Path) -> anyhow::Result<String> {
    let key = dir.join("host_key");
    if !key.exists() {
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "instance", "-f"])
            .arg(&key)
            .status()
            .context("ssh-keygen cannot be started: install openssh-client")?;
        ensure!(made.success(), "ssh-keygen failed");
    }
    Ok(fs::read_to_string(dir.join("host_key.pub"))?
        .trim()
        .to_owned())
}

/// Writes everything that sshd reads, and starts it. It listens some moments later.
pub(super) fn start(
    dir: &Path,
    port: u16,
    certificate: &str,
    spec: &InstanceSpec,
) -> anyhow::Result<()> {
    let home = dir.join("home");
    fs::create_dir_all(&home)?;
    let write = |name: &str, content: String| fs::write(dir.join(name), content + "\n");
    write("host_key-cert.pub", certificate.to_owned())?;
    write("user_ca", spec.user_ca.clone())?;
    write("principals", spec.principals.join("\n"))?;
    write("authorized_keys", spec.authorized_keys.join("\n"))?;
    write("home/gpus", spec.gpu_uuids.join("\n"))?;
    write("passwd", passwd(&home)?)?;
    write("sshd_config", config(dir, port))?;
    give_to_user(dir)?;
    let log = File::create(dir.join("sshd.log"))?;
    let mut child = command(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .context("unshare cannot be started: install util-linux")?;
    // Reaped when it ends, so that its pid does not stay taken by a zombie.
    std::thread::spawn(move || child.wait());
    Ok(())
}

fn command(dir: &Path) -> Command {
    const BIND: &str = r#"mount --bind "$1" /etc/passwd && shift && exec "$@""#;
    let mut command = Command::new("unshare");
    if !getuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args([
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        BIND,
        "sh",
    ]);
    command.arg(dir.join("passwd"));
    if getuid().is_root() {
        command.args(["setpriv", "--clear-groups"]).args([
            format!("--reuid={UNPRIVILEGED}"),
            format!("--regid={UNPRIVILEGED}"),
        ]);
    } else {
        // A second user namespace maps back: sshd must not take itself for root.
        command.args([
            "unshare".to_owned(),
            "--user".to_owned(),
            format!("--map-user={}", getuid().as_raw()),
            format!("--map-group={}", getgid().as_raw()),
        ]);
    }
    command.args(["/usr/sbin/sshd", "-D", "-e", "-f"]);
    command.arg(dir.join("sshd_config"));
    command
}

fn user() -> (u32, u32) {
    if getuid().is_root() {
        (UNPRIVILEGED, UNPRIVILEGED)
    } else {
        (getuid().as_raw(), getgid().as_raw())
    }
}

/// The machine's users and `lease`, who comes first so that looking the number up finds this name too.
fn passwd(home: &Path) -> io::Result<String> {
    let others = fs::read_to_string("/etc/passwd")?;
    let (uid, gid) = user();
    let lease = format!("lease:x:{uid}:{gid}::{}:/bin/sh\n", home.display());
    let others = others.lines().filter(|line| !line.starts_with("lease:"));
    Ok(others.fold(lease, |text, line| text + line + "\n"))
}

fn config(dir: &Path, port: u16) -> String {
    let dir = dir.display();
    format!(
        "Port {port}
ListenAddress 127.0.0.1
HostKey {dir}/host_key
HostCertificate {dir}/host_key-cert.pub
PidFile {dir}/sshd.pid
TrustedUserCAKeys {dir}/user_ca
AuthorizedPrincipalsFile {dir}/principals
AuthorizedKeysFile {dir}/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
MaxStartups 100
Subsystem sftp internal-sftp"
    )
}

fn give_to_user(dir: &Path) -> io::Result<()> {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    if !getuid().is_root() {
        return Ok(());
    }
    let (uid, gid) = user();
    for path in [dir.to_owned(), dir.join("home")] {
        for entry in fs::read_dir(&path)? {
            chown(entry?.path(), Some(uid), Some(gid))?;
        }
    }
    chown(dir, Some(uid), Some(gid))
}

/// The process that listens, if it lives.
#[must_use]
pub(super) fn pid(dir: &Path) -> Option<i32> {
    let text = fs::read_to_string(dir.join("sshd.pid")).ok()?;
    let pid: i32 = text.trim().parse().ok()?;
    let (name, state, _) = stat(pid)?;
    (name == "sshd" && state != 'Z').then_some(pid)
}

/// Whether something says that it speaks SSH on this port.
pub(super) async fn answers(port: u16) -> bool {
    let greeted = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let mut greeting = [0; 4];
        stream.read_exact(&mut greeting).await?;
        io::Result::Ok(greeting == *b"SSH-")
    };
    matches!(
        tokio::time::timeout(Duration::from_secs(2), greeted).await,
        Ok(Ok(true))
    )
}

/// Ends sshd and every session in it.
pub(super) fn kill(dir: &Path) {
    let Some(listener) = pid(dir) else { return };
    let mut tree = vec![listener];
    let processes = processes();
    let mut next = 0;
    while let Some(parent) = tree.get(next).copied() {
        let children = processes.iter().filter(|(_, of)| *of == parent);
        tree.extend(children.map(|(pid, _)| *pid));
        next += 1;
    }
    for pid in tree.into_iter().filter_map(Pid::from_raw) {
        // Gone already is as good.
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Every process and its parent.
fn processes() -> Vec<(i32, i32)> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names
        .filter_map(|name| {
            let pid = name.parse().ok()?;
            stat(pid).map(|(_, _, parent)| (pid, parent))
        })
        .collect()
}

/// Name, state and parent of a process.
fn stat(pid: i32) -> Option<(String, char, i32)> {
    let path = PathBuf::from(format!("/proc/{pid}/stat"));
    let text = fs::read_to_string(path).ok()?;
    let (before, after) = text.rsplit_once(')')?;
    let mut fields = after.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    Some((before.split_once('(')?.1.to_owned(), state, parent))
}
