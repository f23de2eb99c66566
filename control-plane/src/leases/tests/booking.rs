use super::*;

/// Two bookings of one host at every moment of the test's end: what must never be.
async fn double_bookings(app: &App) -> i64 {
    count(
        app,
        "select count(*) from occupancy a join occupancy b on a.host_id = b.host_id and a.id < b.id
             and a.gpus && b.gpus and a.during && b.during",
    )
    .await
}

#[tokio::test]
async fn a_lease_is_booked_with_everything_that_belongs_to_it() {
    let app = testing::app().await;
    let host = testing::host(&app, "sector-1").await;
    let caller = testing::tenant(&app, "vision").await;
    let record = create(
        &app,
        &caller,
        Asked {
            hours: Some(2),
            labels: [("team".to_owned(), "vision".to_owned())].into(),
            ..asked()
        },
    )
    .await
    .unwrap();
    assert_eq!(record.lease.state, "provisioning");
    assert!(record.lease.name.starts_with("lease-"));
    assert_eq!(record.lease.image, app.config.default_image);
    assert_eq!(
        record.lease.end_at,
        Some(record.lease.start_at + TimeDelta::hours(2))
    );
    let instance = &record.instances[0];
    assert_eq!(
        (instance.recorded.as_str(), instance.generation),
        ("placed", 1)
    );
    assert_eq!(instance.host_id, Some(host.uuid()));
    assert_eq!(instance.gpu_uuids.len(), 8);
    assert!(instance.gpu_uuids[3].starts_with("GPU-3"));
    let segment = &record.segments[0];
    assert_eq!(
        (segment.price_micros, segment.currency.as_str()),
        (1_890_000, "USD")
    );
    for (sql, rows) in [
        ("select count(*) from incarnation", 1),
        ("select count(*) from lease_event where kind = 'booked'", 1),
        ("select count(*) from audit_entry where action = 'lease.create'", 1),
        (
            "select count(*) from occupancy o join lease l on true where o.movable and o.kind = 'lease'
                 and lower(o.during) = l.created_at and upper(o.during) = upper(l.lease_window) + interval '10 minutes'",
            1,
        ),
    ] {
        assert_eq!(count(&app, sql).await, rows, "{sql}");
    }
    let sealed: Vec<u8> = sqlx::query_scalar("select scratch_key from instance")
        .fetch_one(&app.pool)
        .await
        .unwrap();
    let name = store::scratch_secret_name(InstanceId::from(instance.id));
    assert_eq!(app.pki.kek.open(&name, &sealed).unwrap().len(), 64);
}

#[tokio::test]
async fn two_requests_that_race_for_the_last_host_get_it_exactly_once() {
    let app = testing::app().await;
    testing::host(&app, "sector-1").await;
    let caller = testing::tenant(&app, "vision").await;
    for round in 0..25 {
        let (first, second) = tokio::join!(
            create(&app, &caller, asked()),
            create(&app, &caller, asked())
        );
        let (won, lost) = match (first, second) {
            (Ok(won), Err(lost)) | (Err(lost), Ok(won)) => (won, lost),
            other => panic!("round {round}: {other:?}"),
        };
        assert!(
            matches!(lost, Error::NoCapacity(_)),
            "round {round}: {lost}"
        );
        assert_eq!(double_bookings(&app).await, 0);
        service::end_lease(&app, &caller, named(&id_of(&won)))
            .await
            .unwrap();
    }
    assert_eq!(count(&app, "select count(*) from lease").await, 25);
}

#[tokio::test]
async fn many_requests_at_once_fill_every_host_and_no_more() {
    let app = testing::app().await;
    for index in 0..6 {
        testing::host(&app, &format!("sector-{}", index / 3)).await;
    }
    let caller = testing::tenant(&app, "vision").await;
    let requests = (0..12).map(|index| {
        let asked = Asked {
            count: Some(1 + index % 2),
            ..asked()
        };
        create(&app, &caller, asked)
    });
    let answers = futures_util::future::join_all(requests).await;
    for refused in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        assert!(matches!(refused, Error::NoCapacity(_)), "{refused}");
    }
    // A single host may be left in each sector when the others are pairs; singles then take it.
    while create(&app, &caller, asked()).await.is_ok() {}
    assert_eq!(count(&app, "select count(*) from occupancy").await, 6);
    assert_eq!(double_bookings(&app).await, 0);
    assert_eq!(
        count(
            &app,
            "select count(*) from (select i.lease_id from instance i join host h on h.id = i.host_id
                 group by i.lease_id having count(distinct h.sector) > 1) spread"
        )
        .await,
        0
    );
}

