//! What is sold at which price, as a booking and an offer need it.

use chrono::{DateTime, TimeDelta, Utc};
use freehold_proto::id::{OrganizationId, TypeId};
use sqlx::PgConnection;
use uuid::Uuid;

use super::hosts::Need;
use crate::{
    app::App,
    error::{Error, Result},
    leases::model::span::{Margins, Span},
};

/// A type with the price that holds now.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    /// The database's time.
    pub(crate) now: DateTime<Utc>,
    pub(crate) type_id: TypeId,
    pub(crate) type_name: String,
    pub(crate) gpu_model: String,
    pub(crate) gpu_count: i32,
    pub(crate) price: PriceRow,
}

/// What one unit costs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the columns of the schema")]
pub struct PriceRow {
    pub id: Uuid,
    pub micros: i64,
    pub quantity: i64,
    pub unit: String,
    pub currency: String,
    pub rounding: String,
    pub valid_from: Option<DateTime<Utc>>,
    pub valid_to: Option<DateTime<Utc>>,
}

/// Finds a type by name or id, with the price that holds now for the organization: its own, else everyone's.
pub(crate) async fn find_item(
    connection: &mut PgConnection,
    instance_type: &str,
    organization: OrganizationId,
) -> Result<Item> {
    let id = instance_type.parse::<TypeId>().ok().map(TypeId::uuid);
    let row = sqlx::query!(
        r#"select now() as "now!", t.id, t.name, t.gpu_model, t.gpu_count, p.id as "price_id?", p.micros as "micros?",
               p.quantity as "quantity?", p.unit as "unit?", p.currency as "currency?", p.rounding as "rounding?",
               lower(p.valid) as valid_from, upper(p.valid) as valid_to
           from instance_type t left join lateral (
               select * from price where instance_type_id = t.id and audience in ('everyone', $3) and valid @> now()
               order by audience = 'everyone' limit 1) p on true
           where t.id = $1 or t.name = $2"#,
        id,
        instance_type,
        organization.to_string()
    )
    .fetch_optional(connection)
    .await?;
    let row = row.ok_or_else(|| {
        let shown: String = instance_type.chars().take(80).collect();
        Error::field(
            "instance_type",
            format!("there is no instance type `{shown}`; give one of the names that `freehold type list` shows"),
        )
    })?;
    let price = (|| {
        Some(PriceRow {
            id: row.price_id?,
            micros: row.micros?,
            quantity: row.quantity?,
            unit: row.unit?,
            currency: row.currency?,
            rounding: row.rounding?,
            valid_from: row.valid_from,
            valid_to: row.valid_to,
        })
    })();
    let price = price.ok_or_else(|| {
        Error::field(
            "instance_type",
            format!("`{}` has no price that holds now, so it cannot be leased; ask the operator to set one", row.name),
        )
    })?;
    Ok(Item {
        now: row.now,
        type_id: row.id.into(),
        type_name: row.name,
        gpu_model: row.gpu_model,
        gpu_count: row.gpu_count,
        price,
    })
}

/// The margins of this deployment.
pub(crate) fn margins(app: &App) -> Result<Margins> {
    Ok(Margins {
        lead: TimeDelta::from_std(app.config.limits.lead).map_err(Error::internal)?,
        turnaround: TimeDelta::from_std(app.config.limits.turnaround).map_err(Error::internal)?,
    })
}

/// What a window of a type asks of hosts.
pub(crate) fn need(app: &App, item: &Item, count: i32, window: &Span) -> Result<Need> {
    Ok(Need {
        gpu_model: item.gpu_model.clone(),
        gpu_count: item.gpu_count,
        count,
        during: margins(app)?.around(window, item.now),
        now: item.now,
        host_timeout: TimeDelta::from_std(app.config.limits.host_timeout)
            .map_err(Error::internal)?,
    })
}
