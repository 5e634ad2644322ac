//! The response to a request for a representation: preconditions, ranges and HEAD (RFC 9110, 13 and 14), for any source of bytes.

use std::{
    io,
    time::{Duration, SystemTime},
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts},
    response::Response,
};
use futures_util::stream::BoxStream;

use crate::format::geometry::ByteRange;

use super::{
    multipart::Multipart,
    range::{self, Wanted},
};

/// The metadata of a representation, known before any of its bytes are read.
#[derive(Clone, Debug)]
pub struct Metadata {
    /// In bytes.
    pub length: u64,
    /// The entity tag, with its quotation marks. A strong one changes when the bytes do; a weak one (`W/`) matches no range.
    pub etag: String,
    /// Sent in whole seconds, as HTTP requires.
    pub last_modified: Option<SystemTime>,
    /// `Content-Type`.
    pub media_type: HeaderValue,
}

/// A representation that can be sent, whole or in ranges.
pub trait Representation: Send + 'static {
    /// Its metadata, the same at every call.
    fn metadata(&self) -> &Metadata;

    /// Exactly these bytes, in order. An error closes the connection, so that the client detects the missing bytes.
    fn body(&self, bytes: ByteRange) -> BoxStream<'static, io::Result<Bytes>>;
}

/// The response to a GET or HEAD.
pub fn respond(request: &Parts, representation: impl Representation) -> Response {
    let metadata = representation.metadata();
    let fields = Fields::new(&request.headers, metadata);
    let is_head = request.method == Method::HEAD;
    let mut response = match fields.precondition() {
        Precondition::Failed => empty(StatusCode::PRECONDITION_FAILED),
        Precondition::NotModified => empty(StatusCode::NOT_MODIFIED),
        // `Range` is defined for GET only.
        Precondition::Passed if is_head => whole(metadata, Body::empty()),
        Precondition::Passed => match fields.range() {
            Wanted::Whole => {
                let body = representation.body(ByteRange::new(0, metadata.length));
                whole(metadata, Body::from_stream(body))
            }
            Wanted::Part(bytes) => {
                let body = Body::from_stream(representation.body(bytes));
                part(metadata, bytes, body)
            }
            Wanted::Parts(ranges) => return parts(ranges, representation),
            Wanted::Unsatisfiable => unsatisfiable(metadata.length),
        },
    };
    set_validators(&mut response, metadata);
    response
}

fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

fn whole(metadata: &Metadata, body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, metadata.media_type.clone());
    headers.insert(header::CONTENT_LENGTH, metadata.length.into());
    response
}

fn part(metadata: &Metadata, bytes: ByteRange, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, metadata.media_type.clone());
    headers.insert(header::CONTENT_LENGTH, bytes.length().into());
    let range = format!("bytes {bytes}/{}", metadata.length);
    set(headers, header::CONTENT_RANGE, &range);
    response
}

fn parts(ranges: Vec<ByteRange>, representation: impl Representation) -> Response {
    let metadata = representation.metadata().clone();
    let multipart = Multipart::new(ranges, &metadata.media_type, metadata.length);
    let (media_type, length) = (multipart.media_type(), multipart.length());
    let mut response = Response::new(Body::from_stream(
        multipart.body(move |range| representation.body(range)),
    ));
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    let headers = response.headers_mut();
    set(headers, header::CONTENT_TYPE, &media_type);
    headers.insert(header::CONTENT_LENGTH, length.into());
    set_validators(&mut response, &metadata);
    response
}

fn unsatisfiable(length: u64) -> Response {
    let mut response = empty(StatusCode::RANGE_NOT_SATISFIABLE);
    let range = format!("bytes */{length}");
    set(response.headers_mut(), header::CONTENT_RANGE, &range);
    response
}

fn set_validators(response: &mut Response, metadata: &Metadata) {
    let headers = response.headers_mut();
    set(headers, header::ETAG, &metadata.etag);
    if let Some(time) = metadata.last_modified {
        set(
            headers,
            header::LAST_MODIFIED,
            &httpdate::fmt_http_date(time),
        );
    }
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
}

/// Sets a field, unless HTTP does not allow its value; ours are printable ASCII.
fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// The result of the preconditions of a request (RFC 9110, 13.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Precondition {
    Passed,
    NotModified,
    Failed,
}

/// The conditional fields and `Range` of a request, evaluated against a representation.
struct Fields<'a> {
    headers: &'a HeaderMap,
    metadata: &'a Metadata,
}

