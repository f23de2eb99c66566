//! What agents say, taken into the database in the order it was said.

use std::time::Duration;

use freehold_proto::agent_v1::{
    AttachResponse, JournalAck, attach_request::Message as Incoming,
    attach_response::Message as Outgoing,
};
use tokio::sync::mpsc;
use tonic::Status;

use super::convert;
use crate::{
    app::App,
    error::{Error, Result},
    hosts::store::{finding, session::Session},
    leases::reports,
    telemetry::convert as telemetry,
};

/// Between attempts while the database does not answer.
const PAUSE: Duration = Duration::from_secs(1);

/// Attempts at what fails for another reason than that.
const ATTEMPTS: u32 = 3;

/// Takes messages until there are no more.
pub(super) async fn run(
    app: App,
    session: Session,
    mut queue: mpsc::Receiver<Incoming>,
    sender: mpsc::Sender<std::result::Result<AttachResponse, Status>>,
) {
    while let Some(message) = queue.recv().await {
        take(&app, session, &message).await;
        // Acknowledged after the commit, and also when it can never be taken: the agent would send it for ever.
        if let Incoming::Journal(batch) = &message {
            let ack = JournalAck {
                last_sequence: batch.last_sequence,
            };
            let _ = sender
                .send(Ok(AttachResponse {
                    message: Some(Outgoing::JournalAck(ack)),
                }))
                .await;
        }
    }
}

/// Takes one message. A database that does not answer is waited for; what it can never take is logged and left.
async fn take(app: &App, session: Session, message: &Incoming) {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let error = match store(app, session, message).await {
            Ok(()) => return,
            Err(error) => error,
        };
        let retried = match &error {
            Error::Unavailable(_) => true,
            Error::Internal(_) => attempt < ATTEMPTS,
            _ => false,
        };
        if !retried {
            let error = format!("{:#}", anyhow::Error::new(error));
            tracing::error!(host.id = %session.host, error, "what an agent said cannot be taken");
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn store(app: &App, session: Session, message: &Incoming) -> Result<()> {
    match message {
        Incoming::InstanceReport(report) => {
            reports::instance_report(app, session.host, report).await
        }
        Incoming::ScrubReport(report) => reports::scrub_report(app, session.host, report).await,
        Incoming::Journal(batch) => reports::journal_batch(app, session.host, batch).await,
        Incoming::Health(report) => {
            finding::replace(&app.pool, session, convert::findings(report)).await
        }
        Incoming::Telemetry(batch) => {
            app.telemetry.take(session.host, telemetry::batch(batch));
            Ok(())
        }
        // The first of every session.
        Incoming::Hello(hello) => reports::hello(app, session.host, &hello.instances).await,
        // The reader answers these.
        Incoming::Heartbeat(_) => Ok(()),
    }
}
