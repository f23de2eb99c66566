//! The key-encryption key: a file that only the control plane reads.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use anyhow::{Context as _, bail, ensure};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom as _, SystemRandom},
};

/// Seals and opens stored secrets with AES-256-GCM; the secret's name is bound to it, so that one cannot stand in for another.
pub struct Kek {
    key: LessSafeKey,
    random: SystemRandom,
}

impl Kek {
    /// Reads the key, or makes it where that is allowed.
    ///
    /// # Errors
    /// When the file is missing, readable by others, or not 64 hexadecimal digits.
    pub fn load(path: &Path, may_create: bool) -> anyhow::Result<Self> {
        let random = SystemRandom::new();
        if !path.exists() {
            if !may_create {
                bail!(
                    "--kek-file: {} does not exist; give every replica the file that the first one made (DATA_DIR/kek)",
                    path.display()
                );
            }
            let mut bytes = [0_u8; 32];
            random
                .fill(&mut bytes)
                .map_err(|_| anyhow::anyhow!("no randomness from the system"))?;
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)?;
            writeln!(file, "{}", hex::encode(bytes))?;
            file.sync_all()?;
        }
        let mode = fs::metadata(path)?.permissions().mode();
        ensure!(
            mode & 0o077 == 0,
            "--kek-file: {} is open to others; run: chmod 600 {}",
            path.display(),
            path.display()
        );
        let text = fs::read_to_string(path)
            .with_context(|| format!("--kek-file: {} cannot be read", path.display()))?;
        let bytes = hex::decode(text.trim())
            .ok()
            .filter(|bytes| bytes.len() == 32);
        let bytes = bytes.with_context(|| {
            format!(
                "--kek-file: {} is not 64 hexadecimal digits",
                path.display()
            )
        })?;
        Self::from_bytes(&bytes)
    }

    fn from_bytes(bytes: &[u8]) -> anyhow::Result<Self> {
        let key = UnboundKey::new(&AES_256_GCM, bytes)
            .map_err(|_| anyhow::anyhow!("the key-encryption key is not 32 bytes"))?;
        Ok(Self {
            key: LessSafeKey::new(key),
            random: SystemRandom::new(),
        })
    }

    /// Seals a secret under a fresh nonce, which stands before the ciphertext.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn seal(&self, name: &str, secret: &[u8]) -> anyhow::Result<Vec<u8>> {
        let mut nonce = [0_u8; NONCE_LEN];
        self.random
            .fill(&mut nonce)
            .map_err(|_| anyhow::anyhow!("no randomness from the system"))?;
        let mut sealed = secret.to_vec();
        self.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(name),
                &mut sealed,
            )
            .map_err(|_| anyhow::anyhow!("sealing failed"))?;
        Ok([&nonce[..], &sealed].concat())
    }

    /// Opens what [`Kek::seal`] made for the same name.
    ///
    /// # Errors
    /// When it was sealed under another key or for another name.
    pub fn open(&self, name: &str, sealed: &[u8]) -> anyhow::Result<Vec<u8>> {
        let (nonce, ciphertext) = sealed
            .split_at_checked(NONCE_LEN)
            .context("the sealed secret is too short")?;
        let nonce = Nonce::try_assume_unique_for_key(nonce)
            .map_err(|_| anyhow::anyhow!("the nonce is malformed"))?;
        let mut buffer = ciphertext.to_vec();
        let opened = self.key.open_in_place(nonce, Aad::from(name), &mut buffer).map_err(|_| {
            anyhow::anyhow!(
                "the secret `{name}` was sealed under another key-encryption key; give the right --kek-file"
            )
        })?;
        Ok(opened.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_opens_only_under_its_key_and_name() {
        let kek = Kek::from_bytes(&[7; 32]).unwrap();
        let sealed = kek.seal("a", b"secret").unwrap();
        assert_eq!(kek.open("a", &sealed).unwrap(), b"secret");
        assert!(kek.open("b", &sealed).is_err());
        assert!(
            Kek::from_bytes(&[8; 32])
                .unwrap()
                .open("a", &sealed)
                .is_err()
        );
        assert!(kek.open("a", &sealed[..5]).is_err());
    }

    #[test]
    fn a_key_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kek");
        Kek::load(&path, true).unwrap();
        Kek::load(&path, false).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Kek::load(&path, false).is_err());
    }

    #[test]
    fn a_missing_key_file_is_made_only_where_that_is_allowed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Kek::load(&dir.path().join("kek"), false).is_err());
    }
}
