//! `LinkService`: the agents' control streams, and what their certificates let them ask for.

mod convert;
mod session;
mod work;

pub(super) use session::ask_for_telemetry;

use freehold_proto::{
    agent_v1::{
        AttachRequest, AttachResponse, CertifyHostKeyRequest, CertifyHostKeyResponse, RenewRequest,
        RenewResponse, link_service_server::LinkService,
    },
    id::HostId,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{links, service, store::certificate};
use crate::{
    app::App,
    error::{Error, Result as Outcome},
    listeners::{Connection, PeerCertificate},
};

/// Serves `LinkService` on the agent listener.
pub struct LinkRpc {
    app: App,
}

impl LinkRpc {
    /// On these parts.
    #[must_use]
    pub fn new(app: App) -> Self {
        Self { app }
    }
}

/// Who is behind a certificate.
#[derive(Debug, Clone)]
pub(super) struct Agent {
    pub(super) host: HostId,
    /// Of its certificate: hexadecimal, lower case.
    pub(super) serial: String,
}

/// The host that a client certificate names, while it is one of a host that is there.
///
/// # Errors
/// `Unauthenticated` without a certificate; `PermissionDenied` with one that is unknown, revoked, expired or a removed host's.
pub(super) async fn admit(app: &App, certificate: Option<&PeerCertificate>) -> Outcome<Agent> {
    let certificate = certificate.ok_or_else(|| {
        Error::Unauthenticated("the connection carries no client certificate".to_owned())
    })?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&certificate.0)
        .map_err(|_| Error::Unauthenticated("the client certificate is malformed".to_owned()))?;
    let serial = hex::encode(parsed.raw_serial());
    let mut connection = app.pool.acquire().await?;
    let known = certificate::find(&mut connection, &serial).await?;
    Ok(Agent {
        host: certificate::admit(known)?,
        serial,
    })
}

/// Serves a connection that an agent dialled back: the replica is the client on it.
pub(crate) async fn serve_reversed(app: App, connection: Connection, cancel: CancellationToken) {
    match admit(&app, connection.certificate.as_ref()).await {
        Ok(agent) => {
            app.links
                .serve_reversed(agent.host, connection, cancel)
                .await;
        }
        Err(error) => tracing::warn!(%error, "a reversed connection is refused"),
    }
}

async fn agent_of<T>(app: &App, request: &Request<T>) -> Outcome<Agent> {
    let admitted = admit(app, request.extensions().get()).await;
    if let Err(error) = &admitted {
        tracing::warn!(%error, "an agent is refused");
    }
    admitted
}

#[tonic::async_trait]
impl LinkService for LinkRpc {
    type AttachStream = ReceiverStream<Result<AttachResponse, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let agent = agent_of(&self.app, &request).await?;
        let (sender, orders) = mpsc::channel(links::BACKLOG);
        let stream = session::serve(self.app.clone(), agent, request.into_inner(), sender);
        tokio::spawn(stream);
        Ok(Response::new(ReceiverStream::new(orders)))
    }

    async fn renew(
        &self,
        request: Request<RenewRequest>,
    ) -> Result<Response<RenewResponse>, Status> {
        let agent = agent_of(&self.app, &request).await?;
        let csr = &request.get_ref().csr_pem;
        let issued = service::renew_certificate(&self.app, agent.host, &agent.serial, csr).await?;
        Ok(Response::new(RenewResponse {
            certificate_pem: issued.pem,
            ca_pem: self.app.pki.server_ca.pem().to_owned(),
        }))
    }

    async fn certify_host_key(
        &self,
        request: Request<CertifyHostKeyRequest>,
    ) -> Result<Response<CertifyHostKeyResponse>, Status> {
        let agent = agent_of(&self.app, &request).await?;
        let body = request.get_ref();
        let instance = body
            .instance_id
            .parse()
            .map_err(|error| Error::field("instance_id", format!("{error}")))?;
        let certificate =
            crate::access::ca::certify_host_key(&self.app, agent.host, instance, &body.public_key)
                .await?;
        Ok(Response::new(CertifyHostKeyResponse { certificate }))
    }
}
