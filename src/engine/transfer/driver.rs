//! Running the scheduler on real connections: starts spans, hears what they tell, keeps the journal, counts.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, mpsc},
    task::{AbortHandle, JoinSet},
    time::sleep,
};

use crate::{
    disk::{
        destination::Opened,
        error::DiskError,
        journal::Journal,
        part::{Part, Stored},
    },
    engine::{
        blocking::{self, Group, Threads, Work},
        connections::Connections,
        error::Error,
        events::{Event, Events, Progress},
        remote::source::Source,
    },
    format::{
        blockset::BlockSet,
        digests::{Algorithm, Digest},
        geometry::{BlockIndex, BlockRange},
        judge::{Leaves, Mismatch},
    },
    net::{
        client::Client, error::NetError, hosts::Hosts, location::Location, validators::Validators,
    },
    policy::schedule::{self, Command, Limits, Outcome, Scheduler, SourceId, SpanId},
};

use super::{
    checkpoint::{LastCheckpoint, SharedJournal, lock, sync},
    claims::{Claim, judge_claims},
    digests::Follower,
    rate::Rate,
    span::{Shared, Span, Told},
};

/// Claims are written when so much was proven since the last time, or after so long.
const CHECKPOINT_BYTES: u64 = 64 << 20;
const CHECKPOINT_TIME: Duration = Duration::from_secs(2);
/// Without a manifest nothing but the journal knows what arrived, and a record costs next to nothing without a sync.
const LEAVES_TIME: Duration = Duration::from_millis(250);
/// Progress is told so often.
const PROGRESS_TIME: Duration = Duration::from_secs(1);
/// What others learnt of the hosts is looked up so often.
const HOSTS_TIME: Duration = Duration::from_secs(1);
/// Blocks that are not proven yet are kept in memory: block size times connections stays below this.
const UNPROVEN_BYTES_MAX: u64 = 64 << 20;

/// A transfer of one object into its part.
pub struct Transfer<'a> {
    pub client: Client,
    pub sources: Vec<Location>,
    /// Whether the first answer showed that ranges work.
    pub ranges: bool,
    pub leaves: Arc<Leaves>,
    /// What was found on this machine, and is in the part and judged.
    pub landed: Vec<Stored>,
    pub limits: Limits,
    /// Connections beyond this are of no use, whatever is allowed.
    pub worth: u32,
    /// What is allowed while other fetches run.
    pub connections: Connections,
    /// Where bytes are judged and written.
    pub work_on: Threads,
    /// The length may be believed before the last block is proven.
    pub length_proven: bool,
    /// Without a manifest: the version that all parts must be of.
    pub version: Option<Validators>,
    /// Digests of the whole that are wanted at the end.
    pub digests: Vec<Algorithm>,
    pub events: &'a mut dyn Events,
}

/// A part that holds all of the object.
pub struct Transferred {
    pub part: Arc<Part>,
    pub journal: Journal,
    /// Bytes that earlier runs had left.
    pub bytes_resumed: u64,
    pub digests: Vec<Digest>,
}

