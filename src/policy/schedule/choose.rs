//! Which blocks are requested next, and from which source.
//!
//! Spans are sized so that all connections end together, each at its own rate: a slow source gets smaller ones, and an idle
//! connection takes over the end of a slower one's span.

use crate::{
    format::geometry::{BlockIndex, BlockRange},
    policy::recovery::Class,
};

use super::{
    Command, Millis, Scheduler, SourceId, Span, SpanId, Waiting,
    search::FAR_MS,
    sources::{Source, SourceFailure, may_try},
    want::overlap,
};

/// While the rate of its source is unknown, a span is at least this large unless less is missing: requests stay few.
const SPAN_BYTES_MIN: u64 = 1 << 20;
/// Once the rate of its source is known, a span takes at least this many times the latency of its response, within these bounds
/// of its size.
const SPAN_ROUND_TRIPS: u64 = 16;
const SPAN_BYTES_SLOW: u64 = 256 << 10;
const SPAN_BYTES_FAR: u64 = 4 << 20;
/// A span is never larger: what a broken connection puts back into the queue stays local.
const SPAN_BYTES_MAX: u64 = 64 << 20;
/// A span takes no longer than this at a known rate, because the number of connections can fall only when spans end. While a
/// larger number is being tried it may have to fall soon.
const SPAN_MS_MAX: u64 = 10_000;
const SPAN_MS_TRIAL: u64 = 1_500;
/// An idle connection takes a part of the slowest span when that span would need longer than this, and longer than this many
/// times the latency: what is in flight behind its new end is wasted.
const SPLIT_WORTH_MS: u64 = 300;
const SPLIT_ROUND_TRIPS: u64 = 10;
/// A span that is slow at low latency is slow on this machine: its bytes have arrived and wait to be read.
const SPLIT_NEAR_MS: u64 = 2_000;
/// The rate of a younger span is not meaningful yet: on a busy machine its first bytes wait for a thread. It is not split unless
/// the rate of its source is known.
const SPLIT_AGE_MS_MIN: u64 = 100;
/// A span with less left than this is not split.
const SPLIT_BYTES_MIN: u64 = 256 << 10;
/// A span without bytes for this long is requested once more, over another connection that is idle.
const SILENT_MS: u64 = 1_000;
/// While other sources can serve, a stream starts only after this time without a newly proven block: each of its bytes may arrive
/// twice.
pub const STREAM_AFTER_MS: u64 = 10_000;
/// With fewer connections than this none of them probes whether an unreachable source is back.
const PROBE_CONNECTIONS: u32 = 4;

/// Blocks to request next, and their source.
struct Next {
    /// The index of their range among those that are wanted, 0 for the most urgent.
    urgency: usize,
    blocks: BlockRange,
    source: SourceId,
    /// Their index in [`Scheduler::waiting`], if they failed before.
    waiting: Option<usize>,
}

impl Scheduler {
    /// Starts a span if a source has room and blocks are to be requested. The most urgent range comes first, and in one range the
    /// blocks that failed before.
    pub(super) fn start(&mut self, now: Millis) -> Option<Command> {
        if let Some(command) = self.probe(now) {
            return Some(command);
        }
        if self.spans.len() >= self.limits.connections as usize {
            return None;
        }
        self.blocks.release_refused(now);
        let failed = self.next_waiting(now);
        let fresh = self.next_todo(now);
        let fresh_is_first = match (&failed, &fresh) {
            (Some(failed), Some(fresh)) => fresh.urgency < failed.urgency,
            (failed, _) => failed.is_none(),
        };
        match if fresh_is_first { fresh } else { failed } {
            Some(next) => {
                let tried = next
                    .waiting
                    .map(|index| self.blocks.take_waiting(index, next.blocks));
                let tried = tried.unwrap_or_default();
                Some(self.start_span(now, next.source, next.blocks, tried))
            }
            None => self.start_stream(now),
        }
    }

    /// How many spans may run now.
    pub(super) fn room(&self) -> usize {
        self.limits.connections.min(self.search.connections()) as usize
    }

