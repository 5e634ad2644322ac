//! What the scheduler knows of a source.

use std::collections::BTreeMap;

use super::{
    super::{geometry::BlockIndex, recovery},
    protocol::{Millis, SourceId},
};

/// From less connection time than this no rate is told.
const PACE_MS_MIN: u64 = 1_000;

#[derive(Clone, Debug)]
pub struct Source {
    pub dropped: bool,
    pub ranges: bool,
    /// The most connections that it may be asked for: the user's limit, or less when the host has earned less.
    pub connections: u32,
    pub running: u32,
    /// It is not asked before this time.
    pub rest_until: Millis,
    /// As far as it wants so itself.
    pub cooldown_until: Millis,
    /// Nobody answers there: one request at a time finds out.
    pub unreachable: bool,
    pub slowed: u32,
    pub bad_answers: u32,
    /// Failures in a row of its stream.
    pub stream_failures: u32,
    /// How often it sent these blocks wrong.
    pub lies: BTreeMap<BlockIndex, u32>,
    /// The shortest time that an answer took to come.
    pub answer_ms: Option<u64>,
    pub pace: Pace,
}

impl Source {
    /// One of which nothing is known yet.
    pub fn new(connections: u32) -> Source {
        Source {
            dropped: false,
            ranges: true,
            connections,
            running: 0,
            rest_until: 0,
            cooldown_until: 0,
            unreachable: false,
            slowed: 0,
            bad_answers: 0,
            stream_failures: 0,
            lies: BTreeMap::new(),
            answer_ms: None,
            pace: Pace::default(),
        }
    }

    /// Whether it can serve ranges now, as far as is known.
    pub fn serves_ranges(&self, now: Millis) -> bool {
        !self.dropped && self.ranges && !self.unreachable && self.rest_until <= now
    }

    /// Whether one more request may go there now.
    pub fn has_room(&self, now: Millis) -> bool {
        let most = if self.unreachable {
            1
        } else {
            self.connections
        };
        !self.dropped && self.ranges && self.rest_until <= now && self.running < most
    }

    /// It wants fewer connections than the ones it had. What is told together is one step, not one each.
    pub fn slow(
        &mut self,
        now: Millis,
        connections: u32,
        retry_after_ms: Option<u64>,
        random: u64,
    ) {
        if now >= self.rest_until {
            self.slowed += 1;
            self.connections = recovery::fewer_connections(self.connections.min(connections));
        }
        // A host that says "at once" each time is not asked at once each time.
        let backoff = recovery::backoff_ms(self.slowed.max(1), random);
        let cooldown = recovery::cooldown_ms(self.slowed, retry_after_ms).max(backoff);
        self.cooldown_until = self.cooldown_until.max(now + cooldown);
        self.rest_until = self.rest_until.max(self.cooldown_until);
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