impl Transfer<'_> {
    /// Until every block is held.
    pub async fn run(mut self, opened: Opened) -> Result<Transferred, Error> {
        let Opened {
            part,
            mut journal,
            mut claimed,
            ..
        } = opened;
        let geometry = *self.leaves.geometry();
        if geometry.length() == 0 {
            // Nothing is all there is; the judge sees it like anything that is here already.
            claimed.insert(geometry.last());
        }
        let most = (UNPROVEN_BYTES_MAX / geometry.block_size().bytes()) as u32;
        let worth = self.worth.min(most);
        self.limits.connections = self.limits.connections.min(worth);
        let mut scheduler = Scheduler::new(
            geometry,
            self.limits,
            self.sources.len(),
            claimed.clone(),
            self.length_proven,
        );
        self.tell_what_is_known(&mut scheduler, &mut claimed);
        if self.leaves.are_first_use() {
            journal.record_leaves(self.leaves.clone());
        }
        let (group, idle) = Group::new();
        let shared = Arc::new(Shared {
            client: self.client,
            leaves: self.leaves,
            part,
            version: self.version,
            work_on: self.work_on,
            group: group.clone(),
        });
        let stop = Arc::new(AtomicBool::new(false));
        let journal = Arc::new(Mutex::new(journal));
        let last_checkpoint = LastCheckpoint {
            journal: journal.clone(),
            stop: stop.clone(),
        };
        let (tell, told) = mpsc::unbounded_channel();
        let (tell_claim, claims) = mpsc::unbounded_channel();
        let mut running = Running {
            scheduler,
            shared: shared.clone(),
            sources: self.sources,
            journal,
            events: self.events,
            worth,
            connections: self.connections,
            began: Instant::now(),
            spans: HashMap::new(),
            tasks: JoinSet::new(),
            tell,
            told,
            claims,
            wrong: BTreeMap::new(),
            last_error: None,
            unrecorded: 0,
            checkpointed: Instant::now(),
            recorded: Instant::now(),
            checkpoint: None,
            judging: None,
            rate: Rate::new(),
            looked: None,
            progressed: None,
            resumed: 0,
            follower: Follower::new(&self.digests),
        };
        let judging = group.start(Threads::Blocking, {
            let (shared, stop) = (shared.clone(), stop.clone());
            move || {
                judge_claims(&shared.leaves, &shared.part, &claimed, &stop, |claim| {
                    let _ = tell_claim.send(claim);
                });
            }
        });
        running.judging = Some(judging);
        let outcome = running.until_finished().await;
        // The tasks hold the part; they end before it is published.
        running.tasks.shutdown().await;
        let checkpointing = running.finish_checkpoint().await;
        let Running {
            resumed: bytes_resumed,
            follower,
            shared: running_shared,
            journal: running_journal,
            ..
        } = running;
        drop((running_shared, running_journal));
        let journal = last_checkpoint.journal.clone();
        drop(last_checkpoint);
        outcome?;
        checkpointing?;
        let part = shared.part.clone();
        let digests = follower.finish(&group, &part, geometry.length()).await?;
        drop((shared, group));
        // Work of a span that was stopped ends a little later; it holds the journal and the part.
        idle.wait().await;
        let journal = Arc::into_inner(journal).expect("all work has ended");
        Ok(Transferred {
            part,
            journal: journal.into_inner(),
            bytes_resumed,
            digests,
        })
    }
}

impl Transfer<'_> {
    /// What landed already, and what the first answer showed.
    fn tell_what_is_known(&self, scheduler: &mut Scheduler, claimed: &mut BlockSet) {
        for stored in &self.landed {
            scheduler.handle(0, schedule::Event::Held(stored.verified()));
            claimed.remove_range(stored.blocks());
        }
        if !self.ranges {
            scheduler.source_has_no_ranges(SourceId(0));
        }
    }
}

/// A span that runs.
pub struct Live {
    source: SourceId,
    end: Arc<AtomicU32>,
    go: Arc<Notify>,
    abort: AbortHandle,
}

pub struct Running<'a> {
    pub scheduler: Scheduler,
    pub shared: Arc<Shared>,
    pub sources: Vec<Location>,
    pub journal: SharedJournal,
    pub events: &'a mut dyn Events,
    pub worth: u32,
    pub connections: Connections,
    pub began: Instant,
    pub spans: HashMap<SpanId, Live>,
    pub tasks: JoinSet<()>,
    pub tell: mpsc::UnboundedSender<(SpanId, Told)>,
    pub told: mpsc::UnboundedReceiver<(SpanId, Told)>,
    pub claims: mpsc::UnboundedReceiver<Claim>,
    /// What came last in the place of a block, and from where.
    pub wrong: BTreeMap<BlockIndex, (Mismatch, SourceId)>,
    pub last_error: Option<NetError>,
    /// Bytes proven since the journal was written, and when that was.
    pub unrecorded: u64,
    pub checkpointed: Instant,
    /// When leaves were last written.
    pub recorded: Instant,
    pub checkpoint: Option<Work<Result<(), DiskError>>>,
    pub judging: Option<Work<()>>,
    pub rate: Rate,
    /// When the hosts were looked up last.
    pub looked: Option<Instant>,
    pub progressed: Option<Instant>,
    /// Bytes of claims that proved.
    pub resumed: u64,
    pub follower: Follower,
}

