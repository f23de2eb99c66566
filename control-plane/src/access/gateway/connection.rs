//! One client's connection: who it is, and its ways to the instance.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use russh::{ChannelId, server};
use tokio::sync::oneshot;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    auth::Admission,
    flow::Backlog,
    upstream::{Back, Dialer, Link, Login, ProbeError},
};

/// Messages of at most 32 KiB that a session's channel may hold before its instance has to wait: two windows.
const SESSION_MESSAGES: usize = 128;
/// The same for a forwarded connection, which shares its link with others that would then wait, too.
const FORWARD_MESSAGES: usize = 512;
/// Ports and sockets that one client may have forwarded from the instance.
const MAX_LISTENERS: usize = 64;

/// A port or a socket inside the instance that is forwarded to the client.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Listener {
    Tcp(String, u32),
    Unix(String),
}

/// See the module.
pub(super) struct Connection {
    pub(super) peer: SocketAddr,
    pub(super) dialer: Dialer,
    /// Cancelled when the client is gone or was cut off.
    pub(super) ended: CancellationToken,
    pub(super) backlog: Backlog,
    tasks: TaskTracker,
    admission: OnceLock<Admission>,
    tell_admission: Mutex<Option<oneshot::Sender<Admission>>>,
    /// Channels that the client has closed.
    closed: Mutex<HashMap<ChannelId, CancellationToken>>,
    /// What all forwarded connections to the instance go through.
    forwards: tokio::sync::Mutex<Option<Arc<Link>>>,
    /// Each listener has a link of its own, so that asking for one never waits for the bytes of another.
    listeners: Mutex<HashMap<Listener, Arc<Link>>>,
}

impl Connection {
    pub(super) fn new(
        dialer: Dialer,
        tasks: TaskTracker,
        peer: SocketAddr,
    ) -> (Self, oneshot::Receiver<Admission>) {
        let (tell, told) = oneshot::channel();
        let connection = Self {
            peer,
            dialer,
            ended: CancellationToken::new(),
            backlog: Backlog::default(),
            tasks,
            admission: OnceLock::new(),
            tell_admission: Mutex::new(Some(tell)),
            closed: Mutex::default(),
            forwards: tokio::sync::Mutex::default(),
            listeners: Mutex::default(),
        };
        (connection, told)
    }

    /// Lets the client in.
    pub(super) fn admit(&self, admission: Admission) {
        let tell = self
            .tell_admission
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(tell) = tell
            && self.admission.set(admission.clone()).is_ok()
        {
            let _ = tell.send(admission);
        }
    }

    /// Whom it was let in as.
    pub(super) fn admission(&self) -> Option<&Admission> {
        self.admission.get()
    }

    /// Runs a task that ends with the connection at the latest.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let ended = self.ended.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Begins to count a channel.
    pub(super) fn open_channel(&self, channel: ChannelId) -> CancellationToken {
        self.backlog.open(channel);
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        closed.entry(channel).or_default().clone()
    }

    /// The client closed a channel.
    pub(super) fn channel_closed(&self, channel: ChannelId) {
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = closed.get(&channel) {
            token.cancel();
        }
    }

    /// Nothing is carried for a channel any more.
    pub(super) fn forget_channel(&self, channel: ChannelId) {
        self.backlog.close(channel);
        self.closed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&channel);
    }

    /// Logs in to the instance for one session.
    pub(super) async fn session_link(
        self: &Arc<Self>,
        client: server::Handle,
    ) -> Result<Link, ProbeError> {
        self.log_in(client, SESSION_MESSAGES).await
    }

    /// The link that forwarded connections share.
    pub(super) async fn forward_link(
        self: &Arc<Self>,
        client: server::Handle,
    ) -> Result<Arc<Link>, ProbeError> {
        let mut forwards = self.forwards.lock().await;
        if let Some(link) = forwards.as_ref().filter(|link| !link.is_closed()) {
            return Ok(link.clone());
        }
        let link = Arc::new(self.log_in(client, FORWARD_MESSAGES).await?);
        *forwards = Some(link.clone());
        Ok(link)
    }

    async fn log_in(
        self: &Arc<Self>,
        client: server::Handle,
        channel_messages: usize,
    ) -> Result<Link, ProbeError> {
        let Some(admission) = self.admission() else {
            return Err(ProbeError::Refused("nobody has logged in".to_owned()));
        };
        let login = Login {
            place: admission.place,
            lease: admission.lease,
            login: &admission.login,
            holder: &admission.holder,
            channel_messages,
        };
        let back = Back {
            connection: self.clone(),
            client,
        };
        self.dialer.log_in(&login, Some(back)).await
    }

    /// Has the instance listen for the client. Returns the port, which the instance chooses when it is asked for 0.
    pub(super) async fn listen(
        self: &Arc<Self>,
        client: server::Handle,
        listener: Listener,
    ) -> Result<u32, russh::Error> {
        if self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
            >= MAX_LISTENERS
        {
            return Err(russh::Error::RequestDenied);
        }
        let link = self
            .log_in(client, FORWARD_MESSAGES)
            .await
            .map_err(|error| {
                tracing::debug!(%error, "a port cannot be forwarded");
                russh::Error::RequestDenied
            })?;
        let (listener, port) = match listener {
            Listener::Tcp(address, asked) => {
                let given = link.tcpip_forward(address.clone(), asked).await?;
                let port = if asked == 0 { given } else { asked };
                (Listener::Tcp(address, port), port)
            }
            Listener::Unix(path) => {
                link.streamlocal_forward(path.clone()).await?;
                (Listener::Unix(path), 0)
            }
        };
        let mut listeners = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        listeners.insert(listener, Arc::new(link));
        Ok(port)
    }

    /// Has the instance listen no more; connections that were made stay.
    pub(super) async fn unlisten(&self, listener: &Listener) -> bool {
        let found = {
            let listeners = self
                .listeners
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            listeners.get(listener).cloned()
        };
        let Some(link) = found else { return false };
        let done = match listener {
            Listener::Tcp(address, port) => link.cancel_tcpip_forward(address.clone(), *port).await,
            Listener::Unix(path) => link.cancel_streamlocal_forward(path.clone()).await,
        };
        done.is_ok()
    }

    /// Ends everything that belongs to the connection.
    pub(super) async fn close(&self) {
        self.ended.cancel();
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        // The links' own tasks hold this connection: letting go of the links is what ends both.
        self.forwards.lock().await.take();
    }
}
