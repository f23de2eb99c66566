//! `nvidia-smi` for simulated hosts: what people type first on a machine with GPUs.
//!
//! It loads `libnvidia-ml.so.1` as the driver's own tool does (`FREEHOLD_NVML_LIB` names another one) and knows `-L`,
//! `--query-gpu=FIELDS --format=csv[,noheader][,nounits]`, `--query-compute-apps=FIELDS`, `-i INDEX` and the plain table.
//! Texts and exit codes are those of the original.

mod query;
mod table;

use std::{ffi::OsString, process::ExitCode};

use nvml_wrapper::{Nvml, error::NvmlError};

const USAGE: &str = "Usage: nvidia-smi [-L] [-i INDEX|UUID] [--query-gpu=FIELDS|--query-compute-apps=FIELDS --format=csv[,noheader][,nounits]]

This is the simulator's nvidia-smi; it knows only these options.";

/// What went wrong, as the original says it: exit code and text.
pub(crate) struct Failure(u8, String);

impl From<NvmlError> for Failure {
    fn from(error: NvmlError) -> Self {
        match error {
            NvmlError::DriverNotLoaded => Self(
                9,
                "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. \
                 Make sure that the latest NVIDIA driver is installed and running."
                    .into(),
            ),
            NvmlError::GpuLost => Self(15, "GPU is lost.  Reboot the system to recover this GPU".into()),
            NvmlError::LibloadingError(_) => Self(
                12,
                "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system. Please make sure that the NVIDIA Display Driver is \
                 properly installed and present in your system."
                    .into(),
            ),
            other => Self(255, format!("Failed to initialize NVML: {other}")),
        }
    }
}

/// What is asked for.
#[derive(Default)]
struct Request {
    list: bool,
    gpus: Option<String>,
    apps: Option<String>,
    only: Option<String>,
    format: query::Format,
}

fn main() -> ExitCode {
    match run() {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(Failure(code, text)) => {
            println!("{text}");
            ExitCode::from(code)
        }
    }
}

fn run() -> Result<String, Failure> {
    let request = parse(std::env::args().skip(1))?;
    let library = std::env::var_os("FREEHOLD_NVML_LIB")
        .unwrap_or_else(|| OsString::from("libnvidia-ml.so.1"));
    let nvml = Nvml::builder().lib_path(&library).init()?;
    let gpus = select(&nvml, request.only.as_deref())?;
    if request.list {
        return Ok(list(&gpus)?);
    }
    if let Some(fields) = &request.gpus {
        return query::gpus(&nvml, &gpus, fields, &request.format);
    }
    if let Some(fields) = &request.apps {
        return query::apps(&nvml, &gpus, fields, &request.format);
    }
    Ok(table::draw(&nvml, &gpus)?)
}

fn parse(arguments: impl Iterator<Item = String>) -> Result<Request, Failure> {
    let mut request = Request::default();
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (argument, None),
        };
        let mut value = || {
            let missing = || Failure(1, format!("Option {name} needs a value.\n{USAGE}"));
            value
                .clone()
                .or_else(|| arguments.next())
                .ok_or_else(missing)
        };
        match name.as_str() {
            "-h" | "--help" => return Err(Failure(0, USAGE.into())),
            "-L" | "--list-gpus" => request.list = true,
            "-i" | "--id" => request.only = Some(value()?),
            "--query-gpu" => request.gpus = Some(value()?),
            "--query-compute-apps" => request.apps = Some(value()?),
            "--format" => request.format = query::Format::parse(&value()?)?,
            other => {
                return Err(Failure(
                    1,
                    format!("Invalid combination of input arguments: {other}\n{USAGE}"),
                ));
            }
        }
    }
    Ok(request)
}

/// The GPUs that are shown. A lost one ends the program, as in the original.
fn select<'nvml>(
    nvml: &'nvml Nvml,
    only: Option<&str>,
) -> Result<Vec<nvml_wrapper::Device<'nvml>>, Failure> {
    let mut gpus = Vec::new();
    for index in 0..nvml.device_count()? {
        let wanted = |gpu: &nvml_wrapper::Device<'_>| match only {
            Some(only) => only == index.to_string() || gpu.uuid().is_ok_and(|uuid| uuid == only),
            None => true,
        };
        match nvml.device_by_index(index) {
            Ok(gpu) if wanted(&gpu) => gpus.push(gpu),
            Ok(_) => {}
            Err(NvmlError::GpuLost) if only.is_none_or(|only| only == index.to_string()) => {
                return Err(Failure(
                    15,
                    format!(
                        "Unable to determine the device handle for GPU{index}: GPU is lost.  Reboot the system to recover this GPU"
                    ),
                ));
            }
            Err(NvmlError::GpuLost) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if gpus.is_empty() {
        return Err(Failure(6, "No devices were found".into()));
    }
    Ok(gpus)
}

fn list(gpus: &[nvml_wrapper::Device<'_>]) -> Result<String, NvmlError> {
    let mut text = String::new();
    for gpu in gpus {
        text += &format!(
            "GPU {}: {} (UUID: {})\n",
            gpu.index()?,
            gpu.name()?,
            gpu.uuid()?
        );
    }
    Ok(text)
}
