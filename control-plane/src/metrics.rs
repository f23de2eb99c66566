//! Metrics in the text format of OpenMetrics, read from the database when they are asked for.

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::{
    app::App,
    error::{Error, Result},
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
    let mut text = String::new();
    encode(&mut text, &registry)
        .map_err(|_| Error::internal(anyhow::anyhow!("metrics cannot be encoded")))?;
    Ok(text)
}
