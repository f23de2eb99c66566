//! Idempotent creates: the request id is stored in the transaction of the create, with a fingerprint of the body.

use freehold_proto::id::PrincipalId;
use prost::Message;
use sha2::{Digest as _, Sha256};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::{
    error::{Error, Result},
    pki::Kek,
};

/// A create that may be repeated.
#[derive(Debug, Clone)]
pub struct Idempotency {
    principal: PrincipalId,
    method: &'static str,
    request_id: String,
    fingerprint: Vec<u8>,
}

impl Idempotency {
    /// `None` when the request id is empty: such a create is not idempotent.
    ///
    /// # Errors
    /// `InvalidField` when the request id is longer than 128 bytes or not visible ASCII.
    pub fn new(
        principal: PrincipalId,
        method: &'static str,
        request_id: &str,
        body: &impl Message,
    ) -> Result<Option<Self>> {
        if request_id.is_empty() {
            return Ok(None);
        }
        if request_id.len() > 128 || !request_id.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Error::field(
                "request_id",
                "must be 1 to 128 visible ASCII characters",
            ));
        }
        let fingerprint = Sha256::digest(body.encode_to_vec()).to_vec();
        Ok(Some(Self {
            principal,
            method,
            request_id: request_id.to_owned(),
            fingerprint,
        }))
    }

    fn secret_name(&self) -> String {
        format!(
            "answer:{}:{}:{}",
            self.principal, self.method, self.request_id
        )
    }
}

/// What the store should do with a create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Go on with the minted id.
    New,
    /// The same request made this resource before: return it.
    Repeat(Uuid),
}

/// Claims the request id for the resource that is about to be made. A concurrent repetition waits until this transaction ends.
///
/// # Errors
/// `RequestIdReused` when the id was used with another body.
pub async fn claim(
    connection: &mut PgConnection,
    idempotency: Option<&Idempotency>,
    resource: Uuid,
) -> Result<Claim> {
    let Some(idempotency) = idempotency else {
        return Ok(Claim::New);
    };
    let inserted = sqlx::query!(
        "insert into request_id (principal_id, method, request_id, fingerprint, resource_id)
         values ($1, $2, $3, $4, $5) on conflict do nothing",
        idempotency.principal.uuid(),
        idempotency.method,
        idempotency.request_id,
        idempotency.fingerprint,
        resource
    )
    .execute(&mut *connection)
    .await?;
    if inserted.rows_affected() == 1 {
        return Ok(Claim::New);
    }
    let earlier = sqlx::query!(
        "select fingerprint, resource_id from request_id where principal_id = $1 and method = $2 and request_id = $3",
        idempotency.principal.uuid(),
        idempotency.method,
        idempotency.request_id
    )
    .fetch_one(connection)
    .await?;
    if earlier.fingerprint == idempotency.fingerprint {
        Ok(Claim::Repeat(earlier.resource_id))
    } else {
        Err(Error::RequestIdReused(idempotency.request_id.clone()))
    }
}

/// Keeps what only the answer to this create holds, sealed, for its repetitions.
///
/// # Errors
/// When the database does not answer.
pub async fn seal_answer(
    connection: &mut PgConnection,
    kek: &Kek,
    idempotency: Option<&Idempotency>,
    secret: &str,
) -> Result<()> {
    let Some(idempotency) = idempotency else {
        return Ok(());
    };
    let sealed = kek
        .seal(&idempotency.secret_name(), secret.as_bytes())
        .map_err(Error::internal)?;
    sqlx::query!(
        "update request_id set sealed_answer = $4 where principal_id = $1 and method = $2 and request_id = $3",
        idempotency.principal.uuid(),
        idempotency.method,
        idempotency.request_id,
        sealed
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// What [`seal_answer`] kept.
///
/// # Errors
/// When nothing was kept, or the database does not answer.
pub async fn open_answer(
    connection: &mut PgConnection,
    kek: &Kek,
    idempotency: Option<&Idempotency>,
) -> Result<String> {
    let missing = || Error::internal(anyhow::anyhow!("the create kept no answer"));
    let idempotency = idempotency.ok_or_else(missing)?;
    let sealed = sqlx::query_scalar!(
        "select sealed_answer from request_id where principal_id = $1 and method = $2 and request_id = $3",
        idempotency.principal.uuid(),
        idempotency.method,
        idempotency.request_id
    )
    .fetch_one(connection)
    .await?
    .ok_or_else(missing)?;
    let opened = kek
        .open(&idempotency.secret_name(), &sealed)
        .map_err(Error::internal)?;
    String::from_utf8(opened).map_err(Error::internal)
}

/// Forgets request ids older than two days: the promise is at least 24 hours.
///
/// # Errors
/// When the database does not answer.
pub async fn forget_old(pool: &PgPool) -> Result<u64> {
    let deleted =
        sqlx::query!("delete from request_id where created_at < now() - interval '48 hours'")
            .execute(pool)
            .await?;
    Ok(deleted.rows_affected())
}
