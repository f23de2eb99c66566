//! `OrganizationService`: translation only.

use freehold_proto::v1::{self, organization_service_server::OrganizationService};
use tonic::{Request, Response, Status};

use super::service;
use crate::{app::App, database::request_id::Idempotency, gate::Caller, page::Page};

/// Serves `OrganizationService`.
pub struct OrganizationRpc {
    app: App,
}

impl OrganizationRpc {
    /// On these parts.
    #[must_use]
    pub fn new(app: App) -> Self {
        Self { app }
    }
}

#[tonic::async_trait]
impl OrganizationService for OrganizationRpc {
    async fn create_organization(
        &self,
        request: Request<v1::CreateOrganizationRequest>,
    ) -> Result<Response<v1::Organization>, Status> {
        let caller = Caller::of(&request)?;
        let body = request.into_inner();
        let idempotency = Idempotency::new(
            caller.principal,
            "organization.create",
            &body.request_id,
            &body,
        )?;
        let row =
            service::create_organization(&self.app, &caller, &body.name, idempotency.as_ref())
                .await?;
        Ok(Response::new(row.into()))
    }

    async fn get_organization(
        &self,
        request: Request<v1::GetOrganizationRequest>,
    ) -> Result<Response<v1::Organization>, Status> {
        let caller = Caller::of(&request)?;
        let row =
            service::get_organization(&self.app, &caller, &request.get_ref().organization).await?;
        Ok(Response::new(row.into()))
    }

    async fn list_organizations(
        &self,
        request: Request<v1::ListOrganizationsRequest>,
    ) -> Result<Response<v1::ListOrganizationsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let page = Page::parse(request.get_ref().page_size, &request.get_ref().page_token)?;
        let (rows, next_page_token) = service::list_organizations(&self.app, &caller, page).await?;
        let organizations = rows.into_iter().map(Into::into).collect();
        Ok(Response::new(v1::ListOrganizationsResponse {
            organizations,
            next_page_token,
        }))
    }

    async fn create_project(
        &self,
        request: Request<v1::CreateProjectRequest>,
    ) -> Result<Response<v1::Project>, Status> {
        let caller = Caller::of(&request)?;
        let body = request.into_inner();
        let idempotency =
            Idempotency::new(caller.principal, "project.create", &body.request_id, &body)?;
        let row = service::create_project(
            &self.app,
            &caller,
            &body.organization,
            &body.name,
            idempotency.as_ref(),
        )
        .await?;
        Ok(Response::new(row.into()))
    }

    async fn list_projects(
        &self,
        request: Request<v1::ListProjectsRequest>,
    ) -> Result<Response<v1::ListProjectsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let body = request.get_ref();
        let page = Page::parse(body.page_size, &body.page_token)?;
        let (rows, next_page_token) =
            service::list_projects(&self.app, &caller, &body.organization, page).await?;
        let projects = rows.into_iter().map(Into::into).collect();
        Ok(Response::new(v1::ListProjectsResponse {
            projects,
            next_page_token,
        }))
    }
}
