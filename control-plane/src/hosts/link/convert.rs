//! Between protobuf and the types of hosts.

use freehold_proto::agent_v1::{AgentHello, HealthReport};

use crate::{
    error::{Error, Result},
    hosts::{
        model::inventory::Gpu,
        store::{finding::Finding, hello::Hello},
    },
};

/// More GPUs than any machine has.
const MAX_GPUS: usize = 64;

/// More findings than a broken machine has.
const MAX_FINDINGS: usize = 512;

/// Texts that agents send are cut to this many characters.
const MAX_TEXT: usize = 2000;

pub(super) fn hello(hello: &AgentHello) -> Result<Hello> {
    let inventory = hello
        .inventory
        .as_ref()
        .ok_or_else(|| Error::field("hello.inventory", "is missing"))?;
    if inventory.gpus.len() > MAX_GPUS {
        return Err(Error::field("hello.inventory.gpus", "must be at most 64"));
    }
    let mut gpus: Vec<Gpu> = inventory.gpus.iter().map(gpu).collect();
    gpus.sort_by(|left, right| left.uuid.cmp(&right.uuid));
    gpus.dedup_by(|left, right| left.uuid == right.uuid);
    if gpus.iter().any(|gpu| gpu.uuid.is_empty()) {
        return Err(Error::field(
            "hello.inventory.gpus",
            "each must have a uuid",
        ));
    }
    Ok(Hello {
        agent_version: cut(&hello.agent_version),
        boot_id: cut(&hello.boot_id),
        vcpus: inventory.vcpus.max(0),
        memory_bytes: inventory.memory_bytes.max(0),
        scratch_bytes: inventory.scratch_bytes.max(0),
        driver_version: cut(&inventory.driver_version),
        cuda_version: cut(&inventory.cuda_version),
        simulated: inventory.simulated,
        gpus,
    })
}

fn gpu(gpu: &freehold_proto::v1::Gpu) -> Gpu {
    Gpu {
        uuid: cut(&gpu.uuid),
        index: gpu.index,
        model: cut(&gpu.model),
        serial: cut(&gpu.serial),
        pci_bus_id: cut(&gpu.pci_bus_id),
        memory_bytes: gpu.memory_bytes.max(0),
    }
}

pub(super) fn findings(report: &HealthReport) -> Vec<Finding> {
    let findings = report.findings.iter().take(MAX_FINDINGS);
    findings
        .map(|finding| Finding {
            gpu_uuid: cut(&finding.gpu_uuid),
            check: cut(&finding.check),
            detail: cut(&finding.detail),
            prevents_use: finding.prevents_use,
            prevents_allocation: finding.prevents_allocation,
        })
        .collect()
}

/// PostgreSQL takes no NUL in texts.
fn cut(text: &str) -> String {
    text.chars().filter(|c| *c != '\0').take(MAX_TEXT).collect()
}
