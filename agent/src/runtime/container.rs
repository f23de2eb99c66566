//! An instance's container: what it may do, and what became of it.

use std::{collections::HashMap, net::IpAddr, path::PathBuf};

use bollard::{
    models::{
        ContainerCreateBody, ContainerInspectResponse, HostConfig, HostConfigLogConfig, Mount,
        ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
    },
    query_parameters::{
        ContainerArchiveInfoOptionsBuilder, CreateContainerOptionsBuilder, InspectContainerOptions,
        ListContainersOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions,
    },
};

use super::{
    Engine, EngineError, GpuAccess, Names, Record, gpus, ignore_missing, limit, with_labels,
};

/// Threads of a training job are many, and those of a fork bomb are more.
const PIDS_LIMIT: i64 = 32_768;

/// Where the container finds what it logs in by.
pub(crate) const LOGIN_DIR: &str = "/etc/freehold/ssh";

/// The program that has to be in every image.
const SSHD: &str = "/usr/sbin/sshd";

/// Everything that a container is made from.
#[derive(Debug, Clone)]
pub(crate) struct Blueprint {
    pub(crate) names: Names,
    pub(crate) record: Record,
    pub(crate) hostname: String,
    pub(crate) vcpus: u32,
    pub(crate) memory_bytes: u64,
    pub(crate) capabilities: Vec<String>,
    pub(crate) gpus: GpuAccess,
    pub(crate) lease_dir: PathBuf,
    pub(crate) home_dir: PathBuf,
    pub(crate) login_dir: PathBuf,
}

/// What a container does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ContainerState {
    Running {
        /// In its own network; `None` while it is being connected.
        address: Option<IpAddr>,
    },
    Stopped {
        /// Why, in words.
        reason: String,
    },
}

/// A container that there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) id: String,
    pub(crate) state: ContainerState,
    /// From its labels.
    pub(crate) record: Option<Record>,
}

impl Blueprint {
    fn body(&self, image_id: &str) -> ContainerCreateBody {
        let injection = self.gpus.inject(&self.record.gpu_uuids);
        let mut mounts = vec![
            gpus::bind(&self.lease_dir, "/lease"),
            gpus::bind(&self.home_dir, "/home"),
            gpus::read_only(&self.login_dir, LOGIN_DIR),
        ];
        mounts.extend(injection.mounts);
        ContainerCreateBody {
            image: Some(image_id.to_owned()),
            hostname: Some(self.hostname.clone()).filter(|name| !name.is_empty()),
            user: Some("0:0".to_owned()),
            working_dir: Some("/lease".to_owned()),
            entrypoint: Some(vec!["/bin/sh".to_owned(), format!("{LOGIN_DIR}/start")]),
            cmd: Some(Vec::new()),
            labels: Some(self.record.labels(&self.names)),
            stop_timeout: Some(10),
            host_config: Some(self.limits(mounts, injection.requests)),
            ..ContainerCreateBody::default()
        }
    }

    fn limits(
        &self,
        mounts: Vec<Mount>,
        device_requests: Vec<bollard::models::DeviceRequest>,
    ) -> HostConfig {
        let memory = i64::try_from(self.memory_bytes).unwrap_or(i64::MAX);
        HostConfig {
            mounts: Some(mounts),
            device_requests: Some(device_requests).filter(|requests| !requests.is_empty()),
            network_mode: Some(self.names.object.clone()),
            memory: Some(memory),
            memory_swap: Some(memory),
            nano_cpus: Some(i64::from(self.vcpus).saturating_mul(1_000_000_000)),
            pids_limit: Some(PIDS_LIMIT),
            // Data loaders hand batches over in shared memory. It counts as the instance's memory.
            shm_size: Some(memory / 2),
            ulimits: Some(ulimits()),
            cap_drop: Some(vec!["ALL".to_owned()]),
            cap_add: Some(self.capabilities.clone()),
            ipc_mode: Some("private".to_owned()),
            // Safe over the host's restart as well: a container cannot start without its scratch, which only the agent can unlock.
            restart_policy: Some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::UNLESS_STOPPED),
                maximum_retry_count: None,
            }),
            log_config: Some(HostConfigLogConfig {
                typ: Some("json-file".to_owned()),
                config: Some(HashMap::from([
                    ("max-size".to_owned(), "10m".to_owned()),
                    ("max-file".to_owned(), "2".to_owned()),
                ])),
            }),
            ..HostConfig::default()
        }
    }
}

