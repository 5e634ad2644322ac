//! A seeded simulation of wants that move: a reader that goes on, jumps, waits and comes back, over scripted origins in virtual
//! time, and rules that hold after every event. What sources may do wrong is the subject of `simulation.rs`; here it is what
//! the scheduler asks for, in which order, and when it ends.
//!
//! A seed that fails prints itself and what happened; `SAPWOOD_SEED=<seed>` runs it alone, `SAPWOOD_SCHEDULES=<n>` runs as many.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::OnceLock,
};

use sapwood::{
    format::{
        blockset::BlockSet,
        geometry::{BlockIndex, BlockRange, BlockSize, Geometry},
        judge::{self, Leaves, Verified},
        paint, tree,
    },
    policy::{
        recovery::Failure,
        schedule::{
            Command, Event, Limits, Millis, Outcome, READ_OVER_BYTES_MAX, Scheduler, SourceId,
            SpanId, Want,
        },
    },
};

/// The largest simulated object.
const BLOCKS_MAX: u32 = 400;
/// Longer than every pause that an origin of these scripts makes.
const PATIENCE_LONG_MS: Millis = 3_600_000;
/// A span that is silent for so long may be asked for once more.
const SILENT_MS: Millis = 1_000;

/// The judge's word on a block. It is the same for every object that has such a block, so each is judged once.
fn verified(block: u32) -> Verified {
    static ALL: OnceLock<Vec<Verified>> = OnceLock::new();
    ALL.get_or_init(|| {
        let size = BlockSize::MIN.bytes();
        let geometry = Geometry::new(u64::from(BLOCKS_MAX) * size, BlockSize::MIN).unwrap();
        let bytes = |block: BlockIndex| paint::bytes(u64::from(block.0) * size, size as usize);
        let value = |block| tree::leaf_of(&geometry, block, &bytes(block));
        let leaves = Leaves::new(geometry, geometry.all().iter().map(value).collect());
        let judge = |block| judge::verify(&leaves, block, &bytes(block)).unwrap();
        geometry.all().iter().map(judge).collect()
    })[block as usize]
}

/// splitmix64.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }

    fn chance(&mut self, permille: u64) -> bool {
        self.within(0..1000) < permille
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.within(0..all.len() as u64) as usize]
    }
}

/// The script of one source.
#[derive(Clone, Debug)]
struct Origin {
    latency: Millis,
    bytes_per_ms: u64,
    ranges: bool,
    /// Of so many requests in a thousand the answer breaks, or never comes.
    breaks: u64,
    /// How often a block comes wrong.
    wrong: u64,
    /// While it cannot be reached.
    away: Range<Millis>,
    /// Never reachable, so that patience has work.
    dead: bool,
}

impl Origin {
    fn any(random: &mut Random) -> Origin {
        let away = random.within(0..20_000);
        Origin {
            latency: random.one_of(&[0, 1, 30, 400]),
            bytes_per_ms: random.one_of(&[20, 300, 4_000, 50_000]),
            ranges: random.chance(700),
            breaks: random.one_of(&[0, 0, 50, 200]),
            wrong: random.one_of(&[0, 0, 0, 5, 50, 1000]),
            away: match random.chance(200) {
                true => away..away + random.within(1..30_000),
                false => 0..0,
            },
            dead: false,
        }
    }
}

/// A step of the reader.
#[derive(Clone, Debug)]
struct Move {
    /// Only once all is held that is wanted so far.
    when_held: bool,
    /// So long after that, or after the move before.
    after: Millis,
    ranges: Vec<BlockRange>,
}

/// All that one run starts from.
#[derive(Clone, Debug)]
struct Script {
    seed: u64,
    geometry: Geometry,
    limits: Limits,
    length_proven: bool,
    origins: Vec<Origin>,
    /// Claimed blocks: when they are judged, and whether they hold.
    claims: BTreeMap<u32, (Millis, bool)>,
    /// The last move is the only one after which nothing more is wanted.
    moves: Vec<Move>,
}

fn range(start: u64, end: u64) -> BlockRange {
    BlockRange::new(start as u32, end as u32)
}

impl Script {
    fn any(seed: u64) -> Script {
        let mut random = Random(seed);
        let blocks = match random.within(0..10) {
            0 => random.within(1..4),
            1..4 => random.within(4..40),
            _ => random.within(40..u64::from(BLOCKS_MAX) + 1),
        };
        let size = BlockSize::new(random.one_of(&[16 << 10, 16 << 10, 256 << 10])).unwrap();
        let ragged = random.one_of(&[0, 1, size.bytes() - 1]);
        let geometry = Geometry::new(blocks * size.bytes() - ragged, size).unwrap();
        let impatient = random.chance(200);
        let mut origins: Vec<Origin> = (0..random.within(1..4))
            .map(|_| Origin::any(&mut random))
            .collect();
        if impatient && random.chance(300) {
            origins.truncate(1);
            origins[0].dead = true;
        }
        let mut claims = BTreeMap::new();
        if random.chance(400) {
            let (claimed, hold) = (random.within(0..1001), random.within(0..1001));
            let last = random.one_of(&[10, 60_000, 900_000]);
            for block in geometry.all().iter() {
                if random.chance(claimed) {
                    claims.insert(block.0, (random.within(0..last), random.chance(hold)));
                }
            }
        }
        Script {
            seed,
            geometry,
            limits: Limits {
                connections: random.within(1..13) as u32,
                tries: 20,
                patience_ms: match impatient {
                    true => random.one_of(&[1_000, 30_000]),
                    false => PATIENCE_LONG_MS,
                },
                seed,
            },
            length_proven: random.chance(500),
            origins,
            claims,
            moves: Script::moves(&mut random, blocks),
        }
    }

