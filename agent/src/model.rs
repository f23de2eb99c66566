//! What the agent's parts tell each other, free of protobuf: `link` translates to and from these types, once, on receipt.
//!
//! `link` receives orders, fences them and calls `instances`; the instances answer at once and report what became of it as
//! [`Event`]s, which `link` sends to every connected replica.

mod gpu;

use std::{fmt, net::SocketAddr, time::Duration};

use freehold_proto::id::{InstanceId, LeaseId, ScrubId};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

pub use gpu::{
    GpuEvent, GpuGate, GpuInfo, GpuInventory, GpuRollup, GpuSample, GpuSource, HealthFinding,
};

/// (cluster epoch, generation), ordered in that order. An order with a lower one than was seen for the instance is refused.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Fence {
    /// Grows when the control plane's database was restored from a backup.
    pub epoch: i64,
    /// Grows with every placement of the instance.
    pub generation: i64,
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.generation)
    }
}

/// The 64-byte key of an instance's scratch. Lives in memory only, is wiped when dropped, and never shows itself.
#[derive(Clone, PartialEq, Eq)]
pub struct ScratchKey(Box<[u8; Self::LEN]>);

impl ScratchKey {
    /// Length in bytes.
    pub const LEN: usize = 64;

    /// A key from its bytes; `None` when there are not exactly 64.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let mut key = Box::new([0; Self::LEN]);
        if bytes.len() != Self::LEN {
            return None;
        }
        key.copy_from_slice(bytes);
        Some(Self(key))
    }

    /// The bytes, for the one call that hands them to the kernel.
    #[must_use]
    pub fn expose(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Debug for ScratchKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScratchKey(hidden)")
    }
}

impl Drop for ScratchKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// The network that an instance is put in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkKind {
    /// A bridge on one host.
    Bridge,
}

/// An instance that has to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceSpec {
    /// The instance.
    pub instance_id: InstanceId,
    /// Its lease.
    pub lease_id: LeaseId,
    /// 0 to count-1 within the lease.
    pub ordinal: u32,
    /// What the order is fenced by.
    pub fence: Fence,
    /// Container image.
    pub image: String,
    /// The GPUs that are given to it.
    pub gpu_uuids: Vec<String>,
    /// Logical processors; at least 1.
    pub vcpus: u32,
    /// Memory limit in bytes.
    pub memory_bytes: u64,
    /// Size of the scratch in bytes.
    pub scratch_bytes: u64,
    /// Key of the scratch.
    pub scratch_key: ScratchKey,
    /// Kind of network.
    pub network: NetworkKind,
    /// A line of OpenSSH's public key format: the CA whose user certificates log in.
    pub user_ca: String,
    /// Principals that a certificate needs one of.
    pub principals: Vec<String>,
    /// Plain keys that may log in, in OpenSSH's format.
    pub authorized_keys: Vec<String>,
    /// How long the image may take to be there.
    pub image_timeout: Duration,
    /// The instance's host name.
    pub hostname: String,
}

/// What the host must have after a scrub.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// Every GPU, no more and no less.
    pub gpu_uuids: Vec<String>,
}

/// An instance that has to be gone, and the host cleaned after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoneOrder {
    /// The instance.
    pub instance_id: InstanceId,
    /// What the order is fenced by.
    pub fence: Fence,
    /// Names the record; the same id again repeats the outcome.
    pub scrub_id: ScrubId,
    /// What the host must have afterwards.
    pub baseline: Baseline,
}

/// A scrub and check of the host itself, with no instance to remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrubOrder {
    /// Names the record; the same id again repeats the outcome.
    pub scrub_id: ScrubId,
    /// Cluster epoch.
    pub epoch: i64,
    /// What the host must have afterwards.
    pub baseline: Baseline,
}

/// What is known of an instance on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportedState {
    /// The engine cannot be asked.
    Unknown,
    /// Nothing of the instance is on the host.
    Absent,
    /// Image, network, scratch or container are being made.
    Preparing,
    /// The container runs.
    Running,
    /// The container exists and does not run.
    Stopped,
    /// Being removed.
    Removing,
    /// It could not be brought up.
    Failed,
}

/// The state of one instance. Mirrors the link's `InstanceReport`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceStatus {
    /// The instance.
    pub instance_id: InstanceId,
    /// The fence of the order that made it so.
    pub fence: Fence,
    /// What it does.
    pub state: ReportedState,
    /// What it does in words, or why it failed and what to do.
    pub detail: String,
    /// The failure is the image's or the tenant's: another host would not help.
    pub tenant_fault: bool,
    /// GPUs seen from inside. Empty before they were looked for.
    pub visible_gpu_uuids: Vec<String>,
    /// The sshd inside accepts connections.
    pub sshd_listening: bool,
    /// An order was refused because of an older fence; nothing changed.
    pub fenced: bool,
}

