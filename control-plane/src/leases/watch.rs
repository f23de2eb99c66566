//! Watching a lease: now, and after every change, until it is settled.
//!
//! The reader pulls: one that is slow sees fewer of the states in between, and always the newest.

use std::time::Duration;

use chrono::{DateTime, Utc};
use freehold_proto::id::LeaseId;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::broadcast::{
    Receiver,
    error::{RecvError, TryRecvError},
};

use super::store::{self, LeaseRecord};
use crate::{
    app::App,
    database::Signal,
    error::{Error, Result},
};

/// Signals are hints and may be lost: the lease is read again at least this often.
const PERIOD: Duration = Duration::from_secs(5);

struct Watch {
    app: App,
    lease: LeaseId,
    signals: Receiver<Signal>,
    /// When the watcher's credential expires.
    until: DateTime<Utc>,
    last: Option<LeaseRecord>,
    over: bool,
}

/// The lease now and after every change. Ends after the settled lease was sent, when the replica stops, and when the watcher's credential
/// expires.
pub(super) fn watch(
    app: App,
    lease: LeaseId,
    signals: Receiver<Signal>,
    until: DateTime<Utc>,
) -> BoxStream<'static, Result<LeaseRecord>> {
    let watch = Watch {
        app,
        lease,
        signals,
        until,
        last: None,
        over: false,
    };
    stream::unfold(watch, |mut watch| async move {
        if watch.over {
            return None;
        }
        let answer = watch.next().await;
        watch.over = answer
            .as_ref()
            .map_or(true, |record| record.lease.settled_at.is_some());
        Some((answer, watch))
    })
    .boxed()
}

impl Watch {
    /// The lease once it differs from what was sent last.
    async fn next(&mut self) -> Result<LeaseRecord> {
        loop {
            self.skip_waiting();
            let record =
                store::load_lease(&mut *self.app.pool.acquire().await?, self.lease).await?;
            if self.last.as_ref() != Some(&record) {
                self.last = Some(record.clone());
                return Ok(record);
            }
            self.wait().await?;
        }
    }

    /// Takes the signals that wait already: the read that follows answers them all.
    fn skip_waiting(&mut self) {
        while !matches!(
            self.signals.try_recv(),
            Err(TryRecvError::Empty | TryRecvError::Closed)
        ) {}
    }

    /// Until there may be something new.
    async fn wait(&mut self) -> Result<()> {
        let lease = self.lease.uuid();
        let left = (self.until - Utc::now()).to_std().unwrap_or_default();
        tokio::select! {
            () = heard(&mut self.signals, lease) => Ok(()),
            () = tokio::time::sleep(PERIOD.min(left)), if !left.is_zero() => Ok(()),
            () = std::future::ready(()), if left.is_zero() => Err(Error::Unauthenticated(
                "the credential has expired; get a new one and watch again".to_owned(),
            )),
            () = self.app.shutdown.cancelled() => Err(Error::Unavailable(
                "the server is stopping; watch again".to_owned(),
            )),
        }
    }
}

async fn heard(signals: &mut Receiver<Signal>, lease: uuid::Uuid) {
    loop {
        match signals.recv().await {
            Ok(Signal::Lease(id)) if id == lease => return,
            Ok(Signal::Resync) | Err(RecvError::Lagged(_)) => return,
            Ok(_) => {}
            // The bus is gone: only the period is left.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}
