//! `AuditService`: translation only.

use std::collections::BTreeMap;

use freehold_proto::{
    id::{AuditId, OrganizationId, PrincipalId},
    v1::{self, audit_service_server::AuditService},
};
use tonic::{Request, Response, Status};

use super::{service, store::AuditRow};
use crate::{
    app::App,
    gate::Caller,
    page::{Page, timestamp},
};

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

impl From<AuditRow> for v1::AuditEntry {
    fn from(row: AuditRow) -> Self {
        let id = |id: Option<String>| id.unwrap_or_default();
        Self {
            id: AuditId::from(row.id).to_string(),
            time: Some(timestamp(row.at)),
            principal_id: id(row.principal_id.map(|id| PrincipalId::from(id).to_string())),
            organization_id: id(row
                .organization_id
                .map(|id| OrganizationId::from(id).to_string())),
            action: row.action,
            target_id: row.target_id,
            call_id: row.call_id,
            details: serde_json::from_value::<BTreeMap<String, String>>(row.details)
                .unwrap_or_default(),
        }
    }
}
