//! A lease's key, certificate and known hosts on disk: `id`, `id-cert.pub`, `known_hosts` and `connection.json` in a directory that only its
//! owner reads. Files are replaced by renames, so that two commands at once never see half of one.

use std::{
    fs::{self, DirBuilder},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use freehold_proto::{time::micros_from_timestamp, v1};
use russh::keys::{
    PrivateKey,
    ssh_key::{LineEnding, private::Ed25519Keypair},
};
use serde::{Deserialize, Serialize};

use crate::{
    commands::Context,
    connect::{Session, call},
    error::CliError,
};

/// A cached certificate is used while it is valid for longer than this.
const SPARE: TimeDelta = TimeDelta::minutes(5);

/// What is needed to reach a lease's instances.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Credentials {
    #[serde(skip)]
    directory: PathBuf,
    /// The lease's id.
    pub(super) lease_id: String,
    /// The gateway's name or address.
    pub(super) host: String,
    /// The gateway's port.
    pub(super) port: u16,
    valid_before: DateTime<Utc>,
    identity: String,
}

impl Credentials {
    #[cfg(test)]
    pub(super) fn in_directory(mut self, directory: &str) -> Self {
        self.directory = directory.into();
        self
    }

    /// The private key.
    pub(super) fn key_file(&self) -> PathBuf {
        self.directory.join("id")
    }

    /// The certificate.
    pub(super) fn certificate_file(&self) -> PathBuf {
        self.directory.join("id-cert.pub")
    }

    /// The certificate authority that the gateway and the instances are known by.
    pub(super) fn known_hosts_file(&self) -> PathBuf {
        self.directory.join("known_hosts")
    }

    /// When the certificate ends, RFC 3339.
    pub(super) fn valid_before_text(&self) -> String {
        self.valid_before.to_rfc3339_opts(SecondsFormat::Secs, true)
    }

    /// The options that make OpenSSH use these files and nothing else, their values quoted as in `ssh_config`.
    pub(super) fn ssh_options(&self) -> [(&'static str, String); 6] {
        [
            ("IdentityFile", quote(&self.key_file())),
            ("CertificateFile", quote(&self.certificate_file())),
            ("UserKnownHostsFile", quote(&self.known_hosts_file())),
            ("IdentitiesOnly", "yes".to_owned()),
            ("StrictHostKeyChecking", "yes".to_owned()),
            ("PreferredAuthentications", "publickey".to_owned()),
        ]
    }

    /// What the cache holds for a lease, when it is good for a while yet and was fetched by the same caller.
    pub(super) fn cached(lease_id: &str, identity: &str) -> Result<Option<Self>, CliError> {
        let directory = cache_directory(lease_id)?;
        let Ok(text) = fs::read(directory.join("connection.json")) else {
            return Ok(None);
        };
        let Ok(mut found) = serde_json::from_slice::<Self>(&text) else {
            return Ok(None);
        };
        found.directory = directory;
        let files = [
            found.key_file(),
            found.certificate_file(),
            found.known_hosts_file(),
        ];
        let good = found.lease_id == lease_id
            && found.identity == identity
            && found.valid_before > Utc::now() + SPARE
            && files.iter().all(|file| file.is_file());
        Ok(good.then_some(found))
    }

    /// Has a new certificate signed and writes it to `out`, or to the cache.
    pub(super) async fn fetch(
        context: &Context,
        session: &Session,
        lease_id: &str,
        out: Option<PathBuf>,
        identity: String,
    ) -> Result<Self, CliError> {
        let directory = match out {
            Some(out) => std::path::absolute(&out)
                .map_err(|error| CliError::local(out.display().to_string(), error))?,
            None => {
                let directory = cache_directory(lease_id)?;
                if let Some(cache) = directory.parent() {
                    forget_expired(cache);
                }
                directory
            }
        };
        private_directory(&directory)?;
        let key = private_key(&directory)?;
        let public_key = key
            .public_key()
            .to_openssh()
            .map_err(|error| CliError::local("encoding the public key", io::Error::other(error)))?;
        let request = v1::SignSshCertificateRequest {
            lease: lease_id.to_owned(),
            public_key,
            organization: context.global.organization(),
            project: context.global.project(),
            ..Default::default()
        };
        let signed = call!(session.access(), sign_ssh_certificate, request)?;
        Self::write(directory, signed, session, identity)
    }

    fn write(
        directory: PathBuf,
        signed: v1::SshCertificate,
        session: &Session,
        identity: String,
    ) -> Result<Self, CliError> {
        let gateway = signed.gateway.unwrap_or_default();
        let strange = |what: &str| {
            CliError::Outcome(format!(
                "the control plane's answer has no {what}; use a client of its version"
            ))
        };
        let valid_before = signed
            .valid_before
            .as_ref()
            .and_then(micros_from_timestamp)
            .and_then(DateTime::from_timestamp_micros)
            .ok_or_else(|| strange("end of validity"))?;
        let host = match gateway.host.as_str() {
            "" => host_of(session.server()).ok_or_else(|| strange("gateway"))?,
            host => host.to_owned(),
        };
        // A host that begins with a dash would be an option to ssh; one with spaces would be more than a host.
        if host.starts_with('-') || host.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(strange("usable gateway"));
        }
        let port = u16::try_from(gateway.port)
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| strange("gateway's port"))?;
        let credentials = Self {
            directory,
            lease_id: signed.lease_id,
            host,
            port,
            valid_before,
            identity,
        };
        replace(&credentials.certificate_file(), &line(&signed.certificate))?;
        replace(&credentials.known_hosts_file(), &line(&gateway.known_hosts))?;
        let text = serde_json::to_string(&credentials).expect("texts, a number and a time");
        replace(&credentials.directory.join("connection.json"), &text)?;
        Ok(credentials)
    }
}

