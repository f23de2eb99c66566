//! Orders: translated, fenced, obeyed. One task does it for all streams, so that what was admitted first is handed on first.

use std::sync::Arc;

use freehold_proto::{agent_v1::attach_request::Message as Outgoing, id::InstanceId};
use tokio::sync::mpsc;

use super::{
    Shared,
    convert::{self, BadOrder},
};
use crate::{
    journal::Admission,
    model::{Fence, GoneOrder, InstanceSpec, InstanceStatus, ReportedState, ScrubOrder},
};

/// Orders that may wait. More are dropped: the control plane repeats what was not done.
pub(super) const BACKLOG: usize = 256;

/// An order in this crate's own types.
#[derive(Debug)]
pub(super) enum Order {
    Run(InstanceSpec),
    Remove(GoneOrder),
    Scrub(ScrubOrder),
    Malformed(BadOrder),
}

/// An order and the stream that its refusal is told on.
pub(super) struct Received {
    pub(super) order: Order,
    pub(super) reply: mpsc::Sender<Outgoing>,
}

/// Obeys orders until the agent stops.
pub(super) async fn obey(shared: Arc<Shared>, mut received: mpsc::Receiver<Received>) {
    while let Some(Received { order, reply }) = received.recv().await {
        if let Some(report) = obey_one(&shared, order).await {
            // A stream that cannot take it is stuck, and says everything anew in its next hello.
            let _ = reply.try_send(Outgoing::InstanceReport(convert::report(&report)));
        }
    }
}

/// Obeys an order, or says why not.
async fn obey_one(shared: &Shared, order: Order) -> Option<InstanceStatus> {
    match order {
        Order::Run(spec) => {
            let gpus = Some(spec.gpu_uuids.clone());
            let refused = refuse(shared, spec.instance_id, spec.fence, gpus).await;
            if refused.is_none() {
                shared.instances.ensure_running(spec);
            }
            refused
        }
        Order::Remove(order) => {
            let refused = refuse(shared, order.instance_id, order.fence, None).await;
            if refused.is_none() {
                shared.instances.ensure_gone(order);
            }
            refused
        }
        Order::Scrub(order) => {
            if shared.journal.admit_epoch(order.epoch).await {
                shared.instances.scrub_host(order);
            } else {
                tracing::warn!(epoch = order.epoch, "a scrub of an older epoch is refused");
            }
            None
        }
        Order::Malformed(bad) => {
            tracing::warn!(
                reason = bad.reason,
                "an order is not valid and is not obeyed"
            );
            let (instance_id, fence) = bad.instance?;
            Some(InstanceStatus {
                detail: format!("the order is not valid: {}", bad.reason),
                ..InstanceStatus::new(instance_id, fence, ReportedState::Failed)
            })
        }
    }
}

/// The report that refuses an order with an older fence. `None`: obey it.
async fn refuse(
    shared: &Shared,
    instance_id: InstanceId,
    fence: Fence,
    gpu_uuids: Option<Vec<String>>,
) -> Option<InstanceStatus> {
    let admission = shared.journal.admit(instance_id, fence, gpu_uuids).await;
    let Admission::Refused { highest } = admission else {
        return None;
    };
    tracing::warn!(
        instance.id = %instance_id,
        %fence,
        %highest,
        "an order with an older fence is refused"
    );
    let mut statuses = shared.instances.statuses().into_iter();
    let status = statuses
        .find(|status| status.instance_id == instance_id)
        .unwrap_or_else(|| InstanceStatus::new(instance_id, highest, ReportedState::Unknown));
    Some(InstanceStatus {
        fenced: true,
        detail: format!("an order with the fence {fence} is older than {highest} and was refused"),
        ..status
    })
}
