//! Why a lease is where it is, was paused, and cost what it cost.

use freehold_proto::id::LeaseId;
use sqlx::PgConnection;

use super::{
    model::lease::LeaseState,
    store::{self, AvailabilityRow, History, LeaseRecord},
};
use crate::{billing::model::decimal, error::Result};

/// A lease with its past and a sentence on it.
#[derive(Debug, Clone)]
pub(super) struct Explanation {
    pub(super) record: LeaseRecord,
    pub(super) summary: String,
    pub(super) history: History,
}

pub(super) async fn explain(connection: &mut PgConnection, lease: LeaseId) -> Result<Explanation> {
    let record = store::load_lease(connection, lease).await?;
    let history = store::load_history(connection, lease).await?;
    Ok(Explanation {
        summary: summarize(&record, &history),
        record,
        history,
    })
}

/// Where the lease is and why, what to do, and what it cost, in words.
fn summarize(record: &LeaseRecord, history: &History) -> String {
    let lease = &record.lease;
    let mut words = format!(
        "Lease {} is {}: {}.",
        lease.name,
        lease.state,
        lease.state_reason.trim_end_matches('.')
    );
    if let Some(pause) = pause(&history.availability) {
        words.push_str(&format!(" {pause}"));
    }
    if let Some(advice) = lease.state.parse().ok().and_then(advice) {
        words.push_str(&format!(" {advice}"));
    }
    let settled = if lease.settled_at.is_some() {
        "in all"
    } else {
        "so far"
    };
    match &history.cost {
        Some((micros, currency)) => {
            words.push_str(&format!(
                " It has cost {} {currency} {settled}.",
                decimal(*micros)
            ));
        }
        None => words.push_str(&format!(" Nothing has been billed {settled}.")),
    }
    words
}

/// Why the meter stands still now, or runs although the instance is not usable.
fn pause(availability: &[AvailabilityRow]) -> Option<String> {
    let open = availability
        .iter()
        .rev()
        .find(|row| row.to_at.is_none() && row.state != "usable")?;
    let since = open.from_at.format("%Y-%m-%dT%H:%M:%SZ");
    Some(if open.fault_party == "tenant" {
        format!(
            "Since {since} it is not usable by its own doing ({}), and the meter runs: log in and repair it, or end the lease.",
            open.evidence
        )
    } else {
        format!("The meter is paused since {since}: {}.", open.evidence)
    })
}

fn advice(state: LeaseState) -> Option<&'static str> {
    match state {
        LeaseState::Waitlisted => {
            Some("It gets hosts when some become free; end it if you no longer want it.")
        }
        LeaseState::Impaired => Some(
            "The platform repairs what is its own fault; end the lease if you do not want to wait.",
        ),
        LeaseState::Failed => Some("Create it again once the reason is gone."),
        LeaseState::Scheduled
        | LeaseState::Provisioning
        | LeaseState::Active
        | LeaseState::Ending
        | LeaseState::Ended => None,
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};
    use uuid::Uuid;

    use super::*;
    use crate::leases::store::LeaseRow;

    fn record(state: &str, reason: &str) -> LeaseRecord {
        let at = DateTime::<Utc>::UNIX_EPOCH;
        LeaseRecord {
            lease: LeaseRow {
                id: Uuid::nil(),
                organization_id: Uuid::nil(),
                organization: String::new(),
                project_id: Uuid::nil(),
                project: String::new(),
                name: "train".to_owned(),
                instance_type: String::new(),
                count: 1,
                image: String::new(),
                labels: serde_json::Value::Null,
                state: state.to_owned(),
                state_reason: reason.to_owned(),
                start_at: at,
                end_at: None,
                created_by: Uuid::nil(),
                created_at: at,
                end_requested_at: None,
                ended_at: None,
                settled_at: None,
            },
            instances: Vec::new(),
            segments: Vec::new(),
            ssh_public_keys: Vec::new(),
        }
    }

    fn history(fault_party: Option<&str>, cost: Option<i64>) -> History {
        let stretch = |party: &str| AvailabilityRow {
            instance_id: Uuid::nil(),
            from_at: DateTime::UNIX_EPOCH,
            to_at: None,
            state: "unusable".to_owned(),
            fault_party: party.to_owned(),
            evidence: "the evidence".to_owned(),
        };
        History {
            events: Vec::new(),
            availability: fault_party.map(stretch).into_iter().collect(),
            cost: cost.map(|micros| (micros, "USD".to_owned())),
        }
    }

    #[test]
    fn the_summary_says_state_reason_and_cost() {
        assert_eq!(
            summarize(
                &record("active", "every instance is usable"),
                &history(None, Some(3_780_000))
            ),
            "Lease train is active: every instance is usable. It has cost 3.78 USD so far."
        );
    }

    #[test]
    fn a_pause_is_the_platforms_and_a_tenants_fault_the_tenants() {
        let impaired = record("impaired", "instance 0 is not usable");
        let paused = summarize(&impaired, &history(Some("provider"), None));
        assert!(
            paused.contains("The meter is paused since 1970-01-01T00:00:00Z: the evidence."),
            "{paused}"
        );
        assert!(paused.ends_with("Nothing has been billed so far."));
        let running = summarize(&impaired, &history(Some("tenant"), None));
        assert!(running.contains("the meter runs"), "{running}");
    }
}
