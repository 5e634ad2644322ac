//! The transfer scheduler: which span is requested from which source, when, and when the run ends.
//!
//! It does no I/O and reads no clock. Events go in ([`Scheduler::handle`]), commands come out ([`Scheduler::command`]) until it
//! says [`Command::Wait`] or [`Command::Finish`]. The engine on sockets and the simulation in the tests run this same code.
//!
//! Every wanted block is in exactly one state: *held* (proven), *claimed* (recorded in a journal, not judged yet), *todo* (to be
//! requested), *waiting* (failed, to be requested again), or part of one running span. A block that is not wanted may be in none.
//! A *stream* is one response with the whole object, from a source without ranges. It runs beside these states: its blocks stay
//! available to other sources, and nothing is put back when it breaks.

use std::collections::BTreeMap;

mod blocks;
mod choose;
mod events;
mod protocol;
mod rounds;
mod search;
mod sources;
mod want;

use crate::format::{
    blockset::BlockSet,
    geometry::{BlockIndex, BlockRange, Geometry},
};

use super::{recovery::Failure, reputation::Reputation};

use blocks::Blocks;
use choose::STREAM_AFTER_MS;
use rounds::Round;
use search::Search;
use sources::{Source, SourceFailure};
use want::Wanted;

pub use protocol::{Command, DropReason, Event, Limits, Millis, Outcome, SourceId, SpanId};
pub use want::{READ_OVER_BYTES_MAX, Want};

/// The number of connections at the start of a run, unless the limit is lower.
pub const CONNECTIONS_FIRST: u32 = 8;

#[derive(Clone, Debug)]
struct Span {
    source: SourceId,
    /// The blocks that are still to arrive. The start advances as blocks are proven or found wrong.
    blocks: BlockRange,
    /// The first block that was requested.
    first: BlockIndex,
    /// It is a stream.
    whole: bool,
    /// Consecutive failures of these blocks at this source before this span.
    failures: u32,
    /// The sources that failed to deliver these blocks before.
    tried: Vec<SourceFailure>,
    since: Millis,
    bytes: u64,
    /// A response has arrived.
    opened: bool,
    /// When the response or its latest bytes arrived; until then, when the span started.
    last_received: Millis,
}

/// Blocks to be requested again.
#[derive(Clone, Debug)]
struct Waiting {
    blocks: BlockRange,
    /// The sources that failed to deliver them, the latest failure last.
    tried: Vec<SourceFailure>,
}

#[derive(Clone, Debug, Default)]
struct Patience {
    /// The time of the last new proven block, or of the first missing block after none was missing.
    since: Millis,
    last_failure: Option<Failure>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Scheduler {
    geometry: Geometry,
    limits: Limits,
    sources: Vec<Source>,
    blocks: Blocks,
    spans: BTreeMap<SpanId, Span>,
    search: Search,
    round: Round,
    next_span: u64,
    random: u64,
    patience: Patience,
    /// Commands that [`Scheduler::command`] has not returned yet.
    pending: std::collections::VecDeque<Command>,
    outcome: Option<Outcome>,
}

impl Scheduler {
    /// A run over an object of which these blocks are claimed. `length_proven`: a trusted key signed the statement, so the length
    /// is trusted before the last block is proven. All blocks are wanted, until [`Scheduler::want`] changes that.
    pub fn new(
        geometry: Geometry,
        limits: Limits,
        sources: usize,
        claimed: BlockSet,
        length_proven: bool,
    ) -> Scheduler {
        let mut todo = BlockSet::full(geometry.blocks());
        todo.remove_all(&claimed);
        let held = BlockSet::empty(geometry.blocks());
        let wanted = Wanted::new(Want::all(&geometry), &geometry, &held, length_proven);
        let most = limits.connections.max(1);
        Scheduler {
            geometry,
            limits,
            sources: vec![Source::new(); sources],
            blocks: Blocks {
                held,
                claimed,
                wanted,
                todo,
                waiting: Vec::new(),
                length_proven,
                unit: 1,
            },
            spans: BTreeMap::new(),
            search: Search::new(most.min(CONNECTIONS_FIRST), most),
            round: Round::default(),
            next_span: 0,
            random: limits.seed,
            patience: Patience::default(),
            pending: std::collections::VecDeque::new(),
            outcome: None,
        }
    }

    /// Cuts spans at multiples of so many blocks where it can: they are compressed together.
    pub fn cut_at(&mut self, unit: u32) {
        self.blocks.unit = unit.max(1);
    }

    /// The limits of this run.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Blocks that are proven.
    pub fn held(&self) -> &BlockSet {
        &self.blocks.held
    }

    /// Blocks that a journal records and the judge has not checked yet.
    pub fn claimed(&self) -> &BlockSet {
        &self.blocks.claimed
    }

    /// The number of running spans.
    pub fn running(&self) -> usize {
        self.spans.len()
    }

    /// Whether this span has started, and was neither cancelled nor ended.
    pub fn is_running(&self, span: SpanId) -> bool {
        self.spans.contains_key(&span)
    }

    /// Whether the length of the object is trusted.
    pub fn length_proven(&self) -> bool {
        self.blocks.length_proven
    }

    /// Merges the reputation of a source's host from earlier or parallel runs. Its times count from the start of this run.
    pub fn merge_reputation(&mut self, source: SourceId, reputation: Reputation) {
        self.sources[source.0].merge_reputation(reputation);
    }

    /// Notes that a source serves no ranges, as its first response showed.
    pub fn source_has_no_ranges(&mut self, source: SourceId) {
        self.sources[source.0].ranges = false;
    }

    /// Changes the limit of connections over all sources. Running spans continue.
    pub fn allow(&mut self, connections: u32) {
        self.limits.connections = connections.max(1);
        self.search.allow(self.limits.connections);
    }