    fn moves(random: &mut Random, blocks: u64) -> Vec<Move> {
        let mut position = random.within(0..blocks);
        let window = random.within(1..blocks.min(64) + 1);
        let end = |at: u64| (at + window).min(blocks);
        let pause = random.one_of(&[1, 300, 5_000, 120_000]);
        (0..random.within(1..30))
            .map(|_| {
                let ranges = match random.within(0..20) {
                    // A window that goes on, with what follows it.
                    0..9 => {
                        position = (position + random.within(0..window + 1)).min(blocks - 1);
                        let further = range(end(position), end(end(position)));
                        vec![range(position, end(position)), further]
                    }
                    // A jump, forward or back.
                    9..13 => {
                        position = random.within(0..blocks);
                        vec![range(position, end(position))]
                    }
                    // Some block at once, and everything behind it.
                    13..15 => {
                        let block = random.within(0..blocks);
                        vec![range(block, block + 1), range(0, blocks)]
                    }
                    // Several readers, one of them beyond the end.
                    15..18 => (0..random.within(1..6))
                        .map(|_| {
                            let start = random.within(0..blocks + 2);
                            range(start, start + random.within(0..blocks))
                        })
                        .collect(),
                    18 => vec![range(0, blocks)],
                    _ => Vec::new(),
                };
                Move {
                    when_held: random.chance(500),
                    after: random.within(0..pause),
                    ranges,
                }
            })
            .collect()
    }

    /// Whether nothing but success is acceptable.
    fn must_be_done(&self) -> bool {
        self.limits.patience_ms >= PATIENCE_LONG_MS
            && self.origins.iter().all(|origin| origin.wrong == 0)
    }
}

/// A request under way.
#[derive(Clone, Debug)]
struct Request {
    source: usize,
    /// The next block to come, and the end that is wanted.
    at: u32,
    end: u32,
    whole: bool,
    opened: bool,
    next: Millis,
    /// When anything came last.
    heard: Millis,
    /// How it will fail, after so many more blocks.
    fate: Option<(Failure, u32)>,
}

struct World {
    script: Script,
    random: Random,
    now: Millis,
    scheduler: Scheduler,
    requests: BTreeMap<SpanId, Request>,
    claims: BTreeSet<(Millis, u32)>,
    claimed: BTreeSet<u32>,
    held: BlockSet,
    /// What is wanted now: the ranges, and all blocks that may be requested.
    ranges: Vec<BlockRange>,
    wanted: BlockSet,
    more: bool,
    moves: usize,
    /// When the next move is due, if not only once all is held.
    moves_at: Option<Millis>,
    /// Blocks that failed to come, or came wrong: they wait, and others overtake them.
    failed: BTreeSet<u32>,
    /// Sources that cannot be reached, as far as is known, and those of which blocks came wrong.
    unreachable: Vec<bool>,
    wrong: Vec<u64>,
    /// The last new block, or the moment from which something was missing.
    progress: Millis,
    /// What a span lost just now: another one may take it over, urgent or not.
    taken_over: Option<BlockRange>,
    starts: u64,
    failures: u64,
    trace: Option<Vec<String>>,
}

type Rule = Result<(), String>;

macro_rules! rule {
    ($holds:expr, $($why:tt)+) => {
        if !$holds {
            return Err(format!($($why)+));
        }
    };
}

