use super::*;
use crate::leases::model::lease::EndCause;

#[tokio::test]
async fn a_lease_ends_from_every_state_of_its_instance() {
    let app = testing::app().await;
    testing::host(&app, "sector-1").await;
    let caller = testing::tenant(&app, "vision").await;
    // (before, after, whether the host stays taken until it is scrubbed)
    let cases = [
        ("pending", "ended", false),
        ("placed", "ended", false),
        ("provisioning", "ending", true),
        ("usable", "ending", true),
        ("impaired", "ending", true),
        ("ending", "ending", true),
    ];
    for (before, after, taken) in cases {
        let record = create(&app, &caller, asked()).await.unwrap();
        let instance = record.instances[0].id;
        set_recorded(&app, instance, before).await;
        let ended = service::end_lease(&app, &caller, named(&id_of(&record)))
            .await
            .unwrap();
        assert_eq!(ended.instances[0].recorded, after, "{before}");
        assert_eq!(ended.lease.state, after, "{before}");
        assert!(ended.lease.end_requested_at.is_some());
        assert_eq!(ended.lease.ended_at.is_some(), !taken, "{before}");
        let (cause, desired): (String, String) = sqlx::query_as(
            "select l.end_cause, i.desired from lease l join instance i on i.lease_id = l.id where i.id = $1",
        )
        .bind(instance)
        .fetch_one(&app.pool)
        .await
        .unwrap();
        assert_eq!((cause.as_str(), desired.as_str()), ("tenant", "ended"));
        let occupancies = count(&app, "select count(*) from occupancy").await;
        assert_eq!(occupancies, i64::from(taken), "{before}");
        sqlx::query("delete from occupancy")
            .execute(&app.pool)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn ending_again_changes_nothing() {
    let app = testing::app().await;
    testing::host(&app, "sector-1").await;
    let caller = testing::tenant(&app, "vision").await;
    let record = create(&app, &caller, asked()).await.unwrap();
    set_recorded(&app, record.instances[0].id, "usable").await;
    let id = id_of(&record);
    let first = service::end_lease(&app, &caller, named(&id)).await.unwrap();
    let operator = testing::operator(&app).await;
    let second = service::end_lease(&app, &operator, named(&id))
        .await
        .unwrap();
    assert_eq!(first, second);
    assert_eq!(
        count(
            &app,
            "select count(*) from audit_entry where action = 'lease.end'"
        )
        .await,
        1
    );
    assert_eq!(
        count(
            &app,
            "select count(*) from lease_event where kind = 'end_requested'"
        )
        .await,
        1
    );
}

#[tokio::test]
async fn the_operator_ends_anybodys_lease_and_it_says_so() {
    let app = testing::app().await;
    testing::host(&app, "sector-1").await;
    let caller = testing::tenant(&app, "vision").await;
    let record = create(&app, &caller, asked()).await.unwrap();
    set_recorded(&app, record.instances[0].id, "provisioning").await;
    let operator = testing::operator(&app).await;
    let ended = service::end_lease(&app, &operator, named(&id_of(&record)))
        .await
        .unwrap();
    assert!(
        ended.lease.state_reason.contains("by the operator"),
        "{}",
        ended.lease.state_reason
    );
}

#[tokio::test]
async fn the_end_closes_the_meters_open_stretch() {
    let app = testing::app().await;
    testing::host(&app, "sector-1").await;
    let caller = testing::tenant(&app, "vision").await;
    let record = create(&app, &caller, asked()).await.unwrap();
    let instance = record.instances[0].id;
    set_recorded(&app, instance, "usable").await;
    sqlx::query(
        "insert into availability (id, instance_id, from_at, state, fault_party, evidence)
         values (gen_random_uuid(), $1, now() - interval '1 hour', 'usable', 'none', '')",
    )
    .bind(instance)
    .execute(&app.pool)
    .await
    .unwrap();
    let ended = service::end_lease(&app, &caller, named(&id_of(&record)))
        .await
        .unwrap();
    let to_at: Option<DateTime<Utc>> = sqlx::query_scalar("select to_at from availability")
        .fetch_one(&app.pool)
        .await
        .unwrap();
    assert_eq!(to_at, ended.lease.end_requested_at);
}

#[tokio::test]
async fn a_failed_lease_keeps_its_first_reason_when_its_instances_have_ended() {
    let app = testing::app().await;
    testing::host(&app, "sector-1").await;
    let caller = testing::tenant(&app, "vision").await;
    let record = create(&app, &caller, asked()).await.unwrap();
    let lease = record.lease.id;
    set_recorded(&app, record.instances[0].id, "provisioning").await;
    let mut tx = app.pool.begin().await.unwrap();
    sqlx::query("update lease set failure = 'the image cannot be had' where id = $1")
        .bind(lease)
        .execute(&mut *tx)
        .await
        .unwrap();
    store::end_instances(&app, &mut tx, lease, EndCause::Failure)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let failed = get(&app, &caller, &id_of(&record)).await.unwrap();
    assert_eq!(
        (failed.lease.state.as_str(), failed.lease.ended_at),
        ("failed", None)
    );
    sqlx::query("update instance set recorded = 'ended', ended_at = now()")
        .execute(&app.pool)
        .await
        .unwrap();
    store::refold(&app, &mut app.pool.acquire().await.unwrap(), lease)
        .await
        .unwrap();
    let after = service::end_lease(&app, &caller, named(&id_of(&record)))
        .await
        .unwrap();
    assert_eq!(after.lease.state, "failed");
    assert_eq!(after.lease.state_reason, "the image cannot be had");
    assert!(after.lease.ended_at.is_some());
}
