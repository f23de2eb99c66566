//! Answers that read as a story: what became of a lease.

use freehold_proto::{time::micros_from_timestamp, v1};
use prost_types::Timestamp;

use super::{human, message, table};

/// Why a lease is where it is, was paused, and cost what it cost.
pub(super) fn explanation(explanation: &v1::ExplainLeaseResponse) -> String {
    let lease = explanation.lease.clone().unwrap_or_default();
    let mut text = format!(
        "{} ({}) is {}: {}\n",
        message::printable(&lease.name),
        lease.id,
        state_name(lease.state()),
        message::printable(&explanation.summary)
    );
    let node = |instance: &str| match lease.instances.iter().find(|found| found.id == instance) {
        Some(found) => format!("instance {}", found.ordinal),
        None if instance.is_empty() => "the lease".to_owned(),
        None => instance.to_owned(),
    };
    if !explanation.events.is_empty() {
        text.push_str("\nWhat happened:\n");
        let rows = explanation.events.iter().map(|event| {
            let detail = message::printable(&event.detail);
            vec![
                when(event.time.as_ref()),
                message::printable(&event.kind),
                node(&event.instance_id),
                detail,
            ]
        });
        text.push_str(&table::of_rows(
            titles(&["TIME", "WHAT", "WHERE", "DETAIL"]),
            rows,
        ));
    }
    if !explanation.availability.is_empty() {
        text.push_str("\nWhen it was usable (what the meter reads):\n");
        let rows = explanation.availability.iter().map(|stretch| {
            let to = stretch
                .to_time
                .as_ref()
                .map_or_else(|| "goes on".to_owned(), |to| when(Some(to)));
            let state = lower(stretch.state().as_str_name(), "AVAILABILITY_STATE_");
            let fault = lower(stretch.fault_party().as_str_name(), "FAULT_PARTY_");
            let evidence = message::printable(&stretch.evidence);
            vec![
                when(stretch.from_time.as_ref()),
                to,
                node(&stretch.instance_id),
                state,
                fault,
                evidence,
            ]
        });
        let header = titles(&["FROM", "TO", "WHERE", "STATE", "FAULT OF", "EVIDENCE"]);
        text.push_str(&table::of_rows(header, rows));
    }
    let cost = explanation.cost.clone().unwrap_or_default();
    let cost = match cost.currency.as_str() {
        "" => "nothing has been posted".to_owned(),
        currency => format!("{} posted so far", human::money(cost.micros, currency)),
    };
    text.push_str(&format!("\nCost: {cost}\n"));
    text
}

/// One line for a lease that changed.
pub(super) fn change(lease: &v1::Lease) -> String {
    let now = human::instant(chrono::Utc::now());
    let reason = match lease.state_reason.as_str() {
        "" => String::new(),
        reason => format!(": {}", message::printable(reason)),
    };
    let mut text = format!(
        "{now}  {}  {}{reason}\n",
        message::printable(&lease.name),
        state_name(lease.state())
    );
    for instance in &lease.instances {
        let state = lower(instance.state().as_str_name(), "INSTANCE_STATE_");
        let place = if instance.host.is_empty() {
            "no host"
        } else {
            &instance.host
        };
        let reason = message::printable(&instance.state_reason);
        text.push_str(&format!(
            "{:22}instance {} on {}  {state}",
            "",
            instance.ordinal,
            message::printable(place)
        ));
        if !reason.is_empty() {
            text.push_str(&format!(": {reason}"));
        }
        text.push('\n');
    }
    text
}

/// A lease's state in lower case: `active`.
pub(crate) fn state_name(state: v1::LeaseState) -> String {
    lower(state.as_str_name(), "LEASE_STATE_")
}

fn lower(name: &str, prefix: &str) -> String {
    match name.strip_prefix(prefix).unwrap_or(name) {
        "UNSPECIFIED" => String::new(),
        name => name.to_ascii_lowercase(),
    }
}

fn titles(titles: &[&str]) -> Vec<String> {
    titles.iter().map(|title| (*title).to_owned()).collect()
}

fn when(time: Option<&Timestamp>) -> String {
    time.and_then(micros_from_timestamp)
        .and_then(chrono::DateTime::from_timestamp_micros)
        .map(human::instant)
        .unwrap_or_default()
}
