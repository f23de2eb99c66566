//! API keys.

use super::*;

async fn create(
    app: &App,
    caller: &Caller,
    body: v1::CreateApiKeyRequest,
) -> Result<v1::ApiKey, Status> {
    let rpc = AccessRpc::new(app.clone());
    Ok(rpc
        .create_api_key(request(caller, body))
        .await?
        .into_inner())
}

async fn revoke(app: &App, caller: &Caller, key: &str) -> Result<v1::ApiKey, Status> {
    let body = v1::RevokeApiKeyRequest {
        api_key: key.to_owned(),
    };
    let rpc = AccessRpc::new(app.clone());
    Ok(rpc
        .revoke_api_key(request(caller, body))
        .await?
        .into_inner())
}

async fn list(app: &App, caller: &Caller, organization: &str) -> Result<Vec<v1::ApiKey>, Status> {
    let body = v1::ListApiKeysRequest {
        organization: organization.to_owned(),
        ..Default::default()
    };
    let rpc = AccessRpc::new(app.clone());
    let list = rpc.list_api_keys(request(caller, body)).await?;
    Ok(list.into_inner().api_keys)
}

fn of_role(role: v1::Role) -> v1::CreateApiKeyRequest {
    v1::CreateApiKeyRequest {
        role: role.into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_secret_is_shown_once_and_only_its_hash_is_stored() {
    let app = testing::app().await;
    let owner = testing::tenant(&app, "lab").await;
    let key = create(&app, &owner, v1::CreateApiKeyRequest::default())
        .await
        .unwrap();
    assert!(key.secret.starts_with("fhk_"));
    assert_eq!(key.role(), v1::Role::Developer);
    assert_eq!(key.organization, "lab");
    let id: ApiKeyId = key.id.parse().unwrap();
    let stored: Vec<u8> = sqlx::query_scalar("select secret_hash from api_key where id = $1")
        .bind(id.uuid())
        .fetch_one(&app.pool)
        .await
        .unwrap();
    assert_eq!(stored, secret_hash(&key.secret));
    let listed = list(&app, &owner, "").await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].secret, "");
    let audited: i64 = sqlx::query_scalar(
        "select count(*) from audit_entry where action = 'key.create' and target_id = $1",
    )
    .bind(&key.id)
    .fetch_one(&app.pool)
    .await
    .unwrap();
    assert_eq!(audited, 1);
}

#[tokio::test]
async fn the_same_request_returns_the_same_key_and_secret_and_another_body_is_refused() {
    let app = testing::app().await;
    let owner = testing::tenant(&app, "lab").await;
    let body = v1::CreateApiKeyRequest {
        request_id: "once".to_owned(),
        ..Default::default()
    };
    let first = create(&app, &owner, body.clone()).await.unwrap();
    let second = create(&app, &owner, body.clone()).await.unwrap();
    assert_eq!(first, second);
    assert_eq!(list(&app, &owner, "").await.unwrap().len(), 1);
    let other = v1::CreateApiKeyRequest {
        name: "other".to_owned(),
        ..body
    };
    let refused = create(&app, &owner, other).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
}

