//! The SSH certificate authorities: one for users, one for hosts.

use anyhow::Context as _;
use russh::keys::{
    Certificate, PrivateKey, PublicKey,
    ssh_key::{
        HashAlg,
        certificate::{Builder, CertType},
        private::Ed25519Keypair,
        public::KeyData,
    },
};
use sqlx::PgPool;

use super::{Kek, ensure_sealed};

/// What OpenSSH lets a user certificate allow; without them it allows a bare command only.
const USER_EXTENSIONS: [&str; 5] = [
    "permit-X11-forwarding",
    "permit-agent-forwarding",
    "permit-port-forwarding",
    "permit-pty",
    "permit-user-rc",
];

/// Loads the Ed25519 key of this name, making it when there is none. Its seed is what is sealed.
pub(super) async fn ensure_key(pool: &PgPool, kek: &Kek, name: &str) -> anyhow::Result<PrivateKey> {
    let seed: [u8; 32] = rand::random();
    let line = key_of(seed).public_key().to_openssh()?;
    let (seed, _) = ensure_sealed(pool, kek, name, &seed, &line).await?;
    let seed = <[u8; 32]>::try_from(seed.as_slice())
        .with_context(|| format!("the sealed key `{name}` is malformed"))?;
    Ok(key_of(seed))
}

fn key_of(seed: [u8; 32]) -> PrivateKey {
    PrivateKey::from(Ed25519Keypair::from_seed(&seed))
}

/// An SSH certificate authority whose key is sealed in the database.
pub struct SshAuthority {
    key: PrivateKey,
    kind: CertType,
}

/// What a certificate says.
pub struct Statement<'a> {
    /// The certified key.
    pub key: KeyData,
    /// What logs name the certificate by.
    pub key_id: &'a str,
    /// Whom or what the key may stand for. Never empty: to OpenSSH that would mean everybody.
    pub principals: &'a [String],
    /// Unix seconds.
    pub valid_after: u64,
    /// Unix seconds, exclusive.
    pub valid_before: u64,
}

impl SshAuthority {
    pub(super) async fn ensure(
        pool: &PgPool,
        kek: &Kek,
        name: &str,
        kind: CertType,
    ) -> anyhow::Result<Self> {
        let key = ensure_key(pool, kek, name).await?;
        Ok(Self { key, kind })
    }

    /// The authority's public key.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        self.key.public_key()
    }

    /// Signs a certificate with a random serial number.
    ///
    /// # Errors
    /// When the statement is empty or contradicts itself.
    pub fn sign(&self, statement: Statement<'_>) -> anyhow::Result<Certificate> {
        anyhow::ensure!(
            !statement.principals.is_empty(),
            "a certificate without principals would be everybody's"
        );
        let nonce: [u8; Builder::RECOMMENDED_NONCE_SIZE] = rand::random();
        let mut builder = Builder::new(
            nonce,
            statement.key,
            statement.valid_after,
            statement.valid_before,
        )?;
        builder
            .serial(rand::random())?
            .cert_type(self.kind)?
            .key_id(statement.key_id)?;
        for principal in statement.principals {
            builder.valid_principal(principal)?;
        }
        if self.kind == CertType::User {
            for extension in USER_EXTENSIONS {
                builder.extension(extension, "")?;
            }
        }
        Ok(builder.sign(&self.key)?)
    }

    /// True when this authority signed the certificate, for its kind, and it is valid at this time for one of the principals.
    #[must_use]
    pub fn vouches_for(&self, certificate: &Certificate, principal: &str, at: u64) -> bool {
        certificate.cert_type() == self.kind
            && certificate
                .valid_principals()
                .iter()
                .any(|valid| valid == principal)
            // Options that restrict a certificate are not made here, and none that is not understood may be ignored.
            && certificate.critical_options().iter().next().is_none()
            && certificate
                .validate_at(at, &[self.public_key().fingerprint(HashAlg::Sha256)])
                .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority(seed: u8, kind: CertType) -> SshAuthority {
        SshAuthority {
            key: key_of([seed; 32]),
            kind,
        }
    }

    fn certificate(authority: &SshAuthority) -> Certificate {
        let principals = ["lease_1".to_owned()];
        authority
            .sign(Statement {
                key: key_of([9; 32]).public_key().key_data().clone(),
                key_id: "test",
                principals: &principals,
                valid_after: 100,
                valid_before: 200,
            })
            .unwrap()
    }

    #[test]
    fn a_certificate_counts_only_for_its_authority_kind_principal_and_time() {
        let users = authority(1, CertType::User);
        let signed = certificate(&users);
        assert!(users.vouches_for(&signed, "lease_1", 150));
        assert!(!users.vouches_for(&signed, "lease_2", 150));
        assert!(!users.vouches_for(&signed, "lease_1", 99));
        assert!(!users.vouches_for(&signed, "lease_1", 200));
        assert!(!authority(2, CertType::User).vouches_for(&signed, "lease_1", 150));
        assert!(!authority(1, CertType::Host).vouches_for(&signed, "lease_1", 150));
    }

    #[test]
    fn a_certificate_for_everybody_is_not_signed() {
        let statement = Statement {
            key: key_of([9; 32]).public_key().key_data().clone(),
            key_id: "test",
            principals: &[],
            valid_after: 100,
            valid_before: 200,
        };
        assert!(authority(1, CertType::User).sign(statement).is_err());
    }
}
