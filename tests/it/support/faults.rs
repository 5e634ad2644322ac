//! The list of faults of servers, S01 to S38, as lies of the scripted origin. What is not here has a place of its own: refused
//! connections (S01) are a port where nobody listens, DNS (S31), TLS (S32) and HTTP/2 (S34) are below the lies, mirrors (S36)
//! are several origins, manifests (S37) are other objects, and names (S38) are other URLs.

use std::time::Duration;

use super::{
    lies::{Chunks, Lie},
    origin::Asks,
};

/// A fault by its name.
pub struct Fault {
    pub id: &'static str,
    /// What the server does.
    pub does: &'static str,
    /// Which requests it is about.
    pub asks: Asks,
    lies: fn(&Place) -> Vec<Lie>,
}

/// What a fault happens to.
#[derive(Clone, Debug)]
pub struct Place {
    /// Of the object.
    pub path: String,
    pub length: u64,
    /// After so many bytes of a body.
    pub at: u64,
    /// Where two servers may differ.
    pub seed: u64,
    /// Stands in the query of each redirect.
    pub secret: &'static str,
}

impl Fault {
    /// What to do to each answer.
    pub fn lies(&self, place: &Place) -> Vec<Lie> {
        (self.lies)(place)
    }

    /// The fault of this name.
    pub fn named(id: &str) -> Option<Fault> {
        all().into_iter().find(|fault| fault.id == id)
    }
}

/// What a page that asks for a login looks like.
const LOGIN: &[u8] = b"<!DOCTYPE html><html><body>Please log in</body></html>";
/// What S3 says in a 200.
const S3_ERROR: &[u8] =
    b"<?xml version=\"1.0\"?><Error><Code>InternalError</Code><Message>again</Message></Error>";
/// 10 MiB of zeros in 10 KiB would be a bomb; that it is not even looked at shows with a few bytes too.
const GZIP: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03";

fn header(name: &'static str, value: impl Into<String>) -> Vec<Lie> {
    vec![Lie::Header(name, value.into())]
}

fn retry_after(status: u16, value: &str) -> Vec<Lie> {
    vec![Lie::StatusWith(
        status,
        vec![("Retry-After", value.to_owned())],
    )]
}

fn redirect(place: &Place, target: &str) -> Vec<Lie> {
    let target = match target.contains(':') {
        true => format!("{target}?sig={}", place.secret),
        false => format!("{}{target}?sig={}", place.path, place.secret),
    };
    vec![Lie::Redirect(302, target)]
}

fn page(body: &[u8], kind: &str) -> Vec<Lie> {
    vec![
        Lie::Body(body.to_vec()),
        Lie::Header("Content-Type", kind.to_owned()),
    ]
}

