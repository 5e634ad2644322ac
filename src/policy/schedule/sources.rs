//! The state of a source in the scheduler.

use std::collections::BTreeMap;

use crate::{
    format::geometry::BlockIndex,
    policy::{
        refusals::{Refusal, Refusals},
        reputation::Reputation,
    },
};

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
    pub host: HostLimits,
    pub running: u32,
    /// It gets no request before this time: it was unreachable, its stream failed, or its `Retry-After` has not passed.
    pub not_before: Millis,
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
            host: HostLimits::default(),
            running: 0,
            not_before: 0,
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
        !self.dropped && self.ranges && !self.unreachable && self.may_request(now)
    }

    /// The time before which it gets no request because its host limits them.
    pub fn refuses_until(&self) -> Millis {
        let pause = match self.host.running {
            0 => self.host.until,
            _ => 0,
        };
        self.host.reputation.until_ms.max(pause)
    }

    /// Whether it may get requests now.
    pub fn may_request(&self, now: Millis) -> bool {
        self.not_before <= now && self.refuses_until() <= now
    }

    /// The most connections that its host accepts, as far as is known.
    pub fn connections(&self) -> u32 {
        self.host.reputation.connections.unwrap_or(u32::MAX)
    }

    /// Whether its latest blocks were all wrong: it may serve another object. A link that damages bytes spoils single blocks.
    pub fn is_suspect(&self) -> bool {
        self.wrong_in_row >= SUSPECT_AFTER
    }

    /// Whether its host limits requests: it gets as few as possible.
    pub fn is_limited(&self) -> bool {
        self.host.reputation.connections.is_some()
    }

    /// Whether it may get one more request now.
    pub fn has_room(&self, now: Millis) -> bool {
        self.free_slots(now) > 0
    }

    /// How many more requests it may get now.
    pub fn free_slots(&self, now: Millis) -> u32 {
        let most = if self.unreachable || self.is_suspect() {
            1
        } else {
            self.connections()
        };
        let most = match now < self.host.until {
            true => most.min(self.host.running),
            false => most,
        };
        match !self.dropped && self.ranges && self.may_request(now) {
            true => most.saturating_sub(self.running),
            false => 0,
        }
    }

    /// Merges the reputation of its host.
    pub fn merge_reputation(&mut self, reputation: Reputation) {
        self.host.reputation = self.host.reputation.joined(reputation);
    }

    /// Notes that its host refused a request, and returns the wait for the next one. What is being served goes on.
    /// `connections`: how many were intended.
    pub fn refuse(&mut self, now: Millis, request: RefusedRequest, connections: u32) -> Millis {
        let RefusedRequest {
            sent,
            mut refusal,
            random,
        } = request;
        // Others that run may be served.
        refusal.serves |= self.running > 0;
        self.host
            .reputation
            .too_many(now, sent, connections, refusal.retry_after_ms);
        let host = &mut self.host;
        host.running = self.running;
        // Requests that are refused together count once, and wait together; a pause begins only after all of them.
        if !refusal.serves || host.refused_at.is_none_or(|at| sent > at) {
            host.refusals.count(refusal);
            host.refused_at = Some(now);
            let wait = host.refusals.wait_ms(refusal, random);
            host.until = host.until.max(now + wait);
        }
        host.until.saturating_sub(now)
    }

    /// Notes that no request was sent, because of a `Retry-After` to another request to its host.
    pub fn retry_after(&mut self, now: Millis, wait_ms: u64) {
        self.host.reputation.until_ms = self.host.reputation.until_ms.max(now + wait_ms);
    }
}

/// A request that a host refused because it limits requests.
#[derive(Clone, Copy, Debug)]
pub struct RefusedRequest {
    /// When it was sent.
    pub sent: Millis,
    pub refusal: Refusal,
    /// Any number, for jitter.
    pub random: u64,
}

/// How the host of a source limits requests. Until a time, it gets no more of them at once than it had after its last refusal: one
/// that is served may be followed by another, and what was refused waits.
#[derive(Clone, Debug, Default)]
pub struct HostLimits {
    /// Times count from the start of the run.
    pub reputation: Reputation,
    /// The refusals since its last response.
    pub refusals: Refusals,
    /// When the last one came that counts.
    refused_at: Option<Millis>,
    pub until: Millis,
    running: u32,
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

    /// Subtracts time that was counted, but was not spent on the source.
    pub fn take_time(&mut self, connection_ms: u64) {
        self.connection_ms = self.connection_ms.saturating_sub(connection_ms);
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
    /// Its host limits requests: this says nothing about the blocks.
    pub refused: bool,
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
