//! A response: its head is checked before a byte of its body is used.

use std::time::SystemTime;

use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::{
    format::{digests::Digest, geometry::ByteRange, validators::Validators},
    policy::recovery::{BadResponse, Changed, Failure},
};

use super::{
    body::Body, content_range, error::NetError, location::Location, repr_digest, validators,
};

/// Which bytes the body of a response contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "lengths are in bytes")]
pub enum Content {
    /// The whole object, of this length if the server declares it.
    Whole { length: Option<u64> },
    /// These bytes of an object of this length, if the server declares it.
    Part {
        bytes: ByteRange,
        total: Option<u64>,
    },
}

/// A response that may be used.
pub struct Response {
    /// Which bytes the body contains.
    pub content: Content,
    /// The version of the object.
    pub validators: Validators,
    /// Digests of the whole object in header fields; a `Content-MD5` may be that of the part.
    pub offered: Vec<Digest>,
    /// Its `Content-Type` is a web page or XML: perhaps a login page or an error, and not the object.
    pub is_page: bool,
    /// Whether the response declares where its body ends. If not, a connection that breaks cannot be told from the end.
    pub end_declared: bool,
    /// Not yet read.
    pub body: Body,
}

/// A response without its body.
pub struct Head {
    content: Content,
    validators: Validators,
    offered: Vec<Digest>,
    is_page: bool,
    end_declared: bool,
}

/// Media types of pages and messages that servers send instead of the object.
const PAGES: [&[u8]; 4] = [
    b"text/html",
    b"application/xhtml+xml",
    b"text/xml",
    b"application/xml",
];

impl Head {
    /// Reads the head of a 200 or 206. Any other status that is no failure is a bad response.
    pub fn read(response: &reqwest::Response) -> Result<Head, Failure> {
        let headers = response.headers();
        let bad = Failure::BadResponse;
        if headers
            .get(header::CONTENT_ENCODING)
            .is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"))
        {
            return Err(bad(BadResponse::Encoded));
        }
        // Both fields make the end of the body ambiguous and allow response smuggling (RFC 9112, 6.3): refuse.
        if headers.contains_key(header::TRANSFER_ENCODING)
            && headers.contains_key(header::CONTENT_LENGTH)
        {
            return Err(bad(BadResponse::TwoLengths));
        }
        let status = response.status().as_u16();
        let content_type = headers
            .get(header::CONTENT_TYPE)
            .map_or(&[][..], HeaderValue::as_bytes)
            .to_ascii_lowercase();
        if status == 206 && content_type.starts_with(b"multipart/") {
            return Err(bad(BadResponse::Multipart));
        }
        let ranges: Vec<_> = headers.get_all(header::CONTENT_RANGE).iter().collect();
        let length = response.content_length();
        let content = match (status, ranges.as_slice()) {
            (200, []) => Content::Whole { length },
            (206, [range]) => {
                let parsed = range.to_str().ok().and_then(content_range::parse);
                let part = parsed.ok_or(bad(BadResponse::ContentRange))?;
                if length.is_some_and(|length| length != part.bytes.length()) {
                    return Err(bad(BadResponse::ContentRange));
                }
                Content::Part {
                    bytes: part.bytes,
                    total: part.total,
                }
            }
            _ => return Err(bad(BadResponse::ContentRange)),
        };
        let text = |(name, value): (&HeaderName, &HeaderValue)| {
            Some(repr_digest::in_header(name.as_str(), value.to_str().ok()?))
        };
        Ok(Head {
            content,
            validators: validators::of_response(headers),
            offered: headers.iter().filter_map(text).flatten().collect(),
            is_page: PAGES.iter().any(|page| content_type.starts_with(page)),
            // Later versions have frames (RFC 9112, 6.3).
            end_declared: length.is_some()
                || headers.contains_key(header::TRANSFER_ENCODING)
                || response.version() > reqwest::Version::HTTP_11,
        })
    }

    /// Fails if the response is of another version than the wanted one.
    pub fn check_version(
        &self,
        wanted: Option<&Validators>,
        location: &Location,
    ) -> Result<(), NetError> {
        if wanted.is_none_or(|wanted| !wanted.differ(&self.validators)) {
            return Ok(());
        }
        // A page without a strong validator is no version of the object.
        let page = self.is_page && !self.validators.are_strong();
        Err(match page {
            true => NetError::new(location, Failure::BadResponse(BadResponse::Page)),
            false => NetError::changed(location, Changed::Validator),
        })
    }

    /// The response, once it is decided that its body will be read.
    pub fn with_body(self, body: Body) -> Response {
        Response {
            content: self.content,
            validators: self.validators,
            offered: self.offered,
            is_page: self.is_page,
            end_declared: self.end_declared,
            body,
        }
    }
}

/// `Retry-After` (RFC 9110, 10.2.3) in milliseconds from now: seconds or a date; an invalid value counts as none.
pub fn retry_after_ms(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse::<u64>() {
        Ok(seconds) => Some(seconds.saturating_mul(1000)),
        Err(_) => {
            let at = httpdate::parse_http_date(text).ok()?;
            let wait = at.duration_since(SystemTime::now()).unwrap_or_default();
            Some(wait.as_millis().try_into().unwrap_or(u64::MAX))
        }
    }
}
