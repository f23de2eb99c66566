//! What is measured of hosts and their agents.

use prometheus_client::{metrics::gauge::Gauge, registry::Registry};

use crate::{app::App, error::Result};

/// Adds the metrics of hosts.
///
/// # Errors
/// When the database does not answer.
pub(crate) async fn register(app: &App, registry: &mut Registry) -> Result<()> {
    let row = sqlx::query!(
        r#"select count(*) as "hosts!", count(*) filter (where quarantine_reason is not null) as "quarantined!",
               count(*) filter (where last_seen_at is null or last_seen_at <= now() - make_interval(secs => $1)) as "silent!",
               coalesce(max(extract(epoch from now() - last_seen_at)), 0)::bigint as "longest!"
           from host where removed_at is null"#,
        app.config.limits.host_timeout.as_secs_f64()
    )
    .fetch_one(&app.pool)
    .await?;
    let connected = i64::try_from(app.links.connected()).unwrap_or(i64::MAX);
    for (name, help, value) in [
        (
            "agents_connected",
            "Agents with a control stream to this replica",
            connected,
        ),
        ("hosts", "Hosts that are not removed", row.hosts),
        ("hosts_quarantined", "Hosts in quarantine", row.quarantined),
        ("hosts_silent", "Hosts whose agent is not heard", row.silent),
        (
            "host_silence_longest_seconds",
            "How long the host that was not heard for longest is silent",
            row.longest,
        ),
    ] {
        let gauge = Gauge::<i64>::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    }
    Ok(())
}