/// What RDMA and large models need. Where the machine's root may not raise limits, as in some virtual machines, the engine cannot either,
/// and would not start a container that asks for it.
fn ulimits() -> Vec<ResourcesUlimits> {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let held = line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    if held.unwrap_or(0) >> CAP_SYS_RESOURCE & 1 == 0 {
        return Vec::new();
    }
    vec![
        ulimit("memlock", -1),
        ulimit("stack", 64 << 20),
        ulimit("nofile", 1 << 20),
    ]
}

fn ulimit(name: &str, value: i64) -> ResourcesUlimits {
    ResourcesUlimits {
        name: Some(name.to_owned()),
        soft: Some(value),
        hard: Some(value),
    }
}

impl Engine {
    /// Makes a container of an image and leaves it stopped. The image is named by its id, so that a tag that moves changes nothing.
    pub(crate) async fn create(
        &self,
        blueprint: &Blueprint,
        image_id: &str,
    ) -> Result<String, EngineError> {
        let client = self.client().await?;
        let options = CreateContainerOptionsBuilder::default()
            .name(&blueprint.names.object)
            .build();
        let made = client
            .create_container(Some(options), blueprint.body(image_id))
            .await?;
        Ok(made.id)
    }

    /// Whether a container's image has an sshd. The container need not run.
    pub(crate) async fn has_sshd(&self, container: &str) -> Result<bool, EngineError> {
        let client = self.client().await?;
        let options = ContainerArchiveInfoOptionsBuilder::default()
            .path(SSHD)
            .build();
        match limit(client.get_container_archive_info(container, Some(options))).await {
            Ok(_) => Ok(true),
            Err(EngineError::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn start(&self, container: &str) -> Result<(), EngineError> {
        let client = self.client().await?;
        let options = None::<StartContainerOptions>;
        Ok(client.start_container(container, options).await?)
    }

    /// The container of an instance; `None`: there is none.
    pub(crate) async fn find(&self, names: &Names) -> Result<Option<Found>, EngineError> {
        let client = self.client().await?;
        let options = None::<InspectContainerOptions>;
        match limit(client.inspect_container(&names.object, options)).await {
            Ok(found) => Ok(Some(read(found, &names.object))),
            Err(EngineError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Kills and deletes a container with its anonymous volumes, if there is one.
    pub(crate) async fn remove(&self, container: &str) -> Result<(), EngineError> {
        let client = self.client().await?;
        let options = RemoveContainerOptionsBuilder::default()
            .force(true)
            .v(true)
            .build();
        let removed = client.remove_container(container, Some(options)).await;
        ignore_missing(removed)
    }

    /// Ids, names and labels of containers, running or not, that have all these labels.
    pub(crate) async fn list(
        &self,
        labels: &[(&str, &str)],
    ) -> Result<Vec<(String, HashMap<String, String>)>, EngineError> {
        let client = self.client().await?;
        let options = ListContainersOptionsBuilder::default()
            .all(true)
            .filters(&with_labels(labels))
            .build();
        let found = limit(client.list_containers(Some(options))).await?;
        let name = |names: Option<Vec<String>>| names.into_iter().flatten().next();
        Ok(found
            .into_iter()
            .map(|one| {
                let name = name(one.names).or(one.id).unwrap_or_default();
                let name = name.trim_start_matches('/').to_owned();
                (name, one.labels.unwrap_or_default())
            })
            .collect())
    }
}

fn read(found: ContainerInspectResponse, network: &str) -> Found {
    let state = found.state.unwrap_or_default();
    let running = state.running.unwrap_or(false) && !state.restarting.unwrap_or(false);
    let state = if running {
        let networks = found
            .network_settings
            .and_then(|settings| settings.networks);
        let endpoint = networks.and_then(|mut networks| networks.remove(network));
        let address = endpoint.and_then(|endpoint| endpoint.ip_address);
        ContainerState::Running {
            address: address.and_then(|text| text.parse().ok()),
        }
    } else {
        let error = state.error.filter(|text| !text.is_empty());
        let killed = state.oom_killed.unwrap_or(false);
        let reason = match error {
            Some(error) => error,
            None if killed => "it ran out of memory".to_owned(),
            None => format!("it ended with code {}", state.exit_code.unwrap_or(0)),
        };
        ContainerState::Stopped { reason }
    };
    let labels = found.config.and_then(|config| config.labels);
    Found {
        id: found.id.unwrap_or_default(),
        state,
        record: labels.as_ref().and_then(Record::from_labels),
    }
}
