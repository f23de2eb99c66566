//! An agent's instances with the engine of this machine, and GPUs and a control plane that are in the test's hands.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, Mutex},
    time::Duration,
};

use freehold_agent::{
    clock::Clock,
    instances::{self, Instances, Parts, SimulatorFiles},
    journal::Journal,
    model::{
        Baseline, CertifyError, Event, Fence, GoneOrder, GpuEvent, GpuGate, GpuInventory,
        GpuRollup, GpuSample, GpuSource, HealthFinding, HostKeyCertifier, InstanceControl as _,
        InstanceSpec, InstanceStatus, NetworkKind, ReportedState, ScratchKey, ScrubOutcome, Step,
        StepResult,
    },
    policy::Policy,
};
use freehold_proto::id::{HostId, InstanceId, LeaseId, ScrubId};
use tempfile::TempDir;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The image that instances run in tests.
pub(crate) const IMAGE: &str = "freehold/base:latest";

const LIMIT: Duration = Duration::from_secs(60);

/// Runs a command of the machine.
pub(crate) fn run(words: &[&str]) -> Output {
    let (program, args) = words.split_first().expect("a program");
    Command::new(program).args(args).output().expect("starts")
}

/// Runs a command that has to succeed, and returns what it printed.
pub(crate) fn output(words: &[&str]) -> String {
    let done = run(words);
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{words:?}: {errors}");
    String::from_utf8_lossy(&done.stdout).trim().to_owned()
}

/// Whether these tests can run here; says so when not.
pub(crate) fn is_possible() -> bool {
    let engine = Command::new("docker")
        .args(["image", "inspect", IMAGE])
        .output();
    let has_image = engine.is_ok_and(|done| done.status.success());
    let is_root = Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|done| done.stdout == b"0\n");
    if !(has_image && is_root) {
        println!("skipped: needs root, Docker and the image {IMAGE} (scripts/image-base)");
    }
    has_image && is_root
}

/// An image made for one test, removed when it is dropped.
pub(crate) struct Image(pub(crate) String);

impl Image {
    pub(crate) fn build(name: &str, dockerfile: &str, files: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("Dockerfile"), dockerfile).expect("written");
        for file in files {
            let name = Path::new(file).file_name().expect("a file");
            std::fs::copy(file, dir.path().join(name)).expect("copied");
        }
        let tag = format!("freehold-test/{name}:{}", std::process::id());
        let dir = dir.path().display().to_string();
        output(&["docker", "build", "-q", "-t", &tag, &dir]);
        Self(tag)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        run(&["docker", "rmi", "-f", &self.0]);
    }
}

pub(crate) struct Gpus {
    events: broadcast::Sender<GpuEvent>,
    findings: watch::Sender<Vec<HealthFinding>>,
    simulated: bool,
}

#[async_trait::async_trait]
impl GpuSource for Gpus {
    fn inventory(&self) -> GpuInventory {
        GpuInventory {
            simulated: self.simulated,
            ..GpuInventory::default()
        }
    }

    async fn sample(&self) -> Vec<GpuSample> {
        Vec::new()
    }

    fn take_rollups(&self) -> Vec<GpuRollup> {
        Vec::new()
    }

    fn events(&self) -> broadcast::Receiver<GpuEvent> {
        self.events.subscribe()
    }

    fn findings(&self) -> watch::Receiver<Vec<HealthFinding>> {
        self.findings.subscribe()
    }
}

/// A gate that answers what the test wants.
pub(crate) struct Gate {
    pub(crate) health: Mutex<StepResult>,
}

fn step(name: &str, result: StepResult) -> Step {
    Step {
        name: name.to_owned(),
        result,
        detail: String::new(),
        duration: Duration::ZERO,
    }
}

#[async_trait::async_trait]
impl GpuGate for Gate {
    async fn restore(&self) -> Vec<Step> {
        vec![step("gpu_processes", StepResult::Passed)]
    }

