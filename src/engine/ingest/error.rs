//! Why a request of a client was not done.

use crate::{
    format::library::LibraryPath,
    policy::upload::{Disproved, Refusal},
};

use super::{
    super::storage::StorageError,
    session_store::{StoreError, Usage},
};

/// Why a request of a client was not done.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what it is")]
pub enum IngestError {
    #[error("there is no such session")]
    NoSession,
    #[error("{0:?} is no name under which an object can be published")]
    BadName(String),
    #[error("{0} exists; an object takes its place only if it was asked to")]
    NameExists(LibraryPath),
    #[error("a request names at most {max} parts, not {found}")]
    TooManyParts { max: usize, found: usize },
    #[error("the owner has {} sessions that are not finished, and may have no more", .0.sessions)]
    TooManySessions(Usage),
    #[error("the owner has {} bytes in sessions that are not finished, and may not have {wanted} more", .usage.bytes)]
    Quota { usage: Usage, wanted: u64 },
    #[error("the session was not opened to be read while it is uploaded")]
    NotGrowing,
    #[error("this storage gives nothing of an object back before it is published")]
    NotReadable,
    #[error("other requests changed the session all the time; try again")]
    Contended,
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Disproved(#[from] Disproved),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl IngestError {
    /// Its code in upload.md.
    pub fn code(&self) -> &'static str {
        match self {
            IngestError::NoSession => "no_session",
            IngestError::BadName(_) => "bad_name",
            IngestError::NameExists(_) => "name_exists",
            IngestError::TooManyParts { .. } => "bad_request",
            IngestError::TooManySessions(_) => "too_many_sessions",
            IngestError::Quota { .. } => "quota",
            IngestError::NotGrowing => "not_growing",
            IngestError::NotReadable => "not_readable",
            IngestError::Contended => "busy",
            IngestError::Refused(refusal) => refusal.code(),
            IngestError::Disproved(disproved) => disproved.code(),
            IngestError::Storage(cause) => code_of_storage(cause),
            IngestError::Store(_) => "store_failed",
        }
    }
}

/// The code of a failure of the storage.
pub(super) fn code_of_storage(cause: &StorageError) -> &'static str {
    match cause {
        StorageError::Full => "storage_full",
        StorageError::PartNotStored { .. } => "part_not_stored",
        StorageError::PartInFlight { .. } => "part_in_flight",
        StorageError::PartDiffers { .. } => "part_differs_from_url",
        StorageError::PartLength { .. } => "body_too_large",
        StorageError::StagingGone => "session_ended",
        StorageError::Superseded => "busy",
        StorageError::NotThroughServer => "not_through_server",
        StorageError::Busy { .. } => "busy",
        StorageError::Failed(_) => "storage_failed",
    }
}