    /// Probes an unreachable source with one block while other sources serve, so that it is used again once it is back.
    fn probe(&mut self, now: Millis) -> Option<Command> {
        let most = self.limits.connections;
        if most < PROBE_CONNECTIONS
            || self.spans.len() >= most as usize
            || !self.blocks.length_proven
        {
            return None;
        }
        let is_lost =
            |source: &Source| source.unreachable && source.running == 0 && source.has_room(now);
        let unreachable = SourceId(self.sources.iter().position(is_lost)?);
        let others_serve = self
            .spans
            .values()
            .any(|span| span.source != unreachable && span.bytes > 0);
        let last = self.least_urgent().filter(|_| others_serve)?;
        let blocks = BlockRange::one(last);
        Some(self.start_span(now, unreachable, blocks, Vec::new()))
    }

    fn start_span(
        &mut self,
        now: Millis,
        source: SourceId,
        blocks: BlockRange,
        tried: Vec<SourceFailure>,
    ) -> Command {
        self.blocks.todo.remove_range(blocks);
        let failures = tried
            .iter()
            .find(|tried| tried.source == source)
            .map_or(0, |tried| tried.failures);
        self.run(Span {
            source,
            blocks,
            first: BlockIndex(blocks.start),
            whole: false,
            failures,
            tried,
            since: now,
            bytes: 0,
            opened: false,
            last_received: now,
        })
    }

    fn run(&mut self, span: Span) -> Command {
        let id = SpanId(self.next_span);
        self.next_span += 1;
        self.sources[span.source.0].running += 1;
        let (source, blocks, whole) = (span.source, span.blocks, span.whole);
        self.spans.insert(id, span);
        Command::Start {
            span: id,
            source,
            blocks,
            whole,
        }
    }

    /// Starts a stream, the whole object from a source without ranges, when no other source makes progress.
    fn start_stream(&mut self, now: Millis) -> Option<Command> {
        let served = self.spans.values().any(|span| span.whole)
            || self.sources.iter().any(|source| source.serves_ranges(now));
        if served && now < self.patience.since + STREAM_AFTER_MS {
            return None;
        }
        let wants = |id| {
            !self.blocks.todo.is_empty()
                || self.blocks.waiting.iter().any(|waiting| {
                    may_try(&waiting.tried, id, now)
                        && self.blocks.next_wanted(waiting.blocks).is_some()
                })
        };
        let id = (0..self.sources.len()).map(SourceId).find(|id| {
            let source = &self.sources[id.0];
            !source.dropped
                && !source.ranges
                && source.running == 0
                && source.may_request(now)
                && wants(*id)
        })?;
        let (blocks, failures) = (self.geometry.all(), self.sources[id.0].stream_failures);
        let tried = Vec::new();
        Some(self.run(Span {
            source: id,
            blocks,
            first: BlockIndex(blocks.start),
            whole: true,
            failures,
            tried,
            since: now,
            bytes: 0,
            opened: false,
            last_received: now,
        }))
    }

    /// Chooses a source with ranges and room: first one that did not fail these blocks, or failed them longest ago; then the one
    /// with the highest rate per connection, counting the new one, so that each source gets some.
    fn free_source(&self, now: Millis, tried: &[SourceFailure]) -> Option<SourceId> {
        // After the number of connections fell, spans of a slow source that still run must not keep the others from their share.
        let is_full = self.spans.len() >= self.room();
        let serving = self
            .sources
            .iter()
            .filter(|source| source.running > 0 || source.serves_ranges(now));
        let share = match self.search.has_fallen() {
            true => (self.room() / serving.count().max(1)) as u32,
            false => 0,
        };
        let rates = || self.sources.iter().filter_map(|source| source.pace.rate());
        let fastest = rates().max().unwrap_or(1);
        (0..self.sources.len())
            .map(SourceId)
            .filter(|id| {
                let source = &self.sources[id.0];
                (!is_full || source.running < share) && source.has_room(now)
            })
            .filter(|id| may_try(tried, *id, now))
            .min_by_key(|id| {
                let source = &self.sources[id.0];
                let rate = source.pace.rate().unwrap_or(fastest);
                // An unreachable source is tried last.
                (
                    source.unreachable,
                    tried.iter().position(|tried| tried.source == *id),
                    (u128::from(source.running + 1) << 64) / u128::from(rate),
                    id.0,
                )
            })
    }