impl Running<'_> {
    pub fn now(&self) -> schedule::Millis {
        self.began.elapsed().as_millis() as u64
    }

    async fn until_finished(&mut self) -> Result<(), Error> {
        self.progress(true);
        loop {
            let Some(until) = self.obey()? else {
                return Ok(());
            };
            self.housekeeping().await?;
            let now = self.now();
            let wake = until
                .map_or(u64::MAX, |until| until.saturating_sub(now))
                .clamp(1, 200);
            tokio::select! {
                Some((span, told)) = self.told.recv() => {
                    self.hear(span, told)?;
                    // What else is there already is heard before anything is decided.
                    while let Ok((span, told)) = self.told.try_recv() {
                        self.hear(span, told)?;
                    }
                }
                Some(claim) = self.claims.recv() => self.hear_claim(claim)?,
                Some(joined) = self.tasks.join_next() => {
                    if let Err(cause) = joined && cause.is_panic() {
                        std::panic::resume_unwind(cause.into_panic());
                    }
                }
                () = sleep(Duration::from_millis(wake)) => (),
            }
        }
    }

    /// Does what the scheduler says, and tells how long it wants to wait then, if not for an event. `None`: it is done.
    #[allow(
        clippy::option_option,
        reason = "done, and waiting for no time, are two different things"
    )]
    fn obey(&mut self) -> Result<Option<Option<schedule::Millis>>, Error> {
        self.look_at_hosts();
        self.scheduler
            .allow(self.connections.of_each().min(self.worth));
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
                    if let Some(live) = self.spans.get(&span) {
                        live.end.store(end.0, Ordering::Relaxed);
                    }
                }
                Command::Cancel { span } => {
                    if let Some(live) = self.spans.remove(&span) {
                        live.abort.abort();
                    }
                }
                Command::Retry {
                    source,
                    class,
                    attempt,
                    wait_ms,
                } => {
                    let source = self.sources[source.0].to_string();
                    self.events.event(Event::Retry {
                        source,
                        class,
                        attempt,
                        wait_ms,
                    });
                }
                Command::Slowed {
                    source,
                    connections,
                    until,
                } => {
                    let (host, wait_ms) =
                        (self.sources[source.0].host(), until.saturating_sub(now));
                    self.events.event(Event::HostSlowed {
                        host,
                        connections,
                        wait_ms,
                    });
                }
                Command::Dropped { source, why } => {
                    let source = self.sources[source.0].to_string();
                    self.events.event(Event::SourceDropped { source, why });
                }
                Command::Wait { until } => return Ok(Some(until)),
                Command::Finish(Outcome::Done) => {
                    self.progress(true);
                    return Ok(None);
                }
                Command::Finish(outcome) => return Err(self.failure(outcome)),
            }
        }
    }

    /// What other fetches and other processes learnt of the hosts counts here too.
    fn look_at_hosts(&mut self) {
        if self.looked.is_some_and(|last| last.elapsed() < HOSTS_TIME) {
            return;
        }
        self.looked = Some(Instant::now());
        let hosts = self.shared.client.hosts().clone();
        blocking::detach(move || hosts.refresh());
        let began_ms = Hosts::now_ms().saturating_sub(self.now());
        for (index, source) in self.sources.iter().enumerate() {
            let known = self.shared.client.reputation(source);
            self.scheduler
                .source_is_known(SourceId(index), known.counted_from(began_ms));
        }
    }

    fn start(&mut self, id: SpanId, source: SourceId, blocks: BlockRange, whole: bool) {
        let (end, go) = (Arc::new(AtomicU32::new(blocks.end)), Arc::default());
        let span = Span {
            id,
            source: Source::http(&self.shared.client, &self.sources[source.0]),
            blocks,
            whole,
            end: end.clone(),
            go: Arc::clone(&go),
            shared: self.shared.clone(),
            tell: self.tell.clone(),
        };
        let abort = self.tasks.spawn(span.run());
        let live = Live {
            source,
            end,
            go,
            abort,
        };
        self.spans.insert(id, live);
    }

    fn hear(&mut self, span: SpanId, told: Told) -> Result<(), Error> {
        let Some(source) = self.spans.get(&span).map(|live| live.source) else {
            // Of a span that was cancelled only what it proved still counts.
            if let Told::Proven(stored) = told {
                self.held(stored, schedule::Event::Held(stored.verified()));
            }
            return Ok(());
        };
        let event = match told {
            Told::Opened => schedule::Event::Opened { span },
            Told::WholeBody => {
                let now = self.now();
                self.scheduler
                    .handle(now, schedule::Event::WholeBody { span });
                // Of several to which it happens at a time the scheduler has cancelled all but one.
                if let Some(live) = self.spans.get(&span)
                    && self.scheduler.is_running(span)
                {
                    live.go.notify_one();
                }
                return Ok(());
            }
            Told::Bytes(count) => {
                self.rate.add(count);
                schedule::Event::Bytes { span, count }
            }
            Told::Proven(stored) => {
                let verified = stored.verified();
                let BlockRange { start, .. } = verified.blocks();
                let (first, count) = (BlockIndex(start), verified.blocks().count());
                let source = self.sources[source.0].to_string();
                self.events.event(Event::BlocksVerified {
                    first,
                    count,
                    source,
                });
                self.held(stored, schedule::Event::Proven { span, verified });
                return Ok(());
            }
            Told::Wrong(mismatch) => {
                let block = BlockIndex(mismatch.blocks.start);
                self.wrong.insert(block, (mismatch, source));
                let bytes = self.shared.leaves.geometry().bytes_of(block);
                let source = self.sources[source.0].to_string();
                self.events.event(Event::BlockWrong {
                    block,
                    bytes,
                    expected: mismatch.expected,
                    found: mismatch.found,
                    source,
                });
                schedule::Event::Wrong { span, block }
            }
            Told::Ended => {
                self.spans.remove(&span);
                schedule::Event::Ended { span }
            }
            Told::Failed(cause) => {
                self.spans.remove(&span);
                let failure = cause.failure;
                self.last_error = Some(cause);
                schedule::Event::Failed { span, failure }
            }
            Told::Disk(cause) => return Err(cause.into()),
        };
        let now = self.now();
        self.scheduler.handle(now, event);
        Ok(())
    }

    fn hear_claim(&mut self, claim: Claim) -> Result<(), Error> {
        match claim {
            Claim::Held(stored) => {
                self.resumed += stored.verified().bytes().length();
                self.held(stored, schedule::Event::Held(stored.verified()));
            }
            Claim::Failed(block) => {
                lock(&self.journal).drop_claims(vec![BlockRange::one(block)])?;
                let now = self.now();
                self.scheduler
                    .handle(now, schedule::Event::ClaimFailed { block });
            }
        }
        Ok(())
    }

    fn held(&mut self, stored: Stored, event: schedule::Event) {
        self.unrecorded += stored.verified().bytes().length();
        lock(&self.journal).note(stored);
        let now = self.now();
        self.scheduler.handle(now, event);
    }

    /// Journal and progress, when their time has come.
    async fn housekeeping(&mut self) -> Result<(), Error> {
        if self.checkpoint.as_ref().is_some_and(Work::is_finished) {
            self.finish_checkpoint().await?;
        }
        if let Some(judging) = self.judging.take_if(|work| work.is_finished()) {
            judging.finish().await;
        }
        let due = self.unrecorded >= CHECKPOINT_BYTES
            || (self.unrecorded > 0 && self.checkpointed.elapsed() >= CHECKPOINT_TIME);
        if due {
            // Claims are written at once, so that a kill costs little; the barrier follows when the disk is done.
            let records = lock(&self.journal).checkpoint()?;
            (self.unrecorded, self.checkpointed) = (0, Instant::now());
            if self.checkpoint.is_none() {
                let (journal, shared) = (self.journal.clone(), self.shared.clone());
                self.checkpoint = Some(self.shared.group.start(Threads::Blocking, {
                    let part = shared.part.clone();
                    move || sync(&journal, &part, records)
                }));
            }
            let bytes_done = self.bytes_done();
            self.events.event(Event::Checkpoint { bytes_done });
        } else if self.shared.leaves.are_first_use() && self.recorded.elapsed() >= LEAVES_TIME {
            lock(&self.journal).checkpoint()?;
            self.recorded = Instant::now();
        }
        let front = self
            .scheduler
            .held()
            .next_missing(BlockIndex(0))
            .unwrap_or(BlockIndex(self.scheduler.held().blocks()));
        let front = self
            .shared
            .leaves
            .geometry()
            .bytes_of_range(BlockRange::new(0, front.0))
            .end;
        self.follower
            .follow(&self.shared.group, &self.shared.part, front)
            .await?;
        self.progress(false);
        Ok(())
    }

    async fn finish_checkpoint(&mut self) -> Result<(), Error> {
        match self.checkpoint.take() {
            None => Ok(()),
            Some(checkpoint) => Ok(checkpoint.finish().await?),
        }
    }

    fn bytes_done(&self) -> u64 {
        let geometry = self.shared.leaves.geometry();
        self.scheduler.held().bytes(geometry) + self.scheduler.claimed().bytes(geometry)
    }

    fn progress(&mut self, now: bool) {
        if !now
            && self
                .progressed
                .is_some_and(|last| last.elapsed() < PROGRESS_TIME)
        {
            return;
        }
        self.progressed = Some(Instant::now());
        let geometry = self.shared.leaves.geometry();
        self.events.event(Event::Progress(Progress {
            bytes_done: self.bytes_done(),
            bytes_total: geometry.length(),
            bytes_fetched: self.shared.client.bytes_fetched(),
            bytes_proven: self.scheduler.held().bytes(geometry),
            rate_bps: self.rate.bytes_per_second(),
        }));
    }
}
