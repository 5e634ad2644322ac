//! What the scheduler knows of a source.

use std::collections::BTreeMap;

use crate::{format::geometry::BlockIndex, policy::reputation::Reputation};

use super::protocol::{Millis, SourceId};

/// From less connection time than this no rate is told.
const PACE_MS_MIN: u64 = 1_000;
/// After so many wrong blocks in a row nothing is asked of a source but one of them, until a block proves.
const DOUBTED_AFTER: u32 = 2;

#[derive(Clone, Debug)]
pub struct Source {
    pub dropped: bool,
    pub ranges: bool,
    /// What its host has earned; times are those of the run.
    pub reputation: Reputation,
    pub running: u32,
    /// It is not asked before this time.
    pub rest_until: Millis,
    /// Nobody answers there: one request at a time finds out.
    pub unreachable: bool,
    pub bad_answers: u32,
    /// Failures in a row of its stream.
    pub stream_failures: u32,
    /// How often it sent these blocks wrong.
    pub lies: BTreeMap<BlockIndex, u32>,
    /// Blocks that came wrong since the last one that proved.
    pub wrong_in_row: u32,
    /// The shortest time that an answer took to come.
    pub answer_ms: Option<u64>,
    pub pace: Pace,
}

impl Source {
    /// One of which nothing is known yet.
    pub fn new() -> Source {
        Source {
            dropped: false,
            ranges: true,
            reputation: Reputation::default(),
            running: 0,
            rest_until: 0,
            unreachable: false,
            bad_answers: 0,
            stream_failures: 0,
            lies: BTreeMap::new(),
            wrong_in_row: 0,
            answer_ms: None,
            pace: Pace::default(),
        }
    }

    /// Whether it can serve ranges now, as far as is known.
    pub fn serves_ranges(&self, now: Millis) -> bool {
        !self.dropped && self.ranges && !self.unreachable && self.rest_until <= now
    }

    /// The most connections that its host bears, as far as is known.
    pub fn connections(&self) -> u32 {
        self.reputation.connections.unwrap_or(u32::MAX)
    }

    /// Whether nothing but wrong blocks came lately: it may have another object. One bad line spoils a block here and there.
    pub fn is_doubted(&self) -> bool {
        self.wrong_in_row >= DOUBTED_AFTER
    }

    /// Whether one more request may go there now.
    pub fn has_room(&self, now: Millis) -> bool {
        let most = if self.unreachable || self.is_doubted() {
            1
        } else {
            self.connections()
        };
        !self.dropped && self.ranges && self.rest_until <= now && self.running < most
    }

    /// Its host is known from elsewhere.
    pub fn is_known(&mut self, reputation: Reputation) {
        self.reputation = self.reputation.joined(reputation);
        self.rest_until = self.rest_until.max(self.reputation.until_ms);
    }

    /// It wants fewer connections than the ones it had.
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

    /// It was not asked, because its host wants to be left alone for so long.
    pub fn rest(&mut self, now: Millis, rest_ms: u64) {
        self.reputation.until_ms = self.reputation.until_ms.max(now + rest_ms);
        self.rest_until = self.rest_until.max(self.reputation.until_ms);
    }
}

/// How fast the connections to a source are: bytes and connection time, of which the older counts less.
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

    /// Once a round.
    pub fn fade(&mut self) {
        self.bytes -= self.bytes / 4;
        self.connection_ms -= self.connection_ms / 4;
    }

    /// Bytes a second of one connection, once that is known.
    pub fn rate(&self) -> Option<u64> {
        (self.bytes > 0 && self.connection_ms >= PACE_MS_MIN)
            .then(|| (u128::from(self.bytes) * 1000 / u128::from(self.connection_ms)) as u64)
            .map(|rate| rate.max(1))
    }
}

/// A source that failed to bring some blocks. It waits before it is asked for them again; another need not.
#[derive(Clone, Copy, Debug)]
pub struct Tried {
    pub source: SourceId,
    pub failures: u32,
    pub not_before: Millis,
}

/// Whether this source may be asked now for blocks that these failed to bring.
pub fn may_try(tried: &[Tried], source: SourceId, now: Millis) -> bool {
    tried
        .iter()
        .all(|tried| tried.source != source || tried.not_before <= now)
}

/// Notes the latest failure; of each source only the last one matters.
pub fn note(tried: &mut Vec<Tried>, latest: Tried) {
    tried.retain(|tried| tried.source != latest.source);
    tried.push(latest);
}
