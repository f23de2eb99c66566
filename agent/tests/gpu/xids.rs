use std::fs;

use freehold_agent::model::{GpuEvent, GpuSource as _};
use tokio::sync::broadcast::{Receiver, error::TryRecvError};

use super::{
    sim::{Sim, has, until_found},
    soon,
};

async fn next(events: &mut Receiver<GpuEvent>) -> GpuEvent {
    soon("an event", events.recv()).await.expect("an event")
}

/// The address of slot 3 of an H100 board.
const SLOT_3: &str = "0000:61:00";

#[tokio::test]
async fn a_fatal_xid_in_the_kernels_log_is_an_event_and_a_finding() {
    let sim = Sim::new("count = 8");
    let gpus = sim.start().await;
    let third = gpus.inventory().gpus[3].uuid.clone();
    let mut events = gpus.events();
    sim.log("usb 1-1: new device");
    sim.log_xid(SLOT_3, 79);
    let event = next(&mut events).await;
    assert_eq!((event.kind.as_str(), event.xid), ("xid", Some(79)));
    assert_eq!(event.gpu_uuid, third);
    assert!(event.detail.contains("python3"), "{}", event.detail);
    let findings = until_found(&gpus, "the finding", |found| has(found, "xid_79")).await;
    assert!(findings[0].prevents_use && findings[0].gpu_uuid == third);
    assert_eq!(
        gpus.sample().await[3].last_xid.map(|(xid, _)| xid),
        Some(79)
    );
}

#[tokio::test]
async fn an_applications_xid_is_an_event_and_no_finding() {
    let sim = Sim::new("count = 8");
    let gpus = sim.start().await;
    let mut events = gpus.events();
    sim.log_xid(SLOT_3, 31);
    assert_eq!(next(&mut events).await.xid, Some(31));
    assert_eq!(*gpus.findings().borrow(), []);
}

#[tokio::test]
async fn xids_come_through_while_nvml_hangs() {
    let sim = Sim::new("count = 8");
    let gpus = sim.start().await;
    sim.set(
        "count = 8\nhang = ['nvmlDeviceGetIndex', 'nvmlDeviceGetUtilizationRates', 'nvmlInit_v2']",
    );
    until_found(&gpus, "the hang", |found| has(found, "nvml_timeout")).await;
    let mut events = gpus.events();
    sim.log_xid(SLOT_3, 119);
    loop {
        let event = next(&mut events).await;
        if event.kind == "xid" {
            assert_eq!(event.xid, Some(119));
            return;
        }
    }
}

#[tokio::test]
async fn the_log_is_followed_over_rotation_and_truncation() {
    let sim = Sim::new("count = 8");
    let gpus = sim.start().await;
    let mut events = gpus.events();
    sim.log_xid(SLOT_3, 13);
    assert_eq!(next(&mut events).await.xid, Some(13));
    fs::rename(sim.log_path(), sim.log_path().with_extension("1")).expect("renamed");
    sim.log_xid(SLOT_3, 31);
    assert_eq!(next(&mut events).await.xid, Some(31));
    fs::write(sim.log_path(), "").expect("truncated");
    sim.log_xid(SLOT_3, 43);
    assert_eq!(next(&mut events).await.xid, Some(43));
}

#[tokio::test]
async fn nvmls_own_event_is_taken_when_the_log_says_nothing_and_not_told_twice() {
    let sim = Sim::new("count = 8");
    let gpus = sim.start().await;
    let third = gpus.inventory().gpus[3].uuid.clone();
    let mut events = gpus.events();
    // The event set is made after the first answers: Xids from before it are not delivered, so the list grows until one is.
    let mut list = String::new();
    let event = soon("NVML's event", async {
        loop {
            list.push_str("[[xid]]\ngpu = 3\ncode = 48\n");
            sim.set(&format!("count = 8\n{list}"));
            let wait = std::time::Duration::from_millis(300);
            if let Ok(event) = tokio::time::timeout(wait, events.recv()).await {
                return event.expect("an event");
            }
        }
    })
    .await;
    assert_eq!((event.xid, event.gpu_uuid), (Some(48), third));
    until_found(&gpus, "the finding", |found| has(found, "xid_48")).await;
    sim.log_xid(SLOT_3, 48);
    sim.log_xid(SLOT_3, 13);
    assert_eq!(next(&mut events).await.xid, Some(13), "48 was told by NVML");
}

#[tokio::test]
async fn after_a_restart_the_finding_is_back_and_the_event_is_not() {
    let sim = Sim::new("count = 8");
    let first = sim.start_with(sim.options(), Some(sim.journal())).await;
    let mut events = first.events();
    sim.log_xid(SLOT_3, 95);
    next(&mut events).await;
    until_found(&first, "the finding", |found| has(found, "xid_95")).await;
    drop(first);
    // The journal is on disk before the next agent opens it.
    super::until("the note is written", || {
        sim.journal().recall("xid_told").is_some()
    })
    .await;

    let second = sim.start_with(sim.options(), Some(sim.journal())).await;
    let mut events = second.events();
    until_found(&second, "the finding", |found| has(found, "xid_95")).await;
    sim.log_xid(SLOT_3, 13);
    assert_eq!(next(&mut events).await.xid, Some(13));
    assert_eq!(events.try_recv(), Err(TryRecvError::Empty));
}
