//! What may go wrong, and what must hold all the same: nothing double-booked, nothing billed that was not usable, no container killed by a
//! blip, and an error that says what to do.

mod agent_crash;
mod agent_credentials;
mod control_plane_crash;
mod database_crash;
mod gpus;
mod images;
mod links;
mod races;
mod scrubs;
mod sshds;

use freehold_proto::{id::InstanceId, v1};
use freehold_tests::{
    deployment::{Deployment, Tenant},
    invariants,
    sim_agent::SimAgent,
};

/// The id of a lease's only instance.
fn instance_of(lease: &v1::Lease) -> InstanceId {
    let instance = lease.instances.first().expect("an instance");
    instance.id.parse().expect("an id")
}

/// Ends a lease and checks what every end must leave: a scrubbed host that is available, nothing on it, and the invariants.
async fn end_well(deployment: &Deployment, tenant: &Tenant, host: &SimAgent, lease: &str) {
    tenant.client.end(lease).await.expect("ending");
    expect_ended_well(deployment, tenant, host, lease).await;
}

async fn expect_ended_well(deployment: &Deployment, tenant: &Tenant, host: &SimAgent, lease: &str) {
    let lease = tenant.client.wait_until_settled(lease).await;
    for instance in &lease.instances {
        let scrub = instance.scrub.as_ref().expect("a scrub");
        assert_eq!(scrub.result(), v1::StepResult::Passed, "{scrub:?}");
    }
    expect_free(deployment, host).await;
}

async fn expect_free(deployment: &Deployment, host: &SimAgent) {
    let id = host.host_id.to_string();
    deployment
        .wait_for_host(&id, v1::HostState::Available)
        .await;
    assert!(host.instances_on_disk().expect("read").is_empty());
    invariants::assert_hold(&deployment.database().await).await;
}

/// The stretches of an instance's time that count, oldest first.
async fn availability(tenant: &Tenant, lease: &str) -> Vec<v1::Availability> {
    let request = v1::ExplainLeaseRequest {
        lease: lease.to_owned(),
        ..Default::default()
    };
    let explained = tenant.client.leases().explain_lease(request).await;
    explained.expect("explained").into_inner().availability
}
