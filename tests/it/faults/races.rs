//! Two control planes on one database.

use freehold_proto::v1;
use freehold_tests::{client::open_ended, deployment::Options, invariants};
use futures_util::future::join_all;
use tonic::Code;

use super::end_well;

#[tokio::test]
async fn of_many_who_race_for_the_last_host_through_two_replicas_exactly_one_wins() {
    let deployment = Options::default().replicas(2).start().await;
    let host = deployment.host("gpu-1").await;
    let tenant = deployment.tenant("vision").await;
    let clients = [0, 1].map(|replica| deployment.client_of(replica, &tenant.token));
    for round in 0..3 {
        let races = (0..32).map(|n| {
            let client = clients[n % 2].clone();
            tokio::spawn(async move { client.create(open_ended()).await })
        });
        let mut won = Vec::new();
        for answer in join_all(races).await {
            match answer.expect("no panic") {
                Ok(lease) => won.push(lease),
                Err(lost) => {
                    assert_eq!(lost.code(), Code::ResourceExhausted, "{lost:?}");
                    assert!(!lost.message().is_empty());
                }
            }
        }
        assert_eq!(won.len(), 1, "round {round}");
        invariants::assert_hold(&deployment.database().await).await;
        tenant.client.wait_until_active(&won[0].id).await;
        end_well(&deployment, &tenant, &host, &won[0].id).await;
    }
}

#[tokio::test]
async fn a_lease_survives_the_death_of_either_replica() {
    let mut deployment = Options::default().replicas(2).start().await;
    let host = deployment.host("gpu-1").await;
    let tenant = deployment.tenant("vision").await;
    let other = deployment.client_of(1, &tenant.token);
    let lease = tenant.client.active_lease().await;
    let sshd = host.sshd_pid(super::instance_of(&lease)).expect("it runs");
    deployment.replicas[0].kill().await;
    other.wait_until_active(&lease.id).await;
    tokio::time::sleep(freehold_tests::deployment::PAST_EVERY_TIMEOUT).await;
    let still = other.wait_until_active(&lease.id).await;
    assert_eq!(
        still.instances[0].reported_state(),
        v1::ReportedState::Running
    );
    assert_eq!(host.sshd_pid(super::instance_of(&lease)), Some(sshd));
    deployment.restart(0).await;
    deployment.replicas[1].kill().await;
    tenant.client.wait_until_active(&lease.id).await;
    assert_eq!(host.sshd_pid(super::instance_of(&lease)), Some(sshd));
    end_well(&deployment, &tenant, &host, &lease.id).await;
}
