//! Runs the scheduler on real connections: executes its commands and passes events to it. Knows no part and no journal, only a
//! [`BlockSink`].

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::{Notify, mpsc, watch},
    task::{AbortHandle, JoinSet},
    time::sleep,
};

use crate::{
    engine::{
        blocking::{self, Group, Idle},
        context::Context,
        error::Error,
        events::{Event, Events, Retry},
        remote::source::{Source, SourceResponse},
    },
    format::{
        blockset::BlockSet,
        geometry::{BlockIndex, BlockRange, ByteRange, Geometry},
        judge::{Leaves, Verified},
        validators::Validators,
    },
    net::hosts::Hosts,
    policy::schedule::{self, Command, Outcome, Scheduler, SourceId, SpanId, Want},
};

use super::{
    first::FirstBytes,
    outcome::{self, Ended, Failures},
    rate::Rate,
    sink::BlockSink,
    span::{Shared, Span, SpanEvent},
};

/// Time between two refreshes of the reputations of hosts, which other transfers and processes change too.
const HOSTS_TIME: Duration = Duration::from_secs(1);
/// Each connection keeps one unproven block in memory: block size times connections is at most this.
const UNPROVEN_BYTES_MAX: u64 = 64 << 20;
/// [`Driver::next`] returns after this time at the latest.
const TURN_MS_MAX: u64 = 200;

/// What to transfer, and from where.
pub struct TransferObject {
    pub leaves: Arc<Leaves>,
    pub sources: Vec<Source>,
    /// Whether the first source serves ranges; `true` if unknown.
    pub ranges: bool,
    /// A response of the first source that begins with the first byte. Spans of that source read it before they request anything,
    /// each of its bytes once.
    pub first: Option<Box<SourceResponse>>,
    /// The length is trusted. If not, the last block is fetched first, because it proves the length.
    pub length_proven: bool,
    /// Without a manifest: the validators that every response must have.
    pub version: Option<Validators>,
    /// More connections would be of no use, even if the limits allow them.
    pub connections_max: u32,
}

/// The result of [`Driver::next`].
#[derive(Debug)]
pub enum Turn {
    /// These blocks are in the sink.
    Verified(Verified),
    /// Nothing to report; the caller can do its own work.
    Idle,
    /// All wanted blocks are held.
    Done,
}

/// A transfer in progress. Dropping it aborts its spans; their blocking work may still put blocks into the sink.
pub struct Driver {
    context: Context,
    scheduler: Scheduler,
    sources: Vec<Source>,
    shared: Arc<Shared>,
    idle: Idle,
    connections_max: u32,
    began: Instant,
    spans: Spans,
    /// Proven blocks that the scheduler knows and the caller does not know yet.
    verified: VecDeque<Verified>,
    failures: Failures,
    rate: Rate,
    /// The last refresh of the hosts.
    hosts_refreshed: Option<Instant>,
}

/// The running spans and their channel.
struct Spans {
    running: HashMap<SpanId, RunningSpan>,
    tasks: JoinSet<()>,
    sender: mpsc::UnboundedSender<(SpanId, SpanEvent)>,
    receiver: mpsc::UnboundedReceiver<(SpanId, SpanEvent)>,
    /// Which bytes of a whole-object body to read: from the first wanted byte to the last.
    read_window: watch::Sender<ByteRange>,
    first: Option<Box<FirstBytes>>,
}

struct RunningSpan {
    source: SourceId,
    end: Arc<AtomicU32>,
    may_read_whole: Arc<Notify>,
    abort: AbortHandle,
}

/// The next step of the scheduler.
enum Step {
    /// Wait for an event, or until this time.
    Wait(Option<schedule::Millis>),
    Done,
}

