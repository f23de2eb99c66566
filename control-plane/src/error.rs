//! The one service error, and its mapping to gRPC.
//!
//! Every error carries a stable reason (`google.rpc.ErrorInfo`), a message that says what to do, and the call's id. What is internal
//! is logged here, once, and never shown.

use std::{collections::HashMap, fmt};

use freehold_proto::id::ParseIdError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::gate::call_id;

/// `ErrorInfo.domain` of every error.
pub const ERROR_DOMAIN: &str = "freehold";

/// Shorthand for what services return.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No, wrong, expired or revoked credentials.
    #[error("{0}")]
    Unauthenticated(String),
    /// The caller's role does not allow the call.
    #[error("{0}")]
    PermissionDenied(String),
    /// No such thing, or none that the caller may know of.
    #[error("no {kind} `{name}` was found")]
    NotFound {
        /// `lease`, `host` …
        kind: &'static str,
        /// As the caller named it.
        name: String,
    },
    /// A field is not acceptable.
    #[error("{field}: {message}")]
    InvalidField {
        /// The field's name in the request.
        field: String,
        /// What was wrong and what would be right.
        message: String,
    },
    /// A thing with this name exists.
    #[error("{0}")]
    AlreadyExists(String),
    /// The request id was used with another body.
    #[error(
        "request_id: `{0}` was used with a different request; use a fresh id, or repeat the same request"
    )]
    RequestIdReused(String),
    /// The thing is not in a state that allows the call.
    #[error("{message}")]
    Precondition {
        /// Capitals and underscores, stable.
        reason: &'static str,
        /// What stands in the way and what to do.
        message: String,
    },
    /// Not enough free hosts.
    #[error("{0}")]
    NoCapacity(String),
    /// Others were faster, again and again.
    #[error("{0}")]
    Contention(String),
    /// Something the platform needs does not answer.
    #[error("{0}")]
    Unavailable(String),
    /// Our own fault.
    #[error("internal error")]
    Internal(#[source] anyhow::Error),
}

impl Error {
    /// A field is not acceptable: what was wrong and what would be right.
    pub fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::InvalidField {
            field: field.into(),
            message: message.into(),
        }
    }

    /// No such thing, or none that the caller may know of.
    pub fn not_found(kind: &'static str, name: impl fmt::Display) -> Self {
        let name: String = name.to_string().chars().take(128).collect();
        Self::NotFound { kind, name }
    }

    /// Our own fault, with context for the log.
    pub fn internal(error: impl Into<anyhow::Error>) -> Self {
        Self::Internal(error.into())
    }

    /// The stable machine-readable reason.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unauthenticated(_) => "UNAUTHENTICATED",
            Self::PermissionDenied(_) => "PERMISSION_DENIED",
            Self::NotFound { .. } => "NOT_FOUND",
            Self::InvalidField { .. } => "INVALID_FIELD",
            Self::AlreadyExists(_) => "ALREADY_EXISTS",
            Self::RequestIdReused(_) => "REQUEST_ID_REUSED",
            Self::Precondition { reason, .. } => reason,
            Self::NoCapacity(_) => "NO_CAPACITY",
            Self::Contention(_) => "CONTENTION",
            Self::Unavailable(_) => "UNAVAILABLE",
            Self::Internal(_) => "INTERNAL",
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Unauthenticated(_) => Code::Unauthenticated,
            Self::PermissionDenied(_) => Code::PermissionDenied,
            Self::NotFound { .. } => Code::NotFound,
            Self::InvalidField { .. } => Code::InvalidArgument,
            Self::AlreadyExists(_) | Self::RequestIdReused(_) => Code::AlreadyExists,
            Self::Precondition { .. } => Code::FailedPrecondition,
            Self::NoCapacity(_) => Code::ResourceExhausted,
            Self::Contention(_) => Code::Aborted,
            Self::Unavailable(_) => Code::Unavailable,
            Self::Internal(_) => Code::Internal,
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let call = call_id();
        if let Error::Internal(source) = &error {
            tracing::error!(call.id = %call, error = format!("{source:#}"), "a call failed");
        }
        let mut metadata = HashMap::new();
        let mut details = ErrorDetails::new();
        match &error {
            Error::InvalidField { field, message } => {
                metadata.insert("field".to_owned(), field.clone());
                details.add_bad_request_violation(field.clone(), message.clone());
            }
            Error::NotFound { kind, name } => {
                metadata.insert("kind".to_owned(), (*kind).to_owned());
                metadata.insert("name".to_owned(), name.clone());
            }
            _ => {}
        }
        metadata.insert("call_id".to_owned(), call.clone());
        details.set_error_info(error.reason(), ERROR_DOMAIN, metadata);
        details.set_request_info(call, "");
        Status::with_error_details(error.code(), error.to_string(), details)
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Io(_) => {
                tracing::warn!(%error, "the database does not answer");
                Self::Unavailable(
                    "the database does not answer at the moment; try again".to_owned(),
                )
            }
            sqlx::Error::Database(inner) if is_shutdown(inner.code().as_deref()) => {
                tracing::warn!(%error, "the database is going down or coming up");
                Self::Unavailable("the database is restarting; try again".to_owned())
            }
            _ => Self::Internal(anyhow::Error::new(error).context("database")),
        }
    }
}

/// Class 57P: the server is shutting down, crashed, or not yet accepting connections.
fn is_shutdown(code: Option<&str>) -> bool {
    code.is_some_and(|code| code.starts_with("57P"))
}

/// True when the error is the violation of the named constraint.
#[must_use]
pub fn violates(error: &sqlx::Error, constraint: &str) -> bool {
    error.as_database_error().and_then(|e| e.constraint()) == Some(constraint)
}

/// True when PostgreSQL asks to run the transaction again: serialization failure or deadlock.
#[must_use]
pub fn is_retryable(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|e| e.code());
    matches!(code.as_deref(), Some("40001" | "40P01"))
}

impl From<ParseIdError> for Error {
    fn from(error: ParseIdError) -> Self {
        Self::field("id", error.to_string())
    }
}
