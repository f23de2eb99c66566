//! API keys: what they look like, and how a call's key is looked up.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use http::HeaderMap;
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest as _, Sha256};
use sqlx::PgPool;
use uuid::Uuid;

use super::{Caller, Role};
use crate::error::{Error, Result};

/// What an API key begins with, so that leaked ones are found by scanners.
pub const KEY_PREFIX: &str = "fhk_";

/// A fresh secret with 256 random bits behind `prefix`.
///
/// # Errors
/// `Internal` when the system has no randomness to give.
pub fn new_secret(prefix: &str) -> Result<String> {
    let mut bytes = [0_u8; 32];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::internal(anyhow::anyhow!("no randomness from the system")))?;
    Ok(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

/// What is stored of a secret.
#[must_use]
pub fn secret_hash(secret: &str) -> Vec<u8> {
    Sha256::digest(secret.as_bytes()).to_vec()
}

/// Finds the caller of a request by its `authorization` header.
pub(super) async fn authenticate(pool: &PgPool, headers: &HeaderMap) -> Result<Caller> {
    let refuse = |message: &str| Err(Error::Unauthenticated(message.to_owned()));
    let Some(header) = headers.get(http::header::AUTHORIZATION) else {
        return refuse(
            "the call carries no credentials; send `authorization: Bearer KEY` (FREEHOLD_TOKEN or --token)",
        );
    };
    let key = header.to_str().ok().and_then(bearer_token);
    let Some(key) = key.filter(|key| key.starts_with(KEY_PREFIX) && key.len() <= 128) else {
        return refuse("the authorization header is not `Bearer fhk_…`; check FREEHOLD_TOKEN");
    };
    match find_key(pool, &secret_hash(key)).await? {
        Some(found) => found.into_caller(),
        None => refuse(
            "the API key is unknown, revoked or expired; ask for a new one (`freehold key create`)",
        ),
    }
}

fn bearer_token(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

struct FoundKey {
    id: Uuid,
    principal_id: Uuid,
    organization_id: Uuid,
    project_id: Option<Uuid>,
    role: String,
    expires_at: DateTime<Utc>,
    stale: bool,
}

impl FoundKey {
    fn into_caller(self) -> Result<Caller> {
        Ok(Caller {
            principal: self.principal_id.into(),
            organization: self.organization_id.into(),
            project: self.project_id.map(Into::into),
            role: self.role.parse::<Role>().map_err(Error::internal)?,
            expires_at: self.expires_at,
        })
    }
}

async fn find_key(pool: &PgPool, hash: &[u8]) -> Result<Option<FoundKey>> {
    let found = sqlx::query_as!(
        FoundKey,
        r#"select id, principal_id, organization_id, project_id, role, expires_at,
               (last_used_at is null or last_used_at < now() - interval '1 minute') as "stale!"
           from api_key where secret_hash = $1 and revoked_at is null and expires_at > now()"#,
        hash
    )
    .fetch_optional(pool)
    .await?;
    if let Some(key) = found.as_ref().filter(|key| key.stale) {
        sqlx::query!(
            "update api_key set last_used_at = now() where id = $1",
            key.id
        )
        .execute(pool)
        .await?;
    }
    Ok(found)
}
