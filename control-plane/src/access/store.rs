//! SQL of access. A method is a whole transaction, or takes part in the caller's.

use chrono::{DateTime, TimeDelta, Utc};
use freehold_proto::id::{
    ApiKeyId, HostId, InstanceId, LeaseId, OrganizationId, PrincipalId, ProjectId,
};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::{
    audit,
    database::request_id::{self, Claim, Idempotency},
    error::{Error, Result},
    gate::{Caller, Role},
    organizations::scope::Scope,
    page::Page,
    pki::Kek,
};

/// An API key, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyRow {
    pub(super) id: Uuid,
    pub(super) name: String,
    pub(super) organization_id: Uuid,
    pub(super) organization: String,
    pub(super) project_id: Option<Uuid>,
    pub(super) project: Option<String>,
    pub(super) role: String,
    pub(super) created_at: DateTime<Utc>,
    pub(super) expires_at: DateTime<Utc>,
    pub(super) revoked_at: Option<DateTime<Utc>>,
    pub(super) last_used_at: Option<DateTime<Utc>>,
}

impl KeyRow {
    pub(super) fn role(&self) -> Result<Role> {
        self.role.parse().map_err(Error::internal)
    }
}

/// A key that is to be made.
pub(super) struct NewKey<'a> {
    pub(super) organization: OrganizationId,
    pub(super) project: Option<ProjectId>,
    pub(super) role: Role,
    pub(super) name: &'a str,
    pub(super) lifetime: TimeDelta,
    pub(super) secret: String,
    pub(super) secret_hash: Vec<u8>,
}

/// Makes a key with a principal of its own, and returns it with its secret. A repetition returns the first one's secret, which is kept sealed for
/// as long as the request id is.
pub(super) async fn create_key(
    pool: &PgPool,
    kek: &Kek,
    caller: &Caller,
    new: NewKey<'_>,
    idempotency: Option<&Idempotency>,
) -> Result<(KeyRow, String)> {
    let mut tx = pool.begin().await?;
    let (id, principal) = (ApiKeyId::new(), PrincipalId::new());
    if let Claim::Repeat(earlier) = request_id::claim(&mut tx, idempotency, id.uuid()).await? {
        let secret = request_id::open_answer(&mut tx, kek, idempotency).await?;
        return Ok((get_key(&mut tx, earlier).await?, secret));
    }
    request_id::seal_answer(&mut tx, kek, idempotency, &new.secret).await?;
    sqlx::query!(
        "insert into principal (id, kind, organization_id) values ($1, 'api_key', $2)",
        principal.uuid(),
        new.organization.uuid()
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "insert into api_key (id, principal_id, organization_id, project_id, role, name, secret_hash, created_by, expires_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, now() + make_interval(secs => $9))",
        id.uuid(),
        principal.uuid(),
        new.organization.uuid(),
        new.project.map(ProjectId::uuid),
        new.role.as_str(),
        new.name,
        new.secret_hash,
        caller.principal.uuid(),
        new.lifetime.as_seconds_f64()
    )
    .execute(&mut *tx)
    .await?;
    audit::Entry::new(
        Some(caller.principal),
        Some(new.organization),
        "key.create",
        id,
    )
    .with("name", new.name)
    .with("role", new.role)
    .write(&mut tx)
    .await?;
    let row = get_key(&mut tx, id.uuid()).await?;
    tx.commit().await?;
    Ok((row, new.secret))
}

/// Revokes a key that the caller may see and hand out. Revoking it again changes nothing.
pub(super) async fn revoke_key(pool: &PgPool, caller: &Caller, key: ApiKeyId) -> Result<KeyRow> {
    let mut tx = pool.begin().await?;
    let own = (!caller.sees_all()).then(|| caller.organization.uuid());
    let found = sqlx::query_scalar!(
        "select id from api_key where id = $1 and ($2::uuid is null or organization_id = $2)
             and ($3::uuid is null or project_id = $3) for update",
        key.uuid(),
        own,
        caller.project.map(ProjectId::uuid)
    )
    .fetch_optional(&mut *tx)
    .await?;
    let id = found.ok_or_else(|| Error::not_found("key", key))?;
    let row = get_key(&mut tx, id).await?;
    if !caller.role.may_grant(row.role()?) {
        return Err(Error::PermissionDenied(format!(
            "the role `{}` may not revoke keys of the role `{}`; ask an owner of the organization, or the operator",
            caller.role, row.role
        )));
    }
    if row.revoked_at.is_some() {
        return Ok(row);
    }
    sqlx::query!("update api_key set revoked_at = now() where id = $1", id)
        .execute(&mut *tx)
        .await?;
    let organization = Some(row.organization_id.into());
    audit::Entry::new(Some(caller.principal), organization, "key.revoke", key)
        .with("name", &row.name)
        .write(&mut tx)
        .await?;
    let row = get_key(&mut tx, id).await?;
    tx.commit().await?;
    Ok(row)
}

