//! Telemetry and health: gathered always, sent on the one stream that asked for it.

use std::{collections::VecDeque, mem, sync::Arc, time::Duration};

use freehold_proto::{
    agent_v1::{HealthReport, TelemetryBatch, attach_request::Message as Outgoing},
    time::timestamp_from_micros,
};
use tokio::{
    sync::{broadcast::error::RecvError, mpsc},
    time::MissedTickBehavior,
};

use super::{Shared, convert};
use crate::model::{GpuEvent, GpuRollup, GpuSample, HealthFinding};

/// Between samples.
const INTERVAL: Duration = Duration::from_secs(10);

/// Rollups and events that wait for a stream; beyond them the oldest are dropped. Eight GPUs make 480 rollups an hour.
const MOST_ROLLUPS: usize = 4096;
const MOST_EVENTS: usize = 256;

/// Rollups in one message.
const ROLLUPS_PER_BATCH: usize = 512;

/// The stream that takes telemetry.
#[derive(Debug, Clone)]
pub(super) struct Outlet {
    /// Tells one session from the next.
    pub(super) session: u64,
    pub(super) bulk: mpsc::Sender<Outgoing>,
}

#[derive(Debug, Default)]
struct Waiting {
    rollups: VecDeque<GpuRollup>,
    events: VecDeque<GpuEvent>,
}

impl Waiting {
    fn add_rollups(&mut self, rollups: Vec<GpuRollup>) {
        self.rollups.extend(rollups);
        let excess = self.rollups.len().saturating_sub(MOST_ROLLUPS);
        self.rollups.drain(..excess);
    }

    fn add_event(&mut self, event: GpuEvent) {
        self.events.push_back(event);
        if self.events.len() > MOST_EVENTS {
            self.events.pop_front();
        }
    }

    /// Sends what waits, with a sample or without. What the stream cannot take now waits on.
    fn send(&mut self, outlet: &mpsc::Sender<Outgoing>, now_us: i64, sample: &[GpuSample]) {
        let mut gpus = sample.iter().map(convert::sample).collect();
        loop {
            let Ok(room) = outlet.try_reserve() else {
                return;
            };
            let rollups = self.rollups.len().min(ROLLUPS_PER_BATCH);
            room.send(Outgoing::Telemetry(TelemetryBatch {
                sample_time: Some(timestamp_from_micros(now_us)),
                gpus: mem::take(&mut gpus),
                events: self.events.drain(..).map(|e| convert::event(&e)).collect(),
                rollups: self
                    .rollups
                    .drain(..rollups)
                    .map(|r| convert::rollup(&r))
                    .collect(),
            }));
            if self.rollups.is_empty() {
                return;
            }
        }
    }
}

/// Gathers and sends until the agent stops.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut outlets = shared.telemetry.subscribe();
    let mut events = shared.gpus.events();
    let mut findings = shared.gpus.findings();
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut waiting = Waiting::default();
    let outlet = || shared.telemetry.borrow().clone().map(|o| o.bulk);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                let sample = shared.gpus.sample().await;
                waiting.add_rollups(shared.gpus.take_rollups());
                if let Some(outlet) = outlet() {
                    waiting.send(&outlet, shared.clock.now_micros(), &sample);
                }
            }
            event = events.recv() => {
                match event {
                    Ok(event) => waiting.add_event(event),
                    Err(RecvError::Lagged(missed)) => {
                        tracing::warn!(missed, "GPU events came faster than they could be sent");
                    }
                    Err(RecvError::Closed) => return,
                }
                if let Some(outlet) = outlet() {
                    waiting.send(&outlet, shared.clock.now_micros(), &[]);
                }
            }
            changed = findings.changed() => {
                if changed.is_err() {
                    return;
                }
                send_health(&outlet(), &findings.borrow_and_update());
            }
            _ = outlets.changed() => {
                outlets.borrow_and_update();
                send_health(&outlet(), &findings.borrow());
            }
        }
    }
}

fn send_health(outlet: &Option<mpsc::Sender<Outgoing>>, findings: &[HealthFinding]) {
    let Some(outlet) = outlet else {
        return;
    };
    let report = HealthReport {
        findings: findings.iter().map(convert::finding).collect(),
    };
    if outlet.try_send(Outgoing::Health(report)).is_err() {
        tracing::warn!("the stream takes no health report now; the next hello brings it");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rollups(count: usize) -> Vec<GpuRollup> {
        (0..count)
            .map(|n| GpuRollup {
                uuid: format!("GPU-{n}"),
                ..GpuRollup::default()
            })
            .collect()
    }

    #[test]
    fn what_waits_is_sent_in_batches_and_once() {
        let (bulk, mut sent) = mpsc::channel(8);
        let mut waiting = Waiting::default();
        waiting.add_rollups(rollups(ROLLUPS_PER_BATCH + 1));
        waiting.add_event(GpuEvent::default());
        waiting.send(&bulk, 0, &[GpuSample::default()]);
        waiting.send(&bulk, 0, &[]);
        let mut seen = Vec::new();
        while let Ok(Outgoing::Telemetry(batch)) = sent.try_recv() {
            seen.push((batch.gpus.len(), batch.events.len(), batch.rollups.len()));
        }
        assert_eq!(seen, [(1, 1, ROLLUPS_PER_BATCH), (0, 0, 1), (0, 0, 0)]);
    }

    #[test]
    fn a_full_stream_loses_nothing_and_a_long_wait_only_the_oldest() {
        let (bulk, _sent) = mpsc::channel(1);
        bulk.try_send(Outgoing::Health(HealthReport::default()))
            .expect("room for one");
        let mut waiting = Waiting::default();
        waiting.add_rollups(rollups(MOST_ROLLUPS + 3));
        waiting.send(&bulk, 0, &[]);
        assert_eq!(waiting.rollups.len(), MOST_ROLLUPS);
        assert_eq!(waiting.rollups[0].uuid, "GPU-3");
    }
}
