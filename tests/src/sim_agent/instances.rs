//! The instances of a simulated host: each a folder and an `sshd`. They outlive the agent, and are found again from their folders.

use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use freehold_agent::{
    clock::Clock,
    model::{
        CertifyError, Event, Fence, GoneOrder, HostKeyCertifier, InstanceControl, InstanceSpec,
        InstanceStatus, ReportedState, ScrubOrder, ScrubOutcome, TargetError,
    },
};
use freehold_proto::id::{InstanceId, ScrubId};
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, task::AbortHandle};

use super::{
    Faults, SimGpus, Stage,
    scrub::{self, Scrub},
    sshd,
};
use crate::ports;

const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What the instances are made of.
pub(super) struct Parts {
    pub(super) dir: PathBuf,
    pub(super) certifier: Arc<dyn HostKeyCertifier>,
    pub(super) gpus: Arc<SimGpus>,
    pub(super) faults: Arc<Faults>,
    pub(super) clock: Clock,
    pub(super) events: mpsc::Sender<Event>,
}

/// A handle; clones share the instances.
#[derive(Clone)]
pub(super) struct Instances(Arc<Shared>);

struct Shared {
    parts: Parts,
    entries: Mutex<BTreeMap<InstanceId, Entry>>,
    /// What was ordered; `None` while it runs.
    scrubs: Mutex<BTreeMap<ScrubId, Option<ScrubOutcome>>>,
}

struct Entry {
    status: InstanceStatus,
    port: Option<u16>,
    /// Stands for an sshd that accepts and says nothing.
    silent: Option<TcpListener>,
    bringing_up: Option<AbortHandle>,
}

/// What is found again after a restart.
#[derive(Serialize, Deserialize)]
struct Remembered {
    instance_id: InstanceId,
    fence: Fence,
    port: u16,
    gpu_uuids: Vec<String>,
}

impl Instances {
    /// Takes up the instances that are on the disk.
    pub(super) fn open(parts: Parts) -> anyhow::Result<Self> {
        fs::create_dir_all(&parts.dir)?;
        let mut entries = BTreeMap::new();
        for folder in fs::read_dir(&parts.dir)? {
            let folder = folder?.path();
            let Ok(text) = fs::read(folder.join("instance.json")) else {
                // It was never started: the order is repeated.
                continue;
            };
            let found: Remembered = serde_json::from_slice(&text)?;
            let state = match sshd::pid(&folder) {
                Some(_) => ReportedState::Running,
                None => ReportedState::Stopped,
            };
            let status = InstanceStatus {
                visible_gpu_uuids: found.gpu_uuids,
                sshd_listening: state == ReportedState::Running,
                ..InstanceStatus::new(found.instance_id, found.fence, state)
            };
            entries.insert(
                found.instance_id,
                Entry {
                    status,
                    port: Some(found.port),
                    silent: None,
                    bringing_up: None,
                },
            );
        }
        Ok(Self(Arc::new(Shared {
            parts,
            entries: Mutex::new(entries),
            scrubs: Mutex::default(),
        })))
    }

