//! Which service stands behind which listener, and what runs in the background: the list that a new capability joins.

use std::time::Duration;

use axum::Router;
use freehold_proto::{
    FILE_DESCRIPTOR_SET, REVERSE_ALPN,
    agent_v1::{self, link_service_server::LinkServiceServer},
    v1,
};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;

use crate::{
    access::rpc::AccessRpc,
    app::App,
    audit::rpc::AuditRpc,
    background::reconcile,
    billing::{self, rpc::BillingRpc},
    catalog::rpc::CatalogRpc,
    database::{Signal, request_id},
    gate::GateLayer,
    hosts::{self, EnrollmentRpc, HostRpc, LinkRpc},
    leases::{self, rpc::LeaseRpc},
    listeners::Connection,
    organizations::rpc::OrganizationRpc,
    telemetry::{self, rpc::TelemetryRpc},
};

/// A request's largest size, 1 MiB: the largest legitimate one, a lease with 32 keys and 64 labels, has under 64 KiB.
const MAX_REQUEST: usize = 1024 * 1024;

/// An agent's largest message, 4 MiB: a journal batch of 500 entries and 512 rollups have under 256 KiB.
const MAX_AGENT_MESSAGE: usize = 4 * 1024 * 1024;

macro_rules! serve {
    ($routes:ident, $($server:path => $service:expr),* $(,)?) => {
        $($routes.add_service(<$server>::new($service).max_decoding_message_size(MAX_REQUEST));)*
    };
}

/// What the public listener serves, behind the gate.
pub(crate) fn public(app: &App) -> Router {
    let mut routes = Routes::builder();
    serve!(routes,
        agent_v1::enrollment_service_server::EnrollmentServiceServer<_> => EnrollmentRpc::new(app.clone()),
        v1::telemetry_service_server::TelemetryServiceServer<_> => TelemetryRpc::new(app.clone()),
        v1::host_service_server::HostServiceServer<_> => HostRpc::new(app.clone()),
        v1::audit_service_server::AuditServiceServer<_> => AuditRpc::new(app.clone()),
        v1::billing_service_server::BillingServiceServer<_> => BillingRpc::new(app.clone()),
        v1::catalog_service_server::CatalogServiceServer<_> => CatalogRpc::new(app.clone()),
        v1::access_service_server::AccessServiceServer<_> => AccessRpc::new(app.clone()),
        v1::lease_service_server::LeaseServiceServer<_> => LeaseRpc::new(app.clone()),
        v1::organization_service_server::OrganizationServiceServer<_> => OrganizationRpc::new(app.clone()),
    );
    add_infrastructure(&mut routes);
    routes
        .routes()
        .into_axum_router()
        .layer(GateLayer::new(app.pool.clone()))
}

/// Reflection (v1 and v1alpha) and health: the only RPCs that answer without credentials.
fn add_infrastructure(routes: &mut tonic::service::RoutesBuilder) {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    if let (Ok(v1), Ok(v1alpha)) = (reflection().build_v1(), reflection().build_v1alpha()) {
        routes.add_service(v1).add_service(v1alpha);
    }
    let (_reporter, health) = tonic_health::server::health_reporter();
    routes.add_service(health);
}

/// What the agent listener serves.
pub(crate) fn agent(app: &App) -> Router {
    let mut routes = Routes::builder();
    routes.add_service(
        LinkServiceServer::new(LinkRpc::new(app.clone()))
            .max_decoding_message_size(MAX_AGENT_MESSAGE),
    );
    routes.routes().into_axum_router()
}

/// Serves one connection of an agent: its calls, or, when it dialled back, the byte streams to what runs on its host.
pub(crate) async fn serve_agent(
    app: App,
    router: Router,
    connection: Connection,
    cancel: CancellationToken,
) {
    if connection.protocol() == Some(REVERSE_ALPN) {
        hosts::serve_reversed(app, connection, cancel).await;
    } else {
        crate::listeners::accept::serve_http(connection, router, cancel).await;
    }
}

/// Serves the SSH gateway.
pub(crate) async fn serve_ssh(
    app: App,
    listener: TcpListener,
    tasks: TaskTracker,
    cancel: CancellationToken,
) {
    crate::access::gateway::serve(app, listener, tasks, cancel).await;
}

/// Starts the reconcilers.
pub(crate) fn spawn_reconcilers(app: &App, tasks: &TaskTracker, cancel: &CancellationToken) {
    leases::reconcile::spawn(app, tasks, cancel);
    hosts::spawn_reconcilers(app, tasks, cancel);
    telemetry::reconcile::spawn(app, tasks, cancel);
    tasks.spawn(reconcile(
        app.clone(),
        "request-ids",
        Duration::from_hours(1),
        |_| false,
        cancel.clone(),
        |app| async move { request_id::forget_old(&app.pool).await.map(|_| ()) },
    ));
    tasks.spawn(reconcile(
        app.clone(),
        "meter",
        app.config.limits.reconcile_interval,
        |signal| *signal == Signal::Meter,
        cancel.clone(),
        billing::reconcile::post_due,
    ));
}
