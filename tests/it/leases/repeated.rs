//! Requests that are sent again.

use freehold_proto::v1;
use freehold_tests::{client::open_ended, deployment::Deployment, invariants};
use futures_util::future::join_all;
use tonic::Code;
use tonic_types::StatusExt as _;

fn with_id(request_id: &str) -> v1::CreateLeaseRequest {
    v1::CreateLeaseRequest {
        request_id: request_id.to_owned(),
        ..open_ended()
    }
}

#[tokio::test]
async fn a_create_that_is_repeated_makes_one_lease_however_often_and_wherever() {
    let deployment = freehold_tests::deployment::Options::default()
        .replicas(2)
        .start()
        .await;
    let _hosts = [
        deployment.host("gpu-1").await,
        deployment.host("gpu-2").await,
    ];
    let tenant = deployment.tenant("vision").await;
    let clients = [0, 1].map(|replica| deployment.client_of(replica, &tenant.token));
    let creates = (0..12).map(|n| clients[n % 2].create(with_id("again")));
    let leases = join_all(creates).await;
    let ids: std::collections::BTreeSet<String> = leases
        .into_iter()
        .map(|lease| lease.expect("the same lease").id)
        .collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    let listed = tenant
        .client
        .leases()
        .list_leases(v1::ListLeasesRequest::default())
        .await
        .expect("listed");
    assert_eq!(listed.into_inner().leases.len(), 1);
    invariants::assert_hold(&deployment.database().await).await;
}

#[tokio::test]
async fn a_request_id_with_another_body_is_an_error_that_says_so() {
    let deployment = Deployment::start().await;
    let _host = deployment.host("gpu-1").await;
    let tenant = deployment.tenant("vision").await;
    let first = tenant
        .client
        .create(with_id("mine"))
        .await
        .expect("a lease");
    let other = v1::CreateLeaseRequest {
        hours: Some(2),
        ..with_id("mine")
    };
    let refused = tenant.client.create(other).await.expect_err("another body");
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert!(refused.message().contains("request_id"), "{refused:?}");
    let info = refused.get_details_error_info().expect("a reason");
    assert_eq!(info.reason, "REQUEST_ID_REUSED");
    let stranger = deployment.tenant("speech").await;
    let theirs = stranger.client.create(with_id("mine")).await;
    let code = theirs.expect_err("the only host is taken").code();
    assert_eq!(
        code,
        Code::ResourceExhausted,
        "another tenant's ids are its own"
    );
    let again = tenant
        .client
        .create(with_id("mine"))
        .await
        .expect("the same");
    assert_eq!(again.id, first.id);
}
