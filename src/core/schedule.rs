//! The transfer scheduler: which span is asked of which source, when, and when to end.
//!
//! It does no I/O and reads no clock. Events go in ([`Scheduler::handle`]), commands come out ([`Scheduler::command`]) until it
//! says [`Command::Wait`] or [`Command::Finish`]. The engine on sockets and the simulation in the tests run this same code.
//!
//! Every block is in exactly one place: *held* (the judge saw it), *claimed* (a journal says so), *todo*, *waiting* (failed, to
//! be asked again), or in one running span. A *stream*, the whole object from a source without ranges, runs beside that: it
//! takes no block away from the other sources, and leaves nothing behind when it breaks.

use std::collections::BTreeMap;

mod protocol;

use super::{
    blockset::BlockSet,
    geometry::{BlockIndex, BlockRange, Geometry},
    judge::Verified,
    recovery::{self, Class, Failure},
};

pub use protocol::{Command, Event, Limits, Millis, Outcome, SourceId, SpanId, Why};

/// A span is never planned smaller, so that requests stay few, unless less is missing.
const SPAN_BYTES_MIN: u64 = 1 << 20;
/// Nor larger: what a broken connection puts back into the queue stays local.
const SPAN_BYTES_MAX: u64 = 64 << 20;
/// A run starts with so many connections where more are allowed.
pub const CONNECTIONS_FIRST: u32 = 8;
/// An idle connection takes half of the slowest span when that one would need longer than this.
const SPLIT_WORTH_MS: u64 = 2_000;
/// A span with less left than this is not split: what is under way behind its new end arrives for nothing.
const SPLIT_BYTES_MIN: u64 = 4 << 20;
/// A source that lied about so many blocks is dropped when another can serve.
const LIES_MAX: usize = 2;
/// A source is given up, even the last one, when it sent one block wrong so often.
const WRONG_MAX: u32 = 4;
/// A stream starts although others could serve when nothing was proven for so long: each byte of it may come twice.
const STREAM_AFTER_MS: u64 = 10_000;
/// A source whose answers broke the rules so often in a row is dropped.
const BAD_ANSWERS_MAX: u32 = 2;

#[derive(Clone, Debug)]
struct Source {
    dropped: bool,
    ranges: bool,
    connections: u32,
    running: u32,
    /// It is not asked before this time.
    rest_until: Millis,
    /// As far as it wants so itself.
    cooldown_until: Millis,
    /// Nobody answers there: one request at a time finds out.
    unreachable: bool,
    slowed: u32,
    bad_answers: u32,
    /// Failures in a row of its stream.
    stream_failures: u32,
    /// How often it sent these blocks wrong.
    lies: BTreeMap<BlockIndex, u32>,
}

impl Source {
    /// Whether it can serve ranges now, as far as is known.
    fn serves_ranges(&self, now: Millis) -> bool {
        !self.dropped && self.ranges && !self.unreachable && self.rest_until <= now
    }
}

#[derive(Clone, Debug)]
struct Span {
    source: SourceId,
    /// What is still to come; its start moves on as blocks are proven or found wrong.
    blocks: BlockRange,
    whole: bool,
    /// Failures in a row of the same blocks from the same source before this span.
    failures: u32,
    /// Who failed to bring these blocks before.
    tried: Vec<Tried>,
    since: Millis,
    bytes: u64,
}

/// A source that failed to bring some blocks. It waits before it is asked for them again; another need not.
#[derive(Clone, Copy, Debug)]
struct Tried {
    source: SourceId,
    failures: u32,
    not_before: Millis,
}

/// Blocks to be asked for again.
#[derive(Clone, Debug)]
struct Waiting {
    blocks: BlockRange,
    /// The latest last.
    tried: Vec<Tried>,
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
    /// The length is believed: the statement is signed or the last block was proven.
    length_proven: bool,
    next_span: u64,
    random: u64,
    /// When something new was proven last, or began to be missing.
    patient_since: Millis,
    last_failure: Option<Failure>,
    /// Commands that are decided and not yet handed out.
    pending: std::collections::VecDeque<Command>,
    outcome: Option<Outcome>,
}

