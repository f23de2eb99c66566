//! Messages that are too large, broken, or from a later version.

use freehold_proto::v1;
use freehold_tests::{client::open_ended, deployment::Deployment};
use prost::Message as _;
use tonic::Code;

use crate::gate::raw::call;

const CREATE: &str = "/freehold.v1.LeaseService/CreateLease";

#[tokio::test]
async fn a_message_beyond_a_mebibyte_is_refused_and_the_server_serves_on() {
    let deployment = Deployment::start().await;
    let tenant = deployment.tenant("vision").await;
    for size in [(1 << 20) + 1, 6 << 20] {
        let request = v1::CreateLeaseRequest {
            name: "x".repeat(size),
            ..open_ended()
        };
        let refused = call(&tenant.client, CREATE, request.encode_to_vec()).await;
        let refused = refused.expect_err("too large");
        assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
        assert!(!refused.message().is_empty());
    }
    let many = v1::CreateLeaseRequest {
        ssh_public_keys: vec!["ssh-ed25519 AAAA".to_owned(); 10_000],
        ..open_ended()
    };
    let refused = tenant.client.create(many).await.expect_err("too many");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
}

#[tokio::test]
async fn broken_messages_are_refused_and_unknown_fields_are_not() {
    let deployment = Deployment::start().await;
    let tenant = deployment.tenant("vision").await;
    // Field 1, length 100, with nothing behind it; a field of type 7, which does not exist; text that is not UTF-8.
    for broken in [vec![0x0a, 100], vec![0x0f], vec![0x0a, 2, 0xff, 0xfe]] {
        let refused = call(&tenant.client, CREATE, broken).await;
        let refused = refused.expect_err("broken");
        // tonic answers what does not decode with INTERNAL; it is never a panic or a lost connection.
        let is_refusal = matches!(refused.code(), Code::Internal | Code::InvalidArgument);
        assert!(is_refusal && !refused.message().is_empty(), "{refused:?}");
    }
    let mut caller = v1::GetCallerRequest::default().encode_to_vec();
    // Field 1000, a number, as a later client may send it.
    prost::encoding::uint64::encode(1000, &7, &mut caller);
    let answer = call(
        &tenant.client,
        "/freehold.v1.AccessService/GetCaller",
        caller,
    );
    answer.await.expect("unknown fields are ignored");
    let mut create = v1::CreateLeaseRequest {
        instance_type: "none".to_owned(),
        ..Default::default()
    }
    .encode_to_vec();
    prost::encoding::string::encode(1001, &"later".to_owned(), &mut create);
    let refused = call(&tenant.client, CREATE, create).await;
    let refused = refused.expect_err("no such type");
    let is_read = refused.message().contains("instance_type");
    assert!(is_read, "the rest of the message counts: {refused:?}");
}
