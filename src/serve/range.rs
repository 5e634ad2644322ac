//! The `Range` header of a request (RFC 9110, 14.2).

use crate::core::geometry::ByteRange;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// No range, several, or one that does not make sense: the whole object.
    Whole,
    /// These bytes, cut at the end of the object.
    Part(ByteRange),
    /// A range that lies behind the end.
    Unsatisfiable,
}

/// Reads `bytes=A-B`, `bytes=A-` and `bytes=-N` for an object of this length.
pub fn wanted(header: Option<&str>, length: u64) -> Wanted {
    let Some(set) = header.and_then(|header| header.trim().strip_prefix("bytes=")) else {
        return Wanted::Whole;
    };
    let Some((first, last)) = set.trim().split_once('-') else {
        return Wanted::Whole;
    };
    let number = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| text.parse::<u64>().ok())
            .flatten()
    };
    let range = match (first.trim(), last.trim()) {
        ("", last) => number(last).map(|count| (length.saturating_sub(count), length)),
        (first, "") => number(first).map(|first| (first, length)),
        (first, last) => match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => {
                Some((first, last.saturating_add(1).min(length)))
            }
            _ => None,
        },
    };
    match range {
        None => Wanted::Whole,
        Some((start, end)) if start < end => Wanted::Part(ByteRange::new(start, end)),
        Some(_) => Wanted::Unsatisfiable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let part = |start, end| Wanted::Part(ByteRange::new(start, end));
        for (header, length, expected) in [
            ("bytes=0-0", 10, part(0, 1)),
            ("bytes=5-", 10, part(5, 10)),
            ("bytes=-3", 10, part(7, 10)),
            ("bytes=-30", 10, part(0, 10)),
            ("bytes=5-99", 10, part(5, 10)),
            ("bytes=5-18446744073709551615", 10, part(5, 10)),
            ("bytes=10-", 10, Wanted::Unsatisfiable),
            ("bytes=-0", 10, Wanted::Unsatisfiable),
            ("bytes=0-0", 0, Wanted::Unsatisfiable),
            ("bytes=5-3", 10, Wanted::Whole),
            ("bytes=0-1,3-4", 10, Wanted::Whole),
            ("items=0-1", 10, Wanted::Whole),
            ("bytes=a-b", 10, Wanted::Whole),
        ] {
            assert_eq!(
                wanted(Some(header), length),
                expected,
                "{header} of {length}"
            );
        }
        assert_eq!(wanted(None, 10), Wanted::Whole);
    }
}
