//! JSON: snake-case names and every field, in the proto's order.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, ReflectMessage as _, Value};
use serde::{
    Serialize, Serializer,
    ser::{SerializeMap as _, SerializeSeq as _},
};

use super::message;

/// One document with a newline at its end.
pub(super) fn document(message: &DynamicMessage) -> String {
    pretty(&Shown(message))
}

/// One line.
pub(super) fn line(message: &DynamicMessage) -> String {
    let text =
        serde_json::to_string(&Shown(message)).expect("keys are texts and nothing here fails");
    format!("{text}\n")
}

/// Any value as a document with a newline at its end.
pub(super) fn pretty(value: &impl Serialize) -> String {
    let text = serde_json::to_string_pretty(value).expect("keys are texts and nothing here fails");
    format!("{text}\n")
}

struct Shown<'a>(&'a DynamicMessage);

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Some(time) = message::instant(self.0) {
            return serializer.serialize_str(&message::rfc3339(time));
        }
        let descriptor = self.0.descriptor();
        let fields = descriptor.fields();
        let mut map = serializer.serialize_map(Some(fields.len()))?;
        for field in fields {
            if field.supports_presence() && !self.0.has_field(&field) {
                map.serialize_entry(field.name(), &None::<()>)?;
            } else {
                let value = self.0.get_field(&field);
                map.serialize_entry(field.name(), &ShownValue(&field, &value))?;
            }
        }
        map.end()
    }
}

struct ShownValue<'a>(&'a FieldDescriptor, &'a Value);

impl Serialize for ShownValue<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(field, value) = self;
        match value {
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::I32(value) => serializer.serialize_i32(*value),
            Value::I64(value) => serializer.serialize_i64(*value),
            Value::U32(value) => serializer.serialize_u32(*value),
            Value::U64(value) => serializer.serialize_u64(*value),
            // serde_json writes null for what is not finite.
            Value::F32(value) => serializer.serialize_f32(*value),
            Value::F64(value) => serializer.serialize_f64(*value),
            Value::String(value) => serializer.serialize_str(value),
            Value::Bytes(value) => serializer.serialize_str(&STANDARD.encode(value)),
            Value::EnumNumber(number) => match field.kind() {
                Kind::Enum(descriptor) => {
                    message::enum_name(&descriptor, *number).serialize(serializer)
                }
                _ => serializer.serialize_i32(*number),
            },
            Value::Message(message) => Shown(message).serialize(serializer),
            Value::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    list.serialize_element(&ShownValue(field, item))?;
                }
                list.end()
            }
            Value::Map(entries) => {
                let mut sorted: Vec<_> = entries.iter().collect();
                sorted.sort_by(|a, b| a.0.cmp(b.0));
                let entry = match field.kind() {
                    Kind::Message(entry) => entry.map_entry_value_field(),
                    _ => (*field).clone(),
                };
                let mut map = serializer.serialize_map(Some(sorted.len()))?;
                for (key, value) in sorted {
                    map.serialize_entry(&message::map_key(key), &ShownValue(&entry, value))?;
                }
                map.end()
            }
        }
    }
}
