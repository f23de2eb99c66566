//! The network between a host and the control plane, cut past every time-out and healed.

use std::time::Duration;

use freehold_proto::v1;
use freehold_tests::{
    client::open_ended,
    deployment::{Deployment, Options, PAST_EVERY_TIMEOUT, Tenant},
    sim_agent::SimAgent,
};

use super::{availability, end_well, expect_ended_well, instance_of};

async fn deployed(options: Options) -> (Deployment, SimAgent, Tenant) {
    let deployment = options.start().await;
    let host = deployment.host("gpu-1").await;
    let tenant = deployment.tenant("vision").await;
    (deployment, host, tenant)
}

fn is_impaired(lease: &v1::Lease) -> bool {
    lease.state() == v1::LeaseState::Impaired
}

/// Cuts the network under a lease that is used, heals it, and returns the lease when it is usable again.
async fn cut_and_heal(
    deployment: &Deployment,
    host: &SimAgent,
    tenant: &Tenant,
    cut: impl Fn(&Deployment),
) -> v1::Lease {
    let lease = tenant.client.active_lease().await;
    let sshd = host.sshd_pid(instance_of(&lease)).expect("it runs");
    cut(deployment);
    let what = "the lease is impaired";
    let impaired = tenant.client.wait_for(&lease.id, what, is_impaired).await;
    assert!(!impaired.state_reason.is_empty());
    let unknown = deployment.wait_for_host("gpu-1", v1::HostState::Unknown);
    assert!(!unknown.await.state_reason.is_empty());
    tokio::time::sleep(PAST_EVERY_TIMEOUT).await;
    assert_eq!(host.sshd_pid(instance_of(&lease)), Some(sshd));
    deployment.replicas[0].network.heal();
    let lease = tenant.client.wait_until_active(&lease.id).await;
    assert_eq!(host.sshd_pid(instance_of(&lease)), Some(sshd));
    assert_eq!(lease.instances[0].generation, 1, "it was not placed again");
    lease
}

fn seconds_in(stretches: &[v1::Availability], state: v1::AvailabilityState) -> i64 {
    let of_state = stretches.iter().filter(|one| one.state() == state);
    of_state
        .filter_map(|one| Some(one.to_time?.seconds - one.from_time?.seconds))
        .sum()
}

#[tokio::test]
async fn a_broken_link_stops_nothing_and_the_journal_fills_the_meter_in() {
    let (deployment, host, tenant) = deployed(Options::default()).await;
    let cut = |deployment: &Deployment| deployment.replicas[0].network.cut();
    let lease = cut_and_heal(&deployment, &host, &tenant, cut).await;
    end_well(&deployment, &tenant, &host, &lease.id).await;
    let stretches = availability(&tenant, &lease.id).await;
    let from_journal = |one: &v1::Availability| {
        one.state() == v1::AvailabilityState::Usable && one.evidence.contains("journal")
    };
    assert!(stretches.iter().any(from_journal), "{stretches:?}");
    let unknown = seconds_in(&stretches, v1::AvailabilityState::Unknown);
    // The journal looks every 5 s: what it has not seen at either end stays unknown.
    assert!(unknown <= 12, "{unknown} s unknown of {stretches:?}");
}

#[tokio::test]
async fn a_silent_link_stops_nothing_either() {
    let (deployment, host, tenant) = deployed(Options::default()).await;
    let cut = |deployment: &Deployment| deployment.replicas[0].network.silence();
    let lease = cut_and_heal(&deployment, &host, &tenant, cut).await;
    end_well(&deployment, &tenant, &host, &lease.id).await;
}

