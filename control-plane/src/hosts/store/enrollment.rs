//! Enrolment tokens, and the hosts that they let in.

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use freehold_proto::id::{EnrollmentId, HostId};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::certificate;
use crate::{
    audit,
    database::{
        Signal, notify,
        request_id::{Claim, Idempotency, claim},
    },
    error::{Error, Result, violates},
    gate::Caller,
    hosts::model::{enrollment::TokenSpec, network::Network},
    pki::authority::AgentCertificate,
};

/// A token without its secret.
pub(in crate::hosts) struct TokenRow {
    pub(in crate::hosts) id: Uuid,
    pub(in crate::hosts) region: String,
    pub(in crate::hosts) sector: String,
    pub(in crate::hosts) uses: i32,
    pub(in crate::hosts) expires_at: DateTime<Utc>,
}

/// Makes a token; returns it and whether it is new. The secret of one that is not cannot be shown again.
pub(in crate::hosts) async fn create_token(
    pool: &PgPool,
    caller: &Caller,
    spec: &TokenSpec,
    secret_hash: &[u8],
    idempotency: Option<&Idempotency>,
) -> Result<(TokenRow, bool)> {
    let mut tx = pool.begin().await?;
    let id = EnrollmentId::new();
    if let Claim::Repeat(earlier) = claim(&mut tx, idempotency, id.uuid()).await? {
        return Ok((get_token(&mut tx, earlier).await?, false));
    }
    let networks: Vec<String> = spec.networks.iter().map(Network::to_string).collect();
    sqlx::query!(
        "insert into enrollment_token (id, secret_hash, region, sector, networks, uses, uses_left, expires_at, created_by)
         values ($1, $2, $3, $4, $5, $6, $6, now() + make_interval(secs => $7), $8)",
        id.uuid(),
        secret_hash,
        spec.region,
        spec.sector,
        &networks,
        spec.uses,
        spec.ttl.num_seconds() as f64,
        caller.principal.uuid()
    )
    .execute(&mut *tx)
    .await?;
    audit::Entry::new(
        Some(caller.principal),
        Some(caller.organization),
        "host.create_enrollment_token",
        id,
    )
    .with("region", &spec.region)
    .with("sector", &spec.sector)
    .with("uses", spec.uses)
    .write(&mut tx)
    .await?;
    let row = get_token(&mut tx, id.uuid()).await?;
    tx.commit().await?;
    Ok((row, true))
}

async fn get_token(connection: &mut PgConnection, id: Uuid) -> Result<TokenRow> {
    Ok(sqlx::query_as!(
        TokenRow,
        "select id, region, sector, uses, expires_at from enrollment_token where id = $1",
        id
    )
    .fetch_one(connection)
    .await?)
}

/// A machine that wants in.
pub(in crate::hosts) struct Machine<'a> {
    pub(in crate::hosts) machine_id: &'a str,
    pub(in crate::hosts) hostname: &'a str,
    pub(in crate::hosts) address: IpAddr,
}

/// Uses a token up by one and makes the machine's host, or finds the one that it is; `issue` makes its certificate. One that enrolled before
/// keeps its id, region and sector, and its earlier certificates are revoked.
pub(in crate::hosts) async fn enroll(
    pool: &PgPool,
    secret_hash: &[u8],
    machine: &Machine<'_>,
    issue: impl FnOnce(HostId) -> Result<AgentCertificate>,
) -> Result<(HostId, AgentCertificate)> {
    let mut tx = pool.begin().await?;
    let token = use_token(&mut tx, secret_hash, machine.address).await?;
    let known = find_machine(&mut tx, machine.machine_id).await?;
    let host = match known {
        Some(host) => host,
        None => HostId::new(),
    };
    ensure_host(&mut tx, host, machine, &token).await?;
    let revoked = certificate::revoke_all(&mut tx, host).await?;
    let issued = issue(host)?;
    certificate::insert(&mut tx, host, &issued).await?;
    audit::Entry::new(None, None, "host.enroll", host)
        .with("name", machine.hostname)
        .with("token", EnrollmentId::from(token.id))
        .with("address", machine.address)
        .with("again", known.is_some())
        .with("certificates_revoked", revoked)
        .write(&mut tx)
        .await?;
    notify(&mut tx, &Signal::Host(host.uuid())).await?;
    tx.commit().await?;
    Ok((host, issued))
}

/// Takes one use of a token; its row's lock makes others wait, so that it is never used more often than allowed.
async fn use_token(
    connection: &mut PgConnection,
    secret_hash: &[u8],
    address: IpAddr,
) -> Result<TokenRow> {
    let found = sqlx::query!(
        r#"select id, networks, uses_left, expires_at <= now() as "expired!" from enrollment_token where secret_hash = $1 for update"#,
        secret_hash
    )
    .fetch_optional(&mut *connection)
    .await?;
    let Some(found) = found else {
        return Err(Error::Unauthenticated("the token is unknown".to_owned()));
    };
    let refuse = |reason, message: &str| {
        Err(Error::Precondition {
            reason,
            message: message.to_owned(),
        })
    };
    if found.expired {
        return refuse("ENROLLMENT_TOKEN_EXPIRED", "the token has expired");
    }
    if found.uses_left == 0 {
        return refuse(
            "ENROLLMENT_TOKEN_USED_UP",
            "the token was used as often as it may be",
        );
    }
    let networks: Vec<Network> = found
        .networks
        .iter()
        .map(|text| text.parse().map_err(Error::internal))
        .collect::<Result<_>>()?;
    if !networks.is_empty() && !networks.iter().any(|network| network.contains(address)) {
        return Err(Error::PermissionDenied(format!(
            "the token does not admit the address {}, only {}",
            address.to_canonical(),
            found.networks.join(", ")
        )));
    }
    sqlx::query!(
        "update enrollment_token set uses_left = uses_left - 1 where id = $1",
        found.id
    )
    .execute(&mut *connection)
    .await?;
    get_token(connection, found.id).await
}

async fn find_machine(connection: &mut PgConnection, machine_id: &str) -> Result<Option<HostId>> {
    let found = sqlx::query_scalar!(
        "select id from host where machine_id = $1 and removed_at is null for no key update",
        machine_id
    )
    .fetch_optional(connection)
    .await?;
    Ok(found.map(HostId::from))
}

async fn ensure_host(
    connection: &mut PgConnection,
    host: HostId,
    machine: &Machine<'_>,
    token: &TokenRow,
) -> Result<()> {
    let ensured = sqlx::query!(
        "insert into host (id, name, machine_id, region, sector) values ($1, $2, $3, $4, $5)
         on conflict (id) do update set name = excluded.name",
        host.uuid(),
        machine.hostname,
        machine.machine_id,
        token.region,
        token.sector
    )
    .execute(connection)
    .await;
    match ensured {
        Ok(_) => Ok(()),
        Err(error) if violates(&error, "host_name") => Err(Error::AlreadyExists(format!(
            "hostname: another host is named `{}`; enrol with --hostname NAME, or remove the other one first (`freehold host remove`)",
            machine.hostname
        ))),
        Err(error) if violates(&error, "host_machine") => Err(Error::Contention(
            "the machine is being enrolled by another call; try again".to_owned(),
        )),
        Err(error) => Err(error.into()),
    }
}
