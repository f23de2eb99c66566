//! The built-in certificate authorities.

use std::net::IpAddr;

use anyhow::Context as _;
use freehold_proto::id::HostId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use sha2::{Digest as _, Sha256};
use sqlx::PgPool;
use time::{Duration, OffsetDateTime};

use super::{Kek, ensure_sealed};

/// Life of the authorities themselves.
const CA_LIFE: Duration = Duration::days(3650);
/// Life of a listener's certificate; replicas make a new one at every start and every day.
const SERVER_LIFE: Duration = Duration::days(90);
/// Life of an agent's certificate; agents renew at two thirds.
pub const AGENT_LIFE: Duration = Duration::days(30);
/// Clocks of hosts may be off by this much.
const CLOCK_SKEW: Duration = Duration::minutes(5);

/// A certificate authority whose key is sealed in the database.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

/// A listener's certificate chain, the authority's own last, and its key.
pub struct ServerCertificate {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// PKCS#8.
    pub key: PrivateKeyDer<'static>,
}

/// An agent's certificate.
pub struct AgentCertificate {
    /// PEM.
    pub pem: String,
    /// Hexadecimal, lower case.
    pub serial: String,
    /// When it expires.
    pub not_after: chrono::DateTime<chrono::Utc>,
}

impl Authority {
    /// Loads the authority of this name, making it when there is none.
    pub(super) async fn ensure(
        pool: &PgPool,
        kek: &Kek,
        name: &str,
        subject: &str,
    ) -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let certificate = ca_params(subject).self_signed(&key)?;
        let (key, pem) =
            ensure_sealed(pool, kek, name, &key.serialize_der(), &certificate.pem()).await?;
        let key = KeyPair::try_from(key.as_slice()).context("the authority's key is malformed")?;
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .context("the authority's certificate is malformed")?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self {
            issuer,
            certificate,
            pem,
        })
    }

    /// The authority's certificate in PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The authority's certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Issues a certificate for a listener under these names and addresses.
    ///
    /// # Errors
    /// When a name is not a DNS name.
    pub fn issue_server(&self, names: &[String]) -> anyhow::Result<ServerCertificate> {
        let mut params = leaf_params("freehold", SERVER_LIFE, ExtendedKeyUsagePurpose::ServerAuth);
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(
                    name.as_str()
                        .try_into()
                        .with_context(|| format!("`{name}` is not a DNS name"))?,
                ),
            });
        }
        let key = KeyPair::generate()?;
        let leaf = params.signed_by(&key, &self.issuer)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(ServerCertificate {
            chain: vec![leaf.der().clone(), self.certificate.clone()],
            key,
        })
    }

    /// Issues an agent's client certificate for the key of a signing request; everything else in the request is ignored.
    ///
    /// # Errors
    /// When the request is malformed or its signature is wrong.
    pub fn issue_agent(&self, csr_pem: &str, host: HostId) -> anyhow::Result<AgentCertificate> {
        let mut csr = CertificateSigningRequestParams::from_pem(csr_pem)?;
        let mut params = leaf_params(
            &host.to_string(),
            AGENT_LIFE,
            ExtendedKeyUsagePurpose::ClientAuth,
        );
        let mut serial = uuid::Uuid::now_v7().into_bytes();
        // Serial numbers are positive and have no leading zero byte.
        serial[0] = (serial[0] & 0x7f) | 0x01;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let not_after = params.not_after.unix_timestamp();
        csr.params = params;
        let certificate = csr.signed_by(&self.issuer)?;
        Ok(AgentCertificate {
            pem: certificate.pem(),
            serial: hex::encode(serial),
            not_after: chrono::DateTime::from_timestamp(not_after, 0)
                .context("the expiry is out of range")?,
        })
    }
}

/// SHA-256 of a certificate's DER in hexadecimal: what enrolment tokens carry.
#[must_use]
pub fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    hex::encode(Sha256::digest(certificate))
}

fn ca_params(subject: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, CA_LIFE);
    params
}

fn leaf_params(subject: &str, life: Duration, usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, life);
    params
}

fn set_validity(params: &mut CertificateParams, life: Duration) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + life;
}
