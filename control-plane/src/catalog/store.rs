//! SQL of types and prices. A method is a whole transaction.

use chrono::{DateTime, Utc};
use freehold_proto::id::{OrganizationId, PriceId, TypeId};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::model::{Insertion, NewPrice, NewType, Rounding, Validity, check_valid_from, insert_at};
use crate::{
    audit,
    database::{
        now,
        request_id::{Claim, Idempotency, claim},
    },
    error::{Error, Result, violates},
    gate::Caller,
    page::Page,
};

/// A type with the price that holds now.
#[derive(Debug, Clone)]
pub(super) struct TypeRow {
    pub(super) id: Uuid,
    pub(super) name: String,
    pub(super) gpu_model: String,
    pub(super) gpu_count: i32,
    pub(super) vcpus: i32,
    pub(super) memory_gib: i32,
    pub(super) scratch_gib: i32,
    pub(super) created_at: DateTime<Utc>,
    pub(super) price_id: Option<Uuid>,
}

/// A price with its validity.
#[derive(Debug, Clone)]
pub(super) struct PriceRow {
    pub(super) id: Uuid,
    pub(super) instance_type: String,
    pub(super) micros: i64,
    pub(super) quantity: i64,
    pub(super) unit: String,
    pub(super) currency: String,
    pub(super) rounding: String,
    pub(super) valid_from: DateTime<Utc>,
    pub(super) valid_to: Option<DateTime<Utc>>,
}

/// Finds a type by name or id.
pub(super) async fn find_type(
    connection: &mut PgConnection,
    instance_type: &str,
) -> Result<TypeId> {
    let id = instance_type.parse::<TypeId>().ok().map(TypeId::uuid);
    sqlx::query_scalar!(
        "select id from instance_type where id = $1 or name = $2",
        id,
        instance_type
    )
    .fetch_optional(connection)
    .await?
    .map(TypeId::from)
    .ok_or_else(|| Error::not_found("instance type", instance_type))
}

/// Types in the order of their making, from `only` or all, each with the id of the price that holds now for the organization: its own, else
/// everyone's.
pub(super) async fn list_types(
    connection: &mut PgConnection,
    organization: OrganizationId,
    only: Option<TypeId>,
    page: Page,
) -> Result<Vec<TypeRow>> {
    Ok(sqlx::query_as!(
        TypeRow,
        r#"select t.id, t.name, t.gpu_model, t.gpu_count, t.vcpus, t.memory_gib, t.scratch_gib, t.created_at,
               (select p.id from price p where p.instance_type_id = t.id and p.audience in ('everyone', $1) and p.valid @> now()
                order by p.audience = 'everyone' limit 1) as price_id
           from instance_type t
           where ($2::uuid is null or t.id = $2) and ($3::uuid is null or t.id > $3) order by t.id limit $4"#,
        organization.to_string(),
        only.map(TypeId::uuid),
        page.after,
        page.fetch()
    )
    .fetch_all(connection)
    .await?)
}

pub(super) async fn load_prices(
    connection: &mut PgConnection,
    ids: &[Uuid],
) -> Result<Vec<PriceRow>> {
    Ok(sqlx::query_as!(
        PriceRow,
        r#"select p.id, t.name as instance_type, p.micros, p.quantity, p.unit, p.currency, p.rounding,
               lower(p.valid) as "valid_from!", upper(p.valid) as valid_to
           from price p join instance_type t on t.id = p.instance_type_id where p.id = any($1)"#,
        ids
    )
    .fetch_all(connection)
    .await?)
}

/// The prices of a type that the organization is asked, newest validity first.
pub(super) async fn list_prices(
    connection: &mut PgConnection,
    organization: OrganizationId,
    instance_type: TypeId,
    page: Page,
) -> Result<Vec<PriceRow>> {
    Ok(sqlx::query_as!(
        PriceRow,
        r#"select p.id, t.name as instance_type, p.micros, p.quantity, p.unit, p.currency, p.rounding,
               lower(p.valid) as "valid_from!", upper(p.valid) as valid_to
           from price p join instance_type t on t.id = p.instance_type_id
           where t.id = $1 and p.audience in ('everyone', $2)
               and ($3::uuid is null or (lower(p.valid), p.id) < (select lower(valid), id from price where id = $3))
           order by lower(p.valid) desc, p.id desc limit $4"#,
        instance_type.uuid(),
        organization.to_string(),
        page.after,
        page.fetch()
    )
    .fetch_all(connection)
    .await?)
}

