use std::{sync::Arc, time::Duration};

use freehold_agent::{
    identity::{Identity, load_replicas},
    journal::Observation,
    model::{
        CertifyError, Event, Fence, GpuEvent, HealthFinding, HostKeyCertifier as _, InstanceStatus,
        ReportedState, ScrubOutcome, StepResult,
    },
};
use freehold_proto::{
    agent_v1::{
        AgentHello, EnsureGone, EnsureRunning, HealthReport, InstanceReport, InstanceSpec,
        JournalAck, JournalBatch, NetworkSpec, Replicas, ScrubHost,
        attach_request::Message as FromAgent, attach_response::Message as ToAgent,
        network_spec::Kind,
    },
    id::{InstanceId, LeaseId, ScrubId},
    time::micros_from_timestamp,
    v1,
};
use tempfile::TempDir;

use crate::{
    host::{Asked, Host},
    pki,
    server::{Replica, Session, hello},
    soon, until,
};

/// An enrolled agent and a replica that it is connected to.
struct Pair {
    dir: TempDir,
    replica: Replica,
    host: Host,
    session: Session,
}

async fn enrolment() -> (TempDir, Identity, Replica) {
    let dir = tempfile::tempdir().expect("a directory");
    let (server_ca, agent_ca) = (pki::ca("servers"), Arc::new(pki::ca("agents")));
    let identity = pki::identity(&server_ca, &agent_ca, time::Duration::days(30));
    let replica = Replica::start(&server_ca, agent_ca).await;
    (dir, identity, replica)
}

async fn pair() -> Pair {
    let (dir, identity, mut replica) = enrolment().await;
    let host = Host::enrolled(dir.path(), &identity, &[&replica.address]);
    let session = replica.welcomed().await;
    Pair {
        dir,
        replica,
        host,
        session,
    }
}

fn order(instance: InstanceId, epoch: i64, generation: i64) -> ToAgent {
    ToAgent::EnsureRunning(EnsureRunning {
        spec: Some(InstanceSpec {
            instance_id: instance.to_string(),
            lease_id: LeaseId::new().to_string(),
            epoch,
            generation,
            image: "freehold/base".to_owned(),
            gpu_uuids: vec!["GPU-a".to_owned()],
            vcpus: 4,
            memory_bytes: 1 << 30,
            scratch_bytes: 1 << 30,
            scratch_key: vec![9; 64],
            network: Some(NetworkSpec {
                kind: Kind::Bridge.into(),
            }),
            image_timeout_ms: 60_000,
            ..InstanceSpec::default()
        }),
    })
}

fn removal(instance: InstanceId, epoch: i64, generation: i64) -> ToAgent {
    ToAgent::EnsureGone(EnsureGone {
        instance_id: instance.to_string(),
        epoch,
        generation,
        scrub_id: ScrubId::new().to_string(),
        baseline: None,
    })
}

fn as_report(message: FromAgent) -> Option<InstanceReport> {
    match message {
        FromAgent::InstanceReport(report) => Some(report),
        _ => None,
    }
}

fn as_health(message: FromAgent) -> Option<HealthReport> {
    match message {
        FromAgent::Health(report) => Some(report),
        _ => None,
    }
}

fn as_journal(message: FromAgent) -> Option<JournalBatch> {
    match message {
        FromAgent::Journal(batch) => Some(batch),
        _ => None,
    }
}

fn running(instance: InstanceId) -> InstanceStatus {
    let fence = Fence {
        epoch: 1,
        generation: 1,
    };
    InstanceStatus::new(instance, fence, ReportedState::Running)
}

