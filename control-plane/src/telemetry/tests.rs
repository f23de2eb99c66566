//! Telemetry against a real PostgreSQL.

use chrono::{DateTime, TimeDelta, Utc};
use freehold_proto::id::HostId;

use super::{
    model::{Batch, Event, GpuSample, Rollup, Sample, Shown},
    reconcile, service, store,
};
use crate::{app::App, error::Result, gate::Caller, leases, testing};

async fn show(app: &App, caller: &Caller, host: HostId) -> Result<Shown> {
    service::get_host_telemetry(app, caller, &host.to_string(), 0)
        .await
        .map(|(_, shown)| shown)
}

fn sample(uuid: &str, at: DateTime<Utc>, percent: i32) -> Sample {
    Sample {
        at,
        gpus: vec![GpuSample {
            uuid: uuid.to_owned(),
            utilization_percent: Some(percent),
            ..GpuSample::default()
        }],
    }
}

fn batch(uuid: &str, at: DateTime<Utc>, samples: i32) -> Batch {
    let seconds = at.timestamp().div_euclid(60) * 60;
    Batch {
        sample: Some(sample(uuid, at, 97)),
        rollups: vec![Rollup {
            gpu_uuid: uuid.to_owned(),
            minute: DateTime::from_timestamp(seconds, 0).unwrap(),
            samples,
            utilization_percent_mean: Some(96.5),
            utilization_percent_max: Some(100),
            memory_used_bytes_max: Some(40 << 30),
            temperature_celsius_max: None,
            power_milliwatts_mean: Some(650_000.5),
        }],
        events: vec![Event {
            gpu_uuid: uuid.to_owned(),
            at: DateTime::from_timestamp_micros(at.timestamp_micros()).unwrap(),
            kind: "xid".to_owned(),
            xid: Some(79),
            detail: "GPU has fallen off the bus".to_owned(),
        }],
    }
}

async fn run(app: &App, sql: &'static str) {
    sqlx::query(sql).execute(&app.pool).await.unwrap();
}

#[tokio::test]
async fn what_an_agent_sends_twice_is_written_once_and_a_fuller_minute_wins() {
    let app = testing::app().await;
    let operator = testing::operator(&app).await;
    let host = testing::host(&app, "sector-1").await;
    let at = Utc::now() - TimeDelta::minutes(2);
    for samples in [3, 6, 5] {
        app.telemetry.take(host, batch("a", at, samples));
        reconcile::write_history(&app).await.unwrap();
    }
    let shown = show(&app, &operator, host).await.unwrap();
    assert_eq!(shown.events, batch("a", at, 6).events);
    assert_eq!(shown.rollups, batch("a", at, 6).rollups);
    assert_eq!(shown.sample.unwrap().gpus[0].utilization_percent, Some(97));
}

#[tokio::test]
async fn the_newest_sample_is_known_to_every_replica() {
    let app = testing::app().await;
    let host = testing::host(&app, "sector-1").await;
    let now = DateTime::from_timestamp(Utc::now().timestamp(), 0).unwrap();
    let (newer, older) = (
        sample("a", now, 2),
        sample("a", now - TimeDelta::seconds(10), 1),
    );
    for sample in [&newer, &older] {
        let batch = Batch {
            sample: Some(sample.clone()),
            ..Batch::default()
        };
        app.telemetry.take(host, batch);
        reconcile::write_latest(&app).await.unwrap();
    }
    // Another replica that was sent an older one does not take it back.
    store::write_latest(&app.pool, &[(host, older)])
        .await
        .unwrap();
    let mut connection = app.pool.acquire().await.unwrap();
    assert_eq!(
        store::latest(&mut connection, host).await.unwrap(),
        Some(newer)
    );
    assert!(
        app.telemetry.take_samples().is_empty(),
        "nothing to write twice"
    );
}

#[tokio::test]
async fn a_tenant_sees_a_host_while_it_leases_it_and_nothing_from_before() {
    let app = testing::app().await;
    let host = testing::host(&app, "sector-1").await;
    let stranger = testing::tenant(&app, "speech").await;
    let tenant = testing::tenant(&app, "vision").await;
    let asked = leases::model::request::Asked {
        instance_type: "gpu_8x_h100_sxm5".to_owned(),
        ..Default::default()
    };
    leases::tests::create(&app, &tenant, asked).await.unwrap();
    let uuid: String = sqlx::query_scalar("select gpu_uuids[1] from instance")
        .fetch_one(&app.pool)
        .await
        .unwrap();
    let earlier = Utc::now() - TimeDelta::minutes(5);
    app.telemetry.take(host, batch(&uuid, earlier, 6));
    app.telemetry.take(host, batch(&uuid, Utc::now(), 6));
    reconcile::write_history(&app).await.unwrap();
    run(
        &app,
        "update instance set recorded = 'usable', usable_at = now() - interval '1 minute'",
    )
    .await;
    let seen = show(&app, &tenant, host).await.unwrap();
    assert_eq!((seen.sample.is_some(), seen.events.len()), (true, 1));
    let all = show(&app, &testing::operator(&app).await, host)
        .await
        .unwrap();
    assert_eq!(all.events.len(), 2);
    let nothing = format!("no host `{host}` was found");
    let error = show(&app, &stranger, host).await.unwrap_err();
    assert_eq!(error.to_string(), nothing);
    for over in ["placed", "ending", "ended"] {
        sqlx::query("update instance set recorded = $1")
            .bind(over)
            .execute(&app.pool)
            .await
            .unwrap();
        let error = show(&app, &tenant, host).await.unwrap_err();
        assert_eq!(error.to_string(), nothing, "{over}");
    }
}

#[tokio::test]
async fn minutes_out_of_range_are_refused_and_old_rows_are_forgotten() {
    let app = testing::app().await;
    let operator = testing::operator(&app).await;
    let host = testing::host(&app, "sector-1").await;
    for minutes in [-1, 1441] {
        let asked = service::get_host_telemetry(&app, &operator, &host.to_string(), minutes).await;
        let error = asked.unwrap_err().to_string();
        assert!(error.starts_with("minutes:"), "{error}");
    }
    let long_ago = Utc::now() - TimeDelta::days(91);
    app.telemetry.take(host, batch("a", long_ago, 6));
    app.telemetry.take(host, batch("a", Utc::now(), 6));
    reconcile::write_history(&app).await.unwrap();
    assert_eq!(store::forget_old(&app.pool).await.unwrap(), 2);
    assert_eq!(store::forget_old(&app.pool).await.unwrap(), 0);
}
