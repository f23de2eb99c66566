//! `TelemetryService`: translation only.

use freehold_proto::v1::{self, telemetry_service_server::TelemetryService};
use tonic::{Request, Response, Status};

use super::{convert, service};
use crate::{app::App, gate::Caller};

/// Serves `TelemetryService`.
pub struct TelemetryRpc {
    app: App,
}

impl TelemetryRpc {
    /// On these parts.
    #[must_use]
    pub fn new(app: App) -> Self {
        Self { app }
    }
}

#[tonic::async_trait]
impl TelemetryService for TelemetryRpc {
    async fn get_host_telemetry(
        &self,
        request: Request<v1::GetHostTelemetryRequest>,
    ) -> Result<Response<v1::HostTelemetry>, Status> {
        let caller = Caller::of(&request)?;
        let v1::GetHostTelemetryRequest { host, minutes } = request.get_ref();
        let (id, shown) = service::get_host_telemetry(&self.app, &caller, host, *minutes).await?;
        Ok(Response::new(convert::shown(id, shown)))
    }
}
