use freehold_proto::agent_v1::{
    HealthFinding, HealthReport, Heartbeat, InstanceReport, JournalBatch, RenewRequest,
};
use freehold_proto::id::InstanceId;

use super::*;
use crate::hosts::reconcile;

#[tokio::test]
async fn an_agent_is_welcomed_and_its_inventory_is_kept() {
    let app = testing::app().await;
    let enlisted = Enlisted::new(&app, "gpu-1").await;
    let mut stream = enlisted.attach(&app, hello(&["a", "b"])).await.unwrap();
    let Some(ToAgent::Hello(answer)) = stream.next().await.unwrap() else {
        panic!("no hello");
    };
    assert_eq!((answer.protocol, answer.epoch), (1, app.epoch));
    assert!(answer.telemetry, "the only stream carries telemetry");
    assert_eq!(
        answer.agent_addresses,
        std::slice::from_ref(&enlisted.address)
    );
    assert!(app.links.is_connected(enlisted.host));
    let host = service::get_host(&app, "gpu-1").await.unwrap();
    assert_eq!(host.row.gpu_count, 2);
    assert_eq!(host.row.gpu_model, "H100 80GB HBM3");
    assert_eq!(host.gpus.len(), 2);
    let monotonic_ms = 17;
    stream
        .send(FromAgent::Heartbeat(Heartbeat { monotonic_ms }))
        .await;
    let Some(ToAgent::HeartbeatAck(ack)) = stream.next().await.unwrap() else {
        panic!("no answer to a heartbeat");
    };
    assert_eq!(ack.monotonic_ms, 17);
    sqlx::query("update host set last_seen_at = now() - interval '1 hour'")
        .execute(&app.pool)
        .await
        .unwrap();
    reconcile::write_heard(&app).await.unwrap();
    let fresh = "select last_seen_at > now() - interval '1 minute' from host";
    until(&app, "the heartbeat is written down", fresh).await;
    drop(stream);
    let gone = "select not exists (select 1 from agent_session)";
    until(&app, "the session is forgotten", gone).await;
    assert!(!app.links.is_connected(enlisted.host));
}

#[tokio::test]
async fn a_journal_is_acknowledged_and_rubbish_in_it_does_not_come_for_ever() {
    let app = testing::app().await;
    let enlisted = Enlisted::new(&app, "gpu-1").await;
    let mut stream = enlisted.welcome(&app, hello(&["a"])).await;
    let rubbish = freehold_proto::agent_v1::JournalEntry {
        instance_id: "x".to_owned(),
        healthy: true,
        ..Default::default()
    };
    for (last_sequence, entries) in [(7, Vec::new()), (8, vec![rubbish])] {
        let batch = JournalBatch {
            last_sequence,
            entries,
        };
        stream.send(FromAgent::Journal(batch)).await;
        let Some(ToAgent::JournalAck(ack)) = stream.next().await.unwrap() else {
            panic!("no acknowledgement");
        };
        assert_eq!(ack.last_sequence, last_sequence);
    }
}

#[tokio::test]
async fn a_newer_stream_takes_an_older_ones_place_and_its_reports_change_nothing() {
    let app = testing::app().await;
    let enlisted = Enlisted::new(&app, "gpu-1").await;
    let mut older = enlisted.welcome(&app, hello(&["a"])).await;
    let mut newer = enlisted.welcome(&app, hello(&["a"])).await;
    older.end().await;
    let session = super::super::store::session::Session {
        host: enlisted.host,
        replica: app.replica_id,
        generation: 1,
    };
    let finding = super::super::store::finding::Finding {
        gpu_uuid: "a".to_owned(),
        check: "xid_79".to_owned(),
        detail: String::new(),
        prevents_use: true,
        prevents_allocation: true,
    };
    super::super::store::finding::replace(&app.pool, session, vec![finding])
        .await
        .unwrap();
    let none = "select not exists (select 1 from host_finding)";
    until(&app, "nothing changed", none).await;
    assert!(app.links.is_connected(enlisted.host));
    let beat = FromAgent::Heartbeat(Heartbeat::default());
    newer.send(beat).await;
    assert!(matches!(
        newer.next().await,
        Ok(Some(ToAgent::HeartbeatAck(_)))
    ));
}

