//! Exit codes: the kinds of errors, and success.

use crate::{
    engine::{error::Error, error_kind::ErrorKind},
    net::location::BadUrl,
    serve::ingest::StartError,
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
        ErrorKind::of(error).into()
    }

    /// Of a server that cannot take uploads.
    pub fn of_start(cause: &StartError) -> Exit {
        match cause {
            StartError::Disk(cause) => ErrorKind::of_disk(cause).into(),
            StartError::Sessions(cause) if cause.is_busy() => Exit::Again,
            StartError::Sessions(cause) if cause.is_of_disk() => Exit::Disk,
            StartError::OtherStorage(_) => Exit::Unsafe,
            #[cfg(feature = "postgres")]
            StartError::Postgres(_) => Exit::Failed,
            StartError::Sessions(_) | StartError::Store(_) | StartError::Key(_) => Exit::Failed,
        }
    }

    pub fn of_bad_url(cause: &BadUrl) -> Exit {
        ErrorKind::of_bad_url(cause).into()
    }

    /// One word for scripts, beside the number.
    pub fn class(self) -> &'static str {
        match self.kind() {
            None => "ok",
            Some(kind) => kind.name(),
        }
    }

    fn kind(self) -> Option<ErrorKind> {
        match self {
            Exit::Ok => None,
            Exit::Failed => Some(ErrorKind::Failed),
            Exit::Usage => Some(ErrorKind::Usage),
            Exit::NotVerified => Some(ErrorKind::NotVerified),
            Exit::Changed => Some(ErrorKind::Changed),
            Exit::Again => Some(ErrorKind::Again),
            Exit::Unsafe => Some(ErrorKind::Unsafe),
            Exit::Disk => Some(ErrorKind::Disk),
        }
    }
}

impl From<ErrorKind> for Exit {
    fn from(kind: ErrorKind) -> Exit {
        match kind {
            ErrorKind::Failed => Exit::Failed,
            ErrorKind::Usage => Exit::Usage,
            ErrorKind::NotVerified => Exit::NotVerified,
            ErrorKind::Changed => Exit::Changed,
            ErrorKind::Again => Exit::Again,
            ErrorKind::Unsafe => Exit::Unsafe,
            ErrorKind::Disk => Exit::Disk,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io, path::Path};

    use super::*;
    use crate::disk::error::{DiskError, FileOperation};

    /// "Too many open files" was told as a full disk.
    #[test]
    fn a_limit_on_open_files_is_no_full_disk() {
        for code in [23, 24] {
            let cause = io::Error::from_raw_os_error(code);
            let cause = DiskError::io(FileOperation::Create, Path::new("x.part"), cause);
            assert_eq!(ErrorKind::of_disk(&cause), ErrorKind::Failed, "{cause}");
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
