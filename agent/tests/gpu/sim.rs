//! A simulated host: a scenario that can be changed, a kernel log, and the agent's GPU part on them.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use freehold_agent::{
    clock::Clock,
    gpu::{Gpus, Options, Program, Timing},
    journal::Journal,
    model::{GpuSource as _, HealthFinding},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::until;

pub(crate) const AGENT: &str = env!("CARGO_BIN_EXE_freehold-agent");

/// Built with this crate's tests, beside them.
pub(crate) fn library() -> PathBuf {
    let own = std::env::current_exe().expect("this test's path");
    let library = own.with_file_name("libnvidia_ml.so");
    assert!(library.exists(), "{} is not built", library.display());
    library
}

pub(crate) struct Sim {
    dir: tempfile::TempDir,
    cancel: CancellationToken,
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Sim {
    pub(crate) fn new(scenario: &str) -> Self {
        let sim = Self {
            dir: tempfile::tempdir().expect("a directory"),
            cancel: CancellationToken::new(),
        };
        sim.set(scenario);
        fs::write(sim.log_path(), "").expect("written");
        sim
    }

    /// Replaces the scenario as a whole, as an editor does.
    pub(crate) fn set(&self, scenario: &str) {
        let next = self.dir.path().join("scenario.new");
        fs::write(&next, scenario).expect("written");
        fs::rename(&next, self.scenario_path()).expect("renamed");
    }

    pub(crate) fn scenario_path(&self) -> PathBuf {
        self.dir.path().join("scenario.toml")
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.dir.path().join("kmsg")
    }

    /// Appends a line to the kernel's log.
    pub(crate) fn log(&self, line: &str) {
        let mut file = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.log_path())
            .expect("opened");
        writeln!(file, "{line}").expect("written");
    }

    /// The driver's line of an Xid.
    pub(crate) fn log_xid(&self, pci: &str, xid: u32) {
        self.log(&format!(
            "NVRM: Xid (PCI:{pci}): {xid}, pid=1234, name=python3, something went wrong"
        ));
    }

    pub(crate) fn journal(&self) -> Journal {
        Journal::open(self.dir.path(), "boot".to_owned(), Clock::default()).expect("a journal")
    }

    pub(crate) fn program(&self) -> Program {
        Program {
            binary: AGENT.into(),
            nvml_lib: Some(library()),
            environment: vec![("FREEHOLD_NVML_SCENARIO".into(), self.scenario_path().into())],
        }
    }

    pub(crate) fn options(&self) -> Options {
        Options {
            program: self.program(),
            timing: Timing {
                start: Duration::from_secs(10),
                call: Duration::from_millis(500),
                shortest_pause: Duration::from_millis(50),
                longest_pause: Duration::from_millis(200),
                health: Duration::from_millis(100),
            },
            kmsg: Some(self.log_path()),
        }
    }

    /// The agent's GPU part, after its first look.
    pub(crate) async fn start(&self) -> Gpus {
        self.start_with(self.options(), None).await
    }

    pub(crate) async fn start_with(&self, options: Options, journal: Option<Journal>) -> Gpus {
        let tasks = TaskTracker::new();
        let gpus = Gpus::start(options, Clock::default(), journal, &tasks, &self.cancel);
        gpus.settle(super::DEADLINE).await;
        gpus
    }
}

/// Waits until the checks find what `is_so` wants.
pub(crate) async fn until_found(
    gpus: &Gpus,
    what: &str,
    is_so: impl Fn(&[HealthFinding]) -> bool,
) -> Vec<HealthFinding> {
    let findings = gpus.findings();
    until(what, || is_so(&findings.borrow())).await;
    findings.borrow().clone()
}

pub(crate) fn has(findings: &[HealthFinding], check: &str) -> bool {
    findings.iter().any(|finding| finding.check == check)
}

/// Processes that are workers on `scenario`, by their environment; ended ones do not count.
pub(crate) fn workers_on(scenario: &Path) -> Vec<i32> {
    let wanted = format!("FREEHOLD_NVML_SCENARIO={}", scenario.display());
    let processes = fs::read_dir("/proc").expect("processes");
    let ids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    ids.filter(|pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|variable| variable == wanted.as_bytes())
    })
    .collect()
}
