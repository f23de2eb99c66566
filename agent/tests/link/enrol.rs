use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use freehold_agent::{
    config::EnrollArgs,
    enroll::{EnrollError, enroll},
    identity::{IdentityStore, load_replicas},
};
use freehold_proto::{
    agent_v1::{
        EnrollRequest, EnrollResponse,
        enrollment_service_server::{EnrollmentService, EnrollmentServiceServer},
    },
    id::HostId,
};
use rustls::ServerConfig;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::{pki, server::free_address};

/// A public listener that enrols whoever has the good token, and remembers what it was asked.
struct Public {
    address: String,
    seen: Arc<Mutex<Vec<EnrollRequest>>>,
}

struct Service {
    agent_ca: pki::Ca,
    ca_pem: String,
    host_id: HostId,
    seen: Arc<Mutex<Vec<EnrollRequest>>>,
}

const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

#[tonic::async_trait]
impl EnrollmentService for Service {
    async fn enroll(
        &self,
        request: Request<EnrollRequest>,
    ) -> Result<Response<EnrollResponse>, Status> {
        let request = request.into_inner();
        self.seen
            .lock()
            .expect("not poisoned")
            .push(request.clone());
        if !request.token.contains(SECRET) {
            return Err(Status::unauthenticated("the token is used up"));
        }
        let life = time::Duration::days(30);
        Ok(Response::new(EnrollResponse {
            host_id: self.host_id.to_string(),
            certificate_pem: pki::sign_request(&self.agent_ca, &request.csr_pem, life),
            ca_pem: self.ca_pem.clone(),
            agent_addresses: vec!["localhost:8444".to_owned()],
        }))
    }
}

async fn public(tls: Arc<ServerConfig>, ca_pem: String) -> Public {
    let seen: Arc<Mutex<Vec<EnrollRequest>>> = Arc::default();
    let service = EnrollmentServiceServer::new(Service {
        agent_ca: pki::ca("agents"),
        ca_pem,
        host_id: HostId::new(),
        seen: Arc::clone(&seen),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let (accepted, incoming) = mpsc::channel(4);
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(tls);
        while let Ok((socket, _)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(socket).await {
                let _ = accepted.send(Ok::<_, std::io::Error>(stream)).await;
            }
        }
    });
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(ReceiverStream::new(incoming)),
    );
    Public {
        address: format!("localhost:{port}"),
        seen,
    }
}

async fn good_public(ca: &pki::Ca) -> Public {
    let (chain, key) = pki::server(ca, "localhost", ca);
    public(pki::public(chain, key), ca.pem()).await
}

fn args(dir: &Path, address: &str, secret: &str, ca: &pki::Ca) -> EnrollArgs {
    EnrollArgs {
        server: format!("https://{address}"),
        token: format!("fhe_{secret}_{}", pki::fingerprint(ca)),
        data_dir: dir.to_owned(),
        machine_id: Some("machine-0001".to_owned()),
        hostname: Some("gpu-7".to_owned()),
    }
}

#[tokio::test]
async fn a_good_token_becomes_an_identity() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = pki::ca("servers");
    let public = good_public(&ca).await;
    let args = args(dir.path(), &public.address, SECRET, &ca);
    let host_id = enroll(&args).await.expect("enrolled");
    let store = IdentityStore::open(dir.path()).expect("stored");
    assert_eq!(store.host_id(), host_id);
    assert_eq!(store.current().identity.hostname, "gpu-7");
    assert_eq!(load_replicas(dir.path()), ["localhost:8444"]);
    let seen = public.seen.lock().expect("not poisoned").clone();
    assert_eq!(seen[0].machine_id, "machine-0001");
    assert_eq!(seen[0].token, args.token);

    let first_key = store.current().identity.key_pem.clone();
    assert_eq!(enroll(&args).await.expect("enrolled again"), host_id);
    assert_ne!(store.current().identity.key_pem, first_key);
}

#[tokio::test]
async fn nothing_is_sent_to_a_server_of_another_ca() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = pki::ca("servers");
    let public = good_public(&ca).await;
    let other = pki::ca("servers");
    let error = enroll(&args(dir.path(), &public.address, SECRET, &other)).await;
    assert!(
        matches!(error, Err(EnrollError::WrongCa { .. })),
        "{error:?}"
    );
    assert!(public.seen.lock().expect("not poisoned").is_empty());
    assert!(IdentityStore::open(dir.path()).is_err());
}

#[tokio::test]
async fn showing_the_right_ca_does_not_help_a_server_that_it_did_not_sign() {
    let dir = tempfile::tempdir().expect("a directory");
    let (ca, other) = (pki::ca("servers"), pki::ca("servers"));
    let (chain, key) = pki::server(&other, "localhost", &ca);
    let public = public(pki::public(chain, key), ca.pem()).await;
    let error = enroll(&args(dir.path(), &public.address, SECRET, &ca)).await;
    let refused = matches!(
        error,
        Err(EnrollError::WrongCa { .. } | EnrollError::Certificate { .. })
    );
    assert!(refused, "{error:?}");
    assert!(public.seen.lock().expect("not poisoned").is_empty());
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = pki::ca("servers");
    let (chain, key) = pki::server(&ca, "elsewhere.example", &ca);
    let public = public(pki::public(chain, key), ca.pem()).await;
    let error = enroll(&args(dir.path(), &public.address, SECRET, &ca)).await;
    assert!(
        matches!(error, Err(EnrollError::Certificate { .. })),
        "{error:?}"
    );
    assert!(public.seen.lock().expect("not poisoned").is_empty());
}

#[tokio::test]
async fn a_refused_token_says_how_to_get_another() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = pki::ca("servers");
    let public = good_public(&ca).await;
    let args = args(dir.path(), &public.address, &"0".repeat(64), &ca);
    let error = enroll(&args).await.expect_err("refused").to_string();
    assert!(error.contains("used up"), "{error}");
    assert!(error.contains("freehold host enroll-token"), "{error}");
    assert!(IdentityStore::open(dir.path()).is_err());
}

#[tokio::test]
async fn an_unreachable_server_is_said_to_be_that() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = pki::ca("servers");
    let address = free_address().await.to_string();
    let error = enroll(&args(dir.path(), &address, SECRET, &ca)).await;
    assert!(
        matches!(error, Err(EnrollError::Unreachable(_))),
        "{error:?}"
    );
}
