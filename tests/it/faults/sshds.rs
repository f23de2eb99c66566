//! sshds that do not answer.

use freehold_proto::v1;
use freehold_tests::{client::open_ended, deployment::Deployment};

use super::{availability, end_well, expect_free, instance_of};

#[tokio::test]
async fn an_instance_whose_sshd_never_answers_fails_its_lease_unbilled() {
    let deployment = Deployment::start().await;
    let host = deployment.host("gpu-1").await;
    let tenant = deployment.tenant("vision").await;
    host.faults.silence_sshd(true);
    let lease = tenant.client.create(open_ended()).await.expect("a lease");
    let is_failed = |lease: &v1::Lease| lease.state() == v1::LeaseState::Failed;
    let what = "the lease has failed";
    let failed = tenant.client.wait_for(&lease.id, what, is_failed).await;
    assert!(failed.state_reason.contains("sshd"), "{failed:?}");
    assert!(failed.instances[0].usable_time.is_none());
    tenant.client.wait_until_settled(&lease.id).await;
    assert!(tenant.client.usage(&lease.id).await.is_empty());
    host.faults.silence_sshd(false);
    expect_free(&deployment, &host).await;
    let next = tenant.client.active_lease().await;
    end_well(&deployment, &tenant, &host, &next.id).await;
}

/// Stopping one's own sshd is no reason to be billed less; the platform brings the instance up again.
#[tokio::test]
async fn an_sshd_that_its_tenant_stops_is_the_tenants_fault() {
    let deployment = Deployment::start().await;
    let host = deployment.host("gpu-1").await;
    let tenant = deployment.tenant("vision").await;
    let lease = tenant.client.active_lease().await;
    host.kill_sshd(instance_of(&lease));
    let id = lease.id.as_str();
    freehold_tests::wait::until("the stop was seen", freehold_tests::wait::SOON, || async {
        let stretches = availability(&tenant, id).await;
        let is_own = |one: &v1::Availability| one.fault_party() == v1::FaultParty::Tenant;
        if stretches.iter().any(is_own) {
            Ok(())
        } else {
            Err(format!("{stretches:?}"))
        }
    })
    .await;
    tenant.client.wait_until_active(id).await;
    end_well(&deployment, &tenant, &host, id).await;
}
