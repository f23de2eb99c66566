use std::fs;

use super::*;

fn open(dir: &Path) -> Journal {
    Journal::open(dir, "boot-1".to_owned(), Clock::default()).expect("opens")
}

fn fence(epoch: i64, generation: i64) -> Fence {
    Fence { epoch, generation }
}

const fn second(seconds: i64) -> i64 {
    seconds * 1_000_000
}

#[tokio::test]
async fn the_highest_fence_survives_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let id = InstanceId::new();
    let journal = open(dir.path());
    let gpus = Some(vec!["GPU-1".to_owned()]);
    assert_eq!(
        journal.admit(id, fence(2, 5), gpus).await,
        Admission::Accepted
    );
    drop(journal);

    let journal = open(dir.path());
    assert_eq!(journal.epoch(), 2);
    assert_eq!(journal.fence(id).expect("known").gpu_uuids, ["GPU-1"]);
    let highest = fence(2, 5);
    for lower in [fence(2, 4), fence(1, 9)] {
        let refused = Admission::Refused { highest };
        assert_eq!(journal.admit(id, lower, None).await, refused);
    }
    for accepted in [fence(2, 5), fence(2, 6), fence(3, 1)] {
        let admission = journal.admit(id, accepted, None).await;
        assert_eq!(admission, Admission::Accepted, "{accepted}");
    }
    assert_eq!(journal.fence(id).expect("known").gpu_uuids, ["GPU-1"]);
}

#[tokio::test]
async fn an_older_epoch_is_refused_for_an_instance_never_seen() {
    let dir = tempfile::tempdir().expect("a directory");
    let journal = open(dir.path());
    assert!(journal.admit_epoch(4).await);
    assert!(!journal.admit_epoch(3).await);
    let admission = journal.admit(InstanceId::new(), fence(3, 1), None).await;
    assert!(matches!(admission, Admission::Refused { .. }));
}

#[tokio::test]
async fn a_torn_tail_loses_only_itself() {
    let dir = tempfile::tempdir().expect("a directory");
    let id = InstanceId::new();
    let journal = open(dir.path());
    journal.admit(id, fence(1, 1), None).await;
    journal.remember("kmsg", "17");
    drop(journal);
    let path = dir.path().join("journal");
    let whole = fs::read(&path).expect("written");
    let newline = whole[..whole.len() - 1].iter().rposition(|b| *b == b'\n');
    let last_line = newline.expect("two lines") + 1;
    for cut in last_line..whole.len() {
        fs::write(&path, &whole[..cut]).expect("cut");
        let journal = open(dir.path());
        assert_eq!(
            journal.fence(id).map(|e| e.fence),
            Some(fence(1, 1)),
            "{cut}"
        );
        journal.remember("after", "cut");
        drop(journal);
        assert_eq!(open(dir.path()).recall("after").as_deref(), Some("cut"));
    }
}

#[tokio::test]
async fn damage_in_the_middle_loses_only_that_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let journal = open(dir.path());
    let ids = [InstanceId::new(), InstanceId::new(), InstanceId::new()];
    for id in ids {
        journal.admit(id, fence(1, 1), None).await;
    }
    drop(journal);
    let path = dir.path().join("journal");
    let text = fs::read_to_string(&path).expect("written");
    let damaged = text.replacen(&ids[1].to_string(), &InstanceId::new().to_string(), 1);
    fs::write(&path, damaged).expect("damaged");
    let journal = open(dir.path());
    let known = ids.map(|id| journal.fence(id).is_some());
    assert_eq!(known, [true, false, true]);
}

