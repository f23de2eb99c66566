//! How GPUs get into an instance.

use std::path::{Path, PathBuf};

use bollard::models::{DeviceRequest, Mount, MountType};

/// Where the loader of a Debian or Ubuntu looks without being told.
#[cfg(target_arch = "aarch64")]
const LIBRARY_FOLDER: &str = "/usr/lib/aarch64-linux-gnu";
/// Where the loader of a Debian or Ubuntu looks without being told.
#[cfg(not(target_arch = "aarch64"))]
const LIBRARY_FOLDER: &str = "/usr/lib/x86_64-linux-gnu";

/// Where `nvidia-ctk` and others describe devices.
const CDI_FOLDERS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// The simulator's files on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimulatorFiles {
    /// `libnvidia-ml.so.1`; an `nvidia-smi` beside it is mounted too.
    pub library: PathBuf,
    /// The scenario file. Called `scenario.toml`, its folder is mounted, so that instances see it change.
    pub scenario: PathBuf,
}

/// The way by which GPUs get into instances of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GpuAccess {
    /// Devices that a CDI specification describes.
    Cdi,
    /// NVIDIA's hook of the engine.
    Nvidia,
    /// The simulator's files.
    Simulator(SimulatorFiles),
}

/// What the container's description gets.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Injection {
    pub(super) requests: Vec<DeviceRequest>,
    pub(super) mounts: Vec<Mount>,
}

/// The simulator's files where there are any, else CDI where a specification names all these GPUs, else NVIDIA's hook.
pub(crate) fn choose_access(simulator: Option<&SimulatorFiles>, gpu_uuids: &[String]) -> GpuAccess {
    match simulator {
        Some(files) => GpuAccess::Simulator(files.clone()),
        None if describes(&CDI_FOLDERS.map(PathBuf::from), gpu_uuids) => GpuAccess::Cdi,
        None => GpuAccess::Nvidia,
    }
}

/// Whether the specifications in these folders name every GPU by its UUID. Some generators only count devices.
fn describes(folders: &[PathBuf], gpu_uuids: &[String]) -> bool {
    let files = folders.iter().filter_map(|folder| folder.read_dir().ok());
    let texts: Vec<String> = files
        .flatten()
        .filter_map(|file| std::fs::read_to_string(file.ok()?.path()).ok())
        .filter(|text| text.contains("nvidia.com/gpu"))
        .collect();
    !gpu_uuids.is_empty()
        && gpu_uuids
            .iter()
            .all(|uuid| texts.iter().any(|text| text.contains(uuid.as_str())))
}

impl GpuAccess {
    pub(super) fn inject(&self, gpu_uuids: &[String]) -> Injection {
        if gpu_uuids.is_empty() {
            return Injection::default();
        }
        match self {
            Self::Cdi => Injection {
                requests: vec![DeviceRequest {
                    driver: Some("cdi".to_owned()),
                    device_ids: Some(named(gpu_uuids)),
                    ..DeviceRequest::default()
                }],
                mounts: Vec::new(),
            },
            Self::Nvidia => Injection {
                requests: vec![DeviceRequest {
                    driver: Some("nvidia".to_owned()),
                    device_ids: Some(gpu_uuids.to_vec()),
                    capabilities: Some(vec![driver_parts()]),
                    ..DeviceRequest::default()
                }],
                mounts: Vec::new(),
            },
            Self::Simulator(files) => Injection {
                requests: Vec::new(),
                mounts: files.mounts(),
            },
        }
    }
}

fn named(gpu_uuids: &[String]) -> Vec<String> {
    let names = gpu_uuids
        .iter()
        .map(|uuid| format!("nvidia.com/gpu={uuid}"));
    names.collect()
}

/// Everything of the driver but what needs a display.
fn driver_parts() -> Vec<String> {
    ["gpu", "compute", "utility", "video", "graphics"]
        .map(str::to_owned)
        .to_vec()
}

