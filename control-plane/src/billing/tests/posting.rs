use super::*;
use crate::{
    billing::reconcile::{post_due, post_lease},
    leases::availability,
};

#[tokio::test]
async fn started_hours_are_posted_to_the_micro_and_the_meter_is_closed_at_the_end() {
    let app = testing::app().await;
    let caller = testing::tenant(&app, "vision").await;
    let lease = lease_with(&app, &caller, 1, &[("team", "vision")], "").await;
    stretch(&app, &lease, 0, USABLE, 5, Some(95)).await;
    end(&app, &lease).await;
    post(&app, &lease).await;
    assert_eq!(
        books(&app, &lease).await,
        [
            (0, 5, 0, false, 3600, HOUR_MICROS),
            (0, 65, 0, false, 3600, HOUR_MICROS)
        ]
    );
    assert!(meter_is_closed(&app, &lease).await);
    let (usable, label, price, unit, meter): (i64, String, i64, String, String) = sqlx::query_as(
        "select usable_seconds, labels ->> 'team', price_micros, unit, meter from usage_record order by id desc limit 1",
    )
    .fetch_one(&app.pool)
    .await
    .unwrap();
    assert_eq!(
        (usable, label.as_str(), price, unit.as_str(), meter.as_str()),
        (1800, "vision", 1_890_000, "gpu_hour", "gpu_time")
    );
    assert!(
        store::due_leases(&app.pool, None, 10)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn posting_again_changes_nothing() {
    let app = testing::app().await;
    let caller = testing::tenant(&app, "vision").await;
    let lease = lease(&app, &caller, 2).await;
    for ordinal in 0..2 {
        stretch(&app, &lease, ordinal, USABLE, 0, Some(30)).await;
        stretch(&app, &lease, ordinal, PROVIDER, 30, Some(40)).await;
        stretch(&app, &lease, ordinal, USABLE, 40, None).await;
    }
    post(&app, &lease).await;
    let first = books(&app, &lease).await;
    assert_eq!(first.len(), 2 * 11);
    for _ in 0..3 {
        post(&app, &lease).await;
    }
    post_due((*app).clone()).await.unwrap();
    assert_eq!(books(&app, &lease).await, first);
}

#[tokio::test]
async fn a_lease_that_runs_owes_the_hour_that_it_has_started() {
    let app = testing::app().await;
    let caller = testing::tenant(&app, "vision").await;
    let lease = lease(&app, &caller, 1).await;
    // The last hour of ten has begun 30 minutes ago.
    stretch(&app, &lease, 0, USABLE, 30, None).await;
    post_due((*app).clone()).await.unwrap();
    assert_eq!(owed(&app, &lease).await, 10 * HOUR_MICROS);
    assert!(!meter_is_closed(&app, &lease).await);
    let due: DateTime<Utc> = sqlx::query_scalar("select meter_due_at from lease")
        .fetch_one(&app.pool)
        .await
        .unwrap();
    assert_eq!(due, lease.minute(30 + 600));
    let mut tx = app.pool.begin().await.unwrap();
    availability::end(&mut tx, lease.instances[0], lease.minute(601))
        .await
        .unwrap();
    tx.commit().await.unwrap();
    end(&app, &lease).await;
    post_due((*app).clone()).await.unwrap();
    let books = books(&app, &lease).await;
    // What was not over when it was posted is corrected: the bill stays, the usable time is known now.
    assert_eq!(
        books[9..],
        [
            (0, 570, 0, false, 3600, HOUR_MICROS),
            (0, 570, 0, true, -3600, -HOUR_MICROS),
            (0, 570, 1, false, 3600, HOUR_MICROS)
        ]
    );
    assert!(meter_is_closed(&app, &lease).await);
    assert_books_balance(&app).await;
}

#[tokio::test]
async fn an_outage_is_not_billed_and_a_tenants_own_fault_is() {
    let app = testing::app().await;
    let caller = testing::tenant(&app, "vision").await;
    let lease = lease(&app, &caller, 1).await;
    stretch(&app, &lease, 0, USABLE, 0, Some(30)).await;
    stretch(&app, &lease, 0, PROVIDER, 30, Some(40)).await;
    stretch(&app, &lease, 0, USABLE, 40, Some(70)).await;
    stretch(&app, &lease, 0, TENANT, 70, Some(120)).await;
    end(&app, &lease).await;
    post(&app, &lease).await;
    assert_eq!(
        books(&app, &lease).await,
        [
            (0, 0, 0, false, 3000, 8 * 1_890_000 * 3000 / 3600),
            (0, 60, 0, false, 3600, HOUR_MICROS)
        ]
    );
    let cut: Vec<bool> =
        sqlx::query_scalar("select cut_by_provider from usage_record order by period_start")
            .fetch_all(&app.pool)
            .await
            .unwrap();
    assert_eq!(cut, [true, false]);
}

#[tokio::test]
async fn one_failing_node_pauses_the_meter_of_the_whole_cluster() {
    let app = testing::app().await;
    let caller = testing::tenant(&app, "vision").await;
    let lease = lease(&app, &caller, 2).await;
    stretch(&app, &lease, 0, USABLE, 0, Some(60)).await;
    stretch(&app, &lease, 1, USABLE, 0, Some(10)).await;
    stretch(&app, &lease, 1, UNKNOWN, 10, Some(40)).await;
    stretch(&app, &lease, 1, USABLE, 40, Some(60)).await;
    post(&app, &lease).await;
    let billed: Vec<(i32, i64)> = books(&app, &lease)
        .await
        .iter()
        .map(|line| (line.0, line.4))
        .collect();
    assert_eq!(billed, [(0, 1800), (1, 1800)]);
}

#[tokio::test]
async fn an_unknown_stretch_that_is_filled_in_posts_a_reversal_and_the_next_revision_even_after_the_close()
 {
    let app = testing::app().await;
    let caller = testing::tenant(&app, "vision").await;
    let lease = lease(&app, &caller, 1).await;
    stretch(&app, &lease, 0, USABLE, 0, Some(20)).await;
    stretch(&app, &lease, 0, UNKNOWN, 20, Some(30)).await;
    stretch(&app, &lease, 0, USABLE, 30, Some(150)).await;
    end(&app, &lease).await;
    post_due((*app).clone()).await.unwrap();
    assert!(meter_is_closed(&app, &lease).await);
    let before = books(&app, &lease).await;
    assert_eq!(before[0], (0, 0, 0, false, 3000, 12_600_000));
    for (from, to) in [(20, 25), (25, 30)] {
        let mut tx = app.pool.begin().await.unwrap();
        availability::fill_in(
            &mut tx,
            lease.instances[0],
            lease.minute(from),
            lease.minute(to),
            TimeDelta::minutes(15),
        )
        .await
        .unwrap();
        tx.commit().await.unwrap();
        post_due((*app).clone()).await.unwrap();
    }
    let after = books(&app, &lease).await;
    assert_eq!(after[..3], before[..]);
    assert_eq!(
        after[3..],
        [
            (0, 0, 0, true, -3000, -12_600_000),
            (0, 0, 1, false, 3300, 13_860_000),
            (0, 0, 1, true, -3300, -13_860_000),
            (0, 0, 2, false, 3600, HOUR_MICROS)
        ]
    );
    assert_eq!(owed(&app, &lease).await, 3 * HOUR_MICROS);
    assert_books_balance(&app).await;
}

#[tokio::test]
async fn the_meter_waits_for_a_silent_hosts_journal_before_it_closes() {
    let app = testing::app_with(&["--backfill", "2h"]).await;
    let caller = testing::tenant(&app, "vision").await;
    let lease = lease(&app, &caller, 1).await;
    sqlx::query("update host set last_seen_at = $1")
        .bind(lease.minute(560))
        .execute(&app.pool)
        .await
        .unwrap();
    stretch(&app, &lease, 0, USABLE, 500, Some(560)).await;
    stretch(&app, &lease, 0, UNKNOWN, 560, Some(590)).await;
    end(&app, &lease).await;
    post(&app, &lease).await;
    assert!(!meter_is_closed(&app, &lease).await);
    // Heard again: its journal came with its first words.
    sqlx::query("update host set last_seen_at = now()")
        .execute(&app.pool)
        .await
        .unwrap();
    post(&app, &lease).await;
    assert!(meter_is_closed(&app, &lease).await);
}

#[tokio::test]
async fn a_lease_that_never_was_usable_is_closed_without_a_record() {
    let app = testing::app().await;
    let caller = testing::tenant(&app, "vision").await;
    let (never, down) = (lease(&app, &caller, 1).await, lease(&app, &caller, 1).await);
    stretch(&app, &down, 0, PROVIDER, 0, Some(60)).await;
    for lease in [&never, &down] {
        end(&app, lease).await;
    }
    post_due((*app).clone()).await.unwrap();
    for lease in [&never, &down] {
        assert!(meter_is_closed(&app, lease).await);
        assert!(books(&app, lease).await.is_empty());
    }
}

#[tokio::test]
async fn a_segment_keeps_its_price_and_its_rounding_whatever_is_set_later() {
    let app = testing::app().await;
    let caller = testing::tenant(&app, "vision").await;
    let lease = lease(&app, &caller, 1).await;
    // Extended after 90 minutes at another price, in another currency, billed by the minute.
    let price: Uuid = sqlx::query_scalar(
        "with ended as (update price set valid = tstzrange(lower(valid), now()) where instance_type_id =
             (select instance_type_id from lease) returning instance_type_id)
         insert into price (id, instance_type_id, micros, currency, rounding, valid)
         select gen_random_uuid(), instance_type_id, 999, 'EUR', 'minute', tstzrange(now(), null) from ended returning id",
    )
    .fetch_one(&app.pool)
    .await
    .unwrap();
    sqlx::query("update lease_segment set during = tstzrange(lower(during), $1)")
        .bind(lease.minute(90))
        .execute(&app.pool)
        .await
        .unwrap();
    sqlx::query(
        "insert into lease_segment (id, lease_id, during, price_id, price_micros, quantity, unit, currency, rounding)
         values (gen_random_uuid(), $1, tstzrange($2, null), $3, 3600000, 1, 'gpu_hour', 'EUR', 'minute')",
    )
    .bind(lease.id)
    .bind(lease.minute(90))
    .bind(price)
    .execute(&app.pool)
    .await
    .unwrap();
    stretch(&app, &lease, 0, USABLE, 0, Some(100)).await;
    end(&app, &lease).await;
    post(&app, &lease).await;
    assert_eq!(
        books(&app, &lease).await,
        [
            (0, 0, 0, false, 3600, HOUR_MICROS),
            (0, 60, 0, false, 3600, HOUR_MICROS),
            (0, 90, 0, false, 600, 8 * 600_000)
        ]
    );
    let entries: Vec<(String, String, i64)> = sqlx::query_as(
        "select a.kind, e.currency, sum(e.amount_micros)::bigint from ledger_entry e join ledger_account a on a.id = e.account_id
         group by 1, 2 order by 1, 2",
    )
    .fetch_all(&app.pool)
    .await
    .unwrap();
    let entry = |kind: &str, currency: &str, micros| (kind.to_owned(), currency.to_owned(), micros);
    assert_eq!(
        entries,
        [
            entry("receivable", "EUR", 4_800_000),
            entry("receivable", "USD", 2 * HOUR_MICROS),
            entry("revenue", "EUR", -4_800_000),
            entry("revenue", "USD", -2 * HOUR_MICROS)
        ]
    );
}

#[tokio::test]
async fn two_replicas_that_post_at_once_post_once() {
    let app = testing::app().await;
    let caller = testing::tenant(&app, "vision").await;
    for round in 0..10 {
        let lease = lease(&app, &caller, 2).await;
        for ordinal in 0..2 {
            stretch(&app, &lease, ordinal, USABLE, 0, Some(90)).await;
        }
        let posting = (0..4).map(|_| post_lease(&app, lease.id));
        for posted in futures_util::future::join_all(posting).await {
            posted.unwrap();
        }
        assert_eq!(books(&app, &lease).await.len(), 4, "round {round}");
        end(&app, &lease).await;
        let passes = (0..3).map(|_| post_due((*app).clone()));
        for passed in futures_util::future::join_all(passes).await {
            passed.unwrap();
        }
        post_due((*app).clone()).await.unwrap();
        assert_eq!(owed(&app, &lease).await, 4 * HOUR_MICROS);
        assert!(meter_is_closed(&app, &lease).await);
    }
    assert_books_balance(&app).await;
}

#[tokio::test]
async fn a_replica_that_is_held_up_while_writing_availability_loses_nothing() {
    let app = testing::app().await;
    let caller = testing::tenant(&app, "vision").await;
    let lease = lease(&app, &caller, 1).await;
    stretch(&app, &lease, 0, USABLE, 0, None).await;
    // Ends the stretch in a transaction that is still open while the meter passes.
    let mut writer = app.pool.begin().await.unwrap();
    availability::end(&mut writer, lease.instances[0], lease.minute(30))
        .await
        .unwrap();
    post_due((*app).clone()).await.unwrap();
    writer.commit().await.unwrap();
    end(&app, &lease).await;
    post_due((*app).clone()).await.unwrap();
    assert_eq!(owed(&app, &lease).await, HOUR_MICROS);
    assert!(meter_is_closed(&app, &lease).await);
    assert_books_balance(&app).await;
}

#[tokio::test]
async fn what_is_posted_cannot_be_changed_and_what_does_not_balance_cannot_be_posted() {
    let app = testing::app().await;
    let caller = testing::tenant(&app, "vision").await;
    let lease = lease(&app, &caller, 1).await;
    stretch(&app, &lease, 0, USABLE, 0, Some(30)).await;
    post(&app, &lease).await;
    for change in [
        "update usage_record set amount_micros = 0",
        "delete from usage_record",
        "truncate usage_record cascade",
        "update ledger_entry set amount_micros = 0",
        "delete from ledger_entry",
        "truncate ledger_entry",
    ] {
        let error = sqlx::query(change).execute(&app.pool).await.unwrap_err();
        assert!(error.to_string().contains("append-only"), "{error}");
    }
    let lopsided = "insert into ledger_entry (transaction_id, account_id, amount_micros, currency)
         select gen_random_uuid(), id, 1, 'USD' from ledger_account limit 1";
    let error = sqlx::query(lopsided).execute(&app.pool).await.unwrap_err();
    assert!(
        error.to_string().contains("does not sum to zero"),
        "{error}"
    );
    let again = "insert into usage_record select gen_random_uuid(), (u).organization_id, (u).project_id, (u).lease_id, (u).instance_id,
             (u).segment_id, (u).instance_type, (u).meter, (u).period_start, (u).period_end, (u).revision, null, 0, 0, 8, 0, 1, 'gpu_hour',
             'hour', false, 0, 'USD', '{}', now(), (u).ledger_transaction_id from usage_record u";
    let error = sqlx::query(again).execute(&app.pool).await.unwrap_err();
    assert!(error.to_string().contains("usage_record_key"), "{error}");
}

#[tokio::test]
async fn every_posted_record_stands_on_availability_of_its_instance() {
    let app = testing::app().await;
    let caller = testing::tenant(&app, "vision").await;
    let lease = lease(&app, &caller, 1).await;
    stretch(&app, &lease, 0, USABLE, 3, Some(30)).await;
    stretch(&app, &lease, 0, PROVIDER, 30, Some(200)).await;
    stretch(&app, &lease, 0, USABLE, 200, Some(210)).await;
    post(&app, &lease).await;
    // What counts of the rows within a record's period is what the record says was usable.
    let (records, unfounded): (i64, i64) = sqlx::query_as(
        "select count(*), count(*) filter (where u.usable_seconds <> (
             select coalesce(sum(extract(epoch from least(a.to_at, u.period_end) - greatest(a.from_at, u.period_start))), 0)
             from availability a where a.instance_id = u.instance_id and a.replaced_at is null
                 and (a.state = 'usable' or a.fault_party = 'tenant') and a.from_at < u.period_end and a.to_at > u.period_start))
         from usage_record u where reverses_id is null",
    )
    .fetch_one(&app.pool)
    .await
    .unwrap();
    assert_eq!((records, unfounded), (2, 0));
    let explained = count(
        &app,
        "select count(*) from lease_event where kind = 'usage_posted' and lease_id = ",
        lease.id,
    )
    .await;
    assert_eq!(explained, 1);
}
