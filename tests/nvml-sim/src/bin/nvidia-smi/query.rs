//! `--query-gpu` and `--query-compute-apps`.

use nvml_wrapper::{
    Device, Nvml,
    bitmasks::device::ThrottleReasons,
    enum_wrappers::device::{Clock, ComputeMode, EccCounter, MemoryError, TemperatureSensor},
    enums::device::UsedGpuMemory,
    error::NvmlError,
};

use crate::Failure;

const MIB: u64 = 1024 * 1024;

/// What `--format` says.
#[derive(Default)]
pub(crate) struct Format {
    no_header: bool,
    no_units: bool,
    csv: bool,
}

impl Format {
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let mut format = Self::default();
        for word in text.split(',').map(str::trim) {
            match word {
                "csv" => format.csv = true,
                "noheader" => format.no_header = true,
                "nounits" => format.no_units = true,
                other => {
                    return Err(Failure(
                        1,
                        format!(
                            "\"{other}\" is not a valid format option. Use csv,noheader,nounits."
                        ),
                    ));
                }
            }
        }
        Ok(format)
    }
}

/// A value and its unit.
type Cell = (String, &'static str);

fn plain(value: impl ToString) -> Cell {
    (value.to_string(), "")
}

fn mib(bytes: u64) -> Cell {
    ((bytes / MIB).to_string(), "MiB")
}

fn watts(milliwatts: u32) -> Cell {
    (format!("{:.2}", f64::from(milliwatts) / 1000.0), "W")
}

fn mhz(value: u32) -> Cell {
    (value.to_string(), "MHz")
}

fn on_off(on: bool) -> Cell {
    plain(if on { "Enabled" } else { "Disabled" })
}

fn compute_mode(mode: ComputeMode) -> Cell {
    plain(match mode {
        ComputeMode::Default => "Default",
        ComputeMode::Prohibited => "Prohibited",
        ComputeMode::ExclusiveProcess => "Exclusive_Process",
        ComputeMode::ExclusiveThread => "Exclusive_Thread",
    })
}

fn is_known(field: &str) -> bool {
    const KNOWN: &str = " timestamp driver_version count index name gpu_name uuid gpu_uuid serial gpu_serial pci.bus_id gpu_bus_id \
        vbios_version memory.total memory.used memory.free memory.reserved utilization.gpu utilization.memory temperature.gpu \
        temperature.memory power.draw power.limit power.default_limit power.max_limit clocks.sm clocks.current.sm clocks.gr \
        clocks.current.graphics clocks.mem clocks.current.memory clocks.max.sm clocks.max.mem pstate fan.speed compute_mode compute_cap \
        persistence_mode mig.mode.current ecc.mode.current ecc.errors.corrected.volatile.total \
        ecc.errors.uncorrected.volatile.total pcie.link.gen.current pcie.link.width.current clocks_throttle_reasons.active \
        clocks_event_reasons.active ";
    KNOWN.contains(&format!(" {field} "))
}

/// One field of one GPU.
fn field(nvml: &Nvml, gpu: &Device<'_>, name: &str) -> Result<Cell, NvmlError> {
    Ok(match name {
        "timestamp" => plain(timestamp()),
        "driver_version" => plain(nvml.sys_driver_version()?),
        "count" => plain(nvml.device_count()?),
        "index" => plain(gpu.index()?),
        "name" | "gpu_name" => plain(gpu.name()?),
        "uuid" | "gpu_uuid" => plain(gpu.uuid()?),
        "serial" | "gpu_serial" => plain(gpu.serial()?),
        "pci.bus_id" | "gpu_bus_id" => plain(gpu.pci_info()?.bus_id),
        "vbios_version" => plain(gpu.vbios_version()?),
        "compute_mode" => compute_mode(gpu.compute_mode()?),
        "compute_cap" => {
            let capability = gpu.cuda_compute_capability()?;
            plain(format!("{}.{}", capability.major, capability.minor))
        }
        "persistence_mode" => on_off(gpu.is_in_persistent_mode()?),
        "mig.mode.current" => on_off(gpu.mig_mode()?.current != 0),
        "pstate" => plain(format!("P{}", gpu.performance_state()? as u32)),
        "pcie.link.gen.current" => plain(gpu.current_pcie_link_gen()?),
        "pcie.link.width.current" => plain(gpu.current_pcie_link_width()?),
        "fan.speed" => (gpu.fan_speed(0)?.to_string(), "%"),
        _ => measure(gpu, name)?,
    })
}

/// Fields that change by themselves.
fn measure(gpu: &Device<'_>, name: &str) -> Result<Cell, NvmlError> {
    let ecc = |kind| gpu.total_ecc_errors(kind, EccCounter::Volatile).map(plain);
    Ok(match name {
        "memory.total" => mib(gpu.memory_info()?.total),
        "memory.used" => mib(gpu.memory_info()?.used),
        "memory.free" => mib(gpu.memory_info()?.free),
        "memory.reserved" => mib(gpu.memory_info()?.reserved),
        "utilization.gpu" => (gpu.utilization_rates()?.gpu.to_string(), "%"),
        "utilization.memory" => (gpu.utilization_rates()?.memory.to_string(), "%"),
        "temperature.gpu" => plain(gpu.temperature(TemperatureSensor::Gpu)?),
        "power.draw" => watts(gpu.power_usage()?),
        "power.limit" => watts(gpu.power_management_limit()?),
        "power.default_limit" => watts(gpu.power_management_limit_default()?),
        "power.max_limit" => watts(gpu.power_management_limit_constraints()?.max_limit),
        "clocks.sm" | "clocks.current.sm" => mhz(gpu.clock_info(Clock::SM)?),
        "clocks.gr" | "clocks.current.graphics" => mhz(gpu.clock_info(Clock::Graphics)?),
        "clocks.mem" | "clocks.current.memory" => mhz(gpu.clock_info(Clock::Memory)?),
        "clocks.max.sm" => mhz(gpu.max_clock_info(Clock::SM)?),
        "clocks.max.mem" => mhz(gpu.max_clock_info(Clock::Memory)?),
        "ecc.mode.current" => on_off(gpu.is_ecc_enabled()?.currently_enabled),
        "ecc.errors.corrected.volatile.total" => ecc(MemoryError::Corrected)?,
        "ecc.errors.uncorrected.volatile.total" => ecc(MemoryError::Uncorrected)?,
        "clocks_throttle_reasons.active" | "clocks_event_reasons.active" => plain(format!(
            "0x{:016x}",
            gpu.current_throttle_reasons()
                .unwrap_or(ThrottleReasons::empty())
                .bits()
        )),
        _ => return Err(NvmlError::NotSupported),
    })
}

/// Seconds since the epoch: the original's local time needs a time zone database.
fn timestamp() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

fn unit_of(name: &str) -> &'static str {
    match name {
        _ if name.starts_with("memory.") || name == "used_memory" || name == "used_gpu_memory" => {
            " [MiB]"
        }
        _ if name.starts_with("utilization.") || name == "fan.speed" => " [%]",
        _ if name.starts_with("power.") => " [W]",
        _ if name.starts_with("clocks.") => " [MHz]",
        _ => "",
    }
}