impl SimulatorFiles {
    /// Where the simulator's library is, named or found as the linker would, and the scenario that it reads. `None`: there is no library.
    #[must_use]
    pub fn find(nvml_lib: Option<&Path>) -> Option<Self> {
        let library = match nvml_lib {
            Some(named) => std::path::absolute(named).ok()?,
            None => search_library()?,
        };
        let scenario = std::env::var_os("FREEHOLD_NVML_SCENARIO").map(PathBuf::from);
        let scenario = scenario.unwrap_or_else(|| PathBuf::from("/etc/freehold-sim/scenario.toml"));
        Some(Self {
            library,
            scenario: std::path::absolute(scenario).ok()?,
        })
    }

    fn mounts(&self) -> Vec<Mount> {
        let mut mounts = vec![read_only(
            &self.library,
            &format!("{LIBRARY_FOLDER}/libnvidia-ml.so.1"),
        )];
        let smi = self.library.with_file_name("nvidia-smi");
        if smi.exists() {
            mounts.push(read_only(&smi, "/usr/bin/nvidia-smi"));
        }
        let folder = self.scenario.parent();
        mounts.push(match folder {
            Some(folder) if self.scenario.ends_with("scenario.toml") => {
                read_only(folder, "/etc/freehold-sim")
            }
            _ => read_only(&self.scenario, "/etc/freehold-sim/scenario.toml"),
        });
        mounts
    }
}

fn search_library() -> Option<PathBuf> {
    let told = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let told = std::env::split_paths(&told).collect::<Vec<_>>().into_iter();
    let usual = ["/usr/local/lib", LIBRARY_FOLDER, "/usr/lib64", "/usr/lib"].map(PathBuf::from);
    told.chain(usual)
        .map(|folder| folder.join("libnvidia-ml.so.1"))
        .find(|file| file.exists())
}

/// A host's file or folder that an instance can read.
pub(super) fn read_only(source: &Path, target: &str) -> Mount {
    Mount {
        read_only: Some(true),
        ..bind(source, target)
    }
}

/// A host's folder that an instance can write.
pub(super) fn bind(source: &Path, target: &str) -> Mount {
    Mount {
        // The engine makes no folder for this kind of mount: a scratch that is not there cannot be replaced by one of the host's.
        typ: Some(MountType::BIND),
        source: Some(source.display().to_string()),
        target: Some(target.to_owned()),
        ..Mount::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpus() -> Vec<String> {
        vec!["GPU-a".to_owned(), "GPU-b".to_owned()]
    }

    #[test]
    fn a_real_gpu_comes_by_its_uuid() {
        let injected = GpuAccess::Nvidia.inject(&gpus());
        assert_eq!(injected.requests[0].device_ids, Some(gpus()));
        let injected = GpuAccess::Cdi.inject(&gpus());
        let ids = injected.requests[0].device_ids.clone().expect("devices");
        assert_eq!(ids, ["nvidia.com/gpu=GPU-a", "nvidia.com/gpu=GPU-b"]);
    }

    #[test]
    fn cdi_is_used_when_it_names_every_gpu() {
        let dir = tempfile::tempdir().expect("a directory");
        let folders = [dir.path().to_owned()];
        assert!(!describes(&folders, &gpus()));
        let spec = "kind: nvidia.com/gpu\ndevices: [{name: GPU-a}]";
        std::fs::write(dir.path().join("nvidia.yaml"), spec).expect("written");
        assert!(!describes(&folders, &gpus()));
        assert!(describes(&folders, &gpus()[..1]));
    }

    #[test]
    fn the_simulator_comes_with_its_tool_and_its_scenario() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("nvidia-smi"), "").expect("written");
        let files = SimulatorFiles {
            library: dir.path().join("libnvidia_ml.so"),
            scenario: dir.path().join("scenario.toml"),
        };
        let injected = choose_access(Some(&files), &gpus()).inject(&gpus());
        let targets: Vec<_> = injected.mounts.iter().map(|m| m.target.clone()).collect();
        assert_eq!(targets[1].as_deref(), Some("/usr/bin/nvidia-smi"));
        assert_eq!(targets[2].as_deref(), Some("/etc/freehold-sim"));
        assert!(injected.mounts.iter().all(|m| m.read_only == Some(true)));
        assert!(injected.requests.is_empty());
    }
}
