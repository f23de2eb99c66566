//! Between organizations' own types and the protocol's.

use freehold_proto::{
    id::{OrganizationId, ProjectId},
    v1,
};

use super::store::{OrganizationRow, ProjectRow};
use crate::page::timestamp;

impl From<OrganizationRow> for v1::Organization {
    fn from(row: OrganizationRow) -> Self {
        Self {
            id: OrganizationId::from(row.id).to_string(),
            name: row.name,
            create_time: Some(timestamp(row.created_at)),
        }
    }
}

impl From<ProjectRow> for v1::Project {
    fn from(row: ProjectRow) -> Self {
        Self {
            id: ProjectId::from(row.id).to_string(),
            name: row.name,
            organization_id: OrganizationId::from(row.organization_id).to_string(),
            organization: row.organization,
            create_time: Some(timestamp(row.created_at)),
        }
    }
}
