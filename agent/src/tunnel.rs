//! Connections that the agent dials and on which it is then the HTTP/2 server: how a replica reaches what runs here, though this host
//! opens no port.
//!
//! Each `CONNECT` with the authority `INSTANCE_ID:ssh` becomes a byte stream to that instance's sshd. 404: the instance is not here;
//! 409: it does not run; 502: nothing answers inside. Without a stream for a minute the connection is closed.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use freehold_proto::id::InstanceId;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, server::conn::http2,
    service::service_fn, upgrade::OnUpgrade,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Notify,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    identity::tls,
    model::{InstanceControl, TargetError},
};

/// A connection without a stream is closed after this.
const IDLE: Duration = Duration::from_mins(1);

/// How long an instance's sshd may take to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Windows that fill a fast link over a long distance, and streams that one connection may carry.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
const FRAME: u32 = 64 << 10;
const MOST_STREAMS: u32 = 1024;

/// Dials `address` and serves the connection in a task of its own, until it is idle or the agent stops.
pub fn dial_back(
    tasks: &TaskTracker,
    cancel: CancellationToken,
    address: String,
    tls: Arc<ClientConfig>,
    instances: Arc<dyn InstanceControl>,
) {
    tasks.spawn(async move {
        let dialled = tls::dial(&address, tls);
        match cancel.run_until_cancelled(dialled).await {
            Some(Ok(stream)) => serve(stream, instances, IDLE, &cancel).await,
            Some(Err(error)) => tracing::warn!(address, %error, "cannot dial back"),
            None => {}
        }
    });
}

/// Serves a connection on which the other side is the HTTP/2 client.
pub async fn serve<S>(
    stream: S,
    instances: Arc<dyn InstanceControl>,
    idle_for: Duration,
    cancel: &CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let streams = Arc::new(Streams::default());
    let service = {
        let (streams, cancel) = (Arc::clone(&streams), cancel.clone());
        service_fn(move |request| {
            let guard = Arc::clone(&streams).enter();
            let (instances, cancel) = (Arc::clone(&instances), cancel.clone());
            async move { Ok::<_, Infallible>(answer(request, instances, guard, cancel).await) }
        })
    };
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_concurrent_streams(MOST_STREAMS)
        .keep_alive_interval(Some(Duration::from_secs(20)))
        .keep_alive_timeout(Duration::from_secs(20))
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = streams.idle(idle_for) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = cancel.cancelled() => return,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a reversed connection ended");
    }
}

/// Counts the streams of a connection.
#[derive(Debug, Default)]
struct Streams {
    open: AtomicUsize,
    closed: Notify,
}

impl Streams {
    fn enter(self: Arc<Self>) -> Open {
        self.open.fetch_add(1, Ordering::SeqCst);
        Open(self)
    }

    /// Returns when there was no stream for `idle_for`.
    async fn idle(&self, idle_for: Duration) {
        loop {
            let closed = self.closed.notified();
            if self.open.load(Ordering::SeqCst) > 0 {
                closed.await;
                continue;
            }
            // A stream that came and went in between begins the wait anew.
            if tokio::time::timeout(idle_for, closed).await.is_err()
                && self.open.load(Ordering::SeqCst) == 0
            {
                return;
            }
        }
    }
}

/// A stream is open while this lives.
#[derive(Debug)]
struct Open(Arc<Streams>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
        self.0.closed.notify_one();
    }
}

async fn answer(
    mut request: Request<Incoming>,
    instances: Arc<dyn InstanceControl>,
    guard: Open,
    cancel: CancellationToken,
) -> Response<Full<Bytes>> {
    match connect(&request, instances.as_ref()).await {
        Ok(target) => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                cancel.run_until_cancelled(copy(upgrade, target)).await;
                drop(guard);
            });
            Response::new(Full::default())
        }
        Err((status, reason)) => {
            let mut response = Response::new(Full::from(reason));
            *response.status_mut() = status;
            response
        }
    }
}

/// Connects to what a request asks for, or says why not.
async fn connect(
    request: &Request<Incoming>,
    instances: &dyn InstanceControl,
) -> Result<TcpStream, (StatusCode, String)> {
    if request.method() != Method::CONNECT {
        let reason = "expected CONNECT".to_owned();
        return Err((StatusCode::METHOD_NOT_ALLOWED, reason));
    }
    let authority = request.uri().authority().map_or("", |a| a.as_str());
    let instance = ssh_instance(authority).ok_or_else(|| {
        let reason = "expected the authority INSTANCE_ID:ssh".to_owned();
        (StatusCode::BAD_REQUEST, reason)
    })?;
    let target = instances.ssh_target(instance).map_err(|error| {
        let status = match error {
            TargetError::NotHere => StatusCode::NOT_FOUND,
            TargetError::NotRunning => StatusCode::CONFLICT,
        };
        (status, error.to_string())
    })?;
    let unanswered = |reason| (StatusCode::BAD_GATEWAY, reason);
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(target))
        .await
        .map_err(|_| unanswered("the instance's sshd does not accept within 5 s".to_owned()))?
        .map_err(|error| unanswered(format!("the instance's sshd does not accept: {error}")))?;
    let _ = connected.set_nodelay(true);
    Ok(connected)
}

fn ssh_instance(authority: &str) -> Option<InstanceId> {
    authority.strip_suffix(":ssh")?.parse().ok()
}

/// Copies both ways. Each side's end is passed on by itself, so that a half-closed session still drains.
async fn copy(upgrade: OnUpgrade, mut target: TcpStream) {
    let upgraded = match upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => {
            tracing::debug!(%error, "a stream went before it began");
            return;
        }
    };
    let mut upgraded = TokioIo::new(upgraded);
    let copied = tokio::io::copy_bidirectional(&mut upgraded, &mut target).await;
    if let Err(error) = copied {
        tracing::debug!(%error, "a stream broke");
    }
}
