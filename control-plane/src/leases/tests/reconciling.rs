//! The reconciler against a real PostgreSQL, with the agents' side played by the tests.

use freehold_proto::{
    agent_v1::{
        AttachResponse, EnsureGone, EnsureRunning, InstanceReport, ScrubHost, ScrubReport,
        attach_response::Message,
    },
    v1::{ReportedState, Step, StepResult},
};
use tokio::sync::mpsc;

use super::*;
use crate::leases::{reconcile, reports};

/// A host's agent, as the control plane sees it.
struct Agent {
    host: HostId,
    orders: mpsc::Receiver<std::result::Result<AttachResponse, tonic::Status>>,
}

impl Agent {
    fn attach(app: &App, host: HostId) -> Self {
        let (sender, orders) = mpsc::channel(64);
        app.links.attach(host, 1, sender);
        Self { host, orders }
    }

    fn next(&mut self) -> Option<Message> {
        self.orders.try_recv().ok()?.unwrap().message
    }

    fn running_order(&mut self) -> EnsureRunning {
        match self.next() {
            Some(Message::EnsureRunning(order)) => order,
            other => panic!("expected an order to run, got {other:?}"),
        }
    }

    fn gone_order(&mut self) -> EnsureGone {
        match self.next() {
            Some(Message::EnsureGone(order)) => order,
            other => panic!("expected an order to remove, got {other:?}"),
        }
    }

    fn scrub_order(&mut self) -> ScrubHost {
        match self.next() {
            Some(Message::ScrubHost(order)) => order,
            other => panic!("expected an order to scrub, got {other:?}"),
        }
    }

    async fn report(&self, app: &App, instance: &str, generation: i64, state: ReportedState) {
        let report = InstanceReport {
            instance_id: instance.to_owned(),
            epoch: app.epoch,
            generation,
            state: state.into(),
            detail: "as the test says".to_owned(),
            ..InstanceReport::default()
        };
        self.send(app, report).await;
    }

    async fn send(&self, app: &App, report: InstanceReport) {
        reports::instance_report(app, self.host, &report)
            .await
            .unwrap();
    }

    async fn scrubbed(&self, app: &App, scrub: &str, result: StepResult) {
        let report = ScrubReport {
            scrub_id: scrub.to_owned(),
            epoch: app.epoch,
            result: result.into(),
            steps: vec![Step {
                name: "gpu_count".to_owned(),
                result: result.into(),
                detail: "8 of 8".to_owned(),
                duration_ms: 1,
            }],
            ..ScrubReport::default()
        };
        reports::scrub_report(app, self.host, &report)
            .await
            .unwrap();
    }
}

async fn pass(app: &App) {
    reconcile::pass_once(app).await.unwrap();
}

async fn state_of(app: &App, record: &LeaseRecord) -> (String, String) {
    sqlx::query_as("select l.state, i.recorded from lease l join instance i on i.lease_id = l.id where l.id = $1 and ordinal = 0")
        .bind(record.lease.id)
        .fetch_one(&app.pool)
        .await
        .unwrap()
}

async fn execute(app: &App, sql: &'static str) {
    sqlx::query(sql).execute(&app.pool).await.unwrap();
}

fn pair(lease: &str, instance: &str) -> (String, String) {
    (lease.to_owned(), instance.to_owned())
}

#[tokio::test]
async fn a_lease_that_begins_now_is_ordered_from_its_host_with_all_it_needs() {
    let app = testing::app().await;
    let host = testing::host(&app, "sector-1").await;
    let mut agent = Agent::attach(&app, host);
    let caller = testing::tenant(&app, "vision").await;
    let record = create(&app, &caller, asked()).await.unwrap();
    pass(&app).await;
    let spec = agent.running_order().spec.unwrap();
    assert_eq!(
        spec.instance_id,
        InstanceId::from(record.instances[0].id).to_string()
    );
    assert_eq!((spec.epoch, spec.generation), (app.epoch, 1));
    assert_eq!(spec.gpu_uuids.len(), 8);
    assert_eq!(spec.scratch_key.len(), 64);
    assert_eq!(spec.image, app.config.default_image);
    assert_eq!(
        state_of(&app, &record).await,
        pair("provisioning", "provisioning")
    );
    // A replica that has just started cannot know that the order was sent, and sends it again.
    pass(&app).await;
    assert_eq!(agent.running_order().spec.unwrap(), spec);
}

