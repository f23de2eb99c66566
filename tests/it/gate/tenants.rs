//! Another tenant's things do not exist: the same error as for what never existed.

use freehold_proto::{
    id::{ApiKeyId, HostId, LeaseId, OrganizationId, ProjectId},
    v1,
};
use freehold_tests::{
    client::open_ended,
    deployment::{Deployment, Tenant},
};
use tonic::{Code, Status};

use super::{
    calls::{CALLS, Ids},
    raw::call,
};

async fn ids_of(tenant: &Tenant, host: &str) -> Ids {
    let lease = tenant.client.create(open_ended()).await.expect("a lease");
    let keys = tenant
        .client
        .access()
        .list_api_keys(v1::ListApiKeysRequest::default())
        .await
        .expect("keys")
        .into_inner();
    Ids {
        organization: tenant.organization.clone(),
        project: lease.project_id,
        lease: lease.id,
        key: keys.api_keys[0].id.clone(),
        host: host.to_owned(),
    }
}

fn never_existed() -> Ids {
    Ids {
        organization: OrganizationId::new().to_string(),
        project: ProjectId::new().to_string(),
        lease: LeaseId::new().to_string(),
        key: ApiKeyId::new().to_string(),
        host: HostId::new().to_string(),
    }
}

/// A status without the ids in it.
fn shape(status: &Status, ids: &Ids) -> (Code, String) {
    let mut message = status.message().to_owned();
    for id in [
        &ids.organization,
        &ids.project,
        &ids.lease,
        &ids.key,
        &ids.host,
    ] {
        message = message.replace(id.as_str(), "ID");
    }
    (status.code(), message)
}

#[tokio::test]
async fn another_tenants_ids_are_as_unknown_as_ids_that_never_were() {
    let deployment = Deployment::start().await;
    let host = deployment.host("gpu-1").await;
    let owner = deployment.tenant("vision").await;
    let stranger = deployment.tenant("speech").await;
    let ids = ids_of(&owner, &host.host_id.to_string()).await;
    let never = never_existed();
    for one in CALLS {
        for (existing, absent) in (one.reaching)(&ids).into_iter().zip((one.reaching)(&never)) {
            let found = call(&stranger.client, one.path, existing).await;
            let found = found.expect_err(one.path);
            let missing = call(&stranger.client, one.path, absent).await;
            let missing = missing.expect_err(one.path);
            assert_eq!(found.code(), Code::NotFound, "{}: {found:?}", one.path);
            assert_eq!(shape(&found, &ids), shape(&missing, &never), "{}", one.path);
        }
    }
    let lease = owner.client.lease(&ids.lease).await.expect("it is there");
    assert!(lease.end_request_time.is_none(), "nobody ended it");
    let mut keys = owner.client.access();
    let listed = keys.list_api_keys(v1::ListApiKeysRequest::default()).await;
    let listed = listed.expect("keys").into_inner().api_keys;
    assert!(listed.iter().all(|key| key.revoke_time.is_none()));
    assert_eq!(listed.len(), 1, "the stranger made none");
}

#[tokio::test]
async fn lists_hold_nothing_of_another_tenant() {
    let deployment = Deployment::start().await;
    let host = deployment.host("gpu-1").await;
    let owner = deployment.tenant("vision").await;
    let stranger = deployment.tenant("speech").await;
    let ids = ids_of(&owner, &host.host_id.to_string()).await;
    for path in [
        "/freehold.v1.LeaseService/ListLeases",
        "/freehold.v1.AccessService/ListApiKeys",
        "/freehold.v1.AuditService/ListAuditEntries",
        "/freehold.v1.BillingService/GetReport",
        "/freehold.v1.BillingService/ListUsageRecords",
        "/freehold.v1.OrganizationService/ListOrganizations",
        "/freehold.v1.OrganizationService/ListProjects",
    ] {
        let answer = call(&stranger.client, path, Vec::new()).await.expect(path);
        let text = String::from_utf8_lossy(&answer);
        for id in [
            &ids.organization,
            &ids.project,
            &ids.lease,
            &ids.key,
            &ids.host,
        ] {
            assert!(!text.contains(id.as_str()), "{path} shows {id}");
        }
    }
}