impl<'a> Fields<'a> {
    fn new(headers: &'a HeaderMap, metadata: &'a Metadata) -> Fields<'a> {
        Fields { headers, metadata }
    }

    /// Evaluated in the order of RFC 9110, 13.2.2: a date counts only where there is no condition on the entity tag.
    fn precondition(&self) -> Precondition {
        let matched = self.has_tag(header::IF_MATCH, |tag| self.is_strongly(tag));
        let unmodified = || self.is_unmodified_since(header::IF_UNMODIFIED_SINCE);
        if !matched.or_else(unmodified).unwrap_or(true) {
            return Precondition::Failed;
        }
        // The weak comparison (8.8.3.2): a cache may have made the tag weak.
        let opaque = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag).to_owned();
        let weakly_equal = |tag: &str| opaque(tag) == opaque(&self.metadata.etag);
        let matched = self.has_tag(header::IF_NONE_MATCH, weakly_equal);
        let unmodified = || self.is_unmodified_since(header::IF_MODIFIED_SINCE);
        match matched.or_else(unmodified).unwrap_or(false) {
            true => Precondition::NotModified,
            false => Precondition::Passed,
        }
    }

    /// `Range`, if there is no `If-Range`, or if it has this entity tag. A date never matches: a file can change twice in a
    /// second, so the date is no strong validator (RFC 9110, 8.8.2.2).
    fn range(&self) -> Wanted {
        let is_same =
            |validator: &HeaderValue| validator.to_str().is_ok_and(|tag| self.is_strongly(tag));
        match self.headers.get(header::IF_RANGE).is_none_or(is_same) {
            true => range::wanted(self.text(header::RANGE), self.metadata.length),
            false => Wanted::Whole,
        }
    }

    /// The strong comparison (RFC 9110, 8.8.3.2): no weak tag equals any.
    fn is_strongly(&self, tag: &str) -> bool {
        tag == self.metadata.etag && !tag.starts_with("W/")
    }

    /// Whether a list of entity tags has a match or is `*`; `None`: there is no list.
    fn has_tag(&self, name: HeaderName, matches: impl Fn(&str) -> bool) -> Option<bool> {
        let mut lines = self.headers.get_all(name).iter().peekable();
        lines.peek()?;
        let mut tags = lines.filter_map(|line| line.to_str().ok()).flat_map(tags);
        Some(tags.any(|tag| tag == "*" || matches(tag)))
    }

    /// `None`: the field is missing or invalid, or the representation has no date.
    fn is_unmodified_since(&self, name: HeaderName) -> Option<bool> {
        let date = httpdate::parse_http_date(self.text(name)?).ok()?;
        let modified = self.metadata.last_modified?;
        // The date has whole seconds.
        Some(modified < date + Duration::from_secs(1))
    }

    fn text(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// The entity tags of a list. One may have commas inside its quotation marks.
fn tags(list: &str) -> impl Iterator<Item = &str> {
    let mut is_inside = false;
    let is_separator = move |character| {
        is_inside ^= character == '"';
        character == ',' && !is_inside
    };
    list.split(is_separator).map(str::trim)
}

#[cfg(test)]
mod tests {
    use axum::http::Request;
    use futures_util::{StreamExt, stream};

    use super::*;

    const CONTENT: &[u8] = b"0123456789";
    const ETAG: &str = "\"v1\"";
    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const AFTER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    struct Digits(Metadata);

    impl Digits {
        fn new() -> Digits {
            let date = SystemTime::UNIX_EPOCH + Duration::from_millis(784_111_777_500);
            Digits(Metadata {
                length: CONTENT.len() as u64,
                etag: ETAG.to_owned(),
                last_modified: Some(date),
                media_type: HeaderValue::from_static("text/plain"),
            })
        }
    }

    impl Representation for Digits {
        fn metadata(&self) -> &Metadata {
            &self.0
        }

        fn body(&self, bytes: ByteRange) -> BoxStream<'static, io::Result<Bytes>> {
            let bytes = &CONTENT[bytes.start as usize..bytes.end as usize];
            // Byte by byte, so that nothing depends on how a body is cut.
            stream::iter(bytes.chunks(1).map(|byte| Ok(Bytes::from_static(byte)))).boxed()
        }
    }

    async fn response_to(method: Method, fields: &[(&str, &str)]) -> (Response<()>, String) {
        let mut request = Request::builder().method(method);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (request, ()) = request.body(()).unwrap().into_parts();
        let (head, body) = respond(&request, Digits::new()).into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let body = String::from_utf8(body.to_vec()).unwrap();
        (Response::from_parts(head, ()), body)
    }

    fn field<'a>(response: &'a Response<()>, name: &str) -> &'a str {
        let value = response.headers().get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }

    #[tokio::test]
    async fn ranges() {
        for (range, status, content_range, expected) in [
            ("", 200, "", "0123456789"),
            ("bytes=0-0", 206, "bytes 0-0/10", "0"),
            ("bytes=3-5", 206, "bytes 3-5/10", "345"),
            ("bytes=7-", 206, "bytes 7-9/10", "789"),
            ("bytes=7-99", 206, "bytes 7-9/10", "789"),
            ("bytes=-2", 206, "bytes 8-9/10", "89"),
            ("bytes=-99", 206, "bytes 0-9/10", "0123456789"),
            ("bytes=0-9", 206, "bytes 0-9/10", "0123456789"),
            ("bytes=10-", 416, "bytes */10", ""),
            ("bytes=-0", 416, "bytes */10", ""),
            ("bytes=5-3", 200, "", "0123456789"),
            ("lines=1-2", 200, "", "0123456789"),
        ] {
            let fields = [("range", range)];
            let (response, body) =
                response_to(Method::GET, &fields[..usize::from(!range.is_empty())]).await;
            assert_eq!(response.status(), status, "{range}");
            assert_eq!(field(&response, "content-range"), content_range, "{range}");
            assert_eq!(body, expected, "{range}");
            assert_eq!(field(&response, "etag"), ETAG);
            assert_eq!(field(&response, "last-modified"), DATE);
            assert_eq!(field(&response, "accept-ranges"), "bytes");
            if status != 416 {
                assert_eq!(field(&response, "content-type"), "text/plain", "{range}");
                let length = expected.len().to_string();
                assert_eq!(field(&response, "content-length"), length, "{range}");
            }
        }
    }

    #[tokio::test]
    async fn several_ranges_are_parts() {
        let (response, body) = response_to(Method::GET, &[("range", "bytes=0-1,4-4,8-")]).await;
        assert_eq!(response.status(), 206);
        assert_eq!(field(&response, "content-range"), "");
        assert_eq!(field(&response, "etag"), ETAG);
        assert_eq!(field(&response, "content-length"), body.len().to_string());
        let media_type = field(&response, "content-type");
        let boundary = media_type
            .strip_prefix("multipart/byteranges; boundary=")
            .unwrap();
        let part = |range: &str, content: &str| {
            format!(
                "\r\n--{boundary}\r\nContent-Type: text/plain\r\nContent-Range: bytes {range}/10\r\n\r\n{content}"
            )
        };
        let expected = [part("0-1", "01"), part("4-4", "4"), part("8-9", "89")].concat();
        assert_eq!(body, format!("{expected}\r\n--{boundary}--\r\n"));
    }

    #[tokio::test]
    async fn a_head_has_the_fields_and_no_body() {
        for fields in [
            &[][..],
            &[("range", "bytes=3-5")],
            &[("range", "bytes=90-")],
        ] {
            let (response, body) = response_to(Method::HEAD, fields).await;
            assert_eq!(response.status(), 200, "{fields:?}");
            assert_eq!(field(&response, "content-length"), "10", "{fields:?}");
            assert_eq!(body, "");
        }
    }

    #[tokio::test]
    async fn conditions() {
        #[rustfmt::skip] // One case a line.
        let cases: &[(&[(&str, &str)], u16)] = &[
            (&[("if-match", ETAG)], 200),
            (&[("if-match", "*")], 200),
            (&[("if-match", "\"v0\", \"v1\"")], 200),
            (&[("if-match", "\"v0\""), ("if-match", ETAG)], 200),
            (&[("if-match", "\"v0\"")], 412),
            (&[("if-match", "W/\"v1\"")], 412),
            (&[("if-match", "")], 412),
            (&[("if-unmodified-since", DATE)], 200),
            (&[("if-unmodified-since", AFTER)], 200),
            (&[("if-unmodified-since", BEFORE)], 412),
            (&[("if-unmodified-since", "yesterday")], 200),
            (&[("if-match", ETAG), ("if-unmodified-since", BEFORE)], 200),
            (&[("if-none-match", ETAG)], 304),
            (&[("if-none-match", "*")], 304),
            (&[("if-none-match", "W/\"v1\"")], 304),
            (&[("if-none-match", "\"v0\", \"v1\"")], 304),
            (&[("if-none-match", "\"v0\"")], 200),
            (&[("if-none-match", "\"v0,*,v2\"")], 200),
            (&[("if-none-match", "\"v0,*\", \"v1\"")], 304),
            (&[("if-modified-since", DATE)], 304),
            (&[("if-modified-since", AFTER)], 304),
            (&[("if-modified-since", BEFORE)], 200),
            (&[("if-modified-since", "yesterday")], 200),
            (&[("if-none-match", "\"v0\""), ("if-modified-since", DATE)], 200),
            (&[("if-match", "\"v0\""), ("if-none-match", ETAG)], 412),
            (&[("if-match", "\"v0\""), ("range", "bytes=90-")], 412),
            (&[("if-none-match", ETAG), ("range", "bytes=0-0")], 304),
            (&[("range", "bytes=0-0"), ("if-range", ETAG)], 206),
            (&[("range", "bytes=0-0"), ("if-range", DATE)], 200),
            (&[("range", "bytes=0-0"), ("if-range", "\"v\u{e9}\"")], 200),
            (&[("range", "bytes=0-0"), ("if-range", "\"v0\"")], 200),
            (&[("range", "bytes=0-0"), ("if-range", "W/\"v1\"")], 200),
            (&[("range", "bytes=90-"), ("if-range", "\"v0\"")], 200),
            (&[("if-range", "\"v0\"")], 200),
        ];
        for (fields, status) in cases {
            for method in [Method::GET, Method::HEAD] {
                let (response, body) = response_to(method.clone(), fields).await;
                // A HEAD has no ranges.
                let status = if method == Method::HEAD && *status == 206 {
                    200
                } else {
                    *status
                };
                assert_eq!(response.status(), status, "{method} {fields:?}");
                assert_eq!(field(&response, "etag"), ETAG, "{method} {fields:?}");
                if status >= 300 {
                    assert_eq!(body, "", "{method} {fields:?}");
                }
            }
        }
    }
}
