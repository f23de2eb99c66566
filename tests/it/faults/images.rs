//! An image that is not there.

use std::time::{Duration, Instant};

use freehold_proto::v1;
use freehold_tests::{client::open_ended, deployment::Deployment};

use super::expect_free;

#[tokio::test]
async fn an_image_that_is_not_there_fails_the_lease_within_a_minute_and_frees_the_host() {
    let deployment = Deployment::start().await;
    let host = deployment.host("gpu-1").await;
    let tenant = deployment.tenant("vision").await;
    let image = "registry.invalid/none:1";
    host.faults
        .refuse_image(image, "no such host: registry.invalid");
    let request = v1::CreateLeaseRequest {
        image: image.to_owned(),
        ..open_ended()
    };
    let began = Instant::now();
    let lease = tenant.client.create(request).await.expect("a lease");
    let is_failed = |lease: &v1::Lease| lease.state() == v1::LeaseState::Failed;
    let what = "the lease has failed";
    let failed = tenant.client.wait_for(&lease.id, what, is_failed).await;
    assert!(began.elapsed() < Duration::from_secs(60));
    for word in [image, "no such host"] {
        assert!(
            failed.state_reason.contains(word),
            "{}",
            failed.state_reason
        );
    }
    tenant.client.wait_until_settled(&lease.id).await;
    assert!(tenant.client.usage(&lease.id).await.is_empty());
    expect_free(&deployment, &host).await;
}

#[tokio::test]
async fn create_wait_fails_with_the_reason_when_the_image_is_not_there() {
    let deployment = Deployment::start().await;
    let host = deployment.host("gpu-1").await;
    let tenant = deployment.tenant("vision").await;
    host.faults.refuse_image("none:1", "no such image");
    let cli = deployment.cli(&tenant.token);
    let kind = freehold_tests::client::TYPE;
    let words = [
        "lease", "create", "--type", kind, "--image", "none:1", "--wait",
    ];
    let printed = cli.run(&words).await;
    assert_eq!(printed.code, Some(1), "{}", printed.stderr);
    assert!(
        printed.stderr.contains("no such image"),
        "{}",
        printed.stderr
    );
    expect_free(&deployment, &host).await;
}
