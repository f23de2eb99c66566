//! kill -9 of PostgreSQL: the control plane that owns it starts it again, and goes on.

use freehold_tests::{
    client::open_ended,
    deployment::Options,
    wait::{self, until},
};
use tonic::Code;

use super::{end_well, instance_of};

#[tokio::test]
async fn killed_postgresql_comes_back_and_the_lease_was_not_touched() {
    let deployment = Options::default().managed_postgresql().start().await;
    let host = deployment.host("gpu-1").await;
    let tenant = deployment.tenant("vision").await;
    let lease = tenant.client.active_lease().await;
    let sshd = host.sshd_pid(instance_of(&lease)).expect("it runs");
    deployment.kill_postgresql().expect("it ran");
    until("calls work again", wait::SOON, || async {
        let answer = tenant.client.lease(&lease.id).await;
        answer.map(drop).map_err(|status| {
            let code = status.code();
            assert_ne!(code, Code::Internal, "it says to try again: {status:?}");
            status.to_string()
        })
    })
    .await;
    tenant.client.wait_until_active(&lease.id).await;
    assert_eq!(host.sshd_pid(instance_of(&lease)), Some(sshd));
    end_well(&deployment, &tenant, &host, &lease.id).await;
}

#[tokio::test]
async fn killed_postgresql_under_a_lease_that_comes_up_does_not_stop_it() {
    let deployment = Options::default().managed_postgresql().start().await;
    let host = deployment.host("gpu-1").await;
    let tenant = deployment.tenant("vision").await;
    let lease = tenant.client.create(open_ended()).await.expect("a lease");
    deployment.kill_postgresql().expect("it ran");
    tenant.client.wait_until_active(&lease.id).await;
    end_well(&deployment, &tenant, &host, &lease.id).await;
}
