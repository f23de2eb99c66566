//! Agents' certificates.

use freehold_proto::id::HostId;
use sqlx::{PgConnection, PgPool};

use crate::{
    audit,
    error::{Error, Result},
    pki::authority::AgentCertificate,
};

/// What is known of a certificate that a handshake took.
pub(in crate::hosts) struct Known {
    pub(in crate::hosts) host: HostId,
    pub(in crate::hosts) revoked: bool,
    pub(in crate::hosts) expired: bool,
    pub(in crate::hosts) removed: bool,
}

/// Looks a certificate up by its serial number.
pub(in crate::hosts) async fn find(
    connection: &mut PgConnection,
    serial: &str,
) -> Result<Option<Known>> {
    let found = sqlx::query!(
        r#"select c.host_id, c.revoked_at is not null as "revoked!", c.not_after <= now() as "expired!",
               h.removed_at is not null as "removed!"
           from agent_certificate c join host h on h.id = c.host_id where c.serial = $1"#,
        serial
    )
    .fetch_optional(connection)
    .await?;
    Ok(found.map(|row| Known {
        host: row.host_id.into(),
        revoked: row.revoked,
        expired: row.expired,
        removed: row.removed,
    }))
}

/// Refuses certificates that name no host any more, each with its remedy.
pub(in crate::hosts) fn admit(known: Option<Known>) -> Result<HostId> {
    let refuse = |what: &str, remedy: &str| {
        Err(Error::PermissionDenied(format!(
            "the client certificate {what}; {remedy} (`freehold-agent enroll` with a token of `freehold host enroll-token`)"
        )))
    };
    match known {
        None => refuse("is not one of this deployment's", "enrol the host here"),
        Some(known) if known.removed => refuse(
            "is of a host that the operator removed",
            "enrol the machine as a new host",
        ),
        Some(known) if known.revoked => refuse("was revoked", "enrol the host again"),
        Some(known) if known.expired => refuse("has expired", "enrol the host again"),
        Some(known) => Ok(known.host),
    }
}

/// Writes down a certificate that was issued.
pub(in crate::hosts) async fn insert(
    connection: &mut PgConnection,
    host: HostId,
    certificate: &AgentCertificate,
) -> Result<()> {
    sqlx::query!(
        "insert into agent_certificate (serial, host_id, not_after) values ($1, $2, $3)",
        certificate.serial,
        host.uuid(),
        certificate.not_after
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Adds a certificate to a host, on the strength of the one with this serial number.
///
/// # Errors
/// `PermissionDenied` when that one was revoked or the host removed in the meantime.
pub(in crate::hosts) async fn renew(
    pool: &PgPool,
    host: HostId,
    serial: &str,
    issued: &AgentCertificate,
) -> Result<()> {
    let mut tx = pool.begin().await?;
    lock_host(&mut tx, host).await?;
    admit(find(&mut tx, serial).await?)?;
    insert(&mut tx, host, issued).await?;
    audit::Entry::new(None, None, "host.renew_certificate", host)
        .with("serial", &issued.serial)
        .write(&mut tx)
        .await?;
    tx.commit().await?;
    Ok(())
}

/// Locks a host's row, which puts hellos, renewals, re-enrolments and the host's removal in an order.
pub(in crate::hosts) async fn lock_host(connection: &mut PgConnection, host: HostId) -> Result<()> {
    sqlx::query!(
        "select id from host where id = $1 for no key update",
        host.uuid()
    )
    .fetch_optional(connection)
    .await?;
    Ok(())
}

/// Revokes every certificate of a host.
pub(in crate::hosts) async fn revoke_all(
    connection: &mut PgConnection,
    host: HostId,
) -> Result<u64> {
    let revoked = sqlx::query!(
        "update agent_certificate set revoked_at = now() where host_id = $1 and revoked_at is null",
        host.uuid()
    )
    .execute(connection)
    .await?;
    Ok(revoked.rows_affected())
}
