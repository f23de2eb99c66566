//! `AuditService`: translation only.

use freehold_proto::v1::{self, audit_service_server::AuditService};
use tonic::{Request, Response, Status};

use super::service;
use crate::{app::App, gate::Caller, page::Page};

/// Serves `AuditService`.
pub struct AuditRpc {
    app: App,
}

impl AuditRpc {
    /// On these parts.
    #[must_use]
    pub fn new(app: App) -> Self {
        Self { app }
    }
}

#[tonic::async_trait]
impl AuditService for AuditRpc {
    async fn list_audit_entries(
        &self,
        request: Request<v1::ListAuditEntriesRequest>,
    ) -> Result<Response<v1::ListAuditEntriesResponse>, Status> {
        let caller = Caller::of(&request)?;
        let body = request.get_ref();
        let page = Page::parse(body.page_size, &body.page_token)?;
        let (rows, next_page_token) =
            service::list_entries(&self.app, &caller, &body.organization, &body.action, page)
                .await?;
        Ok(Response::new(v1::ListAuditEntriesResponse {
            audit_entries: rows.into_iter().map(Into::into).collect(),
            next_page_token,
        }))
    }
}
