//! Authorities and certificates as the control plane makes them.

use std::sync::Arc;

use freehold_agent::identity::Identity;
use freehold_proto::id::HostId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::WebPkiClientVerifier,
};
use sha2::{Digest as _, Sha256};
use time::{Duration, OffsetDateTime};

pub(crate) type Ca = CertifiedIssuer<'static, KeyPair>;

pub(crate) fn ca(name: &str) -> Ca {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    CertifiedIssuer::self_signed(params, key).expect("self-signed")
}

/// What a token carries of a CA.
pub(crate) fn fingerprint(ca: &Ca) -> String {
    hex::encode(Sha256::digest(ca.der()))
}

/// A listener's certificate for `name`, its chain ended by `shown`, and its key.
pub(crate) fn server(
    ca: &Ca,
    name: &str,
    shown: &Ca,
) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().expect("a key");
    let leaf = params.signed_by(&key, ca).expect("signed");
    let chain = vec![leaf.der().clone(), shown.der().clone()];
    (
        chain,
        PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS#8"),
    )
}

/// A client certificate for a signing request, valid for `life` from a minute ago on.
pub(crate) fn sign_request(ca: &Ca, csr_pem: &str, life: Duration) -> String {
    let mut request = CertificateSigningRequestParams::from_pem(csr_pem).expect("a request");
    let now = OffsetDateTime::now_utc();
    request.params.not_before = now;
    request.params.not_after = now + life;
    request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    request.signed_by(ca).expect("signed").pem()
}

/// An identity as an enrolment leaves it.
pub(crate) fn identity(server_ca: &Ca, agent_ca: &Ca, life: Duration) -> Identity {
    let (key_pem, csr_pem) = freehold_agent::identity::make_key().expect("a key");
    Identity {
        host_id: HostId::new(),
        hostname: "gpu-1".to_owned(),
        server: "https://localhost:8443".to_owned(),
        key_pem,
        certificate_pem: sign_request(agent_ca, &csr_pem, life),
        ca_pem: server_ca.pem(),
    }
}

/// TLS of an agent listener.
pub(crate) fn mutual(server_ca: &Ca, agent_ca: &Ca) -> Arc<ServerConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(agent_ca.der().clone()).expect("a CA");
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build();
    let (chain, key) = server(server_ca, "localhost", server_ca);
    let mut config = ServerConfig::builder()
        .with_client_cert_verifier(verifier.expect("a verifier"))
        .with_single_cert(chain, key)
        .expect("they fit");
    config.alpn_protocols = vec![b"h2".to_vec(), freehold_proto::REVERSE_ALPN.to_vec()];
    Arc::new(config)
}

/// TLS of a public listener.
pub(crate) fn public(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("they fit");
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}
