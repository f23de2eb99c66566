//! The admin listener: metrics and probes, plain HTTP on loopback.

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::app::App;

/// Serves `/livez`, `/readyz` and `/metrics` until cancelled.
pub async fn serve_admin(app: App, listener: TcpListener, cancel: CancellationToken) {
    let router = Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(app);
    let served = axum::serve(listener, router)
        .with_graceful_shutdown(cancel.cancelled_owned())
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the admin listener failed");
    }
}

/// Ready when the database answers.
async fn readyz(State(app): State<App>) -> (StatusCode, &'static str) {
    match sqlx::query("select 1").execute(&app.pool).await {
        Ok(_) => (StatusCode::OK, "ok"),
        Err(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the database does not answer",
        ),
    }
}

async fn metrics(State(app): State<App>) -> Result<String, StatusCode> {
    crate::metrics::render(&app).await.map_err(|error| {
        tracing::warn!(%error, "metrics cannot be rendered");
        StatusCode::SERVICE_UNAVAILABLE
    })
}