impl World {
    fn new(script: Script, trace: bool) -> World {
        let blocks = script.geometry.blocks();
        let mut claimed = BlockSet::empty(blocks);
        for block in script.claims.keys() {
            claimed.insert(BlockIndex(*block));
        }
        let (sources, geometry) = (script.origins.len(), script.geometry);
        let proven = script.length_proven;
        let claims = script
            .claims
            .iter()
            .map(|(block, (time, _))| (*time, *block));
        World {
            random: Random(script.seed ^ 0x5EED),
            now: 0,
            scheduler: Scheduler::new(geometry, script.limits, sources, claimed, proven),
            requests: BTreeMap::new(),
            claims: claims.collect(),
            claimed: script.claims.keys().copied().collect(),
            held: BlockSet::empty(blocks),
            ranges: vec![geometry.all()],
            wanted: BlockSet::full(blocks),
            more: false,
            moves: 0,
            moves_at: Some(0),
            failed: BTreeSet::new(),
            unreachable: vec![false; sources],
            wrong: vec![0; sources],
            progress: 0,
            taken_over: None,
            starts: 0,
            failures: 0,
            trace: trace.then(Vec::new),
            script,
        }
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{now:>9} {}", what()));
        }
    }

    fn run(&mut self) -> Result<Outcome, String> {
        self.move_on()?;
        for _ in 0..500_000 {
            let until = match self.run_commands()? {
                Ok(until) => until,
                Err(outcome) => return self.judge_outcome(&outcome).map(|()| outcome),
            };
            let request = self
                .requests
                .iter()
                .map(|(id, request)| (request.next, *id));
            let request = request.min().filter(|(next, _)| *next < Millis::MAX);
            let claim = self.claims.first().copied();
            let times = [request.map(|next| next.0), claim.map(|next| next.0)];
            let due = times.into_iter().chain([until, self.moves_at]);
            let Some(time) = due.flatten().min() else {
                return Err("nothing will ever happen again".to_string());
            };
            self.now = self.now.max(time);
            if self.moves_at.is_some_and(|at| at <= self.now) {
                self.move_on()?;
            } else if let Some((_, id)) = request.filter(|(next, _)| *next == time) {
                self.step(id);
            } else if let Some((_, block)) = claim.filter(|(next, _)| *next == time) {
                self.claims.pop_first();
                self.judge_claim(block);
            }
        }
        Err("it does not end".to_string())
    }

    // ---- the reader

    /// Takes the next step, and plans the one after it.
    fn move_on(&mut self) -> Rule {
        let step = self.script.moves[self.moves].clone();
        self.moves += 1;
        self.more = self.moves < self.script.moves.len();
        let was_missing = self.is_missing();
        let want = Want {
            ranges: step.ranges.clone(),
            more: self.more,
        };
        self.note(|| format!("{want:?}"));
        self.scheduler.want(self.now, want);
        let blocks = self.held.blocks();
        let cut = |range: &BlockRange| BlockRange {
            start: range.start,
            end: range.end.min(blocks),
        };
        self.ranges = step.ranges.iter().map(cut).collect();
        self.ranges.retain(|range| !range.is_empty());
        self.wanted = BlockSet::empty(blocks);
        for range in &self.ranges {
            self.wanted.insert_range(*range);
        }
        if !self.length_proven() && !self.ranges.is_empty() {
            self.wanted.insert(self.script.geometry.last());
        }
        if !was_missing && self.is_missing() {
            self.progress = self.now;
        }
        self.moves_at = self.next_move();
        // A whole body that waited at the end of what was wanted is read on.
        for span in self.requests.keys().copied().collect::<Vec<_>>() {
            self.plan(span);
        }
        match self.run_commands()? {
            Ok(_) => self.nothing_else_is_under_way(),
            Err(outcome) => self.judge_outcome(&outcome),
        }
    }

    fn next_move(&self) -> Option<Millis> {
        let next = self.script.moves.get(self.moves)?;
        (!next.when_held || self.all_is_held()).then_some(self.now + next.after)
    }

    /// What holds when the commands that follow a move are carried out.
    fn nothing_else_is_under_way(&self) -> Rule {
        let ranged = self.requests.iter().filter(|(_, request)| !request.whole);
        for (span, request) in ranged {
            let left = BlockRange::new(request.at.min(request.end), request.end);
            if left.is_empty() {
                continue;
            }
            let Some(first) = left.iter().find(|block| self.wanted.contains(*block)) else {
                return Err(format!(
                    "{span:?} brings {left:?}, of which nothing is wanted"
                ));
            };
            let over = BlockRange::new(left.start, first.0);
            let bytes = self.script.geometry.bytes_of_range(over).length();
            rule!(bytes <= READ_OVER_BYTES_MAX, "{span:?} reads over {over:?}");
            let rest = BlockRange::new(first.0, left.end);
            let other = rest.iter().find(|block| !self.wanted.contains(*block));
            rule!(other.is_none(), "{span:?} brings {left:?} with {other:?}");
        }
        Ok(())
    }

    // ---- what is known

    fn length_proven(&self) -> bool {
        self.script.length_proven || self.held.contains(self.script.geometry.last())
    }

    fn all_is_held(&self) -> bool {
        let mut wanted = self.wanted.clone();
        wanted.remove_all(&self.held);
        wanted.is_empty()
    }

    /// Whether something wanted is missing that no journal claims.
    fn is_missing(&self) -> bool {
        let mut wanted = self.wanted.ranges().flat_map(BlockRange::iter);
        wanted.any(|block| self.is_missing_block(block))
    }

    fn is_missing_block(&self, block: BlockIndex) -> bool {
        !self.held.contains(block) && !self.claimed.contains(&block.0)
    }

    /// Wanted, missing, not under way, and never failed.
    fn is_fresh(&self, block: BlockIndex) -> bool {
        let comes =
            |request: &Request| !request.whole && request.at <= block.0 && block.0 < request.end;
        self.wanted.contains(block)
            && self.is_missing_block(block)
            && !self.failed.contains(&block.0)
            && !self.requests.values().any(comes)
    }

    // ---- events

    fn send(&mut self, event: Event) {
        self.note(|| format!("{event:?}"));
        self.scheduler.handle(self.now, event);
    }

    fn hold(&mut self, block: u32) {
        self.claimed.remove(&block);
        self.failed.remove(&block);
        if self.held.insert(BlockIndex(block)) {
            self.progress = self.now;
            if self.moves_at.is_none() {
                self.moves_at = self.next_move();
            }
        }
    }

    fn judge_claim(&mut self, block: u32) {
        if self.script.claims[&block].1 {
            self.hold(block);
            self.send(Event::Held(verified(block)));
        } else {
            let was_missing = self.is_missing();
            self.claimed.remove(&block);
            if !was_missing {
                self.progress = self.now;
            }
            let block = BlockIndex(block);
            self.send(Event::ClaimFailed { block });
        }
    }

    /// The next thing that happens to a request.
    fn step(&mut self, span: SpanId) {
        let mut request = self.requests[&span].clone();
        let source = request.source;
        request.heard = self.now;
        if request.opened && request.at >= request.end {
            // Its end was moved to where it is already.
            self.requests.remove(&span);
            return self.send(Event::Ended { span });
        }
        if let Some((failure, 0)) = request.fate {
            self.failures += 1;
            self.unreachable[source] = failure == Failure::Unreachable;
            self.requests.remove(&span);
            if !request.whole {
                self.failed.extend(request.at..request.end);
            }
            return self.send(Event::Failed { span, failure });
        }
        if !request.opened {
            request.opened = true;
            self.unreachable[source] = false;
            let whole = !self.script.origins[source].ranges && !request.whole;
            if whole {
                (request.at, request.end, request.whole) = (0, self.held.blocks(), true);
            }
            self.requests.insert(span, request);
            self.send(Event::Opened { span });
            if whole {
                self.send(Event::WholeBody { span });
            }
        } else {
            let block = BlockIndex(request.at);
            request.at += 1;
            request.fate = request.fate.map(|(failure, blocks)| (failure, blocks - 1));
            self.requests.insert(span, request);
            self.arrive(span, source, block);
        }
        self.plan(span);
        let request = &self.requests[&span];
        if request.at >= request.end {
            self.requests.remove(&span);
            self.send(Event::Ended { span });
        }
    }

    fn arrive(&mut self, span: SpanId, source: usize, block: BlockIndex) {
        let count = self.script.geometry.bytes_of(block).length();
        let event = Event::Bytes { span, count };
        self.scheduler.handle(self.now, event);
        if self.random.chance(self.script.origins[source].wrong) {
            self.wrong[source] += 1;
            self.failed.insert(block.0);
            return self.send(Event::Wrong { span, block });
        }
        self.hold(block.0);
        let verified = verified(block.0);
        self.send(Event::Proven { span, verified });
    }

    /// When the next block of a request comes. A whole body is read only up to the end of what is wanted.
    fn plan(&mut self, span: SpanId) {
        let last = self.wanted.ranges().last().map_or(0, |range| range.end);
        let request = self.requests.get_mut(&span).expect("it runs");
        let paused = request.whole && request.opened && request.at >= last;
        let (paused, over) = (paused, request.at >= request.end);
        if !request.opened || over {
            return;
        }
        let bytes = self.script.geometry.bytes_of(BlockIndex(request.at));
        let pace = self.script.origins[request.source].bytes_per_ms;
        request.next = match paused {
            true => Millis::MAX,
            false => self.now + bytes.length().div_ceil(pace),
        };
    }

    // ---- commands

    /// Runs commands until the scheduler waits, or finishes.
    fn run_commands(&mut self) -> Result<Result<Option<Millis>, Outcome>, String> {
        for _ in 0..200 {
            let command = self.scheduler.command(self.now);
            self.note(|| format!("    {command:?}"));
            match command {
                Command::Start {
                    span,
                    source: SourceId(source),
                    blocks,
                    whole,
                } => {
                    self.check_start(source, blocks, whole)?;
                    self.start(span, source, blocks, whole);
                }
                Command::Shrink { span, end } => {
                    let request = self.requests.get_mut(&span);
                    let request = request.ok_or("a span that does not run is shrunk")?;
                    rule!(end.0 < request.end && !request.whole, "{span:?} grows");
                    self.taken_over = Some(BlockRange::new(end.0, request.end));
                    request.end = end.0;
                }
                Command::Cancel { span } => self.cancel(span),
                Command::Retry { .. } | Command::Slowed { .. } | Command::Dropped { .. } => (),
                Command::Wait { until } => {
                    let missing = self.is_missing();
                    rule!(
                        until.is_none_or(|until| until > self.now),
                        "it waits until {until:?}"
                    );
                    rule!(
                        until.is_some() || !missing,
                        "blocks are missing, and nothing is waited for"
                    );
                    let ends = self.progress + self.script.limits.patience_ms;
                    rule!(!missing || self.now < ends, "too patient");
                    rule!(
                        self.more || !self.all_is_held(),
                        "all is held, and it waits"
                    );
                    return Ok(Ok(until));
                }
                Command::Finish(outcome) => return Ok(Err(outcome)),
            }
        }
        Err("more than 200 commands at one time".to_string())
    }

    fn check_start(&mut self, source: usize, blocks: BlockRange, whole: bool) -> Rule {
        self.starts += 1;
        let most = 4 * u64::from(self.held.blocks()) * (1 + self.moves as u64)
            + 8 * self.failures
            + 8 * self.wrong.iter().sum::<u64>()
            + 300
            + self.now / 500;
        rule!(self.starts <= most, "{} requests are too many", self.starts);
        let running = self.requests.len() + 1;
        rule!(
            running <= self.script.limits.connections as usize,
            "{running} spans"
        );
        rule!(self.is_missing(), "a request, and nothing is missing");
        if whole {
            return Ok(());
        }
        let last = self.script.geometry.last();
        let other = blocks.iter().find(|block| !self.wanted.contains(*block));
        rule!(
            other.is_none(),
            "{blocks:?} is asked for, but {other:?} is not wanted"
        );
        let first = BlockIndex(blocks.start);
        rule!(
            !blocks.is_empty() && self.is_missing_block(first),
            "{blocks:?} is here"
        );
        rule!(
            self.length_proven() || blocks == BlockRange::one(last),
            "{blocks:?} before the length is proven"
        );
        let twice = |request: &Request| {
            !request.whole && request.at.max(blocks.start) < request.end.min(blocks.end)
        };
        rule!(
            !self.requests.values().any(twice),
            "{blocks:?} are asked for twice"
        );
        self.most_urgent_first(source, first)
    }

    /// A span that does not repeat anything begins with the first block of the most urgent range that has one to be asked for.
    /// One that repeats something comes before what is less urgent, not before what is more.
    fn most_urgent_first(&mut self, source: usize, first: BlockIndex) -> Rule {
        let taken_over = self.taken_over.take();
        if taken_over.is_some_and(|blocks| blocks.contains(first)) {
            return Ok(());
        }
        // A source that may be back is tried with what is least urgent, and one of which blocks came wrong with those.
        if !self.length_proven() || self.unreachable[source] || self.wrong[source] > 0 {
            return Ok(());
        }
        for range in &self.ranges {
            if let Some(fresh) = range.iter().find(|block| self.is_fresh(*block)) {
                let expected = match self.is_fresh(first) {
                    true => first == fresh,
                    false => range.contains(first),
                };
                rule!(expected, "{first} is asked for before {fresh} of {range:?}");
                return Ok(());
            }
            if range.contains(first) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn start(&mut self, span: SpanId, source: usize, blocks: BlockRange, whole: bool) {
        let origin = self.script.origins[source].clone();
        let fate = if origin.dead || origin.away.contains(&self.now) {
            Some((Failure::Unreachable, 0))
        } else if self.random.chance(origin.breaks) {
            Some((Failure::Broken, self.random.within(0..6) as u32))
        } else {
            None
        };
        let request = Request {
            source,
            at: blocks.start,
            end: blocks.end,
            whole,
            opened: false,
            next: self.now + origin.latency,
            heard: self.now,
            fate,
        };
        self.requests.insert(span, request);
    }

    fn cancel(&mut self, span: SpanId) {
        let Some(request) = self.requests.remove(&span) else {
            // It ended at the same time.
            return;
        };
        if !request.whole && request.at < request.end {
            self.taken_over = Some(BlockRange::new(request.at, request.end));
        }
        if !request.whole && self.now - request.heard >= SILENT_MS {
            // Perhaps it was only silent. Then its blocks count as failed, and come before those that did not.
            self.failed.extend(request.at..request.end);
        }
        // What was proven before it heard of that still counts.
        let honest = self.script.origins[request.source].wrong == 0;
        if honest && request.opened && request.at < request.end && self.random.chance(300) {
            self.hold(request.at);
            self.send(Event::Held(verified(request.at)));
        }
    }

    /// Whether the script justifies this end.
    fn judge_outcome(&self, outcome: &Outcome) -> Rule {
        let left = (self.wanted.count(), self.held.count());
        rule!(
            (*outcome == Outcome::Done) == (self.all_is_held() && !self.more),
            "{outcome:?} with {left:?} blocks wanted and held"
        );
        rule!(
            !self.script.must_be_done() || *outcome == Outcome::Done,
            "{outcome:?}, although every source is fair"
        );
        if let Outcome::Patience(_) | Outcome::MustWait { .. } = outcome {
            rule!(self.is_missing(), "{outcome:?}, and nothing is missing");
        }
        if let Outcome::Patience(_) = outcome {
            let ends = self.progress + self.script.limits.patience_ms;
            rule!(self.now >= ends, "{outcome:?} {} ms early", ends - self.now);
        }
        Ok(())
    }
}

/// Runs a script; if a rule breaks, again with a trace.
fn play(script: &Script) -> Outcome {
    let run = |world: &mut World| match catch_unwind(AssertUnwindSafe(|| world.run())) {
        Ok(outcome) => outcome,
        Err(_) => Err("it panicked".to_string()),
    };
    match run(&mut World::new(script.clone(), false)) {
        Ok(outcome) => outcome,
        Err(why) => {
            let mut world = World::new(script.clone(), true);
            let _ = run(&mut world);
            let trace = world.trace.unwrap_or_default();
            let shown = trace.len().saturating_sub(120);
            let Script {
                seed,
                geometry,
                limits,
                origins,
                ..
            } = &world.script;
            panic!(
                "SAPWOOD_SEED={seed}: {why}\n{geometry:?}, {limits:?}, {origins:#?}\n... {shown} lines\n{}",
                trace[shown..].join("\n")
            );
        }
    }
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number"))
    })
}