#[tokio::test]
async fn what_was_unknown_for_too_long_stays_unbilled() {
    let options = Options::default().set("FREEHOLD_BACKFILL", "2s");
    let (deployment, host, tenant) = deployed(options).await;
    let cut = |deployment: &Deployment| deployment.replicas[0].network.cut();
    let lease = cut_and_heal(&deployment, &host, &tenant, cut).await;
    end_well(&deployment, &tenant, &host, &lease.id).await;
    let stretches = availability(&tenant, &lease.id).await;
    let unknown = seconds_in(&stretches, v1::AvailabilityState::Unknown);
    let at_least = PAST_EVERY_TIMEOUT.as_secs().cast_signed();
    assert!(unknown >= at_least, "{unknown} s of {stretches:?}");
    let usage = tenant.client.usage(&lease.id).await;
    let metered: i64 = usage.iter().map(|one| one.usable_seconds).sum();
    let usable = seconds_in(&stretches, v1::AvailabilityState::Usable);
    // Whole seconds of each stretch.
    assert!(metered <= usable + 4, "{metered} s of {usable} s");
}

#[tokio::test]
async fn a_host_that_hangs_is_unknown_and_comes_back() {
    let (deployment, host, tenant) = deployed(Options::default()).await;
    let lease = tenant.client.active_lease().await;
    let sshd = host.sshd_pid(instance_of(&lease)).expect("it runs");
    host.freeze();
    let what = "the lease is impaired";
    tenant.client.wait_for(&lease.id, what, is_impaired).await;
    deployment
        .wait_for_host("gpu-1", v1::HostState::Unknown)
        .await;
    host.thaw();
    tenant.client.wait_until_active(&lease.id).await;
    assert_eq!(host.sshd_pid(instance_of(&lease)), Some(sshd));
    end_well(&deployment, &tenant, &host, &lease.id).await;
}

/// Access stops at the gateway; the host stays occupied until it is heard again and scrubbed.
#[tokio::test]
async fn a_lease_that_ends_behind_a_cut_link_keeps_its_host_until_it_is_scrubbed() {
    let (deployment, host, tenant) = deployed(Options::default()).await;
    let lease = tenant.client.active_lease().await;
    let sshd = host.sshd_pid(instance_of(&lease)).expect("it runs");
    let cli = deployment.cli(&tenant.token);
    let works = cli.run(&["ssh", &lease.id, "--", "true"]).await;
    assert_eq!(works.code, Some(0), "{}", works.stderr);
    deployment.replicas[0].network.cut();
    let ended = tenant.client.end(&lease.id).await.expect("ending");
    assert_eq!(ended.state(), v1::LeaseState::Ending, "{ended:?}");
    let refused = cli.run(&["ssh", &lease.id, "--", "true"]).await;
    assert_ne!(refused.code, Some(0), "access is off");
    tokio::time::sleep(PAST_EVERY_TIMEOUT).await;
    let taken = tenant.client.create(open_ended()).await;
    taken.expect_err("the host is not clean, whatever its agent does");
    assert_eq!(host.sshd_pid(instance_of(&lease)), Some(sshd));
    deployment.replicas[0].network.heal();
    expect_ended_well(&deployment, &tenant, &host, &lease.id).await;
    let usage = tenant.client.usage(&lease.id).await;
    let asked = ended.end_request_time.expect("asked for").seconds;
    for record in &usage {
        let end = record.period_end.expect("an end").seconds;
        let billed = record.period_start.expect("a start").seconds + record.usable_seconds;
        assert!(
            billed <= asked + 1 || end <= asked + 1,
            "no overtime: {record:?}"
        );
    }
}

#[tokio::test]
async fn a_lease_that_is_made_behind_a_cut_link_waits_for_it_or_fails_unbilled() {
    let (deployment, host, tenant) = deployed(Options::default()).await;
    deployment.replicas[0].network.cut();
    // Not noticed yet: the host counts as heard.
    let lease = tenant.client.create(open_ended()).await.expect("a lease");
    tokio::time::sleep(Duration::from_secs(3)).await;
    deployment.replicas[0].network.heal();
    tenant.client.wait_until_active(&lease.id).await;
    end_well(&deployment, &tenant, &host, &lease.id).await;
}