#[tokio::test]
async fn several_instances_get_one_sector_or_nothing() {
    let app = testing::app().await;
    for sector in ["sector-1", "sector-1", "sector-2", "sector-2", "sector-2"] {
        testing::host(&app, sector).await;
    }
    let caller = testing::tenant(&app, "vision").await;
    let four = Asked {
        count: Some(4),
        ..asked()
    };
    let refused = create(&app, &caller, four).await.unwrap_err();
    assert!(refused.to_string().starts_with("3 of 4 hosts"), "{refused}");
    for table in [
        "lease",
        "instance",
        "occupancy",
        "incarnation",
        "lease_segment",
    ] {
        let rows: i64 =
            sqlx::query_scalar(sqlx::AssertSqlSafe(format!("select count(*) from {table}")))
                .fetch_one(&app.pool)
                .await
                .unwrap();
        assert_eq!(rows, 0, "{table}");
    }
    let three = Asked {
        count: Some(3),
        ..asked()
    };
    let record = create(&app, &caller, three).await.unwrap();
    let ordinals: Vec<i32> = record.instances.iter().map(|i| i.ordinal).collect();
    assert_eq!(ordinals, [0, 1, 2]);
    assert_eq!(
        count(&app, "select count(*) from instance i join host h on h.id = i.host_id where h.sector = 'sector-2'").await,
        3
    );
}

#[tokio::test]
async fn a_repeated_request_returns_the_same_lease_and_another_body_is_refused() {
    let app = testing::app().await;
    testing::host(&app, "sector-1").await;
    testing::host(&app, "sector-1").await;
    let caller = testing::tenant(&app, "vision").await;
    let again = |hours: i32| {
        let body = freehold_proto::v1::CreateLeaseRequest {
            hours: Some(hours),
            ..Default::default()
        };
        let idempotency =
            Idempotency::new(caller.principal, "lease.create", "request-1", &body).unwrap();
        let (app, caller) = (&app, &caller);
        async move {
            let asked = Asked {
                hours: Some(hours),
                ..asked()
            };
            service::create_lease(app, caller, ("", ""), asked, idempotency.as_ref()).await
        }
    };
    let (first, second) = tokio::join!(again(1), again(1));
    let first = first.unwrap();
    assert_eq!(first.lease.id, second.unwrap().lease.id);
    service::end_lease(&app, &caller, named(&id_of(&first)))
        .await
        .unwrap();
    let later = again(1).await.unwrap();
    assert_eq!(
        (later.lease.id, later.lease.state.as_str()),
        (first.lease.id, "ended")
    );
    assert!(matches!(again(2).await, Err(Error::RequestIdReused(_))));
    assert_eq!(count(&app, "select count(*) from lease").await, 1);
}

#[tokio::test]
async fn windows_that_touch_with_their_margins_share_a_host_and_those_that_overlap_do_not() {
    let app = testing::app().await;
    let host = testing::host(&app, "sector-1").await;
    let caller = testing::tenant(&app, "vision").await;
    let start = now(&app).await + TimeDelta::hours(10);
    let window = |start: DateTime<Utc>| Asked {
        start: Some(start),
        hours: Some(1),
        ..asked()
    };
    let first = create(&app, &caller, window(start)).await.unwrap();
    assert_eq!(
        (first.lease.state.as_str(), host_of(&first)),
        ("scheduled", host)
    );
    // Behind it: one hour, 10 minutes of turnaround, 5 minutes of lead.
    let behind = start + TimeDelta::minutes(75);
    let early = behind - TimeDelta::microseconds(1);
    assert!(matches!(
        create(&app, &caller, window(early)).await,
        Err(Error::NoCapacity(_))
    ));
    create(&app, &caller, window(behind)).await.unwrap();
    let before = start - TimeDelta::minutes(75);
    let late = before + TimeDelta::microseconds(1);
    let refused = create(&app, &caller, window(late)).await.unwrap_err();
    assert!(refused.to_string().contains("try --start"), "{refused}");
    create(&app, &caller, window(before)).await.unwrap();
    assert!(matches!(
        create(&app, &caller, asked()).await,
        Err(Error::NoCapacity(_))
    ));
    assert_eq!(double_bookings(&app).await, 0);
}

#[tokio::test]
async fn windows_that_cannot_be_are_refused_and_book_nothing() {
    let app = testing::app().await;
    testing::host(&app, "sector-1").await;
    let caller = testing::tenant(&app, "vision").await;
    let now = now(&app).await;
    let cases = [
        (Some(now - TimeDelta::seconds(90)), Some(1), "start_time"),
        (
            Some(now + TimeDelta::days(365 * 1000)),
            Some(1),
            "start_time",
        ),
        (None, Some(8_766_000), "hours"),
        (None, Some(0), "hours"),
    ];
    for (start, hours, field) in cases {
        let refused = create(
            &app,
            &caller,
            Asked {
                start,
                hours,
                ..asked()
            },
        )
        .await;
        assert!(
            matches!(&refused, Err(Error::InvalidField { field: named, .. }) if named == field),
            "{refused:?}"
        );
    }
    assert_eq!(count(&app, "select count(*) from lease").await, 0);
    assert_eq!(count(&app, "select count(*) from request_id").await, 0);
}

