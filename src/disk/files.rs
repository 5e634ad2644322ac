//! Every call that changes the file system, and the safe ways to open files. Their order of use is that of journal.md and of
//! [`super::destination`]; nothing outside this file writes, syncs, renames or removes.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, IoSlice},
    os::{fd::OwnedFd, unix::fs::FileExt},
    path::{Path, PathBuf},
};

use rustix::fs::{self, AtFlags, Mode, OFlags, RenameFlags};

use crate::format::geometry::ByteRange;

use super::error::{DiskError, FileOperation};

pub use super::entry::{Entry, EntryKind, Stamp};

/// A folder held open, so that no other folder can take its place while we work in it.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// Opens a folder; links to it are followed.
    pub fn open(path: &Path) -> Result<Folder, DiskError> {
        // The empty parent of a bare name is the current folder.
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = fs::open(path, flags, Mode::empty())
            .map_err(|cause| DiskError::io(FileOperation::Open, path, cause))?;
        Ok(Folder {
            fd,
            path: path.to_owned(),
        })
    }

    /// The path of a name in this folder, for messages.
    pub fn path_of(&self, name: &OsStr) -> PathBuf {
        match self.path == Path::new(".") {
            true => PathBuf::from(name),
            false => self.path.join(name),
        }
    }

    fn error(
        &self,
        operation: FileOperation,
        name: &OsStr,
        cause: impl Into<io::Error>,
    ) -> DiskError {
        DiskError::io(operation, &self.path_of(name), cause)
    }

    /// The entry under this name; links are not followed.
    pub fn entry(&self, name: &OsStr) -> Result<Option<Entry>, DiskError> {
        match fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Entry::new(&stat))),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(cause) => Err(self.error(FileOperation::Inspect, name, cause)),
        }
    }

    /// Creates a file; `None` if the name exists.
    pub fn create(&self, name: &OsStr, mode: u32) -> Result<Option<File>, DiskError> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match fs::openat(&self.fd, name, flags, Mode::from_raw_mode(mode)) {
            Ok(fd) => Ok(Some(fd.into())),
            Err(rustix::io::Errno::EXIST) => Ok(None),
            Err(cause) => Err(self.error(FileOperation::Create, name, cause)),
        }
    }

    /// Opens a file of ours for reading and writing: it must be regular, with one link; no link is followed. `None` if there is
    /// none.
    pub fn open_own(&self, name: &OsStr) -> Result<Option<File>, DiskError> {
        // Non-blocking, so that a FIFO under our name cannot block us.
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let path = self.path_of(name);
        let file: File = match fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => fd.into(),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(cause) => {
                let what = self.entry(name)?.and_then(|entry| entry.suspicious());
                return Err(match what {
                    Some(what) => DiskError::Unsafe { path, what },
                    // A file that cannot be opened for writing cannot be written, for example on a disk that became read-only.
                    None => self.error(FileOperation::Write, name, cause),
                });
            }
        };
        match Entry::of(&file, &path)?.suspicious() {
            Some(what) => Err(DiskError::Unsafe { path, what }),
            None => Ok(Some(file)),
        }
    }

    /// Opens a file of ours, or creates it.
    pub fn open_own_or_create(&self, name: &OsStr) -> Result<File, DiskError> {
        loop {
            if let Some(file) = self.open_own(name)? {
                return Ok(file);
            }
            if let Some(file) = self.create(name, 0o600)? {
                return Ok(file);
            }
        }
    }

    /// Whether the name still refers to this file.
    pub fn is_still(&self, name: &OsStr, file: &File) -> Result<bool, DiskError> {
        let open = Entry::of(file, &self.path_of(name))?;
        Ok(self
            .entry(name)?
            .is_some_and(|now| (now.device, now.inode) == (open.device, open.inode)))
    }

    /// Opens a file below this folder for reading; links may lead to places inside the folder, not out of it. `None`: there is no
    /// file that may be opened.
    pub fn open_beneath(&self, path: &Path) -> Result<Option<(File, Entry)>, DiskError> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match fs::openat2(
            &self.fd,
            path,
            flags,
            Mode::empty(),
            fs::ResolveFlags::BENEATH,
        ) {
            Ok(fd) => {
                let file = File::from(fd);
                let entry = Entry::of(&file, path)?;
                Ok(Some((file, entry)))
            }
            Err(cause) => match io::Error::from(cause).kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::OutOfMemory => {
                    Err(self.error(FileOperation::Open, path.as_os_str(), cause))
                }
                _ => Ok(None),
            },
        }
    }

    /// Renames a file in this folder. `replace: false` fails with [`DiskError::Exists`] if the new name exists.
    pub fn rename(&self, from: &OsStr, to: &OsStr, replace: bool) -> Result<(), DiskError> {
        let flags = if replace {
            RenameFlags::empty()
        } else {
            RenameFlags::NOREPLACE
        };
        match fs::renameat_with(&self.fd, from, &self.fd, to, flags) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::EXIST) if !replace => Err(DiskError::Exists {
                path: self.path_of(to),
            }),
            // This file system cannot do it in one step: check first.
            Err(rustix::io::Errno::INVAL) if !replace => match self.entry(to)? {
                Some(_) => Err(DiskError::Exists {
                    path: self.path_of(to),
                }),
                None => self.rename(from, to, true),
            },
            Err(cause) => Err(self.error(FileOperation::Rename, to, cause)),
        }
    }

    /// Removes a name; succeeds if it does not exist.
    pub fn remove(&self, name: &OsStr) -> Result<(), DiskError> {
        match fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(cause) => Err(self.error(FileOperation::Remove, name, cause)),
        }
    }

    /// Makes renames and removals in this folder durable.
    pub fn sync(&self) -> Result<(), DiskError> {
        match fs::fsync(&self.fd) {
            // Some network file systems report that they cannot sync a folder; there is nothing more to do.
            Ok(()) | Err(rustix::io::Errno::INVAL) => Ok(()),
            Err(cause) => Err(DiskError::io(FileOperation::Sync, &self.path, cause)),
        }
    }

    /// The names in this folder, in any order, without those that are not UTF-8, because none of ours are.
    pub fn names(&self) -> Result<Vec<String>, DiskError> {
        let failed = |cause| DiskError::io(FileOperation::Read, &self.path, cause);
        let mut names = Vec::new();
        for entry in fs::Dir::read_from(&self.fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_str().unwrap_or_default();
            names.extend((!matches!(name, "" | "." | "..")).then(|| name.to_owned()));
        }
        Ok(names)
    }

    /// The size of this file system.
    pub fn bytes_of_disk(&self) -> Result<u64, DiskError> {
        let stat = fs::fstatvfs(&self.fd)
            .map_err(|cause| DiskError::io(FileOperation::Inspect, &self.path, cause))?;
        Ok(stat.f_blocks.saturating_mul(stat.f_frsize))
    }

    /// Bytes of this file system that this process may still write.
    pub fn bytes_free(&self) -> Result<u64, DiskError> {
        let stat = fs::fstatvfs(&self.fd)
            .map_err(|cause| DiskError::io(FileOperation::Inspect, &self.path, cause))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// Whether a store to a mapped page of a file in this folder may need room on the disk: the file system writes each changed page to
/// a new place, or a page has several blocks, of which not all are there.
pub fn mapped_stores_need_room(folder: &Path) -> bool {
    const BTRFS: u32 = 0x9123_683e;
    const ZFS: u32 = 0x2fc1_2fc1;
    const BCACHEFS: u32 = 0xca45_1a4e;
    const PAGE: u64 = 4096;
    fs::statfs(folder).is_ok_and(|system| {
        // Of other widths on other systems.
        let (kind, block) = (system.f_type as u32, system.f_bsize as u64);
        [BTRFS, ZFS, BCACHEFS].contains(&kind) || block < PAGE
    })
}

/// Creates a folder that only its owner can access, and the missing folders above it; succeeds if it exists.
pub fn create_private_folder(path: &Path) -> io::Result<()> {
    std::os::unix::fs::DirBuilderExt::mode(std::fs::DirBuilder::new().recursive(true), 0o700)
        .create(path)
}

/// A folder that was created for files to come. It is removed when this is dropped, if it is still empty.
#[derive(Debug)]
pub struct MadeFolder(PathBuf);

impl MadeFolder {
    /// Creates a folder; `None`: it exists. The folder above it must exist.
    pub fn make(path: &Path) -> Result<Option<MadeFolder>, DiskError> {
        match std::fs::create_dir(path) {
            Ok(()) => Ok(Some(MadeFolder(path.to_owned()))),
            Err(_) if path.is_dir() => Ok(None),
            Err(cause) => Err(DiskError::io(FileOperation::Create, path, cause)),
        }
    }
}

impl Drop for MadeFolder {
    fn drop(&mut self) {
        // Only an empty folder can be removed, as intended.
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Splits a path into its folder and its last segment; `None` if it has none (`/`, `..`).
pub fn split(path: &Path) -> Option<(PathBuf, OsString)> {
    let name = path.file_name()?.to_owned();
    Some((path.parent().unwrap_or(Path::new("")).to_owned(), name))
}

/// The name with this suffix.
pub fn with_suffix(name: &OsStr, suffix: &str) -> OsString {
    let mut name = name.to_owned();
    name.push(suffix);
    name
}

/// Opens a file of the user for reading. Links are followed, because the user named the path; it must be a regular file.
pub fn open_for_reading(path: &Path) -> Result<File, DiskError> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = fs::open(path, flags, Mode::empty())
        .map_err(|cause| DiskError::io(FileOperation::Open, path, cause))?;
    let file = File::from(fd);
    match Entry::of(&file, path)?.kind {
        EntryKind::Regular => Ok(file),
        EntryKind::Folder => Err(DiskError::Unsafe {
            path: path.to_owned(),
            what: "a folder, where a file is needed",
        }),
        _ => Err(DiskError::Unsafe {
            path: path.to_owned(),
            what: "not a regular file",
        }),
    }
}

/// Opens for reading a file of the user that was recorded earlier under this absolute path. Links anywhere on the path are
/// refused. `None`: there is no regular file any more.
pub fn open_noted(path: &Path) -> Option<(File, Entry)> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let links = fs::ResolveFlags::NO_SYMLINKS;
    let opened = match fs::openat2(fs::CWD, path, flags, Mode::empty(), links) {
        // The kernel, or a sandbox, does not have this call: refuse a link at least as the last segment.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
            fs::open(path, flags, Mode::empty())
        }
        opened => opened,
    };
    let file = File::from(opened.ok()?);
    let entry = Entry::of(&file, path).ok()?;
    (entry.kind == EntryKind::Regular).then_some((file, entry))
}

