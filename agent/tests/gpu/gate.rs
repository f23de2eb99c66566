use freehold_agent::{
    gpu::Gpus,
    model::{Baseline, GpuGate as _, GpuSource as _, Step, StepResult},
};

use super::{
    sim::{Sim, has, until_found},
    soon,
};

fn baseline(gpus: &Gpus) -> Baseline {
    let uuids = gpus.inventory().gpus.into_iter().map(|gpu| gpu.uuid);
    Baseline {
        gpu_uuids: uuids.collect(),
    }
}

fn result(steps: &[Step], name: &str) -> (StepResult, String) {
    let step = steps.iter().find(|step| step.name == name);
    let step = step.unwrap_or_else(|| panic!("{name} is not in {steps:?}"));
    (step.result, step.detail.clone())
}

fn all_passed(steps: &[Step]) -> bool {
    steps.iter().all(|step| step.result == StepResult::Passed)
}

#[tokio::test]
async fn what_a_tenant_left_behind_is_restored() {
    let sim = Sim::new(
        "count = 8\n[gpu.4]\ncompute_mode = 'exclusive_process'\npower_limit_watts = 500\nlocked_sm_clock_mhz = 1200\npersistence = false\nmig = true\nutilization = 100",
    );
    let gpus = sim.start().await;
    assert_eq!(gpus.sample().await[4].sm_clock_mhz, Some(1200));
    let steps = soon("the restoration", gpus.restore()).await;
    assert!(all_passed(&steps), "{steps:?}");
    for name in [
        "gpu_processes",
        "gpu_mig",
        "gpu_compute_mode",
        "gpu_persistence",
        "gpu_clocks",
        "gpu_power_limit",
        "gpu_ecc",
    ] {
        result(&steps, name);
    }
    let sample = &gpus.sample().await[4];
    assert_eq!(sample.sm_clock_mhz, Some(1980));
    assert_eq!(
        sample.power_milliwatts,
        Some(700_000),
        "no limit holds it down"
    );
    let again = gpus.restore().await;
    assert!(all_passed(&again), "{again:?}");
}

#[tokio::test]
async fn what_a_driver_does_not_offer_is_skipped_with_the_reason() {
    let sim = Sim::new(
        "count = 2\nerrors = { nvmlDeviceGetMigMode = 'not_supported', nvmlDeviceGetPowerManagementLimit = 'not_supported' }",
    );
    let gpus = sim.start().await;
    let steps = gpus.restore().await;
    for name in ["gpu_mig", "gpu_power_limit"] {
        let (result, detail) = result(&steps, name);
        assert_eq!(result, StepResult::Skipped);
        assert!(detail.contains("supports"), "{detail}");
    }
}

#[tokio::test]
async fn a_setting_that_may_not_be_changed_fails_its_step() {
    let sim = Sim::new(
        "count = 2\nerrors = { nvmlDeviceSetComputeMode = 'no_permission' }\n[gpu.1]\ncompute_mode = 'prohibited'",
    );
    let gpus = sim.start().await;
    let second = gpus.inventory().gpus[1].uuid.clone();
    let (result, detail) = result(&gpus.restore().await, "gpu_compute_mode");
    assert_eq!(result, StepResult::Failed);
    assert!(detail.contains(&second), "{detail}");
}

#[tokio::test]
async fn a_process_that_holds_on_is_waited_for_and_then_fails_the_step() {
    let held = "count = 2\n[gpu.0]\nprocesses = [{ pid = 4242, name = 'python3' }]";
    let sim = Sim::new(held);
    let gpus = sim.start().await;
    let (result_of_held, detail) = result(&gpus.restore().await, "gpu_processes");
    assert_eq!(result_of_held, StepResult::Failed);
    assert!(detail.contains("4242"), "{detail}");
    let (steps, ()) = tokio::join!(gpus.restore(), async {
        tokio::time::sleep(std::time::Duration::from_millis(700)).await;
        sim.set("count = 2");
    });
    assert_eq!(result(&steps, "gpu_processes").0, StepResult::Passed);
}

