//! Windows: now, later, over.

use std::time::{Duration, SystemTime};

use freehold_proto::v1;
use freehold_tests::{client::open_ended, deployment::Deployment, invariants};
use prost_types::Timestamp;
use tonic::Code;

fn after(seconds: u64) -> Option<Timestamp> {
    Some(Timestamp::from(
        SystemTime::now() + Duration::from_secs(seconds),
    ))
}

fn window(start_in_s: u64, hours: i32) -> v1::CreateLeaseRequest {
    v1::CreateLeaseRequest {
        start_time: after(start_in_s),
        hours: Some(hours),
        ..open_ended()
    }
}

#[tokio::test]
async fn a_future_window_is_scheduled_and_comes_up_by_itself() {
    let deployment = Deployment::start().await;
    let _host = deployment.host("gpu-1").await;
    let tenant = deployment.tenant("vision").await;
    let lease = tenant.client.create(window(6, 1)).await.expect("a lease");
    assert_eq!(lease.state(), v1::LeaseState::Scheduled, "{lease:?}");
    let lease = tenant.client.wait_until_active(&lease.id).await;
    tenant.client.end(&lease.id).await.expect("ending");
    tenant.client.wait_until_settled(&lease.id).await;
    let usage = tenant.client.usage(&lease.id).await;
    let start = lease.start_time.expect("a start");
    for record in &usage {
        let began = record.period_start.expect("a start");
        assert!(
            began.seconds >= start.seconds,
            "nothing before the window: {record:?}"
        );
    }
    invariants::assert_hold(&deployment.database().await).await;
}

#[tokio::test]
async fn a_host_that_is_booked_for_later_is_leased_until_then_and_not_longer() {
    let deployment = Deployment::start().await;
    let _host = deployment.host("gpu-1").await;
    let tenant = deployment.tenant("vision").await;
    let later = tenant.client.create(window(2 * 3600, 1)).await;
    let later = later.expect("a lease");
    for overlapping in [open_ended(), window(3600, 2), window(2 * 3600, 1)] {
        let refused = tenant.client.create(overlapping).await;
        let refused = refused.expect_err("the host is booked then");
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        assert!(
            refused.message().contains("--start"),
            "says what to do: {refused:?}"
        );
    }
    let now = v1::CreateLeaseRequest {
        hours: Some(1),
        ..open_ended()
    };
    let now = tenant.client.create(now).await.expect("free until then");
    tenant.client.wait_until_active(&now.id).await;
    tenant.client.end(&now.id).await.expect("ending");
    tenant.client.wait_until_settled(&now.id).await;

    let ended = tenant.client.end(&later.id).await.expect("ended");
    assert_eq!(ended.state(), v1::LeaseState::Ended, "nothing ran of it");
    tenant.client.wait_until_settled(&later.id).await;
    assert!(tenant.client.usage(&later.id).await.is_empty());
    tenant.client.active_lease().await;
    invariants::assert_hold(&deployment.database().await).await;
}

/// The window is moved into the past behind the control plane's back: whole hours are too long for a test.
#[tokio::test]
async fn a_window_that_is_over_ends_its_lease() {
    let deployment = Deployment::start().await;
    let host = deployment.host("gpu-1").await;
    let tenant = deployment.tenant("vision").await;
    let lease = v1::CreateLeaseRequest {
        hours: Some(1),
        ..open_ended()
    };
    let lease = tenant.client.create(lease).await.expect("a lease");
    let lease = tenant.client.wait_until_active(&lease.id).await;
    let database = deployment.database().await;
    let moved = sqlx::query(
        "update lease set lease_window = tstzrange(lower(lease_window), clock_timestamp()) where id = $1",
    )
    .bind(lease.id.parse::<freehold_proto::id::LeaseId>().expect("an id").uuid())
    .execute(&database)
    .await
    .expect("moved");
    assert_eq!(moved.rows_affected(), 1);
    let settled = tenant.client.wait_until_settled(&lease.id).await;
    assert_eq!(settled.state(), v1::LeaseState::Ended, "{settled:?}");
    assert!(host.instances_on_disk().expect("read").is_empty());
    invariants::assert_hold(&database).await;
}
