use freehold_proto::{
    id::{LeaseId, ProjectId},
    v1::{self, billing_service_server::BillingService as _},
};
use tonic::{Code, Request, Status};

use super::*;
use crate::{billing::rpc::BillingRpc, page::timestamp};

async fn report(
    app: &App,
    caller: &Caller,
    body: v1::GetReportRequest,
) -> Result<v1::GetReportResponse, Status> {
    let mut request = Request::new(body);
    request.extensions_mut().insert(caller.clone());
    let answer = BillingRpc::new(app.clone()).get_report(request).await;
    answer.map(tonic::Response::into_inner)
}

async fn usage(
    app: &App,
    caller: &Caller,
    body: v1::ListUsageRecordsRequest,
) -> Result<v1::ListUsageRecordsResponse, Status> {
    let mut request = Request::new(body);
    request.extensions_mut().insert(caller.clone());
    let answer = BillingRpc::new(app.clone())
        .list_usage_records(request)
        .await;
    answer.map(tonic::Response::into_inner)
}

fn by(group_by: &str, from: DateTime<Utc>) -> v1::GetReportRequest {
    v1::GetReportRequest {
        from_time: Some(timestamp(from)),
        group_by: group_by.to_owned(),
        ..Default::default()
    }
}

/// (group, name, records, amount) of each line.
fn lines(report: &v1::GetReportResponse) -> Vec<(&str, &str, i64, i64)> {
    report
        .rows
        .iter()
        .map(|row| {
            (
                row.group.as_str(),
                row.group_name.as_str(),
                row.usage_records,
                row.amount_micros,
            )
        })
        .collect()
}

async fn posted_lease(app: &App, caller: &Caller, team: &str, minutes: i64) -> Lease {
    let labels: &[(&str, &str)] = if team.is_empty() {
        &[]
    } else {
        &[("team", team)]
    };
    let lease = lease_with(app, caller, 1, labels, "").await;
    stretch(app, &lease, 0, USABLE, 0, Some(minutes)).await;
    end(app, &lease).await;
    post(app, &lease).await;
    lease
}

fn long_ago() -> DateTime<Utc> {
    Utc::now() - TimeDelta::days(2)
}

#[tokio::test]
async fn a_report_is_grouped_as_asked_and_its_totals_are_the_sum_of_its_lines() {
    let app = testing::app().await;
    let caller = testing::tenant(&app, "vision").await;
    let first = posted_lease(&app, &caller, "blue", 30).await;
    let second = posted_lease(&app, &caller, "", 61).await;
    let ids = [first.id, second.id].map(|id| LeaseId::from(id).to_string());
    let organization = caller.organization.to_string();
    let all = (3, 3 * HOUR_MICROS);
    for (group_by, expected) in [
        ("", vec![(organization.as_str(), "vision", all.0, all.1)]),
        (
            "lease",
            vec![
                (ids[0].as_str(), "", 1, HOUR_MICROS),
                (ids[1].as_str(), "", 2, 2 * HOUR_MICROS),
            ],
        ),
        ("type", vec![(TYPE, "", all.0, all.1)]),
        (
            "label:team",
            vec![("", "", 2, 2 * HOUR_MICROS), ("blue", "", 1, HOUR_MICROS)],
        ),
        ("label:nobody", vec![("", "", all.0, all.1)]),
    ] {
        let report = report(&app, &caller, by(group_by, long_ago()))
            .await
            .unwrap();
        let mut found = lines(&report);
        if group_by == "lease" {
            for line in &mut found {
                assert!(line.1.starts_with("lease-"));
                line.1 = "";
            }
        }
        assert_eq!(found, expected, "{group_by}");
        let total = &report.totals[0];
        assert_eq!((total.micros, total.currency.as_str()), (all.1, "USD"));
        let row = &report.rows[0];
        let shown = if group_by.is_empty() {
            "organization"
        } else {
            group_by
        };
        assert_eq!(row.group_by, shown);
    }
    let organizations = report(&app, &caller, by("organization", long_ago()))
        .await
        .unwrap();
    let row = &organizations.rows[0];
    assert_eq!(
        (row.usable_gpu_seconds, row.billed_gpu_seconds),
        (8 * 91 * 60, 8 * 3 * 3600)
    );
    let projects = report(&app, &caller, by("project", long_ago()))
        .await
        .unwrap();
    assert_eq!(projects.rows[0].group_name, "default");
    assert!(projects.rows[0].group.parse::<ProjectId>().is_ok());
    let days = report(&app, &caller, by("day", long_ago())).await.unwrap();
    let first_day = first.start.format("%Y-%m-%d").to_string();
    assert_eq!(days.rows[0].group, first_day);
}

