//! `freehold-agent probe`: what NVML says of this machine's GPUs, and what the checks find. Needs no enrolment.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::{
    gpu::{GpuHealth, Look},
    model::{GpuInfo, GpuSample},
};

/// Everything that was seen, as one JSON object; what a GPU does not tell is null.
#[must_use]
pub fn to_json(look: &Look) -> Value {
    let gpus: Vec<Value> = look
        .gpus
        .iter()
        .map(|(info, sample, health)| {
            let mut fields = Map::new();
            for part in [json!(info), json!(sample), json!(health)] {
                if let Value::Object(part) = part {
                    fields.extend(part);
                }
            }
            let xid = sample.last_xid.map(|(xid, _)| xid);
            fields.insert("last_xid".to_owned(), json!(xid));
            Value::Object(fields)
        })
        .collect();
    json!({
        "driver_version": look.driver_version,
        "cuda_version": look.cuda_version,
        "simulated": look.simulated,
        "gpus": gpus,
        "findings": look.findings,
    })
}

/// The same for people.
#[must_use]
pub fn to_table(look: &Look) -> String {
    let mut text = format!(
        "Driver {}, CUDA {}{}\n\n",
        look.driver_version,
        look.cuda_version,
        if look.simulated { ", simulated" } else { "" }
    );
    let mut rows = vec![TITLES.map(str::to_owned)];
    rows.extend(
        look.gpus
            .iter()
            .map(|(info, sample, health)| row(info, sample, health)),
    );
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..TITLES.len()).filter_map(width).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths);
        let line: String = cells
            .map(|(cell, width)| format!("{cell:<width$}  "))
            .collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.push('\n');
    if look.findings.is_empty() {
        text.push_str("No check finds anything.\n");
    }
    for finding in &look.findings {
        let whose = if finding.gpu_uuid.is_empty() {
            "host"
        } else {
            &finding.gpu_uuid
        };
        let effect = match (finding.prevents_use, finding.prevents_allocation) {
            (true, _) => "cannot be used",
            (false, true) => "not to be leased",
            (false, false) => "to be watched",
        };
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{whose}: {} ({effect}): {}",
            finding.check, finding.detail
        );
    }
    text
}

const TITLES: [&str; 11] = [
    "GPU", "UUID", "MODEL", "PCI", "UTIL", "MEMORY", "TEMP", "POWER", "SM CLOCK", "ECC", "LINKS",
];

fn row(info: &GpuInfo, sample: &GpuSample, health: &GpuHealth) -> [String; TITLES.len()] {
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let memory = sample.memory_used_bytes.zip(sample.memory_total_bytes);
    let errors = sample.ecc_corrected.zip(sample.ecc_uncorrected);
    let pcie = health.pcie_generation.zip(health.pcie_width);
    let pcie = pcie.map(|(generation, width)| format!("PCIe {generation} x{width}"));
    let nvlinks = health.nvlinks_active.zip(health.nvlinks);
    let nvlinks = nvlinks.map(|(active, all)| format!("NVLink {active}/{all}"));
    let links: Vec<String> = [pcie, nvlinks].into_iter().flatten().collect();
    [
        info.index.to_string(),
        info.uuid.clone(),
        info.model.clone(),
        info.pci_bus_id.clone(),
        or_dash(
            sample
                .utilization_percent
                .map(|percent| format!("{percent} %")),
        ),
        or_dash(memory.map(|(used, all)| format!("{:.1}/{:.1} GiB", gib(used), gib(all)))),
        or_dash(
            sample
                .temperature_celsius
                .map(|celsius| format!("{celsius} °C")),
        ),
        or_dash(sample.power_milliwatts.map(|mw| format!("{} W", mw / 1000))),
        or_dash(sample.sm_clock_mhz.map(|mhz| format!("{mhz} MHz"))),
        or_dash(errors.map(|(corrected, uncorrected)| format!("{corrected}/{uncorrected}"))),
        or_dash((!links.is_empty()).then(|| links.join(", "))),
    ]
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}