#[test]
fn moving_wants_keep_the_rules() {
    if let Some(seed) = from_environment("SAPWOOD_SEED") {
        println!("{:?}", play(&Script::any(seed)));
        return;
    }
    let schedules = from_environment("SAPWOOD_SCHEDULES")
        .unwrap_or(500)
        .max(3_000);
    let mut outcomes: BTreeMap<String, u64> = BTreeMap::new();
    for seed in 0..schedules {
        let outcome = format!("{:?}", play(&Script::any(seed)));
        let kind = outcome.split([' ', '(']).next().unwrap_or_default();
        *outcomes.entry(kind.to_string()).or_default() += 1;
    }
    println!("{schedules} schedules: {outcomes:?}");
    // Rules about an end say nothing when no schedule ends so.
    let ends = ["Done", "Patience", "Wrong"];
    assert!(
        ends.iter().all(|end| outcomes.contains_key(*end)),
        "{outcomes:?}"
    );
}

// ---- one rule at a time

const PATIENCE_MS: Millis = 60_000;

fn scheduler(blocks: u32, connections: u32, length_proven: bool) -> Scheduler {
    let geometry = Geometry::new(u64::from(blocks) * BlockSize::MIN.bytes(), BlockSize::MIN);
    let limits = Limits {
        connections,
        tries: 5,
        patience_ms: PATIENCE_MS,
        seed: 1,
    };
    let claimed = BlockSet::empty(blocks);
    Scheduler::new(geometry.unwrap(), limits, 1, claimed, length_proven)
}