/// The path under which a file can be recorded: absolute, and without links in its folder.
pub fn noted_path(path: &Path) -> Option<PathBuf> {
    let (folder, name) = split(path)?;
    let folder = match folder.as_os_str().is_empty() {
        true => PathBuf::from("."),
        false => folder,
    };
    Some(folder.canonicalize().ok()?.join(name))
}

/// Writes all bytes at an offset.
pub fn write_at(file: &File, path: &Path, bytes: &[u8], offset: u64) -> Result<(), DiskError> {
    file.write_all_at(bytes, offset)
        .map_err(|cause| DiskError::io(FileOperation::Write, path, cause))
}

/// Writes all bytes of several slices at an offset, one after the other.
pub fn write_slices_at(
    file: &File,
    path: &Path,
    mut slices: &mut [IoSlice],
    mut offset: u64,
) -> Result<(), DiskError> {
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        // The kernel takes at most 1,024 slices a call (IOV_MAX).
        let now = slices.len().min(1024);
        match rustix::io::pwritev(file, &slices[..now], offset) {
            Ok(0) => {
                return Err(DiskError::io(
                    FileOperation::Write,
                    path,
                    io::ErrorKind::WriteZero,
                ));
            }
            Ok(written) => {
                offset += written as u64;
                IoSlice::advance_slices(&mut slices, written);
            }
            Err(rustix::io::Errno::INTR) => (),
            Err(cause) => return Err(DiskError::io(FileOperation::Write, path, cause)),
        }
    }
    Ok(())
}

