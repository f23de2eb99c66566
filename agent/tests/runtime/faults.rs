//! What goes wrong with an instance is said in words, and blamed on the right one.

use std::time::Duration;

use freehold_agent::model::{InstanceControl as _, InstanceStatus, ReportedState, StepResult};
use freehold_proto::id::InstanceId;

use crate::host::{Host, IMAGE, Image, is_possible, output, run};

async fn failed(host: &mut Host, id: InstanceId) -> InstanceStatus {
    host.reported(id, |status| status.state == ReportedState::Failed)
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_had_is_named() {
    if !is_possible() {
        return;
    }
    let mut host = Host::start().await;
    let mut spec = host.spec();
    spec.image = "127.0.0.1:1/no/such:image".to_owned();
    host.instances().ensure_running(spec.clone());
    let status = failed(&mut host, spec.instance_id).await;
    assert!(status.tenant_fault);
    assert!(status.detail.contains(&spec.image), "{}", status.detail);
    assert!(
        status.detail.contains("cannot be pulled"),
        "{}",
        status.detail
    );
    host.down_clean(&spec).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_sshd_fails_at_once_and_says_what_to_install() {
    if !is_possible() {
        return;
    }
    let image = Image::build(
        "no-sshd",
        "FROM scratch\nCOPY true /bin/sh\n",
        &["/bin/true"],
    );
    let mut host = Host::start().await;
    let mut spec = host.spec();
    spec.image = image.0.clone();
    host.instances().ensure_running(spec.clone());
    let status = failed(&mut host, spec.instance_id).await;
    assert!(status.tenant_fault);
    assert!(
        status.detail.contains("/usr/sbin/sshd"),
        "{}",
        status.detail
    );
    assert!(
        status.detail.contains("openssh-server"),
        "{}",
        status.detail
    );
    host.down_clean(&spec).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_sshd_that_never_answers_is_reported_and_can_be_ended() {
    if !is_possible() {
        return;
    }
    let mute =
        format!("FROM {IMAGE}\nRUN printf '#!/bin/sh\\nexec sleep 1000\\n' >/usr/sbin/sshd\n");
    let image = Image::build("mute-sshd", &mute, &[]);
    let mut host = Host::start().await;
    let mut spec = host.spec();
    spec.image = image.0.clone();
    host.instances().ensure_running(spec.clone());
    let status = host
        .reported(spec.instance_id, |status| {
            status.state == ReportedState::Running
        })
        .await;
    assert!(!status.sshd_listening);
    assert!(status.detail.contains("sshd"), "{}", status.detail);
    host.down_clean(&spec).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_interrupts_a_pull() {
    if !is_possible() {
        return;
    }
    // A registry that accepts and never says anything.
    let registry = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let mut host = Host::start().await;
    let mut spec = host.spec();
    spec.image = format!("{}/mute:latest", registry.local_addr().expect("an address"));
    spec.image_timeout = Duration::from_mins(10);
    host.instances().ensure_running(spec.clone());
    host.reported(spec.instance_id, |status| {
        status.state == ReportedState::Preparing
    })
    .await;
    host.down_clean(&spec).await;
    // The order that is behind the end does not bring it back.
    host.instances().ensure_running(spec.clone());
    let order = host.end_of(&spec);
    host.instances().ensure_gone(order.clone());
    host.outcome(order.scrub_id).await;
    let state = host.status(spec.instance_id).map(|status| status.state);
    assert_eq!(state, Some(ReportedState::Absent));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_refuses_an_image() {
    if !is_possible() {
        return;
    }
    let mut host = Host::with(|host| host.policy.images = vec!["allowed/*".to_owned()]).await;
    let spec = host.spec();
    host.instances().ensure_running(spec.clone());
    let status = failed(&mut host, spec.instance_id).await;
    assert!(status.detail.contains("policy"), "{}", status.detail);
    assert!(status.detail.contains("allowed/*"), "{}", status.detail);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_does_not_answer_makes_instances_unknown_never_absent() {
    if !is_possible() {
        return;
    }
    let mut host = Host::start().await;
    let spec = host.spec();
    let id = spec.instance_id;
    host.up(&spec).await;
    host.stop_agent().await;
    host.socket = host.dir.path().join("docker.sock");
    host.start_agent().await;
    host.reported(id, |status| {
        status.state == ReportedState::Unknown && status.detail.contains("engine")
    })
    .await;

    std::os::unix::fs::symlink("/var/run/docker.sock", &host.socket).expect("linked");
    let status = host.reported(id, |status| status.sshd_listening).await;
    assert_eq!(status.state, ReportedState::Running);
    host.down_clean(&spec).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_was_stopped_is_reported_and_started_by_the_next_order() {
    if !is_possible() {
        return;
    }
    let mut host = Host::start().await;
    let spec = host.spec();
    let id = spec.instance_id;
    host.up(&spec).await;
    host.inside(
        id,
        "echo kept >/lease/file; echo kept | sudo tee /root/file",
    );
    output(&["docker", "stop", "-t", "1", &host.container(id)]);
    host.reported(id, |status| status.state == ReportedState::Stopped)
        .await;
    host.up(&spec).await;
    assert_eq!(
        host.inside(id, "cat /lease/file; sudo cat /root/file"),
        "kept\nkept"
    );
    host.down_clean(&spec).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_was_restarted_starts_nothing_before_its_key_comes_again() {
    if !is_possible() {
        return;
    }
    let mut host = Host::start().await;
    let spec = host.spec();
    let id = spec.instance_id;
    host.up(&spec).await;
    host.inside(id, "echo kept >/lease/file");
    host.stop_agent().await;
    let container = host.container(id);
    output(&["docker", "kill", &container]);
    let mount = host
        .dir
        .path()
        .join(format!("scratch/{}/{id}/mount", host.id));
    output(&["umount", &mount.display().to_string()]);
    let by_engine = run(&["docker", "start", &container]);
    assert!(
        !by_engine.status.success(),
        "there is no scratch to start on"
    );

    host.start_agent().await;
    host.reported(id, |status| status.state == ReportedState::Stopped)
        .await;
    host.up(&spec).await;
    assert_eq!(host.inside(id, "cat /lease/file"), "kept");
    host.down_clean(&spec).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_sshd_that_its_tenant_ends_comes_back_and_ends_nothing_else() {
    if !is_possible() {
        return;
    }
    let mut host = Host::start().await;
    let spec = host.spec();
    let id = spec.instance_id;
    host.up(&spec).await;
    host.inside(id, "nohup sleep 1000 >/dev/null 2>&1 & echo $! >/lease/pid");
    host.ssh(id, "sudo pkill -o -x sshd");
    let mut alive = host.ssh(id, "kill -0 $(cat /lease/pid)");
    for _ in 0..100 {
        if alive.status.success() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        alive = host.ssh(id, "kill -0 $(cat /lease/pid)");
    }
    assert!(alive.status.success());
    host.down_clean(&spec).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_scratch_harms_nobody() {
    if !is_possible() {
        return;
    }
    let mut host = Host::start().await;
    let spec = host.spec();
    let id = spec.instance_id;
    host.up(&spec).await;
    let fill = host.ssh(id, "head -c 1G /dev/zero >/lease/file");
    let said = String::from_utf8_lossy(&fill.stderr).into_owned();
    assert!(said.contains("No space left"), "{said}");
    assert_eq!(
        host.inside(id, "rm /lease/file; echo still here"),
        "still here"
    );
    host.down_clean(&spec).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_dies_at_any_moment_of_a_bring_up_ends_it_when_it_is_back() {
    if !is_possible() {
        return;
    }
    let mut host = Host::start().await;
    for delay_ms in [0, 20, 40, 80, 120, 180, 300, 700] {
        let spec = host.spec();
        host.instances().ensure_running(spec.clone());
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        host.stop_agent().await;
        host.start_agent().await;
        host.up(&spec).await;
        assert_eq!(host.inside(spec.instance_id, "echo up"), "up");
        host.down_clean(&spec).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_dies_at_any_moment_of_a_removal_ends_it_when_it_is_back() {
    if !is_possible() {
        return;
    }
    let mut host = Host::start().await;
    for delay_ms in [0, 100, 300, 500, 800] {
        let spec = host.spec();
        host.up(&spec).await;
        let order = host.end_of(&spec);
        host.instances().ensure_gone(order.clone());
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        host.stop_agent().await;
        host.start_agent().await;
        host.instances().ensure_gone(order.clone());
        let outcome = host.outcome(order.scrub_id).await;
        assert_eq!(outcome.result, StepResult::Passed, "{outcome:#?}");
        assert!(
            !host
                .dir
                .path()
                .join(format!("data/instances/{}", spec.instance_id))
                .exists()
        );
    }
}