#[tokio::test]
async fn two_replicas_that_pass_at_once_begin_an_instance_once() {
    let app = testing::app().await;
    testing::host(&app, "sector-1").await;
    let caller = testing::tenant(&app, "vision").await;
    create(&app, &caller, asked()).await.unwrap();
    let (first, second, third) = tokio::join!(
        reconcile::pass_once(&app),
        reconcile::pass_once(&app),
        reconcile::pass_once(&app)
    );
    first.and(second).and(third).unwrap();
    let begun =
        "select count(*) from lease_event where kind = 'provisioning' and instance_id is not null";
    assert_eq!(count(&app, begun).await, 1);
}

#[tokio::test]
async fn what_a_host_cannot_bring_up_is_tried_on_another_one_and_the_first_is_scrubbed() {
    let app = testing::app().await;
    let hosts = [
        testing::host(&app, "sector-1").await,
        testing::host(&app, "sector-1").await,
    ];
    let mut agents = hosts.map(|host| Agent::attach(&app, host));
    let caller = testing::tenant(&app, "vision").await;
    let record = create(&app, &caller, asked()).await.unwrap();
    pass(&app).await;
    let first = usize::from(agents[1].host == host_of(&record));
    let order = agents[first].running_order().spec.unwrap();
    agents[first]
        .report(&app, &order.instance_id, 1, ReportedState::Failed)
        .await;
    pass(&app).await;
    pass(&app).await;
    let again = agents[1 - first].running_order().spec.unwrap();
    assert_eq!(
        (again.instance_id.as_str(), again.generation),
        (order.instance_id.as_str(), 2)
    );
    assert_ne!(again.gpu_uuids, order.gpu_uuids);
    let gone = agents[first].gone_order();
    assert_eq!(gone.generation, 1);
    assert_eq!(gone.baseline.unwrap().gpu_uuids, order.gpu_uuids);
    // The first host is nobody's until it is clean.
    assert!(create(&app, &caller, asked()).await.is_err());
    agents[first]
        .scrubbed(&app, &gone.scrub_id, StepResult::Passed)
        .await;
    create(&app, &caller, asked()).await.unwrap();
    // A report of the first placement says nothing about the second.
    agents[first]
        .report(&app, &order.instance_id, 1, ReportedState::Failed)
        .await;
    pass(&app).await;
    assert_eq!(
        state_of(&app, &record).await,
        pair("provisioning", "provisioning")
    );
    // The second failure is the last.
    agents[1 - first]
        .report(&app, &order.instance_id, 2, ReportedState::Failed)
        .await;
    pass(&app).await;
    assert_eq!(state_of(&app, &record).await, pair("failed", "ending"));
}

#[tokio::test]
async fn an_image_at_fault_fails_the_lease_and_its_host_is_clean_again_after_the_scrub() {
    let app = testing::app().await;
    let host = testing::host(&app, "sector-1").await;
    let mut agent = Agent::attach(&app, host);
    let caller = testing::tenant(&app, "vision").await;
    let record = create(&app, &caller, asked()).await.unwrap();
    pass(&app).await;
    let spec = agent.running_order().spec.unwrap();
    agent
        .send(
            &app,
            InstanceReport {
                instance_id: spec.instance_id.clone(),
                epoch: app.epoch,
                generation: 1,
                state: ReportedState::Failed.into(),
                detail: "the image nowhere:1 cannot be had".to_owned(),
                tenant_fault: true,
                ..InstanceReport::default()
            },
        )
        .await;
    pass(&app).await;
    let failed = get(&app, &caller, &id_of(&record)).await.unwrap();
    assert_eq!(failed.lease.state, "failed");
    assert!(
        failed
            .lease
            .state_reason
            .contains("the image nowhere:1 cannot be had"),
        "{}",
        failed.lease.state_reason
    );
    pass(&app).await;
    let gone = agent.gone_order();
    agent
        .report(&app, &spec.instance_id, 1, ReportedState::Absent)
        .await;
    pass(&app).await;
    assert_eq!(state_of(&app, &record).await, pair("failed", "ended"));
    let keys = "select count(*) from instance where scratch_key is not null or scratch_key_destroyed_at is null";
    assert_eq!(count(&app, keys).await, 0);
    assert!(create(&app, &caller, asked()).await.is_err());
    agent
        .scrubbed(&app, &gone.scrub_id, StepResult::Passed)
        .await;
    create(&app, &caller, asked()).await.unwrap();
}

