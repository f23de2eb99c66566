//! GPUs that fail during a lease: its meter pauses, other leases go on, and the host is leased again only after it passed its gate.

use freehold_proto::v1;
use freehold_tests::{
    deployment::{Deployment, Tenant},
    invariants,
    sim_agent::SimAgent,
};

use super::{availability, instance_of};

fn is_impaired(lease: &v1::Lease) -> bool {
    lease.state() == v1::LeaseState::Impaired
}

/// Two leases on two hosts; the first one's host gets a fault.
async fn one_of_two_fails(fault: impl Fn(&SimAgent)) {
    let deployment = Deployment::start().await;
    let tenant = deployment.tenant("vision").await;
    let broken = deployment.host("gpu-1").await;
    let lease = tenant.client.active_lease().await;
    let _sound = deployment.host("gpu-2").await;
    let other = tenant.client.active_lease().await;
    let sshd = broken.sshd_pid(instance_of(&lease)).expect("it runs");

    fault(&broken);
    let what = "the lease is impaired";
    let impaired = tenant.client.wait_for(&lease.id, what, is_impaired).await;
    assert!(!impaired.state_reason.is_empty(), "it says why");
    assert_paused_for_the_provider(&tenant, &lease.id).await;
    let sound = tenant.client.lease(&other.id).await.expect("a lease");
    assert_eq!(sound.state(), v1::LeaseState::Active, "{sound:?}");
    assert_eq!(broken.sshd_pid(instance_of(&lease)), Some(sshd));

    broken.gpus.mend();
    tenant.client.wait_until_active(&lease.id).await;
    assert_eq!(broken.sshd_pid(instance_of(&lease)), Some(sshd));
    let untouched = availability(&tenant, &other.id).await;
    assert_eq!(untouched.len(), 1, "never paused: {untouched:?}");
    for id in [&lease.id, &other.id] {
        tenant.client.end(id).await.expect("ending");
        tenant.client.wait_until_settled(id).await;
    }
    let usage = tenant.client.usage(&lease.id).await;
    assert!(!usage.is_empty(), "it was usable before and after");
    invariants::assert_hold(&deployment.database().await).await;
}

async fn assert_paused_for_the_provider(tenant: &Tenant, lease: &str) {
    let stretches = availability(tenant, lease).await;
    let last = stretches.last().expect("a stretch");
    assert_ne!(last.state(), v1::AvailabilityState::Usable, "{last:?}");
    assert_eq!(last.fault_party(), v1::FaultParty::Provider, "{last:?}");
    assert!(!last.evidence.is_empty());
}

#[tokio::test]
async fn a_lost_gpu_pauses_its_lease_and_no_other() {
    one_of_two_fails(|host| host.gpus.lose(5)).await;
}

#[tokio::test]
async fn an_nvml_call_that_hangs_pauses_its_lease_and_no_other() {
    one_of_two_fails(|host| host.gpus.hang()).await;
}

#[tokio::test]
async fn a_host_with_a_lost_gpu_is_quarantined_until_the_operator_releases_it() {
    let deployment = Deployment::start().await;
    let tenant = deployment.tenant("vision").await;
    let host = deployment.host("gpu-1").await;
    let lease = tenant.client.active_lease().await;
    host.gpus.lose(0);
    let what = "the lease is impaired";
    tenant.client.wait_for(&lease.id, what, is_impaired).await;
    tenant.client.end(&lease.id).await.expect("ending");
    let quarantined = deployment
        .wait_for_host("gpu-1", v1::HostState::Quarantined)
        .await;
    assert!(quarantined.state_reason.contains("bus"), "{quarantined:?}");
    tenant.client.wait_until_settled(&lease.id).await;
    let refused = tenant
        .client
        .create(freehold_tests::client::open_ended())
        .await;
    refused.expect_err("a quarantined host is not leased");
    host.gpus.mend();
    let cli = deployment.cli(deployment.operator_token());
    cli.json(&["host", "release", "gpu-1"]).await;
    deployment
        .wait_for_host("gpu-1", v1::HostState::Available)
        .await;
    invariants::assert_hold(&deployment.database().await).await;
}
