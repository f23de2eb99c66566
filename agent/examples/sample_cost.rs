//! Processor time of one sample of all GPUs, by the agent's own code with its worker: what `scripts/bench.d/agent` compares with a C loop.
//!
//! `sample_cost AGENT-BINARY NVML-LIBRARY SAMPLES` prints microseconds per sample: the agent's, the worker's.

use std::{fs, path::Path, process, time::Duration};

use anyhow::{Context as _, ensure};
use freehold_agent::{
    clock::Clock,
    gpu::{Gpus, Options, Program, Timing},
    model::GpuSource as _,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Samples that do not count: caches fill.
const WARM_UP: u32 = 50;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, binary, library, samples] = arguments.as_slice() else {
        anyhow::bail!("usage: sample_cost AGENT-BINARY NVML-LIBRARY SAMPLES");
    };
    let samples: u32 = samples.parse().context("SAMPLES is not a number")?;
    ensure!(samples > 0, "SAMPLES must be at least 1");
    let program = Program {
        binary: binary.into(),
        ..Program::own(Some(library.into()))
    };
    // The agent's own runtime.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        // As the agent samples: in a task.
        tokio::spawn(measure(program, samples)).await?
    })
}

async fn measure(program: Program, samples: u32) -> anyhow::Result<()> {
    let options = Options {
        program,
        timing: Timing::default(),
        kmsg: None,
    };
    let tasks = TaskTracker::new();
    let cancel = CancellationToken::new();
    let gpus = Gpus::start(options, Clock::default(), None, &tasks, &cancel);
    gpus.settle(Duration::from_secs(30)).await;
    for _ in 0..WARM_UP {
        ensure!(!gpus.sample().await.is_empty(), "NVML does not answer");
    }
    let worker = worker()?;
    let before = (cpu_ns(process::id())?, cpu_ns(worker)?);
    for _ in 0..samples {
        ensure!(!gpus.sample().await.is_empty(), "NVML does not answer");
    }
    let after = (cpu_ns(process::id())?, cpu_ns(worker)?);
    let each = |from: u64, to: u64| (to - from) as f64 / 1000.0 / f64::from(samples);
    println!(
        "{:.1} {:.1}",
        each(before.0, after.0),
        each(before.1, after.1)
    );
    Ok(())
}

/// The one child of this process.
fn worker() -> anyhow::Result<u32> {
    for thread in fs::read_dir("/proc/self/task")? {
        let children = fs::read_to_string(thread?.path().join("children"))?;
        if let Some(child) = children.split_ascii_whitespace().next() {
            return Ok(child.parse()?);
        }
    }
    anyhow::bail!("the worker does not run")
}

/// Nanoseconds on a processor of all threads of a process.
fn cpu_ns(process: u32) -> anyhow::Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(Path::new("/proc").join(process.to_string()).join("task"))? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        let own = text
            .split_ascii_whitespace()
            .next()
            .context("schedstat is empty")?;
        sum += own.parse::<u64>()?;
    }
    Ok(sum)
}
