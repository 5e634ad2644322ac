//! What each event changes: the state of blocks (see [`super`]), the standing of sources, the running spans.

use crate::{
    format::{
        geometry::{BlockIndex, BlockRange},
        judge::Verified,
    },
    policy::{
        recovery::{self, Before, Class, End, Failure, Phase, Remedy},
        refusals::{Refusal, Refusals},
    },
};

use super::{
    Scheduler, Span, Waiting,
    protocol::{Command, DropReason, Millis, Outcome, SourceId, SpanId},
    sources::{RefusedRequest, Source, SourceFailure, note},
};

/// A source that sent this many different blocks wrong is dropped if another one can serve.
const WRONG_BLOCKS_MAX: usize = 2;
/// A source that sent one block wrong this often is given up, even if it is the last one.
const WRONG_TIMES_MAX: u32 = 4;

impl Scheduler {
    /// Returns whether any of these blocks is new. Only new blocks are progress: a stream that always breaks proves the same
    /// blocks again and again.
    pub(super) fn hold(&mut self, now: Millis, verified: Verified) -> bool {
        let before = self.blocks.held.count();
        for block in verified.blocks().iter() {
            if self.blocks.held.insert(block) && self.blocks.wanted.blocks.contains(block) {
                self.blocks.wanted.unheld -= 1;
            }
            self.blocks.claimed.remove(block);
            self.blocks.todo.remove(block);
        }
        if self.blocks.held.contains(self.geometry.last()) {
            self.blocks.length_proven = true;
        }
        let new = self.blocks.held.count() > before;
        if new {
            self.patience.since = now;
        }
        new
    }

    pub(super) fn lost(&mut self, now: Millis, blocks: BlockRange) {
        let had_demand = self.has_demand();
        for block in blocks.iter() {
            if !self.blocks.held.remove(block) || !self.blocks.wanted.blocks.contains(block) {
                continue;
            }
            self.blocks.wanted.unheld += 1;
            if !self.is_under_way(block) {
                self.blocks.todo.insert(block);
            }
        }
        if !had_demand && self.has_demand() {
            self.patience.since = now;
        }
        if self.blocks.wanted.unheld > 0 && self.outcome == Some(Outcome::Done) {
            self.outcome = None;
        }
    }

    pub(super) fn claim_failed(&mut self, now: Millis, block: BlockIndex) {
        if !self.blocks.claimed.remove(block) || self.is_under_way(block) {
            return;
        }
        if !self.blocks.wanted.blocks.contains(block) {
            return;
        }
        if !self.has_demand() {
            // Patience did not run while only claims were being judged.
            self.patience.since = now;
        }
        self.blocks.todo.insert(block);
    }

    /// The request of a span was sent this much later than the span began: that time says nothing about its source.
    pub(super) fn late(&mut self, now: Millis, span: SpanId, late_ms: u64) {
        if let Some(span) = self.spans.get_mut(&span) {
            let since = now.min(span.since + late_ms);
            let passed = since - std::mem::replace(&mut span.since, since);
            self.sources[span.source.0].pace.take_time(passed);
        }
    }

    pub(super) fn opened(&mut self, now: Millis, span: SpanId) {
        if let Some(span) = self.spans.get_mut(&span) {
            (span.opened, span.last_received) = (true, now);
            let source = &mut self.sources[span.source.0];
            let response_ms = now.saturating_sub(span.since);
            source.response_ms = Some(
                source
                    .response_ms
                    .map_or(response_ms, |ms| ms.min(response_ms)),
            );
            source.unreachable = false;
            source.bad_responses = 0;
            source.host.refusals = Refusals::default();
            self.begin_round_if_connected(now);
        }
    }

    pub(super) fn whole_body(&mut self, id: SpanId) {
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
        let requested = span.clone();
        (span.blocks, span.whole, span.tried) = (all, true, Vec::new());
        self.give_back(&requested);
        if others_serve {
            self.cancel(id);
        }
    }

