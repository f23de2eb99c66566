//! Accepts TLS connections and serves HTTP on them.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use rustls::{ServerConfig, pki_types::CertificateDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service;

/// A handshake that takes longer is dropped, so that half-open connections do not pile up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a request came from; among the request's extensions.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// The client certificate that the handshake verified; among the request's extensions on the agent listener.
#[derive(Debug, Clone)]
pub struct PeerCertificate(pub CertificateDer<'static>);

/// A connection after its handshake.
pub struct Connection {
    /// The encrypted stream.
    pub stream: TlsStream<TcpStream>,
    /// The other end.
    pub peer: Peer,
    /// The client certificate, where one was required.
    pub certificate: Option<PeerCertificate>,
}

impl Connection {
    /// The ALPN protocol that was agreed on.
    #[must_use]
    pub fn protocol(&self) -> Option<&[u8]> {
        self.stream.get_ref().1.alpn_protocol()
    }
}

/// Accepts connections until cancelled and hands each to `serve` in a task of its own.
pub async fn accept<F, Fut>(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    tasks: TaskTracker,
    cancel: CancellationToken,
    serve: F,
) where
    F: Fn(Connection, CancellationToken) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let acceptor = TlsAcceptor::from(tls);
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (socket, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: try again when some were closed.
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (acceptor, serve, cancel) = (acceptor.clone(), serve.clone(), cancel.clone());
        tasks.spawn(async move {
            if let Some(connection) = shake_hands(&acceptor, socket, address).await {
                serve(connection, cancel).await;
            }
        });
    }
}

async fn shake_hands(
    acceptor: &TlsAcceptor,
    socket: TcpStream,
    address: SocketAddr,
) -> Option<Connection> {
    let _ = socket.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(socket)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(peer = %address, %error, "a TLS handshake failed");
            return None;
        }
        Err(_) => return None,
    };
    let certificate = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first());
    let certificate = certificate.map(|leaf| PeerCertificate(leaf.clone().into_owned()));
    Some(Connection {
        stream,
        peer: Peer(address),
        certificate,
    })
}

/// Serves HTTP/1 and HTTP/2 on a connection with a tower service, until the client leaves or the server drains.
pub async fn serve_http<S>(connection: Connection, service: S, cancel: CancellationToken)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    let Connection {
        stream,
        peer,
        certificate,
    } = connection;
    let service = tower::service_fn(move |request: Request<Incoming>| {
        let mut service = service.clone();
        let (mut parts, body) = request.into_parts();
        parts.extensions.insert(peer);
        if let Some(certificate) = &certificate {
            parts.extensions.insert(certificate.clone());
        }
        async move {
            service
                .call(Request::from_parts(parts, Body::new(body)))
                .await
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(Duration::from_secs(20)))
        .keep_alive_timeout(Duration::from_secs(20))
        .max_concurrent_streams(1024);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(20));
    let serving = builder
        .serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut serving = std::pin::pin!(serving);
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = cancel.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(peer = %peer.0, %error, "a connection ended with an error");
    }
}
