//! Why a request to S3 failed, as an error of the storage.

use crate::{
    engine::{error::Error, storage::StorageError},
    net::{client::Refused, location::Location},
    policy::recovery::Failure,
};

/// Why the storage cannot be used so.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what it is")]
pub enum S3Error {
    #[error(
        "{place} does not check the SHA-256 of parts: nothing could be proven there. Use a service that does (ChecksumSHA256 of S3)"
    )]
    NoChecksums { place: String },
    #[error(
        "the name {name} is too long for a key in S3, which has at most 1024 bytes with all that is before and after it"
    )]
    LongName { name: String },
    #[error(
        "{place}: an attested upload is published as the client says that it is: it needs a root, and cannot prove a SHA-256"
    )]
    AttestedAlone { place: String },
    #[error("{place}: the service joined other parts than it had listed; the object was removed")]
    JoinedOther { place: String },
    #[error("{place} is not in S3")]
    NotInS3 { place: String },
    #[error("{place}: the service sent what is no response of S3")]
    NoS3 { place: String },
}

impl From<Error> for StorageError {
    fn from(error: Error) -> StorageError {
        let failure = match &error {
            Error::Net { cause, .. } => Some(cause.failure),
            _ => None,
        };
        match (failure, error) {
            (Some(Failure::TooMany { retry_after_ms, .. }), _) => StorageError::Busy {
                after_s: retry_after_ms.unwrap_or_default().div_ceil(1000).max(1),
            },
            (Some(Failure::Server { status: 507, .. }), _) => StorageError::Full,
            (_, Error::MustWait { wait_s, .. }) => StorageError::Busy { after_s: wait_s },
            (_, Error::Disk(cause)) => cause.into(),
            (_, error) => StorageError::Failed(Box::new(error)),
        }
    }
}

impl From<S3Error> for StorageError {
    fn from(error: S3Error) -> StorageError {
        StorageError::Failed(Box::new(error))
    }
}

impl From<Refused> for StorageError {
    fn from(refused: Refused) -> StorageError {
        match refused.code.as_deref() {
            Some("QuotaExceeded" | "XMinioStorageFull" | "StorageFull") => StorageError::Full,
            _ => Error::from(refused.error).into(),
        }
    }
}

/// The code of a refusal; empty if there is none.
pub fn code(refused: &Refused) -> &str {
    refused.code.as_deref().unwrap_or_default()
}

/// Whether the condition of the request was not met.
pub fn is_condition(refused: &Refused) -> bool {
    let codes = ["PreconditionFailed", "ConditionalRequestConflict"];
    codes.contains(&code(refused))
        || matches!(
            refused.error.failure,
            Failure::Changed(_) | Failure::Refused { status: 409 | 412 }
        )
}

/// The response is not that of S3.
pub fn strange(place: &Location) -> StorageError {
    let place = place.to_string();
    S3Error::NoS3 { place }.into()
}
