//! `freehold-agent enroll`: exchanges a token for this host's client certificate.
//!
//! The token is `fhe_` + 64 hexadecimal digits of secret + `_` + 64 of the SHA-256 of the CA that signs the public listener's
//! certificate. So the first connection already knows whom to trust, and nobody between can take the token.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use freehold_proto::{
    agent_v1::{EnrollRequest, EnrollResponse, enrollment_service_client::EnrollmentServiceClient},
    id::HostId,
};
use rustls::CertificateError;
use tonic::{Code, Status};

use crate::{
    config::EnrollArgs,
    facts,
    identity::{self, Identity, IdentityError, IdentityStore, tls},
    link,
};

const MACHINE_ID_FILE: &str = "/etc/machine-id";

/// Why a host did not enrol, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// A flag is not what it should be.
    #[error("{flag}: {reason}")]
    Flag {
        /// The flag.
        flag: &'static str,
        /// What was wrong and what would be right.
        reason: String,
    },
    /// Nobody answers there.
    #[error("{0}. Check --server, and that this host may reach it")]
    Unreachable(tls::DialError),
    /// Somebody answers, with another CA.
    #[error(
        "{server} presents no certificate chain with the CA that the token names: the token is another deployment's, or somebody stands \
         in between. Nothing was sent. Make a new token with `freehold host enroll-token` on the control plane that you mean"
    )]
    WrongCa {
        /// The server.
        server: String,
    },
    /// The right CA, and another fault of the certificate.
    #[error("{server} presents a certificate that is not valid: {reason}. Nothing was sent")]
    Certificate {
        /// The server.
        server: String,
        /// Which.
        reason: String,
    },
    /// The control plane does not take the token.
    #[error(
        "the control plane refused the token: {0}. Tokens expire and have a number of uses; make a new one with `freehold host enroll-token`"
    )]
    Refused(String),
    /// The control plane does not take something else.
    #[error("the control plane refused the enrolment: {0}")]
    Invalid(String),
    /// Try again.
    #[error("the control plane could not enrol this host now: {0}. Try again")]
    Failed(String),
    /// The answer cannot be used or stored.
    #[error("the enrolment cannot be stored: {0}")]
    Identity(#[from] IdentityError),
    /// The data directory cannot be used.
    #[error("cannot use the data directory {path}: {source}")]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Enrols this host and stores its identity. The host keeps its id when its machine id is known.
///
/// # Errors
/// Says what was wrong and what to do; nothing was stored then.
pub async fn enroll(args: &EnrollArgs) -> Result<HostId, EnrollError> {
    let fingerprint = parse_token(&args.token)?;
    let address = parse_server(&args.server)?;
    let machine_id = machine_id(args.machine_id.as_deref())?;
    let hostname = hostname(args.hostname.as_deref())?;
    let in_data_dir = |source| EnrollError::DataDir {
        path: args.data_dir.clone(),
        source,
    };
    std::fs::create_dir_all(&args.data_dir).map_err(in_data_dir)?;
    let (key_pem, csr_pem) =
        identity::make_key().map_err(|error| EnrollError::Failed(error.to_string()))?;
    let request = EnrollRequest {
        token: args.token.clone(),
        csr_pem,
        machine_id,
        hostname: hostname.clone(),
    };
    let response = exchange(&address, fingerprint, request).await?;
    let addresses = response.agent_addresses.clone();
    let identity = identity_from(args, hostname, key_pem, response)?;
    warn_of_another_id(&args.data_dir, identity.host_id);
    identity::save_replicas(&args.data_dir, &addresses).map_err(in_data_dir)?;
    identity::save(&args.data_dir, &identity)?;
    Ok(identity.host_id)
}

async fn exchange(
    address: &str,
    fingerprint: [u8; 32],
    request: EnrollRequest,
) -> Result<EnrollResponse, EnrollError> {
    let config =
        tls::pinned(fingerprint).map_err(|error| EnrollError::Failed(error.to_string()))?;
    let stream = tls::dial(address, Arc::clone(&config))
        .await
        .map_err(|error| explain_dial(address, error))?;
    let channel = link::channel_over(stream)
        .await
        .map_err(|error| EnrollError::Failed(error.to_string()))?;
    let response = EnrollmentServiceClient::new(channel)
        .enroll(request)
        .await
        .map_err(|status| explain_status(&status))?;
    Ok(response.into_inner())
}

fn explain_dial(address: &str, error: tls::DialError) -> EnrollError {
    let server = address.to_owned();
    match error.tls_error() {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            EnrollError::WrongCa { server }
        }
        Some(rustls::Error::InvalidCertificate(reason)) => EnrollError::Certificate {
            server,
            reason: reason.to_string(),
        },
        _ => EnrollError::Unreachable(error),
    }
}

fn explain_status(status: &Status) -> EnrollError {
    let message = status.message().trim_end_matches('.').to_owned();
    match status.code() {
        Code::Unauthenticated
        | Code::PermissionDenied
        | Code::NotFound
        | Code::FailedPrecondition
        | Code::ResourceExhausted => EnrollError::Refused(message),
        Code::InvalidArgument | Code::AlreadyExists | Code::Unimplemented => {
            EnrollError::Invalid(message)
        }
        _ => EnrollError::Failed(message),
    }
}