#[tokio::test]
async fn a_gate_passes_on_exactly_the_baselines_gpus() {
    let sim = Sim::new("count = 4");
    let gpus = sim.start().await;
    let mut wanted = baseline(&gpus);
    let steps = gpus.health_gate(&wanted).await;
    assert!(all_passed(&steps) && steps.len() == 3, "{steps:?}");

    let taken = wanted.gpu_uuids.pop().expect("a GPU");
    let steps = gpus.health_gate(&wanted).await;
    assert_eq!(
        result(&steps, "gpu_count").0,
        StepResult::Failed,
        "one too many"
    );
    assert!(result(&steps, "gpu_uuids").1.contains(&taken));

    wanted.gpu_uuids.push("GPU-other".to_owned());
    let steps = gpus.health_gate(&wanted).await;
    assert_eq!(result(&steps, "gpu_count").0, StepResult::Passed);
    assert_eq!(
        result(&steps, "gpu_uuids").0,
        StepResult::Failed,
        "another one"
    );
}

#[tokio::test]
async fn a_lost_gpu_fails_the_gate_and_a_removed_one_does_not_for_ever() {
    let sim = Sim::new("count = 2");
    let gpus = sim.start().await;
    let mut wanted = baseline(&gpus);
    sim.set("count = 2\n[gpu.1]\nlost = true");
    let steps = gpus.health_gate(&wanted).await;
    for name in ["gpu_count", "gpu_uuids", "gpu_health"] {
        assert_eq!(result(&steps, name).0, StepResult::Failed, "{name}");
    }
    // The operator took it out and accepted the change.
    sim.set("count = 1");
    wanted.gpu_uuids.pop();
    let steps = gpus.health_gate(&wanted).await;
    assert!(all_passed(&steps), "{steps:?}");
    assert_eq!(gpus.inventory().gpus.len(), 1);
    assert_eq!(*gpus.findings().borrow(), []);
}

#[tokio::test]
async fn a_hanging_nvml_fails_the_gate_in_time() {
    let sim = Sim::new("count = 2");
    let gpus = sim.start().await;
    let wanted = baseline(&gpus);
    sim.set("count = 2\nhang = ['nvmlDeviceGetIndex', 'nvmlDeviceGetComputeMode']");
    let steps = soon("the gate", gpus.health_gate(&wanted)).await;
    assert!(steps.iter().all(|step| step.result == StepResult::Failed));
    let steps = soon("the restoration", gpus.restore()).await;
    assert!(
        steps.iter().all(|step| step.result == StepResult::Failed),
        "{steps:?}"
    );
}

#[tokio::test]
async fn an_xid_fails_one_gate_and_is_cleared_by_the_next() {
    let sim = Sim::new("count = 8");
    let gpus = sim.start_with(sim.options(), Some(sim.journal())).await;
    let wanted = baseline(&gpus);
    sim.log_xid("0000:61:00", 95);
    until_found(&gpus, "the finding", |found| has(found, "xid_95")).await;
    let steps = gpus.health_gate(&wanted).await;
    let (outcome, detail) = result(&steps, "gpu_health");
    assert_eq!(outcome, StepResult::Failed);
    assert!(detail.contains("xid_95"), "{detail}");
    assert!(
        has(&gpus.findings().borrow(), "xid_95"),
        "until the operator has looked at it"
    );

    let steps = gpus.health_gate(&wanted).await;
    assert!(all_passed(&steps), "{steps:?}");
    assert_eq!(*gpus.findings().borrow(), []);

    let restarted = sim.start_with(sim.options(), Some(sim.journal())).await;
    sim.log_xid("0000:61:00", 13);
    let mut events = restarted.events();
    soon("the log is read", events.recv())
        .await
        .expect("an event");
    assert_eq!(*restarted.findings().borrow(), [], "it stays cleared");
}
