//! The JSON documents of the upload API, as a client writes and reads them (upload.md).
//!
//! A client ignores members that it does not know.

use std::{collections::BTreeMap, fmt::Display, str::FromStr};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    geometry::ByteRange,
    tree::{Cv, Root},
    upload::{SessionId, Sha256},
};

/// The path of the API at its origin.
pub const PATH: &str = "/.sapwood/uploads";
/// The most parts in one request for targets.
pub const TARGETS_MAX: usize = 100;
/// The leaves of a part with more blocks are left out.
pub const OFFERED_LEAVES_MAX: usize = 16_384;
/// The most leaves in one request for targets: 2 MiB of the 4 that it may have.
pub const REQUEST_LEAVES_MAX: usize = 32_768;
/// No honest document is longer: 10,000 parts with their hashes.
pub const DOCUMENT_BYTES_MAX: usize = 16 << 20;

/// The body that opens a session.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "named as in upload.md; sizes are in bytes")]
pub struct Open<'a> {
    pub name: &'a str,
    pub length: Option<u64>,
    pub part_size: u64,
    pub block_size: u64,
    pub replace: bool,
    pub growing: bool,
}

/// A part that is to be sent.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "named as in upload.md; sizes are in bytes")]
pub struct Offer {
    pub index: u32,
    pub length: u64,
    #[serde(with = "text")]
    pub sha256: Sha256,
    /// The leaves of all blocks of the part, one after the other, in hexadecimal. `None`: one block alone, or too many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leaves: Option<String>,
    /// Bytes that the base has, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub copy: Vec<Copy>,
}

/// Bytes of a part that the base has: those from `at` on are those of the base from `from` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "named as in upload.md; sizes are in bytes")]
pub struct Copy {
    pub at: u64,
    pub from: u64,
    pub length: u64,
}

/// The body of a request for targets.
#[derive(Clone, Debug, Serialize)]
pub struct Offers<'a> {
    /// The root of the object of which bytes are copied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// At most [`TARGETS_MAX`].
    pub parts: &'a [Offer],
}

/// The body of a checkpoint.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "named as in upload.md; sizes are in bytes")]
pub struct Checkpoint<'a> {
    pub length: u64,
    #[serde(with = "text")]
    pub sha256: Sha256,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etag: Option<&'a str>,
    pub replace: bool,
}

/// The body of the request that publishes.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "named as in upload.md; sizes are in bytes")]
pub struct Finalize {
    pub length: u64,
    #[serde(with = "text")]
    pub root: Root,
    pub replace: bool,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[allow(missing_docs, reason = "named as in upload.md; sizes are in bytes")]
pub struct Status {
    #[serde(deserialize_with = "text::read")]
    pub id: SessionId,
    pub name: String,
    pub state: State,
    pub length: Option<u64>,
    pub part_size: u64,
    pub block_size: u64,
    #[serde(default, deserialize_with = "optional")]
    pub root: Option<Root>,
    /// When a client last used it: RFC 3339.
    #[serde(default)]
    pub last_alive: Option<String>,
    /// RFC 3339.
    #[serde(default)]
    pub expires: Option<String>,
    /// Those that are finished. A list of sessions has none.
    #[serde(default)]
    pub parts: Vec<Finished>,
    /// Of the object, once it is published.
    #[serde(default)]
    pub url: Option<String>,
    /// Why the last attempt to publish did not.
    #[serde(default)]
    pub error: Option<LastError>,
    /// The object of which bytes can be copied.
    #[serde(default)]
    pub base: Option<Base>,
}

/// An object of which bytes can be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[allow(missing_docs, reason = "named as in upload.md; sizes are in bytes")]
pub struct Base {
    #[serde(deserialize_with = "text::read")]
    pub root: Root,
    pub length: u64,
}

/// An object that is read while it is uploaded.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[allow(missing_docs, reason = "named as in upload.md; sizes are in bytes")]
pub struct GrowingStatus {
    pub state: State,
    pub block_size: u64,
    /// So many bytes from its start can be read.
    pub proven: u64,
    #[serde(default)]
    pub length: Option<u64>,
    #[serde(default, deserialize_with = "optional")]
    pub root: Option<Root>,
    #[serde(default)]
    pub url: Option<String>,
}

/// Why an object was not published.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[allow(missing_docs, reason = "named as in upload.md")]
pub struct LastError {
    pub code: String,
    #[serde(default)]
    pub detail: String,
}

/// Where a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Parts are taken.
    Open,
    /// The object is proven and published.
    Finalizing,
    /// The object is there.
    Done,
    /// Nothing was published, and nothing will be.
    Failed,
    /// No client used it for too long.
    Expired,
    /// The client gave it up.
    Aborted,
    /// One that this program does not know.
    #[serde(other)]
    Unknown,
}

