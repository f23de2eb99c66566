use super::*;
use crate::{
    database::Signal,
    error::Error,
    hosts::{
        model::{change::Change, state::HostState},
        quarantine::quarantine,
        reconcile,
        store::{finding::Finding, host::HostRecord},
    },
    leases::{model::request::Asked, store::LeaseRecord},
    page::Page,
};

async fn get(app: &App, host: &str) -> HostRecord {
    service::get_host(app, host).await.unwrap()
}

async fn change(app: &App, caller: &Caller, host: &str, change: Change<'_>) -> Result<HostRecord> {
    service::change_host(app, caller, host, change).await
}

async fn lease(app: &App) -> LeaseRecord {
    let tenant = testing::tenant(app, "vision").await;
    let asked = Asked {
        instance_type: "gpu_8x_h100_sxm5".to_owned(),
        ..Asked::default()
    };
    crate::leases::tests::create(app, &tenant, asked)
        .await
        .unwrap()
}

async fn run(app: &App, sql: &'static str) {
    sqlx::query(sql).execute(&app.pool).await.unwrap();
}

async fn audited(app: &App) -> Vec<String> {
    sqlx::query_scalar("select action from audit_entry where action like 'host.%' order by id")
        .fetch_all(&app.pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn hosts_are_found_by_id_and_name_and_others_are_not() {
    let app = testing::app().await;
    let id = testing::host(&app, "sector-1").await;
    run(&app, "update host set name = 'gpu-1'").await;
    for name in ["gpu-1", &id.to_string()] {
        assert_eq!(get(&app, name).await.row.id, id.uuid());
    }
    for name in ["gpu-2", "", &HostId::new().to_string()] {
        let error = service::get_host(&app, name).await.err().unwrap();
        assert_eq!(error.reason(), "NOT_FOUND");
    }
}

#[tokio::test]
async fn hosts_are_listed_page_by_page_and_by_state() {
    let app = testing::app().await;
    for _ in 0..5 {
        testing::host(&app, "sector-1").await;
    }
    run(
        &app,
        "update host set cordoned = true where id in (select id from host order by id limit 2)",
    )
    .await;
    let page = |token: &str| Page::parse(2, token).unwrap();
    let (first, next) = service::list_hosts(&app, None, page("")).await.unwrap();
    let (second, next) = service::list_hosts(&app, None, page(&next)).await.unwrap();
    let (third, last) = service::list_hosts(&app, None, page(&next)).await.unwrap();
    assert_eq!(
        (first.len(), second.len(), third.len(), last.as_str()),
        (2, 2, 1, "")
    );
    let available = Some(HostState::Available);
    let (first, next) = service::list_hosts(&app, available, page(""))
        .await
        .unwrap();
    let (second, last) = service::list_hosts(&app, available, page(&next))
        .await
        .unwrap();
    assert_eq!((first.len(), second.len(), last.as_str()), (2, 1, ""));
    let removed = Some(HostState::Removed);
    assert!(
        service::list_hosts(&app, removed, page(""))
            .await
            .unwrap()
            .0
            .is_empty()
    );
}

#[tokio::test]
async fn a_host_is_cordoned_and_uncordoned_and_each_is_audited_once() {
    let app = testing::app().await;
    let operator = testing::operator(&app).await;
    let host = testing::host(&app, "sector-1").await.to_string();
    let cordon = Change::Cordon { reason: "fans" };
    for _ in 0..2 {
        let record = change(&app, &operator, &host, cordon).await.unwrap();
        assert_eq!(record.state, HostState::Cordoned);
    }
    let record = change(&app, &operator, &host, Change::Uncordon)
        .await
        .unwrap();
    assert_eq!(record.state, HostState::Available);
    assert_eq!(audited(&app).await, ["host.cordon", "host.uncordon"]);
    let long = "x".repeat(1001);
    let error = change(&app, &operator, &host, Change::Cordon { reason: &long }).await;
    assert!(error.err().unwrap().to_string().starts_with("reason:"));
}

#[tokio::test]
async fn only_a_release_ends_a_quarantine_and_a_scrub_follows() {
    let app = testing::app().await;
    let operator = testing::operator(&app).await;
    let host = testing::host(&app, "sector-1").await;
    let name = host.to_string();
    let release = Change::Release { reason: "new GPU" };
    let error = change(&app, &operator, &name, release).await.err().unwrap();
    assert_eq!(error.reason(), "HOST_NOT_QUARANTINED");
    lease(&app).await;
    run(&app, "update instance set recorded = 'ended'").await;
    run(&app, "update occupancy set movable = false").await;
    quarantine(
        &mut app.pool.acquire().await.unwrap(),
        host,
        "gpu_count: 7 of 8",
    )
    .await
    .unwrap();
    let record = get(&app, &name).await;
    assert_eq!(
        (record.state, record.state_reason.as_str()),
        (HostState::Quarantined, "gpu_count: 7 of 8")
    );
    let record = change(&app, &operator, &name, release).await.unwrap();
    assert_eq!(record.state, HostState::Scrubbing);
    let over =
        "select not exists (select 1 from occupancy where kind = 'quarantine' and during @> now())";
    until(&app, "nothing occupies the host", over).await;
    assert_eq!(audited(&app).await, ["host.quarantine", "host.release"]);
}

#[tokio::test]
async fn a_leased_host_is_not_removed_and_a_removed_one_is_cut_off_for_good() {
    let app = testing::app().await;
    let operator = testing::operator(&app).await;
    let mut enlisted = Enlisted::new(&app, "gpu-1").await;
    let mut stream = enlisted
        .welcome(&app, hello(&["0", "1", "2", "3", "4", "5", "6", "7"]))
        .await;
    run(&app, "update host set clean = true").await;
    let record = lease(&app).await;
    run(&app, "update instance set recorded = 'usable'").await;
    let leased = get(&app, "gpu-1").await;
    assert_eq!(leased.state, HostState::Leased);
    assert_eq!(leased.row.lease_id, Some(record.lease.id));
    let error = change(&app, &operator, "gpu-1", Change::Remove)
        .await
        .err()
        .unwrap();
    assert_eq!(error.reason(), "HOST_LEASED");
    run(&app, "update instance set recorded = 'ended'").await;
    let removed = change(&app, &operator, "gpu-1", Change::Remove)
        .await
        .unwrap();
    assert_eq!(removed.state, HostState::Removed);
    reconcile::cut_refused(&app, app.links.held())
        .await
        .unwrap();
    assert_eq!(stream.end().await.code(), tonic::Code::PermissionDenied);
    let id = enlisted.host.to_string();
    assert!(
        change(&app, &operator, &id, Change::Remove).await.is_ok(),
        "again"
    );
    let error = change(&app, &operator, &id, Change::Uncordon)
        .await
        .err()
        .unwrap();
    assert_eq!(error.reason(), "HOST_REMOVED");
    // The machine may come back, as another host.
    let token = token(&app, &operator, AskedToken::default()).await;
    let again = enlisted.machine.enroll(&app, &token).await.unwrap();
    assert_ne!(again.host, enlisted.host);
    enlisted.certificate_pem = again.certificate.pem;
    enlisted.welcome(&app, hello(&["0"])).await;
}

#[tokio::test]
async fn a_finding_that_prevents_allocation_quarantines_an_idle_host_and_waits_for_the_gate_of_a_leased_one()
 {
    let app = testing::app().await;
    let enlisted = Enlisted::new(&app, "gpu-1").await;
    let gpus = ["0", "1", "2", "3", "4", "5", "6", "7"];
    enlisted.welcome(&app, hello(&gpus)).await;
    run(&app, "update host set clean = true").await;
    lease(&app).await;
    run(&app, "update instance set recorded = 'usable'").await;
    let finding = Finding {
        gpu_uuid: "3".to_owned(),
        check: "xid_79".to_owned(),
        detail: "fell off the bus".to_owned(),
        prevents_use: true,
        prevents_allocation: true,
    };
    let session = crate::hosts::store::session::Session {
        host: enlisted.host,
        replica: app.replica_id,
        generation: 1,
    };
    crate::hosts::store::finding::replace(&app.pool, session, vec![finding])
        .await
        .unwrap();
    reconcile::quarantine_unfit(&app).await.unwrap();
    let record = get(&app, "gpu-1").await;
    assert_eq!(record.state, HostState::Leased);
    assert!(
        record.state_reason.contains("xid_79 on 3"),
        "{}",
        record.state_reason
    );
    run(&app, "update instance set recorded = 'ended'").await;
    run(&app, "update host set clean = false").await;
    reconcile::quarantine_unfit(&app).await.unwrap();
    assert_eq!(get(&app, "gpu-1").await.state, HostState::Scrubbing);
    run(&app, "update host set clean = true").await;
    reconcile::quarantine_unfit(&app).await.unwrap();
    let record = get(&app, "gpu-1").await;
    assert_eq!(record.state, HostState::Quarantined);
    assert_eq!(record.state_reason, "xid_79 on 3: fell off the bus");
}

#[tokio::test]
async fn a_host_that_falls_silent_is_unknown_and_signalled() {
    let app = testing::app_with(&["--host-timeout", "10s"]).await;
    let host = testing::host(&app, "sector-1").await;
    let mut signals = app.bus.subscribe();
    tokio::spawn(
        app.bus
            .clone()
            .listen(app.pool.clone(), app.shutdown.clone()),
    );
    soon("listening", async {
        while signals.recv().await.unwrap() != Signal::Resync {}
    })
    .await;
    run(
        &app,
        "update host set last_seen_at = now() - interval '11 seconds'",
    )
    .await;
    reconcile::notice_silence(&app).await.unwrap();
    let signal = soon("a signal", signals.recv()).await.unwrap();
    assert_eq!(signal, Signal::Host(host.uuid()));
    let record = get(&app, &host.to_string()).await;
    assert_eq!(record.state, HostState::Unknown);
    let metrics = crate::metrics::render(&app).await.unwrap();
    assert!(metrics.contains("freehold_hosts_silent 1"), "{metrics}");
    let error = service::get_host(&app, "x").await.err().unwrap();
    assert!(matches!(error, Error::NotFound { .. }));
}

#[tokio::test]
async fn telemetry_goes_to_another_replica_when_the_one_that_had_it_is_gone() {
    let app = testing::app().await;
    let enlisted = Enlisted::new(&app, "gpu-1").await;
    let mut stream = enlisted.welcome(&app, hello(&["a"])).await;
    // As if another replica had taken it first, and died.
    run(&app, "update agent_session set telemetry = false").await;
    let other = freehold_proto::id::ReplicaId::new();
    cluster::register(&app.pool, other, "127.0.0.1:1")
        .await
        .unwrap();
    sqlx::query("insert into agent_session (host_id, replica_id, generation, telemetry) values ($1, $2, 99, true)")
        .bind(enlisted.host.uuid())
        .bind(other.uuid())
        .execute(&app.pool)
        .await
        .unwrap();
    reconcile::look_after_sessions(&app).await.unwrap();
    let Some(ToAgent::Replicas(replicas)) = stream.next().await.unwrap() else {
        panic!("the agent is not told of the other replica");
    };
    assert_eq!(replicas.agent_addresses.len(), 2);
    sqlx::query("update replica set seen_at = now() - interval '25 seconds' where id = $1")
        .bind(other.uuid())
        .execute(&app.pool)
        .await
        .unwrap();
    reconcile::look_after_sessions(&app).await.unwrap();
    let Some(ToAgent::Hello(hello)) = stream.next().await.unwrap() else {
        panic!("the agent is not asked for telemetry");
    };
    assert!(hello.telemetry);
}
