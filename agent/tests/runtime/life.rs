//! An instance's life: up, through restarts, and down.

use freehold_agent::{
    instances::SimulatorFiles,
    model::{InstanceControl as _, ReportedState, TargetError},
};

use crate::host::{Host, IMAGE, Image, is_possible, output};

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_logged_in_to_by_certificate_and_is_gone_after_its_end() {
    if !is_possible() {
        return;
    }
    let mut host = Host::start().await;
    let spec = host.spec();
    let id = spec.instance_id;
    host.up(&spec).await;
    assert_eq!(
        host.inside(id, "id -un; pwd; hostname"),
        "lease\n/home/lease\nnode-0"
    );
    assert_eq!(
        host.inside(id, "sudo id -u; touch /lease/x && stat -c %U /lease/x"),
        "0\nlease"
    );
    let foreign = host.ssh(
        id,
        "sudo cat /dev/kmsg | head -1; sudo mknod /tmp/null c 1 3",
    );
    assert!(!foreign.status.success(), "no device can be made inside");
    let capabilities = host.inside(id, "grep CapBnd /proc/self/status | cut -f2");
    assert_eq!(
        capabilities, "00000000a00405fb",
        "Docker's, less NET_RAW and MKNOD"
    );
    let size = host.inside(id, "df --output=size -k /lease /home/lease | tail -n +2");
    for line in size.lines() {
        let kib: u64 = line.trim().parse().expect("a size");
        assert!((30_000..=65_536).contains(&kib), "{kib}");
    }

    host.down_clean(&spec).await;
    assert_eq!(host.instances().ssh_target(id), Err(TargetError::NotHere));
    assert_eq!(
        host.status(id).map(|s| s.state),
        Some(ReportedState::Absent)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agents_restart_changes_nothing_for_an_instance() {
    if !is_possible() {
        return;
    }
    let mut host = Host::start().await;
    let spec = host.spec();
    let id = spec.instance_id;
    host.up(&spec).await;
    let started = |name: &str| output(&["docker", "inspect", "-f", "{{.State.StartedAt}}", name]);
    let before = started(&host.container(id));

    host.stop_agent().await;
    host.start_agent().await;
    let status = host.reported(id, |status| status.sshd_listening).await;
    assert_eq!(
        (status.state, status.fence),
        (ReportedState::Running, spec.fence)
    );
    host.instances().ensure_running(spec.clone());
    assert_eq!(host.inside(id, "echo hello"), "hello");
    assert_eq!(started(&host.container(id)), before);

    // Nothing but the labels is left when the data directory was lost.
    host.stop_agent().await;
    std::fs::remove_file(
        host.dir
            .path()
            .join(format!("data/instances/{id}/record.json")),
    )
    .expect("removed");
    host.start_agent().await;
    let status = host.reported(id, |status| status.sshd_listening).await;
    assert_eq!(status.fence, spec.fence);
    host.down_clean(&spec).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_simulated_hosts_gpus_are_visible_inside() {
    if !is_possible() {
        return;
    }
    let files = tempfile::tempdir().expect("a directory");
    let built = std::env::current_exe().expect("a path");
    let library = files.path().join("libnvidia-ml.so.1");
    std::fs::copy(built.with_file_name("libnvidia_ml.so"), &library).expect("built");
    std::fs::write(files.path().join("nvidia-smi"), NVIDIA_SMI).expect("written");
    output(&[
        "chmod",
        "-R",
        "a+rX,a+x",
        &files.path().display().to_string(),
    ]);
    let scenario = files.path().join("scenario.toml");
    std::fs::write(&scenario, "model = 'h100'\ncount = 2\n").expect("written");
    let simulator = SimulatorFiles { library, scenario };

    let mut host = Host::with(|host| host.simulator = Some(simulator)).await;
    let mut spec = host.spec();
    spec.gpu_uuids = vec!["GPU-a".to_owned(), "GPU-b".to_owned()];
    spec.scratch_bytes = 1 << 50;
    let id = spec.instance_id;
    host.instances().ensure_running(spec.clone());
    let status = host
        .reported(id, |status| {
            status.sshd_listening && !status.visible_gpu_uuids.is_empty()
        })
        .await;
    assert_eq!(status.visible_gpu_uuids, spec.gpu_uuids);
    assert_eq!(status.detail, "");
    let count = "python3 -c 'import ctypes as c; n = c.CDLL(\"libnvidia-ml.so.1\"); i = c.c_uint(); \
                 n.nvmlInit_v2(); n.nvmlDeviceGetCount_v2(c.byref(i)); print(i.value)'";
    assert_eq!(host.inside(id, count), "2");
    host.down_clean(&spec).await;
}

/// Stands for the tool, which other packages build.
const NVIDIA_SMI: &str = "#!/bin/sh\necho 'GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-a)'\necho 'GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-b)'\n";

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_another_kind_gets_its_login_and_keeps_its_environment() {
    if !is_possible() {
        return;
    }
    let dockerfile = format!(
        "FROM {IMAGE}\nRUN userdel lease && rm -f /etc/sudoers.d/lease\nENV CUDA_HOME=/opt/cuda HF_HOME=/lease/hf\nENTRYPOINT [\"/bin/false\"]\n"
    );
    let image = Image::build("plain", &dockerfile, &[]);
    let mut host = Host::start().await;
    let mut spec = host.spec();
    spec.image = image.0.clone();
    host.up(&spec).await;
    let said = host.inside(
        spec.instance_id,
        "id -un; sudo id -u; echo $CUDA_HOME $HF_HOME",
    );
    assert_eq!(said, "lease\n0\n/opt/cuda /lease/hf");
    host.down_clean(&spec).await;
}
