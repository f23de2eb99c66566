//! kill -9 of an agent: what runs on its host runs on, and what it was doing is done by the next.

use freehold_proto::v1;
use freehold_tests::{
    client::open_ended,
    deployment::{Deployment, PAST_EVERY_TIMEOUT, Tenant},
    sim_agent::{SimAgent, Stage},
};

use super::{availability, end_well, expect_ended_well, instance_of};

async fn deployed() -> (Deployment, SimAgent, Tenant) {
    let deployment = Deployment::start().await;
    let host = deployment.host("gpu-1").await;
    let tenant = deployment.tenant("vision").await;
    (deployment, host, tenant)
}

#[tokio::test]
async fn killed_while_it_brings_an_instance_up_the_next_one_does() {
    let (deployment, mut host, tenant) = deployed().await;
    host.faults.hold(Stage::Start);
    let lease = tenant.client.create(open_ended()).await.expect("a lease");
    let is_preparing = |lease: &v1::Lease| {
        let mut instances = lease.instances.iter();
        instances.any(|one| one.reported_state() == v1::ReportedState::Preparing)
    };
    let what = "the instance is being prepared";
    tenant.client.wait_for(&lease.id, what, is_preparing).await;
    host.crash();
    host.faults.let_go(Stage::Start);
    host.start();
    tenant.client.wait_until_active(&lease.id).await;
    end_well(&deployment, &tenant, &host, &lease.id).await;
}

#[tokio::test]
async fn killed_for_a_moment_the_instance_runs_on_and_is_usable_again() {
    let (deployment, mut host, tenant) = deployed().await;
    let lease = tenant.client.active_lease().await;
    let sshd = host.sshd_pid(instance_of(&lease)).expect("it runs");
    host.crash();
    assert_eq!(host.sshd_pid(instance_of(&lease)), Some(sshd));
    host.start();
    let cli = deployment.cli(&tenant.token);
    freehold_tests::wait::until(
        "a login works again",
        freehold_tests::wait::SOON,
        || async {
            let said = cli.run(&["ssh", &lease.id, "--", "echo here"]).await;
            if said.stdout == "here\n" {
                Ok(())
            } else {
                Err(said.stderr)
            }
        },
    )
    .await;
    let lease = tenant.client.wait_until_active(&lease.id).await;
    assert_eq!(host.sshd_pid(instance_of(&lease)), Some(sshd));
    end_well(&deployment, &tenant, &host, &lease.id).await;
}

/// Nobody looked while there was no agent: not even the journal can say that the instance was usable.
#[tokio::test]
async fn killed_for_long_the_time_without_an_agent_is_unknown_and_not_billed() {
    let (deployment, mut host, tenant) = deployed().await;
    let lease = tenant.client.active_lease().await;
    let sshd = host.sshd_pid(instance_of(&lease)).expect("it runs");
    host.crash();
    let is_impaired = |lease: &v1::Lease| lease.state() == v1::LeaseState::Impaired;
    let what = "the lease is impaired";
    let impaired = tenant.client.wait_for(&lease.id, what, is_impaired).await;
    assert!(!impaired.state_reason.is_empty());
    deployment
        .wait_for_host("gpu-1", v1::HostState::Unknown)
        .await;
    tokio::time::sleep(PAST_EVERY_TIMEOUT).await;
    host.start();
    tenant.client.wait_until_active(&lease.id).await;
    assert_eq!(host.sshd_pid(instance_of(&lease)), Some(sshd));
    end_well(&deployment, &tenant, &host, &lease.id).await;
    let stretches = availability(&tenant, &lease.id).await;
    let is_unknown = |one: &v1::Availability| {
        one.state() == v1::AvailabilityState::Unknown
            && one.fault_party() == v1::FaultParty::Provider
    };
    assert!(stretches.iter().any(is_unknown), "{stretches:?}");
}

#[tokio::test]
async fn killed_while_it_removes_an_instance_the_next_one_scrubs() {
    let (deployment, mut host, tenant) = deployed().await;
    let lease = tenant.client.active_lease().await;
    host.faults.hold(Stage::Remove);
    tenant.client.end(&lease.id).await.expect("ending");
    let is_ending = |lease: &v1::Lease| lease.state() == v1::LeaseState::Ending;
    let what = "the lease is ending";
    tenant.client.wait_for(&lease.id, what, is_ending).await;
    host.crash();
    host.faults.let_go(Stage::Remove);
    host.start();
    expect_ended_well(&deployment, &tenant, &host, &lease.id).await;
}

#[tokio::test]
async fn killed_while_it_scrubs_the_next_one_scrubs_again() {
    let (deployment, mut host, tenant) = deployed().await;
    let lease = tenant.client.active_lease().await;
    host.faults.hold(Stage::Scrub);
    tenant.client.end(&lease.id).await.expect("ending");
    let is_ended = |lease: &v1::Lease| lease.state() == v1::LeaseState::Ended;
    let what = "access is off";
    tenant.client.wait_for(&lease.id, what, is_ended).await;
    host.crash();
    host.faults.let_go(Stage::Scrub);
    host.start();
    expect_ended_well(&deployment, &tenant, &host, &lease.id).await;
}
