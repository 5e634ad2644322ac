//! The state of a source in the scheduler.

use std::collections::BTreeMap;

use crate::{format::geometry::BlockIndex, policy::reputation::Reputation};

use super::protocol::{Millis, SourceId};

/// With less connection time than this, the rate is not known.
const PACE_MS_MIN: u64 = 1_000;
/// After this many wrong blocks in a row a source is suspect: it gets one request at a time, for one of these blocks, until a
/// block is proven.
const SUSPECT_AFTER: u32 = 2;

#[derive(Clone, Debug)]
pub struct Source {
    pub dropped: bool,
    pub ranges: bool,
    /// The reputation of its host; times count from the start of the run.
    pub reputation: Reputation,
    pub running: u32,
    /// It gets no request before this time.
    pub rest_until: Millis,
    /// Its host does not respond: it gets one request at a time, as a probe.
    pub unreachable: bool,
    pub bad_responses: u32,
    /// Failures in a row of its stream.
    pub stream_failures: u32,
    /// How often each block came wrong from it.
    pub wrong_blocks: BTreeMap<BlockIndex, u32>,
    /// Blocks that came wrong since the last proven one.
    pub wrong_in_row: u32,
    /// The shortest latency of its responses.
    pub response_ms: Option<u64>,
    pub pace: Pace,
}

impl Source {
    /// A source without a response yet.
    pub fn new() -> Source {
        Source {
            dropped: false,
            ranges: true,
            reputation: Reputation::default(),
            running: 0,
            rest_until: 0,
            unreachable: false,
            bad_responses: 0,
            stream_failures: 0,
            wrong_blocks: BTreeMap::new(),
            wrong_in_row: 0,
            response_ms: None,
            pace: Pace::default(),
        }
    }

    /// Whether it can serve ranges now, as far as is known.
    pub fn serves_ranges(&self, now: Millis) -> bool {
        !self.dropped && self.ranges && !self.unreachable && self.rest_until <= now
    }

    /// The most connections that its host accepts, as far as is known.
    pub fn connections(&self) -> u32 {
        self.reputation.connections.unwrap_or(u32::MAX)
    }

    /// Whether its latest blocks were all wrong: it may serve another object. A link that damages bytes spoils single blocks.
    pub fn is_suspect(&self) -> bool {
        self.wrong_in_row >= SUSPECT_AFTER
    }

    /// Whether it may get one more request now.
    pub fn has_room(&self, now: Millis) -> bool {
        let most = if self.unreachable || self.is_suspect() {
            1
        } else {
            self.connections()
        };
        !self.dropped && self.ranges && self.rest_until <= now && self.running < most
    }

    /// Merges the reputation of its host.
    pub fn merge_reputation(&mut self, reputation: Reputation) {
        self.reputation = self.reputation.joined(reputation);
        self.rest_until = self.rest_until.max(self.reputation.until_ms);
    }

    /// Notes a 429: its host accepts fewer connections than it had.
    pub fn slow(
        &mut self,
        now: Millis,
        connections: u32,
        retry_after_ms: Option<u64>,
        random: u64,
    ) {
        self.reputation
            .too_many(now, connections, retry_after_ms, random);
        self.rest_until = self.rest_until.max(self.reputation.until_ms);
    }

    /// Notes that its host is in a cooldown of this length.
    pub fn rest(&mut self, now: Millis, rest_ms: u64) {
        self.reputation.until_ms = self.reputation.until_ms.max(now + rest_ms);
        self.rest_until = self.rest_until.max(self.reputation.until_ms);
    }
}

/// The rate of the connections to a source: bytes and connection time, the older ones with less weight.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    bytes: u64,
    connection_ms: u64,
}

impl Pace {
    pub fn add_bytes(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    pub fn add_time(&mut self, connection_ms: u64) {
        self.connection_ms += connection_ms;
    }

    /// Reduces the weight of what is counted so far; called once a round.
    pub fn fade(&mut self) {
        self.bytes -= self.bytes / 4;
        self.connection_ms -= self.connection_ms / 4;
    }

    /// Bytes a second of one connection; `None` while it is not known.
    pub fn rate(&self) -> Option<u64> {
        (self.bytes > 0 && self.connection_ms >= PACE_MS_MIN)
            .then(|| (u128::from(self.bytes) * 1000 / u128::from(self.connection_ms)) as u64)
            .map(|rate| rate.max(1))
    }
}

/// A source that failed to deliver some blocks, and when they may be requested from it again. Other sources need not wait.
#[derive(Clone, Copy, Debug)]
pub struct SourceFailure {
    pub source: SourceId,
    pub failures: u32,
    pub not_before: Millis,
}

/// Whether blocks with these failures may be requested from this source now.
pub fn may_try(tried: &[SourceFailure], source: SourceId, now: Millis) -> bool {
    tried
        .iter()
        .all(|tried| tried.source != source || tried.not_before <= now)
}

/// Notes the latest failure; of each source only the last one matters.
pub fn note(tried: &mut Vec<SourceFailure>, latest: SourceFailure) {
    tried.retain(|tried| tried.source != latest.source);
    tried.push(latest);
}
