//! A response: its head is checked before a byte of its body is used.

use std::time::SystemTime;

use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::{
    format::{digests::Digest, geometry::ByteRange, validators::Validators},
    policy::recovery::{BadResponse, Changed, Failure},
};

use super::{
    body::Body, content_disposition, content_range, error::NetError, link, location::Location,
    repr_digest, validators,
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
    /// The `Content-Encoding` of the body, which is taken as it is.
    pub encoding: Option<String>,
    /// It is a web page or XML by its `Content-Type` and its first bytes: perhaps a login page or an error, and not the object.
    pub is_page: bool,
    /// Whether the response declares where its body ends. If not, a connection that breaks cannot be told from the end.
    pub end_declared: bool,
    /// HTTP/2 or later: while its body is not read, other responses of the connection may have to wait.
    pub shares_connection: bool,
    /// The name that the server suggests for a file. It may be unsafe.
    pub file_name: Option<String>,
    /// Mirrors that the server names, the best first: references, as they were sent.
    pub duplicates: Vec<String>,
    /// Not yet read.
    pub body: Body,
}

/// A response without its body.
pub struct Head {
    content: Content,
    validators: Validators,
    offered: Vec<Digest>,
    encoding: Option<String>,
    is_page: bool,
    end_declared: bool,
    shares_connection: bool,
    file_name: Option<String>,
    duplicates: Vec<String>,
}

/// A digest of the stored bytes.
const STORED_DIGEST: &str = "x-goog-hash";

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
            // A 203 went through a proxy that may transform it.
            (200 | 203, []) => Content::Whole { length },
            // With a Content-Range only if both say that it is everything.
            (200 | 203, [range]) => {
                let parsed = range.to_str().ok().and_then(content_range::parse);
                let all = parsed
                    .filter(|part| part.bytes.start == 0 && part.total == Some(part.bytes.end));
                match all.map(|part| part.bytes.end) {
                    Some(all) if length.is_none_or(|length| length == all) => {
                        Content::Whole { length: Some(all) }
                    }
                    _ => return Err(bad(BadResponse::ContentRange)),
                }
            }
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
        let encoding = encoding(headers);
        let shares_connection = response.version() > reqwest::Version::HTTP_11;
        Ok(Head {
            content,
            validators: validators::of_response(headers),
            offered: offered(headers, encoding.is_some()),
            encoding,
            is_page: PAGES.iter().any(|page| content_type.starts_with(page)),
            // Later versions have frames (RFC 9112, 6.3).
            end_declared: length.is_some()
                || headers.contains_key(header::TRANSFER_ENCODING)
                || shares_connection,
            shares_connection,
            file_name: content_disposition::file_name(headers),
            duplicates: link::duplicates(headers),
        })
    }

    /// Looks at the first bytes of a body whose type is that of a page: the type alone proves nothing.
    pub async fn look_at(&mut self, body: &mut Body) -> Result<(), NetError> {
        if self.is_page {
            self.is_page = begins_like_page(body.peek().await?);
        }
        Ok(())
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
            encoding: self.encoding,
            is_page: self.is_page,
            end_declared: self.end_declared,
            shares_connection: self.shares_connection,
            file_name: self.file_name,
            duplicates: self.duplicates,
            body,
        }
    }
}

/// The digests in header fields.
fn offered(headers: &HeaderMap, is_encoded: bool) -> Vec<Digest> {
    let digests = |(name, value): (&HeaderName, &HeaderValue)| {
        // It is a digest of what is stored, which may be the object without its encoding.
        if is_encoded && name == STORED_DIGEST {
            return None;
        }
        Some(repr_digest::in_header(name.as_str(), value.to_str().ok()?))
    };
    headers.iter().filter_map(digests).flatten().collect()
}

/// The `Content-Encoding`, if there is one.
fn encoding(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_ENCODING)?;
    let text = value.to_str().unwrap_or("unknown").trim();
    (!text.is_empty() && !text.eq_ignore_ascii_case("identity")).then(|| text.to_owned())
}

/// Whether these are the first bytes of markup. A few blanks leave it open.
fn begins_like_page(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let first = bytes.trim_ascii_start().first();
    first.is_none_or(|first| matches!(first, b'<' | 0xEF))
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