pub(super) async fn create_type(
    pool: &PgPool,
    caller: &Caller,
    new: &NewType,
    idempotency: Option<&Idempotency>,
) -> Result<TypeId> {
    let mut tx = pool.begin().await?;
    let id = TypeId::new();
    if let Claim::Repeat(earlier) = claim(&mut tx, idempotency, id.uuid()).await? {
        return Ok(earlier.into());
    }
    let inserted = sqlx::query!(
        "insert into instance_type (id, name, gpu_model, gpu_count, vcpus, memory_gib, scratch_gib) values ($1, $2, $3, $4, $5, $6, $7)",
        id.uuid(),
        new.name,
        new.gpu_model,
        new.gpu_count,
        new.vcpus,
        new.memory_gib,
        new.scratch_gib
    )
    .execute(&mut *tx)
    .await;
    if let Err(error) = inserted {
        if violates(&error, "instance_type_name_key") {
            return Err(Error::AlreadyExists(format!(
                "name: an instance type `{}` exists; choose another name, or change its price with `freehold type set-price`",
                new.name
            )));
        }
        return Err(error.into());
    }
    let price = Price {
        micros: new.micros,
        currency: new.currency.clone(),
        rounding: new.rounding,
        from: now(&mut tx).await?,
        to: None,
    };
    insert_price(&mut tx, PriceId::new(), id, &price).await?;
    audit::Entry::new(Some(caller.principal), None, "instance_type.create", id)
        .with("name", &new.name)
        .with("gpu_model", &new.gpu_model)
        .with("gpu_count", new.gpu_count)
        .with("micros", new.micros)
        .with("currency", &new.currency)
        .with("rounding", new.rounding)
        .write(&mut tx)
        .await?;
    tx.commit().await?;
    Ok(id)
}

struct Price {
    micros: i64,
    currency: String,
    rounding: Rounding,
    from: DateTime<Utc>,
    to: Option<DateTime<Utc>>,
}

async fn insert_price(
    connection: &mut PgConnection,
    id: PriceId,
    instance_type: TypeId,
    price: &Price,
) -> Result<()> {
    sqlx::query!(
        "insert into price (id, instance_type_id, micros, currency, rounding, valid) values ($1, $2, $3, $4, $5, tstzrange($6, $7))",
        id.uuid(),
        instance_type.uuid(),
        price.micros,
        price.currency,
        price.rounding.as_str(),
        price.from,
        price.to
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Sets everyone's price of a type. What it replaces ends where it begins; what is set for later stays.
pub(super) async fn set_price(
    pool: &PgPool,
    caller: &Caller,
    instance_type: &str,
    new: NewPrice,
    idempotency: Option<&Idempotency>,
) -> Result<PriceId> {
    let mut tx = pool.begin().await?;
    let id = PriceId::new();
    if let Claim::Repeat(earlier) = claim(&mut tx, idempotency, id.uuid()).await? {
        return Ok(earlier.into());
    }
    let type_id = find_type(&mut tx, instance_type).await?;
    // One change of a type's prices at a time. Bookings read them without this lock.
    sqlx::query!(
        "select id from instance_type where id = $1 for no key update",
        type_id.uuid()
    )
    .fetch_one(&mut *tx)
    .await?;
    let from = check_valid_from(new.from, now(&mut tx).await?)?;
    let set = load_set(&mut tx, type_id).await?;
    let validities: Vec<Validity<Uuid>> = set.iter().map(|price| price.validity).collect();
    let insertion = insert_at(&validities, from);
    let before = set.iter().rev().find(|price| price.validity.from <= from);
    let model = before.or(set.first());
    let price = Price {
        micros: new.micros,
        currency: model.map_or_else(|| "USD".to_owned(), |price| price.currency.clone()),
        rounding: new
            .rounding
            .or(model.map(|price| price.rounding))
            .unwrap_or(Rounding::Hour),
        from,
        to: insertion.to,
    };
    make_room(&mut tx, &insertion, from).await?;
    insert_price(&mut tx, id, type_id, &price).await?;
    audit::Entry::new(Some(caller.principal), None, "price.set", id)
        .with("instance_type", type_id)
        .with("micros", price.micros)
        .with("currency", &price.currency)
        .with("rounding", price.rounding)
        .with("valid_from", from.to_rfc3339())
        .write(&mut tx)
        .await?;
    tx.commit().await?;
    Ok(id)
}

struct SetPrice {
    validity: Validity<Uuid>,
    currency: String,
    rounding: Rounding,
}

/// Everyone's prices of a type, oldest first.
async fn load_set(connection: &mut PgConnection, instance_type: TypeId) -> Result<Vec<SetPrice>> {
    let rows = sqlx::query!(
        r#"select id, currency, rounding, lower(valid) as "from!", upper(valid) as to from price
           where instance_type_id = $1 and audience = 'everyone' order by valid"#,
        instance_type.uuid()
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(SetPrice {
                validity: Validity {
                    key: row.id,
                    from: row.from,
                    to: row.to,
                },
                currency: row.currency,
                rounding: row.rounding.parse().map_err(Error::internal)?,
            })
        })
        .collect()
}

async fn make_room(
    connection: &mut PgConnection,
    insertion: &Insertion<Uuid>,
    from: DateTime<Utc>,
) -> Result<()> {
    if let Some(replaced) = insertion.replaces {
        // Nothing was booked at a price that has not begun. One that begins at this very microsecond may have been.
        let gone = sqlx::query!(
            "delete from price where id = $1 and lower(valid) > now()",
            replaced
        )
        .execute(&mut *connection)
        .await?;
        if gone.rows_affected() == 0 {
            return Err(Error::Contention(
                "another price was set at this very instant; try again".to_owned(),
            ));
        }
    }
    if let Some(ended) = insertion.ends {
        sqlx::query!(
            "update price set valid = tstzrange(lower(valid), $2) where id = $1",
            ended,
            from
        )
        .execute(connection)
        .await?;
    }
    Ok(())
}
