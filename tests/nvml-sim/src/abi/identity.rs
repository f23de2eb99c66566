//! Who a GPU is: names, numbers, board.

use std::ffi::{c_char, c_int, c_uint};

use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlDeviceAttributes_t, nvmlPciInfo_t};

use crate::{
    call::{Call, Code, INVALID_ARGUMENT, NOT_SUPPORTED, export, put, put_text, text_array},
    host::Gpu,
};

/// `NVML_BRAND_NVIDIA`, which data centre boards report.
const BRAND_NVIDIA: c_uint = 14;
const BUS_PCIE: c_uint = 2;

fn pci_info(call: &Call, device: nvmlDevice_t) -> Result<nvmlPciInfo_t, Code> {
    let gpu = call.gpu(device)?;
    Ok(nvmlPciInfo_t {
        busIdLegacy: text_array(&gpu.pci_bus_id()[4..]),
        domain: 0,
        bus: gpu.bus(),
        device: 0,
        pciDeviceId: gpu.board.pci_device,
        pciSubSystemId: gpu.board.pci_subsystem,
        busId: text_array(&gpu.pci_bus_id()),
    })
}

fn attributes(gpu: &Gpu) -> nvmlDeviceAttributes_t {
    nvmlDeviceAttributes_t {
        multiprocessorCount: gpu.board.multiprocessors,
        sharedCopyEngineCount: 8,
        sharedDecoderCount: 5,
        sharedEncoderCount: 0,
        sharedJpegCount: 1,
        sharedOfaCount: 1,
        gpuInstanceSliceCount: 0,
        computeInstanceSliceCount: 0,
        memorySizeMB: gpu.board.memory_mib,
    }
}

