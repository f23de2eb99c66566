//! The first start of all: the operator's organization and token, and the seeded catalogue.

use std::{fs::OpenOptions, io::Write as _, os::unix::fs::OpenOptionsExt as _};

use anyhow::Context as _;
use freehold_proto::id::{ApiKeyId, OrganizationId, PriceId, PrincipalId, ProjectId, TypeId};
use sqlx::PgConnection;

use crate::{
    app::App,
    audit,
    gate::{KEY_PREFIX, new_secret, secret_hash},
};

/// Serialises the first starts of replicas that start together.
const BOOTSTRAP_LOCK: i64 = 0x6672_6565_626f_6f74;

/// (name, model as NVML has it without the vendor, GPUs, vCPUs, memory GiB, scratch GiB, micros per GPU-hour)
const SEEDED_TYPES: [(&str, &str, i32, i32, i32, i32, i64); 6] = [
    (
        "gpu_1x_a100_80gb_sxm4",
        "A100-SXM4-80GB",
        1,
        28,
        200,
        400,
        990_000,
    ),
    (
        "gpu_8x_a100_80gb_sxm4",
        "A100-SXM4-80GB",
        8,
        240,
        1800,
        4000,
        990_000,
    ),
    (
        "gpu_1x_h100_sxm5",
        "H100 80GB HBM3",
        1,
        26,
        225,
        700,
        1_890_000,
    ),
    (
        "gpu_8x_h100_sxm5",
        "H100 80GB HBM3",
        8,
        208,
        1800,
        6000,
        1_890_000,
    ),
    ("gpu_1x_h200_sxm5", "H200", 1, 26, 225, 700, 2_100_000),
    ("gpu_8x_h200_sxm5", "H200", 8, 208, 1800, 6000, 2_100_000),
];

/// Makes what a deployment needs before its first call, once.
///
/// # Errors
/// When the database does not answer or the token file cannot be written; nothing is then kept, and the next start tries again.
pub(crate) async fn ensure_first_start(app: &App) -> anyhow::Result<()> {
    std::fs::write(app.config.data_dir.join("ca.pem"), app.pki.server_ca.pem())?;
    let mut tx = app.pool.begin().await?;
    sqlx::query!("select pg_advisory_xact_lock($1)", BOOTSTRAP_LOCK)
        .execute(&mut *tx)
        .await?;
    if sqlx::query_scalar!(r#"select exists(select 1 from organization) as "exists!""#)
        .fetch_one(&mut *tx)
        .await?
    {
        return Ok(());
    }
    let organization = seed_operator_organization(&mut tx).await?;
    let secret = seed_operator_key(&mut tx, organization).await?;
    for seeded in SEEDED_TYPES {
        seed_type(&mut tx, seeded).await?;
    }
    let path = app.config.data_dir.join("operator-token");
    // A file left by a first start that failed is replaced: its token was never committed.
    let _ = std::fs::remove_file(&path);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .context("operator-token")?;
    writeln!(file, "{secret}")?;
    file.sync_all()?;
    tx.commit().await?;
    println!("operator token: {}", path.display());
    println!(
        "CA certificate: {}",
        app.config.data_dir.join("ca.pem").display()
    );
    Ok(())
}

async fn seed_operator_organization(
    connection: &mut PgConnection,
) -> anyhow::Result<OrganizationId> {
    let organization = OrganizationId::new();
    sqlx::query!(
        "insert into organization (id, name) values ($1, 'operator')",
        organization.uuid()
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "insert into project (id, organization_id, name) values ($1, $2, 'default')",
        ProjectId::new().uuid(),
        organization.uuid()
    )
    .execute(&mut *connection)
    .await?;
    audit::Entry::new(
        None,
        Some(organization),
        "organization.create",
        organization,
    )
    .with("name", "operator")
    .write(connection)
    .await?;
    Ok(organization)
}

async fn seed_operator_key(
    connection: &mut PgConnection,
    organization: OrganizationId,
) -> anyhow::Result<String> {
    let (principal, key) = (PrincipalId::new(), ApiKeyId::new());
    let secret = new_secret(KEY_PREFIX)?;
    sqlx::query!(
        "insert into principal (id, kind, organization_id) values ($1, 'api_key', $2)",
        principal.uuid(),
        organization.uuid()
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "insert into api_key (id, principal_id, organization_id, role, name, secret_hash, expires_at)
         values ($1, $2, $3, 'operator', 'first operator token', $4, now() + interval '366 days')",
        key.uuid(),
        principal.uuid(),
        organization.uuid(),
        secret_hash(&secret)
    )
    .execute(&mut *connection)
    .await?;
    audit::Entry::new(None, Some(organization), "key.create", key)
        .with("role", "operator")
        .write(connection)
        .await?;
    Ok(secret)
}

async fn seed_type(
    connection: &mut PgConnection,
    (name, model, gpus, vcpus, memory, scratch, micros): (&str, &str, i32, i32, i32, i32, i64),
) -> anyhow::Result<()> {
    let id = TypeId::new();
    sqlx::query!(
        "insert into instance_type (id, name, gpu_model, gpu_count, vcpus, memory_gib, scratch_gib)
         values ($1, $2, $3, $4, $5, $6, $7)",
        id.uuid(),
        name,
        model,
        gpus,
        vcpus,
        memory,
        scratch
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "insert into price (id, instance_type_id, micros, currency, rounding, valid)
         values ($1, $2, $3, 'USD', 'hour', tstzrange(now(), null))",
        PriceId::new().uuid(),
        id.uuid(),
        micros
    )
    .execute(connection)
    .await?;
    Ok(())
}
