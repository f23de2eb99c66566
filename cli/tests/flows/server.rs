//! A control plane of a few scripted answers behind real TLS: what the client does with states, broken streams and refusals that a real one
//! shows only by luck.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use freehold_proto::v1::{
    access_service_server::{AccessService, AccessServiceServer},
    lease_service_server::{LeaseService, LeaseServiceServer},
    *,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::net::TcpListener;
use tokio_stream::{Stream, StreamExt as _, wrappers::TcpListenerStream};
use tonic::{
    Request, Response, Status,
    transport::{Identity, Server, ServerTlsConfig},
};

/// The key that the server admits.
pub(crate) const TOKEN: &str = "fhk_test";

/// One answer of a stream.
pub(crate) type Change = Result<Lease, Status>;

/// What the server answers, and what it was asked.
#[derive(Default)]
pub(crate) struct Script {
    /// Refusals that are answered before anything else, oldest first.
    pub(crate) refusals: VecDeque<Status>,
    /// The lease of every create, get and end.
    pub(crate) lease: Lease,
    /// All leases, for lists; a page holds two.
    pub(crate) leases: Vec<Lease>,
    /// The changes of each stream, in the order of the calls.
    pub(crate) streams: VecDeque<Vec<Change>>,
    /// Streams stay open behind their last change.
    pub(crate) hold: bool,
    /// Requests seen.
    pub(crate) creates: Vec<CreateLeaseRequest>,
    /// Requests seen.
    pub(crate) lists: Vec<ListLeasesRequest>,
    /// Requests seen.
    pub(crate) signs: Vec<SignSshCertificateRequest>,
}

/// A running server; it stops with its runtime.
pub(crate) struct ControlPlane {
    pub(crate) url: String,
    pub(crate) ca_pem: String,
    pub(crate) identity: Identity,
    script: Shared,
}

#[derive(Clone)]
struct Shared(Arc<Mutex<Script>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let expected = format!("Bearer {TOKEN}");
        let given = request
            .metadata()
            .get("authorization")
            .and_then(|value| value.to_str().ok());
        if given != Some(expected.as_str()) {
            return Err(Status::unauthenticated(
                "the API key is unknown, revoked or expired",
            ));
        }
        match self.lock().refusals.pop_front() {
            Some(status) => Err(status),
            None => Ok(()),
        }
    }
}

impl ControlPlane {
    pub(crate) async fn start(script: Script) -> Self {
        let (ca_pem, identity) = certificates();
        Self::start_at("127.0.0.1:0", ca_pem, identity, script).await
    }

    /// Starts at an address with a certificate that a server before it may have had.
    pub(crate) async fn start_at(
        address: &str,
        ca_pem: String,
        identity: Identity,
        script: Script,
    ) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind(address).await.expect("a port");
        let url = format!(
            "https://localhost:{}",
            listener.local_addr().expect("bound").port()
        );
        let script = Shared(Arc::new(Mutex::new(script)));
        let server = Server::builder()
            .tls_config(ServerTlsConfig::new().identity(identity.clone()))
            .expect("a certificate made here")
            .add_service(LeaseServiceServer::new(script.clone()))
            .add_service(AccessServiceServer::new(script.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        Self {
            url,
            ca_pem,
            identity,
            script,
        }
    }

    pub(crate) fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock()
    }
}

