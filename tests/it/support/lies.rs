//! The lies that an origin can tell, and what each makes of an honest answer.
//!
//! A new lie is a variant of [`Lie`] and an arm in [`Lie::apply`]; [`super::faults`] gives names to those of the list of faults.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    objects::Content,
    origin::{Object, Request},
};

/// What is done to an honest answer.
#[derive(Clone, Debug)]
pub enum Lie {
    /// The connection is reset instead of an answer.
    Refuse,
    /// Not even the headers come to an end.
    SilentHeaders,
    /// After so many bytes of the body: reset, orderly close, silence.
    ResetAfter(u64),
    CloseAfter(u64),
    StallAfter(u64),
    /// Another status, with a short body of its own.
    Status(u16),
    /// A status with these headers, when more requests than this are being answered.
    Crowded(u64, u16, Vec<(&'static str, String)>),
    /// A status with these headers.
    StatusWith(u16, Vec<(&'static str, String)>),
    Redirect(u16, String),
    /// A header set or replaced.
    Header(&'static str, String),
    /// A header left out.
    Without(&'static str),
    /// The whole object with 200, whatever was asked for.
    NoRanges,
    /// What stands behind the slash of Content-Range.
    Total(String),
    /// The bytes of a place so far away.
    Shift(i64),
    /// One bit of the object at this place is wrong.
    FlipAt(u64),
    /// One bit in every so many bytes of the object is wrong, always the same ones.
    FlipEach(u64),
    /// One bit in every so many bytes that pass is wrong, like on a bad line.
    FlipInPassing(u64),
    /// A 206 that starts so much later, and says so.
    Start(i64),
    /// A 206 that ends after so many bytes, and says so.
    EndEarly(u64),
    /// So many bytes more than declared.
    Longer(u64),
    /// So many bytes after the body, and the connection stays open.
    Leftover(u64),
    /// The next request on the same connection finds it closed.
    CloseOnReuse,
    /// Without a length, in chunks.
    Chunked,
    /// Chunks that break the rules.
    BadChunks(Chunks),
    /// Without any length, and without an end.
    Endless,
    /// After so many bytes of the body one byte at a time, so far apart.
    Trickle(u64, Duration),
    /// Only the number of the status is another one.
    As(u16),
    /// These bytes of the object with 206, whatever was asked for.
    Part(Range<u64>),
    /// One more header, also of a name that is there.
    Also(&'static str, String),
    /// So many headers more.
    ManyHeaders(u32),
    /// One header of so many bytes.
    LargeHeader(usize),
    /// A line among the headers, as it stands.
    Line(&'static [u8]),
    /// So many answers with 103 before the answer.
    Informational(u32),
    /// Ranges come as several parts, of which there is one.
    Multipart,
    /// Another entity tag in each answer.
    NewTag,
    /// Another version: other bytes, another tag.
    Replaced,
    /// Another body, with 200.
    Body(Vec<u8>),
    /// The object of another path.
    Instead(&'static str),
    /// Exactly these bytes, then close.
    Raw(Vec<u8>),
    /// 416 for the first byte alone.
    NoOneByte,
    /// The answer comes so much later.
    Late(Duration),
}

/// What is wrong with chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunks {
    Honest,
    /// No number where the size of the second one should be.
    BadSize,
    /// The last one, which says that all came, is missing, and the connection is closed.
    NoEnd,
    /// There is a Content-Length too.
    AndLength,
}

/// How a connection ends before the body does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Reset,
    Close,
    Stall,
}

/// An answer before it is sent.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    /// What is sent, by places of the object.
    pub content: Arc<Object>,
    pub bytes: Range<u64>,
    pub shift: i64,
    pub flip_at: Vec<u64>,
    pub flip_each: Option<u64>,
    pub flip_in_passing: Option<u64>,
    /// The total in Content-Range; `None`: the length of the object.
    pub total: Option<String>,
    pub longer: u64,
    pub chunks: Option<Chunks>,
    pub endless: bool,
    pub leftover: u64,
    pub close_on_reuse: bool,
    pub trickle: Option<(u64, Duration)>,
    /// As they stand in the head.
    pub lines: Vec<u8>,
    pub informational: u32,
    pub cut: Option<(u64, Cut)>,
    pub raw: Option<Vec<u8>>,
    pub silent: bool,
    pub late: Duration,
}

impl Answer {
    pub fn plain(status: u16, text: &[u8]) -> Answer {
        let content = Content::Bytes(text.to_vec());
        let bytes = 0..content.length();
        Answer {
            status,
            headers: vec![("Content-Type".into(), "text/plain".into())],
            content: Arc::new(Object {
                content,
                headers: Vec::new(),
            }),
            bytes,
            shift: 0,
            flip_at: Vec::new(),
            flip_each: None,
            flip_in_passing: None,
            total: None,
            longer: 0,
            chunks: None,
            endless: false,
            leftover: 0,
            close_on_reuse: false,
            trickle: None,
            lines: Vec::new(),
            informational: 0,
            cut: None,
            raw: None,
            silent: false,
            late: Duration::ZERO,
        }
    }

    pub fn honest(request: &Request, object: Arc<Object>) -> Answer {
        let length = object.content.length();
        let etag = object
            .headers
            .iter()
            .find(|(name, _)| name == "ETag")
            .map(|(_, value)| value.as_str());
        let if_match = request
            .headers
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case("if-match"));
        if if_match.is_some_and(|(_, tag)| Some(tag.as_str()) != etag) {
            return Answer::plain(412, b"it is another one now");
        }
        let mut answer = match &request.range {
            Some(range) if range.start >= length => {
                let mut answer = Answer::plain(416, b"");
                answer
                    .headers
                    .push(("Content-Range".into(), format!("bytes */{length}")));
                return answer;
            }
            Some(range) => Answer {
                bytes: range.start..range.end.min(length),
                status: 206,
                ..Answer::plain(206, b"")
            },
            None => Answer {
                bytes: 0..length,
                ..Answer::plain(200, b"")
            },
        };
        answer.headers = object.headers.clone();
        answer
            .headers
            .push(("Accept-Ranges".into(), "bytes".into()));
        answer.content = object;
        answer
    }

    fn set(&mut self, name: &str, value: String) {
        self.headers
            .retain(|(other, _)| !other.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value));
    }

    pub fn head(&self) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} Whatever\r\n", self.status);
        let has = |name: &str| {
            self.headers
                .iter()
                .any(|(other, _)| other.eq_ignore_ascii_case(name))
        };
        if self.status == 206 && !has("Content-Range") {
            let total = self
                .total
                .clone()
                .unwrap_or_else(|| self.content.content.length().to_string());
            head += &format!(
                "Content-Range: bytes {}-{}/{total}\r\n",
                self.bytes.start,
                self.bytes.end.saturating_sub(1)
            );
        }
        if self.chunks.is_some() {
            head += "Transfer-Encoding: chunked\r\n";
        }
        match self.chunks {
            None | Some(Chunks::AndLength) if !has("Content-Length") && !self.endless => {
                head += &format!("Content-Length: {}\r\n", self.bytes.end - self.bytes.start);
            }
            _ => (),
        }
        for (name, value) in self.headers.iter().filter(|(_, value)| !value.is_empty()) {
            head += &format!("{name}: {value}\r\n");
        }
        let mut head = head.into_bytes();
        head.extend_from_slice(&self.lines);
        head.extend_from_slice(b"\r\n");
        head
    }
}

impl Lie {
    pub fn apply(&self, answer: &mut Answer, request: &Request) {
        static TAGS: AtomicU64 = AtomicU64::new(0);
        let conditional = || request.header("if-match").is_some();
        match self {
            Lie::Refuse | Lie::Instead(_) | Lie::Crowded(..) => (),
            Lie::SilentHeaders => answer.silent = true,
            Lie::ResetAfter(bytes) => answer.cut = Some((*bytes, Cut::Reset)),
            Lie::CloseAfter(bytes) => answer.cut = Some((*bytes, Cut::Close)),
            Lie::StallAfter(bytes) => answer.cut = Some((*bytes, Cut::Stall)),
            Lie::Status(status) => {
                *answer = Answer {
                    late: answer.late,
                    ..Answer::plain(*status, b"no")
                }
            }
            Lie::StatusWith(status, headers) => {
                *answer = Answer {
                    late: answer.late,
                    ..Answer::plain(*status, b"no")
                };
                headers
                    .iter()
                    .for_each(|(name, value)| answer.set(name, value.clone()));
            }
            Lie::Redirect(status, target) => {
                *answer = Answer {
                    late: answer.late,
                    ..Answer::plain(*status, b"elsewhere")
                };
                answer.set("Location", target.clone());
            }
            Lie::Header(name, value) => answer.set(name, value.clone()),
            // An empty value is not sent, and keeps the honest one away.
            Lie::Without(name) => answer.set(name, String::new()),
            Lie::NoRanges => {
                answer.status = 200;
                answer.bytes = 0..answer.content.content.length();
                answer
                    .headers
                    .retain(|(name, _)| name != "Accept-Ranges" && name != "Content-Range");
            }
            Lie::Total(total) => answer.total = Some(total.clone()),
            Lie::Shift(by) => answer.shift = *by,
            Lie::FlipAt(place) => answer.flip_at.push(*place),
            Lie::FlipEach(bytes) => answer.flip_each = Some(*bytes),
            Lie::FlipInPassing(bytes) => answer.flip_in_passing = Some(*bytes),
            Lie::Start(by) => {
                answer.bytes.start = answer
                    .bytes
                    .start
                    .saturating_add_signed(*by)
                    .min(answer.bytes.end - 1)
            }
            Lie::EndEarly(bytes) => {
                answer.bytes.end = answer.bytes.end.min(answer.bytes.start + bytes)
            }
            Lie::Longer(bytes) => answer.longer = *bytes,
            Lie::Leftover(bytes) => answer.leftover = *bytes,
            Lie::CloseOnReuse => answer.close_on_reuse = true,
            Lie::Chunked => answer.chunks = Some(Chunks::Honest),
            Lie::BadChunks(how) => answer.chunks = Some(*how),
            Lie::Endless => answer.endless = true,
            Lie::Trickle(after, apart) => answer.trickle = Some((*after, *apart)),
            Lie::As(status) => answer.status = *status,
            Lie::Part(range) => {
                let end = range.end.min(answer.content.content.length());
                (answer.status, answer.bytes) = (206, range.start.min(end)..end);
            }
            Lie::Also(name, value) => {
                // The honest one would be left out where there is another.
                if answer.status == 206 && *name == "Content-Range" {
                    let (first, last) = (answer.bytes.start, answer.bytes.end.saturating_sub(1));
                    let total = answer.content.content.length();
                    answer.set(name, format!("bytes {first}-{last}/{total}"));
                }
                answer.headers.push(((*name).to_owned(), value.clone()));
            }
            Lie::ManyHeaders(count) => {
                for number in 0..*count {
                    answer
                        .lines
                        .extend_from_slice(format!("X-{number}: 1\r\n").as_bytes());
                }
            }
            Lie::LargeHeader(bytes) => {
                answer.lines.extend_from_slice(b"X-Large: ");
                answer.lines.resize(answer.lines.len() + bytes, b'x');
                answer.lines.extend_from_slice(b"\r\n");
            }
            Lie::Line(line) => {
                answer.lines.extend_from_slice(line);
                answer.lines.extend_from_slice(b"\r\n");
            }
            Lie::Multipart if answer.status == 206 => {
                answer.set("Content-Range", String::new());
                answer.set("Content-Type", "multipart/byteranges; boundary=x".into());
            }
            Lie::Multipart => (),
            Lie::Informational(count) => answer.informational = *count,
            Lie::NewTag if conditional() => {
                *answer = Answer::plain(412, b"it is another one now");
            }
            Lie::NewTag => {
                let number = TAGS.fetch_add(1, Ordering::Relaxed);
                answer.set("ETag", format!("\"number-{number}\""));
            }
            Lie::Replaced if conditional() => {
                *answer = Answer::plain(412, b"it is another one now");
            }
            Lie::Replaced => {
                answer.flip_each = Some(4096);
                answer.set("ETag", "\"another\"".into());
            }
            Lie::Body(bytes) => {
                *answer = Answer {
                    late: answer.late,
                    ..Answer::plain(200, bytes)
                };
            }
            Lie::Raw(bytes) => answer.raw = Some(bytes.clone()),
            Lie::NoOneByte if request.range == Some(0..1) => {
                let length = answer.content.content.length();
                *answer = Answer::plain(416, b"");
                answer.set("Content-Range", format!("bytes */{length}"));
            }
            Lie::NoOneByte => (),
            Lie::Late(by) => answer.late = *by,
        }
    }
}
