//! `s3://BUCKET/KEY`, as the tools of AWS read it: the key is the rest of the text, and nothing in it is an escape.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use url::Url;

/// The scheme.
pub const SCHEME: &str = "s3";
/// What signatures leave as it is (RFC 3986, 2.3); all other bytes are encoded.
pub const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
/// Bytes of the longest key in S3.
const KEY_BYTES_MAX: usize = 1024;

/// The bucket and the key of a text with this scheme.
pub fn after_scheme(text: &str) -> Option<&str> {
    let (scheme, rest) = text.split_once("://")?;
    scheme.eq_ignore_ascii_case(SCHEME).then_some(rest)
}

/// The URL of a bucket and a key, or why it is none.
pub fn parse(rest: &str) -> Result<Url, &'static str> {
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.contains('@') {
        return Err("it takes no login; credentials come from the AWS variables and files");
    }
    let ends_well = |c: char| c.is_ascii_alphanumeric();
    let is_bucket = (3..=63).contains(&bucket.len())
        && bucket.starts_with(ends_well)
        && bucket.ends_with(ends_well)
        && bucket
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
        && !bucket.contains("..");
    if !is_bucket {
        return Err("a bucket has 3 to 63 letters, digits, dots and hyphens");
    }
    if key.len() > KEY_BYTES_MAX {
        return Err("a key has at most 1024 bytes");
    }
    if key.contains(char::is_control) {
        return Err("the key has a control character");
    }
    // Every HTTP library would remove them from the address.
    if key.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err("the key has . or .. between slashes, which no URL can have");
    }
    let url = format!("{SCHEME}://{bucket}/{}", encoded(key));
    Url::parse(&url).map_err(|_| "it is no URL")
}

/// A key as the path of an address has it, without the slash before it.
pub fn encoded(key: &str) -> String {
    let segments = key
        .split('/')
        .map(|segment| percent_encode(segment.as_bytes(), ENCODED).to_string());
    segments.collect::<Vec<_>>().join("/")
}
