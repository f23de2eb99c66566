//! Posts what is owed: for leases whose availability changed, at the bounds of the meter's hours, and a last time when an instance has ended.
//!
//! The hour that goes on is posted when it starts, so that a report up to now says what a running lease owes, and corrected when it is over.

use chrono::TimeDelta;
use freehold_proto::id::LeaseId;
use uuid::Uuid;

use super::{
    model::{Change, Period, decimal, difference, may_close, meter, next_due},
    store::{self, Metered, Posting},
};
use crate::{
    app::App,
    error::{Error, Result},
    leases::store::record_event,
};

/// Leases that are looked for at once.
const BATCH: i64 = 500;

/// How soon to look again at a lease whose last journal is waited for.
const CLOSING_INTERVAL: TimeDelta = TimeDelta::seconds(2);

/// One pass of the meter over every lease that has something to post.
///
/// # Errors
/// When the database does not answer. A lease that cannot be posted is logged, and keeps no other from being posted.
pub async fn post_due(app: App) -> Result<()> {
    let mut after = None;
    loop {
        let due = store::due_leases(&app.pool, after, BATCH).await?;
        for lease in &due {
            if let Err(error) = post_lease(&app, *lease).await {
                tracing::error!(
                    lease.id = %LeaseId::from(*lease),
                    error = format!("{:#}", anyhow::Error::new(error)),
                    "a lease's usage could not be posted"
                );
            }
        }
        after = due.last().copied();
        if i64::try_from(due.len()).unwrap_or(i64::MAX) < BATCH {
            return Ok(());
        }
    }
}

/// Posts what a lease owes up to now, and closes its meter when nothing more is expected. Another replica that is at it is not waited for.
pub(super) async fn post_lease(app: &App, lease: Uuid) -> Result<()> {
    let backfill = TimeDelta::from_std(app.config.limits.backfill).map_err(Error::internal)?;
    let mut tx = app.pool.begin().await?;
    if !store::hold_meter(&mut tx, lease).await? {
        return Ok(());
    }
    let Some(metered) = store::load_metered(&mut tx, lease).await? else {
        return Ok(());
    };
    let owed = meter(
        &metered.stretches,
        &metered.segments,
        metered.now,
        metered.after,
    );
    let changes = changes(&metered, &owed);
    let posting = store::post(&mut tx, &metered, &changes).await?;
    let closes = may_close(&metered.endings, metered.now, backfill);
    if posting != Posting::default() {
        let detail = in_words(&posting, closes);
        record_event(&mut tx, lease, None, "usage_posted", &detail).await?;
    }
    let over = metered.endings.iter().all(|ending| ending.over);
    let due = match (closes, over) {
        (true, _) => None,
        (false, true) => Some(metered.now + CLOSING_INTERVAL),
        (false, false) => next_due(&owed, &metered.segments, metered.now),
    };
    store::set_due(&mut tx, lease, due).await?;
    if closes && !metered.closed {
        store::close_meter(&mut tx, lease).await?;
    }
    // Last, and without waiting: whoever writes availability may hold rows that were written above.
    store::mark_metered(&mut tx, &metered).await?;
    tx.commit().await?;
    Ok(())
}

/// What has to be posted for each instance: they all owe the same hours.
fn changes(metered: &Metered, owed: &[Period]) -> Vec<(Uuid, Change)> {
    metered
        .instances
        .iter()
        .flat_map(|instance| {
            let posted = metered.posted.get(instance).map_or(&[][..], Vec::as_slice);
            difference(owed, posted, metered.now)
                .into_iter()
                .map(|change| (*instance, change))
        })
        .collect()
}

fn in_words(posting: &Posting, closes: bool) -> String {
    let amounts: Vec<String> = posting
        .micros
        .iter()
        .map(|(currency, micros)| format!("{} {currency}", decimal(*micros)))
        .collect();
    let last = if closes { "; the meter is closed" } else { "" };
    format!(
        "{} usage records and {} reversals were posted: {}{last}",
        posting.records,
        posting.reversals,
        amounts.join(", ")
    )
}