    /// Blocks that failed before and may be requested again now: the first ones of the most urgent range.
    fn next_waiting(&mut self, now: Millis) -> Option<Next> {
        self.blocks.forget_waiting_that_arrived();
        let ranges = self.urgent_ranges();
        let of_range = |(urgency, range): (usize, &BlockRange)| {
            let parts = self.blocks.waiting.iter().enumerate();
            let parts = parts.map(|(index, waiting)| (index, overlap(waiting.blocks, *range)));
            let parts = parts.map(|(index, part)| (index, self.blocks.still_wanted(part)));
            let parts = parts.filter(|(_, part)| !part.is_empty());
            let next = parts.filter_map(|(index, blocks)| {
                Some(Next {
                    urgency,
                    blocks,
                    source: self.free_source(now, &self.blocks.waiting[index].tried)?,
                    waiting: Some(index),
                })
            });
            next.min_by_key(|next| next.blocks.start)
        };
        ranges.iter().enumerate().find_map(of_range)
    }

    /// The next todo blocks of the most urgent range, as many as make a good span, and a source for them.
    fn next_todo(&self, now: Millis) -> Option<Next> {
        let ranges = self.urgent_ranges();
        let first = |(urgency, range): (usize, &BlockRange)| {
            let start = self.blocks.todo.next(BlockIndex(range.start))?;
            (start.0 < range.end).then_some((urgency, *range, start))
        };
        let (urgency, range, start) = ranges.iter().enumerate().find_map(first)?;
        // A suspect source repeats its wrong blocks before it gets others: they decide about it.
        let decides =
            |id: &SourceId| !self.sources[id.0].is_suspect() || !self.blocks.has_wanted_waiting();
        let source = self.free_source(now, &[]).filter(decides)?;
        let end = self
            .blocks
            .todo
            .next_missing(start)
            .map_or(range.end, |end| end.0);
        let most = self.span_blocks(now, source, self.blocks.todo_in(range));
        let run = end.min(range.end);
        let end = self.border(start.0, start.0.saturating_add(most));
        Some(Next {
            urgency,
            blocks: BlockRange::new(start.0, run.min(end)),
            source,
            waiting: None,
        })
    }

    /// The border of units at or before this block, or the next one if that is not after `start`.
    fn border(&self, start: u32, block: u32) -> u32 {
        let unit = self.blocks.unit;
        let before = block / unit * unit;
        match before > start {
            true => before,
            false => block.div_ceil(unit).saturating_mul(unit),
        }
    }

    /// The last todo block of the least urgent range that has any.
    fn least_urgent(&self) -> Option<BlockIndex> {
        let ranges = self.urgent_ranges();
        let last = |range: &BlockRange| self.blocks.todo_runs(*range).last();
        let run = ranges.iter().rev().find_map(last)?;
        Some(BlockIndex(run.end - 1))
    }

