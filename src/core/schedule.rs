//! The transfer scheduler: which span is asked of which source, when, and when to end.
//!
//! It does no I/O and reads no clock. Events go in ([`Scheduler::handle`]), commands come out ([`Scheduler::command`]) until it
//! says [`Command::Wait`] or [`Command::Finish`]. The engine on sockets and the simulation in the tests run this same code.
//!
//! Every block is in exactly one place: *held* (the judge saw it), *claimed* (a journal says so), *todo*, *waiting* (to be asked
//! again later), or in one or more running spans.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    blockset::BlockSet,
    geometry::{BlockIndex, BlockRange, Geometry},
    judge::Verified,
    recovery::{self, Class, Failure},
};

/// Milliseconds since the start of the run.
pub type Millis = u64;

/// A span is never planned smaller, so that requests stay few, unless less is missing.
const SPAN_BYTES_MIN: u64 = 1 << 20;
/// Nor larger: what a broken connection puts back into the queue stays local.
const SPAN_BYTES_MAX: u64 = 64 << 20;
/// A run starts with so many connections where more are allowed.
pub const CONNECTIONS_FIRST: u32 = 8;
/// An idle connection takes half of the slowest span when that one would need longer than this.
const SPLIT_WORTH_MS: u64 = 2_000;
/// A source that lied about so many blocks is dropped when another can serve.
const LIES_MAX: usize = 2;
/// The last source is given up when one block came wrong so often.
const WRONG_MAX: u32 = 4;
/// A source whose answers broke the rules so often in a row is dropped.
const BAD_ANSWERS_MAX: u32 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpanId(pub u64);

/// The number of a source in the order in which they were given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub usize);

/// What the user allows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most connections at a time, over all sources.
    pub connections: u32,
    /// Failures in a row of one span from a host that answers.
    pub tries: u32,
    /// Time without a newly proven byte.
    pub patience_ms: u64,
    /// Where the jitter of waits begins; any number.
    pub seed: u64,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// An answer that can be used came: its host is there.
    Opened { span: SpanId },
    /// The answer is the whole object although a range was asked for: this source has no ranges.
    WholeBody { span: SpanId },
    /// Bytes of the body arrived, proven or not.
    Bytes { span: SpanId, count: u64 },
    /// Blocks of the span were proven and written.
    Proven { span: SpanId, verified: Verified },
    /// A block came, whole and wrong.
    Wrong { span: SpanId, block: BlockIndex },
    /// The span came to its end.
    Ended { span: SpanId },
    Failed { span: SpanId, failure: Failure },
    /// Blocks were found at home: claimed ones that proved, or copies.
    Held(Verified),
    /// A claimed block is not there after all.
    ClaimFailed { block: BlockIndex },
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Ask this source for these blocks; of a source without ranges, for the whole object.
    Start { span: SpanId, source: SourceId, blocks: BlockRange, whole: bool },
    /// Its end was moved forward: another span has the rest.
    Shrink { span: SpanId, end: BlockIndex },
    /// Nothing of it is wanted any more.
    Cancel { span: SpanId },
    /// For those who watch: a span will be asked again.
    Retry { source: SourceId, class: Class, attempt: u32, wait_ms: u64 },
    /// For those who watch: a host wants fewer connections.
    Slowed { source: SourceId, connections: u32, until: Millis },
    /// For those who watch: a source is not used any more.
    Dropped { source: SourceId, why: Why },
    /// Nothing to do until an event comes, or this time.
    Wait { until: Option<Millis> },
    /// The end; every running span is to be stopped.
    Finish(Outcome),
}

/// Why a source is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// This block came wrong.
    Lied { block: BlockIndex },
    Failed(Failure),
}

