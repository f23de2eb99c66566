//! Keys: the key-encryption key, and the authorities whose private keys are sealed under it in the database.

use std::path::Path;

use russh::keys::{PrivateKey, ssh_key::certificate::CertType};
use sqlx::PgPool;

pub mod authority;
mod kek;
mod ssh;

pub use authority::{Authority, ServerCertificate};
pub use kek::Kek;
pub use ssh::{SshAuthority, Statement};

/// The keys every replica shares.
pub struct Pki {
    /// Seals secrets that are stored.
    pub kek: Kek,
    /// Signs the certificates of the public and the agent listener.
    pub server_ca: Authority,
    /// Signs agents' client certificates.
    pub agent_ca: Authority,
    /// Signs SSH certificates of users.
    pub ssh_user_ca: SshAuthority,
    /// Signs SSH certificates of the gateway and of instances.
    pub ssh_host_ca: SshAuthority,
    /// The SSH gateway's host key, the same in every replica.
    pub ssh_gateway_key: PrivateKey,
}

impl Pki {
    /// Loads the authorities, making them on the first start of all.
    ///
    /// # Errors
    /// When the key-encryption key is missing or is not the one that sealed them.
    pub async fn load(
        pool: &PgPool,
        kek_file: &Path,
        may_create_kek: bool,
    ) -> anyhow::Result<Self> {
        let kek = Kek::load(kek_file, may_create_kek)?;
        let server_ca = Authority::ensure(pool, &kek, "server_ca", "Freehold server CA").await?;
        let agent_ca = Authority::ensure(pool, &kek, "agent_ca", "Freehold agent CA").await?;
        let ssh_user_ca = SshAuthority::ensure(pool, &kek, "ssh_user_ca", CertType::User).await?;
        let ssh_host_ca = SshAuthority::ensure(pool, &kek, "ssh_host_ca", CertType::Host).await?;
        let ssh_gateway_key = ssh::ensure_key(pool, &kek, "ssh_gateway_key").await?;
        Ok(Self {
            kek,
            server_ca,
            agent_ca,
            ssh_user_ca,
            ssh_host_ca,
            ssh_gateway_key,
        })
    }
}

/// Stores a secret sealed under the key-encryption key unless one of this name exists, and returns the one that then exists with its
/// public part: replicas that start together agree on the first.
///
/// # Errors
/// When the database does not answer or the key-encryption key is another one.
pub async fn ensure_sealed(
    pool: &PgPool,
    kek: &Kek,
    name: &str,
    secret: &[u8],
    public_part: &str,
) -> anyhow::Result<(Vec<u8>, String)> {
    let ciphertext = kek.seal(name, secret)?;
    sqlx::query!(
        "insert into sealed_secret (name, ciphertext, public_part) values ($1, $2, $3) on conflict do nothing",
        name,
        ciphertext,
        public_part
    )
    .execute(pool)
    .await?;
    let stored = sqlx::query!(
        "select ciphertext, public_part from sealed_secret where name = $1",
        name
    )
    .fetch_one(pool)
    .await?;
    Ok((kek.open(name, &stored.ciphertext)?, stored.public_part))
}