#[tokio::test]
async fn certificates_of_nobody_are_refused_with_the_reason() {
    let app = testing::app().await;
    let mut enlisted = Enlisted::new(&app, "gpu-1").await;
    // Signed by the right CA, and known to nobody.
    let unknown = app
        .pki
        .agent_ca
        .issue_agent(&enlisted.machine.csr(), enlisted.host)
        .unwrap();
    let known = std::mem::replace(&mut enlisted.certificate_pem, unknown.pem);
    let status = enlisted.attach(&app, hello(&["a"])).await.err().unwrap();
    assert_eq!(status.code(), tonic::Code::PermissionDenied);
    assert!(
        status.message().contains("not one of this deployment's"),
        "{status}"
    );
    // Of another CA: the handshake ends it.
    let foreign = app
        .pki
        .server_ca
        .issue_agent(&enlisted.machine.csr(), enlisted.host)
        .unwrap();
    let tls = enlisted.machine.tls(&app, &foreign.pem, b"h2");
    let mut refused = dial(&enlisted.address, tls).await.unwrap();
    let mut answer = [0; 64];
    let read = tokio::io::AsyncReadExt::read(&mut refused, &mut answer);
    assert!(soon("the handshake fails", read).await.is_err());
    for (change, reason) in [
        (
            "update agent_certificate set not_after = now()",
            "has expired",
        ),
        (
            "update agent_certificate set revoked_at = now()",
            "was revoked",
        ),
        ("update host set removed_at = now()", "the operator removed"),
    ] {
        enlisted.certificate_pem = known.clone();
        sqlx::query(change).execute(&app.pool).await.unwrap();
        let status = enlisted.attach(&app, hello(&["a"])).await.err().unwrap();
        assert!(status.message().contains(reason), "{status}");
        let csr_pem = enlisted.machine.csr();
        let renewed = enlisted
            .client(&app)
            .await
            .renew(RenewRequest { csr_pem })
            .await;
        assert!(renewed.is_err(), "{change}");
    }
}

#[tokio::test]
async fn a_renewed_certificate_attaches_and_a_revoked_one_is_cut() {
    let app = testing::app().await;
    let mut enlisted = Enlisted::new(&app, "gpu-1").await;
    let csr_pem = enlisted.machine.csr();
    let mut client = enlisted.client(&app).await;
    let renewed = client.renew(RenewRequest { csr_pem }).await.unwrap();
    enlisted.certificate_pem = renewed.into_inner().certificate_pem;
    let mut stream = enlisted.welcome(&app, hello(&["a"])).await;
    reconcile::cut_refused(&app, app.links.held())
        .await
        .unwrap();
    assert!(
        app.links.is_connected(enlisted.host),
        "nothing is wrong yet"
    );
    sqlx::query("update agent_certificate set revoked_at = now()")
        .execute(&app.pool)
        .await
        .unwrap();
    reconcile::cut_refused(&app, app.links.held())
        .await
        .unwrap();
    assert!(!app.links.is_connected(enlisted.host));
    assert_eq!(stream.end().await.code(), tonic::Code::PermissionDenied);
}

#[tokio::test]
async fn what_is_not_a_hello_of_a_version_that_is_spoken_is_refused() {
    let app = testing::app().await;
    let enlisted = Enlisted::new(&app, "gpu-1").await;
    let mut late = hello(&["a"]);
    (late.protocol_min, late.protocol_max) = (9, 9);
    let mut stream = enlisted.attach(&app, late).await.unwrap();
    let status = stream.end().await;
    assert_eq!(status.code(), tonic::Code::FailedPrecondition);
    assert!(status.message().contains("update the older"), "{status}");
    let mut bare = hello(&["a"]);
    bare.inventory = None;
    let status = enlisted.attach(&app, bare).await.unwrap().end().await;
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert!(!app.links.is_connected(enlisted.host));
}

