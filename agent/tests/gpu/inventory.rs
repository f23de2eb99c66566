use freehold_agent::model::GpuSource as _;

use super::sim::Sim;

#[tokio::test]
async fn eight_gpus_are_listed_and_sampled() {
    let sim = Sim::new(
        "model = 'h100'\n[gpu.3]\nutilization = 85\nmemory_used_mib = 1024\necc_corrected = 7\n",
    );
    let gpus = sim.start().await;
    let inventory = gpus.inventory();
    assert!(inventory.simulated);
    assert_eq!(inventory.driver_version, "570.133.20");
    assert_eq!(inventory.cuda_version, "12.8");
    assert_eq!(inventory.gpus.len(), 8);
    let third = &inventory.gpus[3];
    assert_eq!((third.index, third.model.as_str()), (3, "H100 80GB HBM3"));
    assert_eq!(third.pci_bus_id, "00000000:61:00.0");
    assert_eq!(third.memory_bytes, 81_559 << 20);
    assert!(third.uuid.starts_with("GPU-") && !third.serial.is_empty());

    let samples = gpus.sample().await;
    assert_eq!(samples.len(), 8);
    let busy = &samples[3];
    assert_eq!(busy.uuid, third.uuid);
    assert_eq!(busy.utilization_percent, Some(85));
    assert_eq!(busy.memory_used_bytes, Some(1024 << 20));
    assert_eq!(busy.memory_total_bytes, Some(81_559 << 20));
    assert_eq!(busy.temperature_celsius, Some(58));
    assert_eq!(busy.power_milliwatts, Some(605_000));
    assert_eq!(busy.sm_clock_mhz, Some(1980));
    assert_eq!(busy.memory_clock_mhz, Some(2619));
    assert_eq!(
        (busy.ecc_corrected, busy.ecc_uncorrected),
        (Some(7), Some(0))
    );
    assert_eq!(busy.last_xid, None);
}

#[tokio::test]
async fn what_a_gpu_does_not_tell_is_none_and_no_finding() {
    let unsupported = [
        "nvmlDeviceGetUtilizationRates",
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetTemperature",
        "nvmlDeviceGetPowerUsage",
        "nvmlDeviceGetClockInfo",
        "nvmlDeviceGetTotalEccErrors",
        "nvmlDeviceGetSerial",
        "nvmlDeviceGetFieldValues",
        "nvmlDeviceGetCurrPcieLinkWidth",
        "nvmlDeviceGetEccMode",
        "nvmlDeviceGetComputeRunningProcesses_v3",
        "nvmlEventSetCreate",
    ];
    let errors: Vec<String> = unsupported
        .iter()
        .map(|function| format!("{function} = 'not_supported'"))
        .collect();
    let sim = Sim::new(&format!("count = 1\nerrors = {{ {} }}", errors.join(", ")));
    let gpus = sim.start().await;
    let inventory = gpus.inventory();
    assert_eq!(
        (inventory.gpus.len(), inventory.gpus[0].serial.as_str()),
        (1, "")
    );
    let samples = gpus.sample().await;
    let sample = &samples[0];
    assert_eq!(sample.utilization_percent, None);
    assert_eq!(sample.memory_used_bytes, None);
    assert_eq!(sample.temperature_celsius, None);
    assert_eq!(sample.power_milliwatts, None);
    assert_eq!(sample.sm_clock_mhz, None);
    assert_eq!(sample.ecc_corrected, None);
    assert_eq!(*gpus.findings().borrow(), []);
}
