//! The table that `nvidia-smi` shows without options.

use nvml_wrapper::{
    Device, Nvml,
    enum_wrappers::device::{ComputeMode, EccCounter, MemoryError, TemperatureSensor},
    enums::device::UsedGpuMemory,
    error::NvmlError,
};

const MIB: u64 = 1024 * 1024;
const RULE: &str =
    "+-----------------------------------------+------------------------+----------------------+\n";
const WIDE_RULE: &str =
    "+-----------------------------------------------------------------------------------------+\n";
const HEAD: &str = "\
| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |
| Fan  Temp   Perf          Pwr:Usage/Cap |           Memory-Usage | GPU-Util  Compute M. |
|                                         |                        |               MIG M. |
|=========================================+========================+======================|
";
const PROCESS_HEAD: &str = "\
| Processes:                                                                              |
|  GPU   GI   CI              PID   Type   Process name                        GPU Memory |
|        ID   ID                                                               Usage      |
|=========================================================================================|
";

/// The whole table.
pub(crate) fn draw(nvml: &Nvml, gpus: &[Device<'_>]) -> Result<String, NvmlError> {
    let driver = nvml.sys_driver_version()?;
    let cuda = nvml.sys_cuda_driver_version()?;
    let cuda = format!("{}.{}", cuda / 1000, cuda % 1000 / 10);
    let title =
        format!("NVIDIA-SMI {driver:<22} Driver Version: {driver:<14} CUDA Version: {cuda:<8}");
    let mut text = format!("{WIDE_RULE}| {title:<87} |\n{RULE}{HEAD}");
    for gpu in gpus {
        text += &row(gpu)?;
        text += RULE;
    }
    text += "\n";
    text += WIDE_RULE;
    text += PROCESS_HEAD;
    let processes = processes(nvml, gpus)?;
    if processes.is_empty() {
        text += &format!("|  {:<87}|\n", "No running processes found");
    }
    text += &processes;
    text += WIDE_RULE;
    Ok(text)
}

fn or_na<T: ToString>(value: Result<T, NvmlError>) -> String {
    value.map_or_else(|_| "N/A".into(), |value| value.to_string())
}

fn row(gpu: &Device<'_>) -> Result<String, NvmlError> {
    let persistence = if gpu.is_in_persistent_mode()? {
        "On"
    } else {
        "Off"
    };
    let ecc = or_na(gpu.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile));
    let fan = gpu
        .fan_speed(0)
        .map_or_else(|_| "N/A".into(), |percent| format!("{percent}%"));
    let temperature = gpu
        .temperature(TemperatureSensor::Gpu)
        .map_or_else(|_| "N/A".into(), |celsius| format!("{celsius}C"));
    let state = gpu
        .performance_state()
        .map_or_else(|_| "N/A".into(), |state| format!("P{}", state as u32));
    let watts = |value: Result<u32, NvmlError>| {
        value.map_or_else(|_| "N/A".into(), |mw| format!("{}W", mw / 1000))
    };
    let power = format!(
        "{} / {}",
        watts(gpu.power_usage()),
        watts(gpu.power_management_limit())
    );
    let memory = gpu.memory_info()?;
    let memory = format!("{}MiB / {}MiB", memory.used / MIB, memory.total / MIB);
    let load = gpu
        .utilization_rates()
        .map_or_else(|_| "N/A".into(), |rates| format!("{}%", rates.gpu));
    let mode = match gpu.compute_mode()? {
        ComputeMode::Default => "Default",
        ComputeMode::Prohibited => "Prohibited",
        _ => "E. Process",
    };
    let mig = gpu.mig_mode().map_or("N/A", |mode| {
        if mode.current == 0 {
            "Disabled"
        } else {
            "Enabled"
        }
    });
    Ok(format!(
        "| {:>3}  {:<27} {persistence:>4}   | {:<16}  Off  | {ecc:>20} |\n\
         | {fan:>3}  {temperature:>4} {state:>5} {power:>22}  | {memory:>22} | {load:>7}  {mode:>10}  |\n\
         |                                         |                        | {mig:>20} |\n",
        gpu.index()?,
        gpu.name()?,
        gpu.pci_info()?.bus_id,
    ))
}

fn processes(nvml: &Nvml, gpus: &[Device<'_>]) -> Result<String, NvmlError> {
    let mut text = String::new();
    for gpu in gpus {
        let graphics = gpu
            .running_graphics_processes()?
            .into_iter()
            .map(|process| (process, "G"));
        for (process, kind) in gpu
            .running_compute_processes()?
            .into_iter()
            .map(|process| (process, "C"))
            .chain(graphics)
        {
            let name = nvml.sys_process_name(process.pid, 256).unwrap_or_default();
            let used = match process.used_gpu_memory {
                UsedGpuMemory::Used(bytes) => format!("{}MiB", bytes / MIB),
                UsedGpuMemory::Unavailable => "N/A".into(),
            };
            text += &format!(
                "| {:>4}   N/A  N/A {:>16}   {kind:>4}   {name:<34.34} {used:>11} |\n",
                gpu.index()?,
                process.pid
            );
        }
    }
    Ok(text)
}