fn identity_from(
    args: &EnrollArgs,
    hostname: String,
    key_pem: String,
    response: EnrollResponse,
) -> Result<Identity, EnrollError> {
    let host_id = response
        .host_id
        .parse()
        .map_err(|error| EnrollError::Failed(format!("its answer is not valid: {error}")))?;
    if response.agent_addresses.is_empty() {
        let reason = "its answer names no agent listener".to_owned();
        return Err(EnrollError::Failed(reason));
    }
    Ok(Identity {
        host_id,
        hostname,
        server: args.server.clone(),
        key_pem,
        certificate_pem: response.certificate_pem,
        ca_pem: response.ca_pem,
    })
}

/// A host that becomes another one no longer knows the instances of the first.
fn warn_of_another_id(data_dir: &Path, host_id: HostId) {
    let Ok(store) = IdentityStore::open(data_dir) else {
        return;
    };
    let before = store.host_id();
    if before != host_id {
        tracing::warn!(
            host.id = %host_id,
            host.id_before = %before,
            "the control plane knows this machine under another id than before; instances of the former id are not looked after any more"
        );
    }
}

/// The fingerprint in a token.
fn parse_token(token: &str) -> Result<[u8; 32], EnrollError> {
    let refuse = || EnrollError::Flag {
        flag: "--token",
        reason: "not an enrolment token: expected `fhe_`, 64 hexadecimal digits, `_` and 64 more, \
                 as `freehold host enroll-token` prints it"
            .to_owned(),
    };
    let parts = token
        .strip_prefix("fhe_")
        .and_then(|rest| rest.split_once('_'));
    let (secret, fingerprint) = parts.ok_or_else(refuse)?;
    let bytes = |text: &str| hex::decode(text).ok()?.try_into().ok();
    let _: [u8; 32] = bytes(secret).ok_or_else(refuse)?;
    bytes(fingerprint).ok_or_else(refuse)
}

/// `HOST:PORT` of `https://HOST:PORT`.
fn parse_server(server: &str) -> Result<String, EnrollError> {
    let refuse = || EnrollError::Flag {
        flag: "--server",
        reason: format!("`{server}` is not a server: expected https://HOST:PORT"),
    };
    let rest = server.strip_prefix("https://").ok_or_else(refuse)?;
    let address = rest.trim_end_matches('/');
    tls::split_address(address).map_err(|_| refuse())?;
    Ok(address.to_owned())
}

fn machine_id(given: Option<&str>) -> Result<String, EnrollError> {
    let refuse = |reason: String| EnrollError::Flag {
        flag: "--machine-id",
        reason,
    };
    let id = match given {
        Some(id) => id.to_owned(),
        None => std::fs::read_to_string(MACHINE_ID_FILE)
            .map_err(|error| {
                refuse(format!(
                    "not given, and {MACHINE_ID_FILE} cannot be read: {error}"
                ))
            })?
            .trim()
            .to_owned(),
    };
    let visible = id.bytes().all(|byte| byte.is_ascii_graphic());
    if !visible || !(8..=128).contains(&id.len()) {
        let origin = if given.is_some() {
            "it"
        } else {
            MACHINE_ID_FILE
        };
        return Err(refuse(format!(
            "{origin} must be 8 to 128 visible ASCII characters"
        )));
    }
    Ok(id)
}

fn hostname(given: Option<&str>) -> Result<String, EnrollError> {
    let name = given.map_or_else(facts::hostname, str::to_owned);
    if name.is_empty() || name.chars().count() > 63 {
        return Err(EnrollError::Flag {
            flag: "--hostname",
            reason: "must be 1 to 63 characters".to_owned(),
        });
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_tokens_are_taken() {
        let token = format!("fhe_{}_{}", "ab".repeat(32), "cd".repeat(32));
        assert_eq!(parse_token(&token).expect("whole"), [0xcd; 32]);
        for wrong in [
            "",
            "fhe_",
            &token[..token.len() - 1],
            &token[4..],
            &format!("{token}_"),
        ] {
            let error = parse_token(wrong).expect_err(wrong).to_string();
            assert!(error.contains("--token"), "{error}");
            assert!(!error.contains("abab"), "shows no secret");
        }
    }

    #[test]
    fn servers_are_https_with_a_port() {
        assert_eq!(
            parse_server("https://[::1]:8443/").expect("valid"),
            "[::1]:8443"
        );
        for wrong in ["http://a:1", "a:1", "https://a", "https://"] {
            assert!(parse_server(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn machine_ids_and_host_names_are_checked_before_anything_is_sent() {
        for wrong in ["short", "with a space in it", "nön-ascii-machine"] {
            assert!(machine_id(Some(wrong)).is_err(), "{wrong}");
        }
        assert!(hostname(Some("")).is_err());
        assert!(hostname(Some(&"x".repeat(64))).is_err());
        assert!(hostname(None).is_ok());
    }
}
