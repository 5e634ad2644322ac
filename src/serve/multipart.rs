//! An answer with several parts of a file, `multipart/byteranges` (RFC 9110, 14.6).

use std::io::{self, SeekFrom};

use axum::body::Body;
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt, DuplexStream},
};
use tokio_util::io::ReaderStream;

use crate::format::geometry::ByteRange;

/// It stands between parts whose lengths are known, so that it may well occur in them too.
const BOUNDARY: &str = "sapwood-part";
/// Bytes that are read ahead of the connection.
const AHEAD_BYTES: usize = 256 * 1024;
const END: &str = "\r\n--sapwood-part--\r\n";

/// The parts of one answer.
pub struct Parts {
    parts: Vec<(String, ByteRange)>,
}

impl Parts {
    /// These ranges of an object of this length.
    pub fn new(ranges: Vec<ByteRange>, length: u64) -> Parts {
        let head = |range: &ByteRange| {
            format!(
                "\r\n--{BOUNDARY}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {range}/{length}\r\n\r\n"
            )
        };
        let parts = ranges.into_iter().map(|range| (head(&range), range));
        Parts {
            parts: parts.collect(),
        }
    }

    /// As the header wants it.
    pub fn content_type(&self) -> String {
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

    /// Reads the file while the body is sent.
    pub fn body(self, file: File) -> Body {
        let (writer, reader) = tokio::io::duplex(AHEAD_BYTES);
        // If it fails, the body ends early, and its length shows that.
        tokio::spawn(self.write(file, writer));
        Body::from_stream(ReaderStream::with_capacity(reader, AHEAD_BYTES))
    }

    async fn write(self, mut file: File, mut into: DuplexStream) -> io::Result<()> {
        for (head, range) in self.parts {
            into.write_all(head.as_bytes()).await?;
            file.seek(SeekFrom::Start(range.start)).await?;
            let part = &mut (&mut file).take(range.length());
            tokio::io::copy(part, &mut into).await?;
        }
        into.write_all(END.as_bytes()).await
    }
}
