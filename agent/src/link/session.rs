//! One control stream, from its dial to its end.

use std::{
    pin::Pin,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use freehold_proto::{
    LINK_PROTOCOL,
    agent_v1::{
        AgentHello, AttachRequest, AttachResponse, ControlHello, Heartbeat, HeartbeatAck,
        Inventory, JournalBatch, attach_request::Message as Outgoing,
        attach_response::Message as Incoming, link_service_client::LinkServiceClient,
    },
    time::micros_from_timestamp,
};
use futures_util::Stream;
use tokio::{
    sync::{
        broadcast::{self, error::RecvError},
        mpsc,
    },
    time::{Instant, MissedTickBehavior},
};
use tonic::{Status, Streaming};

use super::{
    Shared, channel_over, convert,
    orders::{Order, Received},
    telemetry::Outlet,
};
use crate::{
    identity::tls,
    model::{Event, GpuInventory},
    tunnel,
};

/// How long the control plane may take for its hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Messages that wait to be sent: those that must not be late, and the others.
const URGENT_BACKLOG: usize = 64;
const BULK_BACKLOG: usize = 32;

/// Stretches in one message.
const ENTRIES_PER_BATCH: usize = 500;

/// Heartbeats without an answer after which a stream counts as dead.
const MISSED_HEARTBEATS: u32 = 3;

static SESSIONS: AtomicU64 = AtomicU64::new(1);

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionEnd {
    #[error(transparent)]
    Dial(#[from] tls::DialError),
    #[error("the connection broke: {}", chain(.0))]
    Transport(#[from] tonic::transport::Error),
    #[error("the replica refused or ended the stream: {}", refusal(.0))]
    Refused(#[from] Status),
    #[error("the replica closed the stream")]
    Closed,
    #[error("nothing was heard for {} ms", .0.as_millis())]
    Silent(Duration),
    #[error("the replica did not say hello: {0}")]
    NoHello(&'static str),
    #[error(
        "the replica speaks link protocol {0}, this agent {LINK_PROTOCOL}: update the older of them"
    )]
    Protocol(i32),
    #[error("the stream does not take what happens fast enough")]
    Behind,
    #[error("the GPUs are other ones now; the next hello says which")]
    Changed,
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

fn refusal(status: &Status) -> String {
    let inner = std::error::Error::source(status).map(chain);
    match inner {
        Some(inner) if !status.message().contains(&inner) => {
            format!("{} ({inner})", status.message())
        }
        _ => format!("{} ({:?})", status.message(), status.code()),
    }
}

/// Dials a replica and serves the stream until it ends, which is always with a reason.
pub(super) async fn run(shared: &Arc<Shared>, address: &str) -> SessionEnd {
    match Session::open(shared, address).await {
        Ok(session) => session.serve().await,
        Err(end) => end,
    }
}

struct Session {
    shared: Arc<Shared>,
    address: String,
    id: u64,
    urgent: mpsc::Sender<Outgoing>,
    bulk: mpsc::Sender<Outgoing>,
    incoming: Streaming<AttachResponse>,
    events: broadcast::Receiver<Event>,
    heartbeat_every: Duration,
    /// What the hello said.
    inventory: GpuInventory,
    /// Keeps the replica listed as one that can be asked.
    _connected: super::replicas::Connected,
}

impl Session {
    async fn open(shared: &Arc<Shared>, address: &str) -> Result<Self, SessionEnd> {
        let credentials = shared.identity.current();
        let stream = tls::dial(address, Arc::clone(&credentials.tls)).await?;
        let channel = channel_over(stream).await?;
        // Before the hello is made, so that nothing falls between it and the first event.
        let events = shared.events.subscribe();
        let (urgent, urgent_sent) = mpsc::channel(URGENT_BACKLOG);
        let (bulk, bulk_sent) = mpsc::channel(BULK_BACKLOG);
        let inventory = shared.gpus.inventory();
        let _ = urgent.try_send(Outgoing::Hello(hello(shared, &inventory)));
        let outgoing = Outbox {
            urgent: urgent_sent,
            bulk: bulk_sent,
        };
        let mut client = LinkServiceClient::new(channel.clone());
        let attach = async {
            let mut incoming = client.attach(outgoing).await?.into_inner();
            let first = incoming.message().await?;
            Ok::<_, Status>((incoming, first))
        };
        let (incoming, first) = tokio::time::timeout(HELLO_TIMEOUT, attach)
            .await
            .map_err(|_| SessionEnd::NoHello("not within 10 s"))??;
        let Some(Incoming::Hello(hello)) = first.and_then(|response| response.message) else {
            return Err(SessionEnd::NoHello("it sent something else first"));
        };
        if hello.protocol != LINK_PROTOCOL {
            return Err(SessionEnd::Protocol(hello.protocol));
        }
        let mut session = Self {
            shared: Arc::clone(shared),
            address: address.to_owned(),
            id: SESSIONS.fetch_add(1, Ordering::Relaxed),
            urgent,
            bulk,
            incoming,
            events,
            heartbeat_every: Duration::from_secs(5),
            inventory,
            _connected: shared.replicas.add(address, channel),
        };
        tracing::info!(
            address,
            replica.id = hello.replica_id,
            "the replica is connected"
        );
        session.welcome(hello).await;
        session.send_what_was_missed();
        Ok(session)
    }

    /// Takes over what the control plane's hello says.
    async fn welcome(&mut self, hello: ControlHello) {
        let interval_ms = u64::try_from(hello.heartbeat_interval_ms).unwrap_or(0);
        if interval_ms > 0 {
            self.heartbeat_every = Duration::from_millis(interval_ms.clamp(100, 60_000));
        }
        if let Some(now_us) = hello.now.as_ref().and_then(micros_from_timestamp) {
            let clock = &self.shared.clock;
            clock.set(now_us, clock.monotonic_micros());
        }
        if !self.shared.journal.admit_epoch(hello.epoch).await {
            tracing::warn!(
                address = self.address,
                epoch = hello.epoch,
                highest = self.shared.journal.epoch(),
                "the replica is of an older epoch; its orders are refused"
            );
        }
        if hello.telemetry {
            self.shared.telemetry.send_replace(Some(Outlet {
                session: self.id,
                bulk: self.bulk.clone(),
            }));
        } else {
            self.leave_telemetry();
        }
        self.shared.set_addresses(hello.agent_addresses);
    }

    fn leave_telemetry(&self) {
        self.shared.telemetry.send_if_modified(|outlet| {
            let ours = outlet.as_ref().is_some_and(|o| o.session == self.id);
            if ours {
                *outlet = None;
            }
            ours
        });
    }

    /// What happened while no stream, or another one, was up.
    fn send_what_was_missed(&self) {
        let outcomes = {
            let kept = self.shared.outcomes.lock();
            kept.unwrap_or_else(PoisonError::into_inner).clone()
        };
        for outcome in &outcomes {
            let report = convert::scrub_report(outcome);
            let _ = self.urgent.try_send(Outgoing::ScrubReport(report));
        }
        let stretches = self.shared.journal.unacknowledged();
        let bulk = self.bulk.clone();
        // In a task of its own: there may be more than the stream takes at once.
        self.shared.tasks.spawn(async move {
            for chunk in stretches.chunks(ENTRIES_PER_BATCH) {
                let batch = JournalBatch {
                    last_sequence: chunk.last().map_or(0, |stretch| stretch.sequence),
                    entries: chunk.iter().map(convert::journal_entry).collect(),
                };
                if bulk.send(Outgoing::Journal(batch)).await.is_err() {
                    return;
                }
            }
        });
    }

    async fn serve(mut self) -> SessionEnd {
        let limit = self.heartbeat_every * MISSED_HEARTBEATS;
        let mut heartbeats = tokio::time::interval(self.heartbeat_every);
        heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                incoming = self.incoming.message() => match incoming {
                    Ok(Some(AttachResponse { message: Some(message) })) => {
                        heard = Instant::now();
                        self.receive(message).await;
                    }
                    // A message that a later version knows.
                    Ok(Some(_)) => heard = Instant::now(),
                    Ok(None) => return SessionEnd::Closed,
                    Err(status) => return SessionEnd::Refused(status),
                },
                _ = heartbeats.tick() => {
                    if self.shared.gpus.inventory() != self.inventory {
                        return SessionEnd::Changed;
                    }
                    let monotonic_ms = self.shared.clock.monotonic_ms();
                    let beat = Outgoing::Heartbeat(Heartbeat { monotonic_ms });
                    // No room: the stream is stuck, and the silence that follows ends it.
                    let _ = self.urgent.try_send(beat);
                }
                () = tokio::time::sleep_until(heard + limit) => return SessionEnd::Silent(limit),
                event = self.events.recv() => match event {
                    Ok(event) => if self.urgent.try_send(message_of(&event)).is_err() {
                        return SessionEnd::Behind;
                    },
                    Err(RecvError::Lagged(_)) => return SessionEnd::Behind,
                    Err(RecvError::Closed) => return SessionEnd::Closed,
                },
            }
        }
    }

    async fn receive(&mut self, message: Incoming) {
        match message {
            Incoming::Hello(hello) => self.welcome(hello).await,
            Incoming::EnsureRunning(order) => self.order(convert::spec(order).map(Order::Run)),
            Incoming::EnsureGone(order) => self.order(convert::gone(order).map(Order::Remove)),
            Incoming::ScrubHost(order) => self.order(convert::scrub(order).map(Order::Scrub)),
            Incoming::Dial(dial) => {
                tracing::debug!(address = self.address, dial.id = dial.dial_id, "dials back");
                tunnel::dial_back(
                    &self.shared.tasks,
                    self.shared.cancel.clone(),
                    self.address.clone(),
                    Arc::clone(&self.shared.identity.current().reverse_tls),
                    Arc::clone(&self.shared.instances),
                );
            }
            Incoming::Replicas(replicas) => self.shared.set_addresses(replicas.agent_addresses),
            Incoming::JournalAck(ack) => {
                let journal = self.shared.journal.clone();
                // In a task of its own: a slow disk must not hold the heartbeats up.
                let forget = async move { journal.acknowledge(ack.last_sequence).await };
                self.shared.tasks.spawn(forget);
            }
            Incoming::HeartbeatAck(ack) => self.set_clock(&ack),
        }
    }

    /// The control plane's clock showed `now` at some moment between the heartbeat and its answer: half-way is taken.
    fn set_clock(&self, ack: &HeartbeatAck) {
        let Some(now_us) = ack.now.as_ref().and_then(micros_from_timestamp) else {
            return;
        };
        let clock = &self.shared.clock;
        let received_us = clock.monotonic_micros();
        let sent_us = ack.monotonic_ms.saturating_mul(1000).min(received_us);
        clock.set(now_us, sent_us + (received_us - sent_us) / 2);
    }

    fn order(&self, order: Result<Order, convert::BadOrder>) {
        let received = Received {
            order: order.unwrap_or_else(Order::Malformed),
            reply: self.urgent.clone(),
        };
        if self.shared.orders.try_send(received).is_err() {
            tracing::warn!("too many orders wait; one is dropped, and will be repeated");
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.leave_telemetry();
    }
}

fn message_of(event: &Event) -> Outgoing {
    match event {
        Event::Instance(status) => Outgoing::InstanceReport(convert::report(status)),
        Event::Scrub(outcome) => Outgoing::ScrubReport(convert::scrub_report(outcome)),
    }
}

fn hello(shared: &Shared, gpus: &GpuInventory) -> AgentHello {
    AgentHello {
        protocol_min: LINK_PROTOCOL,
        protocol_max: LINK_PROTOCOL,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        boot_id: shared.journal.boot_id().to_owned(),
        capabilities: shared.capabilities.clone(),
        inventory: Some(Inventory {
            hostname: shared.identity.current().identity.hostname.clone(),
            gpus: gpus.gpus.iter().map(convert::gpu).collect(),
            vcpus: convert::signed(shared.facts.vcpus),
            memory_bytes: convert::long(shared.facts.memory_bytes),
            scratch_bytes: convert::long(shared.facts.scratch_bytes),
            driver_version: gpus.driver_version.clone(),
            cuda_version: gpus.cuda_version.clone(),
            simulated: gpus.simulated,
        }),
        instances: shared
            .instances
            .statuses()
            .iter()
            .map(convert::report)
            .collect(),
        epoch: shared.journal.epoch(),
    }
}

/// What is sent: everything urgent before anything else, so that no bulk delays a heartbeat.
struct Outbox {
    urgent: mpsc::Receiver<Outgoing>,
    bulk: mpsc::Receiver<Outgoing>,
}

impl Stream for Outbox {
    type Item = AttachRequest;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<AttachRequest>> {
        let request = |message| {
            Poll::Ready(Some(AttachRequest {
                message: Some(message),
            }))
        };
        match self.urgent.poll_recv(cx) {
            Poll::Ready(Some(message)) => return request(message),
            // The session is over; bulk has nowhere to go.
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => {}
        }
        match self.bulk.poll_recv(cx) {
            Poll::Ready(Some(message)) => request(message),
            _ => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn nothing_that_waits_delays_what_is_urgent() {
        let (urgent, urgent_sent) = mpsc::channel(4);
        let (bulk, bulk_sent) = mpsc::channel(4);
        let mut outbox = Outbox {
            urgent: urgent_sent,
            bulk: bulk_sent,
        };
        for _ in 0..4 {
            let batch = Outgoing::Journal(JournalBatch::default());
            bulk.try_send(batch).expect("room");
        }
        let beat = Outgoing::Heartbeat(Heartbeat { monotonic_ms: 1 });
        urgent.try_send(beat.clone()).expect("room");
        let first = outbox.next().await.and_then(|request| request.message);
        assert_eq!(first, Some(beat));
        drop(urgent);
        assert_eq!(outbox.next().await, None, "the session is over");
    }
}
