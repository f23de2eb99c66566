//! A replica of the control plane: its agent listener, with every session in the test's hands.

use std::{net::SocketAddr, sync::Arc};

use freehold_proto::{
    agent_v1::{
        AttachRequest, AttachResponse, CertifyHostKeyRequest, CertifyHostKeyResponse, ControlHello,
        HeartbeatAck, RenewRequest, RenewResponse,
        attach_request::Message as FromAgent,
        attach_response::Message as ToAgent,
        link_service_server::{LinkService, LinkServiceServer},
    },
    id::InstanceId,
    time::timestamp_from_micros,
};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{pki, soon};

pub(crate) type Reversed = TlsStream<TcpStream>;

/// A replica. Stops when dropped.
pub(crate) struct Replica {
    pub(crate) address: String,
    pub(crate) sessions: mpsc::Receiver<Session>,
    pub(crate) reversed: mpsc::Receiver<Reversed>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// One agent's control stream.
pub(crate) struct Session {
    /// The client certificate, DER.
    pub(crate) certificate: Vec<u8>,
    pub(crate) from_agent: Streaming<AttachRequest>,
    to_agent: mpsc::Sender<Result<AttachResponse, Status>>,
    /// Whether heartbeats are answered.
    pub(crate) answers: bool,
}

impl Session {
    pub(crate) async fn send(&self, message: ToAgent) {
        let response = AttachResponse {
            message: Some(message),
        };
        let _ = self.to_agent.send(Ok(response)).await;
    }

    /// The next message that is not a heartbeat; heartbeats are answered on the way. `None`: the agent went.
    pub(crate) async fn next(&mut self) -> Option<FromAgent> {
        loop {
            let message = self.from_agent.message().await.ok()??.message?;
            let FromAgent::Heartbeat(beat) = message else {
                return Some(message);
            };
            if self.answers {
                self.send(ToAgent::HeartbeatAck(HeartbeatAck {
                    monotonic_ms: beat.monotonic_ms,
                    now: Some(timestamp_from_micros(chrono::Utc::now().timestamp_micros())),
                }))
                .await;
            }
        }
    }

    /// The first message that `pick` takes; the others are dropped.
    pub(crate) async fn find<T>(&mut self, what: &str, pick: impl Fn(FromAgent) -> Option<T>) -> T {
        soon(what, async {
            loop {
                let message = self.next().await.expect("the stream goes on");
                if let Some(picked) = pick(message) {
                    return picked;
                }
            }
        })
        .await
    }
}

/// What a replica says first.
pub(crate) fn hello(addresses: &[&str]) -> ControlHello {
    ControlHello {
        protocol: 1,
        epoch: 1,
        replica_id: "replica_1".to_owned(),
        heartbeat_interval_ms: 200,
        telemetry: false,
        agent_addresses: addresses.iter().map(|a| (*a).to_owned()).collect(),
        now: Some(timestamp_from_micros(chrono::Utc::now().timestamp_micros())),
    }
}

impl Replica {
    /// Starts a replica on a free port.
    pub(crate) async fn start(server_ca: &pki::Ca, agent_ca: Arc<pki::Ca>) -> Self {
        let tls = pki::mutual(server_ca, &agent_ca);
        let (sessions, attached) = mpsc::channel(16);
        let (turned, reversed) = mpsc::channel(16);
        let service = LinkServiceServer::new(Service {
            sessions,
            agent_ca,
            ca_pem: server_ca.pem(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let (accepted, incoming) = mpsc::channel(16);
        let accepting = tokio::spawn(accept(listener, tls, accepted, turned));
        let serving = tokio::spawn(async move {
            let _ = tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(ReceiverStream::new(incoming))
                .await;
        });
        Self {
            address: format!("localhost:{port}"),
            sessions: attached,
            reversed,
            tasks: [accepting, serving],
        }
    }

    /// The next stream of an agent, before any hello.
    pub(crate) async fn attached(&mut self) -> Session {
        soon("an agent attaches", self.sessions.recv())
            .await
            .expect("the replica runs")
    }

    /// The next stream of an agent, after both hellos.
    pub(crate) async fn welcomed(&mut self) -> Session {
        let mut session = self.attached().await;
        let first = soon("the agent's hello", session.next()).await;
        assert!(matches!(first, Some(FromAgent::Hello(_))), "{first:?}");
        session.send(ToAgent::Hello(hello(&[&self.address]))).await;
        session
    }
}

async fn accept(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    accepted: mpsc::Sender<Result<TlsStream<TcpStream>, std::io::Error>>,
    turned: mpsc::Sender<Reversed>,
) {
    let acceptor = TlsAcceptor::from(tls);
    while let Ok((socket, _)) = listener.accept().await {
        let (acceptor, accepted, turned) = (acceptor.clone(), accepted.clone(), turned.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(socket).await else {
                return;
            };
            if stream.get_ref().1.alpn_protocol() == Some(freehold_proto::REVERSE_ALPN) {
                let _ = turned.send(stream).await;
            } else {
                let _ = accepted.send(Ok(stream)).await;
            }
        });
    }
}

struct Service {
    sessions: mpsc::Sender<Session>,
    agent_ca: Arc<pki::Ca>,
    ca_pem: String,
}

#[tonic::async_trait]
impl LinkService for Service {
    type AttachStream = ReceiverStream<Result<AttachResponse, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let certificates = request.peer_certs().expect("mutual TLS");
        let (to_agent, responses) = mpsc::channel(64);
        let session = Session {
            certificate: certificates[0].to_vec(),
            from_agent: request.into_inner(),
            to_agent,
            answers: true,
        };
        let _ = self.sessions.send(session).await;
        Ok(Response::new(ReceiverStream::new(responses)))
    }

    async fn renew(
        &self,
        request: Request<RenewRequest>,
    ) -> Result<Response<RenewResponse>, Status> {
        let life = time::Duration::hours(1);
        Ok(Response::new(RenewResponse {
            certificate_pem: pki::sign_request(&self.agent_ca, &request.get_ref().csr_pem, life),
            ca_pem: self.ca_pem.clone(),
        }))
    }

    async fn certify_host_key(
        &self,
        request: Request<CertifyHostKeyRequest>,
    ) -> Result<Response<CertifyHostKeyResponse>, Status> {
        let request = request.into_inner();
        if request.instance_id.parse::<InstanceId>().is_err() {
            return Err(Status::invalid_argument("instance_id is not an id"));
        }
        if !request.public_key.starts_with("ssh-ed25519 ") {
            return Err(Status::failed_precondition("not a key of ours"));
        }
        let certificate = format!("certified {}", request.public_key);
        Ok(Response::new(CertifyHostKeyResponse { certificate }))
    }
}

/// An address that nobody listens on.
pub(crate) async fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    listener.local_addr().expect("bound")
}
