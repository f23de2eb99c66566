//! Reconcilers: idempotent functions without input, run on a period and when poked, one run at a time in a replica.
//!
//! They assume that other replicas run them too: row locks and guarded updates decide. A failed run is not repeated before the next period or
//! poke, so that a database that is down is not hammered.

use std::time::Duration;

use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio_util::sync::CancellationToken;

use crate::{app::App, database::Signal, error::Result};

/// Runs `pass` until cancelled: at least every `period`, and soon after a signal that `concerns` accepts.
pub async fn reconcile<F, Fut>(
    app: App,
    name: &'static str,
    period: Duration,
    concerns: fn(&Signal) -> bool,
    cancel: CancellationToken,
    pass: F,
) where
    F: Fn(App) -> Fut + Send,
    Fut: Future<Output = Result<()>> + Send,
{
    let mut signals = app.bus.subscribe();
    loop {
        if let Err(error) = pass(app.clone()).await {
            tracing::warn!(
                task = name,
                error = format!("{:#}", anyhow::Error::new(error)),
                "a reconciler's pass failed"
            );
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(period) => {}
            () = heard(&mut signals, concerns) => {}
        }
    }
}

/// Returns when a signal of concern was heard, after taking all that came with it.
async fn heard(signals: &mut Receiver<Signal>, concerns: fn(&Signal) -> bool) {
    loop {
        match signals.recv().await {
            Ok(signal) if !concerns(&signal) && signal != Signal::Resync => {}
            Ok(_) | Err(RecvError::Lagged(_)) => break,
            // The bus is gone: only the period is left.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
    // What waits already is answered by the same pass.
    *signals = signals.resubscribe();
}
