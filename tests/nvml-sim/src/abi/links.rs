//! PCIe and NVLink.

use std::ffi::{c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlPciInfo_t};

use crate::{
    call::{Call, Code, INVALID_ARGUMENT, export, put, text_array},
    host::Gpu,
};

const NVLINK_SWITCH: c_uint = 1;
/// Two GPUs meet at the host bridge of their half of the machine, or across it.
const TOPOLOGY_NODE: c_uint = 40;
const TOPOLOGY_SYSTEM: c_uint = 50;

fn linked(call: &Call, device: nvmlDevice_t, link: c_uint) -> Result<&Gpu, Code> {
    let gpu = call.gpu(device)?;
    if link < gpu.board.nvlinks {
        Ok(gpu)
    } else {
        Err(INVALID_ARGUMENT)
    }
}

fn pcie_generation(gpu: &Gpu) -> c_uint {
    gpu.overrides.pcie_generation.unwrap_or(gpu.board.pcie_gen)
}

fn pcie_width(gpu: &Gpu) -> c_uint {
    gpu.overrides.pcie_width.unwrap_or(16)
}

/// Megabytes a second of a lane's generation times the width, as NVML tells it.
fn pcie_speed(generation: c_uint) -> c_uint {
    match generation {
        1 => 2500,
        2 => 5000,
        3 => 8000,
        4 => 16_000,
        _ => 32_000,
    }
}

/// The end of a link: one of the host's NVSwitches.
fn switch(link: c_uint) -> nvmlPciInfo_t {
    let bus = 5 + link % 4;
    let id = format!("00000000:{bus:02X}:00.0");
    nvmlPciInfo_t {
        busIdLegacy: text_array(&id[4..]),
        domain: 0,
        bus,
        device: 0,
        pciDeviceId: 0x22a3_10de,
        pciSubSystemId: 0,
        busId: text_array(&id),
    }
}

export! {
    fn nvmlDeviceGetCurrPcieLinkGeneration(device: nvmlDevice_t, generation: *mut c_uint) =
        |call| put(generation, pcie_generation(call.gpu(device)?));
    fn nvmlDeviceGetMaxPcieLinkGeneration(device: nvmlDevice_t, generation: *mut c_uint) =
        |call| put(generation, call.gpu(device)?.board.pcie_gen);
    fn nvmlDeviceGetGpuMaxPcieLinkGeneration(device: nvmlDevice_t, generation: *mut c_uint) =
        |call| put(generation, call.gpu(device)?.board.pcie_gen);
    fn nvmlDeviceGetCurrPcieLinkWidth(device: nvmlDevice_t, width: *mut c_uint) =
        |call| put(width, pcie_width(call.gpu(device)?));
    fn nvmlDeviceGetMaxPcieLinkWidth(device: nvmlDevice_t, width: *mut c_uint) = |call| {
        call.gpu(device)?;
        put(width, 16)
    };
    fn nvmlDeviceGetPcieReplayCounter(device: nvmlDevice_t, count: *mut c_uint) =
        |call| put(count, call.gpu(device)?.overrides.pcie_replays);
    fn nvmlDeviceGetPcieThroughput(device: nvmlDevice_t, _counter: c_uint, kib_per_s: *mut c_uint) =
        |call| put(kib_per_s, call.gpu(device)?.utilization * 20_000);
    fn nvmlDeviceGetPcieSpeed(device: nvmlDevice_t, speed: *mut c_uint) =
        |call| put(speed, pcie_speed(pcie_generation(call.gpu(device)?)));
    fn nvmlDeviceGetPcieLinkMaxSpeed(device: nvmlDevice_t, speed: *mut c_uint) =
        |call| put(speed, c_uint::min(call.gpu(device)?.board.pcie_gen, 5));
    fn nvmlDeviceGetNvLinkState(device: nvmlDevice_t, link: c_uint, active: *mut c_uint) = |call| {
        let gpu = linked(call, device, link)?;
        put(active, c_uint::from(link < gpu.overrides.nvlinks_active.unwrap_or(gpu.board.nvlinks)))
    };
    fn nvmlDeviceGetNvLinkVersion(device: nvmlDevice_t, link: c_uint, version: *mut c_uint) =
        |call| put(version, linked(call, device, link)?.board.nvlink_version);
    fn nvmlDeviceGetNvLinkCapability(device: nvmlDevice_t, link: c_uint, _capability: c_uint, has: *mut c_uint) = |call| {
        linked(call, device, link)?;
        put(has, 1)
    };
    fn nvmlDeviceGetNvLinkErrorCounter(device: nvmlDevice_t, link: c_uint, _kind: c_uint, count: *mut c_ulonglong) = |call| {
        linked(call, device, link)?;
        put(count, 0)
    };
    fn nvmlDeviceGetNvLinkRemotePciInfo(device: nvmlDevice_t, link: c_uint, pci: *mut nvmlPciInfo_t) = |call| {
        linked(call, device, link)?;
        put(pci, switch(link))
    };
    fn nvmlDeviceGetNvLinkRemotePciInfo_v2(device: nvmlDevice_t, link: c_uint, pci: *mut nvmlPciInfo_t) = |call| {
        linked(call, device, link)?;
        put(pci, switch(link))
    };
    fn nvmlDeviceGetNvLinkRemoteDeviceType(device: nvmlDevice_t, link: c_uint, kind: *mut c_uint) = |call| {
        linked(call, device, link)?;
        put(kind, NVLINK_SWITCH)
    };
    fn nvmlDeviceGetTopologyCommonAncestor(one: nvmlDevice_t, other: nvmlDevice_t, level: *mut c_uint) = |call| {
        let same = call.gpu(one)?.slot / 4 == call.gpu(other)?.slot / 4;
        put(level, if same { TOPOLOGY_NODE } else { TOPOLOGY_SYSTEM })
    };
}
