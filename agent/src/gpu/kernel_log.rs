//! Reads the kernel's log as it grows: `/dev/kmsg`, whose records come one a read, or a file of lines that stands for it and may be
//! rotated or truncated.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::{fs::OFlags, io::Errno};

use super::state::Position;

/// The kernel's longest record, `CONSOLE_EXT_LOG_MAX`.
const LONGEST_RECORD: usize = 8192;

/// Of a file that is longer, only the end is read.
const LONGEST_FILE: u64 = 16 * 1024 * 1024;

/// Bytes of it that are remembered.
const FINGERPRINT: usize = 128;

/// A line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) text: &'a str,
    /// Microseconds since the machine booted; a file does not tell.
    pub(super) monotonic_micros: Option<i64>,
    pub(super) position: Position,
}

#[derive(Debug)]
struct Source {
    file: File,
    inode: u64,
    generation: String,
    is_kernels: bool,
    /// Read so far, of a file.
    offset: u64,
    /// What was read last, by which a file that was truncated and filled again is told from one that grew.
    last: Vec<u8>,
    /// The beginning of a line whose end is not there yet.
    partial: Vec<u8>,
}

/// A log that is followed.
#[derive(Debug)]
pub(super) struct KernelLog {
    path: PathBuf,
    boot_id: String,
    source: Option<Source>,
    /// Times that the file was truncated: what was read of it says nothing about what comes.
    truncations: u32,
}

impl KernelLog {
    pub(super) fn new(path: &Path, boot_id: &str) -> Self {
        Self {
            path: path.to_owned(),
            boot_id: boot_id.to_owned(),
            source: None,
            truncations: 0,
        }
    }