    /// How many blocks make a good span while `todo` blocks are to be requested. Spans get smaller towards the end, so that all
    /// connections finish together; the slower the source, the smaller. A host that limits requests gets few and large ones.
    fn span_blocks(&self, now: Millis, id: SourceId, todo: u32) -> u32 {
        let size = self.geometry.block_size().bytes();
        let serving = || self.sources.iter().filter(|source| !source.dropped);
        let connections: u64 = serving()
            .map(|source| u64::from(source.connections()))
            .sum();
        let source = &self.sources[id.0];
        // While no rate is known the number of connections may still grow, and blocks must be left for the new ones.
        let room = match source.pace.rate() {
            None => self.limits.connections.max(1),
            Some(_) => self.room() as u32,
        };
        let connections = connections.clamp(1, u64::from(room));
        let share = match source.is_limited() && serving().count() == 1 {
            true => {
                let free = source.free_slots(now).clamp(1, room);
                (u64::from(todo) * size).div_ceil(u64::from(free))
            }
            // Two thirds of a fair share: few spans cost few round trips, but the last ones must be short.
            false => u64::from(todo) * size * 2 / (3 * connections),
        };
        let bytes = match source.pace.rate() {
            None => share.clamp(SPAN_BYTES_MIN, SPAN_BYTES_MAX),
            Some(rate) => {
                let (rates, running) = serving()
                    .filter_map(|source| Some((source.pace.rate()?, source.running.max(1))))
                    .fold((0, 0), |(rates, all), (rate, running)| {
                        (
                            rates + u128::from(rate) * u128::from(running),
                            all + u128::from(running),
                        )
                    });
                let share = u128::from(share) * u128::from(rate) * running / rates;
                let response_ms = source.response_ms.unwrap_or(0);
                let least = (rate.saturating_mul(response_ms * SPAN_ROUND_TRIPS) / 1000)
                    .clamp(SPAN_BYTES_SLOW, SPAN_BYTES_FAR);
                let most_ms = match self.search.is_trying_more() {
                    true => SPAN_MS_TRIAL,
                    false => SPAN_MS_MAX,
                };
                let most = (rate.saturating_mul(most_ms) / 1000).clamp(least, SPAN_BYTES_MAX);
                u64::try_from(share).unwrap_or(u64::MAX).clamp(least, most)
            }
        };
        (bytes / size).max(1) as u32
    }

    /// Gives an idle connection a part of the span that would end last, so that both end together. Not while the rate limit holds
    /// bytes back: the running connections get the share of the idle one, and what a server has sent ahead would be sent twice.
    pub(super) fn split(&mut self, now: Millis) -> Option<Command> {
        if self.search.is_held_back() {
            return None;
        }
        let most = self.limits.connections as usize;
        if self.spans.len() >= most || !self.blocks.length_proven || !self.blocks.todo.is_empty() {
            return None;
        }
        if let Some(command) = self.take_silent(now) {
            return Some(command);
        }
        let source = self
            .free_source(now, &[])
            .filter(|source| !self.sources[source.0].unreachable)?;
        let worth_ms = worth_ms(&self.sources[source.0]);
        let (id, _) = self
            .spans
            .iter()
            .filter(|(_, span)| self.not_begun(span).count() >= 1 && !span.whole)
            .filter(|(_, span)| self.bytes_coming(span) >= SPLIT_BYTES_MIN)
            .filter(|(_, span)| self.has_known_rate(now, span))
            .map(|(id, span)| (*id, self.left_ms(now, span)))
            .filter(|(_, left)| *left > worth_ms)
            .max_by_key(|(_, left)| *left)?;
        let middle = self.split_at(now, &self.spans[&id], source)?;
        let span = self.spans.get_mut(&id)?;
        let rest = BlockRange::new(middle, span.blocks.end);
        span.blocks.end = middle;
        let left = BlockIndex(span.blocks.start);
        let wanted = self.blocks.wanted.blocks.next(left);
        if wanted.is_some_and(|block| block.0 < middle) {
            let end = BlockIndex(middle);
            self.pending.push_back(Command::Shrink { span: id, end });
        } else {
            // Only blocks that are not wanted are left of it: it read over them.
            self.cancel(id);
        }
        let rest = self.blocks.still_wanted(rest);
        if !rest.is_empty() {
            let start = self.start_span(now, source, rest, Vec::new());
            self.pending.push_back(start);
        }
        self.pending.pop_front()
    }