    async fn health_gate(&self, _: &Baseline) -> Vec<Step> {
        let result = *self.health.lock().expect("not poisoned");
        vec![step("gpu_health", result)]
    }
}

/// A certificate authority for hosts and users, by `ssh-keygen`.
#[derive(Debug, Clone)]
pub(crate) struct Authority {
    dir: PathBuf,
}

impl Authority {
    fn make(dir: &Path) -> Self {
        for name in ["ca", "user"] {
            let file = dir.join(name).display().to_string();
            output(&["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", &file]);
        }
        let authority = Self {
            dir: dir.to_owned(),
        };
        authority.sign("user.pub", &["-n", "tester"]);
        let known = format!("@cert-authority * {}\n", authority.line());
        std::fs::write(dir.join("known_hosts"), known).expect("written");
        authority
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    pub(crate) fn line(&self) -> String {
        std::fs::read_to_string(self.path("ca.pub")).expect("made")
    }

    fn sign(&self, file: &str, flags: &[&str]) {
        let (ca, file) = (self.path("ca"), self.path(file));
        let mut words = vec!["ssh-keygen", "-q", "-s", &ca, "-I", "test", "-V", "-5m:+1h"];
        words.extend(flags);
        words.push(&file);
        output(&words);
    }
}

#[async_trait::async_trait]
impl HostKeyCertifier for Authority {
    async fn certify(&self, id: InstanceId, public_key: &str) -> Result<String, CertifyError> {
        let name = format!("{id}.pub");
        std::fs::write(self.path(&name), public_key).expect("written");
        self.sign(&name, &["-h", "-n", &id.to_string()]);
        Ok(std::fs::read_to_string(self.path(&format!("{id}-cert.pub"))).expect("signed"))
    }
}

/// An agent's instances. Dropping it stops the agent and removes what its instances left.
pub(crate) struct Host {
    pub(crate) id: HostId,
    pub(crate) dir: TempDir,
    pub(crate) policy: Policy,
    pub(crate) authority: Authority,
    pub(crate) gate: Arc<Gate>,
    pub(crate) simulator: Option<SimulatorFiles>,
    pub(crate) socket: PathBuf,
    running: Option<Running>,
}

struct Running {
    instances: Arc<Instances>,
    events: mpsc::Receiver<Event>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Host {
    pub(crate) async fn start() -> Self {
        Self::with(|_| ()).await
    }

    /// An agent that was changed before it started.
    pub(crate) async fn with(change: impl FnOnce(&mut Self)) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut host = Self {
            id: HostId::new(),
            authority: Authority::make(dir.path()),
            dir,
            policy: Policy::default(),
            gate: Arc::new(Gate {
                health: Mutex::new(StepResult::Passed),
            }),
            simulator: None,
            socket: PathBuf::from("/var/run/docker.sock"),
            running: None,
        };
        change(&mut host);
        host.start_agent().await;
        host
    }

    pub(crate) async fn start_agent(&mut self) {
        let clock = Clock::default();
        let data_dir = self.dir.path().join("data");
        let (events, received) = mpsc::channel(256);
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        let parts = Parts {
            host_id: self.id,
            docker_socket: self.socket.clone(),
            scratch_dir: self.dir.path().join("scratch"),
            policy: self.policy.clone(),
            journal: Journal::open(&data_dir, "boot".to_owned(), clock.clone()).expect("opens"),
            data_dir,
            clock,
            gpus: Arc::new(Gpus {
                events: broadcast::Sender::new(16),
                findings: watch::Sender::new(Vec::new()),
                simulated: self.simulator.is_some(),
            }),
            gate: Arc::clone(&self.gate) as Arc<dyn GpuGate>,
            certifier: Arc::new(self.authority.clone()),
            simulator: self.simulator.clone(),
            events,
        };
        self.running = Some(Running {
            instances: instances::start(parts, &tasks, &cancel).await,
            events: received,
            tasks,
            cancel,
        });
    }

