//! Generated messages seen through their descriptors, and the small readings that every format shares.

use std::sync::OnceLock;

use chrono::{DateTime, SecondsFormat, Utc};
use prost::{Message, Name};
use prost_reflect::{
    DescriptorPool, DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MapKey,
    MessageDescriptor, ReflectMessage as _, Value,
};

/// Full name of the one message that is shown as an instant.
const TIMESTAMP: &str = "google.protobuf.Timestamp";

fn pool() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| {
        DescriptorPool::decode(freehold_proto::FILE_DESCRIPTOR_SET)
            .expect("the descriptor set is compiled in and its crate's build made it")
    })
}

/// A generated message as a dynamic one.
pub(super) fn reflect<M: Message + Name>(message: &M) -> DynamicMessage {
    let descriptor = pool()
        .get_message_by_name(&M::full_name())
        .expect("generated messages stand in the descriptor set they were generated from");
    DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .expect("what was encoded by the same descriptor decodes")
}

/// The instant in a timestamp message; `None` for other messages and for instants outside the calendar.
pub(super) fn instant(message: &DynamicMessage) -> Option<DateTime<Utc>> {
    if message.descriptor().full_name() != TIMESTAMP {
        return None;
    }
    let seconds = message.get_field_by_name("seconds")?.as_i64()?;
    let nanos = message.get_field_by_name("nanos")?.as_i32()?;
    DateTime::from_timestamp(seconds, u32::try_from(nanos).ok()?)
}

/// True for fields that hold an instant.
pub(super) fn is_instant(field: &FieldDescriptor) -> bool {
    matches!(field.kind(), Kind::Message(message) if message.full_name() == TIMESTAMP)
}

/// RFC 3339 in UTC with `Z`, to the microsecond, without zeros at the end.
pub(super) fn rfc3339(time: DateTime<Utc>) -> String {
    let text = time.to_rfc3339_opts(SecondsFormat::Micros, true);
    let digits = text
        .trim_end_matches('Z')
        .trim_end_matches('0')
        .trim_end_matches('.');
    if text.contains('.') {
        format!("{digits}Z")
    } else {
        text
    }
}

/// `ACTIVE` of `LEASE_STATE_ACTIVE`, in lower case; `None` for the zero value, the number's digits for an unknown one.
pub(super) fn enum_name(descriptor: &EnumDescriptor, number: i32) -> Option<String> {
    if number == 0 {
        return None;
    }
    let Some(value) = descriptor.get_value(number) else {
        return Some(number.to_string());
    };
    let zero = descriptor.default_value();
    let prefix = zero.name().trim_end_matches("UNSPECIFIED");
    let name = value.name();
    Some(
        name.strip_prefix(prefix)
            .unwrap_or(name)
            .to_ascii_lowercase(),
    )
}

/// A map's key as text.
pub(super) fn map_key(key: &MapKey) -> String {
    match key {
        MapKey::Bool(value) => value.to_string(),
        MapKey::I32(value) => value.to_string(),
        MapKey::I64(value) => value.to_string(),
        MapKey::U32(value) => value.to_string(),
        MapKey::U64(value) => value.to_string(),
        MapKey::String(value) => value.clone(),
    }
}

/// The rows' field when the message is a list: a response with a page token.
pub(super) fn rows_field(descriptor: &MessageDescriptor) -> Option<FieldDescriptor> {
    descriptor.get_field_by_name("next_page_token")?;
    descriptor.fields().find(|field| field.is_list())
}

/// The messages in a repeated field.
pub(super) fn items(message: &DynamicMessage, field: &FieldDescriptor) -> Vec<DynamicMessage> {
    match message.get_field(field).into_owned() {
        Value::List(items) => items
            .into_iter()
            .filter_map(|item| match item {
                Value::Message(item) => Some(item),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// A present message field.
pub(super) fn child(message: &DynamicMessage, name: &str) -> Option<DynamicMessage> {
    let field = message.descriptor().get_field_by_name(name)?;
    if !message.has_field(&field) {
        return None;
    }
    match message.get_field(&field).into_owned() {
        Value::Message(child) => Some(child),
        _ => None,
    }
}

/// Text that may be shown on a terminal: control characters, which could drive it, are replaced.
pub(crate) fn printable(text: &str) -> String {
    let shown = |c: char| match c {
        '\n' => c,
        c if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
            '\u{fffd}'
        }
        c => c,
    };
    text.chars().map(shown).collect()
}
