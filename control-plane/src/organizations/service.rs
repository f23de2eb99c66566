//! Use cases of organizations and projects.

use super::{
    scope::{self, Scope},
    store::{self, OrganizationRow, ProjectRow},
};
use crate::{
    app::App,
    database::request_id::Idempotency,
    error::Result,
    gate::Caller,
    page::{Page, check_name},
};

pub(super) async fn create_organization(
    app: &App,
    caller: &Caller,
    name: &str,
    idempotency: Option<&Idempotency>,
) -> Result<OrganizationRow> {
    check_name("name", name)?;
    store::create_organization(&app.pool, caller, name, idempotency).await
}

pub(super) async fn get_organization(
    app: &App,
    caller: &Caller,
    organization: &str,
) -> Result<OrganizationRow> {
    let mut connection = app.pool.acquire().await?;
    let id = scope::organization_of(&mut connection, caller, organization).await?;
    store::get_organization(&mut connection, id.uuid()).await
}

pub(super) async fn list_organizations(
    app: &App,
    caller: &Caller,
    page: Page,
) -> Result<(Vec<OrganizationRow>, String)> {
    let mut connection = app.pool.acquire().await?;
    let scope = Scope {
        organization: (!caller.sees_all()).then_some(caller.organization),
        project: None,
    };
    let mut rows = store::list_organizations(&mut connection, scope, page).await?;
    let next = page.cut(&mut rows, |row| row.id);
    Ok((rows, next))
}

pub(super) async fn create_project(
    app: &App,
    caller: &Caller,
    organization: &str,
    name: &str,
    idempotency: Option<&Idempotency>,
) -> Result<ProjectRow> {
    check_name("name", name)?;
    let organization =
        scope::organization_of(&mut *app.pool.acquire().await?, caller, organization).await?;
    store::create_project(&app.pool, caller, organization, name, idempotency).await
}

pub(super) async fn list_projects(
    app: &App,
    caller: &Caller,
    organization: &str,
    page: Page,
) -> Result<(Vec<ProjectRow>, String)> {
    let mut connection = app.pool.acquire().await?;
    let scope = scope::visible(&mut connection, caller, organization, "").await?;
    let mut rows = store::list_projects(&mut connection, scope, page).await?;
    let next = page.cut(&mut rows, |row| row.id);
    Ok((rows, next))
}
