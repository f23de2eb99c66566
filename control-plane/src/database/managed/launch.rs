//! Finding PostgreSQL's binaries, and starting them as an unprivileged user.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use tokio::process::Command;

/// An unprivileged account.
#[derive(Debug, Clone, Copy)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Account {
    /// The account to drop to: none when this process is not root itself, else `postgres`, else `nobody`.
    pub(super) fn find() -> anyhow::Result<Option<Self>> {
        if !super::is_root() {
            return Ok(None);
        }
        let passwd = fs::read_to_string("/etc/passwd").context("/etc/passwd cannot be read")?;
        let account = ["postgres", "nobody"].iter().find_map(|name| {
            let line = passwd
                .lines()
                .find(|line| line.split(':').next() == Some(name))?;
            let mut fields = line.split(':').skip(2);
            Some(Self {
                uid: fields.next()?.parse().ok()?,
                gid: fields.next()?.parse().ok()?,
            })
        });
        account
            .map(Some)
            .context("PostgreSQL refuses to run as root and there is no user `postgres`: install postgresql, or run as another user")
    }
}

/// The folder with `postgres` and `initdb`: $PGBIN, else Debian's newest, else the first of $PATH.
pub(super) fn find_binaries() -> anyhow::Result<PathBuf> {
    let mut candidates: Vec<PathBuf> = std::env::var_os("PGBIN")
        .map(PathBuf::from)
        .into_iter()
        .collect();
    if let Ok(versions) = fs::read_dir("/usr/lib/postgresql") {
        let mut versions: Vec<PathBuf> = versions.flatten().map(|entry| entry.path()).collect();
        versions.sort_by_key(|path| {
            path.file_name()
                .and_then(|name| name.to_str())
                .and_then(|name| name.parse::<u32>().ok())
        });
        candidates.extend(versions.into_iter().rev().map(|path| path.join("bin")));
    }
    if let Some(path) = std::env::var_os("PATH") {
        candidates.extend(std::env::split_paths(&path));
    }
    candidates.into_iter().find(|dir| dir.join("initdb").is_file() && dir.join("postgres").is_file()).context(
        "PostgreSQL's server binaries were not found: install the package postgresql, set PGBIN, or give --database-url",
    )
}

/// A command that runs a program as the account, with `root/data` as `data` below its working directory.
///
/// When the account cannot reach `root` (a home directory with mode 0700 above it, say), the program gets a mount namespace of its own in
/// which `root` is bound to a place that it can reach; the files stay where they are. The namespace begins with a copy of every mount; those
/// of loop devices are dropped, or an agent on this machine could not take a scratch apart while PostgreSQL runs.
pub(super) fn launch(account: Option<&Account>, root: &Path, program: &Path) -> Command {
    let Some(account) = account else {
        let mut command = Command::new(program);
        command.current_dir(root);
        return command;
    };
    if is_reachable(root) {
        let mut command = Command::new("setpriv");
        command
            .args([
                format!("--reuid={}", account.uid),
                format!("--regid={}", account.gid),
            ])
            .args(["--clear-groups", "--"])
            .arg(program)
            .current_dir(root);
        return command;
    }
    let script = format!(
        "mount --bind \"$1\" /mnt && {DROP_LOOP_MOUNTS} && cd /mnt && shift && exec setpriv --reuid={} --regid={} --clear-groups -- \"$@\"",
        account.uid, account.gid
    );
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg(script)
        .arg("sh")
        .arg(root)
        .arg(program);
    command
}

/// `mountinfo` has the mount point fifth, with blanks and the like in octal, and the device behind ` - TYPE `.
const DROP_LOOP_MOUNTS: &str = r#"
    sed -n 's|^[^ ]* [^ ]* [^ ]* [^ ]* \([^ ]*\) .* - [^ ]* /dev/loop[0-9]* .*|\1|p' /proc/self/mountinfo | while read -r point; do
        case "$point" in / | /mnt | /usr) ;; *) umount -l "$(printf '%b' "$point")" ;; esac
    done"#;

/// True when everybody may pass through every directory above `path`.
fn is_reachable(path: &Path) -> bool {
    path.ancestors()
        .skip(1)
        .all(|dir| fs::metadata(dir).is_ok_and(|meta| meta.mode() & 0o001 != 0))
}
