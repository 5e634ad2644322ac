//! Every call that changes the file system, and the safe ways to open files. Their order of use is that of journal.md and of
//! [`super::destination`] and [`super::replica`]; nothing outside this folder writes, syncs, renames or removes.

mod below;
mod entries;
mod unnamed;

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, IoSlice},
    os::{fd::OwnedFd, unix::fs::FileExt},
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::SystemTime,
};

use rustix::{
    fs::{self, AtFlags, Mode, OFlags},
    io::{Errno, retry_on_intr},
};

use crate::format::geometry::ByteRange;

use super::{
    error::{DiskError, FileOperation},
    lacking::{self, Lacking, is_unsupported},
};

pub use super::{
    entry::{Entry, EntryKind, NotCached, Stamp, Version},
    names::{
        NotedPaths, STAGED_UPLOADS, is_own, is_same_file, is_staged_uploads, noted_path,
        process_of_temporary, split, with_suffix,
    },
};

/// How files of the user are opened: a FIFO does not block.
const READING: OFlags = OFlags::RDONLY
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);

/// A folder held open, so that no other folder can take its place while we work in it.
#[derive(Debug)]
pub struct Folder {
    pub(super) fd: OwnedFd,
    pub(super) path: PathBuf,
    /// Of the files that this process makes here, when it had to be found out.
    owner: OnceLock<Option<u32>>,
}

impl Folder {
    /// Opens a folder; links to it are followed.
    pub fn open(path: &Path) -> Result<Folder, DiskError> {
        // The empty parent of a bare name is the current folder.
        let path = match path.as_os_str().is_empty() {
            true => Path::new("."),
            false => path,
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = fs::open(path, flags, Mode::empty())
            .map_err(|cause| DiskError::io(FileOperation::Open, path, cause))?;
        Ok(Folder::of(fd, path.to_owned()))
    }

    /// Whether it was opened by this path.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        match path.as_os_str().is_empty() {
            true => self.path == Path::new("."),
            false => self.path.as_os_str() == path.as_os_str(),
        }
    }

    pub(super) fn of(fd: OwnedFd, path: PathBuf) -> Folder {
        Folder {
            fd,
            path,
            owner: OnceLock::new(),
        }
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
            Err(Errno::NOENT) => Ok(None),
            Err(cause) => Err(self.error(FileOperation::Inspect, name, cause)),
        }
    }

    /// Creates a file; `None` if the name exists.
    pub fn create(&self, name: &OsStr, mode: u32) -> Result<Option<File>, DiskError> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match fs::openat(&self.fd, name, flags, Mode::from_raw_mode(mode)) {
            Ok(fd) => Ok(Some(fd.into())),
            Err(Errno::EXIST) => Ok(None),
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
            Err(Errno::NOENT) => return Ok(None),
            Err(cause) => {
                let what = self.entry(name)?.and_then(|entry| self.suspicious(&entry));
                return Err(match what {
                    Some(what) => DiskError::Unsafe { path, what },
                    // A file that cannot be opened for writing cannot be written, for example on a disk that became read-only.
                    None => self.error(FileOperation::Write, name, cause),
                });
            }
        };
        match self.suspicious(&Entry::of(&file, &path)?) {
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

    /// Creates a file under an unused name, for its owner alone.
    pub fn create_unused(&self) -> Result<(File, OsString), DiskError> {
        self.with_unused_name(|name| self.create(name, 0o600))
    }

    /// Makes something under an unused name; `None` if that name is used. The names contain the process ID, so only our own earlier
    /// leftovers can collide; they are short, so that they fit wherever the final name fits.
    pub fn with_unused_name<T>(
        &self,
        mut make: impl FnMut(&OsStr) -> Result<Option<T>, DiskError>,
    ) -> Result<(T, OsString), DiskError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        for _ in 0..100 {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = OsString::from(format!(".sapwood-{}-{number}", std::process::id()));
            if let Some(made) = make(&name)? {
                return Ok((made, name));
            }
        }
        Err(DiskError::io(
            FileOperation::Create,
            &self.path,
            io::ErrorKind::AlreadyExists,
        ))
    }

    /// Whether a file here has the owner that our own files have. Some mounts give all files one owner, whoever makes them.
    pub fn is_ours(&self, entry: &Entry) -> bool {
        let owner_here = || {
            let (file, name) = self.create_unused().ok()?;
            let made = Entry::of(&file, &self.path);
            self.remove(&name).ok()?;
            Some(made.ok()?.owner)
        };
        entry.owner == rustix::process::geteuid().as_raw()
            || *self.owner.get_or_init(owner_here) == Some(entry.owner)
    }

    /// Why this is not a regular file of ours with one name; `None` if it is.
    pub fn suspicious(&self, entry: &Entry) -> Option<&'static str> {
        let owner = || (!self.is_ours(entry)).then_some("owned by another user");
        entry.suspicious().or_else(owner)
    }

    /// Whether the name still refers to this file.
    pub fn is_still(&self, name: &OsStr, file: &File) -> Result<bool, DiskError> {
        let open = Entry::of(file, &self.path_of(name))?;
        Ok(self
            .entry(name)?
            .is_some_and(|now| (now.device, now.inode) == (open.device, open.inode)))
    }
}

/// Creates a folder that only its owner can access, and the missing folders above it; succeeds if it exists.
pub fn create_private_folder(path: &Path) -> io::Result<()> {
    std::os::unix::fs::DirBuilderExt::mode(std::fs::DirBuilder::new().recursive(true), 0o700)
        .create(path)
}

