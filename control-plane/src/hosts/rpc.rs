//! `HostService`: translation only.

mod enroll;

use freehold_proto::{
    id::EnrollmentId,
    v1::{self, host_service_server::HostService},
};
use tonic::{Request, Response, Status};

pub use enroll::EnrollmentRpc;

use super::{
    convert,
    model::{change::Change, enrollment::AskedToken},
    service,
};
use crate::{
    app::App,
    database::request_id::Idempotency,
    gate::Caller,
    page::{Page, timestamp},
};

/// Serves `HostService`.
pub struct HostRpc {
    app: App,
}

impl HostRpc {
    /// On these parts.
    #[must_use]
    pub fn new(app: App) -> Self {
        Self { app }
    }
}

impl HostRpc {
    async fn change(
        &self,
        caller: &Caller,
        host: &str,
        change: Change<'_>,
    ) -> Result<Response<v1::Host>, Status> {
        let record = service::change_host(&self.app, caller, host, change).await?;
        Ok(Response::new(record.into()))
    }
}

#[tonic::async_trait]
impl HostService for HostRpc {
    async fn create_enrollment_token(
        &self,
        request: Request<v1::CreateEnrollmentTokenRequest>,
    ) -> Result<Response<v1::EnrollmentToken>, Status> {
        let caller = Caller::of(&request)?;
        let body = request.into_inner();
        let idempotency = Idempotency::new(
            caller.principal,
            "host.create_enrollment_token",
            &body.request_id,
            &body,
        )?;
        let asked = AskedToken {
            region: body.region,
            sector: body.sector,
            uses: body.uses,
            ttl_seconds: body.ttl_seconds,
            networks: body.networks,
        };
        let (row, secret) =
            service::create_enrollment_token(&self.app, &caller, asked, idempotency.as_ref())
                .await?;
        Ok(Response::new(v1::EnrollmentToken {
            id: EnrollmentId::from(row.id).to_string(),
            secret,
            region: row.region,
            sector: row.sector,
            uses: row.uses,
            expire_time: Some(timestamp(row.expires_at)),
        }))
    }

    async fn list_hosts(
        &self,
        request: Request<v1::ListHostsRequest>,
    ) -> Result<Response<v1::ListHostsResponse>, Status> {
        let body = request.get_ref();
        let page = Page::parse(body.page_size, &body.page_token)?;
        let wanted = convert::wanted_state(body.state)?;
        let (records, next_page_token) = service::list_hosts(&self.app, wanted, page).await?;
        let hosts = records.into_iter().map(Into::into).collect();
        Ok(Response::new(v1::ListHostsResponse {
            hosts,
            next_page_token,
        }))
    }

    async fn get_host(
        &self,
        request: Request<v1::GetHostRequest>,
    ) -> Result<Response<v1::Host>, Status> {
        let record = service::get_host(&self.app, &request.get_ref().host).await?;
        Ok(Response::new(record.into()))
    }

    async fn cordon_host(
        &self,
        request: Request<v1::CordonHostRequest>,
    ) -> Result<Response<v1::Host>, Status> {
        let caller = Caller::of(&request)?;
        let v1::CordonHostRequest { host, reason } = request.get_ref();
        self.change(&caller, host, Change::Cordon { reason }).await
    }

    async fn uncordon_host(
        &self,
        request: Request<v1::UncordonHostRequest>,
    ) -> Result<Response<v1::Host>, Status> {
        let caller = Caller::of(&request)?;
        self.change(&caller, &request.get_ref().host, Change::Uncordon)
            .await
    }

    async fn release_host(
        &self,
        request: Request<v1::ReleaseHostRequest>,
    ) -> Result<Response<v1::Host>, Status> {
        let caller = Caller::of(&request)?;
        let v1::ReleaseHostRequest { host, reason } = request.get_ref();
        self.change(&caller, host, Change::Release { reason }).await
    }

    async fn remove_host(
        &self,
        request: Request<v1::RemoveHostRequest>,
    ) -> Result<Response<v1::Host>, Status> {
        let caller = Caller::of(&request)?;
        self.change(&caller, &request.get_ref().host, Change::Remove)
            .await
    }
}
