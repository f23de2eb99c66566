//! The agents that this replica holds a control stream of, and byte streams to what runs behind them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use freehold_proto::{
    agent_v1::{AttachResponse, Dial, Replicas, attach_response::Message},
    id::{HostId, InstanceId},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

mod reversed;

use super::heard::Heard;
use crate::listeners::Connection;
use reversed::Reversed;

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
    heard: Arc<Heard>,
    reversed: Arc<Reversed>,
    /// The replicas' addresses, as agents were last told.
    told: Arc<Mutex<Vec<String>>>,
}

/// A control stream that this replica holds.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) host: HostId,
    pub(super) session: u64,
    /// The serial number of the certificate behind it.
    pub(super) serial: String,
}

struct Entry {
    session: u64,
    serial: String,
    sender: mpsc::Sender<Result<AttachResponse, Status>>,
    ended: CancellationToken,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.ended.cancel();
    }
}

impl Links {
    /// Sends an order to a host's agent. That it was sent says nothing about its effect: the agent's reports do.
    ///
    /// # Errors
    /// When the agent is not connected to this replica or its backlog is full.
    pub fn send(&self, host: HostId, message: Message) -> Result<(), NotConnected> {
        let streams = self.lock();
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
        self.lock().contains_key(&host)
    }

    /// How many agents this replica holds a control stream of.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.lock().len()
    }

    /// Registers a stream that a test reads in an agent's place.
    #[cfg(test)]
    pub(crate) fn attach(
        &self,
        host: HostId,
        session: u64,
        sender: mpsc::Sender<Result<AttachResponse, Status>>,
    ) {
        let serial = String::new();
        self.hold(
            Held {
                host,
                session,
                serial,
            },
            sender,
        );
    }

    /// Registers the control stream of a host. A newer session takes an older one's place. The token is cancelled when the session is over:
    /// replaced, cut or forgotten.
    pub(super) fn hold(
        &self,
        held: Held,
        sender: mpsc::Sender<Result<AttachResponse, Status>>,
    ) -> CancellationToken {
        let ended = CancellationToken::new();
        let mut streams = self.lock();
        let older = streams.get(&held.host);
        // The hellos of two streams may be welcomed in one order and arrive here in the other.
        if older.is_some_and(|older| older.session > held.session) {
            ended.cancel();
            return ended;
        }
        let entry = Entry {
            session: held.session,
            serial: held.serial,
            sender,
            ended: ended.clone(),
        };
        streams.insert(held.host, entry);
        ended
    }

    /// Forgets a session; a newer one of the same host stays.
    pub(super) fn detach(&self, host: HostId, session: u64) {
        self.take(host, session);
    }

    /// Ends a session and tells the agent why; a newer one of the same host stays.
    pub(super) fn cut(&self, host: HostId, session: u64, why: Status) {
        if let Some(entry) = self.take(host, session) {
            let _ = entry.sender.try_send(Err(why));
            // Dialled with the same certificate.
            self.reversed.forget(host);
        }
    }

    fn take(&self, host: HostId, session: u64) -> Option<Entry> {
        let mut streams = self.lock();
        let ours = streams.get(&host)?.session == session;
        ours.then(|| streams.remove(&host)).flatten()
    }

    /// The control streams that this replica holds.
    pub(super) fn held(&self) -> Vec<Held> {
        let held = |(host, entry): (&HostId, &Entry)| Held {
            host: *host,
            session: entry.session,
            serial: entry.serial.clone(),
        };
        self.lock().iter().map(held).collect()
    }

    /// The control stream of one host.
    pub(super) fn held_of(&self, host: HostId) -> Option<Held> {
        self.lock().get(&host).map(|entry| Held {
            host,
            session: entry.session,
            serial: entry.serial.clone(),
        })
    }

    /// Which hosts were heard.
    pub(super) fn heard(&self) -> &Heard {
        &self.heard
    }

    /// Remembers the replicas' addresses; true when they are others than the agents were told last.
    pub(super) fn note_replicas(&self, addresses: &[String]) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = *told != addresses;
        if changed {
            *told = addresses.to_vec();
        }
        changed
    }

    /// Tells an agent which replicas there are. One that does not take it now is cut before long, and hears it at its next hello.
    pub(super) fn tell(&self, host: HostId, agent_addresses: Vec<String>) {
        let _ = self.send(host, Message::Replicas(Replicas { agent_addresses }));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<HostId, Entry>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
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
        let session = || self.held_of(host).map(|held| held.session);
        let dial = || {
            let dial_id = uuid::Uuid::now_v7().to_string();
            self.send(host, Message::Dial(Dial { dial_id }))
                .map_err(|error| std::io::Error::new(std::io::ErrorKind::NotConnected, error))
        };
        let opening = self.reversed.open_ssh(host, instance, session, dial);
        Ok(Box::new(opening.await?))
    }

    /// Serves a connection that an agent dialled back, until it ends.
    pub(super) async fn serve_reversed(
        &self,
        host: HostId,
        connection: Connection,
        cancel: CancellationToken,
    ) {
        let served = self.reversed.accept(host, connection.stream, cancel).await;
        if let Err(error) = served {
            tracing::debug!(host.id = %host, %error, "a reversed connection ended");
        }
    }
}