    /// Ends the agent as a signal would; what it was doing stays undone.
    pub(crate) async fn stop_agent(&mut self) {
        let running = self.running.take().expect("it runs");
        running.cancel.cancel();
        running.tasks.close();
        running.tasks.wait().await;
    }

    pub(crate) fn instances(&self) -> &Instances {
        &self.running.as_ref().expect("it runs").instances
    }

    pub(crate) fn spec(&self) -> InstanceSpec {
        InstanceSpec {
            instance_id: InstanceId::new(),
            lease_id: LeaseId::new(),
            ordinal: 0,
            fence: Fence {
                epoch: 1,
                generation: 1,
            },
            image: IMAGE.to_owned(),
            gpu_uuids: Vec::new(),
            vcpus: 64,
            memory_bytes: 256 << 20,
            scratch_bytes: 64 << 20,
            scratch_key: ScratchKey::from_slice(&[9; 64]).expect("64 bytes"),
            network: NetworkKind::Bridge,
            user_ca: self.authority.line(),
            principals: vec!["tester".to_owned()],
            authorized_keys: Vec::new(),
            image_timeout: Duration::from_secs(20),
            hostname: "node-0".to_owned(),
        }
    }

    pub(crate) fn status(&self, id: InstanceId) -> Option<InstanceStatus> {
        let statuses = self.instances().statuses();
        statuses.into_iter().find(|status| status.instance_id == id)
    }

    /// Waits until an event says what is looked for.
    pub(crate) async fn event<T>(&mut self, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
        let running = self.running.as_mut().expect("it runs");
        let mut seen = Vec::new();
        let found = tokio::time::timeout(LIMIT, async {
            loop {
                let event = running.events.recv().await.expect("the agent runs");
                if let Some(found) = wanted(&event) {
                    return found;
                }
                seen.push(event);
            }
        })
        .await;
        found.unwrap_or_else(|_| panic!("did not come; came: {seen:#?}"))
    }

    /// Waits until an instance is reported as it should be.
    pub(crate) async fn reported(
        &mut self,
        id: InstanceId,
        wanted: impl Fn(&InstanceStatus) -> bool,
    ) -> InstanceStatus {
        self.event(|event| match event {
            Event::Instance(status) if status.instance_id == id && wanted(status) => {
                Some(status.clone())
            }
            _ => None,
        })
        .await
    }

    pub(crate) async fn outcome(&mut self, scrub: ScrubId) -> ScrubOutcome {
        self.event(|event| match event {
            Event::Scrub(outcome) if outcome.scrub_id == scrub => Some(outcome.clone()),
            _ => None,
        })
        .await
    }

    /// Brings an instance up until it can be logged in to.
    pub(crate) async fn up(&mut self, spec: &InstanceSpec) {
        self.instances().ensure_running(spec.clone());
        let up = self
            .reported(spec.instance_id, |status| {
                status.sshd_listening || status.state == ReportedState::Failed
            })
            .await;
        assert_eq!(up.state, ReportedState::Running, "{up:?}");
    }

    pub(crate) fn end_of(&self, spec: &InstanceSpec) -> GoneOrder {
        GoneOrder {
            instance_id: spec.instance_id,
            fence: spec.fence,
            scrub_id: ScrubId::new(),
            baseline: Baseline::default(),
        }
    }

    /// Ends an instance and waits for the scrub.
    pub(crate) async fn down(&mut self, spec: &InstanceSpec) -> ScrubOutcome {
        let order = self.end_of(spec);
        self.instances().ensure_gone(order.clone());
        self.outcome(order.scrub_id).await
    }

    /// Ends an instance; its scrub has to pass.
    pub(crate) async fn down_clean(&mut self, spec: &InstanceSpec) {
        let outcome = self.down(spec).await;
        assert_eq!(outcome.result, StepResult::Passed, "{outcome:#?}");
    }

