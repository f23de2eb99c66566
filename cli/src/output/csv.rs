//! CSV: a header and rows of the scalar columns. A single message within a row gives columns of its own (`price_micros`); what is repeated is
//! left to JSON.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage as _, Value,
};

use super::message;

/// A list's rows, or the one row of a resource.
pub(super) fn document(message: &DynamicMessage) -> String {
    let descriptor = message.descriptor();
    let rows = message::rows_field(&descriptor).or_else(|| inner_rows(&descriptor));
    match rows {
        Some(field) => {
            let Kind::Message(row) = field.kind() else {
                return rows_of(&descriptor, std::slice::from_ref(message), true);
            };
            rows_of(&row, &message::items(message, &field), true)
        }
        None => rows_of(&descriptor, std::slice::from_ref(message), true),
    }
}

/// What is no list and no resource is shown by the rows it is about.
fn inner_rows(descriptor: &MessageDescriptor) -> Option<FieldDescriptor> {
    match descriptor.name() {
        "ExplainLeaseResponse" => descriptor.get_field_by_name("events"),
        "HostTelemetry" => descriptor.get_field_by_name("gpus"),
        _ => None,
    }
}

/// One row, with a header before the first.
pub(super) fn rows(message: &DynamicMessage, header: bool) -> String {
    rows_of(&message.descriptor(), std::slice::from_ref(message), header)
}

/// Objects of scalars and lists of texts, all with the same keys, as a header and rows.
pub(super) fn objects(values: &[serde_json::Value]) -> String {
    let objects: Vec<_> = values
        .iter()
        .filter_map(serde_json::Value::as_object)
        .collect();
    let Some(first) = objects.first() else {
        return String::new();
    };
    let header = first.keys().cloned().collect();
    let rows = objects
        .iter()
        .map(|object| object.values().map(plain).collect());
    lines(std::iter::once(header).chain(rows))
}

fn plain(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => String::new(),
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(";"),
        other => other.to_string(),
    }
}

/// A column: the way to its field.
struct Column {
    name: String,
    outer: Option<FieldDescriptor>,
    field: FieldDescriptor,
}

fn rows_of(descriptor: &MessageDescriptor, rows: &[DynamicMessage], header: bool) -> String {
    let columns = columns(descriptor);
    let names = header.then(|| columns.iter().map(|column| column.name.clone()).collect());
    let cells = rows
        .iter()
        .map(|row| columns.iter().map(|column| cell(row, column)).collect());
    lines(names.into_iter().chain(cells))
}

fn lines(records: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for record in records {
        writer
            .write_record(&record)
            .expect("rows are of one length and memory takes them");
    }
    let bytes = writer.into_inner().expect("memory takes what is left");
    String::from_utf8_lossy(&bytes).into_owned()
}

fn columns(descriptor: &MessageDescriptor) -> Vec<Column> {
    let mut columns = Vec::new();
    for field in descriptor.fields() {
        match field.kind() {
            _ if field.is_list() => {}
            Kind::Message(inner) if !field.is_map() && !message::is_instant(&field) => {
                let nested = inner.fields().filter(is_scalar).map(|nested| Column {
                    name: format!("{}_{}", field.name(), nested.name()),
                    outer: Some(field.clone()),
                    field: nested,
                });
                columns.extend(nested);
            }
            _ => columns.push(Column {
                name: field.name().to_owned(),
                outer: None,
                field,
            }),
        }
    }
    columns
}

fn is_scalar(field: &FieldDescriptor) -> bool {
    let message = matches!(field.kind(), Kind::Message(_)) && !message::is_instant(field);
    !field.is_list() && !message
}

fn cell(row: &DynamicMessage, column: &Column) -> String {
    let inner;
    let holder = match &column.outer {
        Some(outer) => match message::child(row, outer.name()) {
            Some(child) => {
                inner = child;
                &inner
            }
            None => return String::new(),
        },
        None => row,
    };
    if column.field.supports_presence() && !holder.has_field(&column.field) {
        return String::new();
    }
    text(&column.field, &holder.get_field(&column.field))
}

fn text(field: &FieldDescriptor, value: &Value) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::I32(value) => value.to_string(),
        Value::I64(value) => value.to_string(),
        Value::U32(value) => value.to_string(),
        Value::U64(value) => value.to_string(),
        Value::F32(value) => value.to_string(),
        Value::F64(value) => value.to_string(),
        Value::String(value) => value.clone(),
        Value::Bytes(value) => STANDARD.encode(value),
        Value::EnumNumber(number) => match field.kind() {
            Kind::Enum(descriptor) => message::enum_name(&descriptor, *number).unwrap_or_default(),
            _ => number.to_string(),
        },
        Value::Message(message) => message::instant(message)
            .map(message::rfc3339)
            .unwrap_or_default(),
        Value::Map(entries) => {
            let mut pairs: Vec<_> = entries
                .iter()
                .map(|(key, value)| format!("{}={}", message::map_key(key), text(field, value)))
                .collect();
            pairs.sort();
            pairs.join(";")
        }
        Value::List(_) => String::new(),
    }
}
