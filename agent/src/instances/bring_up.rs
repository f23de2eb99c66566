//! From an order to a running container. Every step is repeated without harm.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Shared, login, records};
use crate::{
    model::InstanceSpec,
    network,
    policy::DEFAULT_CAPABILITIES,
    runtime::{
        Blueprint, ContainerState, EngineError, GpuAccess, ImageError, Names, Record,
        choose_access, ensure_image, forms,
    },
    scratch::Wanted,
};

/// What Docker needs at least.
const LEAST_MEMORY_BYTES: u64 = 64 << 20;

/// Why an instance is not up.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Its end was ordered.
    Interrupted,
    /// The engine cannot be asked: tried again when it can.
    Engine(String),
    /// Trying again would not help.
    Final {
        /// Why, and what to do.
        detail: String,
        /// Another host would not help either.
        tenant_fault: bool,
    },
}

impl Failure {
    fn of_host(detail: impl Into<String>) -> Self {
        Self::Final {
            detail: detail.into(),
            tenant_fault: false,
        }
    }

    fn of_tenant(detail: impl Into<String>) -> Self {
        Self::Final {
            detail: detail.into(),
            tenant_fault: true,
        }
    }
}

/// An error that another host would not have.
fn of_host(error: impl std::fmt::Display) -> Failure {
    Failure::of_host(error.to_string())
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        if error.is_unreachable() {
            Self::Engine(error.to_string())
        } else {
            Self::of_host(error.to_string())
        }
    }
}

/// Brings an instance up, as far as it is not.
pub(super) async fn bring_up(
    shared: &Shared,
    names: &Names,
    spec: &InstanceSpec,
    cancel: &CancellationToken,
) -> Result<(), Failure> {
    check_policy(shared, spec)?;
    let gpus = gpu_access(shared, spec)?;
    let record = Record::of(spec);
    let dir = shared.instance_dir(spec.instance_id);
    let cannot_remember = |error| format!("cannot write to {}: {error}", dir.display());
    records::save(&dir, &record).map_err(|error| Failure::of_host(cannot_remember(error)))?;
    let login_dir = login::dir(&dir);
    login::write_files(&login_dir, spec).map_err(of_host)?;

    let found = shared.engine.find(names).await?;
    let old = found.as_ref().and_then(|found| found.record.as_ref());
    if old.is_some_and(|old| !old.same_container(&record)) {
        return Err(Failure::of_host(
            "an earlier incarnation of this instance, with another image or other GPUs, is still here: remove it first",
        ));
    }
    let runs = found
        .as_ref()
        .is_some_and(|found| matches!(found.state, ContainerState::Running { .. }));
    if runs {
        return shared.firewall.ensure().await.map_err(of_host);
    }
    let scratch = shared.scratch(spec.instance_id);
    let blueprint = Blueprint {
        names: names.clone(),
        record,
        hostname: spec.hostname.clone(),
        vcpus: limit_vcpus(spec.vcpus),
        memory_bytes: limit_memory(spec.memory_bytes),
        capabilities: capabilities(shared),
        gpus,
        lease_dir: scratch.lease_dir(),
        home_dir: scratch.home_dir(),
        login_dir,
    };
    let existing = found.map(|found| found.id);
    let container = Box::pin(prepare(shared, &blueprint, spec, cancel, existing)).await?;
    if cancel.is_cancelled() {
        return Err(Failure::Interrupted);
    }
    start(shared, &container, spec).await
}

/// Everything that the container needs and the container itself, as far as possible at the same time. The container's id.
async fn prepare(
    shared: &Shared,
    blueprint: &Blueprint,
    spec: &InstanceSpec,
    cancel: &CancellationToken,
    existing: Option<String>,
) -> Result<String, Failure> {
    let host_key = async {
        let certifier = shared.certifier.as_ref();
        let certified = login::ensure_host_key(&blueprint.login_dir, spec.instance_id, certifier);
        match cancel.run_until_cancelled(certified).await {
            None => Err(Failure::Interrupted),
            Some(done) => done.map_err(of_host),
        }
    };
    let network = async {
        network::ensure_network(&shared.engine, &blueprint.names).await?;
        Ok::<_, Failure>(())
    };
    let firewall = async { shared.firewall.ensure().await.map_err(of_host) };
    let container = async {
        let image = find_image(shared, spec, cancel, existing.is_some());
        let (image, scratch) = tokio::join!(image, ensure_scratch(shared, spec));
        let image = image?;
        scratch?;
        match (existing, image) {
            (Some(existing), _) => Ok(existing),
            // The network is named here and looked up at the start only.
            (None, Some(image_id)) => create(shared, blueprint, &image_id).await,
            (None, None) => Err(Failure::Interrupted),
        }
    };
    // All of them end before one's failure counts: nothing goes on behind a scrub's back.
    let (container, host_key, network, firewall) =
        tokio::join!(container, host_key, network, firewall);
    let container = container?;
    host_key?;
    network?;
    firewall?;
    Ok(container)
}

