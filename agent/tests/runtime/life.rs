//! An instance's life: up, through restarts, and down.

use freehold_agent::model::{InstanceControl as _, ReportedState, StepResult, TargetError};

use crate::host::{Host, is_possible, output};

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
    let size = host.inside(id, "df --output=size -k /lease /home/lease | tail -n +2");
    for line in size.lines() {
        let kib: u64 = line.trim().parse().expect("a size");
        assert!((30_000..=65_536).contains(&kib), "{kib}");
    }

    let outcome = host.down(&spec).await;
    assert_eq!(outcome.result, StepResult::Passed, "{outcome:#?}");
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
    assert_eq!(host.down(&spec).await.result, StepResult::Passed);
}
