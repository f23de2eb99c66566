//! Scrubs that fail: the host is quarantined with the reason, and nobody gets it until the operator releases it.

use freehold_proto::v1;
use freehold_tests::{client::open_ended, deployment::Deployment, invariants};

#[tokio::test]
async fn a_scrub_step_that_fails_quarantines_the_host_and_says_so_to_who_waits() {
    let deployment = Deployment::start().await;
    let host = deployment.host("gpu-1").await;
    let tenant = deployment.tenant("vision").await;
    let lease = tenant.client.active_lease().await;
    host.faults
        .fail_scrub_step("scratch_removed", "the scratch is still mounted");
    let cli = deployment.cli(&tenant.token);
    let printed = cli.run(&["lease", "end", &lease.id, "--wait"]).await;
    assert_eq!(printed.code, Some(1), "{}", printed.stderr);
    assert!(printed.stderr.contains("scrub"), "{}", printed.stderr);
    let quarantined = deployment
        .wait_for_host("gpu-1", v1::HostState::Quarantined)
        .await;
    let reason = &quarantined.state_reason;
    assert!(reason.contains("scratch_removed"), "{reason}");
    let settled = tenant.client.wait_until_settled(&lease.id).await;
    let scrub = settled.instances[0].scrub.as_ref().expect("a record");
    assert_eq!(scrub.result(), v1::StepResult::Failed);
    let refused = tenant.client.create(open_ended()).await;
    refused.expect_err("a quarantined host is not leased");

    host.faults.mend_scrub();
    let operator = deployment.cli(deployment.operator_token());
    operator.json(&["host", "release", "gpu-1"]).await;
    deployment
        .wait_for_host("gpu-1", v1::HostState::Available)
        .await;
    let entries = operator.json(&["audit", "list"]).await;
    let entries = entries["audit_entries"].as_array().expect("a list");
    let is_release = |entry: &serde_json::Value| entry["action"] == "host.release";
    assert!(entries.iter().any(is_release), "the release is recorded");
    invariants::assert_hold(&deployment.database().await).await;
}
