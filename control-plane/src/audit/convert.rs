//! Between the audit log's own types and the protocol's.

use std::collections::BTreeMap;

use freehold_proto::{
    id::{AuditId, OrganizationId, PrincipalId},
    v1,
};

use super::store::AuditRow;
use crate::page::timestamp;

impl From<AuditRow> for v1::AuditEntry {
    fn from(row: AuditRow) -> Self {
        let id = |id: Option<String>| id.unwrap_or_default();
        Self {
            id: AuditId::from(row.id).to_string(),
            time: Some(timestamp(row.at)),
            principal_id: id(row.principal_id.map(|id| PrincipalId::from(id).to_string())),
            organization_id: id(row
                .organization_id
                .map(|id| OrganizationId::from(id).to_string())),
            action: row.action,
            target_id: row.target_id,
            call_id: row.call_id,
            details: serde_json::from_value::<BTreeMap<String, String>>(row.details)
                .unwrap_or_default(),
        }
    }
}