/// Copies bytes from one file to another inside the kernel, which shares them if the file system and the offsets allow it;
/// returns how many, at least one. `None`: the kernel cannot do it for these files, or the source ends before.
pub fn copy_range(
    from: &File,
    place: u64,
    to: &File,
    path: &Path,
    offset: u64,
    length: u64,
) -> Result<Option<u64>, DiskError> {
    let (mut place, mut offset) = (place, offset);
    let most = usize::try_from(length).unwrap_or(usize::MAX);
    match fs::copy_file_range(from, Some(&mut place), to, Some(&mut offset), most) {
        Ok(0) => Ok(None),
        Ok(copied) => Ok(Some(copied as u64)),
        Err(cause) => match io::Error::from(cause).kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge
            | io::ErrorKind::ReadOnlyFilesystem => {
                Err(DiskError::io(FileOperation::Write, path, cause))
            }
            _ => Ok(None),
        },
    }
}

/// Sets the length of a file: truncates it, or adds a hole.
pub fn set_length(file: &File, path: &Path, length: u64) -> Result<(), DiskError> {
    file.set_len(length)
        .map_err(|cause| DiskError::io(FileOperation::Write, path, cause))
}

/// Frees the disk space of these bytes; they read as zeros from now on. `false`: this file system cannot do it.
pub fn punch_hole(file: &File, path: &Path, bytes: ByteRange) -> Result<bool, DiskError> {
    let flags = fs::FallocateFlags::PUNCH_HOLE | fs::FallocateFlags::KEEP_SIZE;
    match fs::fallocate(file, flags, bytes.start, bytes.length()) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(false),
        Err(cause) => Err(DiskError::io(FileOperation::Write, path, cause)),
    }
}

