//! `Content-Range` (RFC 9110, 14.4), parsed strictly: it decides where bytes are written.

use reqwest::{StatusCode, header};

use crate::format::geometry::ByteRange;

/// The part of an object that a 206 declares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentRange {
    /// The bytes in the body.
    pub bytes: ByteRange,
    /// The length of the whole object; `None` for `*`.
    pub total: Option<u64>,
}

/// `bytes FIRST-LAST/TOTAL` or `bytes FIRST-LAST/*`; `None` for anything else.
pub fn parse(value: &str) -> Option<ContentRange> {
    let (range, total) = unit(value)?.split_once('/')?;
    let (first, last) = range.trim().split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    let end = last.checked_add(1)?;
    let total = match total.trim() {
        "*" => None,
        total => Some(number(total)?),
    };
    let fits = first <= last && total.is_none_or(|total| end <= total);
    fits.then(|| ContentRange {
        bytes: ByteRange::new(first, end),
        total,
    })
}

/// The length of the whole object that a 416 declares.
pub fn of_unsatisfied(response: &reqwest::Response) -> Option<u64> {
    let value = response.headers().get(header::CONTENT_RANGE);
    let value = value.filter(|_| response.status() == StatusCode::RANGE_NOT_SATISFIABLE)?;
    parse_unsatisfied(value.to_str().ok()?)
}

/// The length in the `bytes */TOTAL` of a 416.
pub fn parse_unsatisfied(value: &str) -> Option<u64> {
    number(unit(value)?.trim().strip_prefix("*/")?)
}

/// The value after its unit. Some servers write `bytes=` as in Range, or `bytes:`.
fn unit(value: &str) -> Option<&str> {
    let (unit, rest) = value.trim().split_once([' ', '\t', '=', ':'])?;
    unit.eq_ignore_ascii_case("bytes").then_some(rest)
}

/// Digits only: no sign, no space, no overflow.
fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict() {
        let part = |start, end, total| {
            Some(ContentRange {
                bytes: ByteRange::new(start, end),
                total,
            })
        };
        assert_eq!(parse("bytes 0-0/1"), part(0, 1, Some(1)));
        assert_eq!(parse("Bytes  5-9/10"), part(5, 10, Some(10)));
        assert_eq!(parse("bytes 5-9/*"), part(5, 10, None));
        for tolerated in ["bytes=5-9/10", "bytes:5-9/10", "bytes: 5-9/10"] {
            assert_eq!(parse(tolerated), part(5, 10, Some(10)), "{tolerated}");
        }
        for bad in [
            "",
            "bytes",
            "bytes 5-3/10",
            "bytes 0-10/10",
            "bytes -1-3/10",
            "bytes 0-18446744073709551615/*",
            "bytes 0-18446744073709551616/*",
            "bytes==0-1/2",
            "items 0-1/2",
            "bytes */10",
            "bytes 0-1,3-4/9",
            "bytes 0-1",
            "bytes 0-1/",
            "bytes +0-1/2",
            "bytes 0x0-1/2",
            "bytes a-b/c",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(parse_unsatisfied("bytes */0"), Some(0));
        assert_eq!(parse_unsatisfied("bytes 0-1/2"), None);
    }
}
