//! The connection to the control plane: TLS, the bearer token, and tries again where that is safe.

use std::{error::Error as _, fs, future::Future, io, path::Path, time::Duration};

use freehold_proto::v1;
use tonic::{
    Code, Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Uri},
};

use crate::{
    args::Global,
    error::{CliError, is_transient},
};

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one try of a call that is not a stream may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Pauses between tries: four tries within about three seconds.
const PAUSES_MS: [u64; 3] = [250, 750, 2000];
/// The largest answer that is taken: a day's telemetry of a large host fits many times.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// A channel that adds the token to every call.
pub(crate) type Api = InterceptedService<Channel, Bearer>;

/// Adds `authorization: Bearer …`.
#[derive(Clone)]
pub(crate) struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request
            .metadata_mut()
            .insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// An open connection with credentials.
#[derive(Clone)]
pub(crate) struct Session {
    api: Api,
    server: String,
    token: String,
}

macro_rules! clients {
    ($($(#[$doc:meta])* $name:ident: $module:ident::$client:ident;)*) => {$(
        $(#[$doc])*
        pub(crate) fn $name(&self) -> v1::$module::$client<Api> {
            v1::$module::$client::new(self.api.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
        }
    )*};
}

impl Session {
    clients! {
        /// Keys and certificates.
        access: access_service_client::AccessServiceClient;
        /// Audit entries.
        audit: audit_service_client::AuditServiceClient;
        /// Reports and usage records.
        billing: billing_service_client::BillingServiceClient;
        /// Types, prices and offers.
        catalog: catalog_service_client::CatalogServiceClient;
        /// Hosts.
        hosts: host_service_client::HostServiceClient;
        /// Leases.
        leases: lease_service_client::LeaseServiceClient;
        /// Organizations and projects.
        organizations: organization_service_client::OrganizationServiceClient;
        /// GPU telemetry.
        telemetry: telemetry_service_client::TelemetryServiceClient;
    }

    /// The control plane's URL, as given.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    /// What tells this caller at this control plane from others, without showing the token.
    pub(crate) fn identity(&self) -> String {
        identity(&self.server, &self.token)
    }

    /// Connects to the control plane that the options name.
    pub(crate) async fn open(global: &Global) -> Result<Self, CliError> {
        let server = server_of(global)?;
        let token = token_of(global)?;
        let mut header = MetadataValue::try_from(format!("Bearer {token}")).map_err(|_| {
            CliError::input(
                "--token (FREEHOLD_TOKEN)",
                "the key holds characters that no key has; copy it again",
            )
        })?;
        header.set_sensitive(true);
        let tls = tls(global.ca.as_deref())?;
        let endpoint = Endpoint::from(parse_server(&server)?)
            .user_agent(concat!("freehold/", env!("CARGO_PKG_VERSION")))
            .and_then(|endpoint| endpoint.tls_config(tls))
            .map_err(|error| CliError::input("--server (FREEHOLD_SERVER)", describe(&error)))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true);
        let mut pauses = PAUSES_MS.iter();
        let channel = loop {
            match endpoint.connect().await {
                Ok(channel) => break channel,
                Err(error) => match pauses.next() {
                    Some(pause) if was_refused(&error) => {
                        tokio::time::sleep(Duration::from_millis(*pause)).await;
                    }
                    _ => return Err(connection_error(&server, global.ca.as_deref(), &error)),
                },
            }
        };
        let api = InterceptedService::new(channel, Bearer(header));
        Ok(Self { api, server, token })
    }
}

/// See [`Session::identity`].
fn identity(server: &str, token: &str) -> String {
    use sha2::{Digest as _, Sha256};
    let digest = Sha256::new()
        .chain_update(server)
        .chain_update([0])
        .chain_update(token)
        .finalize();
    digest
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The identity that [`Session::open`] would give, without a connection; `None` when an option is missing.
pub(crate) fn identity_of(global: &Global) -> Option<String> {
    Some(identity(&server_of(global).ok()?, &token_of(global).ok()?))
}

fn server_of(global: &Global) -> Result<String, CliError> {
    match global.server.as_deref().map(str::trim) {
        Some(server) if !server.is_empty() => Ok(server.trim_end_matches('/').to_owned()),
        _ => Err(CliError::input(
            "--server",
            "no control plane was named; give `--server https://HOST:PORT` or set FREEHOLD_SERVER",
        )),
    }
}

fn token_of(global: &Global) -> Result<String, CliError> {
    match global.token.as_deref().map(str::trim) {
        Some(token) if !token.is_empty() => Ok(token.to_owned()),
        _ => Err(CliError::input(
            "--token",
            "no API key was given; set FREEHOLD_TOKEN or give `--token fhk_…` (an operator's or an owner's `freehold key create` makes one)",
        )),
    }
}

fn parse_server(server: &str) -> Result<Uri, CliError> {
    let refuse = |message: String| CliError::input("--server (FREEHOLD_SERVER)", message);
    if server.starts_with("http://") {
        return Err(refuse(format!(
            "`{server}` is not encrypted; the control plane speaks TLS only: write https://…"
        )));
    }
    let uri = server
        .strip_prefix("https://")
        .filter(|rest| !rest.is_empty() && !rest.contains(['/', '?', '#', '@']))
        .and_then(|_| server.parse::<Uri>().ok())
        .filter(|uri| uri.host().is_some_and(|host| !host.is_empty()));
    uri.ok_or_else(|| {
        refuse(format!(
            "`{server}` is not a URL of the form https://HOST:PORT"
        ))
    })
}

fn tls(ca: Option<&Path>) -> Result<ClientTlsConfig, CliError> {
    let config = ClientTlsConfig::new();
    let Some(file) = ca.filter(|file| !file.as_os_str().is_empty()) else {
        // Mozilla's roots stand in where the system has none of its own, as in small containers.
        let own = ["/etc/ssl/certs", "/etc/pki/tls/certs", "/etc/ssl/cert.pem"];
        let system = std::env::var_os("SSL_CERT_FILE").is_some()
            || own.iter().any(|path| Path::new(path).exists());
        return Ok(match system {
            true => config.with_native_roots(),
            false => config.trust_anchors(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        });
    };
    let refuse = |message: String| {
        CliError::input(
            "--ca (FREEHOLD_CA)",
            format!("{}: {message}", file.display()),
        )
    };
    let pem = fs::read(file).map_err(|error| {
        refuse(format!(
            "{error}; name the PEM file of the control plane's CA"
        ))
    })?;
    let found = rustls_pemfile::certs(&mut pem.as_slice())
        .filter_map(Result::ok)
        .count();
    if found == 0 {
        return Err(refuse(
            "holds no certificate; it must be PEM (`-----BEGIN CERTIFICATE-----`)".to_owned(),
        ));
    }
    Ok(config.ca_certificate(Certificate::from_pem(pem)))
}

fn was_refused(error: &tonic::transport::Error) -> bool {
    io_cause(error).is_some_and(|cause| cause.kind() == io::ErrorKind::ConnectionRefused)
}

fn io_cause(error: &tonic::transport::Error) -> Option<&io::Error> {
    causes(error).find_map(|cause| cause.downcast_ref::<io::Error>())
}

fn causes<'a>(
    error: &'a tonic::transport::Error,
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |cause| (*cause).source())
}

/// The innermost cause: the outer ones only say that there is one.
fn describe(error: &tonic::transport::Error) -> String {
    causes(error)
        .last()
        .map_or_else(|| error.to_string(), ToString::to_string)
}

fn connection_error(server: &str, ca: Option<&Path>, error: &tonic::transport::Error) -> CliError {
    let cause = describe(error);
    let certificate = io_cause(error)
        .and_then(io::Error::get_ref)
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        .and_then(|inner| match inner {
            rustls::Error::InvalidCertificate(reason) => Some(reason.clone()),
            _ => None,
        });
    let (message, remedy) = match certificate {
        Some(rustls::CertificateError::NotValidForName | rustls::CertificateError::NotValidForNameContext { .. }) => (
            format!("the certificate of {server} is not for that name: {cause}"),
            "name the control plane as its certificate does in --server (FREEHOLD_SERVER)".to_owned(),
        ),
        Some(_) => (
            format!("the certificate of {server} is not to be trusted: {cause}"),
            match ca {
                Some(file) => format!(
                    "{} is not the CA that signed it; give the control plane's ca.pem with --ca or FREEHOLD_CA",
                    file.display()
                ),
                None => "give the control plane's ca.pem with --ca or FREEHOLD_CA".to_owned(),
            },
        ),
        None => (
            format!("{server} cannot be reached: {cause}"),
            "check --server (FREEHOLD_SERVER), and that the control plane runs and this machine may reach it".to_owned(),
        ),
    };
    CliError::Connection { message, remedy }
}

/// Runs a call that may be repeated, a few times while the control plane cannot be heard. Creates carry a request id, so that a repeated one is
/// the same create.
pub(crate) async fn with_tries<T, F>(mut attempt: impl FnMut() -> F) -> Result<T, CliError>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let mut pauses = PAUSES_MS.iter();
    loop {
        let answer = tokio::time::timeout(CALL_TIMEOUT, attempt()).await;
        let status = match answer {
            Ok(Ok(response)) => return Ok(response.into_inner()),
            Ok(Err(status)) => status,
            Err(_) => Status::new(
                Code::DeadlineExceeded,
                "the control plane did not answer within a minute",
            ),
        };
        match pauses.next() {
            Some(pause) if is_transient(&status) => {
                tokio::time::sleep(Duration::from_millis(*pause)).await;
            }
            _ => return Err(status.into()),
        }
    }
}

/// Makes one call, with tries: `call!(session.leases(), get_lease, request)`.
macro_rules! call {
    ($client:expr, $method:ident, $request:expr) => {{
        let request = $request;
        $crate::connect::with_tries(|| {
            let mut client = $client;
            let request = request.clone();
            async move { client.$method(request).await }
        })
        .await
    }};
}
pub(crate) use call;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_must_be_an_https_url_without_a_path() {
        for good in [
            "https://a:8443",
            "https://127.0.0.1:1",
            "https://[::1]:8443",
            "https://gpu.example.com",
        ] {
            assert!(parse_server(good).is_ok(), "{good}");
        }
        for bad in [
            "http://a:8443",
            "a:8443",
            "https://",
            "https://a/b",
            "https://user@a",
            "ftp://a",
            "https://:1",
        ] {
            let error = parse_server(bad).expect_err(bad).to_string();
            assert!(
                error.contains("https://") && error.contains("--server"),
                "{bad}: {error}"
            );
        }
    }

    #[test]
    fn an_identity_differs_by_server_and_by_token() {
        assert_ne!(identity("https://a", "b"), identity("https://a", "c"));
        assert_ne!(identity("https://a", "b"), identity("https://c", "b"));
    }

    #[test]
    fn missing_options_name_the_flag_and_the_variable() {
        let global = Global::default();
        assert!(
            server_of(&global)
                .expect_err("none")
                .to_string()
                .contains("FREEHOLD_SERVER")
        );
        assert!(
            token_of(&global)
                .expect_err("none")
                .to_string()
                .contains("FREEHOLD_TOKEN")
        );
    }
}
