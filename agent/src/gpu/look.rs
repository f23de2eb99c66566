//! One look at the GPUs, for whoever does not watch them.

use std::path::Path;

use tokio::sync::mpsc;

use super::{
    NvmlError, Program, Timing, checks,
    child::Nvml,
    kernel_log::KernelLog,
    state::{SeenXid, State, Whose},
    wire::{Answer, GpuHealth, Request},
    xid,
};
use crate::{
    clock::Clock,
    facts,
    model::{GpuInfo, GpuSample, HealthFinding},
};

/// What was seen.
#[derive(Debug)]
pub struct Look {
    /// As `nvidia-smi` shows it.
    pub driver_version: String,
    /// The newest that the driver supports.
    pub cuda_version: String,
    /// The library says that it is the simulator.
    pub simulated: bool,
    /// What the checks find.
    pub findings: Vec<HealthFinding>,
    pub(crate) gpus: Vec<(GpuInfo, GpuSample, GpuHealth)>,
}

/// Looks once. The kernel's log is left out where it may not be read.
///
/// # Errors
/// When there is no driver, it has no GPU or it does not answer; the error says what to do.
pub async fn look(program: Program, kmsg: &Path) -> Result<Look, NvmlError> {
    let (xids, _ignored) = mpsc::channel(1);
    let nvml = Nvml::new(program, Timing::default(), xids);
    let mut state = State::default();
    let (hello, answer) = nvml.ask(Request::Health).await?;
    if hello.gpus.is_empty() && hello.unreachable.is_empty() {
        return Err(NvmlError::Unavailable(
            "the NVIDIA driver works and finds no GPU. Check `lspci -d 10de:`".to_owned(),
        ));
    }
    if let Answer::Health(gpus) = answer {
        state.examined(&hello, gpus);
    }
    read_log(&mut state, kmsg);
    let mut samples = Vec::new();
    if let (hello, Answer::Sample(measures)) = nvml.ask(Request::Sample).await? {
        samples = state.sampled(&hello, &measures, Clock::default().now_micros());
    }
    let healths = &state.snapshot.gpus;
    let gpus = state
        .inventory
        .gpus
        .iter()
        .zip(samples)
        .map(|(info, sample)| {
            let health = healths.iter().find(|gpu| gpu.uuid == info.uuid);
            (
                info.clone(),
                sample,
                health.cloned().unwrap_or_else(|| GpuHealth {
                    uuid: info.uuid.clone(),
                    lost: true,
                    ..GpuHealth::default()
                }),
            )
        });
    Ok(Look {
        driver_version: hello.driver_version.clone(),
        cuda_version: hello.cuda_version.clone(),
        simulated: hello.simulated,
        gpus: gpus.collect(),
        findings: checks::run(&state.snapshot),
    })
}

fn read_log(state: &mut State, kmsg: &Path) {
    let clock = Clock::default();
    let mut log = KernelLog::new(kmsg, &facts::boot_id().unwrap_or_default());
    let read = log.read(|record| {
        let Some(message) = xid::parse(record.text) else {
            return;
        };
        state.saw_xid(SeenXid {
            whose: Whose::Pci(&message.pci),
            xid: message.xid,
            detail: message.detail,
            time_micros: clock.instant_micros(record.monotonic_micros.unwrap_or(0)),
            position: Some(record.position.clone()),
        });
    });
    if let Err(error) = read {
        tracing::debug!(%error, "the kernel's log cannot be read");
    }
}
