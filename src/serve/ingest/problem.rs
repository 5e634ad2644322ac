//! What a client is told of a request that was not done (RFC 9457).

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};
use serde_json::{Value, json};

use crate::{
    engine::{
        ingest::{IngestError, IngestLimits},
        storage::StorageError,
    },
    policy::upload::{Disproved, Refusal},
};

use super::documents::BadMember;

/// A problem document.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    /// Members that a program can act on.
    more: Box<Value>,
    /// Seconds after which the same request may be made again.
    retry_after_s: Option<u64>,
    fields: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Problem {
        Problem {
            status,
            code,
            detail: detail.into(),
            more: Box::new(Value::Null),
            retry_after_s: None,
            fields: Vec::new(),
        }
    }

    /// See upload.md.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// For people.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// With other words for people.
    pub fn with_detail(self, detail: String) -> Problem {
        Problem { detail, ..self }
    }

    /// With another status.
    pub fn with_status(self, status: StatusCode) -> Problem {
        Problem { status, ..self }
    }

    /// With one more member.
    pub fn with(mut self, member: &str, value: impl Into<Value>) -> Problem {
        self.more[member] = value.into();
        self
    }

    /// With one more field of the response.
    pub fn with_field(mut self, name: HeaderName, value: HeaderValue) -> Problem {
        self.fields.push((name, value));
        self
    }

    /// The request is not one of the API.
    pub fn bad_request(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "bad_request", detail)
    }

    /// Too much is done at this moment.
    pub fn busy() -> Problem {
        let detail = "the server has as many requests as it can do at a time";
        Problem {
            retry_after_s: Some(1),
            ..Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail)
        }
    }

    /// Adds what an owner may have, where that is why.
    pub fn with_limits(mut self, limits: IngestLimits) -> Problem {
        let limit = match self.code {
            "quota" => limits.owner.bytes,
            "too_many_sessions" => limits.owner.sessions,
            _ => return self,
        };
        self.more["limit"] = limit.into();
        self
    }

    pub fn response(self) -> Response {
        let mut document = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or_default(),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "code": self.code,
        });
        if let Value::Object(more) = *self.more {
            for (name, value) in more {
                document[name] = value;
            }
        }
        let mut response = Response::new(Body::from(document.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        let media_type = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, media_type);
        headers.extend(self.fields);
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            headers.insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

/// What a client is told: the paths of the server are not for it.
fn told(cause: &IngestError) -> String {
    match cause {
        IngestError::Store(_) => "the store of sessions failed".to_owned(),
        IngestError::Storage(StorageError::Failed(_)) => "the storage failed".to_owned(),
        cause => cause.to_string(),
    }
}

impl From<IngestError> for Problem {
    fn from(cause: IngestError) -> Problem {
        let (code, detail) = (cause.code(), told(&cause));
        let (status, more, retry_after_s) = match &cause {
            IngestError::NoSession => (StatusCode::NOT_FOUND, Value::Null, None),
            IngestError::BadName(_) => (StatusCode::UNPROCESSABLE_ENTITY, Value::Null, None),
            IngestError::NameExists(_) | IngestError::NotGrowing | IngestError::NotReadable => {
                (StatusCode::CONFLICT, Value::Null, None)
            }
            IngestError::TooManyParts { max, .. } => {
                (StatusCode::BAD_REQUEST, json!({ "max": max }), None)
            }
            IngestError::TooManySessions(usage) => {
                let more = json!({ "used": usage.sessions });
                (StatusCode::TOO_MANY_REQUESTS, more, None)
            }
            IngestError::Quota { usage, wanted } => {
                let more = json!({ "used": usage.bytes, "wanted": wanted });
                (StatusCode::PAYLOAD_TOO_LARGE, more, None)
            }
            IngestError::Contended => (StatusCode::SERVICE_UNAVAILABLE, Value::Null, Some(1)),
            IngestError::Refused(refusal) => of_refusal(refusal),
            IngestError::Disproved(disproved) => of_disproved(disproved),
            IngestError::Storage(cause) => of_storage(cause),
            IngestError::Store(cause) => {
                tracing::warn!("{cause}");
                (StatusCode::SERVICE_UNAVAILABLE, Value::Null, Some(1))
            }
        };
        Problem {
            status,
            code,
            detail,
            more: Box::new(more),
            retry_after_s,
            fields: Vec::new(),
        }
    }
}

impl From<BadMember> for Problem {
    fn from(cause: BadMember) -> Problem {
        Problem::bad_request(cause.to_string())
    }
}

type Of = (StatusCode, Value, Option<u64>);

fn of_refusal(refusal: &Refusal) -> Of {
    let (status, more) = match refusal {
        Refusal::SessionDiffers | Refusal::SessionDone => (StatusCode::CONFLICT, Value::Null),
        Refusal::Finalizing => return (StatusCode::CONFLICT, Value::Null, Some(1)),
        Refusal::SessionEnded(_) => (StatusCode::GONE, Value::Null),
        Refusal::BadPart { index, length } => {
            let more = json!({ "index": index, "length": length });
            (StatusCode::UNPROCESSABLE_ENTITY, more)
        }
        Refusal::PartFinished {
            index,
            finished,
            offered,
        } => {
            let more = json!({
                "index": index,
                "finished": finished.to_string(),
                "offered": offered.to_string(),
            });
            (StatusCode::CONFLICT, more)
        }
        Refusal::PartsMissing { missing } => (StatusCode::CONFLICT, json!({ "missing": missing })),
        Refusal::LengthDiffers { expected, found } => {
            let more = json!({ "expected": expected, "found": found });
            (StatusCode::UNPROCESSABLE_ENTITY, more)
        }
        Refusal::BadSize(_) => (StatusCode::UNPROCESSABLE_ENTITY, Value::Null),
    };
    (status, more, None)
}

fn of_disproved(disproved: &Disproved) -> Of {
    let (status, more) = match disproved {
        Disproved::NameExists(_) => (StatusCode::CONFLICT, Value::Null),
        Disproved::Length { expected, found } => {
            let more = json!({ "expected": expected, "found": found });
            (StatusCode::UNPROCESSABLE_ENTITY, more)
        }
        Disproved::Root {
            expected,
            found,
            wrong_parts,
        } => {
            let more = json!({
                "expected": expected.to_string(),
                "found": found.to_string(),
                "wrong_parts": wrong_parts,
            });
            (StatusCode::UNPROCESSABLE_ENTITY, more)
        }
        Disproved::Sha256 { expected, found } => {
            let more = json!({ "expected": expected.to_string(), "found": found.to_string() });
            (StatusCode::UNPROCESSABLE_ENTITY, more)
        }
        Disproved::Parts(missing) => (StatusCode::CONFLICT, json!({ "missing": missing })),
    };
    (status, more, None)
}

fn of_storage(cause: &StorageError) -> Of {
    let (status, more) = match cause {
        StorageError::Full => (StatusCode::INSUFFICIENT_STORAGE, Value::Null),
        StorageError::PartNotStored { index } => (StatusCode::CONFLICT, json!({ "index": index })),
        StorageError::PartInFlight { index } => {
            return (StatusCode::CONFLICT, json!({ "index": index }), Some(1));
        }
        StorageError::PartDiffers {
            index,
            expected,
            found,
        } => {
            let more = json!({
                "index": index,
                "expected": expected.to_string(),
                "found": found.to_string(),
            });
            (StatusCode::UNPROCESSABLE_ENTITY, more)
        }
        StorageError::PartLength { index, expected } => {
            let more = json!({ "index": index, "expected": expected });
            (StatusCode::PAYLOAD_TOO_LARGE, more)
        }
        StorageError::StagingGone => (StatusCode::GONE, Value::Null),
        // The next request finds what the other server did.
        StorageError::Superseded => (StatusCode::SERVICE_UNAVAILABLE, Value::Null),
        StorageError::NotThroughServer => (StatusCode::CONFLICT, Value::Null),
        StorageError::Busy { after_s } => {
            return (StatusCode::SERVICE_UNAVAILABLE, Value::Null, Some(*after_s));
        }
        StorageError::Failed(cause) => {
            tracing::warn!("the storage of uploads failed: {cause}");
            return (StatusCode::SERVICE_UNAVAILABLE, Value::Null, Some(1));
        }
    };
    (status, more, None)
}
