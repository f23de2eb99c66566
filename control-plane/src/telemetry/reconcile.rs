//! Writes telemetry down, in batches, and forgets what is old.

use std::time::Duration;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::store;
use crate::{
    app::App,
    background::reconcile,
    error::{Error, Result},
};

/// Between batches of rollups and events.
const HISTORY: Duration = Duration::from_secs(1);

/// Between the newest samples that other replicas see.
const LATEST: Duration = Duration::from_secs(3);

/// Between looks for what is old.
const FORGET: Duration = Duration::from_mins(10);

/// Starts what looks after telemetry.
pub(crate) fn spawn(app: &App, tasks: &TaskTracker, cancel: &CancellationToken) {
    tasks.spawn(reconcile(
        app.clone(),
        "telemetry-history",
        HISTORY,
        |_| false,
        cancel.clone(),
        |app| async move { write_history(&app).await },
    ));
    tasks.spawn(reconcile(
        app.clone(),
        "telemetry-latest",
        LATEST,
        |_| false,
        cancel.clone(),
        |app| async move { write_latest(&app).await },
    ));
    tasks.spawn(reconcile(
        app.clone(),
        "telemetry-forget",
        FORGET,
        |_| false,
        cancel.clone(),
        |app| async move {
            while store::forget_old(&app.pool).await? > 0 {}
            Ok(())
        },
    ));
}

/// Writes what waits. It waits on while the database does not answer; what can never be written is lost, and said to be.
pub(super) async fn write_history(app: &App) -> Result<()> {
    let history = app.telemetry.drain();
    if history.rollups.is_empty() && history.events.is_empty() {
        return Ok(());
    }
    let written = store::write_history(&app.pool, &history).await;
    if let Err(Error::Unavailable(_)) = written {
        app.telemetry.put_back(history);
    }
    written
}

/// Writes the newest samples.
pub(super) async fn write_latest(app: &App) -> Result<()> {
    let samples = app.telemetry.take_samples();
    if samples.is_empty() {
        return Ok(());
    }
    let written = store::write_latest(&app.pool, &samples).await;
    if written.is_err() {
        app.telemetry.put_back_samples(&samples);
    }
    written
}