impl Scheduler {
    /// A run over an object of which these blocks are claimed. `length_proven`: the length may be believed before the last
    /// block is proven, because the statement is signed by a key that is trusted.
    pub fn new(
        geometry: Geometry,
        limits: Limits,
        sources: usize,
        claimed: BlockSet,
        length_proven: bool,
    ) -> Scheduler {
        let mut todo = BlockSet::full(geometry.blocks());
        todo.remove_all(&claimed);
        let source = Source {
            dropped: false,
            ranges: true,
            connections: limits.connections.clamp(1, CONNECTIONS_FIRST),
            running: 0,
            rest_until: 0,
            cooldown_until: 0,
            unreachable: false,
            slowed: 0,
            bad_answers: 0,
            stream_failures: 0,
            lies: BTreeMap::new(),
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
            length_proven,
            next_span: 0,
            random: limits.seed,
            patient_since: 0,
            last_failure: None,
            pending: std::collections::VecDeque::new(),
            outcome: None,
        }
    }

    /// What the caller allowed.
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

    /// From now on so many connections at a time, over all sources. Spans that run are left alone.
    pub fn allow(&mut self, connections: u32) {
        self.limits.connections = connections.max(1);
    }

    /// Takes note of what happened. What to do about it is asked with [`Scheduler::command`].
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
                let new = self.hold(now, verified);
                if let Some(span) = self.spans.get_mut(&span) {
                    // What a ranged span lacks gets less in any case.
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
            Event::ClaimFailed { block } => self.claim_failed(now, block),
            Event::Wrong { span, block } => self.came_wrong(now, span, block),
            Event::Ended { span } => {
                if let Some(span) = self.remove_span(span) {
                    self.give_back(&span);
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
        if self.outcome.is_none() && self.is_hungry() && now >= self.patience_ends() {
            self.outcome = Some(Outcome::Patience(self.last_failure));
        }
        if self.outcome.is_none() {
            self.outcome = self.must_wait().map(|until| Outcome::MustWait { until });
        }
        if let Some(outcome) = &self.outcome {
            return Command::Finish(outcome.clone());
        }
        self.start(now)
            .or_else(|| self.split(now))
            .unwrap_or_else(|| Command::Wait {
                until: self.next_time(now),
            })
    }

    /// Whether anything is wanted from the sources.
    fn is_hungry(&self) -> bool {
        !self.todo.is_empty() || !self.waiting.is_empty() || !self.spans.is_empty()
    }

    fn patience_ends(&self) -> Millis {
        self.patient_since.saturating_add(self.limits.patience_ms)
    }

    /// When the first source may be asked again, if all of them want to be left alone past the end of patience. Spans that
    /// still run may prolong it.
    fn must_wait(&self) -> Option<Millis> {
        let first = self
            .sources
            .iter()
            .filter(|source| !source.dropped)
            .map(|source| source.cooldown_until)
            .min()?;
        (self.spans.is_empty() && self.is_hungry() && first > self.patience_ends()).then_some(first)
    }

    /// When time alone changes something.
    fn next_time(&self, now: Millis) -> Option<Millis> {
        let waits = self
            .waiting
            .iter()
            .flat_map(|waiting| &waiting.tried)
            .map(|tried| tried.not_before);
        let rests = self
            .sources
            .iter()
            .filter(|source| !source.dropped)
            .map(|source| source.rest_until);
        // A slow span may become worth splitting.
        let split = (!self.spans.is_empty()).then_some(now + SPLIT_WORTH_MS / 2);
        let hungry = self.is_hungry();
        let stream = hungry.then_some(self.patient_since + STREAM_AFTER_MS);
        let patience = hungry.then(|| self.patience_ends());
        waits
            .chain(rests)
            .chain(stream)
            .filter(|time| *time > now)
            .chain(split)
            .chain(patience)
            .min()
    }

    // ---- events

    /// Whether any of it is new. Only that is progress: a stream that always breaks proves the same blocks again and again.
    fn hold(&mut self, now: Millis, verified: Verified) -> bool {
        let before = self.held.count();
        for block in verified.blocks().iter() {
            self.held.insert(block);
            self.claimed.remove(block);
            self.todo.remove(block);
        }
        if self.held.contains(self.geometry.last()) {
            self.length_proven = true;
        }
        let new = self.held.count() > before;
        if new {
            self.patient_since = now;
        }
        new
    }

    fn claim_failed(&mut self, now: Millis, block: BlockIndex) {
        if !self.claimed.remove(block) || self.is_under_way(block) {
            return;
        }
        if !self.is_hungry() {
            // As long as only claims were judged nobody was impatient.
            self.patient_since = now;
        }
        self.todo.insert(block);
    }

    fn opened(&mut self, span: SpanId) {
        if let Some(span) = self.spans.get(&span) {
            let source = &mut self.sources[span.source.0];
            source.unreachable = false;
            source.bad_answers = 0;
        }
    }

    fn whole_body(&mut self, id: SpanId) {
        let Some(source) = self.spans.get(&id).map(|span| span.source) else {
            return;
        };
        self.sources[source.0].ranges = false;
        self.sources[source.0].unreachable = false;
        let others: Vec<SpanId> = self
            .spans
            .iter()
            .filter(|(other, span)| **other != id && span.source == source)
            .map(|(other, _)| *other)
            .collect();
        for other in others {
            self.cancel(other);
        }
        let (all, others_serve) = (
            self.geometry.all(),
            self.spans
                .values()
                .any(|span| span.source != source && span.bytes > 0),
        );
        let Some(span) = self.spans.get_mut(&id) else {
            return;
        };
        let asked = span.clone();
        (span.blocks, span.whole, span.tried) = (all, true, Vec::new());
        self.give_back(&asked);
        if others_serve {
            self.cancel(id);
        }
    }

    fn came_wrong(&mut self, now: Millis, id: SpanId, block: BlockIndex) {
        let Some(span) = self.spans.get_mut(&id) else {
            return;
        };
        let (source, mut tried) = (span.source, span.tried.clone());
        span.pass(BlockRange::one(block));
        let times = self.sources[source.0].lies.entry(block).or_default();
        *times += 1;
        let times = *times;
        let wait = if times == 1 {
            0
        } else {
            recovery::backoff_ms(times - 1, self.random())
        };
        let wanted = self.is_wanted(block);
        if wanted {
            let latest = Tried {
                source,
                failures: 0,
                not_before: now + wait,
            };
            match self
                .waiting
                .iter()
                .position(|waiting| waiting.blocks.contains(block))
            {
                Some(index) => note(&mut self.waiting[index].tried, latest),
                None if self.is_under_way(block) => (),
                None => {
                    note(&mut tried, latest);
                    self.todo.remove(block);
                    self.waiting.push(Waiting {
                        blocks: BlockRange::one(block),
                        tried,
                    });
                }
            }
        }
        let others = || {
            self.sources
                .iter()
                .enumerate()
                .filter(|(other, state)| *other != source.0 && !state.dropped)
        };
        let another_serves = others().any(|(_, other)| !other.unreachable);
        if another_serves && (times >= WRONG_MAX || self.sources[source.0].lies.len() >= LIES_MAX) {
            self.drop_source(source, Why::Lied { block });
        } else if wanted && times >= WRONG_MAX && others().count() == 0 {
            self.outcome = Some(Outcome::Wrong { block });
        }
    }

    fn failed(&mut self, now: Millis, id: SpanId, failure: Failure) {
        let Some(span) = self.remove_span(id) else {
            return;
        };
        self.last_failure = Some(failure);
        let random = self.random();
        let source = &mut self.sources[span.source.0];
        source.unreachable = failure == Failure::Unreachable;
        if span.blocks.is_empty() && failure.class() == Class::Again {
            // All of it was decided, and only its end not seen: nothing is to be asked again.
            return;
        }
        let failures = span.failures + u32::from(failure.counts_as_try());
        let mut wait = recovery::backoff_ms(failures.max(1), random);
        let mut given_up = None;
        match failure.class() {
            Class::Again if failure == Failure::Unreachable => {
                wait = recovery::PROBE_EVERY_MS;
                source.rest_until = source.rest_until.max(now + wait);
            }
            Class::Again if failures >= self.limits.tries => {
                given_up = Some(Outcome::Tries(failure));
            }
            Class::Again => {
                if let Failure::Server {
                    retry_after_ms: Some(asked),
                    ..
                } = failure
                {
                    wait = wait.max(asked.min(recovery::COOLDOWN_MAX_MS));
                }
            }
            Class::Slower => {
                let Failure::TooMany { retry_after_ms, .. } = failure else {
                    unreachable!("the only slower failure")
                };
                // Spans that were under way together are told together: that is one step, not one each.
                if now >= source.rest_until {
                    source.slowed += 1;
                    source.connections = recovery::fewer_connections(source.connections);
                }
                // A host that says "at once" each time is not asked at once each time.
                let backoff = recovery::backoff_ms(source.slowed.max(1), random);
                let cooldown = recovery::cooldown_ms(source.slowed, retry_after_ms).max(backoff);
                source.cooldown_until = source.cooldown_until.max(now + cooldown);
                source.rest_until = source.rest_until.max(source.cooldown_until);
                wait = source.rest_until - now;
                let (connections, until) = (source.connections, source.rest_until);
                self.pending.push_back(Command::Slowed {
                    source: span.source,
                    connections,
                    until,
                });
            }
            Class::Elsewhere => {
                source.bad_answers += 1;
                let too_many = source.bad_answers >= BAD_ANSWERS_MAX;
                given_up = too_many.then_some(Outcome::NoSource(failure));
            }
            Class::Changed => given_up = Some(Outcome::Changed(failure)),
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
                self.pending.push_back(Command::Retry {
                    source,
                    class,
                    attempt,
                    wait_ms: wait,
                });
            }
        }
    }

    fn drop_source(&mut self, id: SourceId, why: Why) {
        self.sources[id.0].dropped = true;
        self.pending.push_back(Command::Dropped { source: id, why });
        let spans: Vec<SpanId> = self
            .spans
            .iter()
            .filter(|(_, span)| span.source == id)
            .map(|(span, _)| *span)
            .collect();
        for span in spans {
            self.cancel(span);
        }
    }

    fn cancel(&mut self, id: SpanId) {
        if let Some(span) = self.remove_span(id) {
            self.give_back(&span);
            self.pending.push_back(Command::Cancel { span: id });
        }
    }

    fn remove_span(&mut self, id: SpanId) -> Option<Span> {
        let span = self.spans.remove(&id)?;
        let source = &mut self.sources[span.source.0];
        source.running -= 1;
        if span.whole {
            source.stream_failures = span.failures;
        }
        Some(span)
    }

    /// Puts blocks that a span did not bring back into the queue. What a stream did not bring never left it.
    fn give_back(&mut self, span: &Span) {
        if !span.whole && !span.tried.is_empty() {
            self.waiting.push(Waiting {
                blocks: span.blocks,
                tried: span.tried.clone(),
            });
        } else if !span.whole {
            for block in span.blocks.iter() {
                if self.is_wanted(block) {
                    self.todo.insert(block);
                }
            }
        }
    }

    /// The same, for later. After a stream it is the source that rests.
    fn put_back_later(&mut self, span: &Span, failures: u32, not_before: Millis) {
        if span.whole {
            let source = &mut self.sources[span.source.0];
            source.stream_failures = failures;
            source.rest_until = source.rest_until.max(not_before);
        } else {
            let mut tried = span.tried.clone();
            note(
                &mut tried,
                Tried {
                    source: span.source,
                    failures,
                    not_before,
                },
            );
            self.waiting.push(Waiting {
                blocks: span.blocks,
                tried,
            });
        }
    }

    fn is_wanted(&self, block: BlockIndex) -> bool {
        !self.held.contains(block) && !self.claimed.contains(block)
    }

    /// Whether a running span or a later one will bring it.
    fn is_under_way(&self, block: BlockIndex) -> bool {
        self.spans
            .values()
            .any(|span| !span.whole && span.blocks.contains(block))
            || self
                .waiting
                .iter()
                .any(|waiting| waiting.blocks.contains(block))
    }

    /// Without what came another way at both ends.
    fn still_wanted(&self, mut blocks: BlockRange) -> BlockRange {
        while !blocks.is_empty() && !self.is_wanted(BlockIndex(blocks.start)) {
            blocks.start += 1;
        }
        while !blocks.is_empty() && !self.is_wanted(BlockIndex(blocks.end - 1)) {
            blocks.end -= 1;
        }
        blocks
    }

    // ---- commands

    /// Starts a span if a source is free and blocks are to be had; those that failed before come first.
    fn start(&mut self, now: Millis) -> Option<Command> {
        if self.spans.len() >= self.limits.connections as usize {
            return None;
        }
        if let Some((source, waiting)) = self.take_waiting(now) {
            return Some(self.start_span(now, source, waiting.blocks, waiting.tried));
        }
        match self.free_source(now, &[]).zip(self.take_todo()) {
            Some((source, blocks)) => Some(self.start_span(now, source, blocks, Vec::new())),
            None => self.start_stream(now),
        }
    }

    fn start_span(
        &mut self,
        now: Millis,
        source: SourceId,
        blocks: BlockRange,
        tried: Vec<Tried>,
    ) -> Command {
        self.todo.remove_range(blocks);
        let failures = tried
            .iter()
            .find(|tried| tried.source == source)
            .map_or(0, |tried| tried.failures);
        self.run(Span {
            source,
            blocks,
            whole: false,
            failures,
            tried,
            since: now,
            bytes: 0,
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

    /// A source without ranges sends the whole object over one connection, when nobody else gets on.
    fn start_stream(&mut self, now: Millis) -> Option<Command> {
        let served = self.spans.values().any(|span| span.whole)
            || self.sources.iter().any(|source| source.serves_ranges(now));
        if served && now < self.patient_since + STREAM_AFTER_MS {
            return None;
        }
        let wants = |id| {
            !self.todo.is_empty()
                || self
                    .waiting
                    .iter()
                    .any(|waiting| may_try(&waiting.tried, id, now))
        };
        let id = (0..self.sources.len()).map(SourceId).find(|id| {
            let source = &self.sources[id.0];
            !source.dropped
                && !source.ranges
                && source.running == 0
                && source.rest_until <= now
                && wants(*id)
        })?;
        let (blocks, failures) = (self.geometry.all(), self.sources[id.0].stream_failures);
        let tried = Vec::new();
        Some(self.run(Span {
            source: id,
            blocks,
            whole: true,
            failures,
            tried,
            since: now,
            bytes: 0,
        }))
    }

    /// Of the sources with ranges and room, one that did not fail these blocks, or not lately; then the one with the most room.
    fn free_source(&self, now: Millis, tried: &[Tried]) -> Option<SourceId> {
        let free = |id: &SourceId| {
            let source = &self.sources[id.0];
            let most = if source.unreachable {
                1
            } else {
                source.connections
            };
            !source.dropped
                && source.ranges
                && source.rest_until <= now
                && source.running < most
                && may_try(tried, *id, now)
        };
        (0..self.sources.len())
            .map(SourceId)
            .filter(free)
            .min_by_key(|id| {
                let source = &self.sources[id.0];
                // Nobody there: that is to be found out only by who has nothing better to do.
                (
                    source.unreachable,
                    tried.iter().position(|tried| tried.source == *id),
                    source.running,
                    id.0,
                )
            })
    }

    /// Blocks that may be asked again now, and of whom; those at the front first.
    fn take_waiting(&mut self, now: Millis) -> Option<(SourceId, Waiting)> {
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain_mut(|waiting| {
            waiting.blocks = self.still_wanted(waiting.blocks);
            !waiting.blocks.is_empty()
        });
        self.waiting = waiting;
        let (index, source) = (0..self.waiting.len())
            .filter(|index| self.may_be_asked(self.waiting[*index].blocks))
            .filter_map(|index| Some((index, self.free_source(now, &self.waiting[index].tried)?)))
            .min_by_key(|(index, _)| self.waiting[*index].blocks.start)?;
        Some((source, self.waiting.swap_remove(index)))
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
        let end = self
            .todo
            .next_missing(start)
            .unwrap_or(BlockIndex(self.geometry.blocks()));
        let most = self.span_blocks();
        Some(BlockRange::new(
            start.0,
            end.0.min(start.0.saturating_add(most)),
        ))
    }

    /// Spans get smaller towards the end, so that all connections finish together.
    fn span_blocks(&self) -> u32 {
        let size = self.geometry.block_size().bytes();
        let connections: u32 = self
            .sources
            .iter()
            .filter(|source| !source.dropped)
            .map(|source| source.connections)
            .sum();
        let connections = connections.clamp(1, self.limits.connections);
        let share = u64::from(self.todo.count()) * size / u64::from(2 * connections);
        (share.clamp(SPAN_BYTES_MIN, SPAN_BYTES_MAX) / size).max(1) as u32
    }

    /// Gives an idle connection the second half of the span that would end last.
    fn split(&mut self, now: Millis) -> Option<Command> {
        if self.spans.len() >= self.limits.connections as usize
            || !self.length_proven
            || !self.todo.is_empty()
        {
            return None;
        }
        let source = self
            .free_source(now, &[])
            .filter(|source| !self.sources[source.0].unreachable)?;
        let (id, _) = self
            .spans
            .iter()
            .filter(|(_, span)| span.blocks.count() >= 2 && !span.whole)
            .filter(|(_, span)| {
                self.geometry.bytes_of_range(span.blocks).length() >= SPLIT_BYTES_MIN
            })
            .map(|(id, span)| (*id, self.left_ms(now, span)))
            .filter(|(_, left)| *left > SPLIT_WORTH_MS)
            .max_by_key(|(_, left)| *left)?;
        let span = self.spans.get_mut(&id)?;
        let middle = span.blocks.start + span.blocks.count() / 2;
        let rest = BlockRange::new(middle, span.blocks.end);
        span.blocks.end = middle;
        let rest = self.still_wanted(rest);
        if !rest.is_empty() {
            let start = self.start_span(now, source, rest, Vec::new());
            self.pending.push_back(start);
        }
        Some(Command::Shrink {
            span: id,
            end: BlockIndex(middle),
        })
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

/// Whether this source may be asked now for blocks that these failed to bring.
fn may_try(tried: &[Tried], source: SourceId, now: Millis) -> bool {
    tried
        .iter()
        .all(|tried| tried.source != source || tried.not_before <= now)
}

/// Notes the latest failure; of each source only the last one matters.
fn note(tried: &mut Vec<Tried>, latest: Tried) {
    tried.retain(|tried| tried.source != latest.source);
    tried.push(latest);
}

impl Span {
    /// These blocks of it are decided.
    fn pass(&mut self, blocks: BlockRange) {
        if blocks.end > self.blocks.start && blocks.start <= self.blocks.start {
            self.blocks.start = blocks.end.min(self.blocks.end);
        }
    }
}