impl State {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            State::Open => "open",
            State::Finalizing => "finalizing",
            State::Done => "done",
            State::Failed => "failed",
            State::Expired => "expired",
            State::Aborted => "aborted",
            State::Unknown => "unknown",
        }
    }
}

/// A part that the storage has, whole and durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[allow(missing_docs, reason = "named as in upload.md; sizes are in bytes")]
pub struct Finished {
    pub index: u32,
    pub length: u64,
    #[serde(deserialize_with = "text::read")]
    pub sha256: Sha256,
}

/// A page of a list of sessions.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Sessions {
    /// Newest first.
    pub sessions: Vec<Status>,
    /// The URL of the next page, if there is one.
    #[serde(default)]
    pub next: Option<String>,
}

/// Where a part goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[allow(missing_docs, reason = "named as in upload.md; sizes are in bytes")]
pub struct Target {
    pub index: u32,
    /// The part is finished with the offered SHA-256: nothing is to be sent.
    #[serde(default)]
    pub finished: bool,
    #[serde(default)]
    pub url: String,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The storage has so many bytes of the part already: the rest is sent.
    #[serde(default)]
    pub from: u64,
    /// These ranges are sent instead.
    #[serde(default)]
    pub send: Option<Vec<Sent>>,
    /// The storage made the part whole of copies: a checkpoint is next.
    #[serde(default)]
    pub stored: bool,
    /// Bytes that were copied for this response.
    #[serde(default)]
    pub copied: u64,
}

/// A range of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[allow(missing_docs, reason = "named as in upload.md; sizes are in bytes")]
pub struct Sent {
    pub at: u64,
    pub length: u64,
}

impl Target {
    /// The ranges of a part of this length that are sent; `None`: they are not of it, or not in order.
    pub fn ranges(&self, length: u64) -> Option<Vec<ByteRange>> {
        if self.finished || self.stored {
            return Some(Vec::new());
        }
        let Some(send) = &self.send else {
            let rest = (self.from < length).then(|| ByteRange::new(self.from, length));
            return (self.from <= length).then(|| rest.into_iter().collect());
        };
        let mut end = 0;
        let range = |sent: &Sent| {
            let past = sent.at.checked_add(sent.length)?;
            let is_next = sent.at >= end && sent.length > 0 && past <= length;
            end = past;
            is_next.then(|| ByteRange::new(sent.at, past))
        };
        send.iter().map(range).collect()
    }
}

/// The response with targets.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Targets {
    /// One for each offered part.
    pub targets: Vec<Target>,
}

/// Why a request was refused (RFC 9457).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Problem {
    /// See upload.md; empty: the response was no problem document.
    pub code: String,
    /// For people.
    pub detail: String,
    /// Of `parts_missing`.
    pub missing: Vec<u32>,
    /// Of `root_differs`.
    pub wrong_parts: Vec<u32>,
    /// Of `root_differs`: what the parts have.
    #[serde(deserialize_with = "any_text")]
    pub found: String,
}

