//! Distributes ranges of a representation over requests. Neighbours are joined, and the gap between them is read and dropped,
//! where that costs less than two ranges. A long range that must arrive in order is cut for several connections.

use crate::format::geometry::ByteRange;

/// What a request costs at a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Gaps up to this many bytes are read and dropped.
    pub gap: u64,
    /// Ranges that one request may have.
    pub ranges_max: usize,
    /// Bytes of one request, unless a single range is longer.
    pub bytes_max: u64,
}

/// Overhead of a part of a multipart/byteranges body: its boundary, Content-Type and Content-Range (RFC 9110, 14.6).
const PART_OVERHEAD_BYTES: u64 = 128;
/// Overhead of a request for one range and its response, both ways.
const REQUEST_OVERHEAD_BYTES: u64 = 1024;
/// Some servers refuse more ranges in a request, or send everything (Apache from 200 on), and 100 of them take 4 kB of header.
const RANGES_MAX: usize = 100;
/// A response of this size keeps a connection busy for a while and is not too much to lose.
const BYTES_MAX: u64 = 4 << 20;

/// A new connection delivers this much in about five round trips. Shorter parts are slower, because all wait for the one that
/// loses a packet: on a line with 40 ms and 0.5 % loss, parts of 16 and 64 KiB were slower than one response of 120 KiB.
const PART_BYTES_MIN: u64 = 256 << 10;
/// Parts wait in memory until those before them have arrived: at most this much for each connection.
const PART_BYTES_MAX: u64 = 1 << 20;

impl Cost {
    /// At a source that serves several ranges in one response.
    pub const SEVERAL: Cost = Cost {
        gap: PART_OVERHEAD_BYTES,
        ranges_max: RANGES_MAX,
        bytes_max: BYTES_MAX,
    };
    /// At one that does not.
    pub const SINGLE: Cost = Cost {
        gap: REQUEST_OVERHEAD_BYTES,
        ranges_max: 1,
        bytes_max: BYTES_MAX,
    };
}

/// The connection speed and latency between here and a source.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// From the request to the first byte of the response.
    pub response_ms: f64,
    /// Requests that run at the same time.
    pub connections: u32,
    /// All of them together.
    pub bytes_per_ms: f64,
}

impl Link {
    fn predict_ms(&self, requests: usize, bytes: u64) -> f64 {
        requests as f64 * self.response_ms / f64::from(self.connections.max(1))
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

/// The gap up to which these ascending ranges are best merged: so wide that all requests together take no longer than one request
/// for the whole representation.
pub fn gap_in_time(ranges: &[ByteRange], least: u64, length: u64, link: &Link) -> u64 {
    let whole_ms = link.predict_ms(1, length);
    let gaps = ranges.windows(2);
    let mut gaps: Vec<u64> = gaps
        .map(|pair| pair[1].start.saturating_sub(pair[0].end))
        .collect();
    gaps.sort_unstable();
    let mut bytes: u64 = ranges.iter().map(|range| range.length()).sum();
    let mut requests = ranges.len();
    let mut widest = least;
    for gap in gaps {
        if gap > least && link.predict_ms(requests, bytes) <= whole_ms {
            break;
        }
        (requests, bytes, widest) = (requests - 1, bytes + gap, widest.max(gap));
    }
    widest
}

/// Distributes ascending ranges over requests. No range is cut.
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

/// Splits a long range into parts for this many connections.
pub fn parts(range: ByteRange, connections: u32) -> Vec<ByteRange> {
    let even = range.length().div_ceil(u64::from(connections.max(1)));
    let most = even.clamp(PART_BYTES_MIN, PART_BYTES_MAX);
    let starts = (range.start..range.end).step_by(most as usize);
    starts
        .map(|start| ByteRange::new(start, range.end.min(start + most)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_for_connections() {
        let cut = |length, connections| -> Vec<u64> {
            let parts = parts(ByteRange::new(1536, 1536 + length), connections);
            let mut next = 1536;
            for part in &parts {
                assert_eq!(part.start, next);
                next = part.end;
            }
            assert_eq!(next, 1536 + length);
            parts.iter().map(|part| part.length()).collect()
        };
        let (least, most) = (PART_BYTES_MIN, PART_BYTES_MAX);
        assert!(cut(0, 8).is_empty());
        assert_eq!(cut(1, 8), [1]);
        assert_eq!(cut(least + 1, 8), [least, 1]);
        assert_eq!(cut(8 * least + 8, 8), [least + 1; 8]);
        assert_eq!(cut(3 * most, 1), [most; 3]);
        assert_eq!(cut(9 * most, 8), [most; 9]);
        assert_eq!(cut(2 * most, 4), [most / 2; 4]);
    }

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
        let link = |response_ms, bytes_per_ms| Link {
            response_ms,
            connections: 4,
            bytes_per_ms,
        };
        let gap = |length, link| gap_in_time(&wants, 10, length, &link);
        // A slow line: bytes are dear.
        assert_eq!(gap(10 << 20, link(1.0, 10.0)), 10);
        // A fast and long one: everything at once is best.
        assert_eq!(gap(2_000_000, link(100.0, 1e6)), 1500);
        // Between them the shorter gaps close.
        assert_eq!(gap(2_100_000, link(0.75, 8000.0)), 1000);
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
