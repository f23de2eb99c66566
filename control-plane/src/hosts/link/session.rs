//! One control stream, from the agent's hello to its end.
//!
//! ```text
//! agent ──► reader: heartbeats answered at once ──► queue ──► worker: everything else, in order, into the database
//! ```
//! A database that does not answer holds the worker up, not the heartbeats. A worker that is too far behind ends the session: the agent's next
//! hello says everything anew.

use std::time::Duration;

use freehold_proto::{
    LINK_PROTOCOL,
    agent_v1::{
        AgentHello, AttachRequest, AttachResponse, ControlHello, Heartbeat, HeartbeatAck,
        attach_request::Message as Incoming, attach_response::Message as Outgoing,
    },
    id::HostId,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::{Agent, convert, work};
use crate::{
    app::App,
    cluster,
    error::{Error, Result},
    hosts::{
        links::Held,
        store::{
            hello,
            session::{self, Session},
        },
    },
    page::timestamp,
};

/// How long an agent may take for its hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Messages that may wait for the database.
const QUEUE: usize = 256;

type Sender = mpsc::Sender<std::result::Result<AttachResponse, Status>>;

/// Serves a control stream until it ends.
pub(super) async fn serve(
    app: App,
    agent: Agent,
    mut incoming: Streaming<AttachRequest>,
    sender: Sender,
) {
    let begun = begin(&app, &agent, &mut incoming, &sender).await;
    let (session, ended, hello) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            tracing::warn!(host.id = %agent.host, %error, "an agent's hello is refused");
            let _ = sender.send(Err(error.into())).await;
            return;
        }
    };
    tracing::info!(host.id = %agent.host, version = hello.agent_version, "an agent is connected");
    let (queue, queued) = mpsc::channel(QUEUE);
    // The first of an empty queue.
    let _ = queue.try_send(Incoming::Hello(hello));
    let worker = work::run(app.clone(), session, queued, sender.clone());
    let reader = read(&app, agent.host, &mut incoming, &queue, &sender);
    let reason = tokio::select! {
        reason = reader => reason,
        () = worker => "the worker ended",
        () = ended.cancelled() => "another session took its place, or it was cut",
        () = app.shutdown.cancelled() => "the replica stops",
    };
    tracing::info!(host.id = %agent.host, reason, "an agent's stream ended");
    app.links.detach(agent.host, number(session));
    if let Err(error) = forget(&app, session).await {
        tracing::debug!(%error, "the session stays written down until the replica's end or the next hello");
    }
}

async fn forget(app: &App, session: Session) -> Result<()> {
    session::end(&mut *app.pool.acquire().await?, session).await
}

/// Generations count up from one.
fn number(session: Session) -> u64 {
    session.generation.unsigned_abs()
}

/// Takes the agent's hello, answers it and registers the stream.
async fn begin(
    app: &App,
    agent: &Agent,
    incoming: &mut Streaming<AttachRequest>,
    sender: &Sender,
) -> Result<(Session, CancellationToken, AgentHello)> {
    let first = tokio::time::timeout(HELLO_TIMEOUT, incoming.message()).await;
    let Ok(Ok(Some(AttachRequest {
        message: Some(Incoming::Hello(hello)),
    }))) = first
    else {
        return Err(Error::Precondition {
            reason: "NO_HELLO",
            message: "the first message must be the agent's hello, within 10 s".to_owned(),
        });
    };
    let protocol = negotiate(hello.protocol_min, hello.protocol_max)?;
    if hello.epoch > app.epoch {
        tracing::error!(
            host.id = %agent.host, agent.epoch = hello.epoch, epoch = app.epoch,
            "the agent has obeyed a later epoch than this replica's: was a backup restored? Run `freehold-control-plane raise-epoch` and \
             restart every replica; until then the agent refuses its orders"
        );
    }
    let said = convert::hello(&hello)?;
    let (session, telemetry) =
        hello::welcome(&app.pool, app.replica_id, agent.host, &agent.serial, &said).await?;
    let answer = control_hello(app, protocol, telemetry).await?;
    // Before any order: the first message of each side is its hello.
    let _ = sender
        .send(Ok(AttachResponse {
            message: Some(Outgoing::Hello(answer)),
        }))
        .await;
    let held = Held {
        host: agent.host,
        session: number(session),
        serial: agent.serial.clone(),
    };
    let ended = app.links.hold(held, sender.clone());
    Ok((session, ended, hello))
}

