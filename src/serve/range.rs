//! The `Range` header of a request (RFC 9110, 14.2).

use crate::format::geometry::ByteRange;

/// The ranges that a request has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// No range, or an invalid one: the whole representation.
    Whole,
    /// These bytes, cut at the end of the representation.
    Part(ByteRange),
    /// Several parts, ascending.
    Parts(Vec<ByteRange>),
    /// No range overlaps the representation.
    Unsatisfiable,
}

/// The most ranges in one request: more of them are probably an attack (RFC 9110, 17.15).
const RANGES_MAX: usize = 256;

/// Parses `bytes=A-B`, `bytes=A-`, `bytes=-N` and lists of them for a representation of this length. The response to a list that
/// is not ascending, or has overlapping ranges, is the whole representation.
pub fn wanted(header: Option<&str>, length: u64) -> Wanted {
    let set = header.and_then(|header| header.trim().split_once('='));
    let Some((_, set)) = set.filter(|(unit, _)| unit.eq_ignore_ascii_case("bytes")) else {
        return Wanted::Whole;
    };
    let ranges: Option<Vec<(u64, u64)>> = set
        .split(',')
        .map(str::trim)
        // RFC 9110, 5.6.1.2.
        .filter(|range| !range.is_empty())
        .take(RANGES_MAX + 1)
        .map(|range| bounds(range, length))
        .collect();
    let is_allowed = |ranges: &Vec<_>| (1..=RANGES_MAX).contains(&ranges.len());
    let Some(ranges) = ranges.filter(is_allowed) else {
        return Wanted::Whole;
    };
    let parts: Vec<ByteRange> = ranges
        .into_iter()
        .filter(|(start, end)| start < end)
        .map(|(start, end)| ByteRange::new(start, end))
        .collect();
    let ascending = parts.windows(2).all(|pair| pair[0].end <= pair[1].start);
    match parts.as_slice() {
        [] => Wanted::Unsatisfiable,
        [part] => Wanted::Part(*part),
        _ if ascending => Wanted::Parts(parts),
        _ => Wanted::Whole,
    }
}

/// The first byte and the one after the last of one range, cut at the end of the representation.
fn bounds(range: &str, length: u64) -> Option<(u64, u64)> {
    let (first, last) = range.split_once('-')?;
    let number = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // A number that is too large for the type is larger than every length.
        is_number.then(|| text.parse().unwrap_or(u64::MAX))
    };
    match (first.trim(), last.trim()) {
        ("", last) => number(last).map(|count| (length.saturating_sub(count), length)),
        (first, "") => number(first).map(|first| (first, length)),
        (first, last) => match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => {
                Some((first, last.saturating_add(1).min(length)))
            }
            _ => None,
        },
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
            (
                "bytes=0-1, 3-4,8-99",
                10,
                Wanted::Parts(vec![
                    ByteRange::new(0, 2),
                    ByteRange::new(3, 5),
                    ByteRange::new(8, 10),
                ]),
            ),
            ("bytes=0-1,30-40", 10, part(0, 2)),
            ("bytes=30-40,50-", 10, Wanted::Unsatisfiable),
            ("bytes=3-4,0-1", 10, Wanted::Whole),
            ("bytes=0-4,4-5", 10, Wanted::Whole),
            ("bytes=0-1,x", 10, Wanted::Whole),
            ("Bytes=0-0", 10, part(0, 1)),
            ("bytes=,0-0, ,", 10, part(0, 1)),
            ("bytes=", 10, Wanted::Whole),
            ("bytes=,", 10, Wanted::Whole),
            ("bytes=-", 10, Wanted::Whole),
            ("bytes=5-99999999999999999999", 10, part(5, 10)),
            ("bytes=-99999999999999999999", 10, part(0, 10)),
            ("bytes=99999999999999999999-", 10, Wanted::Unsatisfiable),
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
