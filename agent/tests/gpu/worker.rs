use std::process::Command;

use freehold_agent::model::GpuSource as _;

use super::{
    sim::{AGENT, Sim, library, workers_on},
    until,
};

fn kill(pid: i32) {
    let status = Command::new("kill")
        .args(["-9", &pid.to_string()])
        .status()
        .expect("kill");
    assert!(status.success());
}

#[tokio::test]
async fn a_worker_that_is_killed_is_replaced_without_a_finding() {
    let sim = Sim::new("count = 2");
    let gpus = sim.start().await;
    let workers = workers_on(&sim.scenario_path());
    assert_eq!(workers.len(), 1);
    kill(workers[0]);
    super::soon("samples come again", async {
        while gpus.sample().await.len() != 2 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(*gpus.findings().borrow(), []);
    let replaced = workers_on(&sim.scenario_path());
    assert!(replaced.len() == 1 && replaced != workers);
}

#[tokio::test]
async fn a_hundred_deaths_leave_no_process_behind() {
    let sim = Sim::new("count = 1");
    let mut options = sim.options();
    options.timing.shortest_pause = std::time::Duration::from_millis(1);
    options.timing.longest_pause = std::time::Duration::from_millis(2);
    let gpus = sim.start_with(options, None).await;
    for _ in 0..100 {
        let alive = super::soon("a worker", async {
            loop {
                if !gpus.sample().await.is_empty()
                    && let [pid] = workers_on(&sim.scenario_path())[..]
                {
                    return pid;
                }
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        })
        .await;
        kill(alive);
    }
    super::soon("samples come again", async {
        while gpus.sample().await.is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    })
    .await;
    until("one worker is left", || {
        workers_on(&sim.scenario_path()).len() == 1
    })
    .await;
    until("every worker was reaped", || zombies() == 0).await;
}

/// Children of this process that nobody waited for.
fn zombies() -> usize {
    let own = std::process::id().to_string();
    let processes = std::fs::read_dir("/proc").expect("processes");
    let states = processes.filter_map(|entry| {
        let text = std::fs::read_to_string(entry.ok()?.path().join("stat")).ok()?;
        let (_, fields) = text.rsplit_once(')')?;
        let mut fields = fields.split_ascii_whitespace();
        Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
    });
    states
        .filter(|(state, parent)| state == "Z" && *parent == own)
        .count()
}

#[test]
fn a_worker_in_a_hanging_call_ends_with_its_killed_parent() {
    let sim = Sim::new("count = 1\nhang = ['nvmlDeviceGetTemperature']");
    let mut agent = Command::new(AGENT)
        .arg("probe")
        .arg("--nvml-lib")
        .arg(library())
        .env("FREEHOLD_NVML_SCENARIO", sim.scenario_path())
        .spawn()
        .expect("started");
    let wait_for = |count: usize| {
        let deadline = std::time::Instant::now() + super::DEADLINE;
        while workers_on(&sim.scenario_path()).len() != count {
            assert!(
                std::time::Instant::now() < deadline,
                "not {count} processes"
            );
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    };
    // The variable is inherited: the agent itself counts too.
    wait_for(2);
    agent.kill().expect("killed");
    agent.wait().expect("reaped");
    wait_for(0);
}
