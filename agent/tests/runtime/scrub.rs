//! What a scrub leaves, and what it says.

use freehold_agent::model::{
    Baseline, InstanceControl as _, ReportedState, ScrubOrder, ScrubOutcome, StepResult,
};
use freehold_proto::id::ScrubId;

use crate::host::{Host, is_possible, output, run};

fn result_of(outcome: &ScrubOutcome, name: &str) -> Option<StepResult> {
    let step = outcome.steps.iter().find(|step| step.name == name);
    step.map(|step| step.result)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_removes_everything_and_says_so_step_by_step() {
    if !is_possible() {
        return;
    }
    let mut host = Host::start().await;
    let spec = host.spec();
    host.up(&spec).await;
    let order = host.end_of(&spec);
    host.instances().ensure_gone(order.clone());
    let absent = host
        .reported(spec.instance_id, |status| {
            status.state == ReportedState::Absent
        })
        .await;
    assert_eq!(absent.fence, spec.fence);
    let outcome = host.outcome(order.scrub_id).await;
    assert_eq!(outcome.result, StepResult::Passed, "{outcome:#?}");
    let names: Vec<&str> = outcome
        .steps
        .iter()
        .map(|step| step.name.as_str())
        .collect();
    let expected = [
        "container_removed",
        "scratch_destroyed",
        "network_removed",
        "leftovers",
        "gpu_processes",
        "unknown_containers",
        "gpu_health",
    ];
    assert_eq!(names, expected);
    assert_eq!(
        result_of(&outcome, "unknown_containers"),
        Some(StepResult::Skipped)
    );
    let destroyed = outcome
        .steps
        .iter()
        .find(|step| step.name == "scratch_destroyed");
    let said = &destroyed.expect("a step").detail;
    assert!(said.contains("key removed from the kernel"), "{said}");

    let label = format!("label=freehold.instance={}", spec.instance_id);
    for list in [
        &["ps", "-aq"][..],
        &["network", "ls", "-q"],
        &["volume", "ls", "-q"],
    ] {
        let mut words = vec!["docker"];
        words.extend(list);
        words.extend(["--filter", &label]);
        assert_eq!(output(&words), "");
    }
    let mark = spec.instance_id.to_string();
    for file in ["/proc/self/mountinfo", "/proc/mounts"] {
        let text = std::fs::read_to_string(file).expect("readable");
        assert!(!text.contains(&mark), "{file}");
    }
    assert!(!output(&["losetup", "-a"]).contains(&mark));
    assert_eq!(
        output(&[
            "find",
            &host.dir.path().join("scratch").display().to_string(),
            "-name",
            &mark
        ]),
        ""
    );

    // The same order again, also after a restart, has the same answer.
    host.instances().ensure_gone(order.clone());
    assert_eq!(host.outcome(order.scrub_id).await, outcome);
    host.stop_agent().await;
    host.start_agent().await;
    host.instances().ensure_gone(order.clone());
    assert_eq!(host.outcome(order.scrub_id).await, outcome);
    let state = host.status(spec.instance_id).map(|status| status.state);
    assert_eq!(state, Some(ReportedState::Absent));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_step_fails_the_scrub_and_the_next_one_cleans_up() {
    if !is_possible() {
        return;
    }
    let mut host = Host::start().await;
    let spec = host.spec();
    host.up(&spec).await;
    // Something that nobody expects holds the scratch.
    let mount = host
        .dir
        .path()
        .join(format!("scratch/{}/{}/mount", host.id, spec.instance_id));
    let holder = std::fs::File::open(&mount).expect("mounted");
    let outcome = host.down(&spec).await;
    assert_eq!(outcome.result, StepResult::Failed);
    assert_eq!(
        result_of(&outcome, "container_removed"),
        Some(StepResult::Passed)
    );
    assert_eq!(
        result_of(&outcome, "scratch_destroyed"),
        Some(StepResult::Failed)
    );
    assert_eq!(result_of(&outcome, "leftovers"), Some(StepResult::Failed));
    drop(holder);

    let order = ScrubOrder {
        scrub_id: ScrubId::new(),
        epoch: 1,
        baseline: Baseline::default(),
    };
    host.instances().scrub_host(order.clone());
    let outcome = host.outcome(order.scrub_id).await;
    assert_eq!(outcome.result, StepResult::Passed, "{outcome:#?}");
    assert_eq!(
        result_of(&outcome, "scratches_destroyed"),
        Some(StepResult::Passed)
    );
    assert!(!mount.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_finds_something_fails_the_scrub() {
    if !is_possible() {
        return;
    }
    let mut host = Host::start().await;
    let spec = host.spec();
    *host.gate.health.lock().expect("not poisoned") = StepResult::Failed;
    let outcome = host.down(&spec).await;
    assert_eq!(outcome.result, StepResult::Failed);
    assert_eq!(result_of(&outcome, "gpu_health"), Some(StepResult::Failed));
    assert_eq!(
        result_of(&outcome, "container_removed"),
        Some(StepResult::Passed)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_with_an_instance_on_it_is_not_scrubbed() {
    if !is_possible() {
        return;
    }
    let mut host = Host::start().await;
    let spec = host.spec();
    host.up(&spec).await;
    let order = ScrubOrder {
        scrub_id: ScrubId::new(),
        epoch: 1,
        baseline: Baseline::default(),
    };
    host.instances().scrub_host(order.clone());
    let outcome = host.outcome(order.scrub_id).await;
    assert_eq!(result_of(&outcome, "host_idle"), Some(StepResult::Failed));
    assert_eq!(outcome.steps.len(), 1);
    assert_eq!(host.inside(spec.instance_id, "echo up"), "up");
    host.down(&spec).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_container_fails_the_gate_of_a_dedicated_host_and_stays() {
    if !is_possible() {
        return;
    }
    let mut host = Host::with(|host| host.policy.dedicated = true).await;
    let name = format!("freehold-test-unknown-{}", std::process::id());
    output(&["docker", "create", "--name", &name, crate::host::IMAGE]);
    let order = ScrubOrder {
        scrub_id: ScrubId::new(),
        epoch: 1,
        baseline: Baseline::default(),
    };
    host.instances().scrub_host(order.clone());
    let outcome = host.outcome(order.scrub_id).await;
    let left = run(&["docker", "inspect", &name]).status.success();
    run(&["docker", "rm", "-f", &name]);
    assert_eq!(outcome.result, StepResult::Failed);
    assert_eq!(
        result_of(&outcome, "unknown_containers"),
        Some(StepResult::Failed)
    );
    assert!(left, "what is not ours is not touched");
}
