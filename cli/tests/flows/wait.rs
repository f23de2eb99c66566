use std::time::{Duration, Instant};

use freehold_proto::v1::{
    Instance, InstanceState, Lease, LeaseState, ScrubRecord, Step, StepResult,
};
use tonic::Status;

use crate::{
    home, json, lease, run,
    server::{ControlPlane, Script},
    stderr,
};

fn provisioning(reason: &str) -> Lease {
    let instance = Instance {
        state: InstanceState::Provisioning.into(),
        state_reason: reason.to_owned(),
        ..Default::default()
    };
    Lease {
        instances: vec![instance],
        ..lease(LeaseState::Provisioning)
    }
}

fn settled(result: StepResult) -> Lease {
    let scrub = ScrubRecord {
        result: result.into(),
        steps: vec![Step {
            name: "gpu_count".to_owned(),
            result: result.into(),
            detail: "7 of 8 GPUs answer".to_owned(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let instance = Instance {
        state: InstanceState::Ended.into(),
        host: "gpu-node-1".to_owned(),
        scrub: Some(scrub),
        ..Default::default()
    };
    Lease {
        instances: vec![instance],
        settle_time: Some(std::time::SystemTime::now().into()),
        ..lease(LeaseState::Ended)
    }
}

const CREATE: [&str; 7] = [
    "lease", "create", "--type", "t", "--wait", "--output", "json",
];
const END: [&str; 6] = ["lease", "end", "vision", "--wait", "--output", "json"];

async fn outcome(script: Script, words: &[&str]) -> (std::process::Output, ControlPlane) {
    let control_plane = ControlPlane::start(script).await;
    let home = home(&control_plane);
    let output = run(&control_plane, home.path(), words).await;
    (output, control_plane)
}

#[tokio::test]
async fn create_wait_returns_the_lease_when_it_is_active() {
    let script = Script {
        lease: provisioning("pulling the image"),
        streams: [vec![
            Ok(provisioning("starting the container")),
            Ok(lease(LeaseState::Active)),
        ]]
        .into(),
        ..Default::default()
    };
    let (output, _) = outcome(script, &CREATE).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(json(&output)["state"], "active");
    let progress = stderr(&output);
    assert!(
        progress.contains("pulling the image") && progress.contains("starting the container"),
        "{progress}"
    );
}

#[tokio::test]
async fn create_wait_fails_with_the_reason_when_the_lease_fails() {
    let failed = Lease {
        state_reason: "image `x` was not found".to_owned(),
        ..lease(LeaseState::Failed)
    };
    let script = Script {
        lease: provisioning(""),
        streams: [vec![Ok(failed)]].into(),
        ..Default::default()
    };
    let (output, _) = outcome(script, &CREATE).await;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(json(&output)["state"], "failed");
    assert!(
        stderr(&output).contains("image `x` was not found"),
        "{}",
        stderr(&output)
    );
}

#[tokio::test]
async fn create_wait_takes_a_broken_stream_up_again() {
    let script = Script {
        lease: provisioning(""),
        streams: [
            vec![
                Ok(provisioning("a")),
                Err(Status::unavailable("the replica stops")),
            ],
            vec![Ok(provisioning("a"))],
            vec![Ok(lease(LeaseState::Active))],
        ]
        .into(),
        ..Default::default()
    };
    let (output, _) = outcome(script, &CREATE).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(json(&output)["state"], "active");
}

#[tokio::test]
async fn a_create_that_was_not_heard_is_repeated_with_the_same_request_id() {
    let script = Script {
        refusals: [
            Status::unavailable("starting"),
            Status::unavailable("starting"),
        ]
        .into(),
        lease: lease(LeaseState::Provisioning),
        ..Default::default()
    };
    let (output, control_plane) = outcome(script, &["lease", "create", "--type", "t"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let creates = control_plane.script().creates.clone();
    assert_eq!(creates.len(), 3);
    assert!(!creates[0].request_id.is_empty());
    assert!(
        creates
            .iter()
            .all(|create| create.request_id == creates[0].request_id)
    );
}

#[tokio::test]
async fn a_refused_create_is_not_repeated() {
    let script = Script {
        refusals: [Status::resource_exhausted("no host is free")].into(),
        ..Default::default()
    };
    let (output, control_plane) = outcome(script, &CREATE).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no host is free"));
    assert!(output.stdout.is_empty());
    assert_eq!(control_plane.script().creates.len(), 1);
}

#[tokio::test]
async fn end_wait_returns_when_the_lease_is_settled_and_clean() {
    let script = Script {
        lease: lease(LeaseState::Ending),
        streams: [vec![
            Ok(lease(LeaseState::Ending)),
            Ok(lease(LeaseState::Ended)),
            Ok(settled(StepResult::Passed)),
        ]]
        .into(),
        ..Default::default()
    };
    let (output, _) = outcome(script, &END).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(json(&output)["settle_time"].is_string());
}

#[tokio::test]
async fn end_wait_fails_with_the_step_that_put_the_host_into_quarantine() {
    let script = Script {
        lease: lease(LeaseState::Ending),
        streams: [vec![Ok(settled(StepResult::Failed))]].into(),
        ..Default::default()
    };
    let (output, _) = outcome(script, &END).await;
    assert_eq!(output.status.code(), Some(1));
    let reason = stderr(&output);
    assert!(
        reason.contains("gpu-node-1 is quarantined") && reason.contains("7 of 8 GPUs answer"),
        "{reason}"
    );
    assert_eq!(json(&output)["state"], "ended");
}

#[tokio::test]
async fn watch_prints_a_json_line_a_change_until_the_lease_is_settled() {
    let active = lease(LeaseState::Active);
    let script = Script {
        lease: active.clone(),
        streams: [
            vec![
                Ok(active.clone()),
                Err(Status::unavailable("the replica stops")),
            ],
            vec![
                Ok(active),
                Ok(lease(LeaseState::Ending)),
                Ok(settled(StepResult::Passed)),
            ],
        ]
        .into(),
        ..Default::default()
    };
    let (output, _) = outcome(script, &["--output", "json", "lease", "watch", "vision"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = crate::stdout(&output);
    let states: Vec<String> = text
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).expect("JSON")["state"]
                .as_str()
                .expect("a state")
                .to_owned()
        })
        .collect();
    assert_eq!(states, ["active", "ending", "ended"]);
}

/// A runtime of its own, so that shutting it down cuts every connection as a killed process does.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime")
}

#[test]
fn create_wait_outlives_a_killed_control_plane() {
    let script = Script {
        lease: provisioning(""),
        streams: [vec![Ok(provisioning("starting"))]].into(),
        hold: true,
        ..Default::default()
    };
    let first = runtime();
    let control_plane = first.block_on(ControlPlane::start(script));
    let home = home(&control_plane);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| runtime().block_on(run(&control_plane, home.path(), &CREATE)));
        let deadline = Instant::now() + Duration::from_secs(20);
        while !control_plane.script().streams.is_empty() {
            assert!(Instant::now() < deadline, "the client never watched");
            std::thread::sleep(Duration::from_millis(10));
        }
        first.shutdown_timeout(Duration::from_secs(5));
        let second = runtime();
        let address = control_plane.url.replace("https://localhost", "127.0.0.1");
        let script = Script {
            streams: [vec![Ok(lease(LeaseState::Active))]].into(),
            ..Default::default()
        };
        let (ca, identity) = (control_plane.ca_pem.clone(), control_plane.identity.clone());
        let _second = second.block_on(ControlPlane::start_at(&address, ca, identity, script));
        let output = client.join().expect("the client ran");
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert_eq!(json(&output)["state"], "active");
    });
}
