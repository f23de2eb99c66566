use std::process::{Command, Output};

use super::sim::{AGENT, Sim, library};

fn probe(sim: &Sim, arguments: &[&str]) -> Output {
    Command::new(AGENT)
        .arg("probe")
        .args(arguments)
        .env("FREEHOLD_NVML_SCENARIO", sim.scenario_path())
        .output()
        .expect("started")
}

fn on_simulator(sim: &Sim, arguments: &[&str]) -> Output {
    let library = library();
    let library = library.to_str().expect("a path of text");
    probe(sim, &[&["--nvml-lib", library], arguments].concat())
}

#[test]
fn a_healthy_host_is_shown_and_ends_with_0() {
    let sim = Sim::new("model = 'h200'");
    let table = on_simulator(&sim, &[]);
    let text = String::from_utf8_lossy(&table.stdout);
    assert_eq!(table.status.code(), Some(0), "{text}");
    assert!(
        text.contains("Driver 570.133.20, CUDA 12.8, simulated"),
        "{text}"
    );
    assert!(
        text.contains("H200") && text.contains("NVLink 18/18"),
        "{text}"
    );
    assert!(text.contains("No check finds anything"), "{text}");
}

#[test]
fn json_has_every_field_of_every_gpu_once() {
    let sim = Sim::new("model = 'h100'");
    let json = on_simulator(&sim, &["--output", "json"]);
    let seen: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(seen["simulated"], true);
    assert_eq!(seen["gpus"].as_array().map(Vec::len), Some(8));
    let gpu = &seen["gpus"][7];
    for field in [
        "uuid",
        "index",
        "model",
        "serial",
        "pci_bus_id",
        "memory_bytes",
        "utilization_percent",
        "memory_used_bytes",
        "temperature_celsius",
        "power_milliwatts",
        "sm_clock_mhz",
        "memory_clock_mhz",
        "ecc_corrected",
        "ecc_uncorrected",
        "ecc_enabled",
        "rows_pending",
        "pcie_width",
        "nvlinks_active",
        "compute_mode",
        "persistence",
        "mig",
        "processes",
        "recovery_action",
        "throttle_reasons",
    ] {
        assert!(!gpu[field].is_null(), "{field}: {gpu}");
    }
    assert!(gpu["last_xid"].is_null());
}

#[test]
fn a_host_with_faults_ends_with_3_and_names_them() {
    let sim = Sim::new("count = 2\n[gpu.1]\nrows_failure = true");
    let output = on_simulator(&sim, &[]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(
        text.contains("row_remap_failure (not to be leased)"),
        "{text}"
    );
}

#[test]
fn without_a_driver_the_error_says_what_to_install() {
    if std::fs::exists("/dev/nvidiactl").is_ok_and(|there| there) {
        eprintln!("skipped: this machine has a driver");
        return;
    }
    let sim = Sim::new("");
    let output = probe(&sim, &[]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("apt install nvidia-driver"), "{text}");
    let wrong = probe(&sim, &["--nvml-lib", "/nonexistent/libnvidia-ml.so.1"]);
    let text = String::from_utf8_lossy(&wrong.stderr);
    assert_eq!(wrong.status.code(), Some(1), "{text}");
    assert!(
        text.contains("/nonexistent/libnvidia-ml.so.1") && text.contains("--nvml-lib"),
        "{text}"
    );
}

#[test]
fn a_driver_that_is_not_loaded_is_named() {
    let sim = Sim::new("errors = { nvmlInit_v2 = 'driver_not_loaded' }");
    let output = on_simulator(&sim, &[]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("modprobe nvidia"), "{text}");
}
