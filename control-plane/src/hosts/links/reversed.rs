//! Connections that agents dial and on which the replica is then the HTTP/2 client: byte streams to what runs on hosts that open no port.
//!
//! A host has one such connection to a replica, which all streams share. It is dialled when one is needed and closed when it was idle for a
//! minute. Invariant: any number of streams that are opened at once send one `Dial`.

use std::{
    collections::HashMap,
    io::{Error, ErrorKind, Result},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

mod stream;

use bytes::Bytes;
use freehold_proto::id::{HostId, InstanceId};
use http::{Method, Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

use stream::{Open, Stream, idle};

/// How long an agent may take to dial back.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an agent may take to answer: it gives an instance's sshd five seconds. Past this the connection counts as dead.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);

/// A connection without a stream is closed after this.
const IDLE: Duration = Duration::from_mins(1);

/// Windows that fill a fast link over a long distance.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
const FRAME: u32 = 64 << 10;

/// The reversed connections of every host.
pub(super) struct Reversed {
    slots: Mutex<HashMap<HostId, Arc<Slot>>>,
    dial_timeout: Duration,
    idle: Duration,
}

impl Default for Reversed {
    fn default() -> Self {
        Self {
            slots: Mutex::default(),
            dial_timeout: DIAL_TIMEOUT,
            idle: IDLE,
        }
    }
}

/// Where the connection of one host is, when there is one.
struct Slot {
    current: watch::Sender<Option<Connection>>,
    /// The last `Dial` that was not answered yet, and the session it was sent on.
    dialled: Mutex<Option<(Instant, u64)>>,
}

impl Slot {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            current: watch::Sender::new(None),
            dialled: Mutex::default(),
        })
    }

    /// True when a `Dial` has to be sent on this session: none is under way.
    fn should_dial(&self, session: u64, timeout: Duration) -> bool {
        let mut dialled = self.dialled.lock().unwrap_or_else(PoisonError::into_inner);
        let under_way = dialled.is_some_and(|(at, on)| on == session && at.elapsed() < timeout);
        if !under_way {
            *dialled = Some((Instant::now(), session));
        }
        !under_way
    }

    fn put(&self, connection: Connection) {
        *self.dialled.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.current.send_replace(Some(connection));
    }

    /// Takes a connection out of use; one that took its place stays.
    fn forget(&self, connection: &Connection) {
        self.current.send_if_modified(|current| {
            let ours = current.as_ref().is_some_and(|held| held.is(connection));
            if ours {
                *current = None;
            }
            ours
        });
    }
}

#[derive(Clone)]
struct Connection {
    client: http2::SendRequest<Empty<Bytes>>,
    /// Streams that are open.
    open: Arc<watch::Sender<usize>>,
}

impl Connection {
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.open, &other.open)
    }

    fn is_alive(&self) -> bool {
        !self.client.is_closed()
    }

    /// Opens a stream; `None`: the connection is dead.
    async fn open(&mut self, instance: InstanceId) -> Option<Result<Stream>> {
        let guard = Open::new(Arc::clone(&self.open));
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, self.ask(instance)).await;
        let response = answer.ok()?.ok()?;
        if let Err(refused) = check(response.status()) {
            return Some(Err(refused));
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(Error::other);
        Some(upgraded.map(|upgraded| Stream::new(upgraded, guard)))
    }

    async fn ask(
        &mut self,
        instance: InstanceId,
    ) -> std::result::Result<
        http::Response<hyper::body::Incoming>,
        Box<dyn std::error::Error + Send + Sync>,
    > {
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri(format!("{instance}:ssh"))
            .body(Empty::new())?;
        self.client.ready().await?;
        Ok(self.client.send_request(request).await?)
    }
}

fn check(status: StatusCode) -> Result<()> {
    let refuse = |kind, reason: &str| Err(Error::new(kind, reason.to_owned()));
    match status {
        StatusCode::OK => Ok(()),
        StatusCode::NOT_FOUND => refuse(ErrorKind::NotFound, "the instance is not on this host"),
        StatusCode::CONFLICT => refuse(ErrorKind::ConnectionRefused, "the instance does not run"),
        StatusCode::BAD_GATEWAY => refuse(
            ErrorKind::ConnectionRefused,
            "the sshd inside the instance does not answer",
        ),
        other => Err(Error::other(format!("the agent answered {other}"))),
    }
}

impl Reversed {
    fn slot(&self, host: HostId) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(slots.entry(host).or_insert_with(Slot::new))
    }

    /// Opens a stream to an instance's sshd. `dial` asks the agent to dial back, or says why it cannot be asked; it is given the chance when
    /// there is no connection, and once more when the one that there is turns out to be dead.
    pub(super) async fn open_ssh(
        &self,
        host: HostId,
        instance: InstanceId,
        session: impl Fn() -> Option<u64>,
        dial: impl Fn() -> Result<()>,
    ) -> Result<Stream> {
        let slot = self.slot(host);
        for _ in 0..2 {
            let mut connection = self.connect(&slot, &session, &dial).await?;
            if let Some(opened) = connection.open(instance).await {
                return opened;
            }
            slot.forget(&connection);
        }
        let reason = "the connections that the host's agent dialled do not answer";
        Err(Error::new(ErrorKind::TimedOut, reason))
    }

    /// Takes a connection that a host's agent dialled, and serves it until it ends, is idle for a minute, or `cancel`.
    pub(super) async fn accept<S>(
        &self,
        host: HostId,
        stream: S,
        cancel: CancellationToken,
    ) -> hyper::Result<()>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (client, driver) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME)
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(20))
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await?;
        let open = Arc::new(watch::Sender::new(0));
        let connection = Connection { client, open };
        let slot = self.slot(host);
        slot.put(connection.clone());
        let mut driver = std::pin::pin!(driver);
        let served = tokio::select! {
            served = driver.as_mut() => served,
            () = idle(&connection.open, self.idle) => {
                slot.forget(&connection);
                drop(connection);
                // Ends by itself now that nobody can open a stream on it; one that was opened at this moment goes on.
                return tokio::select! {
                    served = driver => served,
                    () = cancel.cancelled() => Ok(()),
                };
            }
            () = cancel.cancelled() => Ok(()),
        };
        slot.forget(&connection);
        served
    }

    /// The connection that is there, or the one that the agent dials in time.
    async fn connect(
        &self,
        slot: &Slot,
        session: &impl Fn() -> Option<u64>,
        dial: &impl Fn() -> Result<()>,
    ) -> Result<Connection> {
        let mut current = slot.current.subscribe();
        let is_alive = |held: &Option<Connection>| held.as_ref().is_some_and(Connection::is_alive);
        if !is_alive(&current.borrow_and_update()) {
            let session = session()
                .ok_or_else(|| Error::new(ErrorKind::NotConnected, super::NotConnected))?;
            if slot.should_dial(session, self.dial_timeout) {
                dial()?;
            }
        }
        let arrived = tokio::time::timeout(self.dial_timeout, current.wait_for(is_alive)).await;
        let arrived = arrived.map_err(|_| {
            let reason = "the host's agent did not dial back in time";
            Error::new(ErrorKind::TimedOut, reason)
        })?;
        let connection = arrived.map_err(Error::other)?.clone();
        connection.ok_or_else(|| Error::new(ErrorKind::NotConnected, super::NotConnected))
    }

    /// Takes a host's connection out of use. Streams that are open go on.
    pub(super) fn forget(&self, host: HostId) {
        self.slot(host).current.send_replace(None);
    }
}

#[cfg(test)]
mod tests;
