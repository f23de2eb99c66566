//! Values that are out of range.

use std::time::{Duration, SystemTime};

use freehold_proto::v1::{self, CreateLeaseRequest};
use freehold_tests::{
    client::{Client, open_ended},
    deployment::Deployment,
};
use prost_types::Timestamp;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

const DAY_S: u64 = 24 * 3600;

fn starting(at: SystemTime) -> CreateLeaseRequest {
    CreateLeaseRequest {
        start_time: Some(Timestamp::from(at)),
        hours: Some(1),
        ..open_ended()
    }
}

/// A request and the field that its error must name.
fn bad_leases() -> Vec<(&'static str, CreateLeaseRequest)> {
    let now = SystemTime::now();
    let keys = vec!["ssh-rsa nonsense".to_owned()];
    let ages = Duration::from_secs(1000 * 365 * DAY_S);
    let not_a_time = Timestamp {
        seconds: i64::MAX,
        nanos: -1,
    };
    let with = |change: fn(&mut CreateLeaseRequest)| {
        let mut request = open_ended();
        change(&mut request);
        request
    };
    vec![
        ("start_time", starting(now - Duration::from_secs(3600))),
        ("start_time", starting(now + ages)),
        (
            "start_time",
            CreateLeaseRequest {
                start_time: Some(not_a_time),
                ..open_ended()
            },
        ),
        ("hours", with(|r| r.hours = Some(0))),
        ("hours", with(|r| r.hours = Some(-1))),
        ("hours", with(|r| r.hours = Some(1000 * 366 * 24))),
        ("hours", with(|r| r.hours = Some(i32::MAX))),
        ("count", with(|r| r.count = Some(0))),
        ("count", with(|r| r.count = Some(-3))),
        ("count", with(|r| r.count = Some(i32::MAX))),
        ("instance_type", with(|r| r.instance_type.clear())),
        ("name", with(|r| r.name = "Not A Name".to_owned())),
        ("name", with(|r| r.name = "x".repeat(64))),
        ("image", with(|r| r.image = "no spaces allowed".to_owned())),
        ("image", with(|r| r.image = "--privileged".to_owned())),
        (
            "ssh_public_keys[0]",
            CreateLeaseRequest {
                ssh_public_keys: keys,
                ..open_ended()
            },
        ),
        ("request_id", with(|r| r.request_id = "x".repeat(129))),
        (
            "request_id",
            with(|r| r.request_id = "two words".to_owned()),
        ),
        (
            "labels[Upper]",
            with(|r| r.labels = [("Upper".to_owned(), String::new())].into()),
        ),
    ]
}

fn assert_names(status: &Status, field: &str) {
    assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status:?}");
    assert!(status.message().contains(field), "{field}: {status:?}");
    let details = status.get_error_details();
    let violations = details.bad_request().expect("violations");
    let named = violations
        .field_violations
        .iter()
        .find(|one| one.field == field);
    let described = named.is_some_and(|one| !one.description.is_empty());
    assert!(described, "{field}: {violations:?}");
    let info = details.error_info().expect("a reason");
    assert_eq!(info.reason, "INVALID_FIELD", "{field}");
    assert!(info.metadata.contains_key("call_id"), "{field}");
}

async fn leases(client: &Client) -> usize {
    let mut service = client.leases();
    let listed = service.list_leases(v1::ListLeasesRequest::default()).await;
    listed.expect("listed").into_inner().leases.len()
}

#[tokio::test]
async fn a_lease_with_a_bad_field_is_refused_and_the_field_is_named() {
    let deployment = Deployment::start().await;
    let _host = deployment.host("gpu-1").await;
    let tenant = deployment.tenant("vision").await;
    for (field, request) in bad_leases() {
        let status = tenant.client.create(request).await.expect_err(field);
        assert_names(&status, field);
    }
    assert_eq!(leases(&tenant.client).await, 0, "nothing was made");
}

#[tokio::test]
async fn more_than_there_is_is_refused_with_what_to_do() {
    let deployment = Deployment::start().await;
    let _host = deployment.host("gpu-1").await;
    let tenant = deployment.tenant("vision").await;
    let several = |count| CreateLeaseRequest {
        count: Some(count),
        ..open_ended()
    };
    for count in [2, 1024] {
        let refused = tenant.client.create(several(count)).await;
        let refused = refused.expect_err("there is one host");
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        assert!(refused.message().contains("try"), "{refused:?}");
        let info = refused.get_details_error_info().expect("a reason");
        assert_eq!(info.reason, "NO_CAPACITY");
    }
    let unknown = CreateLeaseRequest {
        instance_type: "gpu_9x_b300".to_owned(),
        ..open_ended()
    };
    let refused = tenant
        .client
        .create(unknown)
        .await
        .expect_err("no such type");
    assert_names(&refused, "instance_type");
    assert_eq!(leases(&tenant.client).await, 0, "nothing was made");
}

#[tokio::test]
async fn the_command_line_names_the_field_and_fails() {
    let deployment = Deployment::start().await;
    let tenant = deployment.tenant("vision").await;
    let cli = deployment.cli(&tenant.token);
    let kind = freehold_tests::client::TYPE;
    for (word, value, field) in [
        ("--count", "0", "count"),
        ("--hours", "0", "hours"),
        ("--start", "2001-01-01T00:00:00Z", "start"),
        ("--start", "3001-01-01T00:00:00Z", "start"),
    ] {
        let printed = cli
            .run(&["lease", "create", "--type", kind, word, value])
            .await;
        assert!(matches!(printed.code, Some(1 | 2)), "{printed:?}");
        assert!(printed.stderr.contains(field), "{printed:?}");
        assert!(printed.stdout.is_empty(), "{printed:?}");
    }
}
