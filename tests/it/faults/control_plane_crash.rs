//! kill -9 of the control plane at each step of a lease: what was committed is taken up again, and nothing else happened.

use std::time::{Duration, SystemTime};

use freehold_proto::v1;
use freehold_tests::{
    client::open_ended,
    deployment::{Deployment, Tenant},
    sim_agent::{SimAgent, Stage},
};

use super::{end_well, expect_ended_well, instance_of};

async fn deployed() -> (Deployment, SimAgent, Tenant) {
    let deployment = Deployment::start().await;
    let host = deployment.host("gpu-1").await;
    let tenant = deployment.tenant("vision").await;
    (deployment, host, tenant)
}

async fn crash_and_restart(deployment: &mut Deployment) {
    deployment.replicas[0].kill().await;
    deployment.restart(0).await;
}

#[tokio::test]
async fn killed_right_after_a_create_it_brings_the_lease_up() {
    let (mut deployment, host, tenant) = deployed().await;
    let lease = tenant.client.create(open_ended()).await.expect("a lease");
    crash_and_restart(&mut deployment).await;
    tenant.client.wait_until_active(&lease.id).await;
    end_well(&deployment, &tenant, &host, &lease.id).await;
}

#[tokio::test]
async fn killed_before_a_window_begins_it_brings_the_lease_up_in_time() {
    let (mut deployment, host, tenant) = deployed().await;
    let start = SystemTime::now() + Duration::from_secs(8);
    let request = v1::CreateLeaseRequest {
        start_time: Some(start.into()),
        hours: Some(1),
        ..open_ended()
    };
    let lease = tenant.client.create(request).await.expect("a lease");
    assert_eq!(lease.state(), v1::LeaseState::Scheduled);
    crash_and_restart(&mut deployment).await;
    tenant.client.wait_until_active(&lease.id).await;
    end_well(&deployment, &tenant, &host, &lease.id).await;
}

/// `stage`: how far the host comes while there is no control plane.
async fn killed_while_provisioning(stage: Stage) {
    let (mut deployment, host, tenant) = deployed().await;
    host.faults.hold(stage);
    let lease = tenant.client.create(open_ended()).await.expect("a lease");
    let is_preparing = |lease: &v1::Lease| {
        let mut instances = lease.instances.iter();
        instances.any(|one| one.reported_state() == v1::ReportedState::Preparing)
    };
    let what = "the instance is being prepared";
    tenant.client.wait_for(&lease.id, what, is_preparing).await;
    deployment.replicas[0].kill().await;
    host.faults.let_go(stage);
    deployment.restart(0).await;
    let lease = tenant.client.wait_until_active(&lease.id).await;
    assert_eq!(lease.instances[0].generation, 1, "it was not placed again");
    end_well(&deployment, &tenant, &host, &lease.id).await;
}

#[tokio::test]
async fn killed_while_the_image_is_fetched_it_finds_the_instance_up() {
    killed_while_provisioning(Stage::Prepare).await;
}

#[tokio::test]
async fn killed_while_the_instance_starts_it_verifies_it_later() {
    killed_while_provisioning(Stage::Start).await;
}

#[tokio::test]
async fn killed_while_a_lease_is_used_it_touches_nothing_and_fills_the_meter_in() {
    let (mut deployment, host, tenant) = deployed().await;
    let lease = tenant.client.active_lease().await;
    let sshd = host.sshd_pid(instance_of(&lease)).expect("it runs");
    deployment.replicas[0].kill().await;
    tokio::time::sleep(freehold_tests::deployment::PAST_EVERY_TIMEOUT).await;
    deployment.restart(0).await;
    let lease = tenant.client.wait_until_active(&lease.id).await;
    assert_eq!(host.sshd_pid(instance_of(&lease)), Some(sshd));
    assert_eq!(lease.instances[0].generation, 1);
    end_well(&deployment, &tenant, &host, &lease.id).await;
}

#[tokio::test]
async fn killed_while_a_lease_ends_it_goes_on_to_the_scrub() {
    let (mut deployment, host, tenant) = deployed().await;
    let lease = tenant.client.active_lease().await;
    host.faults.hold(Stage::Remove);
    tenant.client.end(&lease.id).await.expect("ending");
    deployment.replicas[0].kill().await;
    host.faults.let_go(Stage::Remove);
    deployment.restart(0).await;
    expect_ended_well(&deployment, &tenant, &host, &lease.id).await;
}

#[tokio::test]
async fn killed_while_the_host_is_scrubbed_it_takes_the_outcome_later() {
    let (mut deployment, host, tenant) = deployed().await;
    let lease = tenant.client.active_lease().await;
    host.faults.hold(Stage::Scrub);
    tenant.client.end(&lease.id).await.expect("ending");
    let is_ended = |lease: &v1::Lease| lease.state() == v1::LeaseState::Ended;
    let lease = tenant.client.wait_for(&lease.id, "access is off", is_ended);
    let lease = lease.await;
    assert!(lease.settle_time.is_none(), "the scrub has not ended");
    deployment.replicas[0].kill().await;
    host.faults.let_go(Stage::Scrub);
    deployment.restart(0).await;
    expect_ended_well(&deployment, &tenant, &host, &lease.id).await;
}

/// The client does not know whether its creates were heard, and sends them again.
#[tokio::test]
async fn killed_under_creates_that_are_repeated_it_makes_one_lease_of_each() {
    let mut deployment = Deployment::start().await;
    let _hosts = [
        deployment.host("gpu-1").await,
        deployment.host("gpu-2").await,
        deployment.host("gpu-3").await,
    ];
    let tenant = deployment.tenant("vision").await;
    let create = |n: usize| {
        let request = v1::CreateLeaseRequest {
            request_id: format!("request-{n}"),
            ..open_ended()
        };
        let client = tenant.client.clone();
        async move { client.create(request).await }
    };
    let first: Vec<_> = (0..3).map(|n| tokio::spawn(create(n))).collect();
    tokio::time::sleep(Duration::from_millis(20)).await;
    crash_and_restart(&mut deployment).await;
    for answer in first {
        // Heard or not: both happen.
        let _ = answer.await.expect("no panic");
    }
    for n in 0..3 {
        let lease = create(n).await.expect("each has a host");
        tenant.client.wait_until_active(&lease.id).await;
    }
    let mut leases = tenant.client.leases();
    let listed = leases.list_leases(v1::ListLeasesRequest::default()).await;
    assert_eq!(listed.expect("listed").into_inner().leases.len(), 3);
    let database = deployment.database().await;
    freehold_tests::invariants::assert_hold(&database).await;
}