    /// Notes whether the user's rate limit holds bytes back now, and not the connections.
    pub fn hold_back(&mut self, held_back: bool) {
        self.search.hold_back(held_back);
    }

    /// Updates the state after an event. [`Scheduler::command`] then returns what to do.
    pub fn handle(&mut self, now: Millis, event: Event) {
        self.pass_time(now);
        match event {
            Event::Late { span, late_ms } => self.late(now, span, late_ms),
            Event::Opened { span } => self.opened(now, span),
            Event::WholeBody { span } => self.whole_body(span),
            Event::Bytes { span, count } => {
                if let Some(span) = self.spans.get_mut(&span) {
                    span.bytes += count;
                    span.last_received = now;
                    self.sources[span.source.0].pace.add_bytes(count);
                    self.round.add_bytes(count);
                }
            }
            Event::Proven { span, verified } => {
                let new = self.hold(now, verified);
                if let Some(span) = self.spans.get_mut(&span) {
                    self.sources[span.source.0].wrong_in_row = 0;
                    // A block of a ranged span is progress of the span even if it is not new.
                    if new || !span.whole {
                        span.failures = 0;
                        span.tried.clear();
                    }
                    span.pass(verified.blocks());
                }
            }
            Event::Held(verified) => {
                self.hold(now, verified);
            }
            Event::Lost { blocks } => self.lost(now, blocks),
            Event::ClaimFailed { block } => self.claim_failed(now, block),
            Event::Wrong { span, block } => self.block_failed(now, span, block),
            Event::Ended { span } => {
                if let Some(span) = self.remove_span(span) {
                    self.sources[span.source.0].host.reputation.served(now);
                    self.give_back(&span);
                }
            }
            Event::Failed { span, failure } => self.failed(now, span, failure),
        }
    }

    /// The next command. Call it until it returns [`Command::Wait`] or [`Command::Finish`].
    pub fn command(&mut self, now: Millis) -> Command {
        if let Some(command) = self.pending.pop_front() {
            return command;
        }
        self.pass_time(now);
        if self.blocks.wanted.unheld == 0 && !self.blocks.wanted.more {
            self.outcome = Some(Outcome::Done);
        }
        if self.outcome.is_none() && self.has_demand() && now >= self.patience_ends() {
            self.outcome = Some(Outcome::Patience(self.patience.last_failure));
        }
        if self.outcome.is_none() {
            self.outcome = self.must_wait().map(|until| Outcome::MustWait { until });
        }
        if let Some(outcome) = &self.outcome {
            return Command::Finish(outcome.clone());
        }
        self.cancel_passed_streams(now);
        self.pending
            .pop_front()
            .or_else(|| self.start(now))
            .or_else(|| self.split(now))
            .unwrap_or_else(|| Command::Wait {
                until: self.next_time(now),
            })
    }

    /// When the transfer is given up, unless blocks are proven.
    pub fn patience_ends(&self) -> Millis {
        self.patience.since.saturating_add(self.limits.patience_ms)
    }

    /// The earliest time of a request, if the hosts of all sources refuse them beyond the patience limit. `None` while spans run:
    /// their progress renews patience.
    fn must_wait(&self) -> Option<Millis> {
        let first = self
            .sources
            .iter()
            .filter(|source| !source.dropped)
            .map(Source::refuses_until)
            .min()?;
        (self.spans.is_empty() && self.has_demand() && first > self.patience_ends())
            .then_some(first)
    }

    /// The next time at which a decision may change without an event.
    fn next_time(&self, now: Millis) -> Option<Millis> {
        let waits = self
            .blocks
            .waiting
            .iter()
            .filter(|waiting| self.blocks.next_wanted(waiting.blocks).is_some())
            .flat_map(|waiting| &waiting.tried)
            .map(|tried| tried.not_before);
        let sources = self.sources.iter().filter(|source| !source.dropped);
        let sources = sources.flat_map(|source| {
            [
                source.not_before,
                source.host.reputation.until_ms,
                source.host.until,
            ]
        });
        let demand = self.has_demand();
        // A slow span may become worth splitting, and more connections worth having.
        let round = (demand && !self.spans.is_empty()).then(|| self.round_ends().max(now + 1));
        let stream = demand.then_some(self.patience.since + STREAM_AFTER_MS);
        let patience = demand.then(|| self.patience_ends());
        waits
            .chain(sources)
            .chain(stream)
            .filter(|time| *time > now)
            .chain(round)
            .chain(patience)
            .min()
    }

    /// Whether a block is part of a running span or waits to be requested again.
    fn is_under_way(&self, block: BlockIndex) -> bool {
        self.spans
            .values()
            .any(|span| !span.whole && span.blocks.contains(block))
            || self
                .blocks
                .waiting
                .iter()
                .any(|waiting| waiting.blocks.contains(block))
    }

    /// Whether no span runs and no wanted block is to be delivered.
    pub fn is_idle(&self) -> bool {
        self.spans.is_empty() && !self.has_demand()
    }

    /// Whether a wanted block is missing, and as many spans run for others as may run.
    pub fn waits_for_connection(&self, block: BlockIndex) -> bool {
        self.spans.len() >= self.room() && self.blocks.is_wanted(block) && !self.is_under_way(block)
    }

    /// The next number of splitmix64, for jitter.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.random ^ (self.random >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

impl Span {
    /// Advances the start past these blocks: they are proven or wrong. A stream may leave blocks before them unreported: it skips
    /// unwanted blocks and never returns to them.
    fn pass(&mut self, blocks: BlockRange) {
        let follows = self.whole || blocks.start <= self.blocks.start;
        if blocks.end > self.blocks.start && follows {
            self.blocks.start = blocks.end.min(self.blocks.end);
        }
    }
}
