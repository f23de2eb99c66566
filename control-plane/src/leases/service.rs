//! Use cases of leases.

use freehold_proto::id::LeaseId;
use futures_util::stream::BoxStream;

use super::{
    explain::{self, Explanation},
    model::request::{self, Asked},
    offers,
    store::{self, Booked, Create, LeaseFilter, LeaseRecord},
    watch,
};
use crate::{
    app::App, database::request_id::Idempotency, error::Result, gate::Caller, organizations::scope,
    page::Page,
};

/// Which lease of which organization and project a call is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Named<'a> {
    /// Id or name.
    pub(super) lease: &'a str,
    /// Id or name; empty: the caller's.
    pub(super) organization: &'a str,
    /// Id or name; empty: every project that the caller may see.
    pub(super) project: &'a str,
}

pub(super) async fn create_lease(
    app: &App,
    caller: &Caller,
    (organization, project): (&str, &str),
    asked: Asked,
    idempotency: Option<&Idempotency>,
) -> Result<LeaseRecord> {
    let reservation = request::check(asked)?;
    let create = Create {
        caller,
        organization,
        project,
        reservation: &reservation,
        idempotency,
    };
    match store::create_lease(app, create).await? {
        Booked::Lease(id) => store::load_lease(&mut *app.pool.acquire().await?, id).await,
        Booked::NoHosts(unmet) => Err(offers::no_capacity(app, &unmet).await?),
    }
}

pub(super) async fn get_lease(app: &App, caller: &Caller, named: Named<'_>) -> Result<LeaseRecord> {
    let mut connection = app.pool.acquire().await?;
    let scope = scope::visible(&mut connection, caller, named.organization, named.project).await?;
    let id = store::find_lease(&mut connection, caller, scope, named.lease).await?;
    store::load_lease(&mut connection, id).await
}

pub(super) async fn list_leases(
    app: &App,
    caller: &Caller,
    (organization, project): (&str, &str),
    filter: &LeaseFilter,
    page: Page,
) -> Result<(Vec<LeaseRecord>, String)> {
    let mut connection = app.pool.acquire().await?;
    let scope = scope::visible(&mut connection, caller, organization, project).await?;
    let mut leases = store::list_leases(&mut connection, scope, filter, page).await?;
    let next = page.cut(&mut leases, |record| record.lease.id);
    Ok((leases, next))
}

pub(super) async fn end_lease(app: &App, caller: &Caller, named: Named<'_>) -> Result<LeaseRecord> {
    let mut connection = app.pool.acquire().await?;
    let scope = scope::visible(&mut connection, caller, named.organization, named.project).await?;
    let id = store::find_lease(&mut connection, caller, scope, named.lease).await?;
    store::end_lease(app, caller, id).await?;
    store::load_lease(&mut connection, id).await
}

/// The lease now and after each change, until it is settled.
pub(super) async fn watch_lease(
    app: &App,
    caller: &Caller,
    named: Named<'_>,
) -> Result<BoxStream<'static, Result<LeaseRecord>>> {
    // Before the look-up, so that no change between the two is missed.
    let signals = app.bus.subscribe();
    let id = find(app, caller, named).await?;
    Ok(watch::watch(app.clone(), id, signals, caller.expires_at))
}

pub(super) async fn explain_lease(
    app: &App,
    caller: &Caller,
    named: Named<'_>,
) -> Result<Explanation> {
    let id = find(app, caller, named).await?;
    explain::explain(&mut *app.pool.acquire().await?, id).await
}

async fn find(app: &App, caller: &Caller, named: Named<'_>) -> Result<LeaseId> {
    let mut connection = app.pool.acquire().await?;
    let scope = scope::visible(&mut connection, caller, named.organization, named.project).await?;
    store::find_lease(&mut connection, caller, scope, named.lease).await
}