impl InstanceStatus {
    /// A status with nothing but its state known.
    #[must_use]
    pub fn new(instance_id: InstanceId, fence: Fence, state: ReportedState) -> Self {
        Self {
            instance_id,
            fence,
            state,
            detail: String::new(),
            tenant_fault: false,
            visible_gpu_uuids: Vec::new(),
            sshd_listening: false,
            fenced: false,
        }
    }
}

/// The result of a step. A skipped one is never shown as passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepResult {
    /// It ran, and what it ensures was verified.
    Passed,
    /// It ran and did not reach what it ensures.
    Failed,
    /// It does not apply; the step's detail says why.
    Skipped,
}

/// One step of a scrub or of a health gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// A stable name: `container_removed`, `gpu_count` …
    pub name: String,
    /// What came of it.
    pub result: StepResult,
    /// What was found, or why it was skipped.
    pub detail: String,
    /// How long it took.
    pub duration: Duration,
}

/// The record of one cleaning. Mirrors the link's `ScrubReport`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubOutcome {
    /// Names the record.
    pub scrub_id: ScrubId,
    /// The instance whose traces were removed; `None` answers a [`ScrubOrder`].
    pub instance_id: Option<InstanceId>,
    /// The fence of the order; of a [`ScrubOrder`] its epoch and generation 0.
    pub fence: Fence,
    /// Passed when no step failed.
    pub result: StepResult,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// [`crate::clock::Clock::now_micros`] at the start.
    pub start_micros: i64,
    /// [`crate::clock::Clock::now_micros`] at the end.
    pub end_micros: i64,
}

/// What `instances` reports of its own accord.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An instance's status changed.
    Instance(InstanceStatus),
    /// A scrub ended.
    Scrub(ScrubOutcome),
}

/// Why an instance's sshd has no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Nothing of the instance is here.
    #[error("the instance is not on this host")]
    NotHere,
    /// It is here and does not run.
    #[error("the instance does not run")]
    NotRunning,
}

/// What `link` and `tunnel` need of the instances: `instances`'s handle implements it. Orders come here after they were fenced;
/// each returns at once and is idempotent.
pub trait InstanceControl: Send + Sync + 'static {
    /// Brings an instance up, or keeps it up.
    fn ensure_running(&self, spec: InstanceSpec);

    /// Removes an instance and cleans the host after it.
    fn ensure_gone(&self, order: GoneOrder);

    /// Scrubs and checks the host itself.
    fn scrub_host(&self, order: ScrubOrder);

    /// Everything that runs or is remembered, so that nothing has to be concluded from silence.
    fn statuses(&self) -> Vec<InstanceStatus>;

    /// Where the instance's sshd listens.
    ///
    /// # Errors
    /// When the instance is not here or does not run.
    fn ssh_target(&self, instance: InstanceId) -> Result<SocketAddr, TargetError>;
}

/// Why a host key was not certified.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertifyError {
    /// No replica could be asked; worth another try.
    #[error("no control plane replica is reachable: {0}")]
    Unreachable(String),
    /// The control plane refused.
    #[error("the control plane refused to certify the host key: {0}")]
    Refused(String),
}

/// Has an instance's SSH host key certified by the control plane's authority, before its container starts.
#[async_trait::async_trait]
pub trait HostKeyCertifier: Send + Sync + 'static {
    /// The certificate of `public_key`, both as lines of OpenSSH's format (`ssh-ed25519 AAAA…`,
    /// `ssh-ed25519-cert-v01@openssh.com AAAA…`).
    async fn certify(&self, instance: InstanceId, public_key: &str)
    -> Result<String, CertifyError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_key_has_64_bytes_and_hides_them() {
        assert_eq!(ScratchKey::from_slice(&[7; 63]), None);
        let key = ScratchKey::from_slice(&[7; 64]).expect("64 bytes");
        assert_eq!(key.expose(), &[7; 64]);
        assert_eq!(format!("{key:?}"), "ScratchKey(hidden)");
    }

    #[test]
    fn a_fence_orders_by_epoch_before_generation() {
        let low = Fence {
            epoch: 1,
            generation: 9,
        };
        let high = Fence {
            epoch: 2,
            generation: 1,
        };
        assert!(low < high);
    }
}
