//! Leases of more than one instance.

use std::collections::BTreeSet;

use freehold_proto::v1;
use freehold_tests::{client::open_ended, deployment::Deployment, invariants};
use tonic::Code;

fn of(count: i32) -> v1::CreateLeaseRequest {
    v1::CreateLeaseRequest {
        count: Some(count),
        ..open_ended()
    }
}

#[tokio::test]
async fn several_instances_are_in_one_sector_and_each_has_a_host_and_a_door_of_its_own() {
    let deployment = Deployment::start().await;
    let hosts = [
        deployment.host("gpu-1").await,
        deployment.host("gpu-2").await,
    ];
    let _elsewhere = deployment.host_in("gpu-3", "sector-2").await;
    let tenant = deployment.tenant("vision").await;

    let refused = tenant.client.create(of(3)).await.expect_err("two sectors");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    let none: i64 = sqlx::query_scalar("select count(*) from occupancy where kind = 'lease'")
        .fetch_one(&deployment.database().await)
        .await
        .expect("counted");
    assert_eq!(none, 0, "nothing is half-reserved");

    let lease = tenant.client.create(of(2)).await.expect("two in a sector");
    let lease = tenant.client.wait_until_active(&lease.id).await;
    let expected: BTreeSet<String> = hosts.iter().map(|host| host.host_id.to_string()).collect();
    let placed = lease.instances.iter().map(|one| one.host_id.clone());
    assert_eq!(placed.collect::<BTreeSet<_>>(), expected);
    let cli = deployment.cli(&tenant.token);
    for instance in &lease.instances {
        let target = format!("{}.{}", lease.id, instance.ordinal);
        let said = cli.run(&["ssh", &target, "--", "cat gpus"]).await;
        let seen: Vec<&str> = said.stdout.lines().collect();
        assert_eq!(seen, instance.gpu_uuids, "{}", said.stderr);
    }
    tenant.client.end(&lease.id).await.expect("ending");
    tenant.client.wait_until_settled(&lease.id).await;
    invariants::assert_hold(&deployment.database().await).await;
}

#[tokio::test]
async fn when_one_node_of_a_cluster_fails_the_whole_gangs_meter_pauses() {
    let deployment = Deployment::start().await;
    let hosts = [
        deployment.host("gpu-1").await,
        deployment.host("gpu-2").await,
    ];
    let tenant = deployment.tenant("vision").await;
    let lease = tenant.client.create(of(2)).await.expect("a lease");
    tenant.client.wait_until_active(&lease.id).await;
    hosts[0].gpus.lose(3);
    let is_impaired = |lease: &v1::Lease| lease.state() == v1::LeaseState::Impaired;
    let what = "the lease is impaired";
    tenant.client.wait_for(&lease.id, what, is_impaired).await;
    hosts[0].gpus.mend();
    tenant.client.wait_until_active(&lease.id).await;
    tenant.client.end(&lease.id).await.expect("ending");
    let lease = tenant.client.wait_until_settled(&lease.id).await;
    let usage = tenant.client.usage(&lease.id).await;
    let seconds = |instance: &v1::Instance| -> i64 {
        let of_it = usage.iter().filter(|one| one.instance_id == instance.id);
        of_it.map(|one| one.usable_seconds).sum()
    };
    let (first, second) = (seconds(&lease.instances[0]), seconds(&lease.instances[1]));
    assert!(
        (first - second).abs() <= 3,
        "both are metered for the same time: {first} s and {second} s of {usage:?}"
    );
    invariants::assert_hold(&deployment.database().await).await;
}
