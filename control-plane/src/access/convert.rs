//! Between access's own types and the protocol's.

use freehold_proto::{
    id::{ApiKeyId, OrganizationId, ProjectId},
    time::timestamp_from_micros,
    v1,
};

use super::{
    service::{Gateway, Signed},
    store::KeyRow,
};
use crate::{
    error::{self, Error},
    gate::Role,
    page::timestamp,
};

pub(super) fn parse_role(role: i32) -> error::Result<Role> {
    match v1::Role::try_from(role) {
        Ok(v1::Role::Unspecified) => Ok(Role::Developer),
        Ok(wanted) => Role::ALL
            .into_iter()
            .find(|role| v1::Role::from(*role) == wanted)
            .ok_or_else(|| Error::internal(anyhow::anyhow!("a role without a counterpart"))),
        Err(_) => Err(Error::field(
            "role",
            format!("{role} is not a role; leave it unset for `developer`"),
        )),
    }
}

pub(super) fn api_key(row: KeyRow) -> error::Result<v1::ApiKey> {
    Ok(v1::ApiKey {
        role: v1::Role::from(row.role()?).into(),
        id: ApiKeyId::from(row.id).to_string(),
        name: row.name,
        organization_id: OrganizationId::from(row.organization_id).to_string(),
        organization: row.organization,
        project_id: row
            .project_id
            .map(|id| ProjectId::from(id).to_string())
            .unwrap_or_default(),
        project: row.project.unwrap_or_default(),
        create_time: Some(timestamp(row.created_at)),
        expire_time: Some(timestamp(row.expires_at)),
        revoke_time: row.revoked_at.map(timestamp),
        last_use_time: row.last_used_at.map(timestamp),
        secret: String::new(),
    })
}

impl From<Signed> for v1::SshCertificate {
    fn from(signed: Signed) -> Self {
        // Signed from instants of this millennium: they fit.
        let time = |seconds: u64| {
            let micros = i64::try_from(seconds)
                .unwrap_or(0)
                .saturating_mul(1_000_000);
            Some(timestamp_from_micros(micros))
        };
        Self {
            certificate: signed.line,
            serial: signed.serial.to_string(),
            lease_id: signed.lease.to_string(),
            valid_after: time(signed.valid_after),
            valid_before: time(signed.valid_before),
            gateway: Some(signed.gateway.into()),
        }
    }
}

impl From<Gateway> for v1::SshGateway {
    fn from(gateway: Gateway) -> Self {
        Self {
            host: gateway.address.host,
            port: gateway.address.port.into(),
            known_hosts: gateway.known_hosts,
        }
    }
}