/// The highest version that both speak: this one or the one before.
fn negotiate(min: i32, max: i32) -> Result<i32> {
    let protocol = max.min(LINK_PROTOCOL);
    let oldest = (LINK_PROTOCOL - 1).max(1);
    if protocol < min || protocol < oldest {
        return Err(Error::Precondition {
            reason: "LINK_PROTOCOL",
            message: format!(
                "the agent speaks link protocols {min} to {max}, this control plane {oldest} to {LINK_PROTOCOL}: update the older of them"
            ),
        });
    }
    Ok(protocol)
}

/// Says hello again on a stream that is up, to have telemetry sent on it. An agent that does not take it now is cut before long, and says
/// hello anew.
pub(in crate::hosts) async fn ask_for_telemetry(app: &App, host: HostId) -> Result<()> {
    let hello = control_hello(app, LINK_PROTOCOL, true).await?;
    let _ = app.links.send(host, Outgoing::Hello(hello));
    Ok(())
}

async fn control_hello(app: &App, protocol: i32, telemetry: bool) -> Result<ControlHello> {
    let interval = app.config.limits.heartbeat.as_millis();
    Ok(ControlHello {
        protocol,
        epoch: app.epoch,
        replica_id: app.replica_id.to_string(),
        heartbeat_interval_ms: i64::try_from(interval).unwrap_or(i64::MAX),
        telemetry,
        agent_addresses: cluster::agent_addresses(&app.pool).await?,
        now: Some(timestamp(app.links.heard().now())),
    })
}

/// Reads until the stream ends; returns why it did.
async fn read(
    app: &App,
    host: HostId,
    incoming: &mut Streaming<AttachRequest>,
    queue: &mpsc::Sender<Incoming>,
    sender: &Sender,
) -> &'static str {
    loop {
        let message = match incoming.message().await {
            Ok(Some(request)) => request.message,
            Ok(None) => return "the agent closed it",
            Err(error) => {
                tracing::debug!(host.id = %host, %error, "an agent's stream broke");
                return "it broke";
            }
        };
        app.links.heard().note(host);
        // Absent: a message that a later version knows.
        let Some(message) = message else { continue };
        match message {
            Incoming::Heartbeat(beat) => answer(app, &beat, sender),
            Incoming::Hello(_) => return "the agent said hello twice",
            message => {
                let Ok(room) = queue.try_reserve() else {
                    let behind =
                        Status::resource_exhausted("too many messages wait; say hello anew");
                    let _ = sender.try_send(Err(behind));
                    return "too many messages wait";
                };
                room.send(message);
            }
        }
    }
}

fn answer(app: &App, beat: &Heartbeat, sender: &Sender) {
    let ack = HeartbeatAck {
        monotonic_ms: beat.monotonic_ms,
        now: Some(timestamp(app.links.heard().now())),
    };
    // No room: the agent does not read, and its next heartbeat is answered when it does.
    let _ = sender.try_send(Ok(AttachResponse {
        message: Some(Outgoing::HeartbeatAck(ack)),
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_common_version_is_spoken() {
        assert_eq!(negotiate(1, 1).unwrap(), 1);
        assert_eq!(negotiate(1, 7).unwrap(), LINK_PROTOCOL);
        let error = negotiate(LINK_PROTOCOL + 1, LINK_PROTOCOL + 2).unwrap_err();
        assert_eq!(error.reason(), "LINK_PROTOCOL");
        assert!(negotiate(0, 0).is_err());
    }
}