/// How a run ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All blocks are held.
    Done,
    /// A block came wrong from everywhere.
    Wrong { block: BlockIndex },
    Changed(Failure),
    /// No source is left; the last one failed like this.
    NoSource(Failure),
    /// One span failed too often in a row.
    Tries(Failure),
    /// Nothing new was proven for as long as the user is patient; the last failure, if there was one.
    Patience(Option<Failure>),
    /// A host wants to be left alone for longer than the user is patient.
    MustWait { until: Millis },
}

#[derive(Clone, Debug)]
struct Source {
    dropped: bool,
    ranges: bool,
    connections: u32,
    running: u32,
    /// It is not asked before this time.
    rest_until: Millis,
    /// Nobody answers there: one request at a time finds out.
    unreachable: bool,
    slowed: u32,
    bad_answers: u32,
    lies: BTreeSet<BlockIndex>,
}

#[derive(Clone, Debug)]
struct Span {
    source: SourceId,
    /// What is still to come; its start moves on as blocks are proven or found wrong.
    blocks: BlockRange,
    whole: bool,
    /// Failures of the same blocks in a row before this span.
    failures: u32,
    since: Millis,
    bytes: u64,
}

/// Blocks to be asked for again, not before a time.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    blocks: BlockRange,
    failures: u32,
    not_before: Millis,
    /// Whoever sent them wrong; another source is asked if there is one.
    not_from: Option<SourceId>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Scheduler {
    geometry: Geometry,
    limits: Limits,
    sources: Vec<Source>,
    held: BlockSet,
    claimed: BlockSet,
    todo: BlockSet,
    waiting: Vec<Waiting>,
    spans: BTreeMap<SpanId, Span>,
    wrong: BTreeMap<BlockIndex, u32>,
    /// The length is believed: the statement is signed or the last block was proven.
    length_proven: bool,
    next_span: u64,
    random: u64,
    last_proven: Millis,
    last_failure: Option<Failure>,
    /// Commands that are decided and not yet handed out.
    pending: std::collections::VecDeque<Command>,
    outcome: Option<Outcome>,
}

