//! Use cases of types and prices.

use std::collections::HashMap;

use freehold_proto::id::{PriceId, TypeId};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    model::{NewPrice, NewType, check_micros, check_type},
    store::{self, PriceRow, TypeRow},
};
use crate::{
    app::App,
    database::request_id::Idempotency,
    error::{Error, Result},
    gate::Caller,
    page::Page,
};

/// A type with the price that holds now.
pub(super) type Item = (TypeRow, Option<PriceRow>);

pub(super) async fn list_types(
    app: &App,
    caller: &Caller,
    page: Page,
) -> Result<(Vec<Item>, String)> {
    let mut connection = app.pool.acquire().await?;
    let mut types = store::list_types(&mut connection, caller.organization, None, page).await?;
    let next = page.cut(&mut types, |row| row.id);
    Ok((with_prices(&mut connection, types).await?, next))
}

pub(super) async fn get_type(app: &App, caller: &Caller, instance_type: &str) -> Result<Item> {
    let mut connection = app.pool.acquire().await?;
    let id = store::find_type(&mut connection, instance_type).await?;
    load_type(&mut connection, caller, id).await
}

async fn load_type(connection: &mut PgConnection, caller: &Caller, id: TypeId) -> Result<Item> {
    let one = Page {
        size: 1,
        after: None,
    };
    let types = store::list_types(connection, caller.organization, Some(id), one).await?;
    with_prices(connection, types)
        .await?
        .pop()
        .ok_or_else(|| Error::not_found("instance type", id))
}

async fn with_prices(connection: &mut PgConnection, types: Vec<TypeRow>) -> Result<Vec<Item>> {
    let ids: Vec<Uuid> = types.iter().filter_map(|row| row.price_id).collect();
    let mut prices: HashMap<Uuid, PriceRow> = store::load_prices(connection, &ids)
        .await?
        .into_iter()
        .map(|price| (price.id, price))
        .collect();
    Ok(types
        .into_iter()
        .map(|row| {
            let price = row.price_id.and_then(|id| prices.remove(&id));
            (row, price)
        })
        .collect())
}

pub(super) async fn create_type(
    app: &App,
    caller: &Caller,
    new: &NewType,
    idempotency: Option<&Idempotency>,
) -> Result<Item> {
    check_type(new)?;
    let id = store::create_type(&app.pool, caller, new, idempotency).await?;
    load_type(&mut *app.pool.acquire().await?, caller, id).await
}

pub(super) async fn set_price(
    app: &App,
    caller: &Caller,
    instance_type: &str,
    new: NewPrice,
    idempotency: Option<&Idempotency>,
) -> Result<PriceRow> {
    check_micros(new.micros)?;
    let id: PriceId = store::set_price(&app.pool, caller, instance_type, new, idempotency).await?;
    store::load_prices(&mut *app.pool.acquire().await?, &[id.uuid()])
        .await?
        .pop()
        .ok_or_else(|| Error::not_found("price", id))
}

pub(super) async fn list_prices(
    app: &App,
    caller: &Caller,
    instance_type: &str,
    page: Page,
) -> Result<(Vec<PriceRow>, String)> {
    let mut connection = app.pool.acquire().await?;
    let id = store::find_type(&mut connection, instance_type).await?;
    let mut prices = store::list_prices(&mut connection, caller.organization, id, page).await?;
    let next = page.cut(&mut prices, |row| row.id);
    Ok((prices, next))
}
