//! Between the catalogue's own types and the protocol's.

use freehold_proto::{
    id::{PriceId, TypeId},
    v1,
};

use super::{
    model::{NewType, Rounding},
    service::Item,
    store::PriceRow,
};
use crate::{
    error::{Error, Result},
    leases::offers::{Offer, Search},
    page::{parse_time, timestamp},
};

/// `None` for unspecified.
pub(super) fn rounding(number: i32) -> Result<Option<Rounding>> {
    match v1::Rounding::try_from(number) {
        Ok(v1::Rounding::Unspecified) => Ok(None),
        Ok(v1::Rounding::Hour) => Ok(Some(Rounding::Hour)),
        Ok(v1::Rounding::Minute) => Ok(Some(Rounding::Minute)),
        Ok(v1::Rounding::Second) => Ok(Some(Rounding::Second)),
        Err(_) => Err(Error::field(
            "rounding",
            format!("{number} is not a rounding; must be hour, minute or second"),
        )),
    }
}

impl From<Rounding> for v1::Rounding {
    fn from(rounding: Rounding) -> Self {
        match rounding {
            Rounding::Hour => Self::Hour,
            Rounding::Minute => Self::Minute,
            Rounding::Second => Self::Second,
        }
    }
}

/// A stored rounding as the protocol has it.
pub(crate) fn stored_rounding(text: &str) -> v1::Rounding {
    text.parse::<Rounding>().map(Into::into).unwrap_or_default()
}

impl TryFrom<v1::CreateInstanceTypeRequest> for NewType {
    type Error = Error;

    fn try_from(body: v1::CreateInstanceTypeRequest) -> Result<Self> {
        Ok(Self {
            name: body.name,
            gpu_model: body.gpu_model,
            gpu_count: body.gpu_count,
            vcpus: body.vcpus,
            memory_gib: body.memory_gib,
            scratch_gib: body.scratch_gib,
            micros: body.micros,
            currency: match body.currency.as_str() {
                "" => "USD".to_owned(),
                _ => body.currency,
            },
            rounding: rounding(body.rounding)?.unwrap_or(Rounding::Hour),
        })
    }
}

impl TryFrom<v1::SearchOffersRequest> for Search {
    type Error = Error;

    fn try_from(body: v1::SearchOffersRequest) -> Result<Self> {
        if body.instance_type.is_empty() {
            return Err(Error::field(
                "instance_type",
                "is empty; give one of the names that `freehold type list` shows",
            ));
        }
        Ok(Self {
            start: parse_time("start_time", body.start_time.as_ref())?,
            instance_type: body.instance_type,
            count: Some(body.count).filter(|count| *count != 0),
            hours: Some(body.hours).filter(|hours| *hours != 0),
        })
    }
}

pub(super) fn instance_type((row, price): Item) -> v1::InstanceType {
    v1::InstanceType {
        id: TypeId::from(row.id).to_string(),
        name: row.name,
        gpu_model: row.gpu_model,
        gpu_count: row.gpu_count,
        vcpus: row.vcpus,
        memory_gib: row.memory_gib,
        scratch_gib: row.scratch_gib,
        price: price.map(Into::into),
        create_time: Some(timestamp(row.created_at)),
    }
}

impl From<PriceRow> for v1::Price {
    fn from(row: PriceRow) -> Self {
        Self {
            id: PriceId::from(row.id).to_string(),
            instance_type: row.instance_type,
            micros: row.micros,
            currency: row.currency,
            unit: row.unit,
            quantity: row.quantity,
            rounding: stored_rounding(&row.rounding).into(),
            valid_from: Some(timestamp(row.valid_from)),
            valid_to: row.valid_to.map(timestamp),
        }
    }
}

impl From<Offer> for v1::Offer {
    fn from(offer: Offer) -> Self {
        let price = offer.price;
        Self {
            estimated_cost: offer.estimated_cost_micros.map(|micros| v1::Money {
                micros,
                currency: price.currency.clone(),
            }),
            price: Some(v1::Price {
                id: PriceId::from(price.id).to_string(),
                instance_type: offer.instance_type.clone(),
                micros: price.micros,
                currency: price.currency,
                unit: price.unit,
                quantity: price.quantity,
                rounding: stored_rounding(&price.rounding).into(),
                valid_from: price.valid_from.map(timestamp),
                valid_to: price.valid_to.map(timestamp),
            }),
            instance_type: offer.instance_type,
            count: offer.count,
            region: offer.sector.region,
            sector: offer.sector.name,
            start_time: Some(timestamp(offer.start)),
            end_time: offer.end.map(timestamp),
            available_hosts: i32::try_from(offer.available_hosts).unwrap_or(i32::MAX),
        }
    }
}
