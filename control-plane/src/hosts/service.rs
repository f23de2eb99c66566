//! Use cases of hosts.

use std::net::IpAddr;

use anyhow::Context as _;
use freehold_proto::id::HostId;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use super::{
    model::{
        change::Change,
        enrollment::{self, AskedToken},
        state::HostState,
    },
    store::{
        certificate, change,
        enrollment::{Machine, TokenRow, create_token, enroll},
        host::{self, HostRecord},
    },
};
use crate::{
    app::App,
    cluster,
    database::request_id::Idempotency,
    error::{Error, Result},
    gate::{Caller, new_secret, secret_hash},
    page::Page,
    pki::authority::{AgentCertificate, fingerprint},
};

/// Makes an enrolment token. The text is empty when the request repeats an earlier one: a secret is shown once.
pub(super) async fn create_enrollment_token(
    app: &App,
    caller: &Caller,
    asked: AskedToken,
    idempotency: Option<&Idempotency>,
) -> Result<(TokenRow, String)> {
    let spec = enrollment::check_token(asked)?;
    let secret = hex::encode(secret_hash(&new_secret("")?));
    let hash = secret_hash(&secret);
    let (row, fresh) = create_token(&app.pool, caller, &spec, &hash, idempotency).await?;
    let text = if fresh {
        enrollment::token(&secret, &public_fingerprint(app)?)
    } else {
        String::new()
    };
    Ok((row, text))
}

/// The fingerprint of the CA behind the public listener: the last certificate of the configured chain, else the built-in authority's.
fn public_fingerprint(app: &App) -> Result<String> {
    let Some(path) = &app.config.tls_cert else {
        return Ok(fingerprint(app.pki.server_ca.certificate()));
    };
    let chain: Vec<CertificateDer<'_>> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .with_context(|| format!("--tls-cert: {} cannot be read", path.display()))
        .map_err(Error::internal)?;
    chain
        .last()
        .map(fingerprint)
        .ok_or_else(|| Error::internal(anyhow::anyhow!("--tls-cert: the file has no certificate")))
}

/// What a machine gets for a token.
pub(super) struct Enrolled {
    pub(super) host: HostId,
    pub(super) certificate: AgentCertificate,
    pub(super) agent_addresses: Vec<String>,
}

/// Exchanges a token for a client certificate.
pub(super) async fn enroll_machine(
    app: &App,
    token: &str,
    csr_pem: &str,
    (machine_id, hostname): (&str, &str),
    address: IpAddr,
) -> Result<Enrolled> {
    let secret = enrollment::secret_of(token)?;
    enrollment::check_machine(machine_id, hostname)?;
    let machine = Machine {
        machine_id,
        hostname,
        address,
    };
    let issue = |host| issue(app, csr_pem, host);
    let (host, certificate) = enroll(&app.pool, &secret_hash(secret), &machine, issue).await?;
    Ok(Enrolled {
        host,
        certificate,
        agent_addresses: cluster::agent_addresses(&app.pool).await?,
    })
}

fn issue(app: &App, csr_pem: &str, host: HostId) -> Result<AgentCertificate> {
    app.pki
        .agent_ca
        .issue_agent(csr_pem, host)
        .map_err(|error| {
            Error::field(
                "csr_pem",
                format!("is not a PEM certificate signing request with a valid signature: {error}"),
            )
        })
}

/// Issues a further certificate to the host that the one with this serial number names. The earlier one lasts until it expires: whether
/// the agent got and kept the new one is not known.
pub(super) async fn renew_certificate(
    app: &App,
    host: HostId,
    serial: &str,
    csr_pem: &str,
) -> Result<AgentCertificate> {
    let issued = issue(app, csr_pem, host)?;
    certificate::renew(&app.pool, host, serial, &issued).await?;
    Ok(issued)
}

/// Longer reasons are not read by anybody.
const MAX_REASON: usize = 1000;

/// Cordons, uncordons, releases or removes a host.
pub(super) async fn change_host(
    app: &App,
    caller: &Caller,
    host: &str,
    change: Change<'_>,
) -> Result<HostRecord> {
    if let Change::Cordon { reason } | Change::Release { reason } = change
        && (reason.len() > MAX_REASON || reason.contains('\0'))
    {
        return Err(Error::field("reason", "must be text of at most 1000 bytes"));
    }
    let id = change::apply(&app.pool, caller, host, change).await?;
    load(app, id).await
}

pub(super) async fn get_host(app: &App, host: &str) -> Result<HostRecord> {
    let id = host::find(&mut *app.pool.acquire().await?, host).await?;
    load(app, id).await
}

async fn load(app: &App, id: HostId) -> Result<HostRecord> {
    host::load(&mut *app.pool.acquire().await?, id, timeout_seconds(app)).await
}

pub(super) async fn list_hosts(
    app: &App,
    wanted: Option<HostState>,
    page: Page,
) -> Result<(Vec<HostRecord>, String)> {
    let mut connection = app.pool.acquire().await?;
    let mut hosts = host::list(&mut connection, wanted, page, timeout_seconds(app)).await?;
    let next = page.cut(&mut hosts, |record| record.row.id);
    Ok((hosts, next))
}

fn timeout_seconds(app: &App) -> i64 {
    i64::try_from(app.config.limits.host_timeout.as_secs()).unwrap_or(i64::MAX)
}
