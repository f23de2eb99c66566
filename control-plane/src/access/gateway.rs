//! The SSH gateway: admits certificates of our authority and the plain keys registered with a lease, and carries every channel to the sshd of an
//! instance through its agent's connection.
//!
//! A client names `LEASE[.ORDINAL][+LOGIN]`. It speaks SSH with the gateway, and the gateway speaks SSH with the instance, with a certificate of
//! its own that lives for minutes. `ssh -J` instead asks for a byte stream to an instance by name, port 22, and speaks with the instance itself.
//!
//! Invariant: whoever may not enter hears the same words, whatever stands behind the name it gave. Only who proved to belong to a lease is told
//! what is wrong with it.

use std::{
    net::{Shutdown, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use chrono::Utc;
use russh::{
    Disconnect, MethodKind, MethodSet, SshId,
    server::{self, Config, RunningSession},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

mod activity;
mod auth;
mod connection;
mod flow;
mod probe;
mod relay;
mod server_side;
mod store;
#[cfg(test)]
mod tests;
mod upstream;

pub use activity::Activity;
pub use probe::login_probe;
pub use upstream::ProbeError;

use super::ca;
use crate::{app::App, error::Result};
use connection::Connection;
use server_side::ServerSide;
use upstream::Dialer;

/// Connections of one replica. More would starve the rest of it of memory.
const MAX_CONNECTIONS: usize = 4096;
/// Connections of which nobody has logged in yet. More are dropped, so that strangers cannot take the places of all.
const MAX_LOGGING_IN: usize = 512;
/// A client that has not logged in by then is dropped.
const LOGIN_GRACE: Duration = Duration::from_secs(30);
/// How long a client may take to close after it was told to.
const CLOSE_GRACE: Duration = Duration::from_secs(2);
/// A client that answers none of three in a row is gone.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How long the gateway's certificate is used before it is made anew.
const RENEW_AFTER: Duration = Duration::from_hours(24);
/// Delay of an answer to a wrong key.
const REJECTION_DELAY: Duration = Duration::from_millis(100);
/// Agents of developers hold many keys, and each is an attempt.
const MAX_ATTEMPTS: usize = 20;
/// Messages that a channel may hold: what bounds a channel is counted in bytes, by [`flow`], which never has the connection wait.
const CHANNEL_MESSAGES: usize = 1 << 24;

/// Serves the gateway until cancelled. Connections end with it.
pub async fn serve(app: App, listener: TcpListener, tasks: TaskTracker, cancel: CancellationToken) {
    let dialer = Dialer::through_agents(&app);
    Gateway::new(app, dialer, tasks)
        .accept(listener, cancel)
        .await;
}

/// What all connections share. Cheap to clone.
#[derive(Clone)]
struct Gateway {
    app: App,
    dialer: Dialer,
    tasks: TaskTracker,
    slots: Arc<Semaphore>,
    logging_in: Arc<Semaphore>,
    config: Arc<Mutex<Option<Made>>>,
}

/// A login that is under way: its outcome, and the place that it takes until then.
type Login = (oneshot::Receiver<auth::Admission>, OwnedSemaphorePermit);

/// A configuration and when it was made.
struct Made {
    at: Instant,
    config: Arc<Config>,
}

impl Gateway {
    fn new(app: App, dialer: Dialer, tasks: TaskTracker) -> Self {
        Self {
            app,
            dialer,
            tasks,
            slots: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            logging_in: Arc::new(Semaphore::new(MAX_LOGGING_IN)),
            config: Arc::default(),
        }
    }

    async fn accept(self, listener: TcpListener, cancel: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                () = cancel.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let (socket, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: try again when some were closed.
                    tracing::warn!(%error, "an SSH connection cannot be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let slot = self.slots.clone().try_acquire_owned();
            let login = self.logging_in.clone().try_acquire_owned();
            let (Ok(slot), Ok(login)) = (slot, login) else {
                self.app.ssh.count_dropped();
                tracing::debug!(%peer, "too many SSH connections; one was dropped");
                continue;
            };
            let (gateway, cancel) = (self.clone(), cancel.clone());
            self.tasks.spawn(async move {
                let _open = gateway.app.ssh.open();
                if let Err(error) = gateway.serve_one(socket, peer, login, cancel).await {
                    tracing::debug!(%peer, error = format!("{error:#}"), "an SSH connection failed");
                }
                drop(slot);
            });
        }
    }

    async fn serve_one(
        &self,
        socket: TcpStream,
        peer: SocketAddr,
        login: OwnedSemaphorePermit,
        cancel: CancellationToken,
    ) -> anyhow::Result<()> {
        socket.set_nodelay(true)?;
        let socket = socket.into_std()?;
        // A second handle, to close what a client leaves open.
        let closer = socket.try_clone()?;
        let (connection, admitted) = Connection::new(self.dialer.clone(), self.tasks.clone(), peer);
        let connection = Arc::new(connection);
        let side = ServerSide::new(self.app.clone(), connection.clone());
        let start = server::run_stream(self.config()?, TcpStream::from_std(socket)?, side);
        let done = match tokio::time::timeout(LOGIN_GRACE, start).await {
            Ok(Ok(session)) => self.supervise(session, (admitted, login), cancel).await,
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Ok(()),
        };
        connection.close().await;
        let _ = closer.shutdown(Shutdown::Both);
        done
    }

    /// Waits for the end of a connection: the client's, or one of the reasons to cut it.
    async fn supervise(
        &self,
        mut session: RunningSession<ServerSide>,
        login: Login,
        cancel: CancellationToken,
    ) -> anyhow::Result<()> {
        let handle = session.handle();
        let reason = tokio::select! {
            ended = &mut session => return Ok(ended?),
            () = cancel.cancelled() => "the gateway restarts; connect again".to_owned(),
            reason = self.reason_to_cut(login) => reason,
        };
        // A client that reads nothing must not keep its connection by that.
        let told = async {
            let _ = handle
                .disconnect(Disconnect::ByApplication, reason, String::new())
                .await;
            let _ = session.await;
        };
        let _ = tokio::time::timeout(CLOSE_GRACE, told).await;
        Ok(())
    }

    async fn reason_to_cut(&self, (admitted, place): Login) -> String {
        let admitted = tokio::time::timeout(LOGIN_GRACE, admitted).await;
        drop(place);
        match admitted {
            Ok(Ok(admission)) => auth::access_ended(&self.app, &admission).await,
            // Nobody will log in: the session is about to end by itself.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => format!("no login within {} s", LOGIN_GRACE.as_secs()),
        }
    }

    /// The server's configuration, with a certificate that is at most a day old.
    fn config(&self) -> Result<Arc<Config>> {
        let mut cached = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = cached.as_ref()
            && made.at.elapsed() < RENEW_AFTER
        {
            return Ok(made.config.clone());
        }
        let config = Arc::new(Config {
            server_id: SshId::Standard("SSH-2.0-Freehold".into()),
            methods: MethodSet::from(&[MethodKind::PublicKey][..]),
            auth_rejection_time: REJECTION_DELAY,
            auth_rejection_time_initial: Some(Duration::ZERO),
            max_auth_attempts: MAX_ATTEMPTS,
            keys: vec![self.app.pki.ssh_gateway_key.clone()],
            certificates: vec![ca::certify_gateway(&self.app, Utc::now())?],
            window_size: flow::WINDOW,
            channel_buffer_size: CHANNEL_MESSAGES,
            event_buffer_size: 64,
            inactivity_timeout: None,
            keepalive_interval: Some(KEEPALIVE),
            ..Config::default()
        });
        *cached = Some(Made {
            at: Instant::now(),
            config: config.clone(),
        });
        Ok(config)
    }
}
