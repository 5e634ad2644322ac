//! Why a request of an upload was not done.

use crate::{
    engine::error::Error,
    format::ingest::{Problem, RefusedUpload},
    net::{client::Reply, location::Location, s3::refusal},
};

/// The server refused a request.
#[derive(Debug)]
pub struct Refusal {
    pub status: u16,
    pub problem: Box<Problem>,
    pub place: String,
}

/// Why a request failed.
#[derive(Debug)]
pub enum Failed {
    Refused(Refusal),
    Error(Error),
}

impl Failed {
    /// The code of the refusal; empty if there is none.
    pub fn code(&self) -> &str {
        match self {
            Failed::Refused(refusal) => &refusal.problem.code,
            Failed::Error(_) => "",
        }
    }
}

impl Refusal {
    /// A refusal of a server, or of a storage that speaks S3.
    pub fn new(reply: &Reply) -> Refusal {
        let mut problem = Problem::read(&reply.bytes);
        if problem.code.is_empty() {
            let told = refusal::Refusal::parse(&String::from_utf8_lossy(&reply.bytes));
            problem.code = told.code.unwrap_or_default();
            problem.detail = told.message.unwrap_or_default();
        }
        Refusal {
            status: reply.status,
            problem: Box::new(problem),
            place: reply.location.to_string(),
        }
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed::Error(error)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        Error::Upload {
            cause: Box::new(refusal.problem.refusal(refusal.status)),
            place: refusal.place,
        }
    }
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Error {
        match failed {
            Failed::Refused(refusal) => refusal.into(),
            Failed::Error(error) => error,
        }
    }
}

impl Failed {
    /// A target that no request can be made of.
    pub fn no_target(place: &Location) -> Failed {
        let what = "a target has no URL or fields that are allowed".to_owned();
        Failed::Error(Error::Upload {
            place: place.to_string(),
            cause: Box::new(RefusedUpload::Document(what)),
        })
    }
}
