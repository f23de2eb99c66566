//! The owner of one instance.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use freehold_proto::id::InstanceId;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Shared, bring_up, records, removal};
use crate::{
    model::{Fence, GoneOrder, InstanceSpec, InstanceStatus, ReportedState},
    runtime::{ContainerState, Names, Record, answers_ssh, visible_gpus},
};

/// The port that an instance's sshd listens on.
const SSH_PORT: u16 = 22;

/// How long a fresh container's sshd is waited for before it is only looked at from time to time.
const SSHD_LIMIT: Duration = Duration::from_secs(30);

/// An sshd that greets no sooner does not serve anybody.
const GREETING_LIMIT: Duration = Duration::from_secs(3);

/// How often the GPUs are listed from inside.
const GPU_INTERVAL: Duration = Duration::from_mins(1);

/// What an owner is told.
#[derive(Debug)]
pub(super) enum Message {
    /// Bring it up, or keep it up.
    Run(Box<InstanceSpec>),
    /// Remove it and scrub.
    Gone(Box<GoneOrder>),
    /// See how it fares.
    Look,
}

/// What an owner knows.
pub(super) struct Owner {
    pub(super) shared: Arc<Shared>,
    pub(super) names: Names,
    /// What was ordered last; `None` when nothing is to be here.
    pub(super) record: Option<Record>,
    /// The highest fence that an end was ordered with: nothing at or below it comes back.
    pub(super) ended: Option<Fence>,
    /// An order that the engine could not be asked to obey yet.
    pending: Option<Box<InstanceSpec>>,
    gpus_at: Option<Instant>,
}

