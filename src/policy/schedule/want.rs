//! Which blocks the caller wants, most urgent first, and how the scheduler reacts when that changes. Three rules:
//!
//! - Spans request only wanted blocks. One exception: while the length is not proven, the last block comes before all others.
//! - Patience runs only while a wanted block is missing.
//! - The most urgent range comes first; within a range, the first missing block.

use crate::format::{
    blockset::BlockSet,
    geometry::{BlockIndex, BlockRange, Geometry},
};

use super::{
    Scheduler, Span, Waiting,
    protocol::{Command, Millis, Outcome, SourceId, SpanId},
    sources::may_try,
};

/// A running span reads up to this many unwanted bytes to reach wanted ones: a new request costs as much.
pub const READ_OVER_BYTES_MAX: u64 = 256 << 10;

/// The blocks that are wanted from now on. Held blocks may be among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// The most urgent first. They may overlap. No span crosses the end of the range that it is started for.
    pub ranges: Vec<BlockRange>,
    /// More will be wanted later: when all ranges are held, the scheduler waits instead of finishing.
    pub more: bool,
}

impl Want {
    /// The whole object, and nothing after it.
    pub fn all(geometry: &Geometry) -> Want {
        Want {
            ranges: vec![geometry.all()],
            more: false,
        }
    }
}

/// A [`Want`] and the set of its blocks.
#[derive(Clone, Debug)]
pub struct Wanted {
    ranges: Vec<BlockRange>,
    pub more: bool,
    /// The blocks of all ranges, and the last block if the length was not proven when they became wanted.
    pub blocks: BlockSet,
    /// How many of these blocks are not held.
    pub unheld: u32,
}

impl Wanted {
    /// Cuts the ranges to the object. If none is left, nothing is wanted, not even the last block.
    pub fn new(want: Want, geometry: &Geometry, held: &BlockSet, length_proven: bool) -> Wanted {
        let mut ranges = want.ranges;
        for range in &mut ranges {
            range.end = range.end.min(geometry.blocks());
        }
        ranges.retain(|range| !range.is_empty());
        let mut blocks = BlockSet::empty(geometry.blocks());
        for range in &ranges {
            blocks.insert_range(*range);
        }
        if !length_proven && !ranges.is_empty() {
            blocks.insert(geometry.last());
        }
        let mut unheld = blocks.clone();
        unheld.remove_all(held);
        Wanted {
            ranges,
            more: want.more,
            unheld: unheld.count(),
            blocks,
        }
    }
}

impl Scheduler {
    /// Replaces what is wanted. Cancels spans without wanted blocks, and ends the others after their first run of wanted blocks.
    /// A run that has finished with [`Outcome::Done`] continues; one that has failed does not.
    ///
    /// Held blocks stay held, wanted or not: they are not fetched again. Failures of blocks that are not wanted are remembered:
    /// dropping a want and repeating it does not shorten any wait.
    pub fn want(&mut self, now: Millis, want: Want) {
        self.pass_time(now);
        let had_demand = self.has_demand();
        self.blocks.wanted = Wanted::new(
            want,
            &self.geometry,
            &self.blocks.held,
            self.blocks.length_proven,
        );
        let running = self.spans.iter();
        // A span without blocks only has to end.
        let ranged = running.filter(|(_, span)| !span.whole && !span.blocks.is_empty());
        let ranged: Vec<(SpanId, BlockRange)> =
            ranged.map(|(id, span)| (*id, span.blocks)).collect();
        for (id, blocks) in ranged {
            match self.end_of_use(blocks) {
                None => self.cancel(id),
                Some(end) if end < blocks.end => self.shrink(id, end),
                Some(_) => (),
            }
        }
        self.blocks.todo = self.not_under_way();
        if !had_demand && self.has_demand() {
            self.patience.since = now;
        }
        if self.outcome == Some(Outcome::Done) {
            self.outcome = None;
        }
    }