impl Driver {
    /// Wants the whole object until [`Driver::want`]. Fetches a claimed block only after [`Driver::claim_failed`].
    pub fn new(
        context: &Context,
        object: TransferObject,
        sink: Arc<dyn BlockSink>,
        claimed: BlockSet,
    ) -> Driver {
        let geometry = *object.leaves.geometry();
        let connections_in_memory = (UNPROVEN_BYTES_MAX / geometry.block_size().bytes()) as u32;
        let connections_max = object.connections_max.min(connections_in_memory).max(1);
        let mut limits = context.limits_now();
        limits.connections = limits.connections.min(connections_max);
        let mut scheduler = Scheduler::new(
            geometry,
            limits,
            object.sources.len(),
            claimed,
            object.length_proven,
        );
        if !object.ranges {
            scheduler.source_has_no_ranges(SourceId(0));
        }
        scheduler.cut_at(object.sources[0].unit(&geometry));
        let (group, idle) = Group::new();
        let (sender, receiver) = mpsc::unbounded_channel();
        Driver {
            context: context.clone(),
            scheduler,
            sources: object.sources,
            shared: Arc::new(Shared {
                leaves: object.leaves,
                sink,
                version: object.version,
                threads: context.threads,
                group,
            }),
            idle,
            connections_max,
            began: Instant::now(),
            spans: Spans {
                running: HashMap::new(),
                tasks: JoinSet::new(),
                sender,
                receiver,
                read_window: watch::Sender::new(ByteRange::new(0, u64::MAX)),
                first: object
                    .first
                    .map(|first| Box::new(FirstBytes::new(&geometry, first))),
            },
            verified: VecDeque::new(),
            failures: Failures::default(),
            rate: Rate::new(),
            hosts_refreshed: None,
        }
    }

    /// Replaces the wanted blocks.
    pub fn want(&mut self, want: Want) {
        let geometry = *self.geometry();
        let bytes = |range: &BlockRange| geometry.bytes_of_range(*range);
        let ranges = want.ranges.iter().filter(|range| !range.is_empty());
        let start = ranges.clone().map(|range| bytes(range).start).min();
        let end = ranges.map(|range| bytes(range).end).max();
        if let (Some(start), Some(end)) = (start, end) {
            self.spans
                .read_window
                .send_replace(ByteRange::new(start, end));
        }
        let now = self.now();
        self.scheduler.want(now, want);
    }

    /// Reports blocks that are in the sink: the caller found them locally, or judged a claim.
    pub fn held(&mut self, verified: Verified) {
        let now = self.now();
        let event = schedule::Event::Held(verified);
        self.scheduler.handle(now, event);
    }

    /// Whether nothing runs and no wanted block is missing. Commands were executed since the last change.
    pub fn is_idle(&self) -> bool {
        self.scheduler.is_idle()
    }

    /// Whether a wanted block is missing, and all connections are busy with others.
    pub fn waits_for_connection(&self, block: BlockIndex) -> bool {
        self.scheduler.waits_for_connection(block)
    }

    /// Reports that the sink no longer has these blocks.
    pub fn lost(&mut self, blocks: BlockRange) {
        let now = self.now();
        let event = schedule::Event::Lost { blocks };
        self.scheduler.handle(now, event);
    }

    /// Reports a claimed block that is missing or wrong.
    pub fn claim_failed(&mut self, block: BlockIndex) {
        let now = self.now();
        let event = schedule::Event::ClaimFailed { block };
        self.scheduler.handle(now, event);
    }

    /// Runs until there is something to report, or for `TURN_MS_MAX`. Cancel-safe: all state is in the driver.
    pub async fn next(&mut self, events: &mut dyn Events) -> Result<Turn, Error> {
        if let Some(verified) = self.verified.pop_front() {
            return Ok(Turn::Verified(verified));
        }
        let until = match self.run_commands(events)? {
            Step::Done => return Ok(Turn::Done),
            Step::Wait(until) => until,
        };
        let wake = until
            .map_or(u64::MAX, |until| until.saturating_sub(self.now()))
            .clamp(1, TURN_MS_MAX);
        tokio::select! {
            Some((span, event)) = self.spans.receiver.recv() => {
                self.on_span_event(span, event, events)?;
                // Process all pending events before the next decision.
                while let Ok((span, event)) = self.spans.receiver.try_recv() {
                    self.on_span_event(span, event, events)?;
                }
            }
            Some(ended) = self.spans.tasks.join_next() => {
                if let Err(cause) = ended && cause.is_panic() {
                    std::panic::resume_unwind(cause.into_panic());
                }
            }
            () = sleep(Duration::from_millis(wake)) => (),
        }
        let verified = self.verified.pop_front();
        Ok(verified.map_or(Turn::Idle, Turn::Verified))
    }