fn show(cell: Result<Cell, NvmlError>, format: &Format) -> Result<String, Failure> {
    match cell {
        Ok((value, unit)) if format.no_units || unit.is_empty() => Ok(value),
        Ok((value, unit)) => Ok(format!("{value} {unit}")),
        Err(NvmlError::NotSupported) => Ok("[N/A]".into()),
        Err(NvmlError::GpuLost) => Ok("[GPU is lost]".into()),
        Err(error) => Err(error.into()),
    }
}

fn header(fields: &[&str]) -> String {
    let unit = |name: &str| format!("{name}{}", unit_of(name));
    fields
        .iter()
        .map(|name| unit(name))
        .collect::<Vec<_>>()
        .join(", ")
        + "\n"
}

fn check(fields: &str, format: &Format, known: impl Fn(&str) -> bool) -> Result<(), Failure> {
    if !format.csv {
        return Err(Failure(1, "--format=csv is needed with a query.".into()));
    }
    match fields.split(',').map(str::trim).find(|name| !known(name)) {
        Some(name) => Err(Failure(
            2,
            format!("Field \"{name}\" is not a valid field to query."),
        )),
        None => Ok(()),
    }
}

/// One line a GPU.
pub(crate) fn gpus(
    nvml: &Nvml,
    gpus: &[Device<'_>],
    fields: &str,
    format: &Format,
) -> Result<String, Failure> {
    check(fields, format, is_known)?;
    let fields: Vec<&str> = fields.split(',').map(str::trim).collect();
    let mut text = if format.no_header {
        String::new()
    } else {
        header(&fields)
    };
    for gpu in gpus {
        let cells: Result<Vec<String>, Failure> = fields
            .iter()
            .map(|name| show(field(nvml, gpu, name), format))
            .collect();
        text += &(cells?.join(", ") + "\n");
    }
    Ok(text)
}

/// One line a process.
pub(crate) fn apps(
    nvml: &Nvml,
    gpus: &[Device<'_>],
    fields: &str,
    format: &Format,
) -> Result<String, Failure> {
    const KNOWN: [&str; 8] = [
        "gpu_name",
        "gpu_uuid",
        "gpu_bus_id",
        "pid",
        "process_name",
        "name",
        "used_memory",
        "used_gpu_memory",
    ];
    check(fields, format, |name| KNOWN.contains(&name))?;
    let fields: Vec<&str> = fields.split(',').map(str::trim).collect();
    let mut text = if format.no_header {
        String::new()
    } else {
        header(&fields)
    };
    for gpu in gpus {
        for process in gpu.running_compute_processes()? {
            let cell = |name: &&str| match *name {
                "pid" => Ok(plain(process.pid)),
                "process_name" | "name" => Ok(plain(
                    nvml.sys_process_name(process.pid, 256).unwrap_or_default(),
                )),
                "used_memory" | "used_gpu_memory" => match process.used_gpu_memory {
                    UsedGpuMemory::Used(bytes) => Ok(mib(bytes)),
                    UsedGpuMemory::Unavailable => Err(NvmlError::NotSupported),
                },
                name => field(nvml, gpu, name),
            };
            let cells: Result<Vec<String>, Failure> =
                fields.iter().map(|name| show(cell(name), format)).collect();
            text += &(cells?.join(", ") + "\n");
        }
    }
    Ok(text)
}
