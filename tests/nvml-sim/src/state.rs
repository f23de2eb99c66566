//! What setters set, kept beside the scenario so that it outlives the process and is seen by the others.
//!
//! One line each: `UUID SETTING BASE VALUE`. A line holds as long as the scenario itself says BASE of that setting: a scenario that is
//! changed to say something else wins again.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
};

/// What can be set of a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Setting {
    Persistence,
    ComputeMode,
    Mig,
    PowerLimitMw,
    Ecc,
    EccPending,
    /// 0: not locked.
    SmClockLockMhz,
    /// 0: not locked.
    MemoryClockLockMhz,
    /// 0: the default; else memory MHz × 100,000 + graphics MHz.
    ApplicationClocks,
    EccCorrected,
    EccUncorrected,
    Accounting,
}

const NAMES: [(&str, Setting); 12] = [
    ("persistence", Setting::Persistence),
    ("compute_mode", Setting::ComputeMode),
    ("mig", Setting::Mig),
    ("power_limit_mw", Setting::PowerLimitMw),
    ("ecc", Setting::Ecc),
    ("ecc_pending", Setting::EccPending),
    ("sm_clock_lock_mhz", Setting::SmClockLockMhz),
    ("memory_clock_lock_mhz", Setting::MemoryClockLockMhz),
    ("application_clocks", Setting::ApplicationClocks),
    ("ecc_corrected", Setting::EccCorrected),
    ("ecc_uncorrected", Setting::EccUncorrected),
    ("accounting", Setting::Accounting),
];

/// A value for each [`Setting`], by its number.
pub(crate) type Settings = [i64; NAMES.len()];

/// What was set: (base, value) by GPU and setting.
#[derive(Debug, Default)]
pub(crate) struct State(BTreeMap<(String, Setting), (i64, i64)>);

/// Where the state of a scenario is.
pub(crate) fn path_for(scenario: &Path) -> PathBuf {
    scenario.with_file_name("state")
}

impl State {
    /// Reads the file. Lines that cannot be understood are ignored; a file that is not there is empty.
    pub(crate) fn load(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        Self(text.lines().filter_map(parse_line).collect())
    }

    /// `base` with what was set of that GPU.
    pub(crate) fn apply(&self, uuid: &str, base: Settings) -> Settings {
        let mut settings = base;
        for (_, setting) in NAMES {
            let slot = &mut settings[setting as usize];
            match self.0.get(&(uuid.to_owned(), setting)) {
                Some((from, value)) if from == slot => *slot = *value,
                _ => {}
            }
        }
        settings
    }

    /// Records a value. The file is replaced as a whole.
    pub(crate) fn store(
        path: &Path,
        uuid: &str,
        setting: Setting,
        base: i64,
        value: i64,
    ) -> io::Result<()> {
        let mut state = Self::load(path);
        let key = (uuid.to_owned(), setting);
        if value == base {
            state.0.remove(&key);
        } else {
            state.0.insert(key, (base, value));
        }
        let mut text = String::new();
        for ((uuid, setting), (base, value)) in &state.0 {
            let name = NAMES[*setting as usize].0;
            let _ = writeln!(text, "{uuid} {name} {base} {value}");
        }
        let next = path.with_extension(format!("new-{}", std::process::id()));
        std::fs::write(&next, text)?;
        std::fs::rename(&next, path)
    }
}

fn parse_line(line: &str) -> Option<((String, Setting), (i64, i64))> {
    let mut words = line.split_ascii_whitespace();
    let uuid = words.next()?.to_owned();
    let name = words.next()?;
    let (_, setting) = NAMES.iter().find(|(known, _)| *known == name)?;
    Some((
        (uuid, *setting),
        (words.next()?.parse().ok()?, words.next()?.parse().ok()?),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_holds_until_the_scenario_says_something_else() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("state");
        State::store(&path, "GPU-a", Setting::ComputeMode, 0, 3).expect("written");
        let state = State::load(&path);
        let mut base = Settings::default();
        assert_eq!(state.apply("GPU-a", base)[Setting::ComputeMode as usize], 3);
        assert_eq!(state.apply("GPU-b", base)[Setting::ComputeMode as usize], 0);
        base[Setting::ComputeMode as usize] = 2;
        assert_eq!(state.apply("GPU-a", base)[Setting::ComputeMode as usize], 2);
    }

    #[test]
    fn names_are_in_the_order_of_the_numbers() {
        for (number, (_, setting)) in NAMES.iter().enumerate() {
            assert_eq!(*setting as usize, number);
        }
    }
}
