//! With real loop devices; as another user than root they are skipped, and say so.

use std::io::Read as _;

use super::*;

fn wanted(key: u8) -> Wanted {
    Wanted {
        bytes: SMALLEST_BYTES,
        key: ScratchKey::from_slice(&[key; 64]).expect("64 bytes"),
        must_encrypt: true,
        simulated: false,
    }
}

fn scratch(root: &Path) -> Option<Scratch> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: scratches need root");
        return None;
    }
    Some(Scratch::new(root, HostId::new(), InstanceId::new()))
}

#[tokio::test]
async fn a_scratch_keeps_its_content_until_it_is_destroyed() {
    let root = tempfile::tempdir().expect("a directory");
    let Some(scratch) = scratch(root.path()) else {
        return;
    };
    scratch.ensure(&wanted(1)).await.expect("made");
    let file = scratch.lease_dir().join("file");
    fs::write(&file, "content").expect("written");
    scratch.ensure(&wanted(1)).await.expect("is there");
    assert_eq!(fs::read_to_string(&file).expect("read"), "content");

    command::run(
        "umount",
        &[&scratch.mount_point().display().to_string()],
        "",
    )
    .await
    .expect("unmounted, as by the host's restart");
    scratch.ensure(&wanted(1)).await.expect("mounted again");
    assert_eq!(fs::read_to_string(&file).expect("read"), "content");

    let said = scratch.destroy().await.expect("destroyed");
    assert!(said.contains("key removed from the kernel"), "{said}");
    assert!(!scratch.dir().exists());
    assert_eq!(
        scratch.destroy().await.expect("nothing left"),
        "there was none"
    );
}

#[tokio::test]
async fn without_the_key_neither_names_nor_contents_are_readable() {
    let root = tempfile::tempdir().expect("a directory");
    let Some(scratch) = scratch(root.path()) else {
        return;
    };
    scratch.ensure(&wanted(2)).await.expect("made");
    let marker = "marker-of-the-tenant";
    let file = scratch.lease_dir().join("named-by-the-tenant");
    fs::write(&file, marker.repeat(1000)).expect("written");
    let point = scratch.mount_point().display().to_string();
    command::run("umount", &[&point], "")
        .await
        .expect("unmounted");

    let mut raw = Vec::new();
    File::open(scratch.image())
        .and_then(|mut image| image.read_to_end(&mut raw))
        .expect("the file is readable");
    for text in [marker, "named-by-the-tenant"] {
        let found = raw.windows(text.len()).any(|part| part == text.as_bytes());
        assert!(!found, "`{text}` is in the file");
    }

    scratch.mount().await.expect("mounted without the key");
    assert!(!scratch.lease_dir().exists());
    let error = scratch.ensure(&wanted(3)).await.expect_err("another key");
    assert!(error.to_string().contains("another key"), "{error}");
    scratch.destroy().await.expect("destroyed");
}

#[tokio::test]
async fn a_full_scratch_is_full_and_no_more() {
    let root = tempfile::tempdir().expect("a directory");
    let Some(scratch) = scratch(root.path()) else {
        return;
    };
    scratch.ensure(&wanted(4)).await.expect("made");
    let file = scratch.lease_dir().join("file");
    let error = fs::write(&file, vec![7; 64 << 20]).expect_err("more than it has");
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    scratch.ensure(&wanted(4)).await.expect("still usable");
    scratch.destroy().await.expect("destroyed");
}

#[tokio::test]
async fn a_copy_of_the_mount_in_a_container_that_starts_is_waited_for() {
    let root = tempfile::tempdir().expect("a directory");
    let Some(scratch) = scratch(root.path()) else {
        return;
    };
    scratch.ensure(&wanted(3)).await.expect("made");
    let mut holder = tokio::process::Command::new("unshare")
        .args(["--mount", "sleep", "1"])
        .spawn()
        .expect("started");
    let namespace = |id: &str| fs::read_link(format!("/proc/{id}/ns/mnt")).ok();
    let id = holder.id().expect("it runs").to_string();
    while namespace(&id) == namespace("self") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    scratch.destroy().await.expect("destroyed, when it is gone");
    assert!(!scratch.dir().exists());
    holder.wait().await.expect("ended");
}

#[tokio::test]
async fn a_process_with_mounts_of_its_own_does_not_hold_a_scratch() {
    let root = tempfile::tempdir().expect("a directory");
    let Some(scratch) = scratch(root.path()) else {
        return;
    };
    scratch.ensure(&wanted(5)).await.expect("made");
    // As a service with a private /tmp that starts meanwhile.
    let mut process = std::process::Command::new("unshare");
    let process = process.args(["--mount", "--propagation", "unchanged", "sh", "-c"]);
    let mut process = process
        .arg("echo; exec sleep 60")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("starts");
    let mut started = [0; 1];
    let mut output = process.stdout.take().expect("piped");
    output.read_exact(&mut started).expect("it runs");
    let destroyed = scratch.destroy().await;
    process.kill().expect("it ran");
    process.wait().expect("it ended");
    let said = destroyed.expect("destroyed while the process ran");
    assert!(said.contains("unmounted"), "{said}");
}
