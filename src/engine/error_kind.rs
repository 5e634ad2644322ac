//! What kind of failure an error is: what its caller can do about it.

use crate::{
    disk::error::{DiskError, FileOperation},
    format::{ingest::RefusedUpload, keys::BadSecret},
    net::location::BadUrl,
    policy::recovery::Failure,
};

use super::error::Error;

/// The kinds of failure. Their numbers are the exit codes of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// For good: the same call fails again.
    Failed = 1,
    /// The call makes no sense.
    Usage = 2,
    /// The content does not verify, or is not trusted as much as required.
    NotVerified = 3,
    /// The source was replaced meanwhile.
    Changed = 4,
    /// Interrupted, busy, or the host must be left alone for a while: the same call goes on later.
    Again = 5,
    /// Refused as unsafe.
    Unsafe = 6,
    /// The disk is full, or cannot be written to.
    Disk = 7,
}

impl ErrorKind {
    /// One word for scripts, beside the number.
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::Failed => "failed",
            ErrorKind::Usage => "usage",
            ErrorKind::NotVerified => "not-verified",
            ErrorKind::Changed => "changed",
            ErrorKind::Again => "again",
            ErrorKind::Unsafe => "unsafe",
            ErrorKind::Disk => "disk",
        }
    }

    /// The kind of an error.
    pub fn of(error: &Error) -> ErrorKind {
        match error {
            _ if error.is_transient() => ErrorKind::Again,
            Error::Disk(cause) => ErrorKind::of_disk(cause),
            Error::State(_) => ErrorKind::Failed,
            Error::Net { cause, .. } => ErrorKind::of_failure(cause.failure),
            Error::Manifest { .. }
            | Error::Index { .. }
            | Error::Part { .. }
            | Error::Pack { .. }
            | Error::OtherRoot { .. }
            | Error::BelowRequired { .. }
            | Error::Wrong { .. }
            | Error::OtherDigest { .. }
            | Error::NotSigned { .. }
            | Error::OtherName { .. }
            | Error::Expired { .. }
            | Error::Older { .. } => ErrorKind::NotVerified,
            Error::Key {
                cause: BadSecret::Interrupted,
                ..
            } => ErrorKind::Again,
            Error::BadKey { .. } | Error::Key { .. } => ErrorKind::Usage,
            Error::NoManifest { .. } | Error::TooLarge { .. } | Error::NoSuchRange { .. } => {
                ErrorKind::Failed
            }
            Error::Changed { .. } | Error::OtherLength { .. } => ErrorKind::Changed,
            Error::NoPlace { .. } | Error::TooManyDeletions { .. } => ErrorKind::Unsafe,
            Error::Output(_) => ErrorKind::Disk,
            Error::Patience { .. } | Error::MustWait { .. } => ErrorKind::Again,
            Error::TooManyBlocks { .. } | Error::PartRange { .. } | Error::PartsApart { .. } => {
                ErrorKind::Usage
            }
            Error::SignsOlder { .. } | Error::PartSize { .. } | Error::OtherUpload { .. } => {
                ErrorKind::Usage
            }
            Error::Upload { cause, .. } => ErrorKind::of_upload(cause),
        }
    }

    fn of_upload(cause: &RefusedUpload) -> ErrorKind {
        match cause {
            RefusedUpload::Root { .. } => ErrorKind::NotVerified,
            RefusedUpload::Ended(_) => ErrorKind::Again,
            _ => ErrorKind::Failed,
        }
    }

    fn of_failure(failure: Failure) -> ErrorKind {
        match failure {
            Failure::Unsafe => ErrorKind::Unsafe,
            Failure::Changed(_) => ErrorKind::Changed,
            _ => ErrorKind::Failed,
        }
    }

    /// The kind of an error of the disk.
    pub fn of_disk(cause: &DiskError) -> ErrorKind {
        match cause {
            DiskError::Busy { .. }
            | DiskError::ChangedAfterProof { .. }
            | DiskError::ChangedSince { .. }
            | DiskError::Gone { .. }
            | DiskError::Stopped { .. } => ErrorKind::Again,
            DiskError::Conflict { .. } | DiskError::IsFolder { .. } => ErrorKind::Usage,
            DiskError::Unsafe { .. } | DiskError::NotRegular { .. } | DiskError::Exists { .. } => {
                ErrorKind::Unsafe
            }
            DiskError::ChangedWhileRead { .. }
            | DiskError::Shrunk { .. }
            | DiskError::Supplanted { .. } => ErrorKind::Changed,
            DiskError::NoRoom { .. } | DiskError::LeavesLost => ErrorKind::Disk,
            DiskError::Io { .. } if cause.is_out_of_descriptors() => ErrorKind::Failed,
            DiskError::Io {
                operation:
                    FileOperation::Create
                    | FileOperation::Write
                    | FileOperation::Sync
                    | FileOperation::Rename
                    | FileOperation::Remove,
                ..
            } => ErrorKind::Disk,
            DiskError::Io { .. } if cause.is_of_disk() => ErrorKind::Disk,
            DiskError::Io { .. } => ErrorKind::Failed,
        }
    }

    /// The kind of a URL that is refused.
    pub fn of_bad_url(cause: &BadUrl) -> ErrorKind {
        match cause {
            BadUrl::Malformed { .. } | BadUrl::NotInS3 { .. } => ErrorKind::Usage,
            BadUrl::Scheme { .. } => ErrorKind::Unsafe,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io, path::Path};

    use super::*;

    /// A journal that cannot be read is as bad as one that cannot be written: the disk is to be looked after.
    #[test]
    fn a_disk_that_fails_is_told_apart_from_a_file_that_is_not_there() {
        let exit = |operation, cause: io::Error| {
            ErrorKind::of_disk(&DiskError::io(
                operation,
                Path::new("x.part.journal"),
                cause,
            ))
        };
        // EIO, which has no kind.
        let failed = || io::Error::from_raw_os_error(5);
        for operation in [
            FileOperation::Open,
            FileOperation::Read,
            FileOperation::Lock,
            FileOperation::Inspect,
        ] {
            assert_eq!(exit(operation, failed()), ErrorKind::Disk, "{operation}");
            let missing = io::ErrorKind::NotFound.into();
            assert_eq!(exit(operation, missing), ErrorKind::Failed, "{operation}");
        }
        // What cannot be written to is no target, whatever the reason.
        let denied = || io::ErrorKind::PermissionDenied.into();
        assert_eq!(exit(FileOperation::Create, denied()), ErrorKind::Disk);
        assert_eq!(exit(FileOperation::Open, denied()), ErrorKind::Failed);
    }
}
