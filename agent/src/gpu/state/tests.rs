use super::*;

fn hello(uuids: &[&str]) -> Arc<Hello> {
    let gpus = uuids.iter().enumerate().map(|(at, uuid)| GpuInfo {
        uuid: (*uuid).to_owned(),
        index: u32::try_from(at).expect("few"),
        pci_bus_id: format!("00000000:{:02X}:00.0", at + 1),
        ..GpuInfo::default()
    });
    Arc::new(Hello {
        driver_version: "570".to_owned(),
        gpus: gpus.collect(),
        ..Hello::default()
    })
}

fn logged(pci: &str, xid: u32, second: i64, at: u64) -> SeenXid<'_> {
    SeenXid {
        whose: Whose::Pci(pci),
        xid,
        detail: String::new(),
        time_micros: second * 1_000_000,
        position: Some(Position {
            generation: "boot".to_owned(),
            at,
        }),
    }
}

fn by_nvml(uuid: &str, xid: u32, second: i64) -> SeenXid<'_> {
    SeenXid {
        whose: Whose::Uuid(uuid),
        position: None,
        ..logged("", xid, second, 0)
    }
}

fn state() -> State {
    let mut state = State::default();
    state.greeted(&hello(&["GPU-a", "GPU-b"]));
    state
}

#[test]
fn a_gpu_that_a_later_worker_does_not_find_stays_in_the_inventory() {
    let mut state = state();
    state.greeted(&hello(&["GPU-a"]));
    assert_eq!(state.inventory.gpus.len(), 2);
    let later = hello(&["GPU-a"]);
    let samples = state.sampled(&later, &[Some(Readings::default())], 0);
    assert_eq!(samples.len(), 2);
    state.examined(
        &later,
        vec![GpuHealth {
            uuid: "GPU-a".to_owned(),
            ..GpuHealth::default()
        }],
    );
    assert!(state.lacks_gpus());
    state.forget_removed(&["GPU-a".to_owned()]);
    assert_eq!(state.inventory.gpus.len(), 1);
    assert!(!state.lacks_gpus());
}

#[test]
fn an_xid_that_both_sources_tell_of_is_told_once() {
    let mut state = state();
    let event = state
        .saw_xid(logged("0000:02:00", 79, 100, 1))
        .expect("told");
    assert_eq!((event.gpu_uuid.as_str(), event.xid), ("GPU-b", Some(79)));
    assert_eq!(state.saw_xid(by_nvml("GPU-b", 79, 102)), None);
    assert!(
        state.saw_xid(by_nvml("GPU-b", 79, 106)).is_some(),
        "another one"
    );
    assert!(
        state.saw_xid(by_nvml("GPU-a", 79, 106)).is_some(),
        "another GPU"
    );
    let samples = state.sampled(&hello(&["GPU-a", "GPU-b"]), &[], 0);
    assert_eq!(samples[1].last_xid, Some((79, 106_000_000)));
}

#[test]
fn an_xid_of_an_unknown_gpu_is_told_without_one() {
    let event = state()
        .saw_xid(logged("0000:77:00", 79, 100, 1))
        .expect("told");
    assert_eq!(event.gpu_uuid, "");
}

#[test]
fn after_a_restart_old_xids_are_not_told_again_but_still_count() {
    let mut state = state();
    state.told = "boot 5".parse().expect("a position");
    assert_eq!(state.saw_xid(logged("0000:01:00", 79, 100, 5)), None);
    assert_eq!(state.snapshot.xids.len(), 1);
    assert!(state.saw_xid(logged("0000:01:00", 95, 100, 6)).is_some());
}

#[test]
fn what_a_gate_cleared_does_not_count_after_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let journal = Journal::open(
        dir.path(),
        "boot".to_owned(),
        crate::clock::Clock::default(),
    );
    let journal = journal.expect("a journal");
    let mut first = state();
    first.saw_xid(logged("0000:01:00", 79, 100, 5));
    first.remember_told(&journal);
    first.clear_xids(Some(&journal));
    assert_eq!(
        first.snapshot.xids.len(),
        1,
        "no gate has failed because of it"
    );
    first.judge_xids();
    first.clear_xids(Some(&journal));
    assert_eq!(first.snapshot.xids, []);

    let mut second = State::new(Some(&journal));
    second.greeted(&hello(&["GPU-a", "GPU-b"]));
    assert_eq!(second.saw_xid(logged("0000:01:00", 79, 100, 5)), None);
    assert_eq!(second.snapshot.xids, []);
    second.saw_xid(logged("0000:01:00", 79, 200, 6));
    assert_eq!(second.snapshot.xids.len(), 1, "it came again");
}

#[test]
fn another_boots_positions_say_nothing() {
    let mut state = state();
    state.told = "older 500".parse().expect("a position");
    state.cleared = "older 500".parse().expect("a position");
    assert!(state.saw_xid(logged("0000:01:00", 79, 100, 5)).is_some());
    assert_eq!(state.snapshot.xids.len(), 1);
}
