//! Hosts against a real PostgreSQL, their agents over real mutual TLS.

use std::{net::IpAddr, sync::Arc, time::Duration};

use freehold_proto::{
    agent_v1::{
        AgentHello, AttachRequest, AttachResponse, Inventory, attach_request::Message as FromAgent,
        attach_response::Message as ToAgent, link_service_client::LinkServiceClient,
    },
    id::HostId,
    v1,
};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint, Uri},
};

use super::{
    model::enrollment::AskedToken,
    service::{self, Enrolled},
};
use crate::{app::App, cluster, error::Result, gate::Caller, listeners, services, testing};

mod enrolment;
mod linking;
mod operating;
mod reaching;

const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// Waits for something that must happen soon.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .unwrap_or_else(|_| panic!("not within 20 s: {what}"))
}

/// Serves the agent listener and returns its address.
async fn serve_agents(app: &App) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    cluster::register(&app.pool, app.replica_id, &address)
        .await
        .unwrap();
    let (tls, _) = listeners::agent_tls(&app.config, &app.pki).unwrap();
    let (router, app) = (services::agent(app), app.clone());
    let shutdown = app.shutdown.clone();
    tokio::spawn(listeners::accept::accept(
        listener,
        tls,
        TaskTracker::new(),
        shutdown,
        move |connection, cancel| {
            services::serve_agent(app.clone(), router.clone(), connection, cancel)
        },
    ));
    address
}

async fn token(app: &App, operator: &Caller, asked: AskedToken) -> String {
    service::create_enrollment_token(app, operator, asked, None)
        .await
        .unwrap()
        .1
}

/// A machine with its key.
struct Machine {
    id: String,
    name: String,
    key: rcgen::KeyPair,
}

impl Machine {
    fn new(name: &str) -> Self {
        Self {
            id: format!("machine-{name}"),
            name: name.to_owned(),
            key: rcgen::KeyPair::generate().unwrap(),
        }
    }

    fn csr(&self) -> String {
        let params = rcgen::CertificateParams::default();
        params.serialize_request(&self.key).unwrap().pem().unwrap()
    }

    async fn enroll(&self, app: &App, token: &str) -> Result<Enrolled> {
        self.enroll_from(app, token, LOCAL).await
    }

    async fn enroll_from(&self, app: &App, token: &str, address: IpAddr) -> Result<Enrolled> {
        let machine = (self.id.as_str(), self.name.as_str());
        service::enroll_machine(app, token, &self.csr(), machine, address).await
    }

    /// TLS with a certificate that was issued to this machine.
    fn tls(&self, app: &App, certificate_pem: &str, alpn: &[u8]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(app.pki.server_ca.certificate().clone()).unwrap();
        let chain = vec![CertificateDer::from_pem_slice(certificate_pem.as_bytes()).unwrap()];
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).unwrap();
        let mut config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![alpn.to_vec()];
        Arc::new(config)
    }
}

async fn dial(address: &str, tls: Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(address).await?;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    TlsConnector::from(tls).connect(name, socket).await
}

/// A client over a connection that exists.
async fn client(stream: TlsStream<TcpStream>) -> LinkServiceClient<Channel> {
    let mut slot = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_: Uri| {
        let taken = slot.take();
        std::future::ready(taken.ok_or_else(|| std::io::Error::other("used")))
    });
    let channel = Endpoint::from_static("http://replica.invalid")
        .connect_with_connector(connector)
        .await
        .unwrap();
    LinkServiceClient::new(channel)
}

/// An enrolled host, and how its agent reaches the replica.
struct Enlisted {
    machine: Machine,
    host: HostId,
    certificate_pem: String,
    address: String,
}

impl Enlisted {
    async fn new(app: &App, name: &str) -> Self {
        let address = serve_agents(app).await;
        let operator = testing::operator(app).await;
        let machine = Machine::new(name);
        let token = token(app, &operator, AskedToken::default()).await;
        let enrolled = machine.enroll(app, &token).await.unwrap();
        Self {
            machine,
            host: enrolled.host,
            certificate_pem: enrolled.certificate.pem,
            address,
        }
    }

    async fn client(&self, app: &App) -> LinkServiceClient<Channel> {
        let tls = self.machine.tls(app, &self.certificate_pem, b"h2");
        client(dial(&self.address, tls).await.unwrap()).await
    }

    /// Attaches with this hello.
    async fn attach(&self, app: &App, hello: AgentHello) -> std::result::Result<Stream, Status> {
        let mut client = self.client(app).await;
        let (sender, requests) = mpsc::channel(16);
        let hello = FromAgent::Hello(hello);
        let message = Some(hello);
        sender.send(AttachRequest { message }).await.unwrap();
        let attached = client.attach(ReceiverStream::new(requests));
        let incoming = soon("an answer", attached).await?.into_inner();
        Ok(Stream { sender, incoming })
    }

    /// Attaches, and takes the replica's hello.
    async fn welcome(&self, app: &App, hello: AgentHello) -> Stream {
        let mut stream = self.attach(app, hello).await.unwrap();
        let first = stream.next().await.unwrap();
        assert!(matches!(first, Some(ToAgent::Hello(_))), "{first:?}");
        stream
    }
}

/// The agent's end of a control stream.
struct Stream {
    sender: mpsc::Sender<AttachRequest>,
    incoming: Streaming<AttachResponse>,
}

impl Stream {
    async fn send(&self, message: FromAgent) {
        let message = Some(message);
        self.sender.send(AttachRequest { message }).await.unwrap();
    }

    async fn next(&mut self) -> std::result::Result<Option<ToAgent>, Status> {
        let answer = soon("a message", self.incoming.message()).await?;
        Ok(answer.and_then(|answer| answer.message))
    }

    /// The status that the stream ends with.
    async fn end(&mut self) -> Status {
        loop {
            match self.next().await {
                Ok(Some(_)) => {}
                Ok(None) => return Status::ok("closed"),
                Err(status) => return status,
            }
        }
    }
}

fn hello(gpus: &[&str]) -> AgentHello {
    let gpu = |(index, uuid): (usize, &&str)| v1::Gpu {
        uuid: (*uuid).to_owned(),
        index: i32::try_from(index).unwrap(),
        model: "H100 80GB HBM3".to_owned(),
        memory_bytes: 80 << 30,
        ..v1::Gpu::default()
    };
    AgentHello {
        protocol_min: 1,
        protocol_max: 1,
        agent_version: "0.1.0".to_owned(),
        boot_id: "boot-1".to_owned(),
        inventory: Some(Inventory {
            hostname: "gpu-1".to_owned(),
            gpus: gpus.iter().enumerate().map(gpu).collect(),
            vcpus: 208,
            memory_bytes: 1 << 40,
            scratch_bytes: 1 << 42,
            simulated: true,
            ..Inventory::default()
        }),
        ..AgentHello::default()
    }
}

/// Waits until a query says true.
async fn until(app: &App, what: &str, sql: &'static str) {
    soon(what, async {
        while !sqlx::query_scalar::<_, bool>(sql)
            .fetch_one(&app.pool)
            .await
            .unwrap()
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}
