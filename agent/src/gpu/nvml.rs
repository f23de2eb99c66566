//! NVML itself: used by the worker process alone, since any of these calls may never return.

pub(super) mod health;
pub(super) mod restore;

use std::{ffi::OsStr, path::Path};

use nvml_wrapper::{
    Device, Nvml,
    enum_wrappers::device::{Clock, EccCounter, MemoryError, TemperatureSensor},
    error::NvmlError,
};

use super::wire::{Hello, Measure, Measures, Readings, Unavailable};
use crate::model::GpuInfo;

/// What the linker looks for when no library is named.
const DEFAULT_LIBRARY: &str = "libnvidia-ml.so.1";

/// Present in the simulator's library only.
const SIMULATOR_SYMBOL: &[u8] = b"freehold_nvml_sim\0";

/// NVML with every GPU opened once.
pub(super) struct Library {
    /// Those of [`Hello::gpus`], in the same order.
    pub(super) gpus: Vec<Device<'static>>,
    pub(super) hello: Hello,
    pub(super) nvml: &'static Nvml,
}

impl Library {
    /// Loads NVML and opens every GPU.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, Unavailable> {
        let name = path.map_or(OsStr::new(DEFAULT_LIBRARY), Path::as_os_str);
        let nvml = Nvml::builder().lib_path(name).init();
        let nvml = nvml.map_err(|error| explain(&error, path))?;
        // The worker lives as long as NVML does: handles may borrow it for ever.
        let nvml: &'static Nvml = Box::leak(Box::new(nvml));
        let cuda = nvml.sys_cuda_driver_version().unwrap_or(0);
        let mut library = Self {
            gpus: Vec::new(),
            hello: Hello {
                driver_version: nvml.sys_driver_version().unwrap_or_default(),
                cuda_version: format!("{}.{}", cuda / 1000, cuda % 1000 / 10),
                simulated: is_simulator(name),
                ..Hello::default()
            },
            nvml,
        };
        let count = nvml.device_count().map_err(|error| explain(&error, path))?;
        for index in 0..count {
            let opened = nvml
                .device_by_index(index)
                .and_then(|gpu| Ok((describe(&gpu, index)?, gpu)));
            match opened {
                Ok((info, gpu)) => {
                    library.hello.gpus.push(info);
                    library.gpus.push(gpu);
                }
                Err(error) => {
                    let unreachable = (index, error.to_string());
                    library.hello.unreachable.push(unreachable);
                }
            }
        }
        Ok(library)
    }

    /// What telemetry shows, of every GPU that was opened.
    pub(super) fn sample(&self) -> Vec<Measures> {
        self.gpus.iter().map(measure).collect()
    }
}

fn describe(gpu: &Device<'_>, index: u32) -> Result<GpuInfo, NvmlError> {
    let name = gpu.name()?;
    Ok(GpuInfo {
        uuid: gpu.uuid()?,
        index,
        model: name.strip_prefix("NVIDIA ").unwrap_or(&name).to_owned(),
        serial: gpu.serial().unwrap_or_default(),
        pci_bus_id: gpu.pci_info().map(|pci| pci.bus_id).unwrap_or_default(),
        memory_bytes: gpu.memory_info().map(|memory| memory.total).unwrap_or(0),
    })
}

fn measure(gpu: &Device<'static>) -> Measures {
    let utilization = match gpu.utilization_rates() {
        Err(NvmlError::GpuLost) => return None,
        rates => rates.ok().map(|rates| rates.gpu),
    };
    let memory = gpu.memory_info().ok();
    let errors = |kind| gpu.total_ecc_errors(kind, EccCounter::Volatile).ok();
    let mut readings = Readings::default();
    readings.set(Measure::UtilizationPercent, utilization);
    readings.set(Measure::MemoryUsedBytes, memory.as_ref().map(|m| m.used));
    readings.set(Measure::MemoryTotalBytes, memory.as_ref().map(|m| m.total));
    let temperature = gpu.temperature(TemperatureSensor::Gpu);
    readings.set(Measure::TemperatureCelsius, temperature.ok());
    readings.set(Measure::PowerMilliwatts, gpu.power_usage().ok());
    readings.set(Measure::SmClockMhz, gpu.clock_info(Clock::SM).ok());
    readings.set(Measure::MemoryClockMhz, gpu.clock_info(Clock::Memory).ok());
    readings.set(Measure::EccCorrected, errors(MemoryError::Corrected));
    readings.set(Measure::EccUncorrected, errors(MemoryError::Uncorrected));
    Some(readings)
}

/// What is wrong and what to do, in an operator's words.
fn explain(error: &NvmlError, path: Option<&Path>) -> Unavailable {
    let (reason, remedy) = match (error, path) {
        (NvmlError::LibloadingError(error), Some(path)) => (
            format!(
                "the NVML library {} cannot be loaded: {error}",
                path.display()
            ),
            "Name the driver's libnvidia-ml.so.1 with --nvml-lib, or leave the flag out",
        ),
        (NvmlError::LibloadingError(_), None) => (
            format!("no NVIDIA driver is installed: {DEFAULT_LIBRARY} was not found"),
            "Install it (Debian: `apt install nvidia-driver` from non-free; Ubuntu: `apt install nvidia-driver-570-server`; others: \
             https://docs.nvidia.com/datacenter/tesla/driver-installation-guide), or name the library with --nvml-lib",
        ),
        (NvmlError::DriverNotLoaded, _) => (
            "the NVIDIA driver is installed and not loaded".to_owned(),
            "Load it with `modprobe nvidia`; `dmesg | grep NVRM` says why it does not start",
        ),
        (NvmlError::LibRmVersionMismatch, _) => (
            "the NVIDIA library and the loaded driver are of different versions".to_owned(),
            "The driver was upgraded while loaded: reboot, or unload and load the nvidia modules",
        ),
        (NvmlError::NoPermission | NvmlError::OperatingSystem, _) => (
            format!("the NVIDIA driver may not be used: {error}"),
            "Run as root, and give this process /dev/nvidiactl and /dev/nvidia*",
        ),
        _ => (
            format!("NVML does not start: {error}"),
            "`nvidia-smi` and `dmesg | grep NVRM` say more",
        ),
    };
    Unavailable {
        reason,
        remedy: remedy.to_owned(),
    }
}

/// Whether the library says that it is the simulator. It is loaded already, so this only looks a name up.
#[expect(unsafe_code, reason = "a symbol of a C library is looked up")]
fn is_simulator(name: &OsStr) -> bool {
    // SAFETY: loading a library runs its initializers, which ran when NVML was opened; the symbol is looked for and not used.
    unsafe {
        libloading::Library::new(name)
            .is_ok_and(|library| library.get::<*const u32>(SIMULATOR_SYMBOL).is_ok())
    }
}