/// All of them, in the order of the list.
#[rustfmt::skip]
pub fn all() -> Vec<Fault> {
    use Asks::{Anything, Body, Preflight};
    fn fault(id: &'static str, asks: Asks, does: &'static str, lies: fn(&Place) -> Vec<Lie>) -> Fault {
        Fault { id, does, asks, lies }
    }
    vec![
        fault("S02", Anything, "resets the connection instead of an answer", |_| vec![Lie::Refuse]),
        fault("S03a", Body, "closes after n bytes of the body", |p| vec![Lie::CloseAfter(p.at)]),
        fault("S03b", Body, "resets after n bytes of the body", |p| vec![Lie::ResetAfter(p.at)]),
        fault("S04a", Body, "is silent after n bytes of the body", |p| vec![Lie::StallAfter(p.at)]),
        fault("S04b", Body, "sends one byte in 5 s after n bytes", |p| vec![Lie::Trickle(p.at, Duration::from_secs(5))]),
        fault("S04c", Body, "never ends its headers", |_| vec![Lie::SilentHeaders]),
        fault("S05a", Body, "sends 200 and the whole body to a range, after an honest first answer", |_| vec![Lie::NoRanges]),
        fault("S05b", Anything, "knows no ranges at all", |_| vec![Lie::NoRanges]),
        fault("S05c", Body, "sends 200 and a body of another length to a range", |p| vec![Lie::Body(vec![b'x'; p.length as usize / 2])]),
        fault("S06a", Body, "sends 200 with a Content-Range", |p| vec![Lie::As(200), Lie::Header("Content-Range", format!("bytes 0-{}/{}", p.at, p.length))]),
        fault("S06b", Body, "sends 206 without a Content-Range", |_| vec![Lie::Without("Content-Range")]),
        fault("S07a", Body, "names another total", |p| vec![Lie::Total((p.length + 1).to_string())]),
        fault("S07b", Body, "names no total, but *", |_| vec![Lie::Total("*".into())]),
        fault("S07c", Anything, "names no total, from the first answer on", |_| vec![Lie::Total("*".into())]),
        fault("S08a", Body, "starts earlier", |_| vec![Lie::Start(-1000)]),
        fault("S08b", Body, "starts later", |_| vec![Lie::Start(1000)]),
        fault("S08c", Body, "ends early, and says so", |p| vec![Lie::EndEarly(p.at)]),
        fault("S08d", Body, "ends late, and says so", |p| vec![Lie::Part(0..p.length)]),
        fault("S09a", Body, "Content-Range: bytes 5-3/10", |_| header("Content-Range", "bytes 5-3/10")),
        fault("S09b", Body, "Content-Range: beyond 2^64", |_| header("Content-Range", "bytes 0-18446744073709551616/*")),
        fault("S09c", Body, "Content-Range: negative", |_| header("Content-Range", "bytes -5--3/10")),
        fault("S09d", Body, "two Content-Ranges", |_| vec![Lie::Also("Content-Range", "bytes 0-0/1".into())]),
        fault("S09e", Body, "Content-Range: another unit", |_| header("Content-Range", "items 0-5/10")),
        fault("S10a", Body, "sends the data of another place", |p| vec![Lie::Shift(1 + (p.seed % 1000) as i64)]),
        fault("S10b", Body, "one bit is wrong, always the same one", |p| vec![Lie::FlipAt(p.length / 8 * 7 + p.seed % 1000)]),
        fault("S10c", Body, "one bit in 1 MB that pass is wrong", |_| vec![Lie::FlipInPassing(1_000_000)]),
        fault("S11", Body, "sends more than it declared", |_| vec![Lie::Longer(100)]),
        fault("S12a", Body, "416 inside the object", |p| vec![Lie::StatusWith(416, vec![("Content-Range", format!("bytes */{}", p.length))])]),
        fault("S12b", Body, "416 with another total", |p| vec![Lie::StatusWith(416, vec![("Content-Range", format!("bytes */{}", p.at))])]),
        fault("S12c", Preflight, "416 to the first byte", |p| vec![Lie::StatusWith(416, vec![("Content-Range", format!("bytes */{}", p.length))])]),
        fault("S13a", Body, "says Content-Encoding: gzip", |_| header("Content-Encoding", "gzip")),
        fault("S13b", Anything, "sends a compressed body", |_| vec![Lie::Body(GZIP.to_vec()), Lie::Header("Content-Encoding", "gzip".into())]),
        fault("S14a", Body, "chunks, no length", |_| vec![Lie::Chunked]),
        fault("S14b", Body, "a chunk without a size", |_| vec![Lie::BadChunks(Chunks::BadSize)]),
        fault("S14c", Body, "no last chunk", |_| vec![Lie::BadChunks(Chunks::NoEnd)]),
        fault("S14d", Body, "chunks and a length", |_| vec![Lie::BadChunks(Chunks::AndLength)]),
        fault("S14e", Anything, "chunks, no ranges, no last chunk", |_| vec![Lie::NoRanges, Lie::BadChunks(Chunks::NoEnd)]),
        fault("S15a", Body, "several parts for one range", |_| vec![Lie::Without("Content-Range"), Lie::Header("Content-Type", "multipart/byteranges; boundary=x".into())]),
        fault("S15b", Anything, "several parts for every range, whole to others", |_| vec![Lie::Multipart]),
        fault("S16a", Anything, "a weak entity tag", |_| header("ETag", "W/\"weak\"")),
        fault("S16b", Anything, "no entity tag", |_| vec![Lie::Without("ETag")]),
        fault("S16c", Anything, "another entity tag each time", |_| vec![Lie::NewTag]),
        fault("S16d", Body, "other bytes under the same tag", |_| vec![Lie::FlipEach(4096)]),
        fault("S17", Body, "another version, with its tag", |_| vec![Lie::Replaced]),
        fault("S18", Anything, "Last-Modified in the future, no tag", |_| vec![Lie::Without("ETag"), Lie::Header("Last-Modified", "Fri, 01 Jan 2100 00:00:00 GMT".into()), Lie::Header("Date", "Fri, 01 Jan 2027 00:00:00 GMT".into())]),
        fault("S19a", Body, "429", |_| vec![Lie::Status(429)]),
        fault("S19b", Body, "429, Retry-After: 1", |_| retry_after(429, "1")),
        fault("S19c", Body, "429, Retry-After: 0", |_| retry_after(429, "0")),
        fault("S19d", Body, "429, Retry-After: -1", |_| retry_after(429, "-1")),
        fault("S19e", Body, "429, Retry-After: 1e12", |_| retry_after(429, "1000000000000")),
        fault("S19f", Body, "429, Retry-After: junk", |_| retry_after(429, "soon")),
        fault("S19g", Body, "429, Retry-After: a date that passed", |_| retry_after(429, "Fri, 01 Jan 1999 00:00:00 GMT")),
        fault("S19h", Body, "429 above two connections", |_| vec![Lie::Crowded(2, 429, vec![("Retry-After", "1".into())])]),
        fault("S20a", Anything, "500", |_| vec![Lie::Status(500)]),
        fault("S20b", Body, "502", |_| vec![Lie::Status(502)]),
        fault("S20c", Body, "503", |_| vec![Lie::Status(503)]),
        fault("S20d", Body, "504", |_| vec![Lie::Status(504)]),
        fault("S20e", Body, "503, Retry-After: 1", |_| retry_after(503, "1")),
        fault("S21a", Anything, "404", |_| vec![Lie::Status(404)]),
        fault("S21b", Body, "404, after an honest first answer", |_| vec![Lie::Status(404)]),
        fault("S21c", Body, "401", |_| vec![Lie::Status(401)]),
        fault("S21d", Body, "410", |_| vec![Lie::Status(410)]),
        fault("S21e", Body, "451", |_| vec![Lie::Status(451)]),
        fault("S21f", Anything, "400", |_| vec![Lie::Status(400)]),
        fault("S22a", Body, "403, after an honest first answer", |_| vec![Lie::Status(403)]),
        fault("S22b", Anything, "leads to a link that is refused (403)", |p| redirect(p, ".expired")),
        fault("S23a", Body, "a login page, 200", |_| page(LOGIN, "text/html; charset=utf-8")),
        fault("S23b", Anything, "a login page, 200, from the first answer on", |_| page(LOGIN, "text/html")),
        fault("S23c", Anything, "the XML of an error, 200", |_| page(S3_ERROR, "application/xml")),
        fault("S24a", Body, "204", |_| vec![Lie::Status(204)]),
        fault("S24b", Body, "304", |_| vec![Lie::Status(304)]),
        fault("S24c", Anything, "206 of a part to all requests, without telling the total", |p| vec![Lie::Part(10..p.length), Lie::Total("*".into())]),
        fault("S24d", Body, "10,000 answers with 103 before the answer", |_| vec![Lie::Informational(10_000)]),
        fault("S24e", Body, "101", |_| vec![Lie::As(101)]),
        fault("S25a", Body, "100,000 headers", |_| vec![Lie::ManyHeaders(100_000)]),
        fault("S25b", Body, "a header of 10 MB", |_| vec![Lie::LargeHeader(10_000_000)]),
        fault("S25c", Body, "NUL in a header", |_| vec![Lie::Line(b"X-Nul: a\0b")]),
        fault("S25d", Body, "a folded header", |_| vec![Lie::Line(b"X-Folded: a\r\n b")]),
        fault("S26a", Anything, "an endless body without a length, 200", |_| vec![Lie::NoRanges, Lie::Endless]),
        fault("S26b", Body, "an endless body without a length, 206", |_| vec![Lie::Endless]),
        fault("S26c", Anything, "a length of 2^63", |_| vec![Lie::NoRanges, Lie::Header("Content-Length", "9223372036854775808".into())]),
        fault("S27a", Anything, "a redirect to itself", |p| redirect(p, "")),
        fault("S27b", Anything, "a redirect to nowhere", |_| vec![Lie::Status(302)]),
        fault("S28a", Anything, "a redirect to file:", |p| redirect(p, "file:///etc/hostname")),
        fault("S28b", Anything, "a redirect to ftp:", |p| redirect(p, "ftp://127.0.0.1/x")),
        fault("S33a", Anything, "closes a connection when it is used again", |_| vec![Lie::CloseOnReuse]),
        fault("S33b", Anything, "sends late bytes after an answer", |_| vec![Lie::Leftover(100)]),
        fault("S38", Anything, "names a path in Content-Disposition", |_| header("Content-Disposition", "attachment; filename=\"../../escaped\"")),
    ]
}
