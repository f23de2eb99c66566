//! A network of the instance's own: a bridge on which it is alone, from which it reaches the internet and nothing else.

mod firewall;

use std::collections::HashMap;

use bollard::{
    models::NetworkCreateRequest,
    query_parameters::{InspectNetworkOptions, ListNetworksOptionsBuilder},
};

use crate::runtime::{Engine, EngineError, Names, ignore_missing, limit, with_labels};

pub(crate) use firewall::Firewall;

/// Makes an instance's network if there is none.
pub(crate) async fn ensure_network(engine: &Engine, names: &Names) -> Result<(), EngineError> {
    let client = engine.client().await?;
    let options = HashMap::from([
        (
            "com.docker.network.bridge.name".to_owned(),
            names.bridge.clone(),
        ),
        (
            "com.docker.network.bridge.enable_icc".to_owned(),
            "false".to_owned(),
        ),
        (
            "com.docker.network.driver.mtu".to_owned(),
            firewall::uplink_mtu().to_string(),
        ),
    ]);
    let request = NetworkCreateRequest {
        name: names.object.clone(),
        driver: Some("bridge".to_owned()),
        enable_ipv6: Some(false),
        options: Some(options),
        labels: Some(names.labels()),
        ..NetworkCreateRequest::default()
    };
    // The engine itself would take two networks of one name.
    let options = None::<InspectNetworkOptions>;
    match limit(client.inspect_network(&names.object, options)).await {
        Err(EngineError::NotFound(_)) => (),
        Err(error) => return Err(error),
        Ok(_) => return Ok(()),
    }
    match client
        .create_network(request)
        .await
        .map_err(EngineError::from)
    {
        Ok(_) | Err(EngineError::Exists(_)) => Ok(()),
        Err(error) => Err(error),
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