    /// Hands over every record that came since the last call; the first call begins with the oldest that there is.
    pub(super) fn read(&mut self, mut take: impl FnMut(&Record<'_>)) -> io::Result<()> {
        loop {
            if self.source.is_none() {
                self.source = Some(self.open()?);
            }
            let Some(source) = &mut self.source else {
                return Ok(());
            };
            if !source.is_kernels && source.was_truncated()? {
                self.truncations += 1;
                self.source = None;
                continue;
            }
            let read = if source.is_kernels {
                source.read_records(&mut take)
            } else {
                source.read_lines(&mut take)
            };
            // While there is no other file, the old one is kept.
            let now = std::fs::metadata(&self.path).map(|metadata| metadata.ino());
            let is_other = now.is_ok_and(|inode| inode != source.inode);
            if read.is_err() || is_other {
                self.source = None;
            }
            if read.is_err() || !is_other {
                return read;
            }
        }
    }

    fn open(&self) -> io::Result<Source> {
        let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(nonblocking)
            .open(&self.path)?;
        let metadata = file.metadata()?;
        let is_kernels = metadata.file_type().is_char_device();
        let inode = metadata.ino();
        let generation = match (is_kernels, self.truncations) {
            (true, _) => self.boot_id.clone(),
            (false, 0) => inode.to_string(),
            (false, times) => format!("{inode}+{times}"),
        };
        let offset = if is_kernels {
            0
        } else {
            file.seek(SeekFrom::Start(metadata.len().saturating_sub(LONGEST_FILE)))?
        };
        Ok(Source {
            file,
            inode,
            generation,
            is_kernels,
            offset,
            last: Vec::new(),
            partial: Vec::new(),
        })
    }
}

impl Source {
    /// Whether what was read last is not there any more.
    fn was_truncated(&self) -> io::Result<bool> {
        let begin = self.offset - self.last.len() as u64;
        let mut there = [0; FINGERPRINT];
        let there = &mut there[..self.last.len()];
        match self.file.read_exact_at(there, begin) {
            Ok(()) => Ok(there != self.last.as_slice()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn read_records(&mut self, take: &mut impl FnMut(&Record<'_>)) -> io::Result<()> {
        let mut record = [0; LONGEST_RECORD];
        loop {
            let length = match self.file.read(&mut record) {
                Ok(0) => return Ok(()),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // The kernel overwrote what was to be read; the next read gives the oldest that is left.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::PIPE) => continue,
                Err(error) => return Err(error),
            };
            let text = String::from_utf8_lossy(&record[..length]);
            let Some((head, body)) = text.split_once(';') else {
                continue;
            };
            // Priority, sequence number, microseconds since boot, flags.
            let mut fields = head.split(',').skip(1);
            let sequence = fields.next().and_then(|field| field.parse().ok());
            let time = fields.next().and_then(|field| field.parse().ok());
            take(&Record {
                text: body.lines().next().unwrap_or_default(),
                monotonic_micros: time,
                position: Position {
                    generation: self.generation.clone(),
                    at: sequence.unwrap_or(0),
                },
            });
        }
    }

    fn read_lines(&mut self, take: &mut impl FnMut(&Record<'_>)) -> io::Result<()> {
        let mut chunk = [0; LONGEST_RECORD];
        loop {
            let length = match self.file.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.offset += length as u64;
            self.last.extend_from_slice(&chunk[..length]);
            let excess = self.last.len().saturating_sub(FINGERPRINT);
            self.last.drain(..excess);
            self.partial.extend_from_slice(&chunk[..length]);
            let mut begin = 0;
            while let Some(end) = self.partial[begin..].iter().position(|b| *b == b'\n') {
                let line = &self.partial[begin..begin + end];
                begin += end + 1;
                let left = self.partial.len() - begin;
                take(&Record {
                    text: &String::from_utf8_lossy(line),
                    monotonic_micros: None,
                    position: Position {
                        generation: self.generation.clone(),
                        at: self.offset - left as u64,
                    },
                });
            }
            self.partial.drain(..begin);
            if self.partial.len() > LONGEST_RECORD {
                // No record is that long: not a log.
                self.partial.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _};

    use super::*;

    fn read(log: &mut KernelLog) -> Vec<String> {
        let mut lines = Vec::new();
        log.read(|record| lines.push(record.text.to_owned()))
            .expect("read");
        lines
    }

    fn append(path: &Path, text: &str) {
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .expect("opened");
        file.write_all(text.as_bytes()).expect("written");
    }

    #[test]
    fn appended_lines_come_once_and_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        let mut log = KernelLog::new(&path, "boot");
        log.read(|_| panic!("nothing is there"))
            .expect_err("no file yet");
        append(&path, "one\ntw");
        assert_eq!(read(&mut log), ["one"]);
        append(&path, "o\nthree\n");
        assert_eq!(read(&mut log), ["two", "three"]);
        assert_eq!(read(&mut log), [""; 0]);
    }

    #[test]
    fn a_rotated_file_is_read_to_its_end_and_the_new_one_from_its_beginning() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        append(&path, "one\n");
        let mut log = KernelLog::new(&path, "boot");
        assert_eq!(read(&mut log), ["one"]);
        append(&path, "two\n");
        fs::rename(&path, dir.path().join("log.1")).expect("renamed");
        assert_eq!(read(&mut log), ["two"], "while there is no new file");
        append(&dir.path().join("log.1"), "three\n");
        append(&path, "four\n");
        assert_eq!(read(&mut log), ["three", "four"]);
    }

    #[test]
    fn a_truncated_file_is_read_from_its_beginning_as_another_generation() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        append(&path, "a long first line\n");
        let mut log = KernelLog::new(&path, "boot");
        let mut positions = Vec::new();
        log.read(|record| positions.push(record.position.clone()))
            .expect("read");
        fs::write(&path, "new\n").expect("written");
        log.read(|record| positions.push(record.position.clone()))
            .expect("read");
        assert_eq!(positions.len(), 2);
        assert_ne!(positions[0].generation, positions[1].generation);
        assert_eq!((positions[0].at, positions[1].at), (18, 4));
        fs::write(&path, "old\n").expect("written");
        assert_eq!(read(&mut log), ["old"], "of the same length");
        fs::write(&path, "a longer one\n").expect("written");
        assert_eq!(read(&mut log), ["a longer one"]);
    }

    #[test]
    fn the_kernels_own_log_is_read_where_it_may_be() {
        let path = Path::new("/dev/kmsg");
        let mut log = KernelLog::new(path, "boot");
        let mut positions = Vec::new();
        let read = log.read(|record| positions.push((record.position.at, record.monotonic_micros)));
        if let Err(error) = read {
            eprintln!("skipped: /dev/kmsg cannot be read here: {error}");
            return;
        }
        assert!(positions.is_sorted(), "sequence numbers grow");
        assert!(positions.iter().all(|(_, time)| time.is_some()));
    }
}