/// A CA of its own and a certificate for localhost.
pub(crate) fn certificates() -> (String, Identity) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca =
        CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA");
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(vec!["localhost".to_owned()])
        .expect("a name")
        .signed_by(&key, &ca)
        .expect("a certificate");
    (
        ca.pem(),
        Identity::from_pem(leaf.pem(), key.serialize_pem()),
    )
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl LeaseService for Shared {
    type WatchLeaseStream = Pin<Box<dyn Stream<Item = Result<WatchLeaseResponse, Status>> + Send>>;

    async fn create_lease(&self, request: Request<CreateLeaseRequest>) -> Answer<Lease> {
        self.lock().creates.push(request.get_ref().clone());
        self.admit(&request)?;
        Ok(Response::new(self.lock().lease.clone()))
    }

    async fn get_lease(&self, request: Request<GetLeaseRequest>) -> Answer<Lease> {
        self.admit(&request)?;
        Ok(Response::new(self.lock().lease.clone()))
    }

    async fn list_leases(&self, request: Request<ListLeasesRequest>) -> Answer<ListLeasesResponse> {
        self.admit(&request)?;
        let mut script = self.lock();
        let request = request.into_inner();
        script.lists.push(request.clone());
        let first: usize = request.page_token.parse().unwrap_or(0);
        let leases: Vec<_> = script.leases.iter().skip(first).take(2).cloned().collect();
        let next = first + leases.len();
        let next_page_token = if next < script.leases.len() {
            next.to_string()
        } else {
            String::new()
        };
        Ok(Response::new(ListLeasesResponse {
            leases,
            next_page_token,
        }))
    }

    async fn end_lease(&self, request: Request<EndLeaseRequest>) -> Answer<Lease> {
        self.admit(&request)?;
        Ok(Response::new(self.lock().lease.clone()))
    }

    async fn watch_lease(
        &self,
        request: Request<WatchLeaseRequest>,
    ) -> Answer<Self::WatchLeaseStream> {
        self.admit(&request)?;
        let (changes, hold) = {
            let mut script = self.lock();
            (script.streams.pop_front(), script.hold)
        };
        let changes =
            changes.ok_or_else(|| Status::failed_precondition("no more streams were scripted"))?;
        let changes = changes
            .into_iter()
            .map(|change| change.map(|lease| WatchLeaseResponse { lease: Some(lease) }))
            .collect::<Vec<_>>();
        let changes = tokio_stream::iter(changes);
        Ok(Response::new(if hold {
            Box::pin(changes.chain(tokio_stream::pending()))
        } else {
            Box::pin(changes)
        }))
    }

    async fn explain_lease(
        &self,
        request: Request<ExplainLeaseRequest>,
    ) -> Answer<ExplainLeaseResponse> {
        self.admit(&request)?;
        Ok(Response::new(ExplainLeaseResponse::default()))
    }
}

#[tonic::async_trait]
impl AccessService for Shared {
    async fn create_api_key(&self, request: Request<CreateApiKeyRequest>) -> Answer<ApiKey> {
        self.admit(&request)?;
        Ok(Response::new(ApiKey {
            secret: "fhk_new".to_owned(),
            ..Default::default()
        }))
    }

    async fn list_api_keys(
        &self,
        request: Request<ListApiKeysRequest>,
    ) -> Answer<ListApiKeysResponse> {
        self.admit(&request)?;
        Ok(Response::new(ListApiKeysResponse::default()))
    }

    async fn revoke_api_key(&self, request: Request<RevokeApiKeyRequest>) -> Answer<ApiKey> {
        self.admit(&request)?;
        Ok(Response::new(ApiKey::default()))
    }

    async fn sign_ssh_certificate(
        &self,
        request: Request<SignSshCertificateRequest>,
    ) -> Answer<SshCertificate> {
        self.admit(&request)?;
        let mut script = self.lock();
        let request = request.into_inner();
        script.signs.push(request.clone());
        let end = std::time::SystemTime::now() + std::time::Duration::from_secs(3600);
        Ok(Response::new(SshCertificate {
            certificate: "ssh-ed25519-cert-v01@openssh.com AAAA".to_owned(),
            lease_id: request.lease,
            valid_before: Some(end.into()),
            gateway: Some(SshGateway {
                host: "gateway.example.com".to_owned(),
                port: 2222,
                known_hosts: "@cert-authority * ssh-ed25519 AAAA".to_owned(),
            }),
            ..Default::default()
        }))
    }

    async fn get_ssh_gateway(&self, request: Request<GetSshGatewayRequest>) -> Answer<SshGateway> {
        self.admit(&request)?;
        Ok(Response::new(SshGateway::default()))
    }

    async fn get_caller(&self, request: Request<GetCallerRequest>) -> Answer<Caller> {
        self.admit(&request)?;
        Ok(Response::new(Caller {
            organization: "lab".to_owned(),
            ..Default::default()
        }))
    }
}