    pub(super) fn block_failed(&mut self, now: Millis, id: SpanId, block: BlockIndex) {
        let Some(span) = self.spans.get_mut(&id) else {
            return;
        };
        let (source, mut tried) = (span.source, span.tried.clone());
        span.pass(BlockRange::one(block));
        let ranged = !span.whole;
        self.sources[source.0].wrong_in_row += 1;
        let times = self.sources[source.0]
            .wrong_blocks
            .entry(block)
            .or_default();
        *times += 1;
        let times = *times;
        let wait = if times == 1 {
            0
        } else {
            recovery::backoff_ms(times - 1, self.random())
        };
        let wanted = self.blocks.is_wanted(block);
        if self.blocks.is_missing(block) {
            let latest = SourceFailure {
                source,
                failures: 0,
                not_before: now + wait,
                refused: false,
            };
            match self
                .blocks
                .waiting
                .iter()
                .position(|waiting| waiting.blocks.contains(block))
            {
                Some(index) => note(&mut self.blocks.waiting[index].tried, latest),
                None if self.is_under_way(block) => (),
                None => {
                    note(&mut tried, latest);
                    self.blocks.todo.remove(block);
                    self.blocks.waiting.push(Waiting {
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
        if another_serves
            && (times >= WRONG_TIMES_MAX
                || self.sources[source.0].wrong_blocks.len() >= WRONG_BLOCKS_MAX)
        {
            self.drop_source(source, DropReason::WrongBlock { block });
        } else if wanted && times >= WRONG_TIMES_MAX && others().count() == 0 {
            self.outcome = Some(Outcome::Wrong { block });
        } else if ranged && self.sources[source.0].is_suspect() {
            // The rest of the span is probably wrong too, and would delay the blocks that decide about the source.
            self.cancel(id);
        }
    }

    pub(super) fn failed(&mut self, now: Millis, id: SpanId, failure: Failure) {
        let Some(span) = self.remove_span(id) else {
            return;
        };
        self.patience.last_failure = Some(failure);
        let random = self.random();
        let source = &mut self.sources[span.source.0];
        // A source that accepts a connection and sends nothing counts as unreachable.
        source.unreachable = match failure {
            // No request was sent.
            Failure::RetryAfter { .. } => source.unreachable,
            failure => {
                failure == Failure::Unreachable || (failure == Failure::Stalled && span.bytes == 0)
            }
        };
        let is_needed = match span.whole {
            true => self.blocks.next_wanted(span.blocks).is_some(),
            false => !span.blocks.is_empty(),
        };
        if !is_needed && failure.class() == Class::Again {
            // All its blocks are decided, or the rest of a stream is not wanted: nothing is to be requested again.
            return;
        }
        let source = &mut self.sources[span.source.0];
        let failures = span.failures + u32::from(failure.counts_as_try());
        source.bad_responses += u32::from(failure.class() == Class::Elsewhere);
        let before = Before {
            tries: failures,
            tries_max: self.limits.tries,
            bad_responses: source.bad_responses,
        };
        let (others, whole) = (self.another_is_left(span.source), span.whole);
        let remedy = recovery::remedy(failure, Phase::Span { others, whole }, before);
        let source = &mut self.sources[span.source.0];
        let backoff = recovery::backoff_ms(failures.max(1), random);
        let wait = match remedy {
            Remedy::Again { least_ms } => backoff.max(least_ms),
            Remedy::Probe => {
                source.not_before = source.not_before.max(now + recovery::PROBE_EVERY_MS);
                recovery::PROBE_EVERY_MS
            }
            Remedy::Later => self.refused(now, &span, failure, random),
            Remedy::OneStream => {
                source.ranges = false;
                0
            }
            Remedy::Drop | Remedy::Stop(_) => backoff,
            Remedy::StartOver => unreachable!("a span is of one version"),
        };
        let latest = SourceFailure {
            source: span.source,
            failures,
            not_before: now + wait,
            refused: remedy == Remedy::Later,
        };
        self.put_back_later(&span, latest);
        match remedy {
            Remedy::Drop => self.drop_source(span.source, DropReason::Failed(failure)),
            Remedy::Stop(end) => {
                self.outcome.get_or_insert(ended(end, failure));
            }
            _ => self.pending.push_back(Command::Retry {
                source: span.source,
                class: class_told(failure, remedy),
                attempt: failures,
                wait_ms: wait,
            }),
        }
    }

    /// Notes that the host of a span limits requests, and returns the wait for the blocks of the span.
    fn refused(&mut self, now: Millis, span: &Span, failure: Failure, random: u64) -> Millis {
        let connections = self.search.connections();
        let source = &mut self.sources[span.source.0];
        let before = (source.connections(), source.refuses_until());
        let wait = match failure {
            Failure::TooMany {
                retry_after_ms,
                serves,
                ..
            } => {
                let refusal = Refusal {
                    serves,
                    retry_after_ms,
                };
                let sent = span.since;
                let request = RefusedRequest {
                    sent,
                    refusal,
                    random,
                };
                source.refuse(now, request, connections)
            }
            Failure::RetryAfter { wait_ms } => {
                source.retry_after(now, wait_ms);
                wait_ms
            }
            _ => 0,
        };
        if before != (source.connections(), source.refuses_until()) {
            self.pending.push_back(Command::Slowed {
                source: span.source,
                connections: source.connections().min(self.limits.connections),
                until: source.host.reputation.cooldown_ends_ms(),
                wait_ms: wait,
                serves: source.refuses_until() <= now,
            });
        }
        wait
    }

    fn another_is_left(&self, id: SourceId) -> bool {
        let others = |(index, source): (usize, &Source)| index != id.0 && !source.dropped;
        self.sources.iter().enumerate().any(others)
    }

    fn drop_source(&mut self, id: SourceId, why: DropReason) {
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

    pub(super) fn cancel(&mut self, id: SpanId) {
        if let Some(span) = self.remove_span(id) {
            self.give_back(&span);
            match self.start_not_handed_out(id) {
                Some(_) => self.pending.retain(|command| !starts(command, id)),
                None => self.pending.push_back(Command::Cancel { span: id }),
            }
        }
    }

    /// The command that starts a span, if it is decided and not yet handed out.
    pub(super) fn start_not_handed_out(&mut self, id: SpanId) -> Option<&mut Command> {
        self.pending.iter_mut().find(|command| starts(command, id))
    }

    pub(super) fn remove_span(&mut self, id: SpanId) -> Option<Span> {
        let span = self.spans.remove(&id)?;
        let source = &mut self.sources[span.source.0];
        source.running -= 1;
        if span.whole {
            source.stream_failures = span.failures;
        }
        Some(span)
    }

    /// Puts the blocks that a span did not deliver back into the queue. The blocks of a stream never left it.
    pub(super) fn give_back(&mut self, span: &Span) {
        if !span.whole && !span.tried.is_empty() {
            self.blocks.waiting.push(Waiting {
                blocks: span.blocks,
                tried: span.tried.clone(),
            });
        } else if !span.whole {
            for block in span.blocks.iter() {
                if self.blocks.is_wanted(block) {
                    self.blocks.todo.insert(block);
                }
            }
        }
    }

    /// The same after a failure: the source gets these blocks again only after a time. After a stream the source itself waits.
    fn put_back_later(&mut self, span: &Span, failure: SourceFailure) {
        if span.whole {
            let source = &mut self.sources[span.source.0];
            source.stream_failures = failure.failures;
            source.not_before = source.not_before.max(failure.not_before);
        } else {
            let mut tried = span.tried.clone();
            note(&mut tried, failure);
            self.blocks.waiting.push(Waiting {
                blocks: span.blocks,
                tried,
            });
        }
    }
}

/// A source without ranges goes on, whatever the failure means elsewhere.
fn class_told(failure: Failure, remedy: Remedy) -> Class {
    match remedy {
        Remedy::OneStream => Class::Elsewhere,
        _ => failure.class(),
    }
}

fn ended(end: End, failure: Failure) -> Outcome {
    match end {
        End::Later => Outcome::Tries(failure),
        End::Changed => Outcome::Changed(failure),
        End::Failed => Outcome::NoSource(failure),
    }
}

fn starts(command: &Command, id: SpanId) -> bool {
    matches!(command, Command::Start { span, .. } if *span == id)
}