async fn first_hello(session: &mut Session) -> AgentHello {
    match soon("the agent's hello", session.next()).await {
        Some(FromAgent::Hello(hello)) => hello,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_hello_comes_first_and_says_what_there_is() {
    let (dir, identity, mut replica) = enrolment().await;
    let host = Host::enrolled(dir.path(), &identity, &[&replica.address]);
    let instance = InstanceId::new();
    host.instances
        .statuses
        .lock()
        .expect("not poisoned")
        .push(running(instance));
    let mut session = replica.attached().await;
    let hello = first_hello(&mut session).await;
    assert_eq!((hello.protocol_min, hello.protocol_max), (1, 1));
    assert_eq!(hello.boot_id, "boot-1");
    assert_eq!(hello.instances[0].instance_id, instance.to_string());
    let inventory = hello.inventory.expect("an inventory");
    assert_eq!(inventory.hostname, "gpu-1");
    assert_eq!(inventory.gpus[0].uuid, "GPU-a");
    assert_eq!((inventory.vcpus, inventory.simulated), (8, true));
    host.stop().await;
}

#[tokio::test]
async fn an_order_is_obeyed_and_an_older_one_changes_nothing() {
    let mut pair = pair().await;
    let instance = InstanceId::new();
    pair.session.send(order(instance, 1, 2)).await;
    until("the order is obeyed", || {
        pair.host.instances.asked().len() == 1
    })
    .await;
    for older in [
        order(instance, 1, 1),
        removal(instance, 1, 1),
        removal(instance, 0, 9),
    ] {
        pair.session.send(older).await;
        let report = pair.session.find("a refusal", as_report).await;
        assert!(report.fenced, "{report:?}");
        assert_eq!((report.epoch, report.generation), (1, 2));
    }
    assert_eq!(pair.host.instances.asked().len(), 1);
    pair.session.send(removal(instance, 1, 2)).await;
    until("the removal is obeyed", || {
        pair.host.instances.asked().len() == 2
    })
    .await;
    assert!(matches!(pair.host.instances.asked()[1], Asked::Remove(_)));
}

#[tokio::test]
async fn a_restarted_agent_still_refuses_what_it_refused_before() {
    let Pair {
        dir,
        mut replica,
        host,
        session,
    } = pair().await;
    let instance = InstanceId::new();
    session.send(order(instance, 3, 5)).await;
    until("the order is obeyed", || host.instances.asked().len() == 1).await;
    host.stop().await;
    drop(session);

    let host = Host::start(dir.path());
    let mut session = replica.attached().await;
    assert_eq!(first_hello(&mut session).await.epoch, 3);
    session
        .send(ToAgent::Hello(hello(&[&replica.address])))
        .await;
    session.send(order(instance, 3, 4)).await;
    assert!(session.find("a refusal", as_report).await.fenced);
    // An instance that was never seen is refused by its epoch, and so is a scrub.
    session.send(order(InstanceId::new(), 2, 1)).await;
    assert!(session.find("a refusal", as_report).await.fenced);
    session
        .send(ToAgent::ScrubHost(ScrubHost {
            scrub_id: ScrubId::new().to_string(),
            epoch: 2,
            baseline: None,
        }))
        .await;
    session.send(order(instance, 3, 5)).await;
    until("the same order again is obeyed", || {
        !host.instances.asked().is_empty()
    })
    .await;
    let asked = host.instances.asked();
    assert!(matches!(asked.as_slice(), [Asked::Run(_)]), "{asked:?}");
}

#[tokio::test]
async fn a_malformed_order_fails_with_the_field() {
    let mut pair = pair().await;
    let ToAgent::EnsureRunning(mut bad) = order(InstanceId::new(), 1, 1) else {
        unreachable!()
    };
    bad.spec.as_mut().expect("set").scratch_key.clear();
    pair.session.send(ToAgent::EnsureRunning(bad)).await;
    let report = pair.session.find("a report", as_report).await;
    assert_eq!(report.state(), v1::ReportedState::Failed);
    assert!(report.detail.contains("scratch_key"), "{}", report.detail);
    assert!(pair.host.instances.asked().is_empty());
}

#[tokio::test]
async fn a_silent_replica_is_dialled_again_and_nothing_else_happens() {
    let mut pair = pair().await;
    let instance = InstanceId::new();
    pair.session.send(order(instance, 1, 1)).await;
    until("the order is obeyed", || {
        pair.host.instances.asked().len() == 1
    })
    .await;
    pair.session.answers = false;
    let Pair {
        replica,
        host,
        session,
        ..
    } = &mut pair;
    let heard = async { while session.next().await.is_some() {} };
    soon("the agent attaches again", async {
        tokio::join!(heard, replica.welcomed())
    })
    .await;
    assert_eq!(host.instances.asked().len(), 1);
}

#[tokio::test]
async fn heartbeats_come_at_the_interval_that_the_replica_wants() {
    let mut pair = pair().await;
    let mut last = 0;
    for _ in 0..3 {
        let message = soon("a heartbeat", pair.session.from_agent.message()).await;
        let message = message.expect("alive").expect("open").message;
        let Some(FromAgent::Heartbeat(beat)) = message else {
            continue;
        };
        assert!(beat.monotonic_ms >= last);
        last = beat.monotonic_ms;
    }
    assert!(last > 0);
}

#[tokio::test]
async fn every_replica_hears_events_and_one_alone_telemetry() {
    let dir = tempfile::tempdir().expect("a directory");
    let (server_ca, agent_ca) = (pki::ca("servers"), Arc::new(pki::ca("agents")));
    let identity = pki::identity(&server_ca, &agent_ca, time::Duration::days(30));
    let mut first = Replica::start(&server_ca, Arc::clone(&agent_ca)).await;
    let mut second = Replica::start(&server_ca, agent_ca).await;
    let host = Host::enrolled(dir.path(), &identity, &[&first.address]);
    let both = [first.address.clone(), second.address.clone()];
    let both: Vec<&str> = both.iter().map(String::as_str).collect();

    // The first names the second, and only the second wants telemetry.
    let mut without = first.attached().await;
    first_hello(&mut without).await;
    without.send(ToAgent::Hello(hello(&both))).await;
    let mut with = second.attached().await;
    first_hello(&mut with).await;
    let mut wanting = hello(&both);
    wanting.telemetry = true;
    with.send(ToAgent::Hello(wanting)).await;
    with.find("the health", as_health).await;

    host.gpus.findings.send_replace(vec![HealthFinding {
        check: "xid_79".to_owned(),
        prevents_use: true,
        ..HealthFinding::default()
    }]);
    let health = with.find("the finding", as_health).await;
    assert_eq!(health.findings[0].check, "xid_79");
    let event = GpuEvent {
        kind: "xid".to_owned(),
        xid: Some(79),
        ..GpuEvent::default()
    };
    host.gpus.events.send(event).expect("the link listens");
    let batch = with
        .find("the event", |message| match message {
            FromAgent::Telemetry(batch) if !batch.events.is_empty() => Some(batch),
            _ => None,
        })
        .await;
    assert_eq!(batch.events[0].xid, Some(79));

    let instance = InstanceId::new();
    let status = Event::Instance(running(instance));
    host.events.send(status).await.expect("the link listens");
    let report = with.find("the report", as_report).await;
    assert_eq!(report.instance_id, instance.to_string());
    // The report is the first that the other hears: no telemetry went there.
    match soon("the report", without.next()).await {
        Some(FromAgent::InstanceReport(report)) => {
            assert_eq!(report.instance_id, instance.to_string());
        }
        other => panic!("{other:?}"),
    }
    host.stop().await;
}

#[tokio::test]
async fn replicas_come_and_go_as_the_control_plane_says() {
    let dir = tempfile::tempdir().expect("a directory");
    let (server_ca, agent_ca) = (pki::ca("servers"), Arc::new(pki::ca("agents")));
    let identity = pki::identity(&server_ca, &agent_ca, time::Duration::days(30));
    let mut first = Replica::start(&server_ca, Arc::clone(&agent_ca)).await;
    let mut second = Replica::start(&server_ca, agent_ca).await;
    let host = Host::enrolled(dir.path(), &identity, &[&first.address]);
    let mut session = first.welcomed().await;
    let replicas = |addresses: &[&str]| {
        ToAgent::Replicas(Replicas {
            agent_addresses: addresses.iter().map(|a| (*a).to_owned()).collect(),
        })
    };
    session.send(replicas(&[])).await;
    session
        .send(replicas(&[&first.address, &second.address]))
        .await;
    let mut other = second.attached().await;
    first_hello(&mut other).await;
    let only_second = hello(&[&second.address]);
    other.send(ToAgent::Hello(only_second)).await;
    soon("the first is left", async {
        while session.next().await.is_some() {}
    })
    .await;
    assert_eq!(load_replicas(dir.path()), [second.address.as_str()]);
    host.stop().await;
}

#[tokio::test]
async fn what_happened_while_the_link_was_down_is_told_after_the_hello() {
    let (dir, identity, mut replica) = enrolment().await;
    let host = Host::enrolled(dir.path(), &identity, &[&replica.address]);
    let mut session = replica.attached().await;
    first_hello(&mut session).await;

    let scrub_id = ScrubId::new();
    let outcome = ScrubOutcome {
        scrub_id,
        instance_id: None,
        fence: Fence::default(),
        result: StepResult::Failed,
        steps: Vec::new(),
        start_micros: 1,
        end_micros: 2,
    };
    let event = Event::Scrub(outcome);
    host.events.send(event).await.expect("the link listens");
    let seen = Observation {
        instance_id: InstanceId::new(),
        healthy: true,
    };
    for _ in 0..2 {
        host.journal.observe(vec![seen]).await;
    }
    session
        .send(ToAgent::Hello(hello(&[&replica.address])))
        .await;
    let report = session
        .find("the scrub's report", |message| match message {
            FromAgent::ScrubReport(report) => Some(report),
            _ => None,
        })
        .await;
    assert_eq!(report.scrub_id, scrub_id.to_string());
    assert_eq!(report.result(), v1::StepResult::Failed);
    let batch = session.find("the journal", as_journal).await;
    let entry = &batch.entries[0];
    assert_eq!(entry.instance_id, seen.instance_id.to_string());
    assert!(entry.healthy);
    let told = entry.to_time.as_ref().and_then(micros_from_timestamp);
    let now_us = chrono::Utc::now().timestamp_micros();
    assert!((now_us - told.expect("a time")).abs() < 60_000_000);

    // Told again until it is acknowledged.
    drop(session);
    let mut session = replica.welcomed().await;
    let again = session.find("the journal", as_journal).await;
    let ids = |batch: &JournalBatch| -> Vec<String> {
        let entries = batch.entries.iter();
        entries.map(|entry| entry.instance_id.clone()).collect()
    };
    assert_eq!(ids(&again), ids(&batch));
    let last_sequence = again.last_sequence;
    session
        .send(ToAgent::JournalAck(JournalAck { last_sequence }))
        .await;
    until("the stretch is forgotten", || {
        host.journal.unacknowledged().is_empty()
    })
    .await;
    host.stop().await;
}

#[tokio::test]
async fn a_certificate_is_renewed_in_time_and_used_from_the_next_connection_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let (server_ca, agent_ca) = (pki::ca("servers"), Arc::new(pki::ca("agents")));
    let identity = pki::identity(&server_ca, &agent_ca, time::Duration::seconds(6));
    let mut replica = Replica::start(&server_ca, agent_ca).await;
    let host = Host::enrolled(dir.path(), &identity, &[&replica.address]);
    let mut session = replica.welcomed().await;
    let before = session.certificate.clone();
    let served = async { while session.next().await.is_some() {} };
    let renewed = until("the certificate is renewed", || {
        host.identity.current().identity.certificate_pem != identity.certificate_pem
    });
    tokio::select! {
        () = served => panic!("the stream goes on"),
        () = renewed => {}
    }
    assert_eq!(host.identity.host_id(), identity.host_id);
    assert_ne!(host.identity.current().identity.key_pem, identity.key_pem);
    drop(session);
    let session = replica.welcomed().await;
    assert_ne!(session.certificate, before);
    host.stop().await;
}

#[tokio::test]
async fn a_foreign_certificate_gets_no_stream_and_touches_nothing() {
    let (dir, _, mut replica) = enrolment().await;
    let (server_ca, foreign_ca) = (pki::ca("servers"), pki::ca("agents"));
    let foreign = pki::identity(&server_ca, &foreign_ca, time::Duration::days(30));
    let host = Host::enrolled(dir.path(), &foreign, &[&replica.address]);
    let attached = tokio::time::timeout(Duration::from_secs(2), replica.sessions.recv());
    assert!(attached.await.is_err(), "no stream");
    assert!(host.instances.asked().is_empty());
    let error = host
        .replicas
        .certify(InstanceId::new(), "ssh-ed25519 A")
        .await;
    assert!(
        matches!(error, Err(CertifyError::Unreachable(_))),
        "{error:?}"
    );
    host.stop().await;
}

#[tokio::test]
async fn host_keys_are_certified_by_any_replica_that_is_connected() {
    let pair = pair().await;
    let replicas = &pair.host.replicas;
    let certified = soon("the replica is asked", async {
        loop {
            match replicas.certify(InstanceId::new(), "ssh-ed25519 A").await {
                Err(CertifyError::Unreachable(_)) => tokio::task::yield_now().await,
                other => return other,
            }
        }
    })
    .await;
    assert_eq!(certified.as_deref(), Ok("certified ssh-ed25519 A"));
    let refused = replicas.certify(InstanceId::new(), "ssh-rsa A").await;
    assert!(
        matches!(refused, Err(CertifyError::Refused(_))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn another_protocol_version_is_not_spoken() {
    let (dir, identity, mut replica) = enrolment().await;
    let host = Host::enrolled(dir.path(), &identity, &[&replica.address]);
    let mut session = replica.attached().await;
    first_hello(&mut session).await;
    let mut later = hello(&[&replica.address]);
    later.protocol = 2;
    session.send(ToAgent::Hello(later)).await;
    session.send(order(InstanceId::new(), 1, 1)).await;
    soon("the agent leaves", async {
        while session.next().await.is_some() {}
    })
    .await;
    assert!(host.instances.asked().is_empty());
    host.stop().await;
}

#[tokio::test]
async fn gpus_that_are_found_later_are_told_in_a_new_hello() {
    let (dir, identity, mut replica) = enrolment().await;
    let host = Host::enrolled(dir.path(), &identity, &[&replica.address]);
    let late = {
        let mut inventory = host.gpus.inventory.lock().expect("not poisoned");
        std::mem::take(&mut *inventory)
    };
    drop(replica.welcomed().await);
    let mut session = replica.attached().await;
    let gpus = |hello: AgentHello| hello.inventory.map_or(0, |inventory| inventory.gpus.len());
    assert_eq!(gpus(first_hello(&mut session).await), 0);
    session
        .send(ToAgent::Hello(hello(&[&replica.address])))
        .await;
    *host.gpus.inventory.lock().expect("not poisoned") = late;
    let mut session = replica.attached().await;
    assert_eq!(gpus(first_hello(&mut session).await), 1);
}