#[tokio::test]
async fn a_correction_counts_with_the_period_it_corrects() {
    let app = testing::app().await;
    let caller = testing::tenant(&app, "vision").await;
    let lease = lease(&app, &caller, 1).await;
    stretch(&app, &lease, 0, USABLE, 0, Some(20)).await;
    stretch(&app, &lease, 0, UNKNOWN, 20, Some(30)).await;
    stretch(&app, &lease, 0, USABLE, 30, Some(60)).await;
    post(&app, &lease).await;
    let of_first_hour = v1::GetReportRequest {
        to_time: Some(timestamp(lease.minute(60))),
        ..by("lease", lease.start)
    };
    let before = report(&app, &caller, of_first_hour.clone()).await.unwrap();
    assert_eq!(before.rows[0].amount_micros, HOUR_MICROS / 60 * 50);
    let mut tx = app.pool.begin().await.unwrap();
    crate::leases::availability::fill_in(
        &mut tx,
        lease.instances[0],
        lease.start,
        lease.minute(60),
        TimeDelta::minutes(15),
    )
    .await
    .unwrap();
    tx.commit().await.unwrap();
    post(&app, &lease).await;
    let after = report(&app, &caller, of_first_hour).await.unwrap();
    assert_eq!(
        (after.rows[0].amount_micros, after.rows[0].usage_records),
        (HOUR_MICROS, 3)
    );
    let none = v1::GetReportRequest {
        from_time: Some(timestamp(lease.minute(60))),
        ..Default::default()
    };
    assert!(report(&app, &caller, none).await.unwrap().rows.is_empty());
}

#[tokio::test]
async fn pages_of_a_report_follow_one_another_and_each_has_the_totals_of_all() {
    let app = testing::app().await;
    let caller = testing::tenant(&app, "vision").await;
    for team in ["a", "b", "c", "d", "e"] {
        posted_lease(&app, &caller, team, 10).await;
    }
    let (mut seen, mut token, mut times) = (Vec::new(), String::new(), Vec::new());
    loop {
        let page = v1::GetReportRequest {
            page_size: 2,
            page_token: token,
            ..by("label:team", long_ago())
        };
        let page = report(&app, &caller, page).await.unwrap();
        assert_eq!(page.totals[0].micros, 5 * HOUR_MICROS);
        times.push(page.to_time);
        seen.extend(page.rows.into_iter().map(|row| row.group));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, ["a", "b", "c", "d", "e"]);
    assert!(times.iter().all(|time| *time == times[0]), "{times:?}");
}

#[tokio::test]
async fn tenants_see_their_own_bills_a_bound_key_its_project_and_the_operator_all() {
    let app = testing::app().await;
    let vision = testing::tenant(&app, "vision").await;
    let speech = testing::tenant(&app, "speech").await;
    let operator = testing::operator(&app).await;
    let other = ProjectId::new();
    sqlx::query("insert into project (id, organization_id, name) values ($1, $2, 'other')")
        .bind(other.uuid())
        .bind(vision.organization.uuid())
        .execute(&app.pool)
        .await
        .unwrap();
    let lease = posted_lease(&app, &vision, "", 10).await;
    posted_lease(&app, &speech, "", 70).await;
    let amounts = async |caller: &Caller, organization: &str| {
        let body = v1::GetReportRequest {
            organization: organization.to_owned(),
            ..by("", long_ago())
        };
        let report = report(&app, caller, body).await?;
        Ok::<_, Status>(
            report
                .rows
                .iter()
                .map(|r| (r.group_name.clone(), r.amount_micros))
                .collect::<Vec<_>>(),
        )
    };
    let line = |name: &str, hours: i64| (name.to_owned(), hours * HOUR_MICROS);
    assert_eq!(amounts(&vision, "").await.unwrap(), [line("vision", 1)]);
    let mut all = amounts(&operator, "").await.unwrap();
    all.sort();
    assert_eq!(all, [line("speech", 2), line("vision", 1)]);
    assert_eq!(
        amounts(&operator, "speech").await.unwrap(),
        [line("speech", 2)]
    );
    for foreign in ["speech", "nobody"] {
        let error = amounts(&vision, foreign).await.unwrap_err();
        assert_eq!(error.code(), Code::NotFound);
    }
    let bound = Caller {
        project: Some(other),
        ..vision.clone()
    };
    assert!(amounts(&bound, "").await.unwrap().is_empty());
    let of_lease = |lease: &Lease| v1::ListUsageRecordsRequest {
        lease: LeaseId::from(lease.id).to_string(),
        ..Default::default()
    };
    let error = usage(&app, &speech, of_lease(&lease)).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    let error = usage(&app, &bound, of_lease(&lease)).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    let own = usage(&app, &vision, of_lease(&lease)).await.unwrap();
    assert_eq!(own.usage_records.len(), 1);
    let everyones = usage(&app, &operator, Default::default()).await.unwrap();
    assert_eq!(everyones.usage_records.len(), 3);
}

