//! Who may read which entries.

use super::store::{self, AuditRow};
use crate::{
    app::App,
    error::{Error, Result},
    gate::Caller,
    organizations::scope,
    page::Page,
};

pub(super) async fn list_entries(
    app: &App,
    caller: &Caller,
    organization: &str,
    action: &str,
    page: Page,
) -> Result<(Vec<AuditRow>, String)> {
    // Entries belong to the organization, not to a project of it.
    if caller.project.is_some() {
        return Err(Error::PermissionDenied(
            "this key is bound to a project, and audit entries belong to the whole organization; use a key that is not".to_owned(),
        ));
    }
    let mut connection = app.pool.acquire().await?;
    let scope = scope::visible(&mut connection, caller, organization, "").await?;
    let action = Some(action).filter(|action| !action.is_empty());
    let organization = scope.organization_uuid();
    let mut rows = store::list_entries(&mut connection, organization, action, page).await?;
    let next = page.cut(&mut rows, |row| row.id);
    Ok((rows, next))
}
