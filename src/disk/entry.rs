//! Directory entries: the kind of a file, and its version.

use std::{
    fs::File,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::fs;

use super::error::{DiskError, FileOperation};

/// A directory entry.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// A file, a folder, or something else.
    pub kind: EntryKind,
    /// In bytes.
    pub length: u64,
    /// What it takes of the disk, in bytes: holes take nothing.
    pub allocated: u64,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

/// The state of a file: any write and any change of an attribute makes another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    stamp: Stamp,
    /// When an attribute last changed. Programs can set the time of the last write, but not this one.
    attributes_changed: (i64, u64),
    kind: EntryKind,
    links: u64,
}

impl Version {
    /// The version of an open file; `path` is for the message.
    pub fn of(file: &File, path: &Path) -> Result<Version, DiskError> {
        Entry::of(file, path).map(|entry| entry.version())
    }

    /// The file, its length, and when it was last modified.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// When an attribute or the content last changed: seconds and nanoseconds.
    pub fn attributes_changed(&self) -> (i64, u64) {
        self.attributes_changed
    }

    /// A file, a folder, or something else.
    pub fn kind(&self) -> EntryKind {
        self.kind
    }

    /// Whether the file had the same bytes in an earlier version. A name that it lost or gained changed an attribute, not the bytes:
    /// a file that was replaced stays what it is for those who have it open.
    pub fn has_bytes_of(&self, earlier: &Version) -> bool {
        self.stamp == earlier.stamp
            && (self.attributes_changed == earlier.attributes_changed
                || self.links != earlier.links)
    }

    /// A time in which the file system may give two writes one time stamp.
    fn tick(&self) -> Duration {
        match self.attributes_changed.1 {
            0 => WHOLE_SECONDS_TICK,
            _ => TICK,
        }
    }

    /// How long to wait before another write can be told from this version by its time stamp; zero: it can by now. The clock of a file
    /// system on another machine may differ from ours: a time that is not near is taken as past.
    pub fn unsettled(&self) -> Duration {
        let (seconds, nanoseconds) = self.attributes_changed;
        let changed = Duration::new(seconds.max(0) as u64, nanoseconds as u32);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let tick = self.tick();
        match now.checked_sub(changed) {
            Some(age) => tick.saturating_sub(age),
            None if changed.saturating_sub(now) <= tick => tick,
            None => Duration::ZERO,
        }
    }
}

/// The answer is not in memory: the same has to be done on a thread that may wait for a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotCached;

/// Linux stamps files with the time of its last clock interrupt, which comes at least 100 times a second.
const TICK: Duration = Duration::from_millis(20);
/// File systems without fractions of seconds: that of FAT is the longest.
const WHOLE_SECONDS_TICK: Duration = Duration::from_secs(2);

/// The kind of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    #[allow(
        clippy::useless_conversion,
        reason = "counts of links have 32 bits on AArch64"
    )]
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
            allocated: stat.st_blocks as u64 * 512,
            mode: stat.st_mode & 0o7777,
            device: stat.st_dev,
            inode: stat.st_ino,
            links: u64::from(stat.st_nlink),
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

    /// With the time of the last change of an attribute.
    pub fn version(&self) -> Version {
        Version {
            stamp: self.stamp(),
            attributes_changed: self.attributes_changed,
            kind: self.kind,
            links: self.links,
        }
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

    /// When it was last modified, in nanoseconds since 1970. `None`: before 1678, or after 2262.
    pub fn modified_ns(&self) -> Option<i64> {
        let (seconds, nanoseconds) = self.changed;
        seconds
            .checked_mul(1_000_000_000)?
            .checked_add(nanoseconds.cast_signed())
    }

    /// Whether its owner may execute it.
    pub fn is_executable(&self) -> bool {
        self.mode & 0o100 != 0
    }

    /// Whether the file has other names, here or elsewhere (hard links).
    pub fn has_other_names(&self) -> bool {
        self.links != 1
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
            EntryKind::Regular if self.has_other_names() => {
                Some("a file with several names (hard links)")
            }
            EntryKind::Regular => None,
        }
    }
}