fn want(scheduler: &mut Scheduler, now: Millis, ranges: &[(u64, u64)], more: bool) {
    let ranges = ranges.iter().map(|(start, end)| range(*start, *end));
    let ranges = ranges.collect();
    scheduler.want(now, Want { ranges, more });
}

/// Commands up to the one that waits or finishes, and that one.
fn commands(scheduler: &mut Scheduler, now: Millis) -> (Vec<Command>, Command) {
    let mut all = Vec::new();
    loop {
        assert!(all.len() < 100, "{all:?}");
        match scheduler.command(now) {
            last @ (Command::Wait { .. } | Command::Finish(_)) => return (all, last),
            command => all.push(command),
        }
    }
}

/// The spans that start now.
fn starts(scheduler: &mut Scheduler, now: Millis) -> Vec<(SpanId, BlockRange)> {
    let start = |command: &Command| match command {
        Command::Start { span, blocks, .. } => Some((*span, *blocks)),
        _ => None,
    };
    commands(scheduler, now)
        .0
        .iter()
        .filter_map(start)
        .collect()
}

fn proven(scheduler: &mut Scheduler, now: Millis, span: SpanId, block: u32) {
    let verified = verified(block);
    scheduler.handle(now, Event::Proven { span, verified });
}

#[test]
fn an_urgent_range_is_shared_by_the_connections() {
    let mut scheduler = scheduler(100_000, 8, true);
    // 4 MiB of 1.6 GB.
    want(&mut scheduler, 0, &[(50_000, 50_256), (0, 100_000)], false);
    let spans: Vec<BlockRange> = starts(&mut scheduler, 0)
        .iter()
        .map(|start| start.1)
        .collect();
    assert_eq!(spans.len(), 8);
    let urgent = [0, 64, 128, 192].map(|start| range(50_000 + start, 50_064 + start));
    assert_eq!(spans[..4], urgent);
    assert_eq!(spans[4].start, 0);
    assert!(spans[4].count() > 1_000, "{:?}", spans[4]);
}

