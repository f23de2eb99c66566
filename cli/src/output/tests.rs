//! What scripts parse and what people read, of messages made here.

use std::collections::BTreeMap;

use freehold_proto::v1::*;
use prost_types::Timestamp;

use super::*;

/// Seconds after 2026-11-23 08:00:00Z.
fn at(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp {
        seconds: 1_795_420_800 + seconds,
        nanos: 0,
    })
}

fn id(prefix: &str, number: u32) -> String {
    format!("{prefix}_0193f0f0f0f07000{number:016x}")
}

fn labels() -> BTreeMap<String, String> {
    BTreeMap::from([
        ("team".to_owned(), "vision".to_owned()),
        ("run".to_owned(), "a;b".to_owned()),
    ])
}

fn scrub() -> ScrubRecord {
    let step = |name: &str, result: StepResult, detail: &str| Step {
        name: name.to_owned(),
        result: result.into(),
        detail: detail.to_owned(),
        duration_ms: 12,
    };
    ScrubRecord {
        id: id("scrub", 1),
        host_id: id("host", 1),
        instance_id: id("inst", 1),
        result: StepResult::Failed.into(),
        steps: vec![
            step("container_removed", StepResult::Passed, ""),
            step("gpu_count", StepResult::Failed, "7 of 8 GPUs answer"),
            step("mig_mode", StepResult::Skipped, "the model has none"),
        ],
        start_time: at(3600),
        end_time: at(3605),
    }
}

fn lease() -> Lease {
    let instance = |ordinal: i32, state: InstanceState| Instance {
        id: id("inst", 1 + u32::try_from(ordinal).expect("small")),
        ordinal,
        state: state.into(),
        reported_state: ReportedState::Running.into(),
        host_id: id("host", 1),
        host: "gpu-node-1".to_owned(),
        generation: 1,
        gpu_uuids: vec!["GPU-1".to_owned(), "GPU-2".to_owned()],
        usable_time: at(31),
        ssh_user: format!("{}.{ordinal}", id("lease", 1)),
        ..Default::default()
    };
    Lease {
        id: id("lease", 1),
        name: "vision".to_owned(),
        state: LeaseState::Active.into(),
        organization_id: id("org", 1),
        organization: "lab".to_owned(),
        project_id: id("project", 1),
        project: "default".to_owned(),
        instance_type: "gpu_8x_h100_sxm5".to_owned(),
        count: 2,
        image: "freehold/base:1".to_owned(),
        labels: labels(),
        create_time: Some(Timestamp {
            seconds: 1_795_420_800,
            nanos: 123_456_700,
        }),
        start_time: at(0),
        instances: vec![
            instance(0, InstanceState::Usable),
            instance(1, InstanceState::Usable),
        ],
        segments: vec![LeaseSegment {
            id: id("segment", 1),
            start_time: at(0),
            price_micros: 1_890_000,
            currency: "USD".to_owned(),
            rounding: Rounding::Hour.into(),
            ..Default::default()
        }],
        creator_id: id("principal", 1),
        ..Default::default()
    }
}

fn price() -> Price {
    Price {
        id: id("price", 1),
        instance_type: "gpu_8x_h100_sxm5".to_owned(),
        micros: 1_890_000,
        currency: "USD".to_owned(),
        unit: "gpu_hour".to_owned(),
        quantity: 1,
        rounding: Rounding::Hour.into(),
        valid_from: at(0),
        valid_to: None,
    }
}

fn types() -> ListInstanceTypesResponse {
    ListInstanceTypesResponse {
        instance_types: vec![InstanceType {
            id: id("type", 1),
            name: "gpu_8x_h100_sxm5".to_owned(),
            gpu_model: "H100 80GB HBM3".to_owned(),
            gpu_count: 8,
            vcpus: 208,
            memory_gib: 1800,
            scratch_gib: 20_000,
            price: Some(price()),
            create_time: at(0),
        }],
        next_page_token: String::new(),
    }
}

fn report() -> GetReportResponse {
    let row = |group: &str, amount_micros: i64| ReportRow {
        group_by: "label:team".to_owned(),
        group: group.to_owned(),
        group_name: String::new(),
        usage_records: 3,
        usable_gpu_seconds: 27_000,
        billed_gpu_seconds: 28_800,
        amount_micros,
        currency: "USD".to_owned(),
    };
    GetReportResponse {
        rows: vec![row("vision", 15_120_000), row("", 500_000)],
        next_page_token: "more".to_owned(),
        totals: vec![Money {
            micros: 15_620_000,
            currency: "USD".to_owned(),
        }],
        from_time: at(0),
        to_time: at(86_400),
    }
}

fn usage() -> ListUsageRecordsResponse {
    ListUsageRecordsResponse {
        usage_records: vec![UsageRecord {
            id: id("usage", 1),
            organization_id: id("org", 1),
            project_id: id("project", 1),
            lease_id: id("lease", 1),
            instance_id: id("inst", 1),
            segment_id: id("segment", 1),
            instance_type: "gpu_8x_h100_sxm5".to_owned(),
            meter: "gpu_time".to_owned(),
            period_start: at(0),
            period_end: at(3600),
            usable_seconds: 3375,
            billed_seconds: 3600,
            gpu_count: 8,
            price_micros: 1_890_000,
            rounding: Rounding::Hour.into(),
            amount_micros: 15_120_000,
            currency: "USD".to_owned(),
            labels: labels(),
            post_time: at(3700),
            ledger_transaction_id: id("ledger", 1),
            ..Default::default()
        }],
        next_page_token: String::new(),
    }
}

