//! What clients of resumable uploads say in fields: tus 1.0.0, and the IETF draft in the versions of interop 5 and 6.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::problem::Problem;

pub const TUS: &str = "1.0.0";
pub const TUS_EXTENSIONS: &str =
    "creation,creation-with-upload,creation-defer-length,termination,expiration";
pub const TUS_RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");
pub const INTEROP_VERSION: HeaderName = HeaderName::from_static("upload-draft-interop-version");
pub const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");
pub const UPLOAD_LENGTH: HeaderName = HeaderName::from_static("upload-length");
pub const UPLOAD_COMPLETE: HeaderName = HeaderName::from_static("upload-complete");

/// What the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    Tus,
    /// The draft, with this interop version.
    Draft(u8),
}

impl Dialect {
    pub fn of(headers: &HeaderMap) -> Result<Dialect, Problem> {
        let other = |status, what: &str| Err(Problem::new(status, "bad_request", what));
        if let Some(version) = headers.get(TUS_RESUMABLE) {
            return match version == TUS {
                true => Ok(Dialect::Tus),
                false => other(
                    StatusCode::PRECONDITION_FAILED,
                    "this server speaks tus 1.0.0",
                ),
            };
        }
        match headers.get(INTEROP_VERSION).map(HeaderValue::as_bytes) {
            Some(b"5") => Ok(Dialect::Draft(5)),
            Some(b"6") => Ok(Dialect::Draft(6)),
            _ => {
                let what = "neither Tus-Resumable: 1.0.0 nor Upload-Draft-Interop-Version: 5 or 6";
                other(StatusCode::BAD_REQUEST, what)
            }
        }
    }

    pub fn field(self) -> (HeaderName, HeaderValue) {
        match self {
            Dialect::Tus => (TUS_RESUMABLE, HeaderValue::from_static(TUS)),
            Dialect::Draft(version) => (INTEROP_VERSION, u16::from(version).into()),
        }
    }

    /// Refuses a body that says it is something else.
    pub fn check_media_type(self, headers: &HeaderMap) -> Result<(), Problem> {
        let expected = match self {
            Dialect::Tus => "application/offset+octet-stream",
            Dialect::Draft(6) => "application/partial-upload",
            Dialect::Draft(_) => return Ok(()),
        };
        let found = headers.get(header::CONTENT_TYPE);
        match found.is_some_and(|found| found.as_bytes().eq_ignore_ascii_case(expected.as_bytes()))
        {
            true => Ok(()),
            false => {
                let what = format!("the body must be {expected}");
                Err(Problem::new(
                    StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    "bad_request",
                    what,
                ))
            }
        }
    }
}

/// A number in a field.
pub fn number(headers: &HeaderMap, name: &HeaderName) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    let digits = value.to_str().ok();
    let digits = digits.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let number = digits.and_then(|text| text.parse().ok());
    let bad = || Problem::bad_request(format!("{name} is not a number"));
    number.ok_or_else(bad).map(Some)
}

/// Whether the client says that the upload ends with this request.
pub fn is_complete(headers: &HeaderMap) -> Result<Option<bool>, Problem> {
    match headers.get(UPLOAD_COMPLETE).map(HeaderValue::as_bytes) {
        None => Ok(None),
        Some(b"?1") => Ok(Some(true)),
        Some(b"?0") => Ok(Some(false)),
        Some(_) => Err(Problem::bad_request("Upload-Complete is neither ?0 nor ?1")),
    }
}

/// A value of Upload-Metadata.
pub fn metadata(headers: &HeaderMap, key: &str) -> Option<String> {
    let pairs = headers.get("upload-metadata")?.to_str().ok()?;
    let value = pairs.split(',').find_map(|pair| {
        let (found, value) = pair.trim().split_once(' ').unwrap_or((pair.trim(), ""));
        (found == key).then_some(value)
    })?;
    String::from_utf8(STANDARD.decode(value.trim()).ok()?).ok()
}