#[tokio::test]
async fn a_host_that_fails_its_scrub_is_quarantined_and_its_bookings_move() {
    let app = testing::app().await;
    let host = testing::host(&app, "sector-1").await;
    let mut agent = Agent::attach(&app, host);
    let caller = testing::tenant(&app, "vision").await;
    let hours = |start: Option<i64>, now: DateTime<Utc>| Asked {
        start: start.map(|hours| now + TimeDelta::hours(hours)),
        hours: Some(1),
        ..asked()
    };
    let at = now(&app).await;
    let record = create(&app, &caller, hours(None, at)).await.unwrap();
    let later = create(&app, &caller, hours(Some(3), at)).await.unwrap();
    pass(&app).await;
    agent.running_order();
    service::end_lease(&app, &caller, named(&id_of(&record)))
        .await
        .unwrap();
    pass(&app).await;
    let gone = agent.gone_order();
    agent
        .report(&app, &gone.instance_id, 1, ReportedState::Absent)
        .await;
    agent
        .scrubbed(&app, &gone.scrub_id, StepResult::Failed)
        .await;
    let spare = testing::host(&app, "sector-2").await;
    pass(&app).await;
    let moved = get(&app, &caller, &id_of(&later)).await.unwrap();
    assert_eq!(host_of(&moved), spare);
    assert_eq!(moved.lease.state, "scheduled");
    let reason: String = sqlx::query_scalar("select quarantine_reason from host where id = $1")
        .bind(host.uuid())
        .fetch_one(&app.pool)
        .await
        .unwrap();
    assert!(reason.contains("gpu_count"), "{reason}");
}

#[tokio::test]
async fn silence_is_unknown_from_the_last_sign_of_life_and_ends_nothing() {
    let app = testing::app().await;
    let host = testing::host(&app, "sector-1").await;
    let mut agent = Agent::attach(&app, host);
    let caller = testing::tenant(&app, "vision").await;
    let record = create(&app, &caller, asked()).await.unwrap();
    pass(&app).await;
    agent.running_order();
    execute(
        &app,
        "update instance set recorded = 'usable', usable_at = now() - interval '1 hour', reported = 'running', sshd_listening = true,
             visible_gpu_uuids = gpu_uuids",
    )
    .await;
    execute(
        &app,
        "insert into availability (id, instance_id, from_at, state, fault_party, evidence)
         select gen_random_uuid(), id, usable_at, 'usable', 'none', 'test' from instance",
    )
    .await;
    execute(
        &app,
        "update host set last_seen_at = now() - interval '10 minutes'",
    )
    .await;
    pass(&app).await;
    assert_eq!(state_of(&app, &record).await, pair("impaired", "impaired"));
    let (paused, heard): (DateTime<Utc>, DateTime<Utc>) = sqlx::query_as(
        "select a.from_at, h.last_seen_at from availability a, host h where a.state = 'unknown' and a.to_at is null",
    )
    .fetch_one(&app.pool)
    .await
    .unwrap();
    assert_eq!(paused, heard);
    assert_eq!(agent.next(), None);
}

#[tokio::test]
async fn a_window_that_is_over_ends_its_lease() {
    let app = testing::app().await;
    testing::host(&app, "sector-1").await;
    let caller = testing::tenant(&app, "vision").await;
    let record = create(
        &app,
        &caller,
        Asked {
            hours: Some(1),
            ..asked()
        },
    )
    .await
    .unwrap();
    set_recorded(&app, record.instances[0].id, "usable").await;
    execute(
        &app,
        "update lease set lease_window = tstzrange(now() - interval '1 hour', now())",
    )
    .await;
    pass(&app).await;
    let cause: String = sqlx::query_scalar("select end_cause from lease")
        .fetch_one(&app.pool)
        .await
        .unwrap();
    assert_eq!(cause, "window");
    assert_eq!(state_of(&app, &record).await, pair("ending", "ending"));
}

