//! The container engine: Docker over its socket, API 1.41 and later.
//!
//! Everything that is made carries labels with the host's id, so that several agents can share one engine and each sees its own only.

mod container;
mod gpus;
mod image;
mod names;
mod probe;

use std::{collections::HashMap, path::PathBuf, time::Duration};

use bollard::{API_DEFAULT_VERSION, Docker, errors::Error};
use tokio::sync::RwLock;

pub(crate) use container::{Blueprint, ContainerState};
pub use gpus::SimulatorFiles;
pub(crate) use gpus::{GpuAccess, choose_access};
pub(crate) use image::{ImageError, ensure_image, forms};
pub(crate) use names::{LABEL_HOST, LABEL_INSTANCE, Names, Record, bridge_prefix};
pub(crate) use probe::{answers_ssh, visible_gpus};

/// The engine's longest calls (start, remove) end well within this on a host that works.
const CALL_LIMIT_S: u64 = 120;

/// The engine answers questions at once, or cannot be asked.
const QUESTION_LIMIT: Duration = Duration::from_secs(10);

/// Why the engine did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EngineError {
    /// It does not answer. Nothing may be concluded from that.
    #[error("the container engine does not answer: {0}")]
    Unreachable(String),
    /// It does not know the object.
    #[error("the container engine does not know it: {0}")]
    NotFound(String),
    /// There is one already.
    #[error("the container engine has one already: {0}")]
    Exists(String),
    /// It refused.
    #[error("the container engine refused: {0}")]
    Refused(String),
}

impl From<Error> for EngineError {
    fn from(error: Error) -> Self {
        match error {
            Error::DockerResponseServerError {
                status_code,
                message,
            } => match status_code {
                404 => Self::NotFound(message),
                409 => Self::Exists(message),
                _ => Self::Refused(message),
            },
            Error::DockerStreamError { error } => Self::Refused(error),
            Error::JsonDataError { message, .. } => {
                Self::Refused(format!("its answer cannot be read: {message}"))
            }
            other => Self::Unreachable(other.to_string()),
        }
    }
}

impl EngineError {
    /// Whether it says nothing of the object.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }
}

/// Something that is gone already needs no removal.
pub(crate) fn ignore_missing(result: Result<(), Error>) -> Result<(), EngineError> {
    match result.map_err(EngineError::from) {
        Err(EngineError::NotFound(_)) => Ok(()),
        other => other,
    }
}

/// The engine, connected to when it is first needed: it may start later than the agent.
#[derive(Debug)]
pub(crate) struct Engine {
    socket: PathBuf,
    client: RwLock<Option<Docker>>,
}

impl Engine {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            client: RwLock::new(None),
        }
    }

    /// A client that speaks the engine's own version of the API.
    pub(crate) async fn client(&self) -> Result<Docker, EngineError> {
        if let Some(client) = self.client.read().await.as_ref() {
            return Ok(client.clone());
        }
        let path = self.socket.display().to_string();
        let client = Docker::connect_with_unix(&path, CALL_LIMIT_S, API_DEFAULT_VERSION)?;
        let negotiated = limit(client.negotiate_version()).await?;
        *self.client.write().await = Some(negotiated.clone());
        Ok(negotiated)
    }
}

/// Waits for the answer to a question, and not for long.
pub(crate) async fn limit<T>(
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, EngineError> {
    match tokio::time::timeout(QUESTION_LIMIT, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(EngineError::Unreachable("no answer within 10 s".to_owned())),
    }
}

/// A filter for objects with all these labels.
pub(crate) fn with_labels(labels: &[(&str, &str)]) -> HashMap<String, Vec<String>> {
    let labels = labels.iter().map(|(key, value)| format!("{key}={value}"));
    HashMap::from([("label".to_owned(), labels.collect())])
}
