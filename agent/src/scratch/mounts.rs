//! What is mounted and what loop devices hold, as the kernel tells.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Whether something is mounted at exactly this folder.
pub(super) fn is_mounted(point: &Path) -> io::Result<bool> {
    let point = fs::canonicalize(point).unwrap_or_else(|_| point.to_owned());
    Ok(mount_points()?.contains(&point))
}

/// Everything that is mounted at or below a folder.
pub(crate) fn mounts_below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let dir = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let points = mount_points()?;
    Ok(points
        .into_iter()
        .filter(|point| point.starts_with(&dir))
        .collect())
}

fn mount_points() -> io::Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    Ok(points.map(|point| PathBuf::from(unescape(point))).collect())
}

/// The kernel writes blanks, tabs, line ends and backslashes as three octal digits.
fn unescape(text: &str) -> String {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n")];
    let mut plain = text.to_owned();
    for (escape, character) in escapes {
        plain = plain.replace(escape, character);
    }
    plain.replace("\\134", "\\")
}

/// The loop devices whose file is in a folder, deleted or not.
pub(crate) fn loop_devices_of(dir: &Path) -> Vec<String> {
    let dir = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let Ok(devices) = fs::read_dir("/sys/block") else {
        return Vec::new();
    };
    let holds = |device: &fs::DirEntry| {
        let file = fs::read_to_string(device.path().join("loop/backing_file"));
        file.is_ok_and(|file| Path::new(file.trim()).starts_with(&dir))
    };
    let held = devices.filter_map(Result::ok).filter(holds);
    held.map(|device| format!("/dev/{}", device.file_name().to_string_lossy()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_mounted_and_a_fresh_folder_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(is_mounted(Path::new("/")).expect("readable"));
        assert!(!is_mounted(dir.path()).expect("readable"));
        assert!(mounts_below(dir.path()).expect("readable").is_empty());
    }

    #[test]
    fn blanks_in_paths_are_read() {
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
    }
}
