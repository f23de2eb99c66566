//! Finds what runs, and keeps an eye on it: the engine's events tell at once, a period tells what they missed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bollard::query_parameters::EventsOptionsBuilder;
use freehold_proto::id::InstanceId;
use futures_util::StreamExt as _;
use tokio::time::MissedTickBehavior;

use super::{Shared, records};
use crate::{
    model::{InstanceStatus, ReportedState},
    runtime::{EngineError, LABEL_HOST, LABEL_INSTANCE, Record, with_labels},
};

/// Between looks at every instance.
const INTERVAL: Duration = Duration::from_secs(10);

/// Between attempts to hear the engine's events.
const RETRY: Duration = Duration::from_secs(2);

/// What the agent finds when it starts is known before its first hello, unless the engine does not answer.
const FIRST_LOOK: Duration = Duration::from_secs(10);

/// Makes a slot for everything that is here or is remembered.
pub(super) async fn rebuild(shared: &Arc<Shared>) {
    let mut known = remembered(shared);
    match tokio::time::timeout(FIRST_LOOK, labelled(shared)).await {
        Ok(Ok(found)) => {
            for record in found {
                known.entry(record.instance_id).or_insert(record);
            }
        }
        Ok(Err(error)) => tracing::warn!(%error, "the container engine cannot be asked yet"),
        Err(_) => tracing::warn!("the container engine does not answer yet"),
    }
    for record in known.into_values() {
        let id = record.instance_id;
        let status = InstanceStatus {
            detail: "the agent has just started".to_owned(),
            ..InstanceStatus::new(id, fence(shared, &record), ReportedState::Unknown)
        };
        let slot = shared.new_slot(status, Some(record));
        shared.slots().insert(id, slot);
        shared.look(id);
    }
    for outcome in shared.outcomes.latest_ends() {
        let Some(id) = outcome.instance_id else {
            continue;
        };
        let status = InstanceStatus::new(id, outcome.fence, ReportedState::Absent);
        let mut slots = shared.slots();
        let absent = || shared.new_slot(status, None);
        slots.entry(id).or_insert_with(absent);
    }
    if !shared.slots().is_empty() {
        restore_rules(shared).await;
    }
}

fn fence(shared: &Shared, record: &Record) -> crate::model::Fence {
    let promised = shared.journal.fence(record.instance_id);
    promised.map_or(record.fence, |entry| entry.fence.max(record.fence))
}

fn remembered(shared: &Shared) -> BTreeMap<InstanceId, Record> {
    let all = records::load_all(&shared.data_dir.join("instances"));
    all.into_iter()
        .map(|record| (record.instance_id, record))
        .collect()
}

/// The records in the labels of this host's containers.
async fn labelled(shared: &Shared) -> Result<Vec<Record>, EngineError> {
    let host = shared.host.to_string();
    let found = shared.engine.list(&[(LABEL_HOST, &host)]).await?;
    let records = found
        .iter()
        .filter_map(|(_, labels)| Record::from_labels(labels));
    Ok(records.collect())
}

async fn restore_rules(shared: &Shared) {
    if let Err(error) = shared.firewall.ensure().await {
        tracing::error!(%error, "the rules that keep instances apart cannot be restored");
    }
}

/// Watches until the agent stops.
pub(super) async fn run(shared: Arc<Shared>) {
    tokio::join!(follow_events(&shared), look_around(&shared));
}

async fn look_around(shared: &Arc<Shared>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut turn = 0_u32;
    loop {
        ticks.tick().await;
        let present = shared.present();
        turn = turn.wrapping_add(1);
        if turn.is_multiple_of(3) && !present.is_empty() {
            restore_rules(shared).await;
        }
        for (id, _) in present {
            shared.look(id);
        }
    }
}

async fn follow_events(shared: &Arc<Shared>) {
    loop {
        match listen(shared).await {
            Ok(()) => tracing::debug!("the engine's events have ended"),
            Err(error) => tracing::debug!(%error, "the engine's events cannot be heard"),
        }
        // Whoever closed the stream may have stopped containers with it.
        for (id, _) in shared.present() {
            shared.look(id);
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn listen(shared: &Arc<Shared>) -> Result<(), EngineError> {
    let client = shared.engine.client().await?;
    let host = shared.host.to_string();
    let mut filters = with_labels(&[(LABEL_HOST, &host)]);
    filters.insert("type".to_owned(), vec!["container".to_owned()]);
    let mut happenings = ["start", "die", "destroy", "oom"]
        .map(str::to_owned)
        .to_vec();
    filters
        .entry("event".to_owned())
        .or_default()
        .append(&mut happenings);
    let options = EventsOptionsBuilder::default().filters(&filters).build();
    let mut events = Box::pin(client.events(Some(options)));
    for (id, _) in shared.present() {
        shared.look(id);
    }
    while let Some(event) = events.next().await {
        let actor = event?.actor.unwrap_or_default();
        let labels = actor.attributes.unwrap_or_default();
        let id = labels.get(LABEL_INSTANCE).and_then(|id| id.parse().ok());
        if let Some(id) = id {
            shared.look(id);
        }
    }
    Ok(())
}
