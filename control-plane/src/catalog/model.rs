//! What may be sold at which price, and where a new price goes among those that are set. Pure.

use chrono::{DateTime, TimeDelta, Utc};
use freehold_proto::id::TypeId;

use crate::{
    error::{Error, Result},
    leases::model::instance::stored_enum,
};

/// Highest price of a GPU-hour, a million units of a currency: 1024 instances of 64 GPUs for 366 days then still fit 64 bits a record.
const MAX_MICROS: i64 = 1_000_000_000_000;
const MAX_GPUS: i32 = 64;
const MAX_VCPUS: i32 = 65_536;
/// One PiB.
const MAX_GIB: i32 = 1_048_576;
/// Clocks of clients are wrong by less than this.
const MAX_PAST: TimeDelta = TimeDelta::seconds(60);
/// Prices are set at most this far ahead.
const MAX_AHEAD: TimeDelta = TimeDelta::days(3660);

stored_enum! {
    /// Which started unit of usable time counts whole.
    Rounding {
        /// Every started hour.
        Hour = "hour",
        /// Every started minute.
        Minute = "minute",
        /// Every started second.
        Second = "second",
    }
}

/// A price that is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct NewPrice {
    pub(super) micros: i64,
    pub(super) from: Option<DateTime<Utc>>,
    /// `None`: as before.
    pub(super) rounding: Option<Rounding>,
}

impl Rounding {
    /// Seconds of the unit.
    #[must_use]
    pub fn seconds(self) -> i64 {
        match self {
            Self::Hour => 3600,
            Self::Minute => 60,
            Self::Second => 1,
        }
    }
}

/// An instance type with its first price, as it was asked for.
#[derive(Debug, Clone)]
pub struct NewType {
    /// Unique.
    pub name: String,
    /// The model as NVML names it, without the vendor.
    pub gpu_model: String,
    /// GPUs of one instance.
    pub gpu_count: i32,
    /// Virtual CPUs.
    pub vcpus: i32,
    /// GiB of memory.
    pub memory_gib: i32,
    /// GiB of scratch.
    pub scratch_gib: i32,
    /// Micros per GPU-hour.
    pub micros: i64,
    /// ISO 4217.
    pub currency: String,
    /// Of usable time.
    pub rounding: Rounding,
}

/// Checks a new type.
///
/// # Errors
/// `InvalidField`.
pub fn check_type(new: &NewType) -> Result<()> {
    check_type_name(&new.name)?;
    let model = new.gpu_model.as_str();
    if model.is_empty() || model.trim() != model || model.chars().count() > 96 {
        return Err(Error::field(
            "gpu_model",
            "must be 1 to 96 characters without spaces around them, as `freehold host list` shows it: `H100 80GB HBM3`",
        ));
    }
    if model.contains(char::is_control) || model.starts_with("NVIDIA ") {
        return Err(Error::field(
            "gpu_model",
            "must be the model without the vendor and without control characters, as `freehold host list` shows it: `H100 80GB HBM3`",
        ));
    }
    check_range("gpu_count", new.gpu_count, MAX_GPUS)?;
    check_range("vcpus", new.vcpus, MAX_VCPUS)?;
    check_range("memory_gib", new.memory_gib, MAX_GIB)?;
    check_range("scratch_gib", new.scratch_gib, MAX_GIB)?;
    check_micros(new.micros)?;
    if new.currency.len() != 3 || !new.currency.bytes().all(|b| b.is_ascii_uppercase()) {
        return Err(Error::field(
            "currency",
            "must be a code of ISO 4217 in upper case, like USD or EUR; empty means USD",
        ));
    }
    Ok(())
}

fn check_type_name(name: &str) -> Result<()> {
    let valid = (3..=63).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'));
    if !valid {
        return Err(Error::field(
            "name",
            "must be 3 to 63 characters a-z, 0-9, `_` and `-`, and begin with a letter",
        ));
    }
    if name.parse::<TypeId>().is_ok() {
        return Err(Error::field(
            "name",
            "has the form of an id; choose another name",
        ));
    }
    Ok(())
}

fn check_range(field: &str, value: i32, most: i32) -> Result<()> {
    if (1..=most).contains(&value) {
        return Ok(());
    }
    Err(Error::field(
        field,
        format!("{value} is out of range; must be 1 to {most}"),
    ))
}

/// Checks a price per GPU-hour.
///
/// # Errors
/// `InvalidField`.
pub fn check_micros(micros: i64) -> Result<()> {
    if (0..=MAX_MICROS).contains(&micros) {
        return Ok(());
    }
    Err(Error::field(
        "micros",
        format!(
            "{micros} is out of range; must be 0 to {MAX_MICROS} millionths per GPU-hour: 1890000 is 1.89"
        ),
    ))
}

