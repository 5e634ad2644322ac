//! Which requests bring some ranges: neighbours go together, and what lies between them is read along where that costs less than
//! asking for it not to come.

use crate::format::geometry::ByteRange;

/// What a request costs at a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Gaps up to this many bytes are read along.
    pub gap: u64,
    /// Ranges that one request may have.
    pub ranges_max: usize,
    /// Bytes of one request, unless a single range is longer.
    pub bytes_max: u64,
}

/// What goes over the wire around each part of an answer with several: its boundary, type and range (RFC 9110, 14.6).
const PART_BYTES: u64 = 128;
/// What goes over the wire around a request and an answer with one range, both ways.
const REQUEST_BYTES: u64 = 1024;
/// Some servers refuse more ranges in a request, or send everything (Apache from 200 on), and 100 of them take 4 kB of header.
const RANGES_MAX: usize = 100;
/// An answer of this size keeps a connection busy for a while and is not too much to lose.
const BYTES_MAX: u64 = 4 << 20;

impl Cost {
    /// At a source that answers several ranges at once.
    pub const SEVERAL: Cost = Cost {
        gap: PART_BYTES,
        ranges_max: RANGES_MAX,
        bytes_max: BYTES_MAX,
    };
    /// At one that does not.
    pub const SINGLE: Cost = Cost {
        gap: REQUEST_BYTES,
        ranges_max: 1,
        bytes_max: BYTES_MAX,
    };
}

/// The way to a source.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Way {
    /// Between asking and the first byte.
    pub answer_ms: f64,
    /// Requests that run at the same time.
    pub connections: u32,
    /// All of them together.
    pub bytes_per_ms: f64,
}

impl Way {
    fn predict_ms(&self, requests: usize, bytes: u64) -> f64 {
        requests as f64 * self.answer_ms / f64::from(self.connections.max(1))
            + bytes as f64 / self.bytes_per_ms
    }
}

/// Ascending ranges with short gaps between them closed.
pub fn merged(wants: &[ByteRange], gap: u64) -> Vec<ByteRange> {
    let mut merged: Vec<ByteRange> = Vec::new();
    for want in wants {
        match merged.last_mut() {
            Some(last) if want.start <= last.end.saturating_add(gap) => {
                last.end = last.end.max(want.end);
            }
            _ => merged.push(*want),
        }
    }
    merged
}

/// The gap up to which these ascending ranges are best put together: wide enough that all requests do not take longer than one for
/// everything.
pub fn gap_in_time(ranges: &[ByteRange], least: u64, length: u64, way: &Way) -> u64 {
    let whole_ms = way.predict_ms(1, length);
    let gaps = ranges.windows(2);
    let mut gaps: Vec<u64> = gaps
        .map(|pair| pair[1].start.saturating_sub(pair[0].end))
        .collect();
    gaps.sort_unstable();
    let mut bytes: u64 = ranges.iter().map(|range| range.length()).sum();
    let mut requests = ranges.len();
    let mut widest = least;
    for gap in gaps {
        if gap > least && way.predict_ms(requests, bytes) <= whole_ms {
            break;
        }
        (requests, bytes, widest) = (requests - 1, bytes + gap, widest.max(gap));
    }
    widest
}

/// Shares ascending ranges out to requests. None is cut.
pub fn requests(wants: &[ByteRange], cost: &Cost) -> Vec<Vec<ByteRange>> {
    let mut requests: Vec<Vec<ByteRange>> = Vec::new();
    let (mut parts, mut bytes) = (0, 0);
    for want in wants {
        let last = requests.last().and_then(|request| request.last());
        let gap = last.map_or(u64::MAX, |last| want.start.saturating_sub(last.end));
        let (more_parts, more_bytes) = match gap <= cost.gap {
            true => (0, gap + want.length()),
            false => (1, want.length()),
        };
        match requests.last_mut() {
            Some(request)
                if parts + more_parts <= cost.ranges_max
                    && bytes + more_bytes <= cost.bytes_max =>
            {
                request.push(*want);
                (parts, bytes) = (parts + more_parts, bytes + more_bytes);
            }
            _ => {
                requests.push(vec![*want]);
                (parts, bytes) = (1, want.length());
            }
        }
    }
    requests
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(bounds: &[(u64, u64)]) -> Vec<ByteRange> {
        let range = |(start, end): &(u64, u64)| ByteRange::new(*start, *end);
        bounds.iter().map(range).collect()
    }

    #[test]
    fn short_gaps_are_read_along() {
        let wants = ranges(&[(0, 10), (10, 20), (30, 40), (51, 60)]);
        assert_eq!(merged(&wants, 0), ranges(&[(0, 20), (30, 40), (51, 60)]));
        assert_eq!(merged(&wants, 10), ranges(&[(0, 40), (51, 60)]));
        assert_eq!(merged(&wants, 11), ranges(&[(0, 60)]));
        assert_eq!(merged(&[], 11), []);
    }

    #[test]
    fn many_requests_are_merged_when_the_whole_would_come_sooner() {
        let wants: Vec<ByteRange> = (0..1000)
            .map(|i| ByteRange::new(i * 2000 + (i % 2) * 500, i * 2000 + 1000))
            .collect();
        let way = |answer_ms, bytes_per_ms| Way {
            answer_ms,
            connections: 4,
            bytes_per_ms,
        };
        let gap = |length, way| gap_in_time(&wants, 10, length, &way);
        // A slow line: bytes are dear.
        assert_eq!(gap(10 << 20, way(1.0, 10.0)), 10);
        // A fast and long one: everything at once is best.
        assert_eq!(gap(2_000_000, way(100.0, 1e6)), 1500);
        // Between them the shorter gaps close.
        assert_eq!(gap(2_100_000, way(0.75, 8000.0)), 1000);
    }

    #[test]
    fn requests_have_bounds_and_lose_nothing() {
        let cost = Cost {
            gap: 5,
            ranges_max: 3,
            bytes_max: 100,
        };
        let wants = ranges(&[
            (0, 10),
            (20, 30),
            (35, 40),
            (60, 70),
            (100, 350),
            (400, 480),
            (490, 500),
        ]);
        let made = requests(&wants, &cost);
        let counts: Vec<usize> = made.iter().map(Vec::len).collect();
        assert_eq!(counts, [4, 1, 2]);
        assert_eq!(made.concat(), wants);
        assert_eq!(merged(&made[0], cost.gap).len(), 3);
        let single = requests(
            &wants,
            &Cost {
                ranges_max: 1,
                ..cost
            },
        );
        assert_eq!(
            single.iter().map(Vec::len).collect::<Vec<_>>(),
            [1, 2, 1, 1, 1, 1]
        );
    }
}
