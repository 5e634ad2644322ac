//! Exit codes: the only file that maps errors to them.

use crate::{
    disk::error::{DiskError, FileOperation},
    engine::error::Error,
    format::{ingest::RefusedUpload, keys::BadSecret},
    net::location::BadUrl,
    policy::recovery::Failure,
};

/// See `sapwood --help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Ok = 0,
    Failed = 1,
    Usage = 2,
    NotVerified = 3,
    Changed = 4,
    Again = 5,
    Unsafe = 6,
    Disk = 7,
}

impl Exit {
    /// The exit code of a run over several files is the first of these that occurred.
    const ORDER: [Exit; 7] = [
        Exit::Usage,
        Exit::Unsafe,
        Exit::NotVerified,
        Exit::Changed,
        Exit::Disk,
        Exit::Failed,
        Exit::Again,
    ];

    /// The exit code of a run over several files.
    pub fn of_all(exits: impl IntoIterator<Item = Exit>) -> Exit {
        let rank = |exit: &Exit| {
            Exit::ORDER
                .iter()
                .position(|other| other == exit)
                .unwrap_or(usize::MAX)
        };
        exits.into_iter().min_by_key(rank).unwrap_or(Exit::Ok)
    }

    pub fn of(error: &Error) -> Exit {
        match error {
            _ if error.is_transient() => Exit::Again,
            Error::Disk(cause) => Exit::of_disk(cause),
            Error::State(_) => Exit::Failed,
            Error::Net { cause, .. } => Exit::of_failure(cause.failure),
            Error::Manifest { .. }
            | Error::Index { .. }
            | Error::Part { .. }
            | Error::OtherRoot { .. }
            | Error::BelowRequired { .. }
            | Error::Wrong { .. }
            | Error::OtherDigest { .. }
            | Error::NotSigned { .. }
            | Error::OtherName { .. }
            | Error::Expired { .. }
            | Error::Older { .. } => Exit::NotVerified,
            Error::Key {
                cause: BadSecret::Interrupted,
                ..
            } => Exit::Again,
            Error::BadKey { .. } | Error::Key { .. } => Exit::Usage,
            Error::NoManifest { .. } | Error::TooLarge { .. } | Error::NoSuchRange { .. } => {
                Exit::Failed
            }
            Error::Changed { .. } | Error::OtherLength { .. } => Exit::Changed,
            Error::NoPlace { .. } | Error::TooManyDeletions { .. } => Exit::Unsafe,
            Error::Output(_) => Exit::Disk,
            Error::Patience { .. } | Error::MustWait { .. } => Exit::Again,
            Error::TooManyBlocks { .. } | Error::PartRange { .. } | Error::PartsApart { .. } => {
                Exit::Usage
            }
            Error::PartSize { .. } | Error::OtherUpload { .. } => Exit::Usage,
            Error::Upload { cause, .. } => Exit::of_upload(cause),
        }
    }

    fn of_upload(cause: &RefusedUpload) -> Exit {
        match cause {
            RefusedUpload::Root { .. } => Exit::NotVerified,
            RefusedUpload::Ended(_) => Exit::Again,
            _ => Exit::Failed,
        }
    }

    fn of_failure(failure: Failure) -> Exit {
        match failure {
            Failure::Unsafe => Exit::Unsafe,
            Failure::Changed(_) => Exit::Changed,
            _ => Exit::Failed,
        }
    }

    fn of_disk(cause: &DiskError) -> Exit {
        match cause {
            DiskError::Busy { .. }
            | DiskError::ChangedAfterProof { .. }
            | DiskError::ChangedSince { .. }
            | DiskError::Gone { .. }
            | DiskError::Stopped { .. } => Exit::Again,
            DiskError::Conflict { .. } | DiskError::IsFolder { .. } => Exit::Usage,
            DiskError::Unsafe { .. } | DiskError::NotRegular { .. } | DiskError::Exists { .. } => {
                Exit::Unsafe
            }
            DiskError::ChangedWhileRead { .. } => Exit::Changed,
            DiskError::NoRoom { .. } | DiskError::LeavesLost => Exit::Disk,
            DiskError::Io { .. } if cause.is_out_of_descriptors() => Exit::Failed,
            DiskError::Io {
                operation:
                    FileOperation::Create
                    | FileOperation::Write
                    | FileOperation::Sync
                    | FileOperation::Rename
                    | FileOperation::Remove,
                ..
            } => Exit::Disk,
            DiskError::Io { .. } if cause.is_of_disk() => Exit::Disk,
            DiskError::Io { .. } => Exit::Failed,
        }
    }

    pub fn of_bad_url(cause: &BadUrl) -> Exit {
        match cause {
            BadUrl::Malformed { .. } | BadUrl::NotInS3 { .. } => Exit::Usage,
            BadUrl::Scheme { .. } => Exit::Unsafe,
        }
    }

    /// One word for scripts, beside the number.
    pub fn class(self) -> &'static str {
        match self {
            Exit::Ok => "ok",
            Exit::Failed => "failed",
            Exit::Usage => "usage",
            Exit::NotVerified => "not-verified",
            Exit::Changed => "changed",
            Exit::Again => "again",
            Exit::Unsafe => "unsafe",
            Exit::Disk => "disk",
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
            Exit::of_disk(&DiskError::io(
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
            assert_eq!(exit(operation, failed()), Exit::Disk, "{operation}");
            let missing = io::ErrorKind::NotFound.into();
            assert_eq!(exit(operation, missing), Exit::Failed, "{operation}");
        }
        // What cannot be written to is no target, whatever the reason.
        let denied = || io::ErrorKind::PermissionDenied.into();
        assert_eq!(exit(FileOperation::Create, denied()), Exit::Disk);
        assert_eq!(exit(FileOperation::Open, denied()), Exit::Failed);
    }

    /// "Too many open files" was told as a full disk.
    #[test]
    fn a_limit_on_open_files_is_no_full_disk() {
        for code in [23, 24] {
            let cause = io::Error::from_raw_os_error(code);
            let cause = DiskError::io(FileOperation::Create, Path::new("x.part"), cause);
            assert_eq!(Exit::of_disk(&cause), Exit::Failed, "{cause}");
            let message = super::super::hints::message(&cause.into());
            assert!(message.contains("ulimit -n"), "{message}");
        }
    }

    #[test]
    fn the_first_in_the_order_counts() {
        assert_eq!(Exit::of_all([]), Exit::Ok);
        assert_eq!(Exit::of_all([Exit::Ok, Exit::Ok]), Exit::Ok);
        assert_eq!(
            Exit::of_all([Exit::Again, Exit::Ok, Exit::Failed]),
            Exit::Failed
        );
        assert_eq!(
            Exit::of_all([Exit::Disk, Exit::NotVerified, Exit::Unsafe]),
            Exit::Unsafe
        );
    }
}
