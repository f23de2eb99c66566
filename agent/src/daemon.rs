//! `freehold-agent run`: puts the parts together and serves the control plane until it is told to stop. Stopping leaves every instance
//! as it is.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    clock::Clock,
    config::RunArgs,
    facts,
    gpu::{self, Gpus},
    identity::{IdentityError, IdentityStore},
    instances,
    journal::Journal,
    link::{self, HostFacts, Replicas},
    model::GpuSource as _,
    policy::{Policy, PolicyError},
};

/// The link waits this long for the GPUs, so that its first hello names them; a later one does otherwise.
const GPU_LIMIT: Duration = Duration::from_secs(10);

/// Tasks may take this long to end.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// What instances may report while the link is busy.
const EVENT_BACKLOG: usize = 256;

/// Why the agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A flag is not what it should be.
    #[error("{flag}: {path}: {source}. {remedy}")]
    Flag {
        /// The flag.
        flag: &'static str,
        /// Its value.
        path: PathBuf,
        /// Why it cannot be used.
        source: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// The data directory is in use.
    #[error(
        "--data-dir: another agent runs on {0}. Stop it, or give each agent a directory of its own"
    )]
    Locked(PathBuf),
    /// The host has not enrolled, or its identity cannot be used.
    #[error("--data-dir: {0}")]
    Identity(#[from] IdentityError),
    /// The policy cannot be used.
    #[error("--policy: {0}")]
    Policy(#[from] PolicyError),
    /// The kernel does not tell which boot this is.
    #[error("cannot read the machine's boot id: {0}")]
    BootId(io::Error),
}

/// What has to be right before anything starts.
struct Ground {
    policy: Policy,
    identity: IdentityStore,
    scratch_dir: PathBuf,
    facts: HostFacts,
    clock: Clock,
    journal: Journal,
    /// Held as long as the agent runs.
    _lock: File,
}

/// Serves until `cancel` is.
///
/// # Errors
/// When a flag or a file cannot be used; nothing was started then.
pub async fn run(args: RunArgs, cancel: CancellationToken) -> Result<(), RunError> {
    let ground = Ground::prepare(&args)?;
    let host_id = ground.identity.host_id();
    let server = ground.identity.current().identity.server.clone();
    tracing::info!(host.id = %host_id, server, "the agent starts");
    let tasks = TaskTracker::new();
    let gpus = watch_gpus(&args, &ground, &tasks, &cancel).await;
    let (events, told) = mpsc::channel(EVENT_BACKLOG);
    let replicas = Replicas::default();
    let instances = instances::Parts {
        host_id,
        docker_socket: args.docker_socket,
        data_dir: args.data_dir.clone(),
        scratch_dir: ground.scratch_dir,
        policy: ground.policy,
        journal: ground.journal.clone(),
        clock: ground.clock.clone(),
        gpus: Arc::clone(&gpus) as _,
        gate: Arc::clone(&gpus) as _,
        certifier: Arc::new(replicas.clone()),
        simulator: instances::SimulatorFiles::find(args.nvml_lib.as_deref()),
        events,
    };
    let instances = instances::start(instances, &tasks, &cancel).await;
    let parts = link::Parts {
        data_dir: args.data_dir,
        identity: ground.identity,
        journal: ground.journal,
        clock: ground.clock,
        replicas,
        instances,
        events: told,
        gpus,
        facts: ground.facts,
        capabilities: Vec::new(),
    };
    link::start(parts, &tasks, &cancel);
    cancel.cancelled().await;
    tracing::info!("the agent stops; instances run on");
    tasks.close();
    if tokio::time::timeout(DRAIN_LIMIT, tasks.wait())
        .await
        .is_err()
    {
        tracing::warn!("some tasks did not end in time");
    }
    Ok(())
}

impl Ground {
    fn prepare(args: &RunArgs) -> Result<Self, RunError> {
        let policy = Policy::load(args.policy.as_deref())?;
        let identity = IdentityStore::open(&args.data_dir)?;
        let lock = lock(&args.data_dir)?;
        if let Some(library) = &args.nvml_lib {
            fs::metadata(library).map_err(flag(
                "--nvml-lib",
                library,
                "Name the driver's libnvidia-ml.so.1, or leave the flag out",
            ))?;
        }
        let scratch_dir = scratch_dir(args, &policy)?;
        let facts = facts::measure(&scratch_dir, policy.max_scratch_bytes()).map_err(flag(
            "--scratch-dir",
            &scratch_dir,
            "Name a folder on a file system with space for scratches",
        ))?;
        let clock = Clock::default();
        let boot_id = facts::boot_id().map_err(RunError::BootId)?;
        let journal = Journal::open(&args.data_dir, boot_id, clock.clone()).map_err(flag(
            "--data-dir",
            &args.data_dir,
            "Make it readable and writable for this process",
        ))?;
        Ok(Self {
            policy,
            identity,
            scratch_dir,
            facts,
            clock,
            journal,
            _lock: lock,
        })
    }
}

fn flag<'a>(
    flag: &'static str,
    path: &'a Path,
    remedy: &'static str,
) -> impl FnOnce(io::Error) -> RunError + 'a {
    move |source| RunError::Flag {
        flag,
        path: path.to_owned(),
        source,
        remedy,
    }
}

/// Held as long as the file is open: two agents on one journal would undo each other's promises.
fn lock(data_dir: &Path) -> Result<File, RunError> {
    let path = data_dir.join("lock");
    let mut options = OpenOptions::new();
    let options = options.create(true).truncate(false).write(true);
    let file = options.open(&path).map_err(flag(
        "--data-dir",
        data_dir,
        "Make it writable for this process",
    ))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(RunError::Locked(data_dir.to_owned())),
        Err(error) => Err(flag(
            "--data-dir",
            data_dir,
            "Use a file system with file locks",
        )(error.into())),
    }
}

fn scratch_dir(args: &RunArgs, policy: &Policy) -> Result<PathBuf, RunError> {
    let named = args.scratch_dir.as_ref().or(policy.scratch_dir.as_ref());
    let dir = named.map_or_else(|| args.data_dir.join("scratch"), PathBuf::clone);
    fs::create_dir_all(&dir).map_err(flag(
        "--scratch-dir",
        &dir,
        "Name a folder that this process may make or write to",
    ))?;
    Ok(dir)
}

async fn watch_gpus(
    args: &RunArgs,
    ground: &Ground,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) -> Arc<Gpus> {
    let options = gpu::Options {
        program: gpu::Program::own(args.nvml_lib.clone()),
        timing: gpu::Timing::default(),
        kmsg: Some(args.kmsg.clone()),
    };
    let gpus = Gpus::start(
        options,
        ground.clock.clone(),
        Some(ground.journal.clone()),
        tasks,
        cancel,
    );
    cancel.run_until_cancelled(gpus.settle(GPU_LIMIT)).await;
    match gpus.failure() {
        None => tracing::info!(count = gpus.inventory().gpus.len(), "GPUs are watched"),
        Some(error) => {
            tracing::error!(%error, "there are no GPUs to serve; they are looked for again and again");
        }
    }
    Arc::new(gpus)
}