/// Why a server does not take an upload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what it is")]
pub enum RefusedUpload {
    #[error("an object of this name exists")]
    NameExists,
    #[error("what has this name cannot be replaced")]
    NotReplaced,
    #[error("the server does not take this name{0}")]
    Name(Detail),
    #[error("the server does not take these sizes{0}")]
    Size(Detail),
    #[error("the quota of this user is used up{0}")]
    Quota(Detail),
    #[error("this user has too many unfinished uploads{0}")]
    TooManySessions(Detail),
    #[error("the storage of the server is full{0}")]
    StorageFull(Detail),
    #[error("access was refused (status {status})")]
    Access { status: u16 },
    #[error("the server takes no uploads (status {status})")]
    NoUploads { status: u16 },
    #[error("there is no such upload (status {status})")]
    NoSession { status: u16 },
    #[error(
        "what arrived has the root {found}, and the source has {expected}; nothing was published"
    )]
    Root { expected: Root, found: String },
    #[error("the upload ended before it was published{0}")]
    Ended(Detail),
    #[error("the server refused the request (status {status}{}){detail}", code_of(.code))]
    Other {
        status: u16,
        code: String,
        detail: Detail,
    },
    #[error("{0}")]
    Storage(String),
    #[error("the response of the server is not one of an upload: {0}")]
    Document(String),
}

/// What a server adds for people; may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detail(pub String);

impl Display for Detail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.is_empty() {
            true => Ok(()),
            false => write!(f, ": {}", self.0),
        }
    }
}

fn code_of(code: &str) -> String {
    match code.is_empty() {
        true => String::new(),
        false => format!(", {code}"),
    }
}

/// What a server says for people is cut there.
const DETAIL_CHARS_MAX: usize = 500;

impl Problem {
    /// What a response says; nothing if it says it in no form that is known.
    pub fn read(bytes: &[u8]) -> Problem {
        serde_json::from_slice(bytes).unwrap_or_default()
    }

    /// Why the request was refused with this status.
    pub fn refusal(&self, status: u16) -> RefusedUpload {
        let detail = Detail(self.detail.chars().take(DETAIL_CHARS_MAX).collect());
        match (self.code.as_str(), status) {
            ("name_exists", _) => RefusedUpload::NameExists,
            ("bad_name", _) => RefusedUpload::Name(detail),
            ("bad_size", _) => RefusedUpload::Size(detail),
            ("quota", _) => RefusedUpload::Quota(detail),
            ("too_many_sessions", _) => RefusedUpload::TooManySessions(detail),
            ("storage_full", _) | (_, 507) => RefusedUpload::StorageFull(detail),
            ("session_ended", _) => RefusedUpload::Ended(detail),
            ("no_session", _) => RefusedUpload::NoSession { status },
            // S3 says itself why.
            (code, 401 | 403) if !code.starts_with(char::is_uppercase) => {
                RefusedUpload::Access { status }
            }
            ("", 404 | 405 | 501) => RefusedUpload::NoUploads { status },
            (code, _) => RefusedUpload::Other {
                status,
                code: code.chars().take(DETAIL_CHARS_MAX).collect(),
                detail,
            },
        }
    }
}

/// A request body as text.
pub fn write(document: &impl Serialize) -> String {
    serde_json::to_string(document).expect("texts and numbers have a form")
}

/// A document that a server sends.
pub trait Document: for<'a> Deserialize<'a> {}

impl Document for Status {}
impl Document for GrowingStatus {}
impl Document for Sessions {}
impl Document for Targets {}

/// Reads a response.
pub fn read<T: Document>(bytes: &[u8]) -> Result<T, RefusedUpload> {
    serde_json::from_slice(bytes).map_err(|cause| RefusedUpload::Document(cause.to_string()))
}

/// A time in Unix seconds, as RFC 3339 has it.
pub fn time(unix_s: u64) -> String {
    let seconds = i64::try_from(unix_s).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds)
        .unwrap_or(Timestamp::MAX)
        .to_string()
}

/// All leaves of a part, as an [`Offer`] has them.
pub fn leaves(leaves: &[Cv]) -> String {
    hex::encode(leaves.concat())
}

/// What has a text form.
mod text {
    use super::{Deserialize, Deserializer, Display, FromStr, Serializer};

