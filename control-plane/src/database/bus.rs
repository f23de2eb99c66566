//! Signals through PostgreSQL's NOTIFY: they say that something changed, never what; whoever hears one reads the database.
//!
//! A signal is a hint. After a lost connection [`Signal::Resync`] is sent, and everything that listens looks again by itself on a period.

use std::time::Duration;

use sqlx::{PgConnection, PgPool, postgres::PgListener};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::error::Result;

const CHANNEL: &str = "freehold";

/// Signals a slow listener may lag behind before it is told to look at everything.
const BACKLOG: usize = 1024;

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// A lease or one of its instances.
    Lease(Uuid),
    /// A host.
    Host(Uuid),
    /// Availability or usage: the meter has work.
    Meter,
    /// Signals may have been missed.
    Resync,
}

impl Signal {
    fn encode(&self) -> String {
        match self {
            Self::Lease(id) => format!("lease:{id}"),
            Self::Host(id) => format!("host:{id}"),
            Self::Meter => "meter".to_owned(),
            Self::Resync => "resync".to_owned(),
        }
    }

    fn decode(text: &str) -> Self {
        let id = |rest: &str| Uuid::try_parse(rest).ok();
        match text.split_once(':') {
            Some(("lease", rest)) => id(rest).map_or(Self::Resync, Self::Lease),
            Some(("host", rest)) => id(rest).map_or(Self::Resync, Self::Host),
            _ if text == "meter" => Self::Meter,
            _ => Self::Resync,
        }
    }
}

/// Sends a signal when the transaction commits.
///
/// # Errors
/// When the database does not answer.
pub async fn notify(connection: &mut PgConnection, signal: &Signal) -> Result<()> {
    sqlx::query!("select pg_notify($1, $2)", CHANNEL, signal.encode())
        .execute(connection)
        .await?;
    Ok(())
}

/// This replica's ear. Cheap to clone.
#[derive(Clone)]
pub struct Bus {
    sender: broadcast::Sender<Signal>,
}

impl Default for Bus {
    fn default() -> Self {
        Self {
            sender: broadcast::channel(BACKLOG).0,
        }
    }
}

impl Bus {
    /// Signals from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Signal> {
        self.sender.subscribe()
    }

    /// Listens until cancelled, connecting again whenever the connection is lost.
    pub async fn listen(self, pool: PgPool, cancel: CancellationToken) {
        while !cancel.is_cancelled() {
            let heard = tokio::select! {
                () = cancel.cancelled() => return,
                heard = self.listen_once(&pool) => heard,
            };
            if let Err(error) = heard {
                tracing::warn!(%error, "lost the notification connection; connecting again");
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(Duration::from_millis(500)) => {}
            }
        }
    }

    async fn listen_once(&self, pool: &PgPool) -> sqlx::Result<()> {
        let mut listener = PgListener::connect_with(pool).await?;
        listener.listen(CHANNEL).await?;
        let _ = self.sender.send(Signal::Resync);
        // None: the connection was lost and made again, and signals may have been missed.
        while let Some(notification) = listener.try_recv().await? {
            let _ = self.sender.send(Signal::decode(notification.payload()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_round_trips_and_rubbish_means_look_again() {
        for signal in [
            Signal::Lease(Uuid::now_v7()),
            Signal::Host(Uuid::now_v7()),
            Signal::Meter,
        ] {
            assert_eq!(Signal::decode(&signal.encode()), signal);
        }
        assert_eq!(Signal::decode("lease:x"), Signal::Resync);
        assert_eq!(Signal::decode(""), Signal::Resync);
    }
}
