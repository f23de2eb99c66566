//! TLS settings, and dialling with them.

use std::{fmt::Write as _, io, sync::Arc, time::Duration};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::Identity;

/// How long a connection may take, name look-up and handshake included.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default()
        .cloned()
        .unwrap_or_else(|| Arc::new(ring::default_provider()))
}

/// The certificates of a PEM text.
pub(super) fn certificates(pem: &str, what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{what} is not PEM: {error}"))
}

/// Presents the identity's certificate, and takes only servers that the CA of its enrolment signed.
pub(super) fn mutual(identity: &Identity, alpn: &[u8]) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    for root in certificates(&identity.ca_pem, "ca_pem")? {
        roots
            .add(root)
            .map_err(|error| format!("ca_pem is not a CA: {error}"))?;
    }
    let chain = certificates(&identity.certificate_pem, "certificate_pem")?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())
        .map_err(|error| format!("key_pem is not a key: {error}"))?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_root_certificates(roots)
                .with_client_auth_cert(chain, key)
        })
        .map_err(|error| format!("certificate and key do not fit: {error}"))?;
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(Arc::new(config))
}

/// Takes only servers whose chain contains the CA with this SHA-256 fingerprint and verifies against it, name included.
///
/// # Errors
/// When the crypto provider lacks every TLS version.
pub fn pinned(fingerprint: [u8; 32]) -> Result<Arc<ClientConfig>, Error> {
    let provider = provider();
    let verifier = PinnedRoot {
        fingerprint,
        provider: Arc::clone(&provider),
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct PinnedRoot {
    fingerprint: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedRoot {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let root = std::iter::once(end_entity)
            .chain(intermediates)
            .find(|certificate| Sha256::digest(certificate)[..] == self.fingerprint)
            .ok_or(CertificateError::UnknownIssuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(root.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|error| Error::General(error.to_string()))?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

/// Why a server was not reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// `HOST:PORT` it is not.
    #[error("`{0}` is not an address: expected HOST:PORT")]
    Address(String),
    /// No connection.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// `HOST:PORT`.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// A connection, but not to whom it should be.
    #[error("the TLS handshake with {address} failed: {source}")]
    Handshake {
        /// `HOST:PORT`.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// Nothing happened for too long.
    #[error("{address} did not answer within {} s", DIAL_TIMEOUT.as_secs())]
    TimedOut {
        /// `HOST:PORT`.
        address: String,
    },
    /// It speaks TLS, but not our protocol.
    #[error("{address} does not speak `{expected}`")]
    Protocol {
        /// `HOST:PORT`.
        address: String,
        /// The ALPN protocol.
        expected: String,
    },
}

impl DialError {
    /// What rustls had against the server, when that is why.
    #[must_use]
    pub fn tls_error(&self) -> Option<&Error> {
        let Self::Handshake { source, .. } = self else {
            return None;
        };
        source.get_ref()?.downcast_ref()
    }
}

/// `HOST` and `PORT` of an address; an IPv6 host may stand in brackets.
///
/// # Errors
/// When it is none.
pub fn split_address(address: &str) -> Result<(&str, u16), DialError> {
    let refuse = || DialError::Address(address.chars().take(200).collect());
    let (host, port) = address.rsplit_once(':').ok_or_else(refuse)?;
    let host = host
        .strip_prefix('[')
        .map_or(Some(host), |rest| rest.strip_suffix(']'))
        .filter(|host| !host.is_empty())
        .ok_or_else(refuse)?;
    Ok((host, port.parse().map_err(|_| refuse())?))
}

/// Connects to `HOST:PORT` and shakes hands.
///
/// # Errors
/// When the address is none, nobody answers, or the server is not whom the settings demand.
pub async fn dial(
    address: &str,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, DialError> {
    tokio::time::timeout(DIAL_TIMEOUT, dial_without_limit(address, config))
        .await
        .map_err(|_| DialError::TimedOut {
            address: address.to_owned(),
        })?
}

async fn dial_without_limit(
    address: &str,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, DialError> {
    let (host, port) = split_address(address)?;
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| DialError::Address(address.to_owned()))?;
    let connect = |source| DialError::Connect {
        address: address.to_owned(),
        source,
    };
    let socket = TcpStream::connect((host, port)).await.map_err(connect)?;
    socket.set_nodelay(true).map_err(connect)?;
    let expected = config.alpn_protocols.clone();
    let stream = TlsConnector::from(config)
        .connect(name, socket)
        .await
        .map_err(|source| DialError::Handshake {
            address: address.to_owned(),
            source,
        })?;
    let agreed = stream.get_ref().1.alpn_protocol().unwrap_or_default();
    if !expected.is_empty() && !expected.iter().any(|protocol| protocol == agreed) {
        let mut names = String::new();
        for protocol in &expected {
            let _ = write!(names, "{}", String::from_utf8_lossy(protocol));
        }
        return Err(DialError::Protocol {
            address: address.to_owned(),
            expected: names,
        });
    }
    Ok(stream)
}
