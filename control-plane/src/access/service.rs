//! Use cases of access.

use chrono::{DateTime, Utc};
use freehold_proto::id::{ApiKeyId, LeaseId};

use super::{
    ca::{self, Grant},
    model::{self, GatewayAddress},
    store::{self, KeyRow, NewKey},
};
use crate::{
    app::App,
    audit,
    database::request_id::Idempotency,
    error::{Error, Result},
    gate::{Caller, KEY_PREFIX, Role, new_secret, secret_hash},
    leases::store::find_lease,
    organizations::scope,
    page::Page,
};

/// An API key as it is asked for.
pub(super) struct AskedKey<'a> {
    pub(super) organization: &'a str,
    pub(super) project: &'a str,
    pub(super) role: Role,
    pub(super) ttl_seconds: i64,
    pub(super) name: &'a str,
}

pub(super) async fn create_key(
    app: &App,
    caller: &Caller,
    asked: AskedKey<'_>,
    idempotency: Option<&Idempotency>,
) -> Result<(KeyRow, String)> {
    model::check_key_name(asked.name)?;
    let lifetime = model::key_lifetime(asked.ttl_seconds)?;
    if !caller.role.may_grant(asked.role) {
        return Err(Error::PermissionDenied(format!(
            "role: the role `{}` may not hand out the role `{}`; ask for a lower one, or have somebody with that role make the key",
            caller.role, asked.role
        )));
    }
    let mut connection = app.pool.acquire().await?;
    let organization = scope::organization_of(&mut connection, caller, asked.organization).await?;
    if matches!(asked.role, Role::Operator | Role::Auditor) && organization != caller.organization {
        return Err(Error::field(
            "role",
            format!(
                "keys of the role `{}` see every organization and belong to the operator's; leave `organization` empty",
                asked.role
            ),
        ));
    }
    // A key that is bound to a project makes keys of that project only.
    let project = match (asked.project, caller.project) {
        ("", None) => None,
        ("", Some(own)) => Some(own),
        (project, _) => Some(
            scope::target(&mut connection, caller, asked.organization, project)
                .await?
                .1,
        ),
    };
    drop(connection);
    let secret = new_secret(KEY_PREFIX)?;
    let new = NewKey {
        organization,
        project,
        role: asked.role,
        name: asked.name,
        lifetime,
        secret_hash: secret_hash(&secret),
        secret,
    };
    store::create_key(&app.pool, &app.pki.kek, caller, new, idempotency).await
}

pub(super) async fn list_keys(
    app: &App,
    caller: &Caller,
    organization: &str,
    page: Page,
) -> Result<(Vec<KeyRow>, String)> {
    let mut connection = app.pool.acquire().await?;
    let scope = scope::visible(&mut connection, caller, organization, "").await?;
    let mut rows = store::list_keys(&mut connection, scope, page).await?;
    let next = page.cut(&mut rows, |row| row.id);
    Ok((rows, next))
}

pub(super) async fn revoke_key(app: &App, caller: &Caller, key: &str) -> Result<KeyRow> {
    let id = key
        .parse::<ApiKeyId>()
        .map_err(|error| Error::field("api_key", error.to_string()))?;
    store::revoke_key(&app.pool, caller, id).await
}

/// Names of what the caller belongs to.
pub(super) async fn names_of(app: &App, caller: &Caller) -> Result<(String, Option<String>)> {
    let mut connection = app.pool.acquire().await?;
    store::names_of(&mut connection, caller.organization, caller.project).await
}

/// A certificate as it is asked for.
pub(super) struct AskedCertificate<'a> {
    pub(super) lease: &'a str,
    pub(super) public_key: &'a str,
    pub(super) login: &'a str,
    pub(super) ttl_seconds: i64,
    pub(super) organization: &'a str,
    pub(super) project: &'a str,
}

/// A certificate that was signed.
pub(super) struct Signed {
    pub(super) line: String,
    pub(super) serial: u64,
    pub(super) lease: LeaseId,
    pub(super) valid_after: u64,
    pub(super) valid_before: u64,
    pub(super) gateway: Gateway,
}

/// Signs a certificate for a lease that the caller sees. The operator's staff may have one for every lease; the entry in the audit log is the
/// tenant's to read.
pub(super) async fn sign_certificate(
    app: &App,
    caller: &Caller,
    asked: AskedCertificate<'_>,
) -> Result<Signed> {
    let key = ca::parse_key("public_key", asked.public_key)?;
    let login = model::login(asked.login)?;
    let mut tx = app.pool.begin().await?;
    let scope = scope::visible(&mut tx, caller, asked.organization, asked.project).await?;
    let lease = find_lease(&mut tx, caller, scope, asked.lease).await?;
    let facts = store::lease_facts(&mut tx, lease).await?;
    let end = model::certificate_end(asked.ttl_seconds, facts.now, facts.window_end)?;
    if !facts.live {
        return Err(Error::Precondition {
            reason: "LEASE_ENDED",
            message: format!(
                "the lease `{}` has ended, and its access is off; create another one",
                facts.name
            ),
        });
    }
    let grant = Grant {
        lease,
        login,
        holder: &caller.principal.to_string(),
        now: facts.now,
        end,
    };
    let certificate = ca::certify_user(app, key, &grant)?;
    audit::Entry::new(
        Some(caller.principal),
        Some(facts.organization),
        "ssh_certificate.sign",
        lease,
    )
    .with("serial", certificate.serial())
    .with("login", login)
    .with("valid_before", shown(end))
    .write(&mut tx)
    .await?;
    tx.commit().await?;
    Ok(Signed {
        line: certificate.to_openssh().map_err(Error::internal)?,
        serial: certificate.serial(),
        lease,
        valid_after: certificate.valid_after(),
        valid_before: certificate.valid_before(),
        gateway: gateway(app, Some(&facts.name))?,
    })
}

fn shown(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

/// Where the gateway is and how to recognise it.
pub(super) struct Gateway {
    pub(super) address: GatewayAddress,
    pub(super) known_hosts: String,
}

/// The gateway's facts, with the names of a lease's instances among the known hosts.
pub(super) fn gateway(app: &App, lease_name: Option<&str>) -> Result<Gateway> {
    Ok(Gateway {
        address: GatewayAddress::of(&app.config),
        known_hosts: ca::known_hosts(app, lease_name)?,
    })
}