#[test]
fn the_last_block_comes_first_although_it_is_not_wanted() {
    let mut scheduler = scheduler(100, 8, false);
    want(&mut scheduler, 0, &[(3, 5)], false);
    let first = starts(&mut scheduler, 0);
    assert_eq!(first.len(), 1);
    assert_eq!(first[0].1, range(99, 100));
    // What is wanted may be here already: without the length it is of no use.
    for block in [3, 4] {
        scheduler.handle(1, Event::Held(verified(block)));
    }
    assert!(matches!(scheduler.command(1), Command::Wait { .. }));
    proven(&mut scheduler, 2, first[0].0, 99);
    assert_eq!(scheduler.command(2), Command::Finish(Outcome::Done));
    // More is wanted after all.
    want(&mut scheduler, 3, &[(5, 7)], true);
    scheduler.handle(3, Event::Ended { span: first[0].0 });
    let next: Vec<BlockRange> = starts(&mut scheduler, 3)
        .iter()
        .map(|start| start.1)
        .collect();
    assert_eq!(next, [range(5, 7)]);
}

#[test]
fn nothing_wanted_is_nothing_to_do() {
    for length_proven in [false, true] {
        let mut scheduler = scheduler(100, 8, length_proven);
        // Ranges beyond the end are no blocks.
        want(&mut scheduler, 0, &[(7, 7), (100, 200)], true);
        assert_eq!(
            commands(&mut scheduler, 0),
            (Vec::new(), Command::Wait { until: None })
        );
        let later = 100 * PATIENCE_MS;
        assert_eq!(scheduler.command(later), Command::Wait { until: None });
        want(&mut scheduler, later, &[], false);
        assert_eq!(scheduler.command(later), Command::Finish(Outcome::Done));
    }
}

#[test]
fn lost_blocks_are_requested_again_where_they_are_wanted() {
    let mut scheduler = scheduler(100, 8, true);
    want(&mut scheduler, 0, &[(0, 2), (50, 51)], true);
    for (span, blocks) in starts(&mut scheduler, 0) {
        for block in blocks.iter() {
            proven(&mut scheduler, 1, span, block.0);
        }
        scheduler.handle(1, Event::Ended { span });
    }
    assert!(scheduler.is_idle());
    // The reader has gone on: the first block is not wanted any more.
    want(&mut scheduler, 2, &[(1, 2)], true);
    let later = 100 * PATIENCE_MS;
    scheduler.handle(
        later,
        Event::Lost {
            blocks: range(0, 1),
        },
    );
    assert_eq!(scheduler.command(later), Command::Wait { until: None });
    scheduler.handle(
        later,
        Event::Lost {
            blocks: range(1, 60),
        },
    );
    assert!(!scheduler.is_idle() && !scheduler.held().contains(BlockIndex(50)));
    // Patience begins now.
    let spans = starts(&mut scheduler, later);
    assert_eq!(
        spans.iter().map(|span| span.1).collect::<Vec<_>>(),
        [range(1, 2)]
    );
    proven(&mut scheduler, later, spans[0].0, 1);
    scheduler.handle(later, Event::Ended { span: spans[0].0 });
    want(&mut scheduler, later, &[(0, 1), (50, 51)], true);
    assert_eq!(starts(&mut scheduler, later).len(), 2);
}