#[tokio::test]
async fn nobody_hands_out_more_than_it_has() {
    let app = testing::app().await;
    let owner = testing::tenant(&app, "lab").await;
    let admin = Caller {
        role: Role::Admin,
        ..owner.clone()
    };
    for (caller, role) in [
        (&owner, v1::Role::Operator),
        (&owner, v1::Role::Auditor),
        (&admin, v1::Role::Owner),
    ] {
        let refused = create(&app, caller, of_role(role)).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
    }
    let key = create(&app, &owner, of_role(v1::Role::Owner))
        .await
        .unwrap();
    let refused = revoke(&app, &admin, &key.id).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn keys_of_the_operators_roles_stay_in_its_organization() {
    let app = testing::app().await;
    let operator = testing::operator(&app).await;
    testing::tenant(&app, "lab").await;
    let within = |organization: &str, role| v1::CreateApiKeyRequest {
        organization: organization.to_owned(),
        ..of_role(role)
    };
    let refused = create(&app, &operator, within("lab", v1::Role::Operator))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    create(&app, &operator, within("", v1::Role::Auditor))
        .await
        .unwrap();
    let key = create(&app, &operator, within("lab", v1::Role::Owner))
        .await
        .unwrap();
    assert_eq!(key.organization, "lab");
}

#[tokio::test]
async fn revoking_again_changes_nothing() {
    let app = testing::app().await;
    let owner = testing::tenant(&app, "lab").await;
    let key = create(&app, &owner, v1::CreateApiKeyRequest::default())
        .await
        .unwrap();
    let first = revoke(&app, &owner, &key.id).await.unwrap();
    assert!(first.revoke_time.is_some());
    assert_eq!(revoke(&app, &owner, &key.id).await.unwrap(), first);
}

#[tokio::test]
async fn another_tenants_key_does_not_exist() {
    let app = testing::app().await;
    let owner = testing::tenant(&app, "lab").await;
    let stranger = testing::tenant(&app, "rival").await;
    let key = create(&app, &owner, v1::CreateApiKeyRequest::default())
        .await
        .unwrap();
    let foreign = revoke(&app, &stranger, &key.id).await.unwrap_err();
    let unknown = ApiKeyId::new().to_string();
    let missing = revoke(&app, &stranger, &unknown).await.unwrap_err();
    assert_eq!(foreign.code(), Code::NotFound);
    assert_eq!(
        foreign.message().replace(&key.id, ""),
        missing.message().replace(&unknown, "")
    );
    assert_eq!(
        list(&app, &stranger, "lab").await.unwrap_err().code(),
        Code::NotFound
    );
    assert!(list(&app, &stranger, "").await.unwrap().is_empty());
    let operator = testing::operator(&app).await;
    assert_eq!(list(&app, &operator, "lab").await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_key_that_is_bound_to_a_project_makes_keys_of_that_project() {
    let app = testing::app().await;
    let owner = testing::tenant(&app, "lab").await;
    let project: Uuid = sqlx::query_scalar("select id from project where organization_id = $1")
        .bind(owner.organization.uuid())
        .fetch_one(&app.pool)
        .await
        .unwrap();
    let bound = Caller {
        project: Some(project.into()),
        ..owner
    };
    let key = create(&app, &bound, v1::CreateApiKeyRequest::default())
        .await
        .unwrap();
    assert_eq!(key.project, "default");
}

#[tokio::test]
async fn lifetimes_names_and_ids_out_of_range_name_their_field() {
    let app = testing::app().await;
    let owner = testing::tenant(&app, "lab").await;
    let default = v1::CreateApiKeyRequest::default;
    for (field, body) in [
        (
            "ttl_seconds",
            v1::CreateApiKeyRequest {
                ttl_seconds: 59,
                ..default()
            },
        ),
        (
            "name",
            v1::CreateApiKeyRequest {
                name: "x".repeat(64),
                ..default()
            },
        ),
        (
            "role",
            v1::CreateApiKeyRequest {
                role: 99,
                ..default()
            },
        ),
        (
            "request_id",
            v1::CreateApiKeyRequest {
                request_id: "a b".to_owned(),
                ..default()
            },
        ),
    ] {
        let refused = create(&app, &owner, body).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(
            refused.message().starts_with(field),
            "{}",
            refused.message()
        );
    }
    let refused = revoke(&app, &owner, "lease_1").await.unwrap_err();
    assert!(refused.message().starts_with("api_key"));
}

#[tokio::test]
async fn the_caller_learns_who_it_is() {
    let app = testing::app().await;
    let owner = testing::tenant(&app, "lab").await;
    let rpc = AccessRpc::new(app.clone());
    let caller = rpc
        .get_caller(request(&owner, v1::GetCallerRequest {}))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(caller.organization, "lab");
    assert_eq!(caller.role(), v1::Role::Owner);
    assert_eq!(caller.principal_id, owner.principal.to_string());
}
