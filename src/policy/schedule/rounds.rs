//! Measuring rounds: the bytes that arrived in an interval over so many connections. [`Search`] chooses their number by them.

use super::{
    Scheduler,
    protocol::Millis,
    search::{Measured, Search},
};

/// A round is discarded when the connections at work differ from the intended number by more than one in this many.
const OFF_SHARE: u64 = 8;

/// The current round.
#[derive(Clone, Debug, Default)]
pub struct Round {
    since: Millis,
    /// The time up to which connection time is counted.
    until: Millis,
    bytes: u64,
    connection_ms: u64,
}

impl Round {
    pub fn add_bytes(&mut self, bytes: u64) {
        self.bytes += bytes;
    }
}

impl Scheduler {
    /// Counts the time since the last call, in which the connections were the same, and ends the round when it is over.
    pub(super) fn pass_time(&mut self, now: Millis) {
        let passed = now.saturating_sub(self.round.until);
        if passed > 0 {
            for source in &mut self.sources {
                source.pace.add_time(passed * u64::from(source.running));
            }
            self.round.connection_ms += passed * self.opened_spans();
            self.round.until = now;
        }
        if self.spans.is_empty() {
            self.begin_round(now);
        } else if now >= self.round_ends() {
            self.end_round(now);
        }
    }

    /// The spans of which a response has arrived.
    fn opened_spans(&self) -> u64 {
        self.spans.values().filter(|span| span.opened).count() as u64
    }

    /// Begins a round when nearly all connections of a new number have their first response: all but one in [`OFF_SHARE`].
    pub(super) fn begin_round_if_connected(&mut self, now: Millis) {
        let wanted = u64::from(self.search.connections());
        if self.search.is_fresh() && self.opened_spans() == wanted - wanted / OFF_SHARE {
            self.begin_round(now);
        }
    }

    pub(super) fn round_ends(&self) -> Millis {
        self.round.since + Search::round_ms(self.response_ms())
    }

    /// The latency of the farthest source.
    pub(super) fn response_ms(&self) -> u64 {
        let known = self.sources.iter().filter(|source| !source.dropped);
        known
            .filter_map(|source| source.response_ms)
            .max()
            .unwrap_or(0)
    }

    fn begin_round(&mut self, now: Millis) {
        self.round = Round {
            since: now,
            until: now,
            ..Round::default()
        };
    }

    fn end_round(&mut self, now: Millis) {
        let length = now - self.round.since;
        let wanted = length * u64::from(self.search.connections());
        let off = self.round.connection_ms.abs_diff(wanted);
        if off <= wanted / OFF_SHARE && self.round.bytes > 0 {
            let rate = self.round.bytes.saturating_mul(1000) / length;
            let measured = Measured {
                rate,
                left_ms: self.bytes_left().saturating_mul(1000) / rate.max(1),
                response_ms: self.response_ms(),
            };
            self.search.round(now, measured);
        }
        for source in &mut self.sources {
            source.pace.fade();
        }
        self.begin_round(now);
    }

    /// The bytes that are still to arrive.
    fn bytes_left(&self) -> u64 {
        let running = self.spans.values().filter(|span| !span.whole);
        let waiting = self.blocks.waiting.iter().map(|waiting| waiting.blocks);
        let waiting = waiting.filter(|blocks| self.blocks.next_wanted(*blocks).is_some());
        let apart = running.map(|span| span.blocks).chain(waiting);
        let todo = u64::from(self.blocks.todo.count()) * self.geometry.block_size().bytes();
        todo + apart
            .map(|blocks| self.geometry.bytes_of_range(blocks).length())
            .sum::<u64>()
    }
}
