//! Access against a real PostgreSQL.

use chrono::{TimeDelta, Utc};
use freehold_proto::{
    id::{ApiKeyId, HostId, InstanceId, LeaseId},
    v1::{self, access_service_server::AccessService as _},
};
use russh::keys::{Certificate, PrivateKey, ssh_key::private::Ed25519Keypair};
use tonic::{Code, Request, Status};
use uuid::Uuid;

use super::{ca, rpc::AccessRpc};
use crate::{
    app::App,
    gate::{Caller, Role, secret_hash},
    testing,
};

mod certificates;
mod keys;

pub(super) fn request<T>(caller: &Caller, body: T) -> Request<T> {
    let mut request = Request::new(body);
    request.extensions_mut().insert(caller.clone());
    request
}

fn public_key() -> String {
    PrivateKey::from(Ed25519Keypair::from_seed(&[3; 32]))
        .public_key()
        .to_openssh()
        .unwrap()
}

/// A lease of one instance, which is placed on a host, for an hour from now.
pub(super) struct Leased {
    pub(super) lease: LeaseId,
    pub(super) instance: InstanceId,
    pub(super) host: HostId,
}

pub(super) async fn lease(app: &App, tenant: &Caller, name: &str) -> Leased {
    let host = testing::host(app, "s").await;
    let (lease, instance) = (LeaseId::new(), InstanceId::new());
    sqlx::query(
        "insert into lease (id, organization_id, project_id, name, instance_type_id, count, image, state, lease_window, created_by)
         values ($1, $2, (select id from project where organization_id = $2), $3, (select id from instance_type limit 1), 1, 'i', 'active',
             tstzrange(now() - interval '1 hour', now() + interval '1 hour'), $4)",
    )
    .bind(lease.uuid())
    .bind(tenant.organization.uuid())
    .bind(name)
    .bind(tenant.principal.uuid())
    .execute(&app.pool)
    .await
    .unwrap();
    sqlx::query("insert into instance (id, lease_id, ordinal, recorded, host_id) values ($1, $2, 0, 'usable', $3)")
        .bind(instance.uuid())
        .bind(lease.uuid())
        .bind(host.uuid())
        .execute(&app.pool)
        .await
        .unwrap();
    Leased {
        lease,
        instance,
        host,
    }
}