#[tokio::test]
async fn the_records_of_a_line_sum_to_it_and_are_paged_oldest_first() {
    let app = testing::app().await;
    let caller = testing::tenant(&app, "vision").await;
    let lease = lease(&app, &caller, 2).await;
    for ordinal in 0..2 {
        stretch(&app, &lease, ordinal, USABLE, 0, Some(50)).await;
        stretch(&app, &lease, ordinal, PROVIDER, 50, Some(65)).await;
        stretch(&app, &lease, ordinal, USABLE, 65, Some(200)).await;
    }
    post(&app, &lease).await;
    let (mut records, mut token) = (Vec::new(), String::new());
    loop {
        let page = v1::ListUsageRecordsRequest {
            page_size: 3,
            page_token: token,
            ..Default::default()
        };
        let page = usage(&app, &caller, page).await.unwrap();
        records.extend(page.usage_records);
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(records.len(), 2 * 4);
    let starts: Vec<i64> = records
        .iter()
        .map(|r| r.period_start.as_ref().unwrap().seconds)
        .collect();
    assert!(starts.is_sorted());
    let line = report(&app, &caller, by("lease", long_ago()))
        .await
        .unwrap();
    let line = &line.rows[0];
    let sum: i64 = records.iter().map(|r| r.amount_micros).sum();
    let seconds: i64 = records
        .iter()
        .map(|r| r.billed_seconds * i64::from(r.gpu_count))
        .sum();
    assert_eq!(
        (
            line.amount_micros,
            line.billed_gpu_seconds,
            line.usage_records
        ),
        (sum, seconds, 8)
    );
    for record in records {
        assert_eq!(record.lease_id, line.group);
        assert_eq!(record.rounding(), v1::Rounding::Hour);
        assert!(record.ledger_transaction_id.starts_with("ledger_"));
        let exact = record.cut_by_provider;
        assert_eq!(exact, record.billed_seconds < 3600, "{record:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_reported_is_refused_by_its_field() {
    let app = testing::app().await;
    let caller = testing::tenant(&app, "vision").await;
    let now = Utc::now();
    let cases = [
        ("group_by", by("member", long_ago())),
        ("group_by", by("label:", long_ago())),
        ("from_time", by("", now + TimeDelta::days(1))),
        (
            "from_time",
            v1::GetReportRequest {
                to_time: Some(timestamp(now - TimeDelta::days(3))),
                ..by("", long_ago())
            },
        ),
        (
            "to_time",
            v1::GetReportRequest {
                to_time: Some(timestamp(now - TimeDelta::days(40))),
                ..Default::default()
            },
        ),
        (
            "page_size",
            v1::GetReportRequest {
                page_size: 20_001,
                ..Default::default()
            },
        ),
        (
            "page_token",
            v1::GetReportRequest {
                page_token: "x".to_owned(),
                ..Default::default()
            },
        ),
        (
            "from_time",
            v1::GetReportRequest {
                from_time: Some(prost_types::Timestamp {
                    seconds: i64::MAX,
                    nanos: 0,
                }),
                ..Default::default()
            },
        ),
    ];
    for (field, body) in cases {
        let error = report(&app, &caller, body).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        assert!(error.message().starts_with(field), "{error}");
    }
    let month = report(&app, &caller, Default::default()).await.unwrap();
    assert!(month.rows.is_empty() && month.totals.is_empty());
    assert!(month.from_time.unwrap().seconds <= now.timestamp());
}