#[tokio::test]
async fn a_host_that_is_needed_for_longer_stays_taken_and_the_booking_behind_it_waits_for_another()
{
    let app = testing::app().await;
    let host = testing::host(&app, "sector-1").await;
    let caller = testing::tenant(&app, "vision").await;
    let at = now(&app).await;
    let window = |from: i64| Asked {
        start: (from > 0).then(|| at + TimeDelta::hours(from)),
        hours: Some(1),
        ..asked()
    };
    let first = create(&app, &caller, window(0)).await.unwrap();
    let behind = create(&app, &caller, window(2)).await.unwrap();
    set_recorded(&app, first.instances[0].id, "ending").await;
    // The first one's time, turnaround included, is as good as over, and the second's is about to come.
    execute(
        &app,
        "update occupancy set movable = false, during = tstzrange(lower(during), now() + interval '10 seconds')
         where instance_id = (select id from instance where recorded = 'ending')",
    )
    .await;
    execute(
        &app,
        "update occupancy set during = tstzrange(now() + interval '1 minute', null) where movable",
    )
    .await;
    pass(&app).await;
    let taken = "select count(*) from occupancy where not movable and upper(during) > now() + interval '9 minutes'";
    assert_eq!(count(&app, taken).await, 1);
    assert_eq!(state_of(&app, &behind).await, pair("waitlisted", "pending"));
    // A host that comes free takes it.
    let spare = testing::host(&app, "sector-1").await;
    execute(
        &app,
        "update lease set lease_window = tstzrange(now(), null) where state = 'waitlisted'",
    )
    .await;
    pass(&app).await;
    let placed = get(&app, &caller, &id_of(&behind)).await.unwrap();
    assert_eq!(host_of(&placed), spare);
    assert_ne!(spare, host);
}

#[tokio::test]
async fn an_idle_host_that_is_not_clean_is_scrubbed_and_one_that_never_answers_is_quarantined() {
    let app = testing::app().await;
    let host = testing::host(&app, "sector-1").await;
    let mut agent = Agent::attach(&app, host);
    execute(&app, "update host set clean = false").await;
    pass(&app).await;
    let order = agent.scrub_order();
    assert_eq!(order.baseline.unwrap().gpu_uuids.len(), 8);
    agent
        .scrubbed(&app, &order.scrub_id, StepResult::Passed)
        .await;
    assert_eq!(
        count(&app, "select count(*) from host where clean").await,
        1
    );
    execute(&app, "update host set clean = false").await;
    pass(&app).await;
    execute(
        &app,
        "update scrub set requested_at = now() - interval '1 day' where result is null",
    )
    .await;
    pass(&app).await;
    let quarantined = "select count(*) from host where quarantine_reason like '%was not finished%'";
    assert_eq!(count(&app, quarantined).await, 1);
    let open = "select count(*) from scrub where result is null";
    assert_eq!(count(&app, open).await, 0);
}

#[tokio::test]
async fn a_lease_is_settled_when_its_hosts_are_scrubbed_and_its_meters_closed() {
    let app = testing::app().await;
    let host = testing::host(&app, "sector-1").await;
    let mut agent = Agent::attach(&app, host);
    let caller = testing::tenant(&app, "vision").await;
    let record = create(&app, &caller, asked()).await.unwrap();
    pass(&app).await;
    agent.running_order();
    service::end_lease(&app, &caller, named(&id_of(&record)))
        .await
        .unwrap();
    pass(&app).await;
    let gone = agent.gone_order();
    agent
        .report(&app, &gone.instance_id, 1, ReportedState::Absent)
        .await;
    pass(&app).await;
    let settled = "select count(*) from lease where settled_at is not null";
    execute(&app, "update instance set meter_closed_at = now()").await;
    reconcile::settle_once(&app).await.unwrap();
    assert_eq!(count(&app, settled).await, 0, "the scrub goes on");
    agent
        .scrubbed(&app, &gone.scrub_id, StepResult::Passed)
        .await;
    reconcile::settle_once(&app).await.unwrap();
    assert_eq!(count(&app, settled).await, 1);
}
