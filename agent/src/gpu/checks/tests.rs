use std::time::Duration;

use super::*;

fn info(uuid: &str, index: u32) -> GpuInfo {
    GpuInfo {
        uuid: uuid.to_owned(),
        index,
        ..GpuInfo::default()
    }
}

fn healthy(uuid: &str) -> GpuHealth {
    GpuHealth {
        uuid: uuid.to_owned(),
        temperature_celsius: Some(40),
        memory_temperature_celsius: Some(50),
        slowdown_celsius: Some(87),
        throttle_reasons: Some(0x21),
        ecc_enabled: Some(true),
        ecc_corrected: Some(3),
        ecc_uncorrected: Some(0),
        rows_uncorrected: Some(1),
        rows_pending: Some(false),
        rows_failure: Some(false),
        recovery_action: Some(0),
        pcie_width: Some(16),
        pcie_width_max: Some(16),
        nvlinks: Some(18),
        nvlinks_active: Some(18),
        ..GpuHealth::default()
    }
}

fn snapshot() -> Snapshot {
    Snapshot {
        known: vec![info("GPU-a", 0), info("GPU-b", 1)],
        gpus: vec![healthy("GPU-a"), healthy("GPU-b")],
        examined: true,
        ..Snapshot::default()
    }
}

/// What is found when one thing of GPU-b is otherwise: GPU, check, prevents use.
fn found(change: impl FnOnce(&mut GpuHealth)) -> Vec<(String, String, bool)> {
    let mut snapshot = snapshot();
    change(&mut snapshot.gpus[1]);
    told(&snapshot)
}

fn told(snapshot: &Snapshot) -> Vec<(String, String, bool)> {
    let findings = run(snapshot).into_iter();
    findings
        .inspect(|finding| assert!(finding.prevents_allocation && !finding.detail.is_empty()))
        .map(|finding| (finding.gpu_uuid, finding.check, finding.prevents_use))
        .collect()
}

fn one(gpu: &str, check: &str, prevents_use: bool) -> Vec<(String, String, bool)> {
    vec![(gpu.to_owned(), check.to_owned(), prevents_use)]
}

#[test]
fn a_healthy_host_has_no_findings() {
    assert_eq!(told(&snapshot()), []);
}

#[test]
fn what_a_gpu_does_not_tell_is_not_held_against_it() {
    let silent = found(|gpu| {
        *gpu = GpuHealth {
            uuid: gpu.uuid.clone(),
            ..GpuHealth::default()
        };
    });
    assert_eq!(silent, []);
}

#[test]
fn each_fault_is_found_on_its_gpu() {
    type Change = fn(&mut GpuHealth);
    let cases: [(&str, bool, Change); 13] = [
        ("gpu_lost", true, |gpu| {
            gpu.lost = true;
        }),
        ("gpu_reset_required", true, |gpu| {
            gpu.reset_required = true;
        }),
        ("recovery_action", false, |gpu| {
            gpu.recovery_action = Some(1);
        }),
        ("recovery_action", false, |gpu| {
            gpu.recovery_action = Some(99);
        }),
        ("row_remap_pending", false, |gpu| {
            gpu.rows_pending = Some(true);
        }),
        ("row_remap_failure", false, |gpu| {
            gpu.rows_failure = Some(true);
        }),
        ("row_remap_exhausted", false, |gpu| {
            gpu.rows_uncorrected = Some(512);
        }),
        ("ecc_uncorrected", false, |gpu| {
            gpu.ecc_uncorrected = Some(1);
        }),
        ("ecc_corrected", false, |gpu| {
            gpu.ecc_corrected = Some(20_000_001);
        }),
        ("temperature", false, |gpu| {
            gpu.temperature_celsius = Some(87);
        }),
        ("temperature", false, |gpu| {
            gpu.memory_temperature_celsius = Some(95);
        }),
        ("hardware_slowdown", false, |gpu| {
            gpu.throttle_reasons = Some(0x48);
        }),
        ("pcie_width", false, |gpu| {
            gpu.pcie_width = Some(8);
        }),
    ];
    for (check, prevents_use, change) in cases {
        assert_eq!(found(change), one("GPU-b", check, prevents_use), "{check}");
    }
}

#[test]
fn nvlinks_are_compared_with_the_other_gpus() {
    let fewer = found(|gpu| {
        gpu.nvlinks_active = Some(16);
    });
    assert_eq!(fewer, one("GPU-b", "nvlink_down", false));
    let mut unbridged = snapshot();
    for gpu in &mut unbridged.gpus {
        gpu.nvlinks_active = Some(0);
    }
    assert_eq!(told(&unbridged), [], "boards without a bridge");
}

#[test]
fn a_gpu_that_nvml_does_not_list_any_more_is_lost() {
    let mut gone = snapshot();
    gone.gpus.pop();
    gone.unreachable = vec![(1, "lost".to_owned())];
    assert_eq!(told(&gone), one("GPU-b", "gpu_lost", true));
    let mut never_seen = snapshot();
    never_seen.unreachable = vec![(2, "lost".to_owned())];
    assert_eq!(told(&never_seen), one("", "gpu_lost", false));
    gone.examined = false;
    gone.unreachable.clear();
    assert_eq!(told(&gone), [], "nothing is concluded before NVML told");
}

#[test]
fn xids_count_by_their_severity_and_once() {
    let mark = |xid, severity| XidMark {
        gpu_uuid: "GPU-a".to_owned(),
        xid,
        severity,
        judged: false,
    };
    let mut snapshot = snapshot();
    snapshot.xids = vec![
        mark(31, Severity::Application),
        mark(79, Severity::Fatal),
        mark(79, Severity::Fatal),
    ];
    assert_eq!(told(&snapshot), one("GPU-a", "xid_79", true));
    snapshot.xids = vec![mark(74, Severity::Degraded)];
    assert_eq!(told(&snapshot), one("GPU-a", "xid_74", false));
}

#[test]
fn nvml_that_hangs_is_found_and_a_worker_that_died_once_is_not() {
    let with = |error, times| {
        let mut snapshot = snapshot();
        snapshot.failure = Some((error, times));
        told(&snapshot)
    };
    let timeout = NvmlError::Timeout(Duration::from_secs(5));
    assert_eq!(with(timeout, 1), one("", "nvml_timeout", true));
    let missing = NvmlError::Unavailable("no driver".to_owned());
    assert_eq!(with(missing, 1), one("", "nvml_unavailable", true));
    let died = NvmlError::Died("killed".to_owned());
    assert_eq!(with(died.clone(), 1), []);
    assert_eq!(with(died, 3), one("", "nvml_unavailable", true));
}
