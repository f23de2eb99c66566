//! `AccessService`: translation only.

use freehold_proto::v1::{self, access_service_server::AccessService};
use tonic::{Request, Response, Status};

use super::{
    convert::{api_key, parse_role},
    service::{self, AskedCertificate, AskedKey},
};
use crate::{
    app::App,
    database::request_id::Idempotency,
    error,
    gate::Caller,
    page::{Page, timestamp},
};

/// Serves `AccessService`.
pub struct AccessRpc {
    app: App,
}

impl AccessRpc {
    /// On these parts.
    #[must_use]
    pub fn new(app: App) -> Self {
        Self { app }
    }
}

#[tonic::async_trait]
impl AccessService for AccessRpc {
    async fn create_api_key(
        &self,
        request: Request<v1::CreateApiKeyRequest>,
    ) -> Result<Response<v1::ApiKey>, Status> {
        let caller = Caller::of(&request)?;
        let body = request.into_inner();
        let idempotency =
            Idempotency::new(caller.principal, "key.create", &body.request_id, &body)?;
        let asked = AskedKey {
            organization: &body.organization,
            project: &body.project,
            role: parse_role(body.role)?,
            ttl_seconds: body.ttl_seconds,
            name: &body.name,
        };
        let (row, secret) =
            service::create_key(&self.app, &caller, asked, idempotency.as_ref()).await?;
        Ok(Response::new(v1::ApiKey {
            secret,
            ..api_key(row)?
        }))
    }

    async fn list_api_keys(
        &self,
        request: Request<v1::ListApiKeysRequest>,
    ) -> Result<Response<v1::ListApiKeysResponse>, Status> {
        let caller = Caller::of(&request)?;
        let body = request.get_ref();
        let page = Page::parse(body.page_size, &body.page_token)?;
        let (rows, next_page_token) =
            service::list_keys(&self.app, &caller, &body.organization, page).await?;
        let api_keys = rows
            .into_iter()
            .map(api_key)
            .collect::<error::Result<_>>()?;
        Ok(Response::new(v1::ListApiKeysResponse {
            api_keys,
            next_page_token,
        }))
    }

    async fn revoke_api_key(
        &self,
        request: Request<v1::RevokeApiKeyRequest>,
    ) -> Result<Response<v1::ApiKey>, Status> {
        let caller = Caller::of(&request)?;
        let row = service::revoke_key(&self.app, &caller, &request.get_ref().api_key).await?;
        Ok(Response::new(api_key(row)?))
    }

    async fn sign_ssh_certificate(
        &self,
        request: Request<v1::SignSshCertificateRequest>,
    ) -> Result<Response<v1::SshCertificate>, Status> {
        let caller = Caller::of(&request)?;
        let body = request.get_ref();
        let asked = AskedCertificate {
            lease: &body.lease,
            public_key: &body.public_key,
            login: &body.login,
            ttl_seconds: body.ttl_seconds,
            organization: &body.organization,
            project: &body.project,
        };
        let signed = service::sign_certificate(&self.app, &caller, asked).await?;
        Ok(Response::new(signed.into()))
    }

    async fn get_ssh_gateway(
        &self,
        request: Request<v1::GetSshGatewayRequest>,
    ) -> Result<Response<v1::SshGateway>, Status> {
        Caller::of(&request)?;
        Ok(Response::new(service::gateway(&self.app, None)?.into()))
    }

    async fn get_caller(
        &self,
        request: Request<v1::GetCallerRequest>,
    ) -> Result<Response<v1::Caller>, Status> {
        let caller = Caller::of(&request)?;
        let (organization, project) = service::names_of(&self.app, &caller).await?;
        Ok(Response::new(v1::Caller {
            principal_id: caller.principal.to_string(),
            organization_id: caller.organization.to_string(),
            organization,
            project_id: caller.project.map(|id| id.to_string()).unwrap_or_default(),
            project: project.unwrap_or_default(),
            role: v1::Role::from(caller.role).into(),
            expire_time: Some(timestamp(caller.expires_at)),
        }))
    }
}
