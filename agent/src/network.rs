//! A network of the instance's own: a bridge on which it is alone, from which it reaches the internet and nothing else.

mod firewall;

use std::{collections::HashMap, time::Duration};

use bollard::{
    models::NetworkCreateRequest,
    query_parameters::{InspectNetworkOptions, ListNetworksOptionsBuilder},
};
use tokio::time::Instant;

use crate::runtime::{Engine, EngineError, Names, ignore_missing, limit, with_labels};

pub(crate) use firewall::Firewall;

/// What an agent that died had asked for may still be in the making for this long.
const PATIENCE: Duration = Duration::from_secs(5);

/// Makes an instance's network if there is none.
pub(crate) async fn ensure_network(engine: &Engine, names: &Names) -> Result<(), EngineError> {
    let client = engine.client().await?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        // The engine itself would take two networks of one name, but not two of one interface.
        let options = None::<InspectNetworkOptions>;
        match limit(client.inspect_network(&names.object, options)).await {
            Err(EngineError::NotFound(_)) => (),
            Err(error) => return Err(error),
            Ok(_) => return Ok(()),
        }
        let made = client.create_network(request(names)).await;
        match made.map_err(EngineError::from) {
            Err(EngineError::Exists(reason)) if Instant::now() >= deadline => {
                return Err(EngineError::Refused(reason));
            }
            Err(EngineError::Exists(_)) => (),
            Err(EngineError::Refused(reason)) if reason.contains("conflicts") => {
                if Instant::now() >= deadline {
                    return Err(EngineError::Refused(reason));
                }
            }
            Err(error) => return Err(error),
            Ok(_) => return Ok(()),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn request(names: &Names) -> NetworkCreateRequest {
    let option = |name: &str, value: String| (format!("com.docker.network.{name}"), value);
    NetworkCreateRequest {
        name: names.object.clone(),
        driver: Some("bridge".to_owned()),
        enable_ipv6: Some(false),
        options: Some(HashMap::from([
            option("bridge.name", names.bridge.clone()),
            option("bridge.enable_icc", "false".to_owned()),
            option("driver.mtu", firewall::uplink_mtu().to_string()),
        ])),
        labels: Some(names.labels()),
        ..NetworkCreateRequest::default()
    }
}

/// Removes an instance's network, if there is one.
pub(crate) async fn remove_network(engine: &Engine, names: &Names) -> Result<(), EngineError> {
    remove_named(engine, &names.object).await
}

/// Removes a network by its name.
pub(crate) async fn remove_named(engine: &Engine, name: &str) -> Result<(), EngineError> {
    let client = engine.client().await?;
    ignore_missing(client.remove_network(name).await)
}

/// The names of networks with all these labels.
pub(crate) async fn list_networks(
    engine: &Engine,
    labels: &[(&str, &str)],
) -> Result<Vec<String>, EngineError> {
    let client = engine.client().await?;
    let options = ListNetworksOptionsBuilder::default()
        .filters(&with_labels(labels))
        .build();
    let found = limit(client.list_networks(Some(options))).await?;
    Ok(found.into_iter().filter_map(|one| one.name).collect())
}

/// Whether a network's interface is on the host.
pub(crate) fn has_bridge(names: &Names) -> bool {
    std::path::Path::new("/sys/class/net")
        .join(&names.bridge)
        .exists()
}