/// The instant from which a price holds; `None`, and what is past by less than a minute: now.
///
/// # Errors
/// `InvalidField` for what lies in the past or more than ten years ahead.
pub fn check_valid_from(from: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Result<DateTime<Utc>> {
    let from = from.unwrap_or(now);
    let shown = now.format("%Y-%m-%dT%H:%M:%SZ");
    if from < now - MAX_PAST {
        return Err(Error::field(
            "valid_from",
            format!(
                "lies in the past; it is {shown}: give a later time, or none for now. Leases keep the price they were booked at"
            ),
        ));
    }
    if from > now + MAX_AHEAD {
        return Err(Error::field(
            "valid_from",
            format!("lies more than ten years ahead; it is {shown}: give an earlier time"),
        ));
    }
    Ok(from.max(now))
}

/// A price that is set, as far as its validity goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity<K> {
    /// Which price.
    pub key: K,
    /// First instant.
    pub from: DateTime<Utc>,
    /// First instant no more; `None`: until another is set.
    pub to: Option<DateTime<Utc>>,
}

/// What makes room for a new price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Insertion<K> {
    /// Holds at the new one's start and ends there.
    pub ends: Option<K>,
    /// Would have begun at the same instant: goes.
    pub replaces: Option<K>,
    /// Where the new one ends: at the start of the one that is set already for later.
    pub to: Option<DateTime<Utc>>,
}

/// Where a price that begins at `from` goes. One that is set for later stays, and the new one holds until then.
pub fn insert_at<K: Copy>(prices: &[Validity<K>], from: DateTime<Utc>) -> Insertion<K> {
    let covering = prices
        .iter()
        .find(|p| p.from < from && p.to.is_none_or(|to| to > from));
    let same = prices.iter().find(|p| p.from == from);
    let next = prices.iter().map(|p| p.from).filter(|at| *at > from).min();
    Insertion {
        ends: covering.map(|p| p.key),
        replaces: same.map(|p| p.key),
        to: next,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new_type() -> NewType {
        NewType {
            name: "gpu_4x_h100_sxm5".to_owned(),
            gpu_model: "H100 80GB HBM3".to_owned(),
            gpu_count: 4,
            vcpus: 96,
            memory_gib: 900,
            scratch_gib: 3000,
            micros: 1_890_000,
            currency: "USD".to_owned(),
            rounding: Rounding::Hour,
        }
    }

    fn at(hours: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::hours(hours)
    }

    #[test]
    fn a_type_that_cannot_be_sold_is_refused_by_its_field() {
        assert!(check_type(&new_type()).is_ok());
        type Spoil = fn(&mut NewType);
        let cases: [(&str, Spoil); 12] = [
            ("name", |t| t.name = "a".to_owned()),
            ("name", |t| t.name = "GPU".to_owned()),
            ("name", |t| t.name = "8x_h100".to_owned()),
            ("name", |t| t.name = TypeId::new().to_string()),
            ("gpu_model", |t| t.gpu_model.clear()),
            ("gpu_model", |t| t.gpu_model = "NVIDIA H200".to_owned()),
            ("gpu_count", |t| t.gpu_count = 0),
            ("gpu_count", |t| t.gpu_count = 65),
            ("vcpus", |t| t.vcpus = -1),
            ("memory_gib", |t| t.memory_gib = 0),
            ("micros", |t| t.micros = -1),
            ("currency", |t| t.currency = "usd".to_owned()),
        ];
        for (field, spoil) in cases {
            let mut spoilt = new_type();
            spoil(&mut spoilt);
            let error = check_type(&spoilt).unwrap_err().to_string();
            assert!(error.starts_with(field), "{error}");
        }
    }

    #[test]
    fn a_price_never_holds_from_the_past() {
        let now = at(100);
        assert_eq!(check_valid_from(None, now).unwrap(), now);
        let late = now - TimeDelta::seconds(30);
        assert_eq!(check_valid_from(Some(late), now).unwrap(), now);
        assert_eq!(check_valid_from(Some(at(101)), now).unwrap(), at(101));
        assert!(check_valid_from(Some(at(99)), now).is_err());
        assert!(check_valid_from(Some(at(100_000)), now).is_err());
    }

    #[test]
    fn a_new_price_ends_the_one_that_holds_and_gives_way_to_the_one_set_for_later() {
        let price = |key, from, to: Option<i64>| Validity {
            key,
            from: at(from),
            to: to.map(at),
        };
        let prices = [price('a', 0, Some(10)), price('b', 10, None)];
        let expect = |from, ends, replaces, to: Option<i64>| {
            assert_eq!(
                insert_at(&prices, at(from)),
                Insertion {
                    ends,
                    replaces,
                    to: to.map(at)
                }
            );
        };
        expect(5, Some('a'), None, Some(10));
        expect(10, None, Some('b'), None);
        expect(20, Some('b'), None, None);
        let gap = [price('a', 0, Some(10))];
        assert_eq!(insert_at(&gap, at(15)).ends, None);
        assert_eq!(insert_at::<char>(&[], at(15)).to, None);
    }
}
