//! Makes the hosts match what is recorded: a pass takes a snapshot, decides for each instance, and executes what was decided.
//!
//! Any number of replicas do this at the same time. A decision is executed in a transaction that holds the lease's row and looks again whether
//! the instance is still what the snapshot said; orders go out from whichever replica the host's agent is connected to.

mod bookings;
mod deadlines;
mod execute;
mod orders;
mod prove;
mod replace;
mod scrubs;
mod settle;
mod snapshot;

use std::sync::Arc;

use chrono::TimeDelta;
use futures_util::StreamExt as _;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    orders::Sent,
    prove::Proofs,
    snapshot::{Selection, View},
};
use super::model::decision::{Decision, Limits, decide, needs_order};
use crate::{
    app::App,
    background,
    database::Signal,
    error::{Error, Result},
};

/// Instances that are worked on at the same time by one pass.
const AT_ONCE: usize = 8;

/// What a replica remembers between passes; nothing of it matters to what is decided.
struct Memory {
    sent: Sent,
    proofs: Proofs,
}

/// Starts the reconcilers of leases.
pub(crate) fn spawn(app: &App, tasks: &TaskTracker, cancel: &CancellationToken) {
    let period = app.config.limits.reconcile_interval;
    let memory = Arc::new(Memory {
        sent: Sent::default(),
        proofs: Proofs::new(tasks.clone()),
    });
    tasks.spawn(background::reconcile(
        app.clone(),
        "leases",
        period,
        |signal| matches!(signal, Signal::Lease(_) | Signal::Host(_)),
        cancel.clone(),
        move |app| {
            let memory = Arc::clone(&memory);
            async move { pass(&app, &memory).await }
        },
    ));
    tasks.spawn(background::reconcile(
        app.clone(),
        "settlements",
        period,
        |signal| matches!(signal, Signal::Lease(_) | Signal::Meter),
        cancel.clone(),
        |app| async move { settle::settle(&app).await },
    ));
}

async fn pass(app: &App, memory: &Arc<Memory>) -> Result<()> {
    deadlines::end_what_is_over(app).await?;
    bookings::keep_clear(app).await?;
    let limits = limits(app)?;
    let views = {
        let mut connection = app.pool.acquire().await?;
        snapshot::take(app, &mut connection, Selection::Due, i64::MAX).await?
    };
    futures_util::stream::iter(views)
        .for_each_concurrent(AT_ONCE, |view| {
            let memory = Arc::clone(memory);
            async move {
                let decision = decide(&view.situation, &limits);
                let instance = view.instance;
                if let Err(error) = act(app, &memory, view, decision).await {
                    // The others go on; the next pass tries this one again.
                    let error = format!("{:#}", anyhow::Error::new(error));
                    tracing::warn!(instance.id = %instance, error, "an instance could not be reconciled");
                }
            }
        })
        .await;
    scrubs::drive(app, &memory.sent).await
}

async fn act(app: &App, memory: &Arc<Memory>, view: View, decision: Decision) -> Result<()> {
    match decision {
        Decision::Wait => Ok(()),
        Decision::Begin => {
            if execute::begin(app, &view).await? {
                order(app, memory, &view).await?;
            }
            Ok(())
        }
        Decision::Order => order(app, memory, &view).await,
        Decision::Prove => {
            memory.proofs.prove(app, view);
            Ok(())
        }
        Decision::Observe(condition) => {
            execute::observe(app, &view, &condition).await?;
            memory.proofs.prove_again(app, &view, &condition);
            if needs_order(&view.situation) {
                order(app, memory, &view).await?;
            }
            Ok(())
        }
        Decision::Replace(reason) => replace::replace(app, &view, &reason).await,
        Decision::Fail(reason) => execute::fail(app, &view, &reason).await,
        Decision::Remove => execute::remove(app, &memory.sent, &view).await,
        Decision::Conclude => execute::conclude(app, &view).await,
        Decision::GiveUp(reason) => execute::give_up(app, &view, &reason).await,
    }
}

async fn order(app: &App, memory: &Memory, view: &View) -> Result<()> {
    let Some(host) = view.host else { return Ok(()) };
    let mut connection = app.pool.acquire().await?;
    let subject = (host, view.instance, view.situation.generation);
    orders::run(app, &memory.sent, &mut connection, subject).await
}

fn limits(app: &App) -> Result<Limits> {
    let of = |limit| TimeDelta::from_std(limit).map_err(Error::internal);
    Ok(Limits {
        provision: of(app.config.limits.provision_timeout)?,
        verify: of(app.config.limits.verify_timeout)?,
        scrub: of(app.config.limits.scrub_timeout)?,
        silence: of(app.config.limits.host_timeout)?,
    })
}

/// One pass, with a memory of its own, as a replica that has just started would make it.
#[cfg(test)]
pub(crate) async fn pass_once(app: &App) -> Result<()> {
    let memory = Arc::new(Memory {
        sent: Sent::default(),
        proofs: Proofs::new(TaskTracker::new()),
    });
    pass(app, &memory).await
}

/// Settles what can be settled.
#[cfg(test)]
pub(crate) async fn settle_once(app: &App) -> Result<()> {
    settle::settle(app).await
}