    /// Looks at every sshd until the agent stops.
    pub(super) async fn watch(self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            for status in self.statuses() {
                if matches!(
                    status.state,
                    ReportedState::Running | ReportedState::Stopped
                ) {
                    self.look_at(status).await;
                }
            }
        }
    }

    async fn look_at(&self, before: InstanceStatus) {
        let id = before.instance_id;
        let port = self.entries().get(&id).and_then(|entry| entry.port);
        let is_silent = self.entries().get(&id).is_some_and(|e| e.silent.is_some());
        let lives = is_silent || sshd::pid(&self.folder(id)).is_some();
        let mut now = before.clone();
        now.state = if lives {
            ReportedState::Running
        } else {
            ReportedState::Stopped
        };
        now.sshd_listening = match port {
            Some(port) if lives && !is_silent => sshd::answers(port).await,
            _ => false,
        };
        let unchanged = {
            let entries = self.entries();
            entries.get(&id).is_none_or(|entry| entry.status != before)
        };
        if !unchanged && now != before {
            self.set(now).await;
        }
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Entry>> {
        self.0
            .entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn scrubs(&self) -> MutexGuard<'_, BTreeMap<ScrubId, Option<ScrubOutcome>>> {
        self.0.scrubs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn folder(&self, instance: InstanceId) -> PathBuf {
        self.0.parts.dir.join(instance.to_string())
    }

    /// Remembers a status and tells the control plane.
    async fn set(&self, status: InstanceStatus) {
        if let Some(entry) = self.entries().get_mut(&status.instance_id) {
            entry.status = status.clone();
        }
        self.tell(Event::Instance(status)).await;
    }

    async fn tell(&self, event: Event) {
        // Fails only when the agent stops.
        let _ = self.0.parts.events.send(event).await;
    }

    async fn bring_up(self, spec: InstanceSpec) {
        let status = InstanceStatus::new(spec.instance_id, spec.fence, ReportedState::Preparing);
        self.tell(Event::Instance(status.clone())).await;
        let failed = |detail: String, tenant_fault| InstanceStatus {
            state: ReportedState::Failed,
            detail,
            tenant_fault,
            ..status.clone()
        };
        self.0.parts.faults.pass(Stage::Prepare).await;
        if let Some(reason) = self.0.parts.faults.missing_image(&spec.image) {
            let detail = format!("the image {} cannot be had: {reason}", spec.image);
            self.set(failed(detail, true)).await;
            return;
        }
        let started = self.start(&spec).await;
        let reached = match started {
            Ok(()) => InstanceStatus {
                state: ReportedState::Running,
                visible_gpu_uuids: spec.gpu_uuids.clone(),
                sshd_listening: !self.0.parts.faults.sshd_is_silent(),
                ..status
            },
            Err(error) => failed(format!("{error:#}"), false),
        };
        self.set(reached).await;
    }

    async fn start(&self, spec: &InstanceSpec) -> anyhow::Result<()> {
        let folder = self.folder(spec.instance_id);
        fs::create_dir_all(&folder)?;
        let public_key = sshd::host_key(&folder)?;
        let certificate = self.certify(spec.instance_id, &public_key).await?;
        self.0.parts.faults.pass(Stage::Start).await;
        if self.0.parts.faults.sshd_is_silent() {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let port = listener.local_addr()?.port();
            if let Some(entry) = self.entries().get_mut(&spec.instance_id) {
                entry.port = Some(port);
                entry.silent = Some(listener);
            }
            return Ok(());
        }
        // One that an agent started just before it died, if any.
        sshd::kill(&folder);
        let port = ports::free();
        let remembered = Remembered {
            instance_id: spec.instance_id,
            fence: spec.fence,
            port,
            gpu_uuids: spec.gpu_uuids.clone(),
        };
        fs::write(
            folder.join("instance.json"),
            serde_json::to_vec(&remembered)?,
        )?;
        sshd::start(&folder, port, &certificate, spec)?;
        if let Some(entry) = self.entries().get_mut(&spec.instance_id) {
            entry.port = Some(port);
        }
        let listens = async {
            while !sshd::answers(port).await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), listens)
            .await
            .ok()
            .with_context(|| {
                let log = fs::read_to_string(folder.join("sshd.log")).unwrap_or_default();
                format!("sshd does not listen: {}", log.trim())
            })
    }

    async fn certify(&self, instance: InstanceId, public_key: &str) -> anyhow::Result<String> {
        loop {
            match self.0.parts.certifier.certify(instance, public_key).await {
                Ok(certificate) => return Ok(certificate),
                Err(error @ CertifyError::Refused(_)) => return Err(error.into()),
                Err(CertifyError::Unreachable(_)) => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }

    /// Removes an instance, then scrubs the host; or only scrubs.
    async fn clean(self, scrub: Scrub) {
        let mut is_removed = true;
        if let Some(instance) = scrub.instance {
            self.0.parts.faults.pass(Stage::Remove).await;
            is_removed = self.remove(instance).await;
            let status = InstanceStatus::new(instance, scrub.fence, ReportedState::Absent);
            self.tell(Event::Instance(status)).await;
        }
        self.0.parts.faults.pass(Stage::Scrub).await;
        let Parts {
            gpus,
            faults,
            clock,
            ..
        } = &self.0.parts;
        let outcome = scrub::run(&scrub, is_removed, gpus, faults, clock);
        self.scrubs().insert(scrub.id, Some(outcome.clone()));
        self.tell(Event::Scrub(outcome)).await;
    }

    async fn remove(&self, instance: InstanceId) -> bool {
        let folder = self.folder(instance);
        sshd::kill(&folder);
        let gone = async {
            while sshd::pid(&folder).is_some() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let is_gone = tokio::time::timeout(Duration::from_secs(5), gone).await;
        let is_cleared = match fs::remove_dir_all(&folder) {
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
            Ok(()) => true,
        };
        self.entries().remove(&instance);
        is_gone.is_ok() && is_cleared
    }

    /// Begins a scrub, or repeats what came of it.
    fn begin(&self, scrub: Scrub) {
        let known = self.scrubs().get(&scrub.id).cloned();
        match known {
            None => {
                self.scrubs().insert(scrub.id, None);
                tokio::spawn(self.clone().clean(scrub));
            }
            // It runs.
            Some(None) => {}
            Some(Some(outcome)) => {
                let this = self.clone();
                tokio::spawn(async move {
                    if let Some(instance) = scrub.instance {
                        let absent = ReportedState::Absent;
                        let status = InstanceStatus::new(instance, scrub.fence, absent);
                        this.tell(Event::Instance(status)).await;
                    }
                    this.tell(Event::Scrub(outcome)).await;
                });
            }
        }
    }
}

impl InstanceControl for Instances {
    fn ensure_running(&self, spec: InstanceSpec) {
        let mut entries = self.entries();
        if let Some(entry) = entries.get(&spec.instance_id) {
            let is_settled = matches!(
                entry.status.state,
                ReportedState::Preparing | ReportedState::Running | ReportedState::Failed
            );
            if entry.status.fence == spec.fence && is_settled {
                let (this, status) = (self.clone(), entry.status.clone());
                tokio::spawn(async move { this.tell(Event::Instance(status)).await });
                return;
            }
        }
        let task = tokio::spawn(self.clone().bring_up(spec.clone()));
        let preparing = ReportedState::Preparing;
        let entry = Entry {
            status: InstanceStatus::new(spec.instance_id, spec.fence, preparing),
            port: None,
            silent: None,
            bringing_up: Some(task.abort_handle()),
        };
        entries.insert(spec.instance_id, entry);
    }

    fn ensure_gone(&self, order: GoneOrder) {
        let bringing_up = {
            let mut entries = self.entries();
            entries.get_mut(&order.instance_id).and_then(|entry| {
                entry.status.state = ReportedState::Removing;
                entry.bringing_up.take()
            })
        };
        if let Some(task) = bringing_up {
            task.abort();
        }
        self.begin(Scrub {
            id: order.scrub_id,
            instance: Some(order.instance_id),
            fence: order.fence,
            baseline: order.baseline,
        });
    }

    fn scrub_host(&self, order: ScrubOrder) {
        self.begin(Scrub {
            id: order.scrub_id,
            instance: None,
            fence: Fence {
                epoch: order.epoch,
                generation: 0,
            },
            baseline: order.baseline,
        });
    }

    fn statuses(&self) -> Vec<InstanceStatus> {
        let entries = self.entries();
        entries.values().map(|entry| entry.status.clone()).collect()
    }

    fn ssh_target(&self, instance: InstanceId) -> Result<SocketAddr, TargetError> {
        let entries = self.entries();
        let entry = entries.get(&instance).ok_or(TargetError::NotHere)?;
        match (entry.status.state, entry.port) {
            (ReportedState::Running, Some(port)) => Ok(SocketAddr::from(([127, 0, 0, 1], port))),
            _ => Err(TargetError::NotRunning),
        }
    }
}
