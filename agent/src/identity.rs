//! The host's client certificate and what belongs to it, in one file that is replaced as a whole.

pub mod tls;

use std::{
    fmt, fs, io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use freehold_proto::id::HostId;
use rcgen::{CertificateParams, KeyPair};
use rustls::{ClientConfig, pki_types::CertificateDer};
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer as _, X509Certificate};

const FILE: &str = "identity.json";
const REPLICAS_FILE: &str = "replicas.json";

/// Who this host is to the control plane.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Minted by the control plane at the first enrolment.
    pub host_id: HostId,
    /// The name it is listed under.
    pub hostname: String,
    /// The public address it enrolled at.
    pub server: String,
    /// PKCS#8. Leaves this machine never.
    pub key_pem: String,
    /// The client certificate.
    pub certificate_pem: String,
    /// The CA that signs the agent listeners' certificates.
    pub ca_pem: String,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("host_id", &self.host_id)
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

/// Why there is no identity to use.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The host has not enrolled.
    #[error("this host has not enrolled: {path} does not exist. Run `freehold-agent enroll` first")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read or written.
    #[error("cannot use the identity file {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its content is not what it should be.
    #[error(
        "the identity in {path} is not valid ({reason}). Enrol this host again; it keeps its id and its instances"
    )]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// An identity, ready to dial with.
#[derive(Debug)]
pub struct Credentials {
    /// What was loaded.
    pub identity: Identity,
    /// Validity of the certificate in microseconds since the Unix epoch.
    pub valid_from_us: i64,
    /// See `valid_from_us`.
    pub valid_until_us: i64,
    /// For the control stream: HTTP/2.
    pub tls: Arc<ClientConfig>,
    /// For connections that are turned round.
    pub reverse_tls: Arc<ClientConfig>,
}

impl Credentials {
    /// Prepares an identity.
    ///
    /// # Errors
    /// A sentence, when the key, the certificate or the CA does not parse or they do not fit together.
    pub fn new(identity: Identity) -> Result<Self, String> {
        let certificate = tls::certificates(&identity.certificate_pem, "certificate_pem")?;
        let leaf = certificate.first().ok_or("certificate_pem is empty")?;
        let (valid_from_us, valid_until_us) = validity_us(leaf)?;
        Ok(Self {
            valid_from_us,
            valid_until_us,
            tls: tls::mutual(&identity, b"h2")?,
            reverse_tls: tls::mutual(&identity, freehold_proto::REVERSE_ALPN)?,
            identity,
        })
    }
}

fn validity_us(certificate: &CertificateDer<'_>) -> Result<(i64, i64), String> {
    let (_, parsed) = X509Certificate::from_der(certificate)
        .map_err(|error| format!("the certificate does not parse: {error}"))?;
    let validity = parsed.validity();
    let micros = |seconds: i64| seconds.saturating_mul(1_000_000);
    Ok((
        micros(validity.not_before.timestamp()),
        micros(validity.not_after.timestamp()),
    ))
}

/// The identity of a data directory. Clones share it. When the file is replaced, by a renewal or by another enrolment, the next dial
/// uses the new one.
#[derive(Debug, Clone)]
pub struct IdentityStore {
    dir: Arc<Path>,
    loaded: Arc<Mutex<(FileId, Arc<Credentials>)>>,
}

/// Tells one content of a file from the next: every write makes a new file.
type FileId = (u64, i64, i64);

impl IdentityStore {
    /// Loads the identity of a data directory.
    ///
    /// # Errors
    /// When there is none, or it cannot be used.
    pub fn open(dir: &Path) -> Result<Self, IdentityError> {
        let loaded = load(dir)?;
        Ok(Self {
            dir: dir.into(),
            loaded: Arc::new(Mutex::new(loaded)),
        })
    }

    /// The credentials to dial with now.
    #[must_use]
    pub fn current(&self) -> Arc<Credentials> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let on_disk = fs::metadata(self.dir.join(FILE)).map(|m| file_id(&m));
        if on_disk.is_ok_and(|id| id != loaded.0) {
            match load(&self.dir) {
                Ok(fresh) => *loaded = fresh,
                Err(error) => tracing::warn!(%error, "the new identity is not used"),
            }
        }
        Arc::clone(&loaded.1)
    }

    /// The host's id.
    #[must_use]
    pub fn host_id(&self) -> HostId {
        self.current().identity.host_id
    }

    /// Replaces key and certificate in one step.
    ///
    /// # Errors
    /// When they do not fit together or cannot be written.
    pub fn replace(&self, identity: &Identity) -> Result<(), IdentityError> {
        save(&self.dir, identity)?;
        let fresh = load(&self.dir)?;
        *self.loaded.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }
}

fn load(dir: &Path) -> Result<(FileId, Arc<Credentials>), IdentityError> {
    let path = dir.join(FILE);
    let invalid = |reason: String| IdentityError::Invalid {
        path: path.clone(),
        reason,
    };
    let read = || Ok((fs::metadata(&path)?, fs::read(&path)?));
    let (metadata, text) = read().map_err(|source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => IdentityError::Missing { path: path.clone() },
        _ => IdentityError::Io {
            path: path.clone(),
            source,
        },
    })?;
    let identity = serde_json::from_slice(&text).map_err(|error| invalid(error.to_string()))?;
    let credentials = Credentials::new(identity).map_err(invalid)?;
    Ok((file_id(&metadata), Arc::new(credentials)))
}

fn file_id(metadata: &fs::Metadata) -> FileId {
    (metadata.ino(), metadata.mtime(), metadata.mtime_nsec())
}

/// Stores an identity, readable by its owner alone.
///
/// # Errors
/// When its parts do not fit together, or the directory cannot be written.
pub fn save(dir: &Path, identity: &Identity) -> Result<(), IdentityError> {
    let path = dir.join(FILE);
    Credentials::new(identity.clone()).map_err(|reason| IdentityError::Invalid {
        path: path.clone(),
        reason,
    })?;
    write_json(&path, identity).map_err(|source| IdentityError::Io { path, source })
}

/// The addresses of the replicas' agent listeners as last heard. Empty when none were.
#[must_use]
pub fn load_replicas(dir: &Path) -> Vec<String> {
    let text = fs::read(dir.join(REPLICAS_FILE)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Remembers the addresses of the replicas' agent listeners.
///
/// # Errors
/// When the directory cannot be written.
pub fn save_replicas(dir: &Path, addresses: &[String]) -> io::Result<()> {
    write_json(&dir.join(REPLICAS_FILE), &addresses)
}

/// Writes a file that either has its old content or all of the new, whatever happens; only its owner can read it.
pub(crate) fn write_json(path: &Path, content: &impl Serialize) -> io::Result<()> {
    let fresh = path.with_extension("new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)?;
    serde_json::to_writer_pretty(&mut file, content)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    crate::journal::sync_parent(path)
}

/// A new ECDSA P-256 key in PEM, and a signing request for it.
///
/// # Errors
/// When the system has no randomness to give.
pub fn make_key() -> Result<(String, String), rcgen::Error> {
    let key = KeyPair::generate()?;
    let request = CertificateParams::default().serialize_request(&key)?;
    Ok((key.serialize_pem(), request.pem()?))
}

#[cfg(test)]
pub(crate) mod tests;