fn line(text: &str) -> String {
    format!("{}\n", text.trim_end())
}

fn host_of(server: &str) -> Option<String> {
    let uri: tonic::transport::Uri = server.parse().ok()?;
    Some(uri.host()?.trim_matches(['[', ']']).to_owned())
}

/// `$XDG_CACHE_HOME/freehold/ssh/LEASE`, or below `~/.cache`.
fn cache_directory(lease_id: &str) -> Result<PathBuf, CliError> {
    // Ids come from the command line and from the network; this one becomes a path.
    if lease_id.parse::<freehold_proto::id::LeaseId>().is_err() {
        return Err(CliError::Outcome(format!(
            "`{lease_id}` is not a lease's id"
        )));
    }
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    match cache {
        Some(cache) => Ok(cache.join("freehold").join("ssh").join(lease_id)),
        None => Err(CliError::Outcome(
            "no place for the certificate: set HOME or XDG_CACHE_HOME, or use `freehold ssh-cert --out DIR`".to_owned(),
        )),
    }
}

/// Removes what the cache holds of leases whose certificates ended more than a day ago. What cannot be removed stays: it is of no use.
fn forget_expired(cache: &Path) {
    let entries = fs::read_dir(cache).into_iter().flatten().flatten();
    for directory in entries.map(|entry| entry.path()) {
        let expired = fs::read(directory.join("connection.json"))
            .ok()
            .and_then(|text| serde_json::from_slice::<Credentials>(&text).ok())
            .is_some_and(|found| found.valid_before + TimeDelta::days(1) < Utc::now());
        if expired {
            let _ = fs::remove_dir_all(directory);
        }
    }
}

fn private_directory(directory: &Path) -> Result<(), CliError> {
    let action = || format!("making the directory {}", directory.display());
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|error| CliError::local(action(), error))
}

/// The directory's key, made when there is none.
fn private_key(directory: &Path) -> Result<PrivateKey, CliError> {
    let file = directory.join("id");
    let action = || format!("the private key {}", file.display());
    let read = || fs::read_to_string(&file);
    match read() {
        Ok(text) => return parse_key(&file, &text),
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(CliError::local(action(), error));
        }
        Err(_) => {}
    }
    let key = PrivateKey::from(Ed25519Keypair::from_seed(&rand::random()));
    let text = key
        .to_openssh(LineEnding::LF)
        .map_err(|error| CliError::local(action(), io::Error::other(error)))?;
    let mut draft = draft(&file)?;
    draft
        .write_all(text.as_bytes())
        .map_err(|error| CliError::local(action(), error))?;
    match draft.persist_noclobber(&file) {
        Ok(_) => Ok(key),
        // Another command made one just now; both use it.
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
            let text = read().map_err(|error| CliError::local(action(), error))?;
            parse_key(&file, &text)
        }
        Err(error) => Err(CliError::local(action(), error.error)),
    }
}

fn parse_key(file: &Path, text: &str) -> Result<PrivateKey, CliError> {
    match PrivateKey::from_openssh(text) {
        Ok(key) if !key.is_encrypted() => Ok(key),
        _ => Err(CliError::Outcome(format!(
            "{} is not a private key without a passphrase; remove it, or choose another directory with --out",
            file.display()
        ))),
    }
}

fn draft(file: &Path) -> Result<tempfile::NamedTempFile, CliError> {
    let directory = file.parent().unwrap_or(Path::new("."));
    tempfile::Builder::new()
        .prefix(".draft-")
        .permissions(fs::Permissions::from_mode(0o600))
        .tempfile_in(directory)
        .map_err(|error| CliError::local(format!("writing to {}", directory.display()), error))
}

fn replace(file: &Path, text: &str) -> Result<(), CliError> {
    let action = || format!("writing {}", file.display());
    let mut draft = draft(file)?;
    draft
        .write_all(text.as_bytes())
        .map_err(|error| CliError::local(action(), error))?;
    draft
        .persist(file)
        .map_err(|error| CliError::local(action(), error.error))?;
    Ok(())
}

/// A path as `ssh_config` reads it: in quotes, and `%` is not a token.
pub(super) fn quote(path: &Path) -> String {
    format!("\"{}\"", path.display().to_string().replace('%', "%%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_read_by_its_owner_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("deep/er");
        private_directory(&path).expect("made");
        let first = private_key(&path).expect("made");
        let second = private_key(&path).expect("read");
        assert_eq!(first.public_key(), second.public_key());
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.join("id"))), (0o700, 0o600));
    }

    #[test]
    fn certificates_that_ended_days_ago_are_forgotten() {
        let cache = tempfile::tempdir().expect("a directory");
        for (name, end) in [
            ("old", Utc::now() - TimeDelta::days(2)),
            ("new", Utc::now()),
        ] {
            let directory = cache.path().join(name);
            private_directory(&directory).expect("made");
            let credentials = Credentials {
                directory: directory.clone(),
                lease_id: name.to_owned(),
                host: "h".to_owned(),
                port: 22,
                valid_before: end,
                identity: String::new(),
            };
            let text = serde_json::to_string(&credentials).expect("JSON");
            replace(&directory.join("connection.json"), &text).expect("written");
        }
        forget_expired(cache.path());
        assert!(!cache.path().join("old").exists());
        assert!(cache.path().join("new").exists());
    }

    #[test]
    fn only_a_leases_id_becomes_a_path_in_the_cache() {
        assert!(cache_directory("lease_../../etc").is_err());
        assert!(cache_directory("../x").is_err());
    }

    #[test]
    fn paths_with_spaces_and_percent_signs_stay_one_path_for_ssh() {
        assert_eq!(quote(Path::new("/a b/50%/id")), "\"/a b/50%%/id\"");
    }
}