#[tokio::test]
async fn only_hosts_that_qualify_are_booked() {
    let app = testing::app().await;
    let host = testing::host(&app, "sector-1").await;
    let caller = testing::tenant(&app, "vision").await;
    let soon = Asked {
        start: Some(now(&app).await + TimeDelta::hours(1)),
        hours: Some(1),
        ..asked()
    };
    // What stands in the way, and whether it does of what begins later too.
    let obstacles = [
        ("cordoned = true", "cordoned = false", true),
        (
            "quarantine_reason = 'scrub'",
            "quarantine_reason = null",
            true,
        ),
        ("removed_at = now()", "removed_at = null", true),
        ("gpu_count = 7", "gpu_count = 8", true),
        ("gpu_model = 'H200'", "gpu_model = 'H100 80GB HBM3'", true),
        ("clean = false", "clean = true", false),
        (
            "last_seen_at = now() - interval '1 minute'",
            "last_seen_at = now()",
            false,
        ),
    ];
    for (obstacle, remedy, later_too) in obstacles {
        let set = |change: &str| {
            let sql = sqlx::AssertSqlSafe(format!("update host set {change}"));
            sqlx::query(sql).execute(&app.pool)
        };
        set(obstacle).await.unwrap();
        let refused = create(&app, &caller, asked()).await;
        assert!(
            matches!(refused, Err(Error::NoCapacity(_))),
            "{obstacle}: {refused:?}"
        );
        let later = create(&app, &caller, soon.clone()).await;
        assert_eq!(later.is_err(), later_too, "{obstacle}: {later:?}");
        if let Ok(later) = later {
            service::end_lease(&app, &caller, named(&id_of(&later)))
                .await
                .unwrap();
        }
        set(remedy).await.unwrap();
    }
    sqlx::query("insert into host_finding (host_id, check_name, prevents_use, prevents_allocation) values ($1, 'ecc', false, true)")
        .bind(host.uuid())
        .execute(&app.pool)
        .await
        .unwrap();
    assert!(matches!(
        create(&app, &caller, asked()).await,
        Err(Error::NoCapacity(_))
    ));
    sqlx::query("update host_finding set prevents_allocation = false")
        .execute(&app.pool)
        .await
        .unwrap();
    create(&app, &caller, asked()).await.unwrap();
}

#[tokio::test]
async fn a_name_is_taken_until_its_lease_has_ended() {
    let app = testing::app().await;
    testing::host(&app, "sector-1").await;
    testing::host(&app, "sector-1").await;
    let caller = testing::tenant(&app, "vision").await;
    let train = || Asked {
        name: "train".to_owned(),
        ..asked()
    };
    let first = create(&app, &caller, train()).await.unwrap();
    let refused = create(&app, &caller, train()).await.unwrap_err();
    assert!(
        matches!(&refused, Error::AlreadyExists(words) if words.starts_with("name: ")),
        "{refused}"
    );
    service::end_lease(&app, &caller, named("train"))
        .await
        .unwrap();
    let second = create(&app, &caller, train()).await.unwrap();
    assert_eq!(
        get(&app, &caller, "train").await.unwrap().lease.id,
        second.lease.id
    );
    assert_eq!(
        get(&app, &caller, &id_of(&first))
            .await
            .unwrap()
            .lease
            .state,
        "ended"
    );
}

#[tokio::test]
async fn an_unknown_type_and_one_without_a_price_are_refused_by_name() {
    let app = testing::app().await;
    testing::host(&app, "sector-1").await;
    let caller = testing::tenant(&app, "vision").await;
    let unknown = Asked {
        instance_type: "gpu_9x".to_owned(),
        ..asked()
    };
    let refused = create(&app, &caller, unknown).await.unwrap_err();
    assert!(
        refused.to_string().contains("freehold type list"),
        "{refused}"
    );
    sqlx::query("delete from price")
        .execute(&app.pool)
        .await
        .unwrap();
    let refused = create(&app, &caller, asked()).await.unwrap_err();
    assert!(refused.to_string().contains("no price"), "{refused}");
}

#[tokio::test]
async fn an_organizations_own_price_goes_before_everyones() {
    let app = testing::app().await;
    testing::host(&app, "sector-1").await;
    let caller = testing::tenant(&app, "vision").await;
    sqlx::query(
        "insert into price (id, instance_type_id, audience, micros, currency, rounding, valid)
         select gen_random_uuid(), id, $1, 5, 'USD', 'second', tstzrange(now(), null) from instance_type",
    )
    .bind(caller.organization.to_string())
    .execute(&app.pool)
    .await
    .unwrap();
    let record = create(&app, &caller, asked()).await.unwrap();
    assert_eq!(record.segments[0].price_micros, 5);
}