/// The image's id. A container that exists has its own.
async fn find_image(
    shared: &Shared,
    spec: &InstanceSpec,
    cancel: &CancellationToken,
    exists: bool,
) -> Result<Option<String>, Failure> {
    if exists {
        return Ok(None);
    }
    let pulled = ensure_image(&shared.engine, &spec.image, spec.image_timeout);
    match cancel.run_until_cancelled(pulled).await {
        None => Err(Failure::Interrupted),
        Some(Ok(id)) => Ok(Some(id)),
        Some(Err(ImageError::Engine(error))) => Err(error.into()),
        Some(Err(error @ ImageError::Unavailable(_))) => Err(Failure::of_tenant(error.to_string())),
    }
}

async fn ensure_scratch(shared: &Shared, spec: &InstanceSpec) -> Result<(), Failure> {
    let wanted = Wanted {
        bytes: spec.scratch_bytes,
        key: spec.scratch_key.clone(),
        must_encrypt: shared.policy.require_encrypted_scratch,
        simulated: shared.gpus.inventory().simulated,
    };
    let scratch = shared.scratch(spec.instance_id);
    scratch.ensure(&wanted).await.map_err(of_host)
}

/// Makes the container and sees that it has an sshd, which is known of an image after the first time.
async fn create(shared: &Shared, blueprint: &Blueprint, image_id: &str) -> Result<String, Failure> {
    let container = match shared.engine.create(blueprint, image_id).await {
        Err(EngineError::Exists(reason)) => created_before(shared, blueprint, reason).await?,
        created => created?,
    };
    let is_known = shared
        .with_sshd
        .lock()
        .is_ok_and(|known| known.contains(image_id));
    if is_known {
        return Ok(container);
    }
    if shared.engine.has_sshd(&container).await? {
        if let Ok(mut known) = shared.with_sshd.lock() {
            known.insert(image_id.to_owned());
        }
        return Ok(container);
    }
    shared.engine.remove(&container).await?;
    Err(Failure::of_tenant(format!(
        "the image `{}` has no /usr/sbin/sshd: install openssh-server in it, or build it on freehold/base",
        blueprint.record.image
    )))
}

/// The container that an agent that died had asked for, when it is made.
async fn created_before(
    shared: &Shared,
    blueprint: &Blueprint,
    reason: String,
) -> Result<String, EngineError> {
    for _ in 0..50 {
        if let Some(found) = shared.engine.find(&blueprint.names).await? {
            return Ok(found.id);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(EngineError::Refused(reason))
}

async fn start(shared: &Shared, container: &str, spec: &InstanceSpec) -> Result<(), Failure> {
    let error = match shared.engine.start(container).await {
        Ok(()) => return Ok(()),
        Err(error) if error.is_unreachable() => return Err(error.into()),
        Err(error) => error.to_string(),
    };
    if error.contains("/bin/sh") {
        return Err(Failure::of_tenant(format!(
            "the image `{}` has no /bin/sh, which instances start with",
            spec.image
        )));
    }
    let hint = if error.contains("could not select device driver") {
        "; install the NVIDIA Container Toolkit and restart the engine"
    } else {
        ""
    };
    Err(Failure::of_host(format!(
        "the container does not start: {error}{hint}"
    )))
}

fn check_policy(shared: &Shared, spec: &InstanceSpec) -> Result<(), Failure> {
    let policy = &shared.policy;
    if !forms(&spec.image)
        .iter()
        .any(|form| policy.allows_image(form))
    {
        return Err(Failure::of_tenant(format!(
            "this host's policy does not allow the image `{}`; allowed: {}",
            spec.image,
            policy.images.join(", ")
        )));
    }
    let ceiling = policy.max_scratch_bytes().unwrap_or(u64::MAX);
    if spec.scratch_bytes > ceiling {
        return Err(Failure::of_host(format!(
            "the scratch has {} bytes and this host's policy allows {ceiling}: raise max_scratch_gib",
            spec.scratch_bytes
        )));
    }
    Ok(())
}

fn gpu_access(shared: &Shared, spec: &InstanceSpec) -> Result<GpuAccess, Failure> {
    let simulated = shared.gpus.inventory().simulated;
    if simulated && shared.simulator.is_none() {
        return Err(Failure::of_host(
            "the GPUs are simulated and the simulator's library was not found: start the agent with --nvml-lib",
        ));
    }
    let simulator = shared.simulator.as_ref().filter(|_| simulated);
    Ok(choose_access(simulator, &spec.gpu_uuids))
}

fn capabilities(shared: &Shared) -> Vec<String> {
    let allowed = shared.policy.limit_capabilities(&DEFAULT_CAPABILITIES);
    allowed.into_iter().map(str::to_owned).collect()
}

/// The engine refuses more processors than there are. A simulated host promises more than the machine under it has.
fn limit_vcpus(wanted: u32) -> u32 {
    let there = std::thread::available_parallelism().map_or(1, usize::from);
    wanted.min(u32::try_from(there).unwrap_or(u32::MAX)).max(1)
}

/// See [`limit_vcpus`].
fn limit_memory(wanted: u64) -> u64 {
    let memory = rustix::system::sysinfo();
    let there = (memory.totalram as u64).saturating_mul(u64::from(memory.mem_unit.max(1)));
    wanted.min(there).max(LEAST_MEMORY_BYTES)
}