    /// Aborts the spans. Their blocking work may still run; [`Idle::wait`] waits for its end.
    pub async fn shutdown(mut self) -> Idle {
        self.spans.tasks.shutdown().await;
        self.idle
    }

    /// The group of the spans' blocking work. Start other work on the same sink in it, so that [`Idle::wait`] waits for both.
    pub fn group(&self) -> &Group {
        &self.shared.group
    }

    pub fn leaves(&self) -> &Leaves {
        &self.shared.leaves
    }

    fn geometry(&self) -> &Geometry {
        self.shared.leaves.geometry()
    }

    pub fn held_blocks(&self) -> &BlockSet {
        self.scheduler.held()
    }

    pub fn claimed_blocks(&self) -> &BlockSet {
        self.scheduler.claimed()
    }

    /// Body bytes that all requests of this context received.
    pub fn bytes_fetched(&self) -> u64 {
        self.context.client.bytes_fetched()
    }

    /// The rate over the last seconds; to be called about once a second.
    pub fn bytes_per_second(&mut self) -> u64 {
        self.rate.bytes_per_second()
    }

    fn now(&self) -> schedule::Millis {
        self.began.elapsed().as_millis() as u64
    }

    /// Executes commands until the scheduler waits or finishes. Returns the time of the next timer.
    fn run_commands(&mut self, events: &mut dyn Events) -> Result<Step, Error> {
        self.refresh_hosts();
        let allowed = self.context.connections.per_fetch();
        self.scheduler.allow(allowed.min(self.connections_max));
        self.scheduler.hold_back(self.context.client.is_held_back());
        loop {
            let now = self.now();
            match self.scheduler.command(now) {
                Command::Start {
                    span,
                    source,
                    blocks,
                    whole,
                } => self.start(span, source, blocks, whole),
                Command::Shrink { span, end } => {
                    if let Some(running) = self.spans.running.get(&span) {
                        running.end.store(end.0, Ordering::Relaxed);
                    }
                }
                Command::Cancel { span } => {
                    if let Some(running) = self.spans.running.remove(&span) {
                        running.abort.abort();
                    }
                }
                Command::Retry {
                    source,
                    class,
                    attempt,
                    wait_ms,
                } => {
                    let left_ms = self.scheduler.patience_ends().saturating_sub(now);
                    let mut retry = Retry {
                        source: self.sources[source.0].name(),
                        class,
                        attempt,
                        wait_ms,
                        idle: self.scheduler.running() == 0,
                        reason: String::new(),
                        is_first: false,
                        until_ms: Hosts::now_ms() + left_ms,
                    };
                    let proven = self.scheduler.held().count();
                    self.failures.explain(source, proven, &mut retry);
                    events.event(Event::Retry(retry));
                }
                Command::Slowed {
                    source,
                    connections,
                    until,
                    wait_ms,
                    serves,
                } => events.event(Event::HostSlowed {
                    host: self.sources[source.0].location().host(),
                    connections,
                    cooldown_ms: until.saturating_sub(now),
                    wait_ms,
                    serves,
                }),
                Command::Dropped { source, why } => events.event(Event::SourceDropped {
                    source: self.sources[source.0].name(),
                    why,
                }),
                Command::Wait { until } => return Ok(Step::Wait(until)),
                Command::Finish(Outcome::Done) => return Ok(Step::Done),
                Command::Finish(outcome) => return Err(self.failure(outcome)),
            }
        }
    }

    fn failure(&self, outcome: Outcome) -> Error {
        outcome::error(Ended {
            outcome,
            sources: &self.sources,
            geometry: self.geometry(),
            limits: self.scheduler.limits(),
            failures: &self.failures,
            now: self.now(),
        })
    }

