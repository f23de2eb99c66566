use std::time::{Duration, Instant};

use freehold_agent::{gpu::NvmlError, model::GpuSource as _};

use super::{
    sim::{Sim, has, until_found, workers_on},
    soon, until,
};

#[tokio::test]
async fn a_call_that_hangs_is_a_finding_blocks_nobody_and_is_over_when_it_is_over() {
    let sim = Sim::new("count = 8");
    let gpus = sim.start().await;
    let mut events = gpus.events();
    sim.set("count = 8\nhang = ['nvmlDeviceGetTemperature']");
    let began = Instant::now();
    assert_eq!(soon("a sample", gpus.sample()).await, []);
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    let findings = until_found(&gpus, "the finding", |found| has(found, "nvml_timeout")).await;
    assert!(findings[0].prevents_use && findings[0].gpu_uuid.is_empty());
    let event = soon("the event", events.recv()).await.expect("an event");
    assert_eq!(event.kind, "nvml_timeout");
    assert_eq!(gpus.inventory().gpus.len(), 8, "what there is stays known");
    // The next callers are answered at once, from what is known.
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(gpus.sample().await, []);
    }
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );

    sim.set("count = 8");
    until_found(&gpus, "the end of it", <[_]>::is_empty).await;
    assert_eq!(gpus.sample().await.len(), 8);
    until("stuck workers are gone", || {
        workers_on(&sim.scenario_path()).len() == 1
    })
    .await;
}

#[tokio::test]
async fn one_gpu_that_hangs_is_found_too() {
    let sim = Sim::new("count = 2");
    let gpus = sim.start().await;
    sim.set("count = 2\n[gpu.1]\nhang = ['nvmlDeviceGetPowerUsage']");
    assert_eq!(soon("a sample", gpus.sample()).await, []);
    until_found(&gpus, "the finding", |found| has(found, "nvml_timeout")).await;
}

#[tokio::test]
async fn a_start_that_hangs_is_found_too() {
    let sim = Sim::new("hang = ['nvmlInit_v2']");
    let mut options = sim.options();
    options.timing.start = Duration::from_millis(300);
    let gpus = sim.start_with(options, None).await;
    until_found(&gpus, "the finding", |found| has(found, "nvml_timeout")).await;
    assert!(matches!(gpus.failure(), Some(NvmlError::Timeout(_))));
    sim.set("count = 1");
    until("the GPU is there", || gpus.inventory().gpus.len() == 1).await;
}

#[tokio::test]
async fn a_gpu_off_the_bus_is_found_by_the_next_sample_and_stays_listed() {
    let sim = Sim::new("count = 8");
    let mut options = sim.options();
    options.timing.health = Duration::from_secs(3600);
    let gpus = sim.start_with(options, None).await;
    let lost = gpus.inventory().gpus[3].uuid.clone();
    let mut events = gpus.events();
    sim.set("count = 8\n[gpu.3]\nlost = true");
    let samples = gpus.sample().await;
    assert_eq!(samples.len(), 8);
    assert_eq!(
        (&samples[3].uuid, samples[3].utilization_percent),
        (&lost, None)
    );
    assert_eq!(samples[4].utilization_percent, Some(0));
    let findings = gpus.findings().borrow().clone();
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(
        (findings[0].check.as_str(), &findings[0].gpu_uuid),
        ("gpu_lost", &lost)
    );
    assert!(findings[0].prevents_use && findings[0].prevents_allocation);
    let event = soon("the event", events.recv()).await.expect("an event");
    assert_eq!((event.kind.as_str(), &event.gpu_uuid), ("gpu_lost", &lost));
    assert_eq!(gpus.inventory().gpus.len(), 8);

    sim.set("count = 8");
    gpus.sample().await;
    assert_eq!(*gpus.findings().borrow(), [], "it is back");
}

#[tokio::test]
async fn a_gpu_that_a_new_worker_does_not_find_stays_lost() {
    let sim = Sim::new("count = 2");
    let gpus = sim.start().await;
    let lost = gpus.inventory().gpus[0].uuid.clone();
    sim.set("count = 2\n[gpu.0]\nabsent = true");
    let pid = workers_on(&sim.scenario_path())[0];
    std::process::Command::new("kill")
        .args(["-9", &pid.to_string()])
        .status()
        .expect("kill");
    let findings = until_found(&gpus, "the finding", |found| {
        has(found, "gpu_lost") && gpus_answer(found)
    })
    .await;
    assert_eq!(findings[0].gpu_uuid, lost);
    assert_eq!(gpus.inventory().gpus.len(), 2);
    let samples = gpus.sample().await;
    assert_eq!(samples.len(), 2);
}

fn gpus_answer(findings: &[freehold_agent::model::HealthFinding]) -> bool {
    !has(findings, "nvml_unavailable")
}

#[tokio::test]
async fn a_driver_that_comes_later_is_found() {
    let sim = Sim::new("errors = { nvmlInit_v2 = 'driver_not_loaded' }");
    let gpus = sim.start().await;
    assert!(has(&gpus.findings().borrow(), "nvml_unavailable"));
    assert_eq!(gpus.inventory().gpus, []);
    sim.set("count = 4");
    until("the GPUs are there", || gpus.inventory().gpus.len() == 4).await;
    until_found(&gpus, "no finding", <[_]>::is_empty).await;
}

#[tokio::test]
async fn a_library_that_is_not_there_is_a_finding() {
    let sim = Sim::new("count = 1");
    let mut options = sim.options();
    options.program.nvml_lib = Some("/nonexistent/libnvidia-ml.so.1".into());
    let gpus = sim.start_with(options, None).await;
    let findings = gpus.findings().borrow().clone();
    assert_eq!(findings[0].check, "nvml_unavailable");
    assert!(
        findings[0].detail.contains("/nonexistent"),
        "{}",
        findings[0].detail
    );
}

#[tokio::test]
async fn findings_follow_the_gpus_as_they_change() {
    let sim = Sim::new("count = 2");
    let gpus = sim.start().await;
    let cases = [
        ("rows_pending = true", "row_remap_pending"),
        ("rows_failure = true", "row_remap_failure"),
        ("ecc_uncorrected = 1", "ecc_uncorrected"),
        ("temperature = 91", "temperature"),
        ("throttle_reasons = 64", "hardware_slowdown"),
        ("recovery_action = 2", "recovery_action"),
        ("pcie_width = 8", "pcie_width"),
        ("nvlinks_active = 12", "nvlink_down"),
    ];
    let second = gpus.inventory().gpus[1].uuid.clone();
    for (scenario, check) in cases {
        sim.set(&format!("count = 2\n[gpu.1]\n{scenario}"));
        let findings = until_found(&gpus, check, |found| has(found, check)).await;
        assert!(findings.iter().all(|finding| finding.gpu_uuid == second));
    }
    sim.set("count = 2");
    until_found(&gpus, "no finding", <[_]>::is_empty).await;
}