#[test]
fn a_block_waits_for_a_connection_when_all_have_others() {
    let mut scheduler = scheduler(400, 2, true);
    want(&mut scheduler, 0, &[(0, 100), (200, 300)], true);
    assert!(!scheduler.waits_for_connection(BlockIndex(0)));
    let spans = starts(&mut scheduler, 0);
    assert_eq!(spans.len(), 2);
    want(&mut scheduler, 1, &[(350, 360), (0, 100), (200, 300)], true);
    assert!(scheduler.waits_for_connection(BlockIndex(350)));
    assert!(!scheduler.waits_for_connection(BlockIndex(0)));
    assert!(!scheduler.waits_for_connection(BlockIndex(399)));
    // As the caller does: without the others for a moment.
    want(&mut scheduler, 1, &[(350, 360)], true);
    want(&mut scheduler, 1, &[(350, 360), (0, 100), (200, 300)], true);
    assert_eq!(starts(&mut scheduler, 1)[0].1.start, 350);
}

#[test]
fn spans_follow_the_want() {
    let mut scheduler = scheduler(400, 4, true);
    want(
        &mut scheduler,
        0,
        &[(0, 40), (100, 140), (200, 240), (300, 340)],
        true,
    );
    let spans = starts(&mut scheduler, 0);
    let blocks: Vec<u32> = spans.iter().map(|span| span.1.start).collect();
    assert_eq!(blocks, [0, 100, 200, 300]);
    // The first is as wanted as before, of the second a part, of the third what comes soon, of the fourth what is far off.
    want(
        &mut scheduler,
        1,
        &[(0, 40), (90, 110), (216, 240), (317, 340)],
        true,
    );
    let (followed, _) = commands(&mut scheduler, 1);
    let cancel = Command::Cancel { span: spans[3].0 };
    let shrink = Command::Shrink {
        span: spans[1].0,
        end: BlockIndex(110),
    };
    assert_eq!(followed[..2], [shrink, cancel]);
    let Command::Start { blocks, .. } = followed[2] else {
        panic!("{followed:?}");
    };
    // What is wanted behind the new end, or left by the cancelled span, is asked for anew.
    assert_eq!((blocks, followed.len()), (range(90, 100), 3));
    for span in [0, 1] {
        scheduler.handle(
            2,
            Event::Ended {
                span: spans[span].0,
            },
        );
    }
    want(&mut scheduler, 2, &[(317, 340)], true);
    let next: Vec<BlockRange> = starts(&mut scheduler, 2)
        .iter()
        .map(|start| start.1)
        .collect();
    assert_eq!(next, [range(317, 340)]);
}

/// A span that got nothing but a byte in three seconds, when another connection has nothing to do.
fn slow_span(ranges: &[(u64, u64)]) -> (Scheduler, SpanId) {
    let mut scheduler = scheduler(400, 1, true);
    want(&mut scheduler, 0, ranges, true);
    let span = starts(&mut scheduler, 0)[0].0;
    scheduler.handle(2_999, Event::Opened { span });
    scheduler.handle(2_999, Event::Bytes { span, count: 1 });
    scheduler.allow(2);
    (scheduler, span)
}

/// Found: the time in which the pack of an object was waited for counted for the rate of its source: requests that ran well were
/// ended, and what the server had sent by then was requested again.
#[test]
fn a_late_request_does_not_make_its_source_slow() {
    for late_ms in [0, 4_990] {
        let mut scheduler = scheduler(400, 2, true);
        want(&mut scheduler, 0, &[(0, 1), (100, 164)], true);
        let spans = starts(&mut scheduler, 0);
        let [(quick, _), (late, _)] = spans[..] else {
            panic!("{spans:?}");
        };
        scheduler.handle(10, Event::Opened { span: quick });
        proven(&mut scheduler, 20, quick, 0);
        scheduler.handle(20, Event::Ended { span: quick });
        let span = late;
        scheduler.handle(5_000, Event::Late { span, late_ms });
        scheduler.handle(5_000, Event::Opened { span });
        let count = 32 * BlockSize::MIN.bytes();
        scheduler.handle(5_100, Event::Bytes { span, count });
        let command = scheduler.command(5_100);
        let is_split = matches!(command, Command::Shrink { .. });
        assert_eq!(is_split, late_ms == 0);
    }
}

#[test]
fn a_span_that_is_not_started_yet_is_taken_back() {
    let (mut scheduler, span) = slow_span(&[(0, 18)]);
    let end = BlockIndex(10);
    assert_eq!(scheduler.command(3_000), Command::Shrink { span, end });
    assert_eq!(scheduler.running(), 2);
    want(&mut scheduler, 3_000, &[(0, 5)], true);
    let end = BlockIndex(5);
    assert_eq!(
        commands(&mut scheduler, 3_000).0,
        [Command::Shrink { span, end }]
    );
    // A part of it is enough.
    let (mut scheduler, _) = slow_span(&[(0, 18)]);
    scheduler.command(3_000);
    want(&mut scheduler, 3_000, &[(0, 14)], true);
    let parts: Vec<BlockRange> = starts(&mut scheduler, 3_000)
        .iter()
        .map(|start| start.1)
        .collect();
    assert_eq!(parts, [range(10, 14)]);
}

#[test]
fn a_span_that_only_reads_over_is_not_left_behind() {
    let (mut scheduler, span) = slow_span(&[(0, 18)]);
    want(&mut scheduler, 2_999, &[(14, 18)], true);
    let (followed, _) = commands(&mut scheduler, 3_000);
    assert_eq!(followed[0], Command::Cancel { span });
    let is_rest = |command: &Command| matches!(command, Command::Start { blocks, .. } if *blocks == range(14, 18));
    assert!(followed.len() == 2 && is_rest(&followed[1]), "{followed:?}");
}

