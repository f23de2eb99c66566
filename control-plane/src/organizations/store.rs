//! SQL of organizations and projects. A method is a whole transaction.

use chrono::{DateTime, Utc};
use freehold_proto::id::{OrganizationId, ProjectId};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::scope::Scope;
use crate::{
    audit,
    database::request_id::{Claim, Idempotency, claim},
    error::{Error, Result, violates},
    gate::Caller,
    page::Page,
};

pub(super) struct OrganizationRow {
    pub(super) id: Uuid,
    pub(super) name: String,
    pub(super) created_at: DateTime<Utc>,
}

pub(super) struct ProjectRow {
    pub(super) id: Uuid,
    pub(super) name: String,
    pub(super) organization_id: Uuid,
    pub(super) organization: String,
    pub(super) created_at: DateTime<Utc>,
}

pub(super) async fn create_organization(
    pool: &PgPool,
    caller: &Caller,
    name: &str,
    idempotency: Option<&Idempotency>,
) -> Result<OrganizationRow> {
    let mut tx = pool.begin().await?;
    let id = OrganizationId::new();
    if let Claim::Repeat(earlier) = claim(&mut tx, idempotency, id.uuid()).await? {
        return get_organization(&mut tx, earlier).await;
    }
    let inserted = sqlx::query!(
        "insert into organization (id, name) values ($1, $2)",
        id.uuid(),
        name
    )
    .execute(&mut *tx)
    .await;
    if let Err(error) = inserted {
        return Err(taken(error, "organization_name_key", || {
            format!("name: an organization `{name}` exists; choose another name")
        }));
    }
    insert_project(&mut tx, caller, ProjectId::new(), id, "default").await?;
    audit::Entry::new(Some(caller.principal), Some(id), "organization.create", id)
        .with("name", name)
        .write(&mut tx)
        .await?;
    let row = get_organization(&mut tx, id.uuid()).await?;
    tx.commit().await?;
    Ok(row)
}

pub(super) async fn create_project(
    pool: &PgPool,
    caller: &Caller,
    organization: OrganizationId,
    name: &str,
    idempotency: Option<&Idempotency>,
) -> Result<ProjectRow> {
    let mut tx = pool.begin().await?;
    let id = ProjectId::new();
    if let Claim::Repeat(earlier) = claim(&mut tx, idempotency, id.uuid()).await? {
        return get_project(&mut tx, earlier).await;
    }
    insert_project(&mut tx, caller, id, organization, name).await?;
    let row = get_project(&mut tx, id.uuid()).await?;
    tx.commit().await?;
    Ok(row)
}

pub(super) async fn insert_project(
    connection: &mut PgConnection,
    caller: &Caller,
    id: ProjectId,
    organization: OrganizationId,
    name: &str,
) -> Result<()> {
    let inserted = sqlx::query!(
        "insert into project (id, organization_id, name) values ($1, $2, $3)",
        id.uuid(),
        organization.uuid(),
        name
    )
    .execute(&mut *connection)
    .await;
    if let Err(error) = inserted {
        return Err(taken(error, "project_organization_id_name_key", || {
            format!("name: the organization has a project `{name}`; choose another name")
        }));
    }
    audit::Entry::new(
        Some(caller.principal),
        Some(organization),
        "project.create",
        id,
    )
    .with("name", name)
    .write(connection)
    .await
}

fn taken(error: sqlx::Error, constraint: &str, message: impl FnOnce() -> String) -> Error {
    if violates(&error, constraint) {
        Error::AlreadyExists(message())
    } else {
        error.into()
    }
}

pub(super) async fn get_organization(
    connection: &mut PgConnection,
    id: Uuid,
) -> Result<OrganizationRow> {
    Ok(sqlx::query_as!(
        OrganizationRow,
        "select id, name, created_at from organization where id = $1",
        id
    )
    .fetch_one(connection)
    .await?)
}

pub(super) async fn get_project(connection: &mut PgConnection, id: Uuid) -> Result<ProjectRow> {
    Ok(sqlx::query_as!(
        ProjectRow,
        "select p.id, p.name, p.organization_id, o.name as organization, p.created_at
         from project p join organization o on o.id = p.organization_id where p.id = $1",
        id
    )
    .fetch_one(connection)
    .await?)
}

pub(super) async fn list_organizations(
    connection: &mut PgConnection,
    scope: Scope,
    page: Page,
) -> Result<Vec<OrganizationRow>> {
    Ok(sqlx::query_as!(
        OrganizationRow,
        "select id, name, created_at from organization
         where ($1::uuid is null or id = $1) and ($2::uuid is null or id > $2) order by id limit $3",
        scope.organization_uuid(),
        page.after,
        page.fetch()
    )
    .fetch_all(connection)
    .await?)
}

pub(super) async fn list_projects(
    connection: &mut PgConnection,
    scope: Scope,
    page: Page,
) -> Result<Vec<ProjectRow>> {
    Ok(sqlx::query_as!(
        ProjectRow,
        "select p.id, p.name, p.organization_id, o.name as organization, p.created_at
         from project p join organization o on o.id = p.organization_id
         where ($1::uuid is null or p.organization_id = $1) and ($2::uuid is null or p.id = $2)
           and ($3::uuid is null or p.id > $3)
         order by p.id limit $4",
        scope.organization_uuid(),
        scope.project_uuid(),
        page.after,
        page.fetch()
    )
    .fetch_all(connection)
    .await?)
}
