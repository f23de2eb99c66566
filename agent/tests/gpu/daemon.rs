//! `freehold-agent run`, as a process.

use std::{
    fs,
    io::Read as _,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Instant,
};

use freehold_agent::identity::{self, Identity};
use freehold_proto::id::HostId;

use super::sim::{AGENT, Sim, library, workers_on};

fn enrol(dir: &Path) {
    let issued = rcgen::generate_simple_self_signed(vec!["agent".to_owned()]).expect("issued");
    let identity = Identity {
        host_id: HostId::new(),
        hostname: "gpu-1".to_owned(),
        server: "https://localhost:8443".to_owned(),
        key_pem: issued.signing_key.serialize_pem(),
        certificate_pem: issued.cert.pem(),
        ca_pem: issued.cert.pem(),
    };
    identity::save(dir, &identity).expect("stored");
}

fn command(sim: &Sim, dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(AGENT);
    command
        .args(["run", "--data-dir"])
        .arg(dir)
        .arg("--kmsg")
        .arg(sim.log_path())
        .arg("--docker-socket")
        .arg(dir.join("no-docker.sock"))
        .args(arguments)
        .env("FREEHOLD_NVML_SCENARIO", sim.scenario_path())
        .env("RUST_LOG", "info")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

fn refused(sim: &Sim, dir: &Path, arguments: &[&str]) -> String {
    let Output { status, stderr, .. } = command(sim, dir, arguments).output().expect("started");
    let text = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(1), "{text}");
    text
}

fn library_flag() -> [String; 2] {
    ["--nvml-lib".to_owned(), library().display().to_string()]
}

fn start(sim: &Sim, dir: &Path) -> Child {
    let [flag, library] = library_flag();
    command(sim, dir, &[&flag, &library])
        .spawn()
        .expect("started")
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + super::DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn what_is_wrong_is_named_by_its_flag() {
    let sim = Sim::new("count = 1");
    let dir = tempfile::tempdir().expect("a directory");
    let text = refused(&sim, dir.path(), &[]);
    assert!(
        text.contains("--data-dir") && text.contains("freehold-agent enroll"),
        "{text}"
    );
    enrol(dir.path());
    let text = refused(&sim, dir.path(), &["--nvml-lib", "/nonexistent/lib.so"]);
    assert!(text.contains("--nvml-lib: /nonexistent/lib.so"), "{text}");
    let text = refused(&sim, dir.path(), &["--policy", "/nonexistent/policy.toml"]);
    assert!(
        text.contains("--policy") && text.contains("/nonexistent/policy.toml"),
        "{text}"
    );
    let text = refused(&sim, dir.path(), &["--scratch-dir", "/proc/scratch"]);
    assert!(text.contains("--scratch-dir: /proc/scratch"), "{text}");
    let policy = dir.path().join("policy.toml");
    fs::write(&policy, "dedicatd = true").expect("written");
    let text = refused(
        &sim,
        dir.path(),
        &["--policy", &policy.display().to_string()],
    );
    assert!(text.contains("dedicatd"), "{text}");
}

#[test]
fn a_second_agent_on_the_same_directory_is_refused_and_a_stop_is_graceful() {
    let sim = Sim::new("count = 2");
    let dir = tempfile::tempdir().expect("a directory");
    enrol(dir.path());
    let mut first = start(&sim, dir.path());
    // The agent and its worker.
    wait_until("the agent watches its GPUs", || {
        workers_on(&sim.scenario_path()).len() == 2
    });
    let text = refused(&sim, dir.path(), &[]);
    assert!(text.contains("another agent"), "{text}");

    let stop = Command::new("kill").arg(first.id().to_string()).status();
    assert!(stop.expect("kill").success());
    let mut code = None;
    wait_until("the agent ends", || {
        code = first.try_wait().expect("its status");
        code.is_some()
    });
    let mut log = String::new();
    let mut stderr = first.stderr.take().expect("piped");
    stderr.read_to_string(&mut log).expect("text");
    assert_eq!(code.and_then(|code| code.code()), Some(0), "{log}");
    assert!(log.contains("instances run on"), "{log}");
    wait_until("the worker is gone", || {
        workers_on(&sim.scenario_path()).is_empty()
    });
}

#[test]
fn an_agent_that_is_killed_leaves_no_lock_and_no_worker() {
    let sim = Sim::new("count = 2");
    let dir = tempfile::tempdir().expect("a directory");
    enrol(dir.path());
    for _ in 0..3 {
        let mut agent = start(&sim, dir.path());
        wait_until("it runs", || workers_on(&sim.scenario_path()).len() == 2);
        agent.kill().expect("killed");
        agent.wait().expect("reaped");
        wait_until("its worker is gone", || {
            workers_on(&sim.scenario_path()).is_empty()
        });
    }
}

#[test]
fn a_hanging_driver_does_not_keep_the_agent_from_starting_and_stopping() {
    let sim = Sim::new("hang = ['nvmlInit_v2']");
    let dir = tempfile::tempdir().expect("a directory");
    enrol(dir.path());
    let mut agent = start(&sim, dir.path());
    wait_until("it runs", || workers_on(&sim.scenario_path()).len() == 2);
    let stop = Command::new("kill").arg(agent.id().to_string()).status();
    assert!(stop.expect("kill").success());
    wait_until("it ends", || {
        agent.try_wait().expect("its status").is_some()
    });
    wait_until("its worker is gone", || {
        workers_on(&sim.scenario_path()).is_empty()
    });
}