#[tokio::test]
async fn a_swapped_gpu_is_an_audited_change_of_an_idle_host_and_a_missing_one_a_finding() {
    let app = testing::app().await;
    let enlisted = Enlisted::new(&app, "gpu-1").await;
    enlisted.welcome(&app, hello(&["a", "b"])).await;
    enlisted.welcome(&app, hello(&["a", "c"])).await;
    let changed = "select details->>'added' = 'c' and details->>'removed' = 'b' from audit_entry where action = 'host.change_gpus'";
    until(&app, "the change is audited", changed).await;
    enlisted.welcome(&app, hello(&["a"])).await;
    let finding = "select exists (select 1 from host_finding where gpu_uuid = 'c' and check_name = 'gpu_missing' and prevents_use)";
    until(&app, "the missing GPU is a finding", finding).await;
    let host = service::get_host(&app, "gpu-1").await.unwrap();
    assert_eq!(host.row.gpu_count, 2, "the host still is one of two");
    enlisted.welcome(&app, hello(&["a", "c"])).await;
    let cleared = "select not exists (select 1 from host_finding)";
    until(&app, "the GPU came back", cleared).await;
}

#[tokio::test]
async fn health_and_reports_of_an_agent_are_written_down() {
    let app = testing::app().await;
    let enlisted = Enlisted::new(&app, "gpu-1").await;
    let mut hello = hello(&["a"]);
    // One that nobody knows of: it changes nothing and does no harm.
    hello.instances.push(InstanceReport {
        instance_id: InstanceId::new().to_string(),
        ..InstanceReport::default()
    });
    let stream = enlisted.welcome(&app, hello).await;
    let finding = |check: &str| HealthFinding {
        gpu_uuid: "a".to_owned(),
        check: check.to_owned(),
        ..HealthFinding::default()
    };
    let findings = vec![finding("xid_63"), finding("row_remap_pending")];
    stream
        .send(FromAgent::Health(HealthReport { findings }))
        .await;
    let two = "select count(*) = 2 from host_finding";
    until(&app, "both findings", two).await;
    let findings = vec![finding("xid_63")];
    stream
        .send(FromAgent::Health(HealthReport { findings }))
        .await;
    let one = "select count(*) = 1 and min(check_name) = 'xid_63' from host_finding";
    until(&app, "the one that is left", one).await;
}

#[tokio::test]
async fn a_revoked_certificate_is_cut_as_soon_as_the_host_is_signalled() {
    let app = testing::app().await;
    let enlisted = Enlisted::new(&app, "gpu-1").await;
    let mut stream = enlisted.welcome(&app, hello(&["a"])).await;
    let stop = app.shutdown.clone();
    tokio::spawn(reconcile::check_certificates(app.clone(), stop.clone()));
    tokio::spawn(app.bus.clone().listen(app.pool.clone(), stop));
    // A machine that enrols again has its earlier certificates revoked.
    let operator = testing::operator(&app).await;
    let token = token(&app, &operator, AskedToken::default()).await;
    enlisted.machine.enroll(&app, &token).await.unwrap();
    assert_eq!(stream.end().await.code(), tonic::Code::PermissionDenied);
}

#[tokio::test]
async fn sessions_that_were_forgotten_with_their_replica_are_written_down_again_and_others_go() {
    let app = testing::app().await;
    let enlisted = Enlisted::new(&app, "gpu-1").await;
    let mut stream = enlisted.welcome(&app, hello(&["a"])).await;
    let ghost = testing::host(&app, "sector-1").await;
    sqlx::query(
        "update agent_session set host_id = $1, connected_at = now() - interval '1 minute'",
    )
    .bind(ghost.uuid())
    .execute(&app.pool)
    .await
    .unwrap();
    reconcile::look_after_sessions(&app).await.unwrap();
    let rows: Vec<(uuid::Uuid, bool)> =
        sqlx::query_as("select host_id, telemetry from agent_session")
            .fetch_all(&app.pool)
            .await
            .unwrap();
    assert_eq!(rows, [(enlisted.host.uuid(), true)]);
    let Some(ToAgent::Hello(hello)) = stream.next().await.unwrap() else {
        panic!("the agent is not asked for telemetry");
    };
    assert!(hello.telemetry);
}