impl Owner {
    pub(super) fn new(shared: Arc<Shared>, instance: InstanceId, record: Option<Record>) -> Self {
        Self {
            names: shared.names(instance),
            ended: shared.outcomes.last_fence(instance),
            shared,
            record,
            pending: None,
            gpus_at: None,
        }
    }

    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Message>) {
        let mut next = None;
        loop {
            let message = match next.take() {
                Some(message) => message,
                None => match inbox.recv().await {
                    Some(message) => message,
                    None => return,
                },
            };
            match message {
                Message::Run(spec) => next = Box::pin(self.obey(spec, &mut inbox)).await,
                Message::Gone(order) => {
                    self.pending = None;
                    removal::remove(&mut self, *order).await;
                }
                Message::Look => {
                    next = self.look_until_told(&mut inbox).await;
                    if next.is_none() && self.pending.is_some() && !self.is_unknown() {
                        next = self.pending.take().map(Message::Run);
                    }
                }
            }
        }
    }

    /// Sees how the instance fares, unless something is to be done to it: a driver that hangs must not hold up an end.
    async fn look_until_told(&mut self, inbox: &mut mpsc::Receiver<Message>) -> Option<Message> {
        let look = self.look();
        tokio::pin!(look);
        loop {
            tokio::select! {
                () = &mut look => return None,
                message = inbox.recv() => match message {
                    None | Some(Message::Look) => (),
                    told => return told,
                }
            }
        }
    }

    /// Brings the instance up. Returns the message that came meanwhile and is to be obeyed next.
    async fn obey(
        &mut self,
        spec: Box<InstanceSpec>,
        inbox: &mut mpsc::Receiver<Message>,
    ) -> Option<Message> {
        if self.ended.is_some_and(|ended| spec.fence <= ended) {
            tracing::info!(instance.id = %spec.instance_id, "an order to run comes after the end and is ignored");
            return None;
        }
        let record = Record::of(&spec);
        self.record = Some(record.clone());
        let known = self.shared.status(spec.instance_id);
        let was_up = known
            .is_some_and(|known| known.state == ReportedState::Running && known.sshd_listening);
        if !was_up {
            self.set(ReportedState::Preparing, "being prepared").await;
        }
        let cancel = CancellationToken::new();
        let (done, next) = {
            let work = bring_up::bring_up(&self.shared, &self.names, &spec, &cancel);
            tokio::pin!(work);
            let mut next = None;
            let done = loop {
                tokio::select! {
                    done = &mut work => break done,
                    message = inbox.recv(), if !cancel.is_cancelled() => match message {
                        Some(Message::Run(newer)) => {
                            next = (newer.fence > spec.fence).then_some(Message::Run(newer));
                        }
                        Some(Message::Look) => (),
                        Some(gone @ Message::Gone(_)) => {
                            cancel.cancel();
                            next = Some(gone);
                        }
                        None => cancel.cancel(),
                    }
                }
            };
            (done, next)
        };
        match done {
            Ok(()) if next.is_some() => next,
            Ok(()) if was_up => self.look_until_told(inbox).await,
            Ok(()) => self.settle(inbox).await,
            Err(failure) => {
                self.fail(spec, failure).await;
                next
            }
        }
    }

    async fn fail(&mut self, spec: Box<InstanceSpec>, failure: bring_up::Failure) {
        match failure {
            bring_up::Failure::Interrupted => (),
            bring_up::Failure::Engine(reason) => {
                self.pending = Some(spec);
                self.set(ReportedState::Unknown, &reason).await;
            }
            bring_up::Failure::Final {
                detail,
                tenant_fault,
            } => {
                let status = InstanceStatus {
                    detail,
                    tenant_fault,
                    ..self.status(ReportedState::Failed)
                };
                self.shared.set_status(status, None).await;
            }
        }
    }

    /// Follows a fresh container until its sshd answers and its GPUs were listed, or something else is to be done.
    async fn settle(&mut self, inbox: &mut mpsc::Receiver<Message>) -> Option<Message> {
        let target = self.find().await?;
        let status = InstanceStatus {
            detail: "sshd does not answer yet".to_owned(),
            ..self.status(ReportedState::Running)
        };
        self.shared.set_status(status, Some(target)).await;
        let shared = Arc::clone(&self.shared);
        let (names, given) = (self.names.clone(), self.given_gpus());
        let seen = async {
            let gpus = list_gpus(&shared, &names, &given);
            tokio::join!(wait_for_ssh(target), gpus)
        };
        tokio::pin!(seen);
        loop {
            tokio::select! {
                (sshd, gpus) = &mut seen => {
                    self.gpus_at = Some(Instant::now());
                    self.show_running(target, sshd, gpus).await;
                    return None;
                }
                message = inbox.recv() => match message {
                    None | Some(Message::Look) => (),
                    Some(Message::Run(spec)) if Some(spec.fence) == self.fence() => (),
                    other => return other,
                }
            }
        }
    }

    /// Sees how the instance fares, and tells it.
    pub(super) async fn look(&mut self) {
        if self.record.is_none() {
            return;
        }
        let Some(target) = self.find().await else {
            return;
        };
        let mut sshd = answers_ssh(target, GREETING_LIMIT).await;
        if !sshd {
            // One missed greeting on a loaded host is not worth a report.
            sshd = answers_ssh(target, GREETING_LIMIT).await;
        }
        let known = self.shared.status(self.names.instance);
        let due = self.gpus_at.is_none_or(|at| at.elapsed() >= GPU_INTERVAL);
        let seen = known
            .map(|status| status.visible_gpu_uuids)
            .unwrap_or_default();
        let gpus = if due || seen.len() < self.given_gpus().len() {
            self.gpus_at = Some(Instant::now());
            list_gpus(&self.shared, &self.names, &self.given_gpus()).await
        } else {
            Ok(seen)
        };
        self.show_running(target, sshd, gpus).await;
    }

    /// Where the running container's sshd is. When it does not run, that is told instead.
    async fn find(&self) -> Option<SocketAddr> {
        let shared = &self.shared;
        let known = shared.status(self.names.instance);
        let state = known.map_or(ReportedState::Unknown, |status| status.state);
        // What failed stays failed, and what is being prepared stays so, until the container runs.
        let undone = matches!(state, ReportedState::Failed | ReportedState::Preparing);
        match shared.engine.find(&self.names).await {
            Err(error) => {
                let target = shared.target(self.names.instance);
                let status = InstanceStatus {
                    detail: error.to_string(),
                    ..self.status(ReportedState::Unknown)
                };
                if !undone {
                    shared.set_status(status, target).await;
                }
                None
            }
            Ok(None) => {
                if self.fence() == self.ended {
                    self.set(ReportedState::Absent, "removed").await;
                } else if !undone {
                    let detail = "the container is not there; the next order makes it again";
                    self.set(ReportedState::Stopped, detail).await;
                }
                None
            }
            Ok(Some(found)) => match found.state {
                ContainerState::Running { address } => {
                    address.map(|address| SocketAddr::new(address, SSH_PORT))
                }
                ContainerState::Stopped { reason } => {
                    if !undone {
                        self.set(ReportedState::Stopped, &reason).await;
                    }
                    None
                }
            },
        }
    }

    async fn show_running(
        &self,
        target: SocketAddr,
        sshd_listening: bool,
        gpus: Result<Vec<String>, String>,
    ) {
        let mut trouble = Vec::new();
        if !sshd_listening {
            trouble.push("sshd does not answer on port 22".to_owned());
        }
        let visible = gpus.unwrap_or_else(|reason| {
            trouble.push(reason);
            Vec::new()
        });
        let hidden = self
            .given_gpus()
            .into_iter()
            .filter(|uuid| !visible.contains(uuid));
        let hidden: Vec<String> = hidden.collect();
        if !hidden.is_empty() {
            trouble.push(format!("not visible inside: {}", hidden.join(", ")));
        }
        let status = InstanceStatus {
            detail: trouble.join("; "),
            visible_gpu_uuids: visible,
            sshd_listening,
            ..self.status(ReportedState::Running)
        };
        self.shared.set_status(status, Some(target)).await;
    }

    fn given_gpus(&self) -> Vec<String> {
        let record = self.record.as_ref();
        record
            .map(|record| record.gpu_uuids.clone())
            .unwrap_or_default()
    }

    fn fence(&self) -> Option<Fence> {
        let journal = self.shared.journal.fence(self.names.instance);
        let promised = journal.map(|entry| entry.fence);
        let recorded = self.record.as_ref().map(|record| record.fence);
        promised.max(recorded).max(self.ended)
    }

    /// A status with nothing but its state known.
    pub(super) fn status(&self, state: ReportedState) -> InstanceStatus {
        let fence = self.fence().unwrap_or_default();
        InstanceStatus::new(self.names.instance, fence, state)
    }

    pub(super) async fn set(&self, state: ReportedState, detail: &str) {
        let status = InstanceStatus {
            detail: detail.to_owned(),
            ..self.status(state)
        };
        self.shared.set_status(status, None).await;
    }

    fn is_unknown(&self) -> bool {
        let status = self.shared.status(self.names.instance);
        status.is_some_and(|status| status.state == ReportedState::Unknown)
    }

    /// Nothing is to be here any more.
    pub(super) fn forget(&mut self) {
        self.record = None;
        let dir = self.shared.instance_dir(self.names.instance);
        let removed = std::fs::remove_dir_all(&dir);
        if let (Err(error), true) = (removed, records::load(&dir).is_some()) {
            tracing::warn!(%error, path = %dir.display(), "cannot forget an instance");
        }
    }
}

/// Waits until an sshd answers; a fresh one needs a tenth of a second.
async fn wait_for_ssh(target: SocketAddr) -> bool {
    let deadline = Instant::now() + SSHD_LIMIT;
    let mut pause = Duration::from_millis(4);
    while Instant::now() < deadline {
        if answers_ssh(target, GREETING_LIMIT).await {
            return true;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 5 / 4).min(Duration::from_millis(250));
    }
    false
}

async fn list_gpus(
    shared: &Shared,
    names: &Names,
    given: &[String],
) -> Result<Vec<String>, String> {
    if given.is_empty() {
        return Ok(Vec::new());
    }
    visible_gpus(&shared.engine, &names.object).await
}
