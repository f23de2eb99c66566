//! What a replica keeps doing about the agents that are connected to it.

use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::{
    link,
    links::Held,
    store::{
        certificate::lock_host,
        finding,
        session::{self, Session},
    },
};
use crate::{
    app::App,
    background::reconcile,
    cluster,
    database::Signal,
    error::{Error, Result},
};

/// How often what was heard is written down.
const WRITE_DOWN: Duration = Duration::from_secs(1);

/// How often the sessions are compared with what is written down of them.
const LOOK_AFTER: Duration = Duration::from_secs(5);

/// How often silence is looked for.
const NOTICE: Duration = Duration::from_secs(1);

/// How often every certificate is looked at; a signal has one host's looked at at once.
const CHECK_ALL: Duration = Duration::from_secs(30);

/// Starts what looks after hosts.
pub(crate) fn spawn_reconcilers(app: &App, tasks: &TaskTracker, cancel: &CancellationToken) {
    let never = |_: &Signal| false;
    tasks.spawn(reconcile(
        app.clone(),
        "hosts-heard",
        WRITE_DOWN,
        never,
        cancel.clone(),
        |app| async move { write_heard(&app).await },
    ));
    tasks.spawn(reconcile(
        app.clone(),
        "agent-sessions",
        LOOK_AFTER,
        never,
        cancel.clone(),
        |app| async move { look_after_sessions(&app).await },
    ));
    tasks.spawn(reconcile(
        app.clone(),
        "hosts-unfit",
        app.config.limits.reconcile_interval,
        |signal| matches!(signal, Signal::Host(_)),
        cancel.clone(),
        |app| async move { quarantine_unfit(&app).await },
    ));
    tasks.spawn(reconcile(
        app.clone(),
        "hosts-silent",
        NOTICE,
        never,
        cancel.clone(),
        |app| async move { notice_silence(&app).await },
    ));
    tasks.spawn(check_certificates(app.clone(), cancel.clone()));
}

/// Writes down which hosts were heard, in one statement. A row that somebody has locked is written at its next heartbeat.
pub(super) async fn write_heard(app: &App) -> Result<()> {
    let heard = app.links.heard().take();
    let hosts: Vec<Uuid> = heard.iter().map(|(host, _)| host.uuid()).collect();
    let ages: Vec<f64> = heard
        .iter()
        .map(|(_, at)| at.elapsed().as_secs_f64())
        .collect();
    let written = sqlx::query_scalar!(
        r#"with heard as (
               select * from unnest($1::uuid[], $2::float8[]) as heard (id, age)
           ), free as (
               select h.id, now() - make_interval(secs => heard.age) as at from host h join heard on heard.id = h.id
               order by h.id for no key update of h skip locked
           ), written as (
               update host set last_seen_at = greatest(last_seen_at, free.at) from free where host.id = free.id
           )
           select clock_timestamp() as "now!""#,
        &hosts,
        &ages
    )
    .fetch_one(&app.pool)
    .await;
    match written {
        Ok(now) => {
            app.links.heard().set_clock(now);
            Ok(())
        }
        Err(error) => {
            app.links.heard().put_back(heard);
            Err(error.into())
        }
    }
}

/// Writes sessions down that were forgotten with their replica, has telemetry sent here that nobody gets, and tells agents of replicas that
/// came or went.
pub(super) async fn look_after_sessions(app: &App) -> Result<()> {
    let sessions: Vec<Session> = app
        .links
        .held()
        .iter()
        .map(|held| session_of(app, held))
        .collect();
    let mut connection = app.pool.acquire().await?;
    session::restore(&mut connection, app.replica_id, &sessions).await?;
    session::forget_others(&mut connection, app.replica_id, &sessions).await?;
    for orphan in session::without_telemetry(&mut connection, app.replica_id).await? {
        if sessions.contains(&orphan) && claim_telemetry(app, orphan).await? {
            link::ask_for_telemetry(app, orphan.host).await?;
        }
    }
    let addresses = cluster::agent_addresses(&app.pool).await?;
    // An empty list would be a registry that this replica is late to write to.
    if !addresses.is_empty() && app.links.note_replicas(&addresses) {
        for session in &sessions {
            app.links.tell(session.host, addresses.clone());
        }
    }
    Ok(())
}

async fn claim_telemetry(app: &App, session: Session) -> Result<bool> {
    let mut tx = app.pool.begin().await?;
    lock_host(&mut tx, session.host).await?;
    let claimed = session::claim_telemetry(&mut tx, session).await?;
    tx.commit().await?;
    Ok(claimed)
}

fn session_of(app: &App, held: &Held) -> Session {
    Session {
        host: held.host,
        replica: app.replica_id,
        generation: held.session.cast_signed(),
    }
}

/// Cuts the streams whose certificate was revoked, has expired or is a removed host's: that of a host when a signal names it, all of them
/// now and then.
pub(super) async fn check_certificates(app: App, cancel: CancellationToken) {
    let mut signals = app.bus.subscribe();
    loop {
        let heard = tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(CHECK_ALL) => None,
            signal = signals.recv() => Some(signal),
        };
        let held = match heard {
            Some(Ok(Signal::Host(host))) => app.links.held_of(host.into()).into_iter().collect(),
            Some(Ok(Signal::Lease(_) | Signal::Meter)) => continue,
            Some(Ok(Signal::Resync) | Err(RecvError::Lagged(_))) | None => app.links.held(),
            Some(Err(RecvError::Closed)) => return,
        };
        if let Err(error) = cut_refused(&app, held).await {
            tracing::warn!(%error, "certificates cannot be looked at");
        }
    }
}

/// Cuts those of these streams that would not be admitted now.
pub(super) async fn cut_refused(app: &App, held: Vec<Held>) -> Result<()> {
    if held.is_empty() {
        return Ok(());
    }
    let serials: Vec<String> = held.iter().map(|held| held.serial.clone()).collect();
    let refused = sqlx::query_scalar!(
        "select c.serial from agent_certificate c join host h on h.id = c.host_id
         where c.serial = any($1) and (c.revoked_at is not null or c.not_after <= now() or h.removed_at is not null)",
        &serials
    )
    .fetch_all(&app.pool)
    .await?;
    for held in held
        .into_iter()
        .filter(|held| refused.contains(&held.serial))
    {
        let why = Error::PermissionDenied(
            "the client certificate was revoked or has expired, or the host was removed".to_owned(),
        );
        tracing::info!(host.id = %held.host, "the host's control stream is cut");
        app.links.cut(held.host, held.session, why.into());
    }
    Ok(())
}

/// Quarantines hosts that could be leased but for a finding. One that is leased, or being scrubbed, has its gate before it.
pub(super) async fn quarantine_unfit(app: &App) -> Result<()> {
    let unfit = finding::unfit_hosts(&mut *app.pool.acquire().await?).await?;
    for host in unfit {
        finding::quarantine_unfit(&app.pool, host).await?;
    }
    Ok(())
}

/// Says of hosts that fell silent that something changed, so that their leases are looked at.
pub(super) async fn notice_silence(app: &App) -> Result<()> {
    let timeout = app.config.limits.host_timeout.as_secs_f64();
    finding::notify_silent(&mut *app.pool.acquire().await?, timeout).await
}