    /// The block at which to split so that both parts end together: the span at its rate so far, the new one at that of its
    /// source.
    fn split_at(&self, now: Millis, span: &Span, source: SourceId) -> Option<u32> {
        let source = &self.sources[source.0];
        let before = self.rate_of(now, span);
        let after = source.pace.rate().unwrap_or(before).max(1);
        let left = self.bytes_coming(span);
        let until_then = before.saturating_mul(source.response_ms.unwrap_or(0)) / 1000;
        let moved = u128::from(left.saturating_sub(until_then)) * u128::from(after)
            / (u128::from(before) + u128::from(after));
        let moved = (moved as u64 / self.geometry.block_size().bytes()) as u32;
        let not_begun = self.not_begun(span);
        let moved = moved.min(not_begun.count());
        let middle = self.border(not_begun.start.saturating_sub(1), span.blocks.end - moved);
        (moved > 0 && middle < span.blocks.end).then_some(middle)
    }

    /// The bytes of a span that have not arrived. Those that wait for the judge are not requested again.
    fn bytes_coming(&self, span: &Span) -> u64 {
        let arrived = self.geometry.bytes_of(span.first).start + span.bytes;
        let blocks = self.geometry.bytes_of_range(span.blocks);
        blocks.end.saturating_sub(arrived.max(blocks.start))
    }

    /// The blocks of a span of which nothing has arrived, never its first.
    fn not_begun(&self, span: &Span) -> BlockRange {
        let arrived = self.geometry.bytes_of(span.first).start + span.bytes;
        let next = arrived.div_ceil(self.geometry.block_size().bytes());
        let next = u32::try_from(next).unwrap_or(u32::MAX);
        let BlockRange { start, end } = span.blocks;
        BlockRange::new(next.clamp((start + 1).min(end), end), end)
    }

    /// Requests a span without bytes again, once, preferably from another source with room.
    fn take_silent(&mut self, now: Millis) -> Option<Command> {
        let taken_from = |span: &Span| SourceFailure {
            source: span.source,
            failures: span.failures,
            not_before: now,
            refused: false,
        };
        let is_silent = |span: &Span| {
            let response_ms = self.sources[span.source.0].response_ms.unwrap_or(0);
            now.saturating_sub(span.last_received) > SILENT_MS.max(SPLIT_ROUND_TRIPS * response_ms)
        };
        self.free_source(now, &[])
            .filter(|source| !self.sources[source.0].unreachable)?;
        let (id, _) = self
            .spans
            .iter()
            .find(|(_, span)| !span.whole && span.tried.is_empty() && is_silent(span))?;
        let (id, span) = (*id, self.remove_span(*id)?);
        self.blocks.waiting.push(Waiting {
            blocks: span.blocks,
            tried: vec![taken_from(&span)],
        });
        self.pending.push_back(Command::Retry {
            source: span.source,
            class: Class::Again,
            attempt: span.failures,
            wait_ms: 0,
        });
        Some(Command::Cancel { span: id })
    }

    fn has_known_rate(&self, now: Millis, span: &Span) -> bool {
        let age = now.saturating_sub(span.since);
        age >= SPLIT_AGE_MS_MIN || self.sources[span.source.0].pace.rate().is_some()
    }

    /// The estimated time until a span ends.
    fn left_ms(&self, now: Millis, span: &Span) -> u64 {
        let left = self.bytes_coming(span);
        match self.rate_of(now, span) {
            // Nothing arrived: as long again as it has waited already.
            0 => now.saturating_sub(span.since),
            rate => left.saturating_mul(1000) / rate,
        }
    }

    /// Bytes a second of a span so far; the rate of its source while the span is too young for one of its own.
    fn rate_of(&self, now: Millis, span: &Span) -> u64 {
        let source = &self.sources[span.source.0];
        let age = now.saturating_sub(span.since).max(1);
        let so_far = span.bytes.saturating_mul(1000) / age;
        if age < worth_ms(source) {
            source.pace.rate().unwrap_or(so_far)
        } else {
            so_far
        }
    }
}

/// The time that a split must save to be worth a request to this source.
fn worth_ms(source: &Source) -> u64 {
    match source.response_ms {
        Some(response_ms) if response_ms >= FAR_MS => {
            SPLIT_WORTH_MS.max(SPLIT_ROUND_TRIPS * response_ms)
        }
        _ => SPLIT_NEAR_MS,
    }
}
