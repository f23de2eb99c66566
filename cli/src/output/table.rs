//! Tables for people: plain columns that are never cut or wrapped, so that an id can be copied from a terminal and a pipe alike.

use comfy_table::{Table, presets};
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage as _,
};

use super::{human, message};

/// A list as a table, a resource as its fields with tables of what it holds.
pub(super) fn document(message: &DynamicMessage) -> String {
    let descriptor = message.descriptor();
    let Some(field) = message::rows_field(&descriptor) else {
        return resource(message);
    };
    let mut text = list(message, &field);
    if let Some(totals) = descriptor.get_field_by_name("totals") {
        text.push_str(&report_totals(message, &totals));
    }
    let token = human::field(message, "next_page_token");
    if !token.is_empty() {
        text.push_str("\nThere is more: --page-token ");
        text.push_str(&token);
        text.push('\n');
    }
    text
}

fn list(message: &DynamicMessage, field: &FieldDescriptor) -> String {
    let rows = message::items(message, field);
    if rows.is_empty() {
        return format!("No {}.\n", field.name().replace('_', " "));
    }
    of_messages(&rows)
}

/// What a report sums to, and for which period.
fn report_totals(message: &DynamicMessage, totals: &FieldDescriptor) -> String {
    let sums: Vec<_> = message::items(message, totals)
        .iter()
        .map(human::inline)
        .collect();
    let sum = if sums.is_empty() {
        "nothing posted".to_owned()
    } else {
        sums.join(", ")
    };
    let from = human::field(message, "from_time");
    let to = human::field(message, "to_time");
    format!("\nTotal {sum}, from {from} to {to}\n")
}

/// Messages of one kind as a table.
pub(super) fn of_messages(rows: &[DynamicMessage]) -> String {
    let Some(first) = rows.first() else {
        return String::new();
    };
    let descriptor = first.descriptor();
    let columns = columns(&descriptor);
    let header = columns.iter().map(|(title, _)| title.clone()).collect();
    let cells = rows.iter().map(|row| {
        columns
            .iter()
            .map(|(_, field)| human::field(row, field))
            .collect()
    });
    of_rows(header, cells)
}

/// Rows under a header; an empty cell reads `-`.
pub(super) fn of_rows(header: Vec<String>, rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    for row in rows {
        table.add_row(row.into_iter().map(|cell| match cell.as_str() {
            "" => "-".to_owned(),
            _ => cell.replace('\n', " "),
        }));
    }
    finish(&mut table)
}

fn finish(table: &mut Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

/// The fields of a resource that are set, then a table for each list within it.
fn resource(message: &DynamicMessage) -> String {
    let descriptor = message.descriptor();
    let mut fields = Table::new();
    fields.load_style(presets::NOTHING);
    let mut inner = String::new();
    for field in descriptor.fields() {
        let name = field.name();
        if field.is_list() && matches!(field.kind(), Kind::Message(_)) {
            let rows = message::items(message, &field);
            if !rows.is_empty() {
                inner.push_str(&section(name, &of_messages(&rows)));
            }
            continue;
        }
        let value = human::field(message, name);
        if !value.is_empty() && !human::is_currency_of_a_price(&descriptor, name) {
            fields.add_row([human::title(name), value.replace('\n', " ")]);
        }
        if let Some(scrub) =
            message::child(message, name).filter(|child| child.descriptor().name() == "ScrubRecord")
            && let Some(steps) = scrub.descriptor().get_field_by_name("steps")
        {
            inner.push_str(&section(
                "steps of the last scrub",
                &of_messages(&message::items(&scrub, &steps)),
            ));
        }
    }
    format!("{}{inner}", finish(&mut fields))
}

fn section(title: &str, table: &str) -> String {
    format!("\n{}:\n{table}", human::title(title))
}

/// The columns of each kind's lists, by the names of their fields.
const COLUMNS: &[(&str, &str)] = &[
    (
        "ApiKey",
        "id name organization project role create_time expire_time revoke_time last_use_time",
    ),
    (
        "AuditEntry",
        "time action target_id principal_id organization_id details",
    ),
    (
        "Availability",
        "from_time to_time state fault_party instance_id evidence",
    ),
    ("Gpu", "index model uuid memory_bytes pci_bus_id serial"),
    (
        "Host",
        "name id state region sector gpu_model gpu_count lease_id last_seen_time state_reason",
    ),
    (
        "Instance",
        "ordinal state reported_state host ssh_user usable_time ended_time scrub state_reason",
    ),
    (
        "InstanceType",
        "name gpu_model gpu_count vcpus memory_gib scratch_gib price",
    ),
    (
        "Lease",
        "name id state instance_type count organization project start_time end_time state_reason",
    ),
    (
        "LeaseSegment",
        "start_time end_time price_micros rounding id",
    ),
    (
        "Offer",
        "instance_type count start_time end_time region sector available_hosts price estimated_cost",
    ),
    ("Organization", "name id create_time"),
    ("Project", "name id organization create_time"),
    (
        "ReportRow",
        "group_by group group_name usage_records usable_gpu_seconds billed_gpu_seconds amount_micros",
    ),
    (
        "UsageRecord",
        "id lease_id instance_type period_start period_end gpu_count usable_seconds billed_seconds price_micros rounding cut_by_provider amount_micros revision labels",
    ),
];

/// The columns of a list: title and field. Kinds without a choice of their own show every field that fits a cell.
fn columns(descriptor: &MessageDescriptor) -> Vec<(String, String)> {
    let chosen = COLUMNS
        .iter()
        .find(|(message, _)| *message == descriptor.name());
    let names: Vec<String> = match chosen {
        Some((_, fields)) => fields.split(' ').map(str::to_owned).collect(),
        None => descriptor
            .fields()
            .map(|field| field.name().to_owned())
            .filter(|name| !human::is_currency_of_a_price(descriptor, name))
            .collect(),
    };
    names
        .into_iter()
        .map(|name| (human::title(&name).to_uppercase(), name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chosen_column_is_a_field_of_its_message() {
        let pool = prost_reflect::DescriptorPool::decode(freehold_proto::FILE_DESCRIPTOR_SET)
            .expect("decodes");
        let mut seen = 0;
        for message in pool
            .all_messages()
            .filter(|message| message.package_name() == "freehold.v1")
        {
            for (_, field) in columns(&message) {
                assert!(
                    message.get_field_by_name(&field).is_some(),
                    "{}.{field}",
                    message.name()
                );
                seen += 1;
            }
        }
        assert!(seen > 100);
    }
}
