//! Directory entries: the kind of a file, and its version.

use std::{fs::File, path::Path};

use rustix::fs;

use super::error::{DiskError, FileOperation};

/// A directory entry.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// A file, a folder, or something else.
    pub kind: EntryKind,
    /// In bytes.
    pub length: u64,
    /// The permission bits.
    pub mode: u32,
    /// With the inode: identifies the file under any name.
    pub device: u64,
    /// See the device.
    pub inode: u64,
    links: u64,
    pub(super) owner: u32,
    /// When the content was last written, unless a program set another time: seconds and nanoseconds.
    pub changed: (i64, u64),
    /// When content, an attribute or a name last changed. Programs cannot set this one.
    pub attributes_changed: (i64, u64),
}

/// A file and its version: while this is unchanged, so is the content, as far as attributes show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// See [`Entry`].
    pub device: u64,
    /// See [`Entry`].
    pub inode: u64,
    /// In bytes.
    pub length: u64,
    /// When it was last modified: seconds and nanoseconds.
    pub changed: (i64, u64),
}

/// The state of an open file: any write and any change of an attribute makes another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    stamp: Stamp,
    /// When an attribute last changed. Programs can set the time of the last write, but not this one.
    attributes_changed: (i64, u64),
}

impl Version {
    /// The version of an open file; `path` is for the message.
    pub fn of(file: &File, path: &Path) -> Result<Version, DiskError> {
        Entry::of(file, path).map(|entry| Version {
            stamp: entry.stamp(),
            attributes_changed: entry.attributes_changed,
        })
    }
}

/// The kind of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    Regular,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A device, FIFO or socket.
    Special,
}

impl Entry {
    pub(super) fn new(stat: &fs::Stat) -> Entry {
        let kind = match fs::FileType::from_raw_mode(stat.st_mode) {
            fs::FileType::RegularFile => EntryKind::Regular,
            fs::FileType::Directory => EntryKind::Folder,
            fs::FileType::Symlink => EntryKind::Link,
            _ => EntryKind::Special,
        };
        Entry {
            kind,
            length: stat.st_size as u64,
            mode: stat.st_mode & 0o7777,
            device: stat.st_dev,
            inode: stat.st_ino,
            links: stat.st_nlink,
            owner: stat.st_uid,
            changed: (stat.st_mtime, stat.st_mtime_nsec),
            attributes_changed: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    /// The entry of an open file; `path` is for the message.
    pub fn of(file: &File, path: &Path) -> Result<Entry, DiskError> {
        fs::fstat(file)
            .map(|stat| Entry::new(&stat))
            .map_err(|cause| DiskError::io(FileOperation::Inspect, path, cause))
    }

    /// The file and its version.
    pub fn stamp(&self) -> Stamp {
        Stamp {
            device: self.device,
            inode: self.inode,
            length: self.length,
            changed: self.changed,
        }
    }

    /// The permission bits for a file that takes the place of this one: never setuid, setgid or sticky.
    pub fn mode_to_keep(&self) -> u32 {
        self.mode & 0o777
    }

    /// Why this is not a regular file with one name; `None` if it is.
    pub(super) fn suspicious(&self) -> Option<&'static str> {
        match self.kind {
            EntryKind::Folder => Some("a folder"),
            EntryKind::Link => Some("a symbolic link"),
            EntryKind::Special => Some("not a regular file"),
            EntryKind::Regular if self.links != 1 => Some("a file with several names (hard links)"),
            EntryKind::Regular => None,
        }
    }
}