/// Makes an empty file, or one that exists, accessible to its owner only, as far as possible. The file is not opened: to close a
/// database drops the locks that `SQLite` has on it in this process.
pub fn make_private(path: &Path) {
    let mode = Mode::RUSR | Mode::WUSR;
    if fs::mknodat(fs::CWD, path, fs::FileType::RegularFile, mode, 0) == Err(Errno::EXIST) {
        let _ = fs::chmod(path, mode);
    }
}

/// A folder that was created for files to come. It is removed when this is dropped, if it is still empty.
#[derive(Debug)]
pub struct MadeFolder(PathBuf);

impl MadeFolder {
    /// Creates a folder for what is needed for a moment.
    pub fn temporary() -> Result<MadeFolder, DiskError> {
        let all = std::env::temp_dir();
        for number in 0..100 {
            let path = all.join(format!(".sapwood-{}-{number}", std::process::id()));
            if let Some(made) = MadeFolder::make(&path)? {
                return Ok(made);
            }
        }
        Err(DiskError::io(
            FileOperation::Create,
            &all,
            io::ErrorKind::AlreadyExists,
        ))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Creates a folder and all above it that are missing; the innermost is the first.
    pub fn make_all(path: &Path) -> Result<Vec<MadeFolder>, DiskError> {
        let mut made = Vec::new();
        let above: Vec<&Path> = path.ancestors().collect();
        for folder in above.into_iter().rev() {
            // A relative path begins with none.
            if folder != Path::new("") {
                made.splice(0..0, MadeFolder::make(folder)?);
            }
        }
        Ok(made)
    }

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

/// Opens a file of the user for reading. Links are followed, because the user named the path; it must be a regular file.
pub fn open_for_reading(path: &Path) -> Result<File, DiskError> {
    let fd = fs::open(path, READING, Mode::empty())
        .map_err(|cause| DiskError::io(FileOperation::Open, path, cause))?;
    let file = File::from(fd);
    let (kind, path) = (Entry::of(&file, path)?.kind, path.to_owned());
    match kind {
        EntryKind::Regular => Ok(file),
        EntryKind::Folder => Err(DiskError::IsFolder { path }),
        EntryKind::Link | EntryKind::Special => Err(DiskError::NotRegular { path }),
    }
}

/// Opens for reading a file of the user that was recorded earlier under this absolute path. Links anywhere on the path are
/// refused. `None`: there is no regular file any more.
pub fn open_noted(path: &Path) -> Option<(File, Entry)> {
    let flags = READING | OFlags::NOFOLLOW;
    let links = fs::ResolveFlags::NO_SYMLINKS;
    let opened = match fs::openat2(fs::CWD, path, flags, Mode::empty(), links) {
        // The kernel, or a sandbox, does not have this call: refuse a link at least as the last segment.
        Err(Errno::NOSYS | Errno::PERM) => fs::open(path, flags, Mode::empty()),
        opened => opened,
    };
    let file = File::from(opened.ok()?);
    let entry = Entry::of(&file, path).ok()?;
    (entry.kind == EntryKind::Regular).then_some((file, entry))
}

/// The entry under a path of [`noted_path`]. `None`: there is no regular file.
pub fn noted_entry(path: &Path) -> Option<Entry> {
    let entry = Entry::new(&fs::lstat(path).ok()?);
    (entry.kind == EntryKind::Regular).then_some(entry)
}

/// Opens a log for appending, or creates it for its owner alone. It may be a device or a FIFO that is read.
pub fn open_for_appending(path: &Path) -> Result<File, DiskError> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NONBLOCK;
    let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
    let opened = fs::open(path, flags, Mode::RUSR | Mode::WUSR);
    opened
        .map(File::from)
        .map_err(|cause| DiskError::io(FileOperation::Create, path, cause))
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
            Err(Errno::INTR) => (),
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

/// Makes a file a copy of another one that shares its data. `false`: this file system cannot do it.
pub fn share_data(from: &File, to: &File) -> bool {
    fs::ioctl_ficlone(to, from).is_ok()
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
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
        Err(cause) => Err(DiskError::io(FileOperation::Write, path, cause)),
    }
}

/// Sets the permission bits, where the file system lets us.
pub fn set_mode(file: &File, path: &Path, mode: u32) -> Result<(), DiskError> {
    mode_set(fs::fchmod(file, Mode::from_raw_mode(mode)), path)
}

fn mode_set(outcome: Result<(), Errno>, path: &Path) -> Result<(), DiskError> {
    match outcome {
        Ok(()) => Ok(()),
        Err(cause) if cause == Errno::PERM || is_unsupported(cause) => {
            lacking::note(Lacking::Modes, path);
            Ok(())
        }
        Err(cause) => Err(DiskError::io(FileOperation::Write, path, cause)),
    }
}

/// Makes the data durable, and its length, where the file system can.
pub fn sync_data(file: &File, path: &Path) -> Result<(), DiskError> {
    synced(retry_on_intr(|| fs::fdatasync(file)), path)
}

/// Makes data and attributes durable, where the file system can.
pub fn sync_all(file: &File, path: &Path) -> Result<(), DiskError> {
    synced(retry_on_intr(|| fs::fsync(file)), path)
}

fn synced(outcome: Result<(), Errno>, path: &Path) -> Result<(), DiskError> {
    match outcome {
        Err(cause) if is_unsupported(cause) => {
            lacking::note(Lacking::Syncs, path);
            Ok(())
        }
        outcome => outcome.map_err(|cause| DiskError::io(FileOperation::Sync, path, cause)),
    }
}

/// Sets the time of the last change of a file.
pub fn set_modified(file: &File, path: &Path, to: SystemTime) -> Result<(), DiskError> {
    file.set_modified(to)
        .map_err(|cause| DiskError::io(FileOperation::Write, path, cause))
}