    /// Passes the current reputations of the hosts to the scheduler.
    fn refresh_hosts(&mut self) {
        if self
            .hosts_refreshed
            .is_some_and(|last| last.elapsed() < HOSTS_TIME)
        {
            return;
        }
        self.hosts_refreshed = Some(Instant::now());
        let hosts = self.context.client.hosts().clone();
        // Runs in the background: the scheduler gets what it loads at the next refresh.
        blocking::detach(move || hosts.refresh());
        let began_ms = Hosts::now_ms().saturating_sub(self.now());
        for (index, source) in self.sources.iter().enumerate() {
            let known = self.context.client.reputation(source.location());
            self.scheduler
                .merge_reputation(SourceId(index), known.counted_from(began_ms));
        }
    }

    fn start(&mut self, id: SpanId, source: SourceId, blocks: BlockRange, whole: bool) {
        let (end, may_read_whole) = (Arc::new(AtomicU32::new(blocks.end)), Arc::default());
        let first = self.spans.first.as_mut().filter(|_| source == SourceId(0));
        let first = first.and_then(|first| first.of_span(blocks, whole));
        let span = Span {
            id,
            source: self.sources[source.0].clone(),
            blocks,
            whole,
            first,
            end: end.clone(),
            may_read_whole: Arc::clone(&may_read_whole),
            read_window: self.spans.read_window.subscribe(),
            shared: self.shared.clone(),
            sender: self.spans.sender.clone(),
        };
        let abort = match &self.context.transfers {
            Some(runtime) => self.spans.tasks.spawn_on(span.run(), runtime),
            None => self.spans.tasks.spawn(span.run()),
        };
        let running = RunningSpan {
            source,
            end,
            may_read_whole,
            abort,
        };
        self.spans.running.insert(id, running);
    }

    fn on_span_event(
        &mut self,
        span: SpanId,
        event: SpanEvent,
        events: &mut dyn Events,
    ) -> Result<(), Error> {
        let now = self.now();
        let Some(source) = self.spans.running.get(&span).map(|running| running.source) else {
            // The span was cancelled: only its proven blocks still count.
            if let SpanEvent::Verified(verified) = event {
                self.verified.push_back(verified);
                self.scheduler.handle(now, schedule::Event::Held(verified));
            }
            return Ok(());
        };
        let event = match event {
            SpanEvent::Late(late_ms) => schedule::Event::Late { span, late_ms },
            SpanEvent::Opened => {
                self.failures.responded(source);
                schedule::Event::Opened { span }
            }
            SpanEvent::WholeBody => schedule::Event::WholeBody { span },
            SpanEvent::Bytes(count) => {
                self.rate.add(count);
                schedule::Event::Bytes { span, count }
            }
            SpanEvent::Verified(verified) => {
                self.verified.push_back(verified);
                events.event(Event::BlocksVerified {
                    first: BlockIndex(verified.blocks().start),
                    count: verified.blocks().count(),
                    source: self.sources[source.0].name(),
                });
                schedule::Event::Proven { span, verified }
            }
            SpanEvent::Wrong(mismatch) => {
                let block = BlockIndex(mismatch.blocks.start);
                self.failures.wrong.insert(block, (mismatch, source));
                events.event(Event::BlockWrong {
                    block,
                    bytes: self.geometry().bytes_of(block),
                    expected: mismatch.expected,
                    found: mismatch.found,
                    source: self.sources[source.0].name(),
                });
                schedule::Event::Wrong { span, block }
            }
            SpanEvent::Ended => {
                self.spans.running.remove(&span);
                schedule::Event::Ended { span }
            }
            SpanEvent::Failed(cause) => {
                self.spans.running.remove(&span);
                let failure = cause.failure;
                self.failures.failed(source, cause);
                schedule::Event::Failed { span, failure }
            }
            SpanEvent::Disk(cause) => return Err(cause.into()),
        };
        let is_whole_body = matches!(event, schedule::Event::WholeBody { .. });
        self.scheduler.handle(now, event);
        // If several spans get the whole object at the same time, the scheduler cancels all but one.
        if is_whole_body
            && self.scheduler.is_running(span)
            && let Some(running) = self.spans.running.get(&span)
        {
            running.may_read_whole.notify_one();
        }
        Ok(())
    }
}