export! {
    fn nvmlDeviceGetName(device: nvmlDevice_t, name: *mut c_char, length: c_uint) =
        |call| put_text(name, length, &call.gpu(device)?.name);
    fn nvmlDeviceGetUUID(device: nvmlDevice_t, uuid: *mut c_char, length: c_uint) =
        |call| put_text(uuid, length, &call.gpu(device)?.uuid);
    fn nvmlDeviceGetSerial(device: nvmlDevice_t, serial: *mut c_char, length: c_uint) =
        |call| put_text(serial, length, &call.gpu(device)?.serial);
    fn nvmlDeviceGetIndex(device: nvmlDevice_t, index: *mut c_uint) = |call| put(index, call.gpu(device)?.index);
    fn nvmlDeviceGetMinorNumber(device: nvmlDevice_t, minor: *mut c_uint) = |call| put(minor, call.gpu(device)?.slot);
    fn nvmlDeviceGetModuleId(device: nvmlDevice_t, module: *mut c_uint) = |call| put(module, call.gpu(device)?.slot + 1);
    fn nvmlDeviceGetBoardId(device: nvmlDevice_t, board: *mut c_uint) = |call| put(board, call.gpu(device)?.bus() << 8);
    fn nvmlDeviceGetMultiGpuBoard(device: nvmlDevice_t, multi: *mut c_uint) = |call| {
        call.gpu(device)?;
        put(multi, 0)
    };
    fn nvmlDeviceGetBoardPartNumber(device: nvmlDevice_t, number: *mut c_char, length: c_uint) =
        |call| put_text(number, length, call.gpu(device)?.board.part_number);
    fn nvmlDeviceGetVbiosVersion(device: nvmlDevice_t, version: *mut c_char, length: c_uint) =
        |call| put_text(version, length, call.gpu(device)?.board.vbios);
    fn nvmlDeviceGetInforomImageVersion(device: nvmlDevice_t, version: *mut c_char, length: c_uint) = |call| {
        call.gpu(device)?;
        put_text(version, length, "G520.0200.00.05")
    };
    fn nvmlDeviceGetBrand(device: nvmlDevice_t, brand: *mut c_uint) = |call| {
        call.gpu(device)?;
        put(brand, BRAND_NVIDIA)
    };
    fn nvmlDeviceGetBusType(device: nvmlDevice_t, bus: *mut c_uint) = |call| {
        call.gpu(device)?;
        put(bus, BUS_PCIE)
    };
    fn nvmlDeviceGetArchitecture(device: nvmlDevice_t, architecture: *mut c_uint) =
        |call| put(architecture, call.gpu(device)?.board.architecture);
    fn nvmlDeviceGetCudaComputeCapability(device: nvmlDevice_t, major: *mut c_int, minor: *mut c_int) = |call| {
        let capability = call.gpu(device)?.board.compute;
        put(major, capability.0)?;
        put(minor, capability.1)
    };
    fn nvmlDeviceGetNumGpuCores(device: nvmlDevice_t, cores: *mut c_uint) = |call| put(cores, call.gpu(device)?.board.cores);
    fn nvmlDeviceGetMemoryBusWidth(device: nvmlDevice_t, width: *mut c_uint) =
        |call| put(width, call.gpu(device)?.board.bus_width);
    fn nvmlDeviceGetNumaNodeId(device: nvmlDevice_t, node: *mut c_uint) = |call| put(node, call.gpu(device)?.slot / 4);
    fn nvmlDeviceGetAttributes_v2(device: nvmlDevice_t, target: *mut nvmlDeviceAttributes_t) =
        |call| put(target, attributes(call.gpu(device)?));
    fn nvmlDeviceGetPciInfo(device: nvmlDevice_t, pci: *mut nvmlPciInfo_t) = |call| put(pci, pci_info(call, device)?);
    fn nvmlDeviceGetPciInfo_v2(device: nvmlDevice_t, pci: *mut nvmlPciInfo_t) = |call| put(pci, pci_info(call, device)?);
    fn nvmlDeviceGetPciInfo_v3(device: nvmlDevice_t, pci: *mut nvmlPciInfo_t) = |call| put(pci, pci_info(call, device)?);
    fn nvmlDeviceGetDisplayActive(device: nvmlDevice_t, active: *mut c_uint) = |call| {
        call.gpu(device)?;
        put(active, 0)
    };
    fn nvmlDeviceGetDisplayMode(device: nvmlDevice_t, mode: *mut c_uint) = |call| {
        call.gpu(device)?;
        put(mode, 0)
    };
    fn nvmlDeviceGetVirtualizationMode(device: nvmlDevice_t, mode: *mut c_uint) = |call| {
        call.gpu(device)?;
        put(mode, 0)
    };
    fn nvmlDeviceIsMigDeviceHandle(device: nvmlDevice_t, is: *mut c_uint) = |call| {
        call.gpu(device)?;
        put(is, 0)
    };
    fn nvmlDeviceGetMaxMigDeviceCount(device: nvmlDevice_t, count: *mut c_uint) = |call| {
        call.gpu(device)?;
        put(count, 7)
    };
    fn nvmlDeviceGetMigDeviceHandleByIndex(device: nvmlDevice_t, index: c_uint, _mig: *mut nvmlDevice_t) = |call| {
        call.gpu(device)?;
        Err(if index < 7 { crate::call::NOT_FOUND } else { INVALID_ARGUMENT })
    };
    fn nvmlDeviceGetFanSpeed(device: nvmlDevice_t, _speed: *mut c_uint) = |call| {
        call.gpu(device)?;
        Err(NOT_SUPPORTED)
    };
    fn nvmlDeviceGetFanSpeed_v2(device: nvmlDevice_t, _fan: c_uint, _speed: *mut c_uint) = |call| {
        call.gpu(device)?;
        Err(NOT_SUPPORTED)
    };
    fn nvmlDeviceGetNumFans(device: nvmlDevice_t, fans: *mut c_uint) = |call| {
        call.gpu(device)?;
        put(fans, 0)
    };
}