/// Keys, oldest first.
pub(super) async fn list_keys(
    connection: &mut PgConnection,
    scope: Scope,
    page: Page,
) -> Result<Vec<KeyRow>> {
    Ok(sqlx::query_as!(
        KeyRow,
        r#"select k.id, k.name, k.organization_id, o.name as organization, k.project_id, p.name as "project?", k.role, k.created_at,
               k.expires_at, k.revoked_at, k.last_used_at
           from api_key k join organization o on o.id = k.organization_id left join project p on p.id = k.project_id
           where ($1::uuid is null or k.organization_id = $1) and ($2::uuid is null or k.project_id = $2)
               and ($3::uuid is null or k.id > $3)
           order by k.id limit $4"#,
        scope.organization_uuid(),
        scope.project_uuid(),
        page.after,
        page.fetch()
    )
    .fetch_all(connection)
    .await?)
}

async fn get_key(connection: &mut PgConnection, id: Uuid) -> Result<KeyRow> {
    Ok(sqlx::query_as!(
        KeyRow,
        r#"select k.id, k.name, k.organization_id, o.name as organization, k.project_id, p.name as "project?", k.role, k.created_at,
               k.expires_at, k.revoked_at, k.last_used_at
           from api_key k join organization o on o.id = k.organization_id left join project p on p.id = k.project_id
           where k.id = $1"#,
        id
    )
    .fetch_one(connection)
    .await?)
}

/// The names of an organization and, when given, of a project.
pub(super) async fn names_of(
    connection: &mut PgConnection,
    organization: OrganizationId,
    project: Option<ProjectId>,
) -> Result<(String, Option<String>)> {
    let row = sqlx::query!(
        r#"select o.name as organization, p.name as "project?"
           from organization o left join project p on p.organization_id = o.id and p.id = $2 where o.id = $1"#,
        organization.uuid(),
        project.map(ProjectId::uuid)
    )
    .fetch_one(connection)
    .await?;
    Ok((row.organization, row.project))
}

/// A lease, as far as a certificate depends on it.
pub(super) struct LeaseFacts {
    pub(super) organization: OrganizationId,
    pub(super) name: String,
    /// False once its end was asked for or came.
    pub(super) live: bool,
    /// `None`: open-ended.
    pub(super) window_end: Option<DateTime<Utc>>,
    /// The database's time.
    pub(super) now: DateTime<Utc>,
}

/// Reads a lease that the caller was found to see.
pub(super) async fn lease_facts(
    connection: &mut PgConnection,
    lease: LeaseId,
) -> Result<LeaseFacts> {
    let row = sqlx::query!(
        r#"select organization_id, name, upper(lease_window) as window_end, now() as "now!",
               (end_requested_at is null and state not in ('ending', 'ended', 'failed')
                   and (upper_inf(lease_window) or upper(lease_window) > now())) as "live!"
           from lease where id = $1"#,
        lease.uuid()
    )
    .fetch_one(connection)
    .await?;
    Ok(LeaseFacts {
        organization: row.organization_id.into(),
        name: row.name,
        live: row.live,
        window_end: row.window_end,
        now: row.now,
    })
}

/// An instance on its host.
pub(super) struct Placed {
    pub(super) lease: LeaseId,
    pub(super) lease_name: String,
    pub(super) ordinal: i32,
    /// The database's time.
    pub(super) now: DateTime<Utc>,
}

/// Finds an instance that is placed on this host and has not ended.
pub(super) async fn find_placed(
    pool: &PgPool,
    host: HostId,
    instance: InstanceId,
) -> Result<Placed> {
    let row = sqlx::query!(
        r#"select i.lease_id, l.name, i.ordinal, now() as "now!" from instance i join lease l on l.id = i.lease_id
           where i.id = $1 and i.host_id = $2 and i.recorded <> 'ended'"#,
        instance.uuid(),
        host.uuid()
    )
    .fetch_optional(pool)
    .await?
    .ok_or_else(|| Error::not_found("instance", instance))?;
    Ok(Placed {
        lease: row.lease_id.into(),
        lease_name: row.name,
        ordinal: row.ordinal,
        now: row.now,
    })
}
