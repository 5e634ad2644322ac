//! A body of several parts, `multipart/byteranges` (RFC 9110, 14.6), parsed as it arrives. The length of each part is in its own
//! `Content-Range`, so its bytes are counted and never searched for a boundary.

use bytes::{Buf, Bytes, BytesMut};

use crate::policy::recovery::BadResponse;

use super::content_range::{self, ContentRange};

/// The lines between two parts are never longer.
const BETWEEN_BYTES_MAX: usize = 8 * 1024;

/// What is next in the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// A part begins; its bytes follow.
    Part(ContentRange),
    /// Bytes of the part that began last.
    Bytes(Bytes),
    /// The last part has ended.
    End,
}

/// See the module.
#[derive(Debug)]
pub struct Multipart {
    /// `--` and the boundary.
    delimiter: Vec<u8>,
    arrived: BytesMut,
    /// Bytes of the current part that have not arrived.
    left: u64,
    ended: bool,
}

/// The boundary that a `Content-Type` names, if it is that of several ranges.
pub fn boundary(content_type: &str) -> Option<String> {
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/byteranges") {
        return None;
    }
    let value = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let is_boundary = name.trim().eq_ignore_ascii_case("boundary");
        is_boundary.then(|| value.trim().trim_matches('"').to_owned())
    })?;
    // RFC 2046, 5.1.1: 1 to 70 characters.
    (1..=70).contains(&value.len()).then_some(value)
}

impl Multipart {
    /// Before the first byte of the body.
    pub fn new(boundary: &str) -> Multipart {
        Multipart {
            delimiter: [b"--", boundary.as_bytes()].concat(),
            arrived: BytesMut::new(),
            left: 0,
            ended: false,
        }
    }

    /// Takes bytes of the body.
    pub fn push(&mut self, bytes: &[u8]) {
        self.arrived.extend_from_slice(bytes);
    }

    /// What is next in the bytes so far; `None`: it needs more bytes.
    pub fn take(&mut self) -> Result<Option<Next>, BadResponse> {
        if self.ended {
            return Ok(Some(Next::End));
        }
        if self.left > 0 {
            if self.arrived.is_empty() {
                return Ok(None);
            }
            let now = (self.arrived.len() as u64).min(self.left);
            self.left -= now;
            return Ok(Some(Next::Bytes(
                self.arrived.split_to(now as usize).freeze(),
            )));
        }
        self.between()
    }

    /// Parses the lines before a part: the line break after the previous part, the delimiter, header fields, an empty line.
    fn between(&mut self) -> Result<Option<Next>, BadResponse> {
        let bytes = &self.arrived[..];
        let long = bytes.len() > BETWEEN_BYTES_MAX;
        let start = match bytes {
            [b'\r', b'\n', ..] => 2,
            _ => 0,
        };
        let rest = &bytes[start..];
        let seen = rest.len().min(self.delimiter.len());
        if rest[..seen] != self.delimiter[..seen] && !b"\r\n".starts_with(bytes) {
            return Err(BadResponse::Multipart);
        }
        let Some(after) = rest.get(self.delimiter.len()..) else {
            return Ok(None);
        };
        if after.starts_with(b"--") {
            self.ended = true;
            return Ok(Some(Next::End));
        }
        let Some(end) = find(after, b"\r\n\r\n") else {
            return if long {
                Err(BadResponse::Multipart)
            } else {
                Ok(None)
            };
        };
        let part = part_of(&after[..end]).ok_or(BadResponse::ContentRange)?;
        let over = start + self.delimiter.len() + end + 4;
        self.arrived.advance(over);
        self.left = part.bytes.length();
        Ok(Some(Next::Part(part)))
    }
}

/// The range that the header fields of a part declare, if they declare one.
fn part_of(lines: &[u8]) -> Option<ContentRange> {
    let lines = std::str::from_utf8(lines).ok()?;
    let mut ranges = lines.split("\r\n").filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_range = name.trim().eq_ignore_ascii_case("content-range");
        is_range.then(|| content_range::parse(value))
    });
    match (ranges.next(), ranges.next()) {
        (Some(range), None) => range,
        _ => None,
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::geometry::ByteRange;

    const BODY: &[u8] =
        b"\r\n--xyz\r\nContent-Type: text/plain\r\nContent-Range: bytes 1-3/10\r\n\r\nabc\
        \r\n--xyz\r\ncontent-range: bytes 7-8/10\r\nContent-Type: a/b\r\n\r\n--\r\n--xyz--\r\n";

    /// All parts with their bytes, the body given in steps.
    fn read(body: &[u8], step: usize) -> Result<Vec<(u64, Vec<u8>)>, BadResponse> {
        let mut multipart = Multipart::new("xyz");
        let mut parts: Vec<(u64, Vec<u8>)> = Vec::new();
        for bytes in body.chunks(step) {
            multipart.push(bytes);
            while let Some(next) = multipart.take()? {
                match next {
                    Next::Part(part) => parts.push((part.bytes.start, Vec::new())),
                    Next::Bytes(bytes) => parts.last_mut().unwrap().1.extend_from_slice(&bytes),
                    Next::End => return Ok(parts),
                }
            }
        }
        Ok(parts)
    }

    #[test]
    fn parts_do_not_depend_on_chunks() {
        let expected = vec![(1, b"abc".to_vec()), (7, b"--".to_vec())];
        for step in 1..=BODY.len() {
            assert_eq!(read(BODY, step), Ok(expected.clone()), "steps of {step}");
        }
        // The line break before the first boundary may be missing.
        assert_eq!(read(&BODY[2..], 7), Ok(expected));
    }

    #[test]
    fn invalid_bodies_are_refused() {
        let with = |from: &str, to: &str| {
            let body = String::from_utf8(BODY.to_vec()).unwrap();
            read(body.replacen(from, to, 1).as_bytes(), 5)
        };
        assert_eq!(with("--xyz", "--xyy"), Err(BadResponse::Multipart));
        assert_eq!(with("1-3/10", "3-1/10"), Err(BadResponse::ContentRange));
        assert_eq!(
            with("Content-Range", "X-Range"),
            Err(BadResponse::ContentRange)
        );
        assert_eq!(with("bytes 1-3", "bytes 1-4"), Err(BadResponse::Multipart));
        assert_eq!(with("abc", "abcd"), Err(BadResponse::Multipart));
        let long = [b"--xyz\r\n".to_vec(), vec![b'a'; 10_000]].concat();
        assert_eq!(read(&long, 500), Err(BadResponse::Multipart));
        assert_eq!(read(b"garbage", 1), Err(BadResponse::Multipart));
        // The caller detects a body that ends early.
        assert_eq!(read(&BODY[..70], 9).map(|parts| parts.len()), Ok(1));
    }

    #[test]
    fn boundaries() {
        let of = |text: &str| boundary(text);
        assert_eq!(
            of("multipart/byteranges; boundary=0001").as_deref(),
            Some("0001")
        );
        assert_eq!(
            of("Multipart/ByteRanges;x=y; Boundary=\"a b\"").as_deref(),
            Some("a b")
        );
        assert_eq!(of("multipart/mixed; boundary=0001"), None);
        assert_eq!(of("multipart/byteranges"), None);
        assert_eq!(of("multipart/byteranges; boundary="), None);
        let part = part_of(b"\r\nContent-Range: bytes 0-1/*").unwrap();
        assert_eq!((part.bytes, part.total), (ByteRange::new(0, 2), None));
    }
}