fn host() -> Host {
    Host {
        id: id("host", 1),
        name: "gpu-node-1".to_owned(),
        state: HostState::Quarantined.into(),
        state_reason: "the scrub failed: gpu_count\u{1b}[31m".to_owned(),
        region: "default".to_owned(),
        sector: "sector_1".to_owned(),
        gpu_model: "H100 80GB HBM3".to_owned(),
        gpu_count: 8,
        gpus: vec![Gpu {
            uuid: "GPU-1".to_owned(),
            index: 0,
            model: "H100 80GB HBM3".to_owned(),
            serial: "165".to_owned(),
            pci_bus_id: "00000000:1B:00.0".to_owned(),
            memory_bytes: 85_520_809_984,
        }],
        vcpus: 208,
        memory_bytes: 2_164_663_517_184,
        simulated: true,
        create_time: at(-86_400),
        last_seen_time: at(0),
        last_scrub: Some(scrub()),
        ..Default::default()
    }
}

fn explanation() -> ExplainLeaseResponse {
    let event = |seconds: i64, kind: &str, detail: &str, instance: &str| LeaseEvent {
        time: at(seconds),
        kind: kind.to_owned(),
        detail: detail.to_owned(),
        instance_id: instance.to_owned(),
    };
    ExplainLeaseResponse {
        lease: Some(lease()),
        summary: "both instances are usable.".to_owned(),
        events: vec![
            event(0, "booked", "2 × gpu_8x_h100_sxm5 at 1.89 USD", ""),
            event(
                31,
                "usable",
                "SSH answered and 8 GPUs were seen",
                &id("inst", 2),
            ),
        ],
        availability: vec![Availability {
            instance_id: id("inst", 1),
            from_time: at(31),
            to_time: None,
            state: AvailabilityState::Usable.into(),
            fault_party: FaultParty::None.into(),
            evidence: "probe".to_owned(),
        }],
        cost: Some(Money {
            micros: 15_120_000,
            currency: "USD".to_owned(),
        }),
    }
}

fn telemetry() -> HostTelemetry {
    HostTelemetry {
        host_id: id("host", 1),
        sample_time: at(5),
        gpus: vec![GpuTelemetry {
            uuid: "GPU-1".to_owned(),
            index: 0,
            utilization_percent: Some(97),
            memory_used_bytes: Some(42_949_672_960),
            temperature_celsius: Some(61),
            power_milliwatts: Some(612_400),
            ..Default::default()
        }],
        rollups: vec![GpuRollup {
            uuid: "GPU-1".to_owned(),
            time: at(-60),
            samples: 6,
            utilization_percent_mean: Some(93.5),
            power_milliwatts_mean: Some(598_700.5),
            ..Default::default()
        }],
        events: vec![GpuEvent {
            time: at(-10),
            gpu_uuid: "GPU-1".to_owned(),
            kind: "xid".to_owned(),
            xid: Some(79),
            detail: "fell off the bus".to_owned(),
        }],
    }
}

#[test]
fn json_has_every_field_under_its_proto_name() {
    insta::assert_snapshot!("lease.json", render(Format::Json, &lease()));
    insta::assert_snapshot!("types.json", render(Format::Json, &types()));
    insta::assert_snapshot!("report.json", render(Format::Json, &report()));
    insta::assert_snapshot!("telemetry.json", render(Format::Json, &telemetry()));
}

#[test]
fn json_of_an_empty_list_is_an_empty_array_and_an_empty_token() {
    let text = render(Format::Json, &ListLeasesResponse::default());
    insta::assert_snapshot!(text, @r#"
    {
      "leases": [],
      "next_page_token": ""
    }
    "#);
}

#[test]
fn a_stream_is_one_json_object_a_line() {
    let text = json::line(&message::reflect(&lease()));
    assert_eq!(text.matches('\n').count(), 1);
    let value: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(value["state"], "active");
}

#[test]
fn csv_has_a_header_and_the_scalar_columns() {
    insta::assert_snapshot!("report.csv", render(Format::Csv, &report()));
    insta::assert_snapshot!("usage.csv", render(Format::Csv, &usage()));
    insta::assert_snapshot!("types.csv", render(Format::Csv, &types()));
}

#[test]
fn csv_of_an_empty_list_is_its_header() {
    let text = render(Format::Csv, &ListProjectsResponse::default());
    assert_eq!(text, "id,name,organization_id,organization,create_time\n");
}

#[test]
fn tables_are_read_by_people() {
    insta::assert_snapshot!("lease.table", render(Format::Table, &lease()));
    let leases = ListLeasesResponse {
        leases: vec![lease()],
        next_page_token: String::new(),
    };
    insta::assert_snapshot!("leases.table", render(Format::Table, &leases));
    insta::assert_snapshot!("types.table", render(Format::Table, &types()));
    insta::assert_snapshot!("report.table", render(Format::Table, &report()));
    insta::assert_snapshot!("usage.table", render(Format::Table, &usage()));
    insta::assert_snapshot!("telemetry.table", render(Format::Table, &telemetry()));
}

#[test]
fn a_quarantined_host_shows_its_reason_and_its_steps_and_drives_no_terminal() {
    let text = render(Format::Table, &host());
    assert!(!text.contains('\u{1b}'));
    insta::assert_snapshot!("host.table", text);
}

#[test]
fn an_explanation_reads_as_a_story() {
    insta::assert_snapshot!("explanation.table", story::explanation(&explanation()));
}

#[test]
fn an_empty_list_says_so() {
    assert_eq!(
        render(Format::Table, &ListLeasesResponse::default()),
        "No leases.\n"
    );
}
