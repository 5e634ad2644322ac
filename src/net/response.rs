//! What the head of an answer says, checked before a byte of its body is used.

use reqwest::{
    Response,
    header::{self, HeaderName, HeaderValue},
};

use crate::{
    format::{digests::Digest, geometry::ByteRange},
    policy::recovery::{BadAnswer, Failure},
};

use super::{body::Body, content_range, repr_digest, validators::Validators};

/// What the body of an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "lengths are in bytes")]
pub enum Content {
    /// The whole object, of this length if the server says so.
    Whole { length: Option<u64> },
    /// These bytes of an object of this length, if the server says so.
    Part {
        bytes: ByteRange,
        total: Option<u64>,
    },
}

/// An answer that may be used.
pub struct Answer {
    /// What the body is.
    pub content: Content,
    /// Which version it is.
    pub validators: Validators,
    /// Digests of the whole object that came in headers; a `Content-MD5` may be that of the part.
    pub offered: Vec<Digest>,
    /// The server says that it is a web page or XML: perhaps a login page or an error, and not what was asked for.
    pub is_page: bool,
    /// Not yet read.
    pub body: Body,
}

/// An answer without its body.
pub struct Head {
    content: Content,
    pub(super) validators: Validators,
    offered: Vec<Digest>,
    pub(super) is_page: bool,
}

/// Types of pages and messages that servers send instead of what they were asked for.
const PAGES: [&[u8]; 4] = [
    b"text/html",
    b"application/xhtml+xml",
    b"text/xml",
    b"application/xml",
];

impl Head {
    /// Reads the head of a 200 or 206; anything else breaks the rules.
    pub fn read(response: &Response) -> Result<Head, Failure> {
        let headers = response.headers();
        let bad = Failure::BadAnswer;
        if headers
            .get(header::CONTENT_ENCODING)
            .is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"))
        {
            return Err(bad(BadAnswer::Encoded));
        }
        // Where the body ends is then a matter of taste, and somebody else's answer may begin where tastes differ.
        if headers.contains_key(header::TRANSFER_ENCODING)
            && headers.contains_key(header::CONTENT_LENGTH)
        {
            return Err(bad(BadAnswer::TwoLengths));
        }
        let status = response.status().as_u16();
        let content_type = headers
            .get(header::CONTENT_TYPE)
            .map_or(&[][..], HeaderValue::as_bytes)
            .to_ascii_lowercase();
        if status == 206 && content_type.starts_with(b"multipart/") {
            return Err(bad(BadAnswer::Multipart));
        }
        let ranges: Vec<_> = headers.get_all(header::CONTENT_RANGE).iter().collect();
        let length = response.content_length();
        let content = match (status, ranges.as_slice()) {
            (200, []) => Content::Whole { length },
            (206, [range]) => {
                let parsed = range.to_str().ok().and_then(content_range::parse);
                let part = parsed.ok_or(bad(BadAnswer::ContentRange))?;
                if length.is_some_and(|length| length != part.bytes.length()) {
                    return Err(bad(BadAnswer::ContentRange));
                }
                Content::Part {
                    bytes: part.bytes,
                    total: part.total,
                }
            }
            _ => return Err(bad(BadAnswer::ContentRange)),
        };
        let text = |(name, value): (&HeaderName, &HeaderValue)| {
            Some(repr_digest::in_header(name.as_str(), value.to_str().ok()?))
        };
        Ok(Head {
            content,
            validators: Validators::of(headers),
            offered: headers.iter().filter_map(text).flatten().collect(),
            is_page: PAGES.iter().any(|page| content_type.starts_with(page)),
        })
    }

    /// The answer, when it is decided that its body will be read.
    pub fn with_body(self, body: Body) -> Answer {
        Answer {
            content: self.content,
            validators: self.validators,
            offered: self.offered,
            is_page: self.is_page,
            body,
        }
    }
}