    pub fn serialize<T: Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub fn read<'a, T: FromStr<Err: Display>, D: Deserializer<'a>>(from: D) -> Result<T, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

fn optional<'a, T: FromStr<Err: Display>, D: Deserializer<'a>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    let value = text.map(|text| text.parse()).transpose();
    value.map_err(serde::de::Error::custom)
}

/// A text; anything else says nothing.
fn any_text<'a, D: Deserializer<'a>>(from: D) -> Result<String, D::Error> {
    let value = serde_json::Value::deserialize(from)?;
    Ok(value.as_str().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_with_members_that_are_not_known() {
        let id = "9b2f6c1e-5d0a-4c3b-8f7e-2a1b3c4d5e6f";
        let sha256 = "ab".repeat(32);
        let text = format!(
            r#"{{"id":"{id}","name":"a/b","owner":"o","state":"open","length":null,"part_size":8,"block_size":4,
            "root":null,"sha256":null,"replace":false,"version":3,"parts":[{{"index":0,"length":8,"sha256":"{sha256}","etag":"x"}}]}}"#
        );
        let status: Status = read(text.as_bytes()).unwrap();
        assert_eq!(status.id.to_string(), id);
        assert_eq!(status.parts[0].sha256, Sha256([0xab; 32]));
        assert_eq!((status.length, status.root), (None, None));
        let later = text.replace("\"open\"", "\"paused\"");
        assert_eq!(status.error, None);
        assert_eq!(
            read::<Status>(later.as_bytes()).unwrap().state,
            State::Unknown
        );
        for bad in [
            &text[1..],
            "{}",
            "",
            &text.replace(id, "x"),
            &text.replace("abab", ""),
        ] {
            assert!(read::<Status>(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_ranges_of_a_target_are_of_its_part() {
        let ranges = |target: &str| {
            let text = format!(r#"{{"targets":[{{"index":0,{target}}}]}}"#);
            read::<Targets>(text.as_bytes()).unwrap().targets[0].ranges(100)
        };
        let range = |start, end| ByteRange::new(start, end);
        assert_eq!(ranges(r#""url":"/""#), Some(vec![range(0, 100)]));
        assert_eq!(ranges(r#""from":40"#), Some(vec![range(40, 100)]));
        assert_eq!(ranges(r#""from":100"#), Some(vec![]));
        assert_eq!(ranges(r#""from":101"#), None);
        assert_eq!(ranges(r#""stored":true"#), Some(vec![]));
        assert_eq!(ranges(r#""send":[]"#), Some(vec![]));
        let send = r#""send":[{"at":0,"length":10},{"at":90,"length":10}]"#;
        assert_eq!(ranges(send), Some(vec![range(0, 10), range(90, 100)]));
        for bad in [(0, 101), (9, 1), (10, 0), (u64::MAX, 2)] {
            let (at, length) = bad;
            let send =
                format!(r#""send":[{{"at":0,"length":10}},{{"at":{at},"length":{length}}}]"#);
            assert_eq!(ranges(&send), None, "{bad:?}");
        }
    }

    #[test]
    fn refusals_are_told_by_their_code_and_else_by_their_status() {
        let refusal = |text: &str, status| Problem::read(text.as_bytes()).refusal(status);
        let exists = refusal(r#"{"code":"name_exists","status":409,"found":7}"#, 409);
        assert_eq!(exists, RefusedUpload::NameExists);
        let page = refusal("<html>", 404);
        assert_eq!(page, RefusedUpload::NoUploads { status: 404 });
        let forbidden = refusal("", 403);
        assert_eq!(forbidden, RefusedUpload::Access { status: 403 });
        let long = format!(r#"{{"code":"quota","detail":"{}"}}"#, "d".repeat(9000));
        let message = refusal(&long, 413).to_string();
        assert!(message.len() < 600, "{message}");
        let other = refusal(r#"{"code":"odd","detail":"why"}"#, 418).to_string();
        assert!(other.ends_with("(status 418, odd): why"), "{other}");
    }
}
