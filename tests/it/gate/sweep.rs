//! Every RPC of both packages is refused to whoever may not call it, and none is forgotten.

use std::collections::BTreeSet;

use freehold_proto::{FILE_DESCRIPTOR_SET, v1::Role};
use freehold_tests::{
    client::Client,
    deployment::{Deployment, Tenant},
};
use prost::Message as _;
use tonic::Code;

use super::{
    calls::{CALLS, Who},
    raw::call,
};

const ROLES: [Role; 7] = [
    Role::Owner,
    Role::Admin,
    Role::Developer,
    Role::Billing,
    Role::Viewer,
    Role::Operator,
    Role::Auditor,
];

/// `/package.Service/Method` of every method of every service in the descriptors.
fn described() -> BTreeSet<String> {
    let set = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("descriptors");
    let mut paths = BTreeSet::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                paths.insert(path);
            }
        }
    }
    paths
}

async fn key_of(deployment: &Deployment, tenant: &Tenant, role: Role) -> Client {
    let organization = match role {
        Role::Operator | Role::Auditor => "operator",
        _ => &tenant.organization,
    };
    let token = deployment.key(organization, role).await;
    deployment.client_of(0, &token)
}

#[test]
fn every_rpc_is_in_the_sweeps_list() {
    let listed: BTreeSet<String> = CALLS.iter().map(|call| call.path.to_owned()).collect();
    let described = described();
    let missing: Vec<&String> = described.difference(&listed).collect();
    assert!(missing.is_empty(), "add to calls.rs: {missing:?}");
    let gone: Vec<&String> = listed.difference(&described).collect();
    assert!(gone.is_empty(), "remove from calls.rs: {gone:?}");
}

#[tokio::test]
async fn without_valid_credentials_nothing_but_health_and_reflection_answers() {
    let deployment = Deployment::start().await;
    let tenant = deployment.tenant("vision").await;
    let revoked = deployment.key(&tenant.organization, Role::Owner).await;
    let expired = deployment.key(&tenant.organization, Role::Owner).await;
    let database = deployment.database().await;
    for (column, key) in [("revoked_at", &revoked), ("expires_at", &expired)] {
        let statement = format!(
            "update api_key set {column} = now() - interval '1 second' where secret_hash = sha256($1)"
        );
        let changed = sqlx::query(sqlx::AssertSqlSafe(statement))
            .bind(key.as_bytes())
            .execute(&database)
            .await
            .expect("updated");
        assert_eq!(changed.rows_affected(), 1);
    }
    let unknown = format!("fhk_{}", "A".repeat(43));
    for token in ["", "nonsense", &unknown, &revoked, &expired] {
        let client = deployment.client_of(0, token);
        for one in CALLS {
            let status = call(&client, one.path, Vec::new())
                .await
                .expect_err(one.path);
            let expected = match one.who {
                Who::EnrollmentToken => {
                    matches!(status.code(), Code::Unauthenticated | Code::InvalidArgument)
                }
                Who::Roles(_) | Who::Agents => status.code() == Code::Unauthenticated,
            };
            assert!(expected, "{}: {status:?}", one.path);
            assert!(!status.message().is_empty(), "{}", one.path);
        }
        assert_public_ones_answer(&client).await;
    }
}

async fn assert_public_ones_answer(client: &Client) {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    let mut health = HealthClient::new(client.transport());
    let checked = health.check(HealthCheckRequest::default()).await;
    checked.expect("health answers anybody");
    let services = reflected(client).await;
    let described: BTreeSet<String> = described()
        .iter()
        .filter_map(|path| Some(path[1..].split_once('/')?.0.to_owned()))
        .collect();
    let unknown: Vec<&String> = services
        .iter()
        .filter(|service| !described.contains(*service) && !service.starts_with("grpc."))
        .collect();
    assert!(unknown.is_empty(), "served and not described: {unknown:?}");
    assert!(services.contains("freehold.v1.LeaseService"));
}

/// The services that reflection names, by both of its versions.
async fn reflected(client: &Client) -> BTreeSet<String> {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(client.transport());
    let answers = reflection
        .server_reflection_info(tokio_stream::once(request.clone()))
        .await;
    let mut answers = answers.expect("reflection answers anybody").into_inner();
    let answer = answers.message().await.expect("an answer").expect("one");
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}");
    };
    // The older version has the same messages under another package.
    super::raw::call(
        client,
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        request.encode_to_vec(),
    )
    .await
    .expect("the older version answers as well");
    list.service
        .into_iter()
        .map(|service| service.name)
        .collect()
}

#[tokio::test]
async fn every_role_may_call_what_the_table_says_and_nothing_else() {
    let deployment = Deployment::start().await;
    let tenant = deployment.tenant("vision").await;
    for role in ROLES {
        let client = key_of(&deployment, &tenant, role).await;
        for one in CALLS {
            let answer = call(&client, one.path, Vec::new()).await;
            let code = answer.as_ref().err().map(tonic::Status::code);
            match one.who {
                Who::Roles(roles) if roles.contains(&role) => {
                    let denied = [Code::PermissionDenied, Code::Unauthenticated];
                    let unserved = [Code::Unimplemented, Code::Internal, Code::Unknown];
                    assert!(
                        code.is_none_or(|code| !denied.contains(&code) && !unserved.contains(&code)),
                        "{role:?} {}: {answer:?}",
                        one.path
                    );
                }
                Who::EnrollmentToken => assert!(answer.is_err(), "{role:?} {}", one.path),
                Who::Roles(_) | Who::Agents => {
                    assert_eq!(code, Some(Code::PermissionDenied), "{role:?} {}", one.path);
                }
            }
        }
    }
}

/// The agent listener wants a client certificate of its own authority, whatever else one has.
#[tokio::test]
async fn keys_do_not_open_the_agent_listener() {
    let deployment = Deployment::start().await;
    let ca = std::fs::read(deployment.ca_file()).expect("the CA");
    let agents = format!("https://127.0.0.1:{}", deployment.replicas[0].agent_port());
    for token in ["", deployment.operator_token()] {
        let client = Client::new(&agents, &ca, token);
        for one in CALLS {
            let status = call(&client, one.path, Vec::new())
                .await
                .expect_err(one.path);
            // The connection fails before any call is made.
            let is_cut = std::error::Error::source(&status).is_some();
            assert!(is_cut, "{}: {status:?}", one.path);
        }
    }
}
