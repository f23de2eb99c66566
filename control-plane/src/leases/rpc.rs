//! `LeaseService`: translation only.

use freehold_proto::v1::{self, lease_service_server::LeaseService};
use futures_util::{StreamExt as _, stream::BoxStream};
use tonic::{Request, Response, Status};

use super::{convert, model::request::Asked, service};
use crate::{app::App, database::request_id::Idempotency, gate::Caller, page::Page};

/// Serves `LeaseService`.
pub struct LeaseRpc {
    app: App,
}

impl LeaseRpc {
    /// On these parts.
    #[must_use]
    pub fn new(app: App) -> Self {
        Self { app }
    }
}

/// Which lease a request names.
macro_rules! named {
    ($body:expr) => {
        service::Named {
            lease: &$body.lease,
            organization: &$body.organization,
            project: &$body.project,
        }
    };
}

#[tonic::async_trait]
impl LeaseService for LeaseRpc {
    async fn create_lease(
        &self,
        request: Request<v1::CreateLeaseRequest>,
    ) -> Result<Response<v1::Lease>, Status> {
        let caller = Caller::of(&request)?;
        let mut body = request.into_inner();
        let idempotency =
            Idempotency::new(caller.principal, "lease.create", &body.request_id, &body)?;
        let organization = std::mem::take(&mut body.organization);
        let project = std::mem::take(&mut body.project);
        let within = (organization.as_str(), project.as_str());
        let asked = Asked::try_from(body)?;
        let record =
            service::create_lease(&self.app, &caller, within, asked, idempotency.as_ref()).await?;
        Ok(Response::new(record.into()))
    }

    async fn get_lease(
        &self,
        request: Request<v1::GetLeaseRequest>,
    ) -> Result<Response<v1::Lease>, Status> {
        let caller = Caller::of(&request)?;
        let record = service::get_lease(&self.app, &caller, named!(request.get_ref())).await?;
        Ok(Response::new(record.into()))
    }

    async fn list_leases(
        &self,
        request: Request<v1::ListLeasesRequest>,
    ) -> Result<Response<v1::ListLeasesResponse>, Status> {
        let caller = Caller::of(&request)?;
        let body = request.get_ref();
        let page = Page::parse(body.page_size, &body.page_token)?;
        let filter = convert::lease_filter(&body.states)?;
        let within = (body.organization.as_str(), body.project.as_str());
        let (records, next_page_token) =
            service::list_leases(&self.app, &caller, within, &filter, page).await?;
        let leases = records.into_iter().map(Into::into).collect();
        Ok(Response::new(v1::ListLeasesResponse {
            leases,
            next_page_token,
        }))
    }

    async fn end_lease(
        &self,
        request: Request<v1::EndLeaseRequest>,
    ) -> Result<Response<v1::Lease>, Status> {
        let caller = Caller::of(&request)?;
        let record = service::end_lease(&self.app, &caller, named!(request.get_ref())).await?;
        Ok(Response::new(record.into()))
    }

    type WatchLeaseStream = BoxStream<'static, Result<v1::WatchLeaseResponse, Status>>;

    async fn watch_lease(
        &self,
        request: Request<v1::WatchLeaseRequest>,
    ) -> Result<Response<Self::WatchLeaseStream>, Status> {
        let caller = Caller::of(&request)?;
        let records = service::watch_lease(&self.app, &caller, named!(request.get_ref())).await?;
        let answers = records.map(|record| match record {
            Ok(record) => Ok(v1::WatchLeaseResponse {
                lease: Some(record.into()),
            }),
            Err(error) => Err(error.into()),
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn explain_lease(
        &self,
        request: Request<v1::ExplainLeaseRequest>,
    ) -> Result<Response<v1::ExplainLeaseResponse>, Status> {
        let caller = Caller::of(&request)?;
        let explanation =
            service::explain_lease(&self.app, &caller, named!(request.get_ref())).await?;
        Ok(Response::new(explanation.into()))
    }
}
