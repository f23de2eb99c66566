//! The current host: read from the scenario, and again whenever the scenario or the state beside it changed.

use std::{
    fs::Metadata,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    host::Host,
    scenario::Scenario,
    state::{self, Setting, State},
};

const SCENARIO_VARIABLE: &str = "FREEHOLD_NVML_SCENARIO";
const SCENARIO_DEFAULT: &str = "/etc/freehold-sim/scenario.toml";

/// What tells that a file is not the one that was read: device, inode, time of change and size.
type Stamp = Option<(u64, u64, i64, i64, u64)>;

struct Live {
    scenario: PathBuf,
    state: PathBuf,
    stamps: (Stamp, Stamp),
    /// `None`: no scenario was readable yet.
    host: Option<Arc<Host>>,
}

static LIVE: Mutex<Option<Live>> = Mutex::new(None);

/// The host as the files say now; `None` when they never said anything valid.
pub(crate) fn current() -> Option<Arc<Host>> {
    let mut guard = lock();
    let live = guard.get_or_insert_with(Live::new);
    live.refresh();
    live.host.clone()
}

/// Sets something of a GPU, for every process.
pub(crate) fn set(uuid: &str, setting: Setting, base: i64, value: i64) -> std::io::Result<()> {
    let mut guard = lock();
    let live = guard.get_or_insert_with(Live::new);
    State::store(&live.state, uuid, setting, base, value)
}

fn lock() -> MutexGuard<'static, Option<Live>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Live {
    fn new() -> Self {
        let scenario: PathBuf = std::env::var_os(SCENARIO_VARIABLE)
            .map_or_else(|| SCENARIO_DEFAULT.into(), PathBuf::from);
        Self {
            state: state::path_for(&scenario),
            scenario,
            stamps: (None, None),
            host: None,
        }
    }

    fn refresh(&mut self) {
        let stamps = (stamp(&self.scenario), stamp(&self.state));
        if stamps == self.stamps && self.host.is_some() {
            return;
        }
        self.stamps = stamps;
        match read(&self.scenario, &self.state) {
            Ok(host) => self.host = Some(Arc::new(host)),
            Err(error) => eprintln!("freehold-nvml-sim: {}: {error}", self.scenario.display()),
        }
    }
}

fn read(scenario: &Path, state: &Path) -> Result<Host, String> {
    let text = std::fs::read_to_string(scenario).map_err(|error| error.to_string())?;
    Host::new(&Scenario::parse(&text)?, &State::load(state))
}

fn stamp(path: &Path) -> Stamp {
    let of = |file: Metadata| {
        (
            file.dev(),
            file.ino(),
            file.mtime(),
            file.mtime_nsec(),
            file.size(),
        )
    };
    std::fs::metadata(path).ok().map(of)
}
