//! The GPUs of a simulated host: what it was made with, and the faults that the test gives them.

use freehold_agent::model::{
    GpuEvent, GpuInfo, GpuInventory, GpuRollup, GpuSample, GpuSource, HealthFinding,
};
use tokio::sync::{broadcast, watch};

/// GPUs in the test's hands.
#[derive(Debug)]
pub struct SimGpus {
    inventory: GpuInventory,
    findings: watch::Sender<Vec<HealthFinding>>,
    events: broadcast::Sender<GpuEvent>,
}

impl SimGpus {
    /// `count` GPUs of a model whose ids nobody else has.
    #[must_use]
    pub fn new(model: &str, count: u32) -> Self {
        let gpu = |index| GpuInfo {
            uuid: format!("GPU-{}", uuid::Uuid::now_v7()),
            index,
            model: model.to_owned(),
            serial: format!("SIM{index:04}"),
            pci_bus_id: format!("00000000:{:02X}:00.0", 0x10 + index),
            memory_bytes: 80 << 30,
        };
        Self {
            inventory: GpuInventory {
                gpus: (0..count).map(gpu).collect(),
                driver_version: "550.54.15".to_owned(),
                cuda_version: "12.4".to_owned(),
                simulated: true,
            },
            findings: watch::Sender::new(Vec::new()),
            events: broadcast::Sender::new(16),
        }
    }

    /// The ids, in the order of the indexes.
    #[must_use]
    pub fn uuids(&self) -> Vec<String> {
        let gpus = self.inventory.gpus.iter();
        gpus.map(|gpu| gpu.uuid.clone()).collect()
    }

    /// The GPU with this index falls off the bus.
    pub fn lose(&self, index: usize) {
        let gpu_uuid = self.uuids()[index].clone();
        self.find(HealthFinding {
            gpu_uuid: gpu_uuid.clone(),
            check: "gpu_lost".to_owned(),
            detail: format!("{gpu_uuid} has fallen off the bus"),
            prevents_use: true,
            prevents_allocation: true,
        });
    }

    /// NVML calls hang.
    pub fn hang(&self) {
        self.find(HealthFinding {
            gpu_uuid: String::new(),
            check: "nvml_timeout".to_owned(),
            detail: "NVML has not answered for 10 s".to_owned(),
            prevents_use: true,
            prevents_allocation: true,
        });
    }

    /// Every fault is gone.
    pub fn mend(&self) {
        self.findings.send_replace(Vec::new());
    }

    fn find(&self, finding: HealthFinding) {
        // Nobody may be listening; the next hello is followed by the findings anyway.
        let _ = self.events.send(GpuEvent {
            time_micros: chrono::Utc::now().timestamp_micros(),
            gpu_uuid: finding.gpu_uuid.clone(),
            kind: finding.check.clone(),
            xid: None,
            detail: finding.detail.clone(),
        });
        self.findings.send_modify(|findings| findings.push(finding));
    }

    pub(super) fn prevents_allocation(&self) -> Option<String> {
        let findings = self.findings.borrow();
        let mut serious = findings
            .iter()
            .filter(|finding| finding.prevents_allocation);
        serious.next().map(|finding| finding.detail.clone())
    }
}

#[async_trait::async_trait]
impl GpuSource for SimGpus {
    fn inventory(&self) -> GpuInventory {
        self.inventory.clone()
    }

    async fn sample(&self) -> Vec<GpuSample> {
        let sample = |gpu: &GpuInfo| GpuSample {
            uuid: gpu.uuid.clone(),
            index: gpu.index,
            utilization_percent: Some(40),
            memory_total_bytes: Some(gpu.memory_bytes),
            temperature_celsius: Some(50),
            ..GpuSample::default()
        };
        self.inventory.gpus.iter().map(sample).collect()
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
