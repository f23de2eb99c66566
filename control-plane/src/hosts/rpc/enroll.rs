//! `EnrollmentService`: translation only. The token in the request is the credential.

use freehold_proto::agent_v1::{
    EnrollRequest, EnrollResponse, enrollment_service_server::EnrollmentService,
};
use tonic::{Request, Response, Status};

use crate::{app::App, error::Error, hosts::service, listeners::Peer};

/// Serves `EnrollmentService`.
pub struct EnrollmentRpc {
    app: App,
}

impl EnrollmentRpc {
    /// On these parts.
    #[must_use]
    pub fn new(app: App) -> Self {
        Self { app }
    }
}

#[tonic::async_trait]
impl EnrollmentService for EnrollmentRpc {
    async fn enroll(
        &self,
        request: Request<EnrollRequest>,
    ) -> Result<Response<EnrollResponse>, Status> {
        let Some(Peer(peer)) = request.extensions().get().copied() else {
            return Err(Error::internal(anyhow::anyhow!("the peer is not known")).into());
        };
        let body = request.into_inner();
        let machine = (body.machine_id.as_str(), body.hostname.as_str());
        let enrolled =
            service::enroll_machine(&self.app, &body.token, &body.csr_pem, machine, peer.ip())
                .await?;
        Ok(Response::new(EnrollResponse {
            host_id: enrolled.host.to_string(),
            certificate_pem: enrolled.certificate.pem,
            ca_pem: self.app.pki.server_ca.pem().to_owned(),
            agent_addresses: enrolled.agent_addresses,
        }))
    }
}
