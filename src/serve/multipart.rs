//! Several ranges in one body, `multipart/byteranges` (RFC 9110, 14.6).

use std::io;

use axum::{body::Bytes, http::HeaderValue};
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};

use crate::format::geometry::ByteRange;

/// Separates parts whose lengths the receiver knows, so that it may occur inside them too.
const BOUNDARY: &str = "sapwood-part";
const END: &str = "\r\n--sapwood-part--\r\n";

/// The head of each part, and the bytes that follow it.
pub struct Multipart {
    parts: Vec<(String, ByteRange)>,
}

impl Multipart {
    /// These ranges of a representation of so many bytes.
    pub fn new(ranges: Vec<ByteRange>, media_type: &HeaderValue, length: u64) -> Multipart {
        let media_type = media_type.to_str().unwrap_or_default();
        let head = |range: &ByteRange| {
            format!(
                "\r\n--{BOUNDARY}\r\nContent-Type: {media_type}\r\nContent-Range: bytes {range}/{length}\r\n\r\n"
            )
        };
        let parts = ranges.into_iter().map(|range| (head(&range), range));
        Multipart {
            parts: parts.collect(),
        }
    }

    /// `Content-Type` of the response.
    pub fn media_type(&self) -> String {
        format!("multipart/byteranges; boundary={BOUNDARY}")
    }

    /// Of the body, in bytes.
    pub fn length(&self) -> u64 {
        let parts = self.parts.iter();
        let parts: u64 = parts
            .map(|(head, range)| head.len() as u64 + range.length())
            .sum();
        parts + END.len() as u64
    }

    /// Part by part: the bytes of one part are read after those before were sent.
    pub fn body(
        self,
        body_of: impl Fn(ByteRange) -> BoxStream<'static, io::Result<Bytes>> + Send + 'static,
    ) -> BoxStream<'static, io::Result<Bytes>> {
        let parts = stream::iter(self.parts).flat_map(move |(head, range)| {
            let head = stream::iter([Ok(Bytes::from(head))]);
            head.chain(body_of(range))
        });
        let end = stream::iter([Ok(Bytes::from_static(END.as_bytes()))]);
        parts.chain(end).boxed()
    }
}
