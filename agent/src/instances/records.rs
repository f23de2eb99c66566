//! What is remembered of each instance over restarts: one small file, written before anything is made.

use std::{fs, io, path::Path};

use crate::{identity::write_json, runtime::Record};

const FILE: &str = "record.json";

/// Remembers an instance in its folder.
pub(super) fn save(dir: &Path, record: &Record) -> io::Result<()> {
    if load(dir).as_ref() == Some(record) {
        return Ok(());
    }
    fs::create_dir_all(dir)?;
    write_json(&dir.join(FILE), record)
}

/// What is remembered in an instance's folder.
pub(super) fn load(dir: &Path) -> Option<Record> {
    let text = fs::read(dir.join(FILE)).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Every instance that is remembered.
pub(super) fn load_all(folder: &Path) -> Vec<Record> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| load(&entry.ok()?.path()))
        .collect()
}