/// Sets the permission bits.
pub fn set_mode(file: &File, path: &Path, mode: u32) -> Result<(), DiskError> {
    fs::fchmod(file, Mode::from_raw_mode(mode))
        .map_err(|cause| DiskError::io(FileOperation::Write, path, cause))
}

/// Makes the data durable, and its length.
pub fn sync_data(file: &File, path: &Path) -> Result<(), DiskError> {
    file.sync_data()
        .map_err(|cause| DiskError::io(FileOperation::Sync, path, cause))
}

/// Makes data and attributes durable.
pub fn sync_all(file: &File, path: &Path) -> Result<(), DiskError> {
    file.sync_all()
        .map_err(|cause| DiskError::io(FileOperation::Sync, path, cause))
}

/// Locks a file exclusively for as long as it is open; `false` if another process holds a lock.
pub fn try_lock(file: &File, path: &Path) -> Result<bool, DiskError> {
    lock(file, path, fs::FlockOperation::NonBlockingLockExclusive)
}

/// Takes a shared lock of a file for as long as it is open; `false` if another process holds it exclusively.
pub fn try_lock_shared(file: &File, path: &Path) -> Result<bool, DiskError> {
    lock(file, path, fs::FlockOperation::NonBlockingLockShared)
}

fn lock(file: &File, path: &Path, how: fs::FlockOperation) -> Result<bool, DiskError> {
    match fs::flock(file, how) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(cause) => Err(DiskError::io(FileOperation::Lock, path, cause)),
    }
}

/// The permission bits of a new file of the user.
pub fn default_mode() -> u32 {
    // The system call that reads the umask also sets it, which another thread could see; /proc shows it without that.
    let umask = std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("Umask:"))?;
            u32::from_str_radix(line.trim(), 8).ok()
        })
        .unwrap_or(0o022);
    0o666 & !umask
}
