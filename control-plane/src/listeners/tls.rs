//! TLS settings of the listeners, and certificates that are renewed while the server runs.

use std::{
    sync::{Arc, RwLock},
    time::Duration,
};

use anyhow::Context as _;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    config::Config,
    pki::{Pki, ServerCertificate},
};

/// The certificate a listener presents now.
#[derive(Debug)]
pub struct Current(RwLock<Arc<CertifiedKey>>);

impl Current {
    fn new(certificate: ServerCertificate) -> anyhow::Result<Arc<Self>> {
        Ok(Arc::new(Self(RwLock::new(certified(certificate)?))))
    }

    fn replace(&self, certificate: ServerCertificate) -> anyhow::Result<()> {
        let certified = certified(certificate)?;
        *self
            .0
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = certified;
        Ok(())
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(
            self.0
                .read()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .clone(),
        )
    }
}

fn certified(certificate: ServerCertificate) -> anyhow::Result<Arc<CertifiedKey>> {
    let key = rustls::crypto::ring::sign::any_supported_type(&certificate.key)?;
    Ok(Arc::new(CertifiedKey::new(certificate.chain, key)))
}

/// TLS of the public listener: the configured certificate, else one from the built-in authority.
///
/// # Errors
/// When the configured files cannot be read or do not fit together.
pub fn public_tls(config: &Config, pki: &Pki) -> anyhow::Result<(Arc<ServerConfig>, Arc<Current>)> {
    let current = Current::new(public_certificate(config, pki)?)?;
    let mut tls = ServerConfig::builder()
        .with_no_client_auth()
        .with_cert_resolver(current.clone());
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((Arc::new(tls), current))
}

/// TLS of the agent listener: a certificate from the built-in authority, and a client certificate from the agents' required.
///
/// # Errors
/// When the authorities' certificates are malformed.
pub fn agent_tls(config: &Config, pki: &Pki) -> anyhow::Result<(Arc<ServerConfig>, Arc<Current>)> {
    let mut roots = RootCertStore::empty();
    roots.add(pki.agent_ca.certificate().clone())?;
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build()?;
    let current = Current::new(pki.server_ca.issue_server(&names(config))?)?;
    let mut tls = ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(current.clone());
    tls.alpn_protocols = vec![b"h2".to_vec(), freehold_proto::REVERSE_ALPN.to_vec()];
    Ok((Arc::new(tls), current))
}

/// Reads the configured certificate again, and issues new built-in ones, every day.
pub async fn renew_certificates(
    app: App,
    public: Arc<Current>,
    agent: Arc<Current>,
    cancel: CancellationToken,
) {
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(Duration::from_hours(24)) => {}
        }
        let renewed = public_certificate(&app.config, &app.pki)
            .and_then(|certificate| public.replace(certificate))
            .and_then(|()| agent.replace(app.pki.server_ca.issue_server(&names(&app.config))?));
        if let Err(error) = renewed {
            tracing::error!(
                error = format!("{error:#}"),
                "the listeners' certificates cannot be renewed"
            );
        }
    }
}

fn public_certificate(config: &Config, pki: &Pki) -> anyhow::Result<ServerCertificate> {
    let (Some(cert), Some(key)) = (&config.tls_cert, &config.tls_key) else {
        return pki.server_ca.issue_server(&names(config));
    };
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect)
        .with_context(|| format!("--tls-cert: {} cannot be read", cert.display()))?;
    let key = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("--tls-key: {} cannot be read", key.display()))?;
    Ok(ServerCertificate { chain, key })
}

/// The names in the built-in certificates: what was configured, and this machine's own.
fn names(config: &Config) -> Vec<String> {
    let mut names = config.public_hosts.clone();
    let agent_host = config
        .agent_address
        .as_deref()
        .and_then(|address| address.rsplit_once(':'));
    names.extend(agent_host.map(|(host, _)| host.trim_matches(['[', ']']).to_owned()));
    names.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    for address in [config.public_listen.ip(), config.agent_listen.ip()] {
        if !address.is_unspecified() {
            names.push(address.to_string());
        }
    }
    names.sort();
    names.dedup();
    names
}
