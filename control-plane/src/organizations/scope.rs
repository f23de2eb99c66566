//! Which organization and project a call is about.
//!
//! Invariant: another tenant's objects do not exist. A caller that names a foreign organization or project gets the answer that it would get for
//! one that was never made.

use freehold_proto::id::{OrganizationId, ProjectId};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    error::{Error, Result},
    gate::Caller,
};

/// What a list or a look-up is limited to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    /// `None`: every organization (operator and auditor only).
    pub organization: Option<OrganizationId>,
    /// `None`: every project of the organization.
    pub project: Option<ProjectId>,
}

impl Scope {
    /// The organization as the database takes it.
    #[must_use]
    pub fn organization_uuid(&self) -> Option<Uuid> {
        self.organization.map(OrganizationId::uuid)
    }

    /// The project as the database takes it.
    #[must_use]
    pub fn project_uuid(&self) -> Option<Uuid> {
        self.project.map(ProjectId::uuid)
    }
}

/// What a caller may see, narrowed to the organization and project that the request names (id or name; empty: not narrowed).
///
/// # Errors
/// `NotFound` for what does not exist or is another tenant's.
pub async fn visible(
    connection: &mut PgConnection,
    caller: &Caller,
    organization: &str,
    project: &str,
) -> Result<Scope> {
    let organization = if organization.is_empty() && caller.sees_all() && project.is_empty() {
        None
    } else {
        Some(organization_of(connection, caller, organization).await?)
    };
    let project = match (organization, project) {
        (_, "") => caller.project,
        (Some(organization), project) => {
            Some(find_project(connection, caller, organization, project).await?)
        }
        (None, _) => None,
    };
    Ok(Scope {
        organization,
        project,
    })
}

/// The organization a change is made in: the named one (id or name), else the caller's.
///
/// # Errors
/// `NotFound` for what does not exist or is another tenant's.
pub async fn organization_of(
    connection: &mut PgConnection,
    caller: &Caller,
    organization: &str,
) -> Result<OrganizationId> {
    if organization.is_empty() {
        return Ok(caller.organization);
    }
    let id = organization
        .parse::<OrganizationId>()
        .ok()
        .map(OrganizationId::uuid);
    let found = sqlx::query_scalar!(
        "select id from organization where id = $1 or name = $2",
        id,
        organization
    )
    .fetch_optional(connection)
    .await?
    .map(OrganizationId::from);
    found
        .filter(|found| caller.sees_all() || *found == caller.organization)
        .ok_or_else(|| Error::not_found("organization", organization))
}

/// The organization and project a resource is made in: the named ones, else the caller's, else the project `default`.
///
/// # Errors
/// `NotFound` for what does not exist, is another tenant's, or is outside the project that the caller's key is bound to.
pub async fn target(
    connection: &mut PgConnection,
    caller: &Caller,
    organization: &str,
    project: &str,
) -> Result<(OrganizationId, ProjectId)> {
    let organization = organization_of(connection, caller, organization).await?;
    let project = match (project, caller.project) {
        ("", Some(own)) if organization == caller.organization => own,
        ("", _) => find_project(connection, caller, organization, "default").await?,
        (project, _) => find_project(connection, caller, organization, project).await?,
    };
    Ok((organization, project))
}

/// A project by id or name.
async fn find_project(
    connection: &mut PgConnection,
    caller: &Caller,
    organization: OrganizationId,
    project: &str,
) -> Result<ProjectId> {
    let id = project.parse::<ProjectId>().ok().map(ProjectId::uuid);
    let found = sqlx::query_scalar!(
        "select id from project where organization_id = $1 and (id = $2 or name = $3)",
        organization.uuid(),
        id,
        project
    )
    .fetch_optional(connection)
    .await?
    .map(ProjectId::from);
    found
        .filter(|found| caller.project.is_none_or(|own| own == *found))
        .ok_or_else(|| Error::not_found("project", project))
}
