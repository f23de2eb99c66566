//! `BillingService`: translation only.

use freehold_proto::v1::{self, billing_service_server::BillingService};
use tonic::{Request, Response, Status};

use super::{
    model::{GroupBy, ReportPage},
    service::{self, Asked},
};
use crate::{
    app::App,
    gate::Caller,
    page::{Page, parse_time},
};

/// Serves `BillingService`.
pub struct BillingRpc {
    app: App,
}

impl BillingRpc {
    /// On these parts.
    #[must_use]
    pub fn new(app: App) -> Self {
        Self { app }
    }
}

#[tonic::async_trait]
impl BillingService for BillingRpc {
    async fn get_report(
        &self,
        request: Request<v1::GetReportRequest>,
    ) -> Result<Response<v1::GetReportResponse>, Status> {
        let caller = Caller::of(&request)?;
        let body = request.get_ref();
        let asked = Asked {
            from: parse_time("from_time", body.from_time.as_ref())?,
            to: parse_time("to_time", body.to_time.as_ref())?,
            group_by: GroupBy::parse(&body.group_by)?,
            organization: &body.organization,
            project: &body.project,
            page: ReportPage::parse(body.page_size, &body.page_token)?,
        };
        let report = service::get_report(&self.app, &caller, asked).await?;
        Ok(Response::new(report.into()))
    }

    async fn list_usage_records(
        &self,
        request: Request<v1::ListUsageRecordsRequest>,
    ) -> Result<Response<v1::ListUsageRecordsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let body = request.get_ref();
        let page = Page::parse(body.page_size, &body.page_token)?;
        let within = (
            body.organization.as_str(),
            body.project.as_str(),
            body.lease.as_str(),
        );
        let (rows, next_page_token) = service::list_usage(&self.app, &caller, within, page).await?;
        Ok(Response::new(v1::ListUsageRecordsResponse {
            usage_records: rows.into_iter().map(Into::into).collect(),
            next_page_token,
        }))
    }
}