/// A stream whose first block came, and whose second one came wrong.
fn stream(ranges: &[(u64, u64)]) -> (Scheduler, SpanId) {
    let mut scheduler = scheduler(100, 4, true);
    scheduler.source_has_no_ranges(SourceId(0));
    want(&mut scheduler, 0, ranges, true);
    let started = starts(&mut scheduler, 0);
    let span = started[0].0;
    assert_eq!(started, [(span, range(0, 100))]);
    scheduler.handle(10, Event::Opened { span });
    proven(&mut scheduler, 20, span, 0);
    let block = BlockIndex(1);
    scheduler.handle(30, Event::Wrong { span, block });
    proven(&mut scheduler, 40, span, 2);
    (scheduler, span)
}

#[test]
fn a_stream_is_read_on_as_long_as_something_lies_ahead() {
    let (mut scheduler, span) = stream(&[(0, 4)]);
    assert_eq!(commands(&mut scheduler, 50).0, []);
    proven(&mut scheduler, 60, span, 3);
    // Only what came wrong is missing, and it lies behind.
    let (followed, _) = commands(&mut scheduler, 60);
    assert_eq!(followed[0], Command::Cancel { span });
    assert!(
        matches!(followed[1], Command::Start { whole: true, .. }),
        "{followed:?}"
    );
    // What is far ahead is worth less than what is urgent, and behind.
    let (mut scheduler, span) = stream(&[(0, 2), (50, 60)]);
    assert_eq!(commands(&mut scheduler, 50).0[0], Command::Cancel { span });
    let (mut scheduler, _) = stream(&[(50, 60), (0, 2)]);
    assert_eq!(commands(&mut scheduler, 50).0, []);
    // What came wrong matters only once it is wanted.
    let (mut scheduler, span) = stream(&[(0, 1), (2, 3)]);
    assert_eq!(commands(&mut scheduler, 50).0, []);
    want(&mut scheduler, 60, &[(1, 2)], true);
    assert_eq!(commands(&mut scheduler, 60).0[0], Command::Cancel { span });
}

/// A server closes a connection over which nothing is read for a while.
#[test]
fn a_stream_that_breaks_when_nothing_is_wanted_is_no_failure() {
    let mut scheduler = scheduler(100, 4, true);
    scheduler.source_has_no_ranges(SourceId(0));
    for block in 0..50 {
        let now = u64::from(block) * PATIENCE_MS;
        want(
            &mut scheduler,
            now,
            &[(u64::from(block), u64::from(block) + 1)],
            true,
        );
        let span = starts(&mut scheduler, now)[0].0;
        for before in 0..=block {
            proven(&mut scheduler, now + 1, span, before);
        }
        let failure = Failure::Broken;
        scheduler.handle(now + 2, Event::Failed { span, failure });
        assert_eq!(
            commands(&mut scheduler, now + 2),
            (Vec::new(), Command::Wait { until: None })
        );
    }
}

#[test]
fn patience_is_of_the_sources_not_of_the_reader() {
    let mut scheduler = scheduler(100, 4, true);
    want(&mut scheduler, 0, &[(0, 1)], true);
    let span = starts(&mut scheduler, 0)[0].0;
    proven(&mut scheduler, 10, span, 0);
    scheduler.handle(10, Event::Ended { span });
    let began = 10 * PATIENCE_MS;
    assert_eq!(scheduler.command(began), Command::Wait { until: None });
    // From now on nothing comes, however often it is wanted anew.
    for second in 0..PATIENCE_MS / 1000 {
        let now = began + second * 1000;
        want(&mut scheduler, now, &[(1 + second, 2 + second)], true);
        let (_, last) = commands(&mut scheduler, now);
        assert!(
            matches!(last, Command::Wait { until: Some(_) }),
            "{now}: {last:?}"
        );
    }
    let (_, last) = commands(&mut scheduler, began + PATIENCE_MS);
    assert_eq!(last, Command::Finish(Outcome::Patience(None)));
}

#[test]
fn a_failure_is_remembered_while_its_blocks_are_not_wanted() {
    let mut scheduler = scheduler(100, 1, true);
    want(&mut scheduler, 0, &[(5, 8)], true);
    let mut now = 0;
    for attempt in 1..5 {
        let span = starts(&mut scheduler, now)[0].0;
        scheduler.handle(
            now,
            Event::Failed {
                span,
                failure: Failure::Broken,
            },
        );
        let (followed, _) = commands(&mut scheduler, now);
        let Command::Retry {
            attempt: counted,
            wait_ms,
            ..
        } = followed[0]
        else {
            panic!("{followed:?}");
        };
        assert_eq!(counted, attempt);
        want(&mut scheduler, now, &[], true);
        want(&mut scheduler, now, &[(6, 7)], true);
        if wait_ms > 1 {
            let early = now + wait_ms - 1;
            assert_eq!(starts(&mut scheduler, early), []);
            want(&mut scheduler, early, &[(5, 8)], true);
            assert_eq!(starts(&mut scheduler, early), []);
        }
        now += wait_ms;
        want(&mut scheduler, now, &[(5, 8)], true);
    }
    let span = starts(&mut scheduler, now)[0].0;
    scheduler.handle(
        now,
        Event::Failed {
            span,
            failure: Failure::Broken,
        },
    );
    let (_, last) = commands(&mut scheduler, now);
    assert_eq!(last, Command::Finish(Outcome::Tries(Failure::Broken)));
}
