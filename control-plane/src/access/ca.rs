//! The SSH certificate authority: whom instances admit, and how they and the gateway are recognised.
//!
//! A user certificate carries two principals: the lease's id, which the sshd of each of its instances asks for, and `LEASE+LOGIN`, which the
//! gateway asks for. A host certificate carries the names of what it certifies.

use chrono::{DateTime, TimeDelta, Utc};
use freehold_proto::id::{HostId, InstanceId, LeaseId};
use russh::keys::{Certificate, PublicKey, ssh_key::public::KeyData};

use super::{model, store};
use crate::{
    app::App,
    error::{Error, Result},
    pki::Statement,
};

/// Clocks of clients and instances may be off by this much.
const CLOCK_SKEW: TimeDelta = TimeDelta::minutes(5);
/// Life of an instance's host certificate. Nothing renews it, so it outlives every lease; another instance's certificate is of no use to it, as its
/// names are of its own.
const HOST_LIFE: TimeDelta = TimeDelta::days(3650);
/// Life of the gateway's certificate, which is made anew every day.
const GATEWAY_LIFE: TimeDelta = TimeDelta::days(30);
/// A line with a 16,384-bit RSA key and a comment is shorter.
const MAX_KEY_LINE: usize = 8192;

/// The line of the authority whose user certificates log in to instances.
///
/// # Errors
/// When the key cannot be written in OpenSSH's format.
pub fn user_ca_line(app: &App) -> Result<String> {
    line(app.pki.ssh_user_ca.public_key())
}

/// The principals of which a certificate needs one to log in to a lease's instances.
#[must_use]
pub fn principals_for(lease: LeaseId) -> Vec<String> {
    vec![lease.to_string()]
}

/// Certifies the host key of an instance's sshd: `line` and the certificate are lines of OpenSSH's format.
///
/// # Errors
/// `NotFound` when the instance is not placed on that host, `InvalidField` when the line is not a public key.
pub async fn certify_host_key(
    app: &App,
    host: HostId,
    instance: InstanceId,
    line: &str,
) -> Result<String> {
    let key = parse_key("public_key", line)?;
    let placed = store::find_placed(&app.pool, host, instance).await?;
    let names = model::instance_names(instance, placed.lease, &placed.lease_name, placed.ordinal);
    let statement = Statement {
        key,
        key_id: &format!("{instance} on {host}"),
        principals: &names,
        valid_after: seconds(placed.now - CLOCK_SKEW)?,
        valid_before: seconds(placed.now + HOST_LIFE)?,
    };
    let certificate = app
        .pki
        .ssh_host_ca
        .sign(statement)
        .map_err(Error::internal)?;
    certificate.to_openssh().map_err(Error::internal)
}

/// What a user certificate is for.
pub(super) struct Grant<'a> {
    pub(super) lease: LeaseId,
    pub(super) login: &'a str,
    /// Whoever uses it, for the logs of instances.
    pub(super) holder: &'a str,
    pub(super) now: DateTime<Utc>,
    pub(super) end: DateTime<Utc>,
}

/// Signs a user certificate.
pub(super) fn certify_user(app: &App, key: KeyData, grant: &Grant<'_>) -> Result<Certificate> {
    let mut principals = principals_for(grant.lease);
    principals.push(model::login_principal(grant.lease, grant.login));
    let statement = Statement {
        key,
        key_id: &format!("{}+{} for {}", grant.lease, grant.login, grant.holder),
        principals: &principals,
        valid_after: seconds(grant.now - CLOCK_SKEW)?,
        valid_before: seconds(grant.end)?,
    };
    app.pki.ssh_user_ca.sign(statement).map_err(Error::internal)
}

/// A line for `known_hosts` that trusts the authority for the gateway, and for instances by their ids and by the names of `lease`.
pub(super) fn known_hosts(app: &App, lease: Option<&str>) -> Result<String> {
    let address = model::GatewayAddress::of(&app.config);
    let mut patterns: Vec<_> = model::gateway_names(&app.config)
        .iter()
        .map(|name| address.known_as(name))
        .collect();
    patterns.extend([
        format!("{}_*", InstanceId::PREFIX),
        format!("{}_*", LeaseId::PREFIX),
    ]);
    if let Some(name) = lease {
        patterns.extend([name.to_owned(), format!("{name}.*")]);
    }
    let key = line(app.pki.ssh_host_ca.public_key())?;
    Ok(format!("@cert-authority {} {key}", patterns.join(",")))
}

/// The gateway's own host certificate.
pub(super) fn certify_gateway(app: &App, now: DateTime<Utc>) -> Result<Certificate> {
    let names = model::gateway_names(&app.config);
    let statement = Statement {
        key: app.pki.ssh_gateway_key.public_key().key_data().clone(),
        key_id: "freehold SSH gateway",
        principals: &names,
        valid_after: seconds(now - CLOCK_SKEW)?,
        valid_before: seconds(now + GATEWAY_LIFE)?,
    };
    app.pki.ssh_host_ca.sign(statement).map_err(Error::internal)
}

/// Reads a line of OpenSSH's public key format.
pub(super) fn parse_key(field: &str, line: &str) -> Result<KeyData> {
    let refuse = |message: &str| Err(Error::field(field, message));
    if line.contains("PRIVATE KEY") {
        return refuse("is a private key, which must never leave its owner; give the public one");
    }
    if line.len() > MAX_KEY_LINE {
        return refuse("is too long for a public key; give the content of a .pub file");
    }
    match PublicKey::from_openssh(line.trim()) {
        Ok(key) => Ok(key.key_data().clone()),
        Err(_) => refuse(
            "is not a line of OpenSSH's public key format (`ssh-ed25519 AAAA…`); give the content of a .pub file",
        ),
    }
}

/// Unix seconds, as certificates have them.
pub(super) fn seconds(time: DateTime<Utc>) -> Result<u64> {
    u64::try_from(time.timestamp()).map_err(Error::internal)
}

fn line(key: &PublicKey) -> Result<String> {
    key.to_openssh().map_err(Error::internal)
}
