//! An instance's disk: a file of the given size with ext4 on it, mounted over a loop device, in which one folder is encrypted with the
//! instance's own key. The instance gets that folder's `lease` and `home`.
//!
//! ```text
//! SCRATCH_DIR/HOST/INSTANCE/image ──loop──► …/mount ──► mount/data (encrypted) ──► data/lease at /lease, data/home at /home
//! ```
//!
//! The folder is a mount of its own, shared with the mount namespaces of processes that start while the scratch is there: without that,
//! each of them would hold the disk after it was unmounted here.
//!
//! The file keeps its size, so that a full scratch is the tenant's own trouble. The key comes with the order and is kept by the kernel
//! only: after the host's restart the names below `data` are not even there until the order comes again, and the container, which needs
//! them, cannot start before.

mod fscrypt;
mod mounts;

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use freehold_proto::id::{HostId, InstanceId};
use rustix::{
    fs::statvfs,
    mount::{MountPropagationFlags, mount_bind, mount_change},
};

use crate::{
    command::{self, CommandError},
    model::ScratchKey,
};

pub(crate) use mounts::{loop_devices_of, mounts_below};

/// Below this ext4 with its journal leaves nothing to the tenant.
const SMALLEST_BYTES: u64 = 32 << 20;

/// Why there is no scratch.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScratchError {
    /// A tool of the host failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A file or folder could not be made or read.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Everything else, with the remedy.
    #[error("{0}")]
    Refused(String),
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> ScratchError + Send + 'static {
    let what = what.into();
    move |source| ScratchError::Io { what, source }
}

/// What a scratch has to be.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) bytes: u64,
    pub(crate) key: ScratchKey,
    /// Without encryption there is no scratch.
    pub(crate) must_encrypt: bool,
    /// The GPUs are simulated: the type promises more than this machine has, and what there is has to do.
    pub(crate) simulated: bool,
}

/// One instance's scratch, whether it exists or not.
#[derive(Debug, Clone)]
pub(crate) struct Scratch {
    dir: PathBuf,
}

impl Scratch {
    pub(crate) fn new(root: &Path, host: HostId, instance: InstanceId) -> Self {
        let dir = root.join(host.to_string()).join(instance.to_string());
        Self { dir }
    }

    /// Everything that a host's instances have here.
    pub(crate) fn all(root: &Path, host: HostId) -> Vec<Self> {
        let folder = root.join(host.to_string());
        let entries = fs::read_dir(folder).into_iter().flatten();
        entries
            .filter_map(|entry| {
                Some(Self {
                    dir: entry.ok()?.path(),
                })
            })
            .collect()
    }

    /// Everything of it is in this folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the instance gets at `/lease`.
    pub(crate) fn lease_dir(&self) -> PathBuf {
        self.data().join("lease")
    }

    /// What the instance gets at `/home`.
    pub(crate) fn home_dir(&self) -> PathBuf {
        self.data().join("home")
    }

    fn image(&self) -> PathBuf {
        self.dir.join("image")
    }

    fn mount_point(&self) -> PathBuf {
        self.dir.join("mount")
    }

    fn data(&self) -> PathBuf {
        self.mount_point().join("data")
    }

