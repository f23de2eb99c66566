//! How people read a field: money with its currency, sizes in GiB, instants in UTC, absence as nothing.

use chrono::{DateTime, Utc};
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage as _, Value,
};

use super::message;

const GIB: f64 = 1_073_741_824.0;

/// A field's title: `gpu model`.
pub(super) fn title(name: &str) -> String {
    match name {
        "amount_micros" => "amount".to_owned(),
        "price_micros" | "micros" => "price".to_owned(),
        "billed_gpu_seconds" => "billed gpu-hours".to_owned(),
        "usable_gpu_seconds" => "usable gpu-hours".to_owned(),
        "instance_type" => "type".to_owned(),
        name => {
            let units = ["_bytes", "_gib", "_milliwatts"];
            let name = units
                .iter()
                .fold(name.to_owned(), |name, unit| name.replace(unit, ""));
            name.replace('_', " ")
        }
    }
}

/// True for the `currency` that is shown with the amount beside it.
pub(super) fn is_currency_of_a_price(descriptor: &MessageDescriptor, name: &str) -> bool {
    name == "currency" && descriptor.fields().any(|field| is_money(&field))
}

fn is_money(field: &FieldDescriptor) -> bool {
    let name = field.name();
    name == "micros" || name.ends_with("_micros")
}

/// A field's value as people read it; empty when it is not set.
pub(super) fn field(message: &DynamicMessage, name: &str) -> String {
    let Some(field) = message.descriptor().get_field_by_name(name) else {
        return String::new();
    };
    if field.supports_presence() && !message.has_field(&field) {
        return String::new();
    }
    let value = message.get_field(&field);
    if is_money(&field)
        && let Some(micros) = value.as_i64()
    {
        return money(micros, &self::field(message, "currency"));
    }
    match (integer(&value), value.as_f64()) {
        (Some(number), _) => quantity(name, number),
        (None, Some(number)) if name.contains("_milliwatts") => watts(number),
        _ => text(&field, &value),
    }
}

fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::I32(value) => Some(i64::from(*value)),
        Value::U32(value) => Some(i64::from(*value)),
        Value::I64(value) => Some(*value),
        _ => None,
    }
}

/// A number with what its name says of its unit.
#[allow(
    clippy::cast_precision_loss,
    reason = "shown with few digits; exact numbers are in JSON and CSV"
)]
fn quantity(name: &str, number: i64) -> String {
    let real = number as f64;
    if name.ends_with("_bytes") || name.ends_with("_bytes_max") {
        format!("{:.1} GiB", real / GIB)
    } else if name.ends_with("_gpu_seconds") {
        format!("{:.2}", real / 3600.0)
    } else if name.ends_with("_milliwatts") {
        watts(real)
    } else if name.ends_with("_gib") {
        format!("{number} GiB")
    } else {
        number.to_string()
    }
}

fn watts(milliwatts: f64) -> String {
    format!("{:.0} W", milliwatts / 1000.0)
}

fn text(field: &FieldDescriptor, value: &Value) -> String {
    match value {
        Value::Bool(value) => if *value { "yes" } else { "no" }.to_owned(),
        Value::F32(value) => format!("{value:.1}"),
        Value::F64(value) => format!("{value:.1}"),
        Value::String(value) => message::printable(value),
        Value::Bytes(value) => format!("{} bytes", value.len()),
        Value::EnumNumber(number) => match field.kind() {
            Kind::Enum(descriptor) => message::enum_name(&descriptor, *number).unwrap_or_default(),
            _ => number.to_string(),
        },
        Value::Message(message) => inline(message),
        Value::List(items) => items
            .iter()
            .map(|item| text(field, item))
            .collect::<Vec<_>>()
            .join(", "),
        Value::Map(entries) => {
            let mut pairs: Vec<_> = entries
                .iter()
                .map(|(key, value)| {
                    message::printable(&format!("{}={}", message::map_key(key), text(field, value)))
                })
                .collect();
            pairs.sort();
            pairs.join(",")
        }
        other => integer(other)
            .map(|number| number.to_string())
            .unwrap_or_default(),
    }
}

/// A message within a cell.
pub(super) fn inline(message: &DynamicMessage) -> String {
    if let Some(time) = message::instant(message) {
        return instant(time);
    }
    let get = |name| field(message, name);
    match message.descriptor().name() {
        "Money" => get("micros"),
        "Price" => price(message),
        "ScrubRecord" => scrub(message),
        "SshGateway" => format!("{}:{}", get("host"), get("port")),
        _ => get("id"),
    }
}

/// `1.89 USD per GPU-hour, each started hour`.
fn price(message: &DynamicMessage) -> String {
    let get = |name| field(message, name);
    let unit = match get("unit").as_str() {
        "gpu_hour" | "" => "GPU-hour".to_owned(),
        unit => unit.to_owned(),
    };
    let quantity = match get("quantity").as_str() {
        "1" | "0" => String::new(),
        quantity => format!("{quantity} "),
    };
    let rounding = match get("rounding").as_str() {
        "" => String::new(),
        rounding => format!(", each started {rounding}"),
    };
    format!("{} per {quantity}{unit}{rounding}", get("micros"))
}

/// `passed`, or what failed.
fn scrub(message: &DynamicMessage) -> String {
    let result = field(message, "result");
    let failed: Vec<_> = message
        .descriptor()
        .get_field_by_name("steps")
        .map(|steps| message::items(message, &steps))
        .unwrap_or_default()
        .iter()
        .filter(|step| field(step, "result") == "failed")
        .map(|step| match field(step, "detail").as_str() {
            "" => field(step, "name"),
            detail => format!("{}: {detail}", field(step, "name")),
        })
        .collect();
    if failed.is_empty() {
        result
    } else {
        format!("{result} ({})", failed.join("; "))
    }
}

/// `2026-11-23 08:00:00Z`.
pub(super) fn instant(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// `1.89 USD`: at least two decimals, at most the six that micros have.
pub(super) fn money(micros: i64, currency: &str) -> String {
    let sign = if micros < 0 { "-" } else { "" };
    let whole = micros.unsigned_abs() / 1_000_000;
    let fraction = format!("{:06}", micros.unsigned_abs() % 1_000_000);
    let digits = fraction.trim_end_matches('0').len().max(2);
    let (fraction, _) = fraction.split_at(digits);
    format!("{sign}{whole}.{fraction} {currency}")
        .trim_end()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_keeps_every_micro() {
        for (micros, expected) in [
            (0, "0.00 USD"),
            (1_890_000, "1.89 USD"),
            (2_100_000, "2.10 USD"),
            (-500_000, "-0.50 USD"),
            (1, "0.000001 USD"),
            (i64::MIN, "-9223372036854.775808 USD"),
        ] {
            assert_eq!(money(micros, "USD"), expected);
        }
    }
}
