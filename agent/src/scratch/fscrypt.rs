//! The kernel's file encryption (fscrypt, policy v2) by its ioctls: `include/uapi/linux/fscrypt.h`.
//!
//! The key goes from memory to the kernel and nowhere else. It belongs to the file system it was added to, and is gone with its last
//! mount at the latest.

#![allow(
    unsafe_code,
    reason = "these ioctls have no safe wrapper; every struct below has the kernel's layout and outlives its call"
)]

use std::{fs::File, io, mem::size_of, os::fd::AsFd};

use rustix::ioctl::{Opcode, Setter, Updater, ioctl, opcode};
use zeroize::Zeroize as _;

use crate::model::ScratchKey;

/// Names a key: derived from it by the kernel.
pub(super) type KeyId = [u8; 16];

const POLICY_V2: u8 = 2;
const MODE_AES_256_XTS: u8 = 1;
const MODE_AES_256_CTS: u8 = 4;
/// File names are padded to 32 bytes, so that their lengths tell little.
const PAD_32: u8 = 3;
const SPECIFIER_IDENTIFIER: u32 = 2;
const STATUS_FILES_BUSY: u32 = 2;

#[repr(C)]
#[derive(Clone, Copy)]
struct KeySpecifier {
    kind: u32,
    reserved: u32,
    identifier: KeyId,
    padding: [u8; 16],
}

impl KeySpecifier {
    fn new(identifier: KeyId) -> Self {
        Self {
            kind: SPECIFIER_IDENTIFIER,
            reserved: 0,
            identifier,
            padding: [0; 16],
        }
    }
}

/// `struct fscrypt_add_key_arg` and the key behind it.
#[repr(C)]
struct AddKey {
    specifier: KeySpecifier,
    raw_size: u32,
    key_id: u32,
    reserved: [u32; 8],
    raw: [u8; ScratchKey::LEN],
}

#[repr(C)]
struct RemoveKey {
    specifier: KeySpecifier,
    status_flags: u32,
    reserved: [u32; 5],
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Policy {
    version: u8,
    contents_mode: u8,
    filenames_mode: u8,
    flags: u8,
    log2_data_unit_size: u8,
    reserved: [u8; 3],
    identifier: KeyId,
}

#[repr(C)]
struct GetPolicy {
    size: u64,
    policy: Policy,
}

// The numbers carry the sizes of the kernel's own structs, which differ from what is handed over in three of four cases: the key follows
// its struct, `SET` names policy v1's size, and `GET_EX` a part of its struct.
const ADD_KEY: Opcode = opcode::read_write::<[u8; size_of::<AddKey>() - ScratchKey::LEN]>(b'f', 23);
const SET_POLICY: Opcode = opcode::read::<[u8; 12]>(b'f', 19);
const GET_POLICY_EX: Opcode = opcode::read_write::<[u8; 9]>(b'f', 22);
const REMOVE_KEY_ALL_USERS: Opcode = opcode::read_write::<RemoveKey>(b'f', 25);

/// Adds a key to the file system that `root` is on.
pub(super) fn add_key(root: &File, key: &ScratchKey) -> io::Result<KeyId> {
    let mut arg = AddKey {
        specifier: KeySpecifier::new([0; 16]),
        raw_size: ScratchKey::LEN as u32,
        key_id: 0,
        reserved: [0; 8],
        raw: *key.expose(),
    };
    // SAFETY: the kernel reads and writes `fscrypt_add_key_arg` and reads `raw_size` bytes behind it, all inside `arg`.
    let done = unsafe { ioctl(root.as_fd(), Updater::<ADD_KEY, _>::new(&mut arg)) };
    arg.raw.zeroize();
    done?;
    Ok(arg.specifier.identifier)
}

/// Has everything that will be made in an empty directory encrypted with a key that was added.
pub(super) fn set_policy(dir: &File, identifier: KeyId) -> io::Result<()> {
    let policy = Policy {
        version: POLICY_V2,
        contents_mode: MODE_AES_256_XTS,
        filenames_mode: MODE_AES_256_CTS,
        flags: PAD_32,
        identifier,
        ..Policy::default()
    };
    // SAFETY: by its first byte the kernel knows that it has to read `fscrypt_policy_v2`, which is what it gets.
    unsafe { ioctl(dir.as_fd(), Setter::<SET_POLICY, _>::new(policy)) }?;
    Ok(())
}

/// The key that a directory is encrypted with; `None` when it is not.
pub(super) fn key_of(dir: &File) -> io::Result<Option<KeyId>> {
    let mut arg = GetPolicy {
        size: size_of::<Policy>() as u64,
        policy: Policy::default(),
    };
    // SAFETY: the kernel writes at most `size` bytes into `policy`, which has as many.
    match unsafe { ioctl(dir.as_fd(), Updater::<GET_POLICY_EX, _>::new(&mut arg)) } {
        Ok(()) if arg.policy.version == POLICY_V2 => Ok(Some(arg.policy.identifier)),
        Ok(()) => Err(io::Error::other(
            "the folder's encryption is not of version 2",
        )),
        Err(rustix::io::Errno::NODATA) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// What became of a key's removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Removed {
    /// The kernel has wiped it.
    Wiped,
    /// It is wiped when the last open file is closed.
    FilesBusy,
    /// The kernel did not have it.
    NotThere,
}

/// Takes a key from the kernel, whoever added it.
pub(super) fn remove_key(root: &File, identifier: KeyId) -> io::Result<Removed> {
    let mut arg = RemoveKey {
        specifier: KeySpecifier::new(identifier),
        status_flags: 0,
        reserved: [0; 5],
    };
    // SAFETY: the kernel reads and writes `fscrypt_remove_key_arg`, which is what it gets.
    match unsafe {
        ioctl(
            root.as_fd(),
            Updater::<REMOVE_KEY_ALL_USERS, _>::new(&mut arg),
        )
    } {
        Ok(()) if arg.status_flags & STATUS_FILES_BUSY != 0 => Ok(Removed::FilesBusy),
        Ok(()) => Ok(Removed::Wiped),
        Err(rustix::io::Errno::NOKEY) => Ok(Removed::NotThere),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layouts_are_the_kernels() {
        assert_eq!(size_of::<KeySpecifier>(), 40);
        assert_eq!(size_of::<AddKey>(), 80 + ScratchKey::LEN);
        assert_eq!(size_of::<RemoveKey>(), 64);
        assert_eq!(size_of::<Policy>(), 24);
        assert_eq!(ADD_KEY, 0xc050_6617);
        assert_eq!(SET_POLICY, 0x800c_6613);
        assert_eq!(GET_POLICY_EX, 0xc009_6616);
        assert_eq!(REMOVE_KEY_ALL_USERS, 0xc040_6619);
    }
}
