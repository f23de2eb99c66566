//! What an instance may have left behind after everything was removed.

use std::{collections::HashMap, fs};

use bollard::query_parameters::ListVolumesOptionsBuilder;

use crate::{
    network,
    runtime::{Engine, EngineError, LABEL_HOST, LABEL_INSTANCE, Names, limit, with_labels},
    scratch::{Scratch, loop_devices_of, mounts_below},
};

/// Looks everywhere. `Err` names what is left.
pub(super) async fn look(
    engine: &Engine,
    names: &Names,
    scratch: &Scratch,
    container: Option<&str>,
) -> Result<String, String> {
    let mut left = in_engine(engine, names)
        .await
        .map_err(|error| error.to_string())?;
    let mounts = mounts_below(scratch.dir()).map_err(|error| error.to_string())?;
    left.extend(
        mounts
            .iter()
            .map(|point| format!("mount {}", point.display())),
    );
    let devices = loop_devices_of(scratch.dir());
    left.extend(devices.iter().map(|device| format!("loop device {device}")));
    if scratch.dir().exists() {
        left.push(format!("folder {}", scratch.dir().display()));
    }
    let processes = container.map(processes_of).unwrap_or_default();
    left.extend(processes.iter().map(|pid| format!("process {pid}")));
    if left.is_empty() {
        let looked = "no containers, volumes, networks, mounts, loop devices, folders or processes";
        return Ok(looked.to_owned());
    }
    Err(format!("still here: {}", left.join(", ")))
}

async fn in_engine(engine: &Engine, names: &Names) -> Result<Vec<String>, EngineError> {
    let (host, instance) = (names.host.to_string(), names.instance.to_string());
    let labels = [
        (LABEL_HOST, host.as_str()),
        (LABEL_INSTANCE, instance.as_str()),
    ];
    let containers = engine.list(&labels).await?;
    let networks = network::list_networks(engine, &labels).await?;
    let volumes = volumes(engine, with_labels(&labels)).await?;
    let containers = containers
        .iter()
        .map(|(name, _)| format!("container {name}"));
    let networks = networks.iter().map(|name| format!("network {name}"));
    let volumes = volumes.iter().map(|name| format!("volume {name}"));
    Ok(containers.chain(networks).chain(volumes).collect())
}

async fn volumes(
    engine: &Engine,
    filters: HashMap<String, Vec<String>>,
) -> Result<Vec<String>, EngineError> {
    let client = engine.client().await?;
    let options = ListVolumesOptionsBuilder::default()
        .filters(&filters)
        .build();
    let found = limit(client.list_volumes(Some(options))).await?;
    let volumes = found.volumes.unwrap_or_default();
    Ok(volumes.into_iter().map(|volume| volume.name).collect())
}

/// The processes in a container's control group, which bears its id whatever driver the engine has for it.
fn processes_of(container: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let is_in = |entry: &fs::DirEntry| {
        let groups = fs::read_to_string(entry.path().join("cgroup"));
        !container.is_empty() && groups.is_ok_and(|groups| groups.contains(container))
    };
    let is_process = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        name.to_string_lossy()
            .bytes()
            .all(|byte| byte.is_ascii_digit())
    };
    entries
        .filter_map(Result::ok)
        .filter(|entry| is_process(entry) && is_in(entry))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}