    /// The end of the first run of wanted blocks among these, which a running span still has to deliver. `None`: there is no
    /// wanted block, or the first one is so far ahead that a new request costs less.
    fn end_of_use(&self, blocks: BlockRange) -> Option<u32> {
        let first = self.blocks.next_wanted(blocks)?;
        let over = BlockRange::new(blocks.start, first.0);
        if self.geometry.bytes_of_range(over).length() > READ_OVER_BYTES_MAX {
            return None;
        }
        let end = self.blocks.wanted.blocks.next_missing(first);
        Some(end.map_or(blocks.end, |end| end.0.min(blocks.end)))
    }

    /// Ends a span earlier. Wanted blocks behind its new end are to be requested again.
    fn shrink(&mut self, id: SpanId, end: u32) {
        let Some(span) = self.spans.get_mut(&id) else {
            return;
        };
        let rest = Span {
            blocks: BlockRange::new(end, span.blocks.end),
            ..span.clone()
        };
        span.blocks.end = end;
        self.give_back(&rest);
        match self.start_not_handed_out(id) {
            Some(Command::Start { blocks, .. }) => blocks.end = end,
            _ => self.pending.push_back(Command::Shrink {
                span: id,
                end: BlockIndex(end),
            }),
        }
    }

    /// The wanted blocks that are missing, in no ranged span, and not waiting after a failure.
    fn not_under_way(&self) -> BlockSet {
        let mut todo = self.blocks.wanted.blocks.clone();
        todo.remove_all(&self.blocks.held);
        todo.remove_all(&self.blocks.claimed);
        let ranged = self.spans.values().filter(|span| !span.whole);
        let waiting = self.blocks.waiting.iter().map(|waiting| waiting.blocks);
        for blocks in ranged.map(|span| span.blocks).chain(waiting) {
            todo.remove_range(blocks);
        }
        todo
    }

    /// The ranges to be requested now, the most urgent first.
    pub(super) fn urgent_ranges(&self) -> Vec<BlockRange> {
        match self.blocks.length_proven || self.blocks.wanted.ranges.is_empty() {
            true => self.blocks.wanted.ranges.clone(),
            // Before the length is proven only the last block may be requested.
            false => vec![BlockRange::one(self.geometry.last())],
        }
    }

    /// Whether the sources still have to deliver a wanted block.
    pub(super) fn has_demand(&self) -> bool {
        // The remaining blocks of a span may have arrived another way.
        let still_delivers =
            |span: &Span| !span.whole && self.blocks.next_wanted(span.blocks).is_some();
        !self.blocks.todo.is_empty()
            || self.blocks.has_wanted_waiting()
            || self.spans.values().any(still_delivers)
    }

    /// Cancels each stream that is past all due blocks of the most urgent range: a new stream delivers them sooner than one that
    /// starts after this one ends. Due blocks are those that may be requested from the stream's source now; the most urgent range
    /// is the first that has any. A stream with such a block ahead of it continues.
    pub(super) fn cancel_passed_streams(&mut self, now: Millis) {
        let is_passed = |span: &Span| {
            let ranges = self.urgent_ranges();
            let mut due = ranges
                .iter()
                .filter(|range| self.is_due(**range, span.source, now));
            let ahead = |urgent| self.is_due(overlap(urgent, span.blocks), span.source, now);
            // A stream without blocks only has to end.
            span.whole
                && !span.blocks.is_empty()
                && due.next().is_some_and(|urgent| !ahead(*urgent))
        };
        let running = self.spans.iter();
        let passed = running.filter(|(_, span)| is_passed(span));
        let passed: Vec<SpanId> = passed.map(|(id, _)| *id).collect();
        for id in passed {
            self.cancel(id);
        }
    }

    /// Whether a block of this range may be requested from this source now.
    fn is_due(&self, range: BlockRange, source: SourceId, now: Millis) -> bool {
        let todo = self.blocks.todo.next(BlockIndex(range.start));
        let waits = |waiting: &Waiting| {
            may_try(&waiting.tried, source, now)
                && self
                    .blocks
                    .next_wanted(overlap(waiting.blocks, range))
                    .is_some()
        };
        todo.is_some_and(|block| block.0 < range.end) || self.blocks.waiting.iter().any(waits)
    }
}

/// The blocks in both ranges.
pub fn overlap(one: BlockRange, other: BlockRange) -> BlockRange {
    let start = one.start.max(other.start);
    BlockRange::new(start, one.end.min(other.end).max(start))
}