    /// The container's name.
    pub(crate) fn container(&self, id: InstanceId) -> String {
        let label = format!("label=freehold.instance={id}");
        output(&[
            "docker",
            "ps",
            "-a",
            "--filter",
            &label,
            "--format",
            "{{.Names}}",
        ])
    }

    /// Runs a command in an instance over SSH, by certificate.
    pub(crate) fn ssh(&self, id: InstanceId, command: &str) -> Output {
        let target = self.instances().ssh_target(id).expect("it runs");
        let known = format!("UserKnownHostsFile={}", self.authority.path("known_hosts"));
        let alias = format!("HostKeyAlias={id}");
        let (key, host) = (self.authority.path("user"), target.ip().to_string());
        run(&[
            "ssh",
            "-F",
            "none",
            "-i",
            &key,
            "-o",
            &known,
            "-o",
            &alias,
            "-o",
            "BatchMode=yes",
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            "StrictHostKeyChecking=yes",
            "-l",
            "lease",
            &host,
            command,
        ])
    }

    /// What a command prints in an instance.
    pub(crate) fn inside(&self, id: InstanceId, command: &str) -> String {
        let done = self.ssh(id, command);
        let errors = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{command}: {errors}");
        String::from_utf8_lossy(&done.stdout).trim().to_owned()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.cancel.cancel();
        }
        let label = format!("label=freehold.host={}", self.id);
        for (kind, list, remove) in [
            ("container", vec!["ps", "-aq"], vec!["rm", "-fv"]),
            (
                "network",
                vec!["network", "ls", "-q"],
                vec!["network", "rm"],
            ),
        ] {
            let listed = Command::new("docker")
                .args(list)
                .args(["--filter", &label])
                .output();
            let listed = listed.map(|done| String::from_utf8_lossy(&done.stdout).into_owned());
            for id in listed.unwrap_or_default().split_whitespace() {
                let removed = Command::new("docker").args(&remove).arg(id).output();
                println!("removed the {kind} {id}: {}", removed.is_ok());
            }
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let dir = self.dir.path().display().to_string();
        for point in mounts
            .lines()
            .rev()
            .filter_map(|line| line.split(' ').nth(4))
        {
            if point.starts_with(&dir) {
                let _ = Command::new("umount").arg(point).output();
            }
        }
        self.remove_rules();
    }
}

impl Host {
    /// What the agent calls this host's chains and interfaces by.
    fn mark(&self) -> String {
        let id = self.id.to_string();
        id[id.len() - 5..].to_owned()
    }

    /// The agent's rules, as the kernel has them.
    pub(crate) fn rules(&self) -> Vec<String> {
        let rules = output(&["iptables", "-w", "-S"]);
        let mark = self.mark();
        let own = rules.lines().filter(|line| is_own(line, &mark));
        own.map(str::to_owned).collect()
    }

    pub(crate) fn remove_rules(&self) {
        for (tool, pass) in [("iptables", "-A"), ("ip6tables", "-A"), ("iptables", "-N")] {
            let rules = run(&[tool, "-w", "-S"]);
            let rules = String::from_utf8_lossy(&rules.stdout).into_owned();
            let mark = self.mark();
            for rule in rules.lines().filter(|line| is_own(line, &mark)) {
                if let Some(rest) = rule.strip_prefix(pass) {
                    let action = if pass == "-A" { "-D" } else { "-X" };
                    let mut words = vec![tool, "-w", action];
                    words.extend(rest.split_whitespace());
                    let _ = run(&words);
                }
            }
        }
    }
}

/// Whether a rule is an agent's. The engine's own ones name single interfaces.
fn is_own(rule: &str, mark: &str) -> bool {
    rule.contains(mark) && (rule.contains("FREEHOLD-") || rule.contains(&format!("{mark}+")))
}
