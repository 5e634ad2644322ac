//! Errors of local files, with one variant for each way a caller can react.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

/// The operation on a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each message says what it is")]
pub enum FileOperation {
    Open,
    Create,
    Read,
    Write,
    Sync,
    Rename,
    Remove,
    Lock,
    Inspect,
}

impl fmt::Display for FileOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FileOperation::Open => "open",
            FileOperation::Create => "create",
            FileOperation::Read => "read",
            FileOperation::Write => "write",
            FileOperation::Sync => "sync",
            FileOperation::Rename => "rename",
            FileOperation::Remove => "remove",
            FileOperation::Lock => "lock",
            FileOperation::Inspect => "inspect",
        })
    }
}

/// A failure at one file.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what it is")]
pub enum DiskError {
    #[error("failed to {operation} {}: {source}", .path.display())]
    Io {
        operation: FileOperation,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{} is in use by another run of sapwood", .path.display())]
    Busy { path: PathBuf },
    #[error("refusing to use {}: it is {what}", .path.display())]
    Unsafe { path: PathBuf, what: &'static str },
    #[error("{} is a folder, where a file is needed", .path.display())]
    IsFolder { path: PathBuf },
    /// To be read: a device, FIFO or socket.
    #[error("{} is not a regular file", .path.display())]
    NotRegular { path: PathBuf },
    #[error("{} is gone: another program moved or deleted it; nothing was published", .path.display())]
    Gone { path: PathBuf },
    #[error("{} exists", .path.display())]
    Exists { path: PathBuf },
    #[error("{} cannot be written: it is {what}", .path.display())]
    Conflict { path: PathBuf, what: &'static str },
    #[error("another program wrote to {} after its bytes were proven; nothing was published", .path.display())]
    ChangedAfterProof { path: PathBuf },
    #[error("stopped before all of {} was read", .path.display())]
    Stopped { path: PathBuf },
    #[error("{} changed while it was read", .path.display())]
    ChangedWhileRead { path: PathBuf },
    #[error("{} got shorter while it was followed; nothing was published", .path.display())]
    Shrunk { path: PathBuf },
    #[error("another file took the place of {} while it was followed, or it was moved away; nothing was published", .path.display())]
    Supplanted { path: PathBuf },
    #[error("{} changed since this run looked at it; it stays as it is", .path.display())]
    ChangedSince { path: PathBuf },
    #[error("the temporary file with the leaves of the manifest can no longer be used")]
    LeavesLost,
    #[error("{} needs {needed} more bytes, and {available} are free on its disk", .path.display())]
    NoRoom {
        path: PathBuf,
        needed: u64,
        available: u64,
    },
}

impl DiskError {
    /// A call on this file failed.
    pub fn io(operation: FileOperation, path: &Path, source: impl Into<io::Error>) -> DiskError {
        DiskError::Io {
            operation,
            path: path.to_owned(),
            source: source.into(),
        }
    }

    /// The same failure at another file that it concerns.
    #[must_use]
    pub fn of_another(&self, path: &Path) -> DiskError {
        match self {
            DiskError::Io {
                operation, source, ..
            } => {
                let code = source.raw_os_error();
                let source = code.map_or(source.kind().into(), io::Error::from_raw_os_error);
                DiskError::io(*operation, path, source)
            }
            _ => DiskError::Gone {
                path: path.to_owned(),
            },
        }
    }

    /// A failure at a file below this folder, where it gets its bytes, as one at the file that it is to become. What is in the way in
    /// that folder keeps its name.
    #[must_use]
    pub fn of_staged(mut self, folder: &Path, file: &Path) -> DiskError {
        match &mut self {
            DiskError::Io { path, .. }
            | DiskError::Gone { path }
            | DiskError::ChangedAfterProof { path }
            | DiskError::ChangedWhileRead { path }
            | DiskError::ChangedSince { path }
            | DiskError::Stopped { path }
            | DiskError::NoRoom { path, .. }
                if path.starts_with(folder) && path != folder =>
            {
                file.clone_into(path);
            }
            _ => (),
        }
        self
    }

    /// The disk itself failed, is full, or is read-only, for any operation.
    pub fn is_of_disk(&self) -> bool {
        let is = |source: &io::Error| {
            let kinds = [
                io::ErrorKind::StorageFull,
                io::ErrorKind::QuotaExceeded,
                io::ErrorKind::FileTooLarge,
                io::ErrorKind::ReadOnlyFilesystem,
            ];
            // EIO has no `ErrorKind`.
            let failed = Some(rustix::io::Errno::IO.raw_os_error());
            kinds.contains(&source.kind()) || source.raw_os_error() == failed
        };
        matches!(self, DiskError::Io { source, .. } if is(source))
    }

    /// See [`is_out_of_descriptors`].
    pub fn is_out_of_descriptors(&self) -> bool {
        matches!(self, DiskError::Io { source, .. } if is_out_of_descriptors(source))
    }

    /// This user may not do it.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, DiskError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }

    /// The file, or a folder on its path, does not exist.
    pub fn is_missing(&self) -> bool {
        matches!(self, DiskError::Io { source, .. } if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory))
    }
}

/// Whether this process, or the machine, has no descriptor left for another open file.
pub fn is_out_of_descriptors(cause: &io::Error) -> bool {
    let errors = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE];
    let is = |code: i32| errors.iter().any(|error| error.raw_os_error() == code);
    cause.raw_os_error().is_some_and(is)
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn what_the_disk_does_is_told_apart_from_what_is_not_there() {
        let is_of_disk =
            |errno: Errno| DiskError::io(FileOperation::Read, Path::new("x"), errno).is_of_disk();
        let of_disk = [
            Errno::IO,
            Errno::NOSPC,
            Errno::DQUOT,
            Errno::ROFS,
            Errno::FBIG,
        ];
        for errno in of_disk {
            assert!(is_of_disk(errno), "{errno}");
        }
        for errno in [Errno::NOENT, Errno::ACCESS, Errno::ISDIR] {
            assert!(!is_of_disk(errno), "{errno}");
        }
        let other = io::Error::other("no call of the system");
        assert!(!DiskError::io(FileOperation::Read, Path::new("x"), other).is_of_disk());
    }
}
