//! The journal's file: a checksum and a JSON record on each line, appended to, and replaced whole when it is compacted.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use super::state::Record;

#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    len: u64,
    /// Something is not in the file that should be, or the file ends in half a line: it has to be rewritten.
    behind: bool,
}

impl LogFile {
    /// Opens or makes the file, and returns the records that are whole.
    pub(super) fn open(path: PathBuf) -> io::Result<(Self, Vec<Record>)> {
        let text = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let mut records = Vec::new();
        let mut dropped = 0_u32;
        for line in text.split(|byte| *byte == b'\n').filter(|l| !l.is_empty()) {
            match decode(line) {
                Some(record) => records.push(record),
                None => dropped += 1,
            }
        }
        if dropped > 0 {
            tracing::warn!(
                dropped,
                path = %path.display(),
                "the journal had torn or damaged lines; they are dropped"
            );
        }
        let file = open_for_append(&path)?;
        let len = text.len() as u64;
        let behind = dropped > 0;
        let log = Self {
            path,
            file,
            len,
            behind,
        };
        Ok((log, records))
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn is_behind(&self) -> bool {
        self.behind
    }

    /// Adds a record without waiting for the disk.
    pub(super) fn append(&mut self, record: &Record) -> io::Result<()> {
        if self.behind {
            // The caller has the record in memory; the next rewrite brings it.
            return Ok(());
        }
        let line = encode(record)?;
        let written = self.file.write_all(&line);
        self.behind = written.is_err();
        self.len += line.len() as u64;
        written
    }

    /// Waits until everything is on the disk.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        let synced = self.file.sync_data();
        self.behind |= synced.is_err();
        synced
    }

    /// Replaces the file's content, in one step as others see it.
    pub(super) fn rewrite(&mut self, records: &[Record]) -> io::Result<()> {
        self.behind = true;
        let fresh = self.path.with_extension("new");
        let mut text = Vec::new();
        for record in records {
            text.extend(encode(record)?);
        }
        let mut file = File::create(&fresh)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&fresh, &self.path)?;
        sync_parent(&self.path)?;
        self.file = open_for_append(&self.path)?;
        self.len = text.len() as u64;
        self.behind = false;
        Ok(())
    }
}

#[cfg(test)]
impl LogFile {
    /// Makes every write fail as on a full disk, until the file is rewritten.
    pub(super) fn fill_disk(&mut self) {
        self.file = open_for_append(Path::new("/dev/full")).expect("Linux has it");
    }
}

fn open_for_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Waits until a rename in a file's folder is on the disk.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

fn encode(record: &Record) -> io::Result<Vec<u8>> {
    let json = serde_json::to_string(record)?;
    Ok(format!("{} {json}\n", checksum(json.as_bytes())).into_bytes())
}

fn decode(line: &[u8]) -> Option<Record> {
    let (sum, rest) = line.split_at_checked(16)?;
    let json = rest.strip_prefix(b" ")?;
    if sum != checksum(json).as_bytes() {
        return None;
    }
    serde_json::from_slice(json).ok()
}

/// Enough of a SHA-256 to tell a torn line: 16 hexadecimal digits.
fn checksum(bytes: &[u8]) -> String {
    hex::encode(&Sha256::digest(bytes)[..8])
}