    /// Makes it, mounts it and unlocks it, as far as that is not so yet. Content that exists is kept.
    pub(crate) async fn ensure(&self, wanted: &Wanted) -> Result<(), ScratchError> {
        let mount_point = self.mount_point();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&mount_point)
            .map_err(io_error(format!("cannot make {}", mount_point.display())))?;
        if !is_mounted(&mount_point)? {
            self.share()?;
            if !self.image().exists() {
                self.format(wanted).await?;
            }
            self.mount().await?;
        }
        self.unlock(wanted)
    }

    fn share(&self) -> Result<(), ScratchError> {
        if is_mounted(&self.dir)? {
            return Ok(());
        }
        mount_bind(&self.dir, &self.dir)
            .and_then(|()| mount_change(&self.dir, MountPropagationFlags::SHARED))
            .map_err(io::Error::from)
            .map_err(io_error(format!("cannot share {}", self.dir.display())))
    }

    /// Makes the file and the file system in it. Only a whole one gets the name `image`.
    async fn format(&self, wanted: &Wanted) -> Result<(), ScratchError> {
        let bytes = self.size(wanted)?;
        let unfinished = self.dir.join("image.new");
        let path = unfinished.display().to_string();
        let failed = || io_error(format!("cannot make {path} of {bytes} bytes"));
        let file = File::create(&unfinished).map_err(failed())?;
        file.set_len(bytes).map_err(failed())?;
        drop(file);
        // A fresh file is all zeros: nothing has to be written but what differs.
        let options = "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0";
        let args = ["-q", "-F", "-O", "encrypt", "-m", "0", "-E", options, &path];
        command::run("mkfs.ext4", &args, "").await?;
        fs::rename(&unfinished, self.image()).map_err(failed())
    }

    fn size(&self, wanted: &Wanted) -> Result<u64, ScratchError> {
        let disk = statvfs(&self.dir)
            .map_err(|errno| errno.into())
            .map_err(io_error("cannot ask the scratches' file system"))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let bytes = if wanted.simulated {
            wanted.bytes.min(free / 2)
        } else {
            wanted.bytes
        };
        if bytes > free {
            return Err(ScratchError::Refused(format!(
                "the scratch needs {bytes} bytes and {} has {free}: free space on it, or lower the type's scratch",
                self.dir.display()
            )));
        }
        Ok(bytes.max(SMALLEST_BYTES))
    }

    async fn mount(&self) -> Result<(), ScratchError> {
        let (image, point) = (self.image(), self.mount_point());
        let (image, point) = (image.display().to_string(), point.display().to_string());
        // noinit_itable: the tables are zeros already, and writing them would take as much space as they can ever need.
        let options = "loop,nodev,nosuid,noinit_itable";
        let args = ["-t", "ext4", "-o", options, &image, &point];
        command::run("mount", &args, "").await?;
        Ok(())
    }

    /// Gives the kernel the key, and makes the encrypted folder when there is none.
    fn unlock(&self, wanted: &Wanted) -> Result<(), ScratchError> {
        let (root, data) = (self.mount_point(), self.data());
        let root = File::open(&root).map_err(io_error("cannot open the scratch"))?;
        let key = match fscrypt::add_key(&root, &wanted.key) {
            Ok(key) => Some(key),
            Err(error) if wanted.must_encrypt => {
                return Err(ScratchError::Refused(format!(
                    "this host's kernel cannot encrypt the scratch ({error}): use one with CONFIG_FS_ENCRYPTION, or set \
                     require_encrypted_scratch = false in the agent's policy"
                )));
            }
            Err(_) => None,
        };
        if !data.exists() {
            fs::create_dir(&data).map_err(io_error("cannot make the scratch's folder"))?;
        }
        let dir = File::open(&data).map_err(io_error("cannot open the scratch's folder"))?;
        if let Some(key) = key {
            ensure_policy(&dir, &data, key)?;
        }
        for dir in [self.lease_dir(), self.home_dir()] {
            if !dir.exists() {
                fs::create_dir(&dir).map_err(io_error("cannot make a folder in the scratch"))?;
                fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))
                    .map_err(io_error("cannot open a folder in the scratch"))?;
            }
        }
        Ok(())
    }

    /// Takes the key from the kernel, unmounts and deletes. What is gone already is no failure. Says what was there.
    pub(crate) async fn destroy(&self) -> Result<String, ScratchError> {
        let point = self.mount_point();
        let mut said = Vec::new();
        if is_mounted(&point)? {
            let key = with_patience(|| {
                let scratch = self.clone();
                blocking(move || scratch.forget_key())
            });
            said.push(key.await?);
            with_patience(|| unmount(point.clone())).await?;
            said.push("unmounted".to_owned());
        }
        if is_mounted(&self.dir)? {
            with_patience(|| unmount(self.dir.clone())).await?;
        }
        with_patience(|| std::future::ready(self.check_loops())).await?;
        if self.dir.exists() {
            let dir = self.dir.clone();
            let failed = io_error(format!("cannot delete {}", dir.display()));
            blocking(move || fs::remove_dir_all(dir).map_err(failed)).await?;
            said.push("deleted".to_owned());
        }
        if said.is_empty() {
            return Ok("there was none".to_owned());
        }
        Ok(said.join("; "))
    }

    fn check_loops(&self) -> Result<(), ScratchError> {
        let held = loop_devices_of(&self.dir);
        if held.is_empty() {
            return Ok(());
        }
        Err(ScratchError::Refused(format!(
            "{} still holds the scratch's file: detach it with `losetup -d`",
            held.join(", ")
        )))
    }

    fn forget_key(&self) -> Result<String, ScratchError> {
        let key = File::open(self.data()).and_then(|dir| fscrypt::key_of(&dir));
        let key = match key {
            Ok(Some(key)) => key,
            Ok(None) => return Ok("it was not encrypted".to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok("it had no encrypted folder yet".to_owned());
            }
            Err(error) => return Err(io_error("cannot tell the scratch's key")(error)),
        };
        let root = File::open(self.mount_point()).map_err(io_error("cannot open the scratch"))?;
        let removed = fscrypt::remove_key(&root, key)
            .map_err(io_error("cannot take the key from the kernel"))?;
        match removed {
            fscrypt::Removed::Wiped => Ok("key removed from the kernel".to_owned()),
            fscrypt::Removed::NotThere => Ok("the kernel had no key".to_owned()),
            fscrypt::Removed::FilesBusy => Err(ScratchError::Refused(
                "files of the scratch are still open: end the processes that `fuser -vm` names"
                    .to_owned(),
            )),
        }
    }
}

/// The folder is encrypted with this key and no other.
fn ensure_policy(dir: &File, path: &Path, key: fscrypt::KeyId) -> Result<(), ScratchError> {
    match fscrypt::key_of(dir).map_err(io_error("cannot tell whether the scratch is encrypted"))? {
        Some(other) if other == key => Ok(()),
        Some(_) => Err(ScratchError::Refused(format!(
            "{} was encrypted with another key: remove the instance first",
            path.display()
        ))),
        None => fscrypt::set_policy(dir, key).map_err(io_error("cannot encrypt the scratch")),
    }
}

/// Runs what may wait for the disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ScratchError> + Send + 'static,
) -> Result<T, ScratchError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(ScratchError::Refused("the agent is stopping".to_owned())))
}

fn is_mounted(point: &Path) -> Result<bool, ScratchError> {
    mounts::is_mounted(point).map_err(io_error("cannot read the mounts"))
}

async fn unmount(point: PathBuf) -> Result<(), ScratchError> {
    command::run("umount", &[&point.display().to_string()], "").await?;
    Ok(())
}

/// Repeats what a container that just went, or one that is just starting elsewhere, may hold up for a moment.
async fn with_patience<T, F>(mut work: impl FnMut() -> F) -> Result<T, ScratchError>
where
    F: Future<Output = Result<T, ScratchError>>,
{
    let mut pause = Duration::from_millis(20);
    loop {
        match work().await {
            Err(_) if pause < Duration::from_secs(4) => tokio::time::sleep(pause).await,
            done => return done,
        }
        pause *= 2;
    }
}

#[cfg(test)]
mod tests;