#[tokio::test]
async fn stretches_grow_until_they_are_handed_over_and_go_when_acknowledged() {
    let dir = tempfile::tempdir().expect("a directory");
    let journal = open(dir.path());
    let seen = Observation {
        instance_id: InstanceId::new(),
        healthy: true,
    };
    journal.observe(vec![seen]).await;
    journal.observe(vec![seen]).await;
    let first = journal.unacknowledged();
    assert_eq!(first.len(), 1);
    journal.observe(vec![seen]).await;
    let both = journal.unacknowledged();
    assert_eq!(
        both.len(),
        2,
        "a stretch that was handed over does not grow"
    );
    assert_eq!(both[1].from_monotonic_us, both[0].to_monotonic_us);
    journal.acknowledge(first[0].sequence).await;
    drop(journal);
    let left = open(dir.path()).unacknowledged();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].sequence, both[1].sequence);
}

#[tokio::test]
async fn stretches_are_told_in_the_control_planes_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = Clock::default();
    let journal = Journal::open(dir.path(), "boot".to_owned(), clock.clone()).expect("opens");
    let seen = Observation {
        instance_id: InstanceId::new(),
        healthy: true,
    };
    journal.observe(vec![seen]).await;
    assert!(journal.unacknowledged().is_empty(), "it has no length yet");
    journal.observe(vec![seen]).await;
    clock.set(second(100), clock.monotonic_micros());
    let told = journal.unacknowledged();
    assert!(
        (second(90)..=second(100)).contains(&told[0].to_us),
        "{told:?}"
    );
}

#[test]
fn a_gap_or_a_change_begins_a_new_stretch() {
    let instance_id = InstanceId::new();
    let mut state = State::default();
    let mut see = |healthy, seconds, boot: &str| {
        let seen = Observation {
            instance_id,
            healthy,
        };
        let at = second(seconds);
        let record = state.extend(seen, boot, at, second(1000) + at);
        state.apply(record.clone());
        match record {
            Record::Stretch(s) => (s.sequence, s.from_monotonic_us / second(1), s.from_us),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(see(true, 0, "a"), (1, 0, second(1000)));
    assert_eq!(see(true, 5, "a"), (1, 0, second(1000)));
    // Unhealthy from when it was last seen healthy; healthy again only from when it was seen so.
    assert_eq!(see(false, 10, "a"), (2, 5, second(1005)));
    assert_eq!(see(true, 15, "a"), (3, 15, second(1015)));
    // Nobody looked for half a minute.
    assert_eq!(see(true, 45, "a"), (4, 45, second(1045)));
    // Another boot.
    assert_eq!(see(true, 46, "b"), (5, 46, second(1046)));
}

#[tokio::test]
async fn the_file_stays_small_however_often_it_is_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let journal = open(dir.path());
    let id = InstanceId::new();
    for generation in 0..300 {
        journal.remember("note", &"x".repeat(2000 + generation));
    }
    journal.admit(id, fence(1, 7), None).await;
    let len = fs::metadata(dir.path().join("journal"))
        .expect("there")
        .len();
    assert!(len < COMPACT_BYTES + 5000, "{len}");
    drop(journal);
    let journal = open(dir.path());
    assert_eq!(journal.recall("note").map(|text| text.len()), Some(2299));
    assert!(journal.fence(id).is_some());
}

#[tokio::test]
async fn a_full_disk_is_survived_in_memory_and_made_up_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let journal = open(dir.path());
    let id = InstanceId::new();
    journal.shared.file().fill_disk();
    let admission = journal.admit(id, fence(1, 2), None).await;
    assert_eq!(admission, Admission::Accepted, "the tenant is served");
    let lower = journal.admit(id, fence(1, 1), None).await;
    assert!(matches!(lower, Admission::Refused { .. }));
    assert!(open(dir.path()).fence(id).is_none(), "it is not on disk");

    let blocked = dir.path().join("journal.new");
    fs::create_dir(&blocked).expect("in the way");
    journal.retry().await;
    assert!(open(dir.path()).fence(id).is_none(), "it still cannot be");
    fs::remove_dir(&blocked).expect("away");
    journal.retry().await;
    drop(journal);
    let known = open(dir.path()).fence(id).map(|entry| entry.fence);
    assert_eq!(known, Some(fence(1, 2)));
}
