//! What the machine has besides GPUs, and which boot this is.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path};

use rustix::{
    fs::statvfs,
    system::{sysinfo, uname},
};

use crate::link::HostFacts;

const BOOT_ID_FILE: &str = "/proc/sys/kernel/random/boot_id";

/// Folders are looked into this deep for scratches that exist.
const DEEPEST: usize = 3;

/// Measures the machine. `scratch_dir` must exist; `ceiling_bytes` is the policy's limit of one scratch.
///
/// # Errors
/// When the file system of `scratch_dir` cannot be asked.
pub fn measure(scratch_dir: &Path, ceiling_bytes: Option<u64>) -> io::Result<HostFacts> {
    let vcpus = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = sysinfo();
    let disk = statvfs(scratch_dir)?;
    let free_bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
    // Scratches that exist will be free again: what a host has does not change with what runs on it.
    let scratch_bytes = free_bytes.saturating_add(allocated_bytes(scratch_dir, DEEPEST));
    Ok(HostFacts {
        vcpus: u32::try_from(vcpus).unwrap_or(u32::MAX),
        memory_bytes: (memory.totalram as u64).saturating_mul(u64::from(memory.mem_unit.max(1))),
        scratch_bytes: ceiling_bytes.map_or(scratch_bytes, |most| scratch_bytes.min(most)),
    })
}

/// What the files of a folder take on its own file system; what is mounted in it counts nothing.
fn allocated_bytes(dir: &Path, depth: usize) -> u64 {
    let Ok(own) = fs::metadata(dir).map(|m| m.dev()) else {
        return 0;
    };
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    let size_of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(file) if file.dev() != own => 0,
        Ok(folder) if folder.is_dir() && depth > 0 => allocated_bytes(&entry.path(), depth - 1),
        Ok(file) => file.blocks().saturating_mul(512),
        Err(_) => 0,
    };
    entries.filter_map(Result::ok).map(size_of).sum()
}

/// The id of this boot of the machine.
///
/// # Errors
/// When the kernel does not tell.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string(BOOT_ID_FILE)?.trim().to_owned())
}

/// The machine's host name, cut to 63 characters.
#[must_use]
pub fn hostname() -> String {
    let system = uname();
    let full = system.nodename().to_string_lossy();
    full.chars().take(63).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_processors_memory_and_space() {
        let dir = tempfile::tempdir().expect("a directory");
        let facts = measure(dir.path(), None).expect("measured");
        assert!(facts.vcpus >= 1);
        assert!(facts.memory_bytes > 1 << 28);
        assert!(facts.scratch_bytes > 0);
        let limited = measure(dir.path(), Some(1000)).expect("measured");
        assert_eq!(limited.scratch_bytes, 1000);
        assert_eq!(boot_id().expect("a boot id").len(), 36);
    }

    #[test]
    fn a_scratch_that_exists_counts_as_space() {
        let dir = tempfile::tempdir().expect("a directory");
        let folder = dir.path().join("scratch");
        fs::create_dir(&folder).expect("made");
        fs::write(folder.join("image"), vec![1; 1 << 20]).expect("written");
        assert!(allocated_bytes(dir.path(), DEEPEST) >= 1 << 20);
    }
}
