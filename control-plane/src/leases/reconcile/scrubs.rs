//! Scrubs: asked for until they are answered, and their hosts quarantined when they are not answered in time.

use freehold_proto::id::{HostId, InstanceId, ScrubId};

use super::{
    execute::fail_scrubs,
    orders::{self, Sent},
};
use crate::{app::App, error::Result, hosts::quarantine::quarantine};

/// Asks for every scrub that was not answered, and for one of every idle host that is not clean.
pub(super) async fn drive(app: &App, sent: &Sent) -> Result<()> {
    ask_for_missing(app).await?;
    give_up_late(app).await?;
    let mut connection = app.pool.acquire().await?;
    let open = sqlx::query!(
        "select id, host_id, instance_id, generation from scrub where result is null order by id"
    )
    .fetch_all(&mut *connection)
    .await?;
    for scrub in open {
        let (id, host) = (ScrubId::from(scrub.id), HostId::from(scrub.host_id));
        match scrub.instance_id.map(InstanceId::from) {
            Some(instance) => {
                let subject = (host, instance, scrub.generation);
                orders::remove(app, sent, &mut connection, subject, id).await?;
            }
            None => orders::scrub(app, sent, &mut connection, host, id).await?,
        }
    }
    Ok(())
}

/// A host that is not clean, and that nothing runs on or is being scrubbed on, gets a scrub of its own: one that has just enrolled or was released
/// from quarantine.
async fn ask_for_missing(app: &App) -> Result<()> {
    let silence = app.config.limits.host_timeout.as_secs_f64();
    let idle = sqlx::query_scalar!(
        "select h.id from host h where not h.clean and h.quarantine_reason is null and h.removed_at is null
             and h.last_seen_at > now() - make_interval(secs => $1)
             and exists (select 1 from host_gpu g where g.host_id = h.id)
             and not exists (select 1 from scrub s where s.host_id = h.id and s.result is null)
             and not exists (select 1 from instance i where i.host_id = h.id and i.recorded in ('provisioning', 'usable', 'impaired', 'ending'))",
        silence
    )
    .fetch_all(&app.pool)
    .await?;
    for host in idle {
        let mut tx = app.pool.begin().await?;
        let still = sqlx::query_scalar!(
            "select h.id from host h where h.id = $1 and not h.clean and h.quarantine_reason is null and h.removed_at is null
                 and not exists (select 1 from scrub s where s.host_id = h.id and s.result is null) for update",
            host
        )
        .fetch_optional(&mut *tx)
        .await?;
        if still.is_some() {
            sqlx::query!(
                "insert into scrub (id, host_id) values ($1, $2)",
                ScrubId::new().uuid(),
                host
            )
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
        }
    }
    Ok(())
}

/// Quarantines the hosts of scrubs that were not answered in time.
async fn give_up_late(app: &App) -> Result<()> {
    let limit = app.config.limits.scrub_timeout;
    let late = sqlx::query!(
        "select s.host_id, s.instance_id from scrub s left join instance i on i.id = s.instance_id
         where s.result is null and s.requested_at <= now() - make_interval(secs => $1)
             and (i.id is null or i.generation > s.generation or i.recorded = 'ended')",
        limit.as_secs_f64()
    )
    .fetch_all(&app.pool)
    .await?;
    for scrub in late {
        let reason = format!(
            "its scrub was not finished within {}; look after the host's agent, then release the host",
            humantime::format_duration(limit)
        );
        let mut tx = app.pool.begin().await?;
        fail_scrubs(&mut tx, scrub.host_id, scrub.instance_id, &reason).await?;
        quarantine(&mut tx, scrub.host_id.into(), &reason).await?;
        tx.commit().await?;
    }
    Ok(())
}
