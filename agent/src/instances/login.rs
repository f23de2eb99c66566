//! What an instance's sshd needs: its configuration, who may log in, and a host key that the control plane has certified. A folder on the
//! host, read-only inside, so that keys can change while the instance runs.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use freehold_proto::id::InstanceId;
use russh::keys::{
    PrivateKey,
    ssh_key::{LineEnding, private::Ed25519Keypair},
};
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::model::{CertifyError, HostKeyCertifier, InstanceSpec};

/// Starts everything inside; see the script.
const START: &str = include_str!("login/start.sh");

/// See the comments inside.
const SSHD_CONFIG: &str = include_str!("login/sshd_config");

/// How long a link that is down may hold up an instance.
const CERTIFY_LIMIT: Duration = Duration::from_secs(45);

/// Why an instance cannot be logged in to.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoginError {
    /// The folder cannot be written.
    #[error("cannot write {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The host key has no certificate.
    #[error(transparent)]
    Certify(#[from] CertifyError),
}

/// The folder that is mounted into the instance.
pub(super) fn dir(instance_dir: &Path) -> PathBuf {
    instance_dir.join("login")
}

/// Writes everything but the host key. Unchanged files are left alone.
pub(super) fn write_files(dir: &Path, spec: &InstanceSpec) -> Result<(), LoginError> {
    let failed = |source| LoginError::Io {
        path: dir.to_owned(),
        source,
    };
    fs::create_dir_all(dir).map_err(failed)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).map_err(failed)?;
    write(dir, "start", START, 0o755)?;
    write(dir, "sshd_config", SSHD_CONFIG, 0o644)?;
    write(dir, "user_ca", &lines([&spec.user_ca]), 0o644)?;
    write(dir, "principals", &lines(&spec.principals), 0o644)?;
    write(dir, "authorized_keys", &lines(&spec.authorized_keys), 0o644)
}

fn lines<'a>(all: impl IntoIterator<Item = &'a String>) -> String {
    let lines = all.into_iter().map(|line| format!("{}\n", line.trim()));
    lines.collect()
}

/// Makes a host key and has it certified, unless both are there.
pub(super) async fn ensure_host_key(
    dir: &Path,
    instance: InstanceId,
    certifier: &dyn HostKeyCertifier,
) -> Result<(), LoginError> {
    let key = host_key(dir)?;
    let certificate = "host_key-cert.pub";
    if dir.join(certificate).exists() {
        return Ok(());
    }
    let line = key.public_key().to_openssh().map_err(|error| {
        let reason = format!("the host key cannot be written: {error}");
        CertifyError::Refused(reason)
    })?;
    let signed = certify(instance, &line, certifier).await?;
    write(dir, certificate, &lines([&signed]), 0o644)
}

fn host_key(dir: &Path) -> Result<PrivateKey, LoginError> {
    let name = "host_key";
    let text = fs::read_to_string(dir.join(name)).map(Zeroizing::new);
    if let Some(key) = text
        .ok()
        .and_then(|text| PrivateKey::from_openssh(&*text).ok())
    {
        return Ok(key);
    }
    let key = PrivateKey::from(Ed25519Keypair::from_seed(&rand::random()));
    let text = key
        .to_openssh(LineEnding::LF)
        .map_err(|error| LoginError::Io {
            path: dir.join(name),
            source: io::Error::other(error),
        })?;
    write(dir, name, &text, 0o600)?;
    Ok(key)
}

/// The link may just be coming up again.
async fn certify(
    instance: InstanceId,
    line: &str,
    certifier: &dyn HostKeyCertifier,
) -> Result<String, CertifyError> {
    let deadline = Instant::now() + CERTIFY_LIMIT;
    let mut pause = Duration::from_millis(100);
    loop {
        match certifier.certify(instance, line).await {
            Err(CertifyError::Unreachable(reason)) if Instant::now() + pause < deadline => {
                tracing::debug!(reason, "the host key waits for a control plane");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(3));
            }
            answer => return answer,
        }
    }
}

/// Replaces a file at once: sshd reads them at any time.
fn write(dir: &Path, name: &str, text: &str, mode: u32) -> Result<(), LoginError> {
    let path = dir.join(name);
    if fs::read(&path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(());
    }
    let fresh = dir.join(format!("{name}.new"));
    let written = fs::write(&fresh, "")
        .and_then(|()| fs::set_permissions(&fresh, fs::Permissions::from_mode(mode)))
        .and_then(|()| fs::write(&fresh, text))
        .and_then(|()| fs::rename(&fresh, &path));
    written.map_err(|source| LoginError::Io { path, source })
}