impl Scheduler {
    /// A run over an object of which these blocks are claimed. `length_proven`: the length may be believed before the last
    /// block is proven, because the statement is signed by a key that is trusted.
    pub fn new(geometry: Geometry, limits: Limits, sources: usize, claimed: BlockSet, length_proven: bool) -> Scheduler {
        let mut todo = BlockSet::full(geometry.blocks());
        todo.remove_all(&claimed);
        let source = Source {
            dropped: false,
            ranges: true,
            connections: limits.connections.clamp(1, CONNECTIONS_FIRST),
            running: 0,
            rest_until: 0,
            unreachable: false,
            slowed: 0,
            bad_answers: 0,
            lies: BTreeSet::new(),
        };
        Scheduler {
            geometry,
            limits,
            sources: vec![source; sources],
            held: BlockSet::empty(geometry.blocks()),
            claimed,
            todo,
            waiting: Vec::new(),
            spans: BTreeMap::new(),
            wrong: BTreeMap::new(),
            length_proven,
            next_span: 0,
            random: limits.seed,
            last_proven: 0,
            last_failure: None,
            pending: std::collections::VecDeque::new(),
            outcome: None,
        }
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Blocks that the judge saw.
    pub fn held(&self) -> &BlockSet {
        &self.held
    }

    /// Blocks that only the journal knows.
    pub fn claimed(&self) -> &BlockSet {
        &self.claimed
    }

    /// How many spans run.
    pub fn running(&self) -> usize {
        self.spans.len()
    }

    /// Whether the length of the object may be believed.
    pub fn length_proven(&self) -> bool {
        self.length_proven
    }

    /// A source may have earned fewer connections in earlier runs, and may be known to have no ranges.
    pub fn source_is_known(&mut self, source: SourceId, connections: u32, ranges: bool) {
        let source = &mut self.sources[source.0];
        source.connections = connections.clamp(1, self.limits.connections);
        source.ranges = ranges;
    }

    pub fn handle(&mut self, now: Millis, event: Event) {
        match event {
            Event::Opened { span } => self.opened(span),
            Event::WholeBody { span } => self.whole_body(span),
            Event::Bytes { span, count } => {
                if let Some(span) = self.spans.get_mut(&span) {
                    span.bytes += count;
                }
            }
            Event::Proven { span, verified } => {
                self.hold(now, verified);
                if let Some(span) = self.spans.get_mut(&span) {
                    span.failures = 0;
                    span.pass(verified.blocks());
                }
            }
            Event::Held(verified) => self.hold(now, verified),
            Event::ClaimFailed { block } => {
                if self.claimed.remove(block) && !self.is_under_way(block) {
                    self.todo.insert(block);
                }
            }
            Event::Wrong { span, block } => self.came_wrong(now, span, block),
            Event::Ended { span } => {
                if let Some(span) = self.remove_span(span) {
                    self.give_back(&span, span.blocks);
                }
            }
            Event::Failed { span, failure } => self.failed(now, span, failure),
        }
    }

    /// The next thing to do. Call it until it says wait or finish.
    pub fn command(&mut self, now: Millis) -> Command {
        if let Some(command) = self.pending.pop_front() {
            return command;
        }
        if self.held.is_full() {
            self.outcome = Some(Outcome::Done);
        }
        let starved = !self.todo.is_empty() || !self.waiting.is_empty() || !self.spans.is_empty();
        if self.outcome.is_none() && starved && now >= self.patience_ends() {
            self.outcome = Some(Outcome::Patience(self.last_failure));
        }
        if let Some(outcome) = &self.outcome {
            return Command::Finish(outcome.clone());
        }
        self.start(now).or_else(|| self.split(now)).unwrap_or_else(|| Command::Wait { until: self.next_time(now) })
    }

    fn patience_ends(&self) -> Millis {
        self.last_proven.saturating_add(self.limits.patience_ms)
    }

    /// When time alone changes something.
    fn next_time(&self, now: Millis) -> Option<Millis> {
        let busy = !self.todo.is_empty() || !self.waiting.is_empty() || !self.spans.is_empty();
        let waits = self.waiting.iter().map(|waiting| waiting.not_before);
        let rests = self.sources.iter().filter(|source| !source.dropped).map(|source| source.rest_until);
        // A slow span may become worth splitting.
        let split = (!self.spans.is_empty()).then_some(now + SPLIT_WORTH_MS / 2);
        waits.chain(rests).filter(|time| *time > now).chain(split).chain(busy.then(|| self.patience_ends())).min()
    }

    // ---- events

    fn hold(&mut self, now: Millis, verified: Verified) {
        for block in verified.blocks().iter() {
            self.held.insert(block);
            self.claimed.remove(block);
            self.todo.remove(block);
        }
        if self.held.contains(self.geometry.last()) {
            self.length_proven = true;
        }
        self.last_proven = now;
    }

    fn opened(&mut self, span: SpanId) {
        if let Some(span) = self.spans.get(&span) {
            let source = &mut self.sources[span.source.0];
            source.unreachable = false;
            source.bad_answers = 0;
        }
    }

    fn whole_body(&mut self, id: SpanId) {
        let Some(source) = self.spans.get(&id).map(|span| span.source) else { return };
        self.sources[source.0].ranges = false;
        self.sources[source.0].unreachable = false;
        let others: Vec<SpanId> =
            self.spans.iter().filter(|(other, span)| **other != id && span.source == source).map(|(other, _)| *other).collect();
        for other in others {
            self.cancel(other);
        }
        let all = self.geometry.all();
        let span = self.spans.get_mut(&id).expect("it was there");
        (span.blocks, span.whole) = (all, true);
    }

    fn came_wrong(&mut self, now: Millis, id: SpanId, block: BlockIndex) {
        let Some(span) = self.spans.get_mut(&id) else { return };
        let source = span.source;
        span.pass(BlockRange::one(block));
        self.sources[source.0].lies.insert(block);
        let times = self.wrong.entry(block).or_default();
        *times += 1;
        let times = *times;
        if !self.held.contains(block) && !self.claimed.contains(block) {
            let wait = if times == 1 { 0 } else { recovery::backoff_ms(times - 1, self.random()) };
            let blocks = BlockRange::one(block);
            self.waiting.push(Waiting { blocks, failures: 0, not_before: now + wait, not_from: Some(source) });
        }
        let others = self.sources.iter().enumerate().any(|(other, state)| other != source.0 && !state.dropped);
        if others && self.sources[source.0].lies.len() >= LIES_MAX {
            self.drop_source(source, Why::Lied { block });
        } else if !others && times >= WRONG_MAX {
            self.outcome = Some(Outcome::Wrong { block });
        }
    }

    fn failed(&mut self, now: Millis, id: SpanId, failure: Failure) {
        let Some(span) = self.remove_span(id) else { return };
        self.last_failure = Some(failure);
        let failures = span.failures + u32::from(failure.counts_as_try());
        let mut wait = recovery::backoff_ms(failures.max(1), self.random());
        let source = &mut self.sources[span.source.0];
        let mut given_up = None;
        match failure.class() {
            Class::Again if failure == Failure::Unreachable => {
                source.unreachable = true;
                source.rest_until = now + recovery::PROBE_EVERY_MS;
                wait = recovery::PROBE_EVERY_MS;
            }
            Class::Again if failures >= self.limits.tries => given_up = Some(Outcome::Tries(failure)),
            Class::Again => {
                if let Failure::Server { retry_after_ms: Some(asked), .. } = failure {
                    wait = wait.max(asked.min(recovery::COOLDOWN_MAX_MS));
                }
            }
            Class::Slower => {
                let Failure::TooMany { retry_after_ms, .. } = failure else { unreachable!("the only slower failure") };
                // Spans that were under way together are told together: that is one step, not one each.
                if now >= source.rest_until {
                    source.slowed += 1;
                    source.connections = recovery::fewer_connections(source.connections);
                }
                let until = now + recovery::cooldown_ms(source.slowed, retry_after_ms);
                source.rest_until = source.rest_until.max(until);
                wait = source.rest_until - now;
                let slowed = Command::Slowed {
                    source: span.source,
                    connections: source.connections,
                    until: source.rest_until,
                };
                let must_wait = source.rest_until > self.last_proven.max(now).saturating_add(self.limits.patience_ms);
                given_up = must_wait.then_some(Outcome::MustWait { until: source.rest_until });
                self.pending.push_back(slowed);
            }
            Class::Elsewhere => {
                source.bad_answers += 1;
                let too_many = source.bad_answers >= BAD_ANSWERS_MAX;
                given_up = too_many.then_some(Outcome::NoSource(failure));
            }
            Class::Changed => self.outcome = Some(Outcome::Changed(failure)),
            Class::Stop => given_up = Some(Outcome::NoSource(failure)),
        }
        self.put_back_later(&span, failures, now + wait);
        match given_up {
            Some(outcome) if self.sources.iter().filter(|source| !source.dropped).count() <= 1 => {
                self.outcome.get_or_insert(outcome);
            }
            Some(_) => self.drop_source(span.source, Why::Failed(failure)),
            None => {
                let (source, class, attempt) = (span.source, failure.class(), failures);
                self.pending.push_back(Command::Retry { source, class, attempt, wait_ms: wait });
            }
        }
    }

    fn drop_source(&mut self, id: SourceId, why: Why) {
        self.sources[id.0].dropped = true;
        self.pending.push_back(Command::Dropped { source: id, why });
        let spans: Vec<SpanId> =
            self.spans.iter().filter(|(_, span)| span.source == id).map(|(span, _)| *span).collect();
        for span in spans {
            self.cancel(span);
        }
    }

    fn cancel(&mut self, id: SpanId) {
        if let Some(span) = self.remove_span(id) {
            self.give_back(&span, span.blocks);
            self.pending.push_back(Command::Cancel { span: id });
        }
    }

    fn remove_span(&mut self, id: SpanId) -> Option<Span> {
        let span = self.spans.remove(&id)?;
        self.sources[span.source.0].running -= 1;
        Some(span)
    }

    /// Puts blocks that a span did not bring back into the queue.
    fn give_back(&mut self, span: &Span, blocks: BlockRange) {
        for block in blocks.iter() {
            if self.is_wanted(block) && (!span.whole || !self.is_under_way(block)) {
                self.todo.insert(block);
            }
        }
    }

    /// The same, for later. A whole span's blocks just go back: the source rests instead.
    fn put_back_later(&mut self, span: &Span, failures: u32, not_before: Millis) {
        if span.whole {
            self.give_back(span, span.blocks);
            let source = &mut self.sources[span.source.0];
            source.rest_until = source.rest_until.max(not_before);
        } else if !span.blocks.is_empty() {
            self.waiting.push(Waiting { blocks: span.blocks, failures, not_before, not_from: None });
        }
    }

    fn is_wanted(&self, block: BlockIndex) -> bool {
        !self.held.contains(block) && !self.claimed.contains(block)
    }

    /// Whether a running span or a later one will bring it.
    fn is_under_way(&self, block: BlockIndex) -> bool {
        self.spans.values().any(|span| span.blocks.contains(block))
            || self.waiting.iter().any(|waiting| waiting.blocks.contains(block))
    }

    // ---- commands

    /// Starts a span if a source is free and blocks are to be had.
    fn start(&mut self, now: Millis) -> Option<Command> {
        if self.spans.len() >= self.limits.connections as usize {
            return None;
        }
        let source = self.free_source(now, None)?;
        if !self.sources[source.0].ranges {
            return self.start_whole(now, source);
        }
        let (blocks, failures, source) = match self.take_waiting(now) {
            Some(waiting) => {
                let other = self.free_source(now, waiting.not_from).unwrap_or(source);
                (waiting.blocks, waiting.failures, other)
            }
            None => (self.take_todo()?, 0, source),
        };
        Some(self.start_span(now, source, blocks, failures, false))
    }

    fn start_span(&mut self, now: Millis, source: SourceId, blocks: BlockRange, failures: u32, whole: bool) -> Command {
        let span = SpanId(self.next_span);
        self.next_span += 1;
        self.sources[source.0].running += 1;
        self.todo.remove_range(blocks);
        self.spans.insert(span, Span { source, blocks, whole, failures, since: now, bytes: 0 });
        Command::Start { span, source, blocks, whole }
    }

    /// A source without ranges sends the whole object over one connection, if anything is missing.
    fn start_whole(&mut self, now: Millis, source: SourceId) -> Option<Command> {
        let busy = self.sources[source.0].running > 0;
        if busy || (self.todo.is_empty() && self.waiting.is_empty()) {
            return None;
        }
        // A span's failures before it was known to have no ranges count for the stream too.
        let failures = self.waiting.iter().map(|waiting| waiting.failures).max().unwrap_or(0);
        self.waiting.clear();
        Some(self.start_span(now, source, self.geometry.all(), failures, true))
    }

    /// The source with the most room; not this one, if another is free.
    fn free_source(&self, now: Millis, not: Option<SourceId>) -> Option<SourceId> {
        let free = |source: &Source| {
            let most = if source.unreachable || !source.ranges { 1 } else { source.connections };
            !source.dropped && source.rest_until <= now && source.running < most
        };
        (0..self.sources.len())
            .map(SourceId)
            .filter(|id| free(&self.sources[id.0]) && Some(*id) != not)
            .min_by_key(|id| (!self.sources[id.0].ranges, self.sources[id.0].running, id.0))
    }

    /// Blocks whose time to be asked again has come; the blocks at the front first.
    fn take_waiting(&mut self, now: Millis) -> Option<Waiting> {
        let due = |waiting: &Waiting| waiting.not_before <= now && self.may_be_asked(waiting.blocks);
        let index = (0..self.waiting.len()).filter(|i| due(&self.waiting[*i])).min_by_key(|i| self.waiting[*i].blocks.start)?;
        let mut waiting = self.waiting.swap_remove(index);
        // Some may have come another way.
        while !waiting.blocks.is_empty() && !self.is_wanted(BlockIndex(waiting.blocks.start)) {
            waiting.blocks.start += 1;
        }
        match waiting.blocks.is_empty() {
            true => self.take_waiting(now),
            false => Some(waiting),
        }
    }

    /// Before the length is proven only the last block may be asked for.
    fn may_be_asked(&self, blocks: BlockRange) -> bool {
        self.length_proven || blocks == BlockRange::one(self.geometry.last())
    }

    /// The next missing blocks, as many as make a good span.
    fn take_todo(&self) -> Option<BlockRange> {
        let last = self.geometry.last();
        if !self.length_proven {
            return self.todo.contains(last).then_some(BlockRange::one(last));
        }
        let start = self.todo.next(BlockIndex(0))?;
        let end = self.todo.next_missing(start).unwrap_or(BlockIndex(self.geometry.blocks()));
        let most = self.span_blocks();
        Some(BlockRange::new(start.0, end.0.min(start.0.saturating_add(most))))
    }

    /// Spans get smaller towards the end, so that all connections finish together.
    fn span_blocks(&self) -> u32 {
        let size = self.geometry.block_size().bytes();
        let connections: u32 = self.sources.iter().filter(|source| !source.dropped).map(|source| source.connections).sum();
        let connections = connections.clamp(1, self.limits.connections);
        let share = u64::from(self.todo.count()) * size / u64::from(2 * connections);
        (share.clamp(SPAN_BYTES_MIN, SPAN_BYTES_MAX) / size).max(1) as u32
    }

    /// Gives an idle connection the second half of the span that would end last.
    fn split(&mut self, now: Millis) -> Option<Command> {
        if self.spans.len() >= self.limits.connections as usize || !self.length_proven || !self.todo.is_empty() {
            return None;
        }
        let source = self.free_source(now, None).filter(|source| self.sources[source.0].ranges)?;
        let (id, _) = self
            .spans
            .iter()
            .filter(|(_, span)| span.blocks.count() >= 2 && !span.whole)
            .map(|(id, span)| (*id, self.left_ms(now, span)))
            .filter(|(_, left)| *left > SPLIT_WORTH_MS)
            .max_by_key(|(_, left)| *left)?;
        let span = self.spans.get_mut(&id)?;
        let middle = span.blocks.start + span.blocks.count() / 2;
        let rest = BlockRange::new(middle, span.blocks.end);
        span.blocks.end = middle;
        let start = self.start_span(now, source, rest, 0, false);
        self.pending.push_back(start);
        Some(Command::Shrink { span: id, end: BlockIndex(middle) })
    }

    /// How long a span will still take at the rate it had so far.
    fn left_ms(&self, now: Millis, span: &Span) -> u64 {
        let age = now.saturating_sub(span.since);
        let left = self.geometry.bytes_of_range(span.blocks).length();
        match span.bytes {
            // Nothing came yet: as long again as it has waited already.
            0 => age,
            bytes => (u128::from(left) * u128::from(age) / u128::from(bytes)) as u64,
        }
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
    /// These blocks of it are decided.
    fn pass(&mut self, blocks: BlockRange) {
        if blocks.end > self.blocks.start && blocks.start <= self.blocks.start {
            self.blocks.start = blocks.end.min(self.blocks.end);
        }
    }
}
