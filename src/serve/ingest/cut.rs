//! Why not all bytes of a body were taken, and what its client is told.

use axum::http::{HeaderName, StatusCode};

use crate::engine::{ingest::IngestError, storage::StorageError};

use super::problem::Problem;

/// Why not all bytes of a body were taken.
#[derive(Debug)]
pub enum Cut {
    Ingest(IngestError),
    /// The client does not say how much comes.
    NoLength,
    /// More came than there can be.
    TooLong,
    /// The connection broke, or less came than was said.
    TooShort,
    /// Nothing came, or too little, for too long.
    Stalled,
    /// A later request goes on.
    Superseded,
    /// What is here ends elsewhere.
    Offset {
        expected: u64,
    },
    /// The body is no form with a file.
    NoForm,
}

impl From<IngestError> for Cut {
    fn from(cause: IngestError) -> Cut {
        Cut::Ingest(cause)
    }
}

impl From<StorageError> for Cut {
    fn from(cause: StorageError) -> Cut {
        Cut::Ingest(cause.into())
    }
}

/// Why a body was not taken.
pub fn problem(cut: Cut) -> Problem {
    let (status, code, what) = match cut {
        Cut::Ingest(cause) => return cause.into(),
        Cut::Offset { expected } => return mismatch(expected, None),
        Cut::NoLength => (
            StatusCode::LENGTH_REQUIRED,
            "bad_request",
            "the field Content-Length is missing",
        ),
        Cut::TooLong => (
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            "the body has more bytes than the object",
        ),
        Cut::TooShort => (
            StatusCode::BAD_REQUEST,
            "bad_request",
            "the body ended before its end; what came is kept",
        ),
        Cut::Stalled => (
            StatusCode::REQUEST_TIMEOUT,
            "bad_request",
            "the body took too long; what came is kept",
        ),
        Cut::Superseded => (
            StatusCode::CONFLICT,
            "superseded",
            "a later request goes on with this upload",
        ),
        Cut::NoForm => (
            StatusCode::BAD_REQUEST,
            "bad_request",
            "the body is no form with a file",
        ),
    };
    Problem::new(status, code, what)
}

/// The client goes on where the upload is not.
pub fn mismatch(expected: u64, provided: Option<u64>) -> Problem {
    let what = format!("the upload goes on at the offset {expected}");
    let problem = Problem::new(StatusCode::CONFLICT, "wrong_offset", what)
        .with(
            "type",
            "https://iana.org/assignments/http-problem-types#mismatching-upload-offset",
        )
        .with("expected-offset", expected)
        .with_field(HeaderName::from_static("upload-offset"), expected.into());
    match provided {
        Some(provided) => problem.with("provided-offset", provided),
        None => problem,
    }
}
