//! Metrics in the text format of OpenMetrics, read from the database when they are asked for.

use std::time::Duration;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::{
    app::App,
    error::{Error, Result},
    hosts,
    leases::model::instance::Recorded,
};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabel {
    state: String,
}

/// Renders the metrics.
///
/// # Errors
/// When the database does not answer.
pub(crate) async fn render(app: &App) -> Result<String> {
    let mut registry = Registry::with_prefix("freehold");
    app.ssh.register(&mut registry);
    let instances = Family::<StateLabel, Gauge>::default();
    let oldest = Family::<StateLabel, Gauge>::default();
    registry.register(
        "instances",
        "Instances that have not ended, by state",
        instances.clone(),
    );
    registry.register(
        "instance_oldest_seconds",
        "How long the oldest instance has been in a state",
        oldest.clone(),
    );
    let limits = Family::<StateLabel, Gauge>::default();
    registry.register(
        "instance_state_limit_seconds",
        "How long an instance may be in a transitional state before it is re-placed, fails or its host is quarantined",
        limits.clone(),
    );
    for (state, limit) in limits_by_state(app) {
        let label = StateLabel {
            state: state.as_str().to_owned(),
        };
        limits
            .get_or_create(&label)
            .set(i64::try_from(limit.as_secs()).unwrap_or(i64::MAX));
    }
    let rows = sqlx::query!(
        r#"select recorded, count(*) as "count!",
               coalesce(max(extract(epoch from now() - state_since))::bigint, 0) as "oldest!"
           from instance where recorded <> 'ended' group by recorded"#
    )
    .fetch_all(&app.pool)
    .await?;
    for row in rows {
        let label = StateLabel {
            state: row.recorded,
        };
        instances.get_or_create(&label).set(row.count);
        oldest.get_or_create(&label).set(row.oldest);
    }
    hosts::metrics::register(app, &mut registry).await?;
    let mut text = String::new();
    encode(&mut text, &registry)
        .map_err(|_| Error::internal(anyhow::anyhow!("metrics cannot be encoded")))?;
    Ok(text)
}

/// The limits that [`crate::leases::model::decision`] applies. A placed instance's counts from its lead on.
fn limits_by_state(app: &App) -> [(Recorded, Duration); 3] {
    let limits = &app.config.limits;
    [
        (Recorded::Placed, limits.provision_timeout),
        (Recorded::Provisioning, limits.provision_timeout),
        (Recorded::Ending, limits.scrub_timeout),
    ]
}
