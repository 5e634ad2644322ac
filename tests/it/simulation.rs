//! A seeded simulation of the transfer scheduler: scripted origins in virtual time, and rules that hold after every event.
//!
//! A seed that fails prints itself and what happened; `SAPWOOD_SEED=<seed>` runs it alone, `SAPWOOD_SCHEDULES=<n>` runs more.

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
        recovery::{BadResponse, Changed, Class, Failure, PROBE_EVERY_MS, cooldown_ms},
        refusals::{RETRY_AFTER_MAX_MS, SERVES_MS},
        schedule::{
            CONNECTIONS_FIRST, Command, DropReason, Event, Limits, Millis, Outcome, Scheduler,
            SourceId, SpanId,
        },
    },
};

/// The largest simulated object.
const BLOCKS_MAX: u32 = 2_000;
/// After so long without bytes a span stalls.
const STALL_MS: u64 = 10_000;
/// Long enough for every pause that a fair origin makes.
const PATIENCE_LONG_MS: u64 = 3_600_000;
/// What the scheduler promises about lies (contract, "Times").
const WRONG_MAX: u32 = 4;
const LIES_MAX: usize = 2;

/// The judge's word on a block. It is the same for every object that has such a block, so each is judged once.
fn verified(block: u32) -> Verified {
    static ALL: OnceLock<Vec<Verified>> = OnceLock::new();
    ALL.get_or_init(|| {
        let size = BlockSize::MIN.bytes();
        let geometry = Geometry::new(u64::from(BLOCKS_MAX) * size, BlockSize::MIN).unwrap();
        let bytes = |block: BlockIndex| paint::bytes(u64::from(block.0) * size, size as usize);
        let values = geometry
            .all()
            .iter()
            .map(|block| tree::leaf_of(&geometry, block, &bytes(block)))
            .collect();
        let leaves = Leaves::new(geometry, values);
        geometry
            .all()
            .iter()
            .map(|block| judge::verify(&leaves, block, &bytes(block)).unwrap())
            .collect()
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

/// Every failure there is, in every shape that is treated differently.
fn all_failures() -> Vec<Failure> {
    let mut all = vec![Failure::Unreachable, Failure::Broken, Failure::Stalled];
    for retry_after_ms in [None, Some(0), Some(5_000), Some(u64::MAX)] {
        all.push(Failure::TooMany {
            status: 429,
            retry_after_ms,
            serves: false,
        });
        all.push(Failure::Server {
            status: 500,
            retry_after_ms,
        });
    }
    for how in [
        BadResponse::Status(204),
        BadResponse::ContentRange,
        BadResponse::LaterPart,
        BadResponse::EarlierPart,
        BadResponse::Multipart,
        BadResponse::NoLength,
        BadResponse::Headers,
        BadResponse::WholeLength,
    ] {
        all.push(Failure::BadResponse(how));
    }
    all.extend(
        [
            Changed::Length,
            Changed::Validator,
            Changed::Precondition,
            Changed::Root,
        ]
        .map(Failure::Changed),
    );
    all.extend([
        Failure::Refused { status: 403 },
        Failure::Refused { status: 416 },
        Failure::Tls,
        Failure::Redirects,
        Failure::Unsafe,
        Failure::TooLarge,
    ]);
    all
}

/// A failure that a script orders.
#[derive(Clone, Debug)]
struct Ordered {
    failure: Failure,
    /// Of so many requests in a thousand.
    permille: u64,
    /// While this time lasts.
    during: Range<Millis>,
    /// Only of requests for this block.
    of: Option<u32>,
    /// After so many blocks of the body.
    after: u32,
}

/// The script of one source.
#[derive(Clone, Debug)]
struct Origin {
    latency: Millis,
    bytes_per_ms: u64,
    ranges: bool,
    /// More connections than this are answered with 429.
    connections: usize,
    retry_after_ms: Option<u64>,
    fails: Vec<Ordered>,
    /// Of so many blocks in a thousand it has wrong bytes.
    lies_permille: u64,
    /// How often those come wrong.
    lie_permille: u64,
    /// It is honest, and each of its failures passes: a patient run must end well.
    fair: bool,
}

impl Origin {
    fn honest() -> Origin {
        Origin {
            latency: 20,
            bytes_per_ms: 1_000,
            ranges: true,
            connections: usize::MAX,
            retry_after_ms: None,
            fails: Vec::new(),
            lies_permille: 0,
            lie_permille: 0,
            fair: true,
        }
    }

    fn failing(failure: Failure, of: Option<u32>, after: u32) -> Origin {
        let fails = vec![Ordered {
            failure,
            permille: 1000,
            during: 0..Millis::MAX,
            of,
            after,
        }];
        Origin {
            fails,
            fair: false,
            ..Origin::honest()
        }
    }

    fn any(random: &mut Random) -> Origin {
        let mut origin = Origin {
            latency: random.one_of(&[0, 1, 30, 400]),
            bytes_per_ms: random.one_of(&[20, 300, 4_000, 50_000]),
            ranges: !random.chance(200),
            connections: random.one_of(&[1, 2, 4, 7, usize::MAX, usize::MAX]),
            retry_after_ms: random.one_of(&[None, Some(0), Some(700), Some(5_000), Some(u64::MAX)]),
            fair: random.chance(300),
            ..Origin::honest()
        };
        let start = random.within(0..20_000);
        let while_it_lasts = start..start + random.within(1..120_000);
        let mut order = |failure, permille, during, after| {
            origin.fails.push(Ordered {
                failure,
                permille,
                during,
                of: None,
                after,
            });
        };
        if random.chance(300) {
            order(Failure::Unreachable, 1000, while_it_lasts.clone(), 0);
        }
        if random.chance(300) {
            order(
                Failure::Stalled,
                random.one_of(&[10, 50]),
                0..Millis::MAX,
                random.one_of(&[0, 1, 9]),
            );
        }
        if !origin.fair {
            let mut order = |failure, permille, during, after| {
                origin.fails.push(Ordered {
                    failure,
                    permille,
                    during,
                    of: None,
                    after,
                });
            };
            for _ in 0..random.within(0..3) {
                let during = if random.chance(500) {
                    0..Millis::MAX
                } else {
                    while_it_lasts.clone()
                };
                let failure = random.one_of(&all_failures());
                order(
                    failure,
                    random.one_of(&[30, 300, 1000]),
                    during,
                    random.one_of(&[0, 0, 1, 20]),
                );
            }
            origin.lies_permille = random.one_of(&[0, 0, 3, 200, 1000]);
            origin.lie_permille = random.one_of(&[300, 1000, 1000]);
        }
        origin
    }
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
}

impl Script {
    fn plain(blocks: u32, origins: Vec<Origin>) -> Script {
        let geometry =
            Geometry::new(u64::from(blocks) * BlockSize::MIN.bytes(), BlockSize::MIN).unwrap();
        let limits = Limits {
            connections: 4,
            tries: 5,
            patience_ms: 300_000,
            seed: 1,
        };
        Script {
            seed: 1,
            geometry,
            limits,
            length_proven: false,
            origins,
            claims: BTreeMap::new(),
        }
    }

    fn any(seed: u64) -> Script {
        let mut random = Random(seed);
        let blocks = match random.within(0..10) {
            0 => 1,
            1..4 => random.within(2..10),
            4..9 => random.within(10..300),
            _ => random.within(300..u64::from(BLOCKS_MAX) + 1),
        };
        // Spans of small blocks are never worth splitting.
        let large = blocks < 300 && random.chance(300);
        let size = BlockSize::new(if large { 256 << 10 } else { 16 << 10 }).unwrap();
        let ragged = random.one_of(&[0, 1, size.bytes() - 1]);
        let geometry = Geometry::new(blocks * size.bytes() - ragged, size).unwrap();
        let patience_ms =
            random.one_of(&[1_000, 30_000, 300_000, PATIENCE_LONG_MS, PATIENCE_LONG_MS]);
        let connections = random.within(1..17) as u32;
        let limits = Limits {
            connections,
            tries: random.within(1..6) as u32,
            patience_ms,
            seed,
        };
        let origins = (0..random.within(1..5))
            .map(|_| Origin::any(&mut random))
            .collect();
        let mut claims = BTreeMap::new();
        if random.chance(400) {
            let (claimed, hold, span) = (
                random.within(0..1001),
                random.within(0..1001),
                random.one_of(&[10, 60_000, 900_000]),
            );
            for block in geometry.all().iter() {
                if random.chance(claimed) {
                    claims.insert(block.0, (random.within(0..span), random.chance(hold)));
                }
            }
        }
        Script {
            seed,
            geometry,
            limits,
            length_proven: random.chance(300),
            origins,
            claims,
        }
    }

    /// Whether nothing but success is acceptable.
    fn must_be_done(&self) -> bool {
        // Nobody waits for a day.
        let is_patient = |origin: &Origin| {
            origin.connections == usize::MAX || origin.retry_after_ms != Some(u64::MAX)
        };
        let fair = |origin: &Origin| origin.fair && is_patient(origin);
        self.limits.patience_ms >= PATIENCE_LONG_MS && self.origins.iter().any(fair)
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
    since: Millis,
    next: Millis,
    /// How it will fail, after so many more blocks.
    failure: Option<(Failure, u32)>,
}

/// What the rules know of a source.
#[derive(Clone, Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct Known {
    running: u32,
    allowed: u32,
    not_before: Millis,
    /// The last refusals: until when there are no more requests than they left running, and for how long at most.
    refused_until: Millis,
    left_running: u32,
    refused_at: Option<Millis>,
    /// Waits in a row.
    backoffs: u32,
    pauses: u32,
    /// The last reduction: when, and how many there were.
    slowed_at: Option<Millis>,
    slowed: u32,
    /// The last refused request was sent after it.
    reduces: bool,
    retry_after_until: Millis,
    /// When it sent a response, or ended one.
    served_at: Option<Millis>,
    dropped: bool,
    unreachable: bool,
    no_ranges: bool,
    bad_responses: u32,
    stopped: bool,
    /// Counted failures in a row, by the first block that the request still lacked; of streams in a row.
    failures: BTreeMap<u32, u32>,
    stream_failures: u32,
    /// Of blocks.
    waits: BTreeMap<u32, Millis>,
    wrong: BTreeMap<u32, u32>,
}

impl Known {
    /// What failed at a block that is decided now goes on failing behind it.
    fn pass_failures(&mut self, block: u32) {
        let failures = self.failures.get(&block).copied().unwrap_or(0);
        let behind = self.failures.entry(block + 1).or_default();
        *behind = failures.max(*behind);
    }
}

struct World {
    script: Script,
    random: Random,
    now: Millis,
    scheduler: Scheduler,
    requests: BTreeMap<SpanId, Request>,
    known: Vec<Known>,
    claims: BTreeSet<(Millis, u32)>,
    claimed: BTreeSet<u32>,
    held: BlockSet,
    /// The last new block, or the moment from which something was missing.
    progress: Millis,
    last_failure: Option<(usize, Failure)>,
    /// The request that failed just now; the next retry is about it.
    stopped: Option<(Request, Failure)>,
    starts: u64,
    failures: u64,
    wrongs: u64,
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
        script
            .claims
            .keys()
            .for_each(|block| _ = claimed.insert(BlockIndex(*block)));
        let scheduler = Scheduler::new(
            script.geometry,
            script.limits,
            script.origins.len(),
            claimed,
            script.length_proven,
        );
        let known = Known {
            allowed: script.limits.connections,
            ..Known::default()
        };
        World {
            random: Random(script.seed ^ 0x5EED),
            now: 0,
            scheduler,
            requests: BTreeMap::new(),
            known: vec![known; script.origins.len()],
            claims: script
                .claims
                .iter()
                .map(|(block, (time, _))| (*time, *block))
                .collect(),
            claimed: script.claims.keys().copied().collect(),
            held: BlockSet::empty(blocks),
            progress: 0,
            last_failure: None,
            stopped: None,
            starts: 0,
            failures: 0,
            wrongs: 0,
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
        let mut steps = 0u64;
        loop {
            let until = match self.run_commands()? {
                Ok(until) => until,
                Err(outcome) => return self.judge_outcome(&outcome).map(|()| outcome),
            };
            steps += 1;
            rule!(steps < 2_000_000, "it does not end");
            let request = self
                .requests
                .iter()
                .map(|(id, request)| (request.next, *id))
                .min();
            let claim = self.claims.first().copied();
            let times = [request.map(|next| next.0), claim.map(|next| next.0), until];
            let Some(time) = times.into_iter().flatten().min() else {
                return Err("nothing will ever happen again".to_string());
            };
            self.now = self.now.max(time);
            if let Some((_, id)) = request.filter(|(next, _)| *next == time) {
                self.step(id);
            } else if let Some((_, block)) = claim.filter(|(next, _)| *next == time) {
                self.claims.pop_first();
                self.judge_claim(block);
            }
            self.watch()?;
        }
    }

    /// What holds after every event.
    fn watch(&self) -> Rule {
        let held = self.scheduler.held();
        rule!(
            *held == self.held,
            "held blocks are {} instead of {}",
            held.count(),
            self.held.count()
        );
        rule!(
            self.scheduler.claimed().count() as usize == self.claimed.len(),
            "claims are lost"
        );
        let most = match self.now {
            // Nothing can be known yet of what more of them bring.
            0..200 => self.script.limits.connections.min(CONNECTIONS_FIRST),
            _ => self.script.limits.connections,
        };
        rule!(self.requests.len() <= most as usize, "too many spans");
        let failures_max = 300
            + 8 * u64::from(self.held.blocks())
            + (self.now / 1000 + 1) * 4 * self.known.len() as u64;
        rule!(
            self.failures <= failures_max,
            "{} failed requests are too many",
            self.failures
        );
        let starts_max = 3 * u64::from(self.held.blocks()) + self.failures + self.wrongs + 300;
        rule!(
            self.starts <= starts_max,
            "{} requests are too many",
            self.starts
        );
        Ok(())
    }

    /// Whether something is missing that no journal claims.
    fn lacks_blocks(&self) -> bool {
        self.held.count() as usize + self.claimed.len() < self.held.blocks() as usize
    }

    // ---- events

    fn pass(&mut self, event: Event) {
        self.note(|| format!("{event:?}"));
        self.scheduler.handle(self.now, event);
    }

    fn hold(&mut self, block: u32) -> bool {
        self.claimed.remove(&block);
        let new = self.held.insert(BlockIndex(block));
        if new {
            self.progress = self.now;
        }
        for known in &mut self.known {
            // A span whose first block came another way still fails in a row.
            known.pass_failures(block);
        }
        new
    }

    fn judge_claim(&mut self, block: u32) {
        if self.script.claims[&block].1 {
            self.hold(block);
            self.pass(Event::Held(verified(block)));
        } else {
            if !self.lacks_blocks() {
                self.progress = self.now;
            }
            self.claimed.remove(&block);
            self.pass(Event::ClaimFailed {
                block: BlockIndex(block),
            });
        }
    }

    /// The next thing that happens to a request.
    fn step(&mut self, span: SpanId) {
        let mut request = self.requests[&span].clone();
        let origin = self.script.origins[request.source].clone();
        if let Some((failure, 0)) = request.failure {
            return self.fail(span, failure);
        }
        if !request.opened {
            request.opened = true;
            let known = &mut self.known[request.source];
            (known.unreachable, known.bad_responses) = (false, 0);
            known.served_at = Some(self.now);
            (known.backoffs, known.pauses) = (0, 0);
            self.pass(Event::Opened { span });
            if !origin.ranges && !request.whole {
                (request.at, request.end, request.whole) = (0, self.held.blocks(), true);
                self.known[request.source].no_ranges = true;
                self.requests.insert(span, request.clone());
                self.pass(Event::WholeBody { span });
            }
        } else if request.at < request.end {
            let block = request.at;
            request.at += 1;
            request.failure = request
                .failure
                .map(|(failure, blocks)| (failure, blocks - 1));
            self.requests.insert(span, request.clone());
            self.arrive(span, request.source, request.whole, block);
        }
        if request.at >= request.end {
            let known = &mut self.known[request.source];
            // Successes restore slowly; a span that was given up for a wrong block is none.
            let is_success = self.scheduler.is_running(span);
            let over = |at: Millis| {
                self.now >= (at + cooldown_ms(known.slowed)).max(known.retry_after_until)
            };
            if is_success && known.slowed_at.is_some_and(over) {
                (known.allowed, known.slowed, known.slowed_at) = match known.allowed * 2 {
                    more @ ..8 => (more, known.slowed.saturating_sub(1), Some(self.now)),
                    _ => (self.script.limits.connections, 0, None),
                };
            }
            self.leave(span);
            self.pass(Event::Ended { span });
            return;
        }
        let bytes = self
            .script
            .geometry
            .bytes_of(BlockIndex(request.at))
            .length();
        let stalls = matches!(request.failure, Some((Failure::Stalled, 0)));
        request.next = self.now
            + if stalls {
                STALL_MS
            } else {
                bytes.div_ceil(origin.bytes_per_ms)
            };
        self.requests.insert(span, request);
    }

    fn arrive(&mut self, span: SpanId, source: usize, whole: bool, block: u32) {
        let count = self.script.geometry.bytes_of(BlockIndex(block)).length();
        self.scheduler
            .handle(self.now, Event::Bytes { span, count });
        if self.comes_wrong(source, block) {
            self.wrongs += 1;
            *self.known[source].wrong.entry(block).or_default() += 1;
            self.known[source].pass_failures(block);
            return self.pass(Event::Wrong {
                span,
                block: BlockIndex(block),
            });
        }
        if !whole {
            // What is behind it begins anew.
            self.known[source].failures.remove(&block);
        }
        if self.hold(block) && whole {
            self.known[source].stream_failures = 0;
        }
        self.pass(Event::Proven {
            span,
            verified: verified(block),
        });
    }

    fn comes_wrong(&mut self, source: usize, block: u32) -> bool {
        let origin = &self.script.origins[source];
        let mut dice = Random(self.script.seed ^ (source as u64) << 32 ^ u64::from(block));
        dice.chance(origin.lies_permille) && self.random.chance(origin.lie_permille)
    }

    fn fail(&mut self, span: SpanId, failure: Failure) {
        let request = self.leave(span);
        // The host serves others, or has just served.
        let failure = match failure {
            Failure::TooMany {
                status,
                retry_after_ms,
                ..
            } => Failure::TooMany {
                status,
                retry_after_ms,
                serves: self.serves(request.source),
            },
            other => other,
        };
        self.failures += 1;
        self.last_failure = Some((request.source, failure));
        let lacked = self
            .held
            .next_missing(BlockIndex(request.at))
            .map_or(request.at, |block| block.0);
        let known = &mut self.known[request.source];
        known.unreachable = failure == Failure::Unreachable;
        match failure.class() {
            Class::Again if known.unreachable => {
                known.not_before = known.not_before.max(self.now + PROBE_EVERY_MS)
            }
            Class::Slower => {
                known.reduces = known.slowed_at.is_none_or(|at| request.since > at);
                if known.reduces {
                    known.slowed += 1;
                    known.slowed_at = Some(self.now);
                }
            }
            Class::Elsewhere => known.bad_responses += 1,
            Class::Stop | Class::Changed => known.stopped = true,
            _ => (),
        }
        if failure.counts_as_try() {
            match request.whole {
                true => known.stream_failures += 1,
                false => *known.failures.entry(lacked).or_default() += 1,
            }
        }
        // A server that answers in several parts is asked for the whole from then on, and so is the last one if it refuses a range.
        let refused = failure.may_be_for_the_range() && self.others(request.source).count() == 0;
        let multipart = failure == Failure::BadResponse(BadResponse::Multipart);
        if (multipart || refused) && !request.whole {
            self.known[request.source].no_ranges = true;
        }
        self.stopped = Some((request, failure));
        self.pass(Event::Failed { span, failure });
    }

    fn leave(&mut self, span: SpanId) -> Request {
        let request = self.requests.remove(&span).expect("it runs");
        let known = &mut self.known[request.source];
        known.running -= 1;
        if request.opened {
            known.served_at = Some(self.now);
        }
        request
    }

    /// Whether a host sends a response, or did so just now.
    fn serves(&self, source: usize) -> bool {
        let opened = |request: &Request| request.source == source && request.opened;
        let last = self.known[source].served_at;
        self.requests.values().any(opened) || last.is_some_and(|at| self.now - at < SERVES_MS)
    }

    /// How long a refused request waits: 1, 2, 4 ... s while others are served, else 5, 10, 20 ... s, and as long as it is told.
    /// Requests that are refused together wait together.
    fn check_wait(&mut self, source: usize, failure: Failure, since: Millis, wait_ms: u64) -> Rule {
        let Failure::TooMany {
            retry_after_ms,
            serves,
            ..
        } = failure
        else {
            return Ok(());
        };
        let (now, known) = (self.now, &mut self.known[source]);
        let left = known.refused_until.saturating_sub(now);
        let alone = !serves && known.running == 0;
        let expected = if alone || known.refused_at.is_none_or(|at| since > at) {
            known.refused_at = Some(now);
            let nth = |first: u64, times: u32| first << (times - 1).min(16);
            let (least, most) = match retry_after_ms {
                None if alone => {
                    known.pauses += 1;
                    let pause = nth(5_000, known.pauses).min(60_000);
                    (pause, pause + pause / 10)
                }
                _ => {
                    known.backoffs += 1;
                    let backoff = nth(1_000, known.backoffs).min(30_000);
                    (backoff / 2, backoff)
                }
            };
            let told = retry_after_ms.unwrap_or(0).min(RETRY_AFTER_MAX_MS);
            least.max(told).max(left)..=most.max(told).max(left)
        } else {
            left..=left
        };
        rule!(
            expected.contains(&wait_ms),
            "{failure:?} waits {wait_ms} ms instead of {expected:?}"
        );
        known.refused_until = now + wait_ms;
        known.left_running = known.running;
        if let Some(ms) = retry_after_ms.filter(|ms| *ms > 0) {
            let time = now + ms.min(RETRY_AFTER_MAX_MS);
            known.retry_after_until = known.retry_after_until.max(time);
        }
        Ok(())
    }

    // ---- commands

    /// Runs the commands until one says to wait or to finish.
    fn run_commands(&mut self) -> Result<Result<Option<Millis>, Outcome>, String> {
        let commands_max = 4 * (self.requests.len() + self.known.len())
            + 2 * self.script.limits.connections as usize
            + 8;
        for _ in 0..commands_max {
            let command = self.scheduler.command(self.now);
            self.note(|| format!("    {command:?}"));
            match command {
                Command::Start {
                    span,
                    source: SourceId(source),
                    blocks,
                    whole,
                } => {
                    self.start(span, source, blocks, whole)?;
                }
                Command::Shrink { span, end } => {
                    let request = self
                        .requests
                        .get_mut(&span)
                        .ok_or("a span that does not run is shrunk")?;
                    rule!(
                        end.0 < request.end && !request.whole,
                        "{span:?} shrinks from {} to {end}",
                        request.end
                    );
                    request.end = end.0;
                }
                Command::Cancel { span } => self.cancel(span),
                Command::Retry {
                    source: SourceId(source),
                    wait_ms,
                    ..
                } => {
                    rule!(wait_ms <= RETRY_AFTER_MAX_MS, "it waits {wait_ms} ms");
                    let time = self.now + wait_ms;
                    // One that was only silent has been cancelled.
                    let Some((stopped, failure)) = self.stopped.take() else {
                        rule!(wait_ms == 0, "a retry after no failure");
                        continue;
                    };
                    self.check_wait(source, failure, stopped.since, wait_ms)?;
                    let known = &mut self.known[source];
                    match stopped.whole {
                        true => known.not_before = known.not_before.max(time),
                        false => _ = known.waits.insert(stopped.at, time),
                    }
                }
                Command::Slowed {
                    source: SourceId(source),
                    connections,
                    until,
                    ..
                } => {
                    let known = &mut self.known[source];
                    rule!(
                        connections >= 1 && connections <= known.allowed,
                        "{connections} after {}",
                        known.allowed
                    );
                    // Of those that were in use, which may be fewer than are allowed.
                    let stepped = matches!(
                        (known.allowed, connections),
                        (9.., 8 | 4) | (5..=8, 4) | (3..=4, 2) | (1..=2, 1)
                    );
                    rule!(
                        stepped || connections == known.allowed.min(self.script.limits.connections),
                        "{connections} after {}",
                        known.allowed
                    );
                    // Of requests that were refused together, the first one reduces the number.
                    rule!(
                        known.reduces
                            || connections == known.allowed.min(self.script.limits.connections),
                        "{connections} after {}, for a request of before",
                        known.allowed
                    );
                    rule!(
                        (self.now..=self.now + 300_000).contains(&until),
                        "not raised until {until}"
                    );
                    known.allowed = connections;
                }
                Command::Dropped {
                    source: SourceId(source),
                    why,
                } => self.dropped(source, why)?,
                Command::Wait { until } => {
                    rule!(
                        until.is_none_or(|until| until > self.now),
                        "it waits until {until:?}, which is past"
                    );
                    rule!(
                        until.is_some() || !self.lacks_blocks(),
                        "blocks are missing and nothing is waited for"
                    );
                    rule!(
                        !self.lacks_blocks()
                            || self.now < self.progress + self.script.limits.patience_ms,
                        "too patient"
                    );
                    return Ok(Ok(until));
                }
                Command::Finish(outcome) => return Ok(Err(outcome)),
            }
        }
        Err(format!("more than {commands_max} commands at one time"))
    }

    fn start(&mut self, span: SpanId, source: usize, blocks: BlockRange, whole: bool) -> Rule {
        self.starts += 1;
        let (now, known) = (self.now, &self.known[source]);
        rule!(!known.dropped, "a dropped source gets a request");
        let not_before = known.not_before.max(known.retry_after_until);
        rule!(
            not_before <= now,
            "a source gets a request that gets none until {not_before}"
        );
        rule!(
            now >= known.refused_until || known.running < known.left_running,
            "{} requests until {}",
            known.running + 1,
            known.refused_until
        );
        let allowed = if known.unreachable || known.no_ranges {
            1
        } else {
            known.allowed
        };
        rule!(
            known.running < allowed,
            "{} spans where {allowed} are allowed",
            known.running + 1
        );
        rule!(
            known.no_ranges == whole,
            "whole is {whole} of a source with ranges {}",
            !known.no_ranges
        );
        rule!(
            !blocks.is_empty() && blocks.end <= self.held.blocks(),
            "{blocks:?} is no span"
        );
        if !whole {
            let first = BlockIndex(blocks.start);
            rule!(
                !self.held.contains(first) && !self.claimed.contains(&first.0),
                "block {first} is here and requested"
            );
            let last = self.script.geometry.last();
            let proven = self.script.length_proven || self.held.contains(last);
            rule!(
                proven || blocks == BlockRange::one(last),
                "{blocks:?} before the length is proven"
            );
            let twice = |request: &&Request| {
                !request.whole && request.at.max(blocks.start) < request.end.min(blocks.end)
            };
            rule!(
                self.requests.values().find(twice).is_none(),
                "{blocks:?} are requested twice"
            );
            let not_before = known
                .waits
                .range(blocks.start..blocks.end)
                .map(|(_, time)| *time)
                .max()
                .unwrap_or(0);
            rule!(not_before <= now, "{blocks:?} again before {not_before}");
        }
        self.known[source].running += 1;
        let failure = self.failure(source, blocks);
        let latency = self.script.origins[source].latency;
        let pause = match failure {
            Some((Failure::Stalled, 0)) => STALL_MS,
            _ => latency,
        };
        let (at, end, next) = (blocks.start, blocks.end, now + pause);
        self.requests.insert(
            span,
            Request {
                source,
                at,
                end,
                whole,
                opened: false,
                since: now,
                next,
                failure,
            },
        );
        Ok(())
    }

    fn failure(&mut self, source: usize, blocks: BlockRange) -> Option<(Failure, u32)> {
        let origin = self.script.origins[source].clone();
        for order in &origin.fails {
            let meant = order.of.is_none_or(|of| blocks.contains(BlockIndex(of)));
            if meant && order.during.contains(&self.now) && self.random.chance(order.permille) {
                return Some((order.failure, order.after));
            }
        }
        let busy = self.known[source].running as usize > origin.connections;
        busy.then_some((
            Failure::TooMany {
                status: 429,
                retry_after_ms: origin.retry_after_ms,
                serves: false,
            },
            0,
        ))
    }

    fn cancel(&mut self, span: SpanId) {
        if !self.requests.contains_key(&span) {
            // It ended at the same time.
            return;
        }
        let request = self.leave(span);
        // What was proven before it heard of that still counts.
        let honest = self.script.origins[request.source].lies_permille == 0;
        if honest && request.opened && request.at < request.end && self.random.chance(300) {
            self.hold(request.at);
            self.pass(Event::Held(verified(request.at)));
        }
    }

    fn others(&self, source: usize) -> impl Iterator<Item = &Known> {
        self.known
            .iter()
            .enumerate()
            .filter(move |(other, known)| *other != source && !known.dropped)
            .map(|(_, known)| known)
    }

    /// Whether one span failed so often in a row that it is given up.
    fn is_tried(&self, source: usize) -> bool {
        let (known, tries) = (&self.known[source], self.script.limits.tries);
        known
            .stream_failures
            .max(known.failures.values().copied().max().unwrap_or(0))
            >= tries
    }

    fn dropped(&mut self, source: usize, why: DropReason) -> Rule {
        let known = &self.known[source];
        rule!(
            !known.dropped && self.others(source).count() > 0,
            "the last source is dropped"
        );
        match why {
            DropReason::WrongBlock { block } => {
                let times = known.wrong.get(&block.0).copied().unwrap_or(0);
                rule!(
                    times >= WRONG_MAX || known.wrong.len() >= LIES_MAX,
                    "dropped for too few lies"
                );
                rule!(
                    self.others(source).any(|other| !other.unreachable),
                    "dropped when nobody else serves"
                );
            }
            DropReason::Failed(failure) => match failure.class() {
                Class::Again => rule!(self.is_tried(source), "dropped for {failure:?} too early"),
                Class::Elsewhere => rule!(known.bad_responses >= 2, "dropped for one bad answer"),
                Class::Stop | Class::Changed => rule!(known.stopped, "dropped for nothing"),
                Class::Slower => return Err("dropped for being busy".to_string()),
            },
        }
        self.known[source].dropped = true;
        Ok(())
    }

    /// Whether the script justifies this end.
    fn judge_outcome(&self, outcome: &Outcome) -> Rule {
        rule!(
            (*outcome == Outcome::Done) == self.held.is_full(),
            "{outcome:?} with {} blocks",
            self.held.count()
        );
        rule!(
            !self.script.must_be_done() || *outcome == Outcome::Done,
            "{outcome:?}, although a fair source is there"
        );
        let live: Vec<usize> = (0..self.known.len())
            .filter(|source| !self.known[*source].dropped)
            .collect();
        let the_last =
            |failure: &Failure| live.len() == 1 && self.last_failure == Some((live[0], *failure));
        let known = &self.known[live[0]];
        let justified = match outcome {
            Outcome::Done => true,
            Outcome::Wrong { block } => {
                live.len() == 1
                    && known
                        .wrong
                        .get(&block.0)
                        .is_some_and(|times| *times >= WRONG_MAX)
            }
            Outcome::Changed(failure) => the_last(failure) && failure.class() == Class::Changed,
            Outcome::NoSource(failure) => {
                the_last(failure)
                    && match failure {
                        Failure::Refused { status: 416 } => self.is_tried(live[0]),
                        _ => failure.class() == Class::Stop || known.bad_responses >= 2,
                    }
            }
            Outcome::Tries(failure) => {
                the_last(failure) && failure.class() == Class::Again && self.is_tried(live[0])
            }
            Outcome::Patience(failure) => {
                *failure == self.last_failure.map(|(_, failure)| failure)
                    && self.now >= self.progress + self.script.limits.patience_ms
            }
            Outcome::MustWait { until } => {
                let ends = self.progress + self.script.limits.patience_ms;
                self.requests.is_empty()
                    && *until > ends
                    && live.iter().all(|source| {
                        let known = &self.known[*source];
                        known.retry_after_until.max(known.refused_until) >= *until
                    })
            }
        };
        rule!(justified, "{outcome:?} is not justified");
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
            let script = format!(
                "{} claims, {:?}, {:?}, {:#?}",
                script.claims.len(),
                script.geometry,
                script.limits,
                script.origins
            );
            panic!(
                "SAPWOOD_SEED={}: {why}\n{script}\n... {shown} lines\n{}",
                world.script.seed,
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
fn schedules_keep_the_rules() {
    if let Some(seed) = from_environment("SAPWOOD_SEED") {
        println!("{:?}", play(&Script::any(seed)));
        return;
    }
    let schedules = from_environment("SAPWOOD_SCHEDULES").unwrap_or(500);
    let mut outcomes: BTreeMap<String, u64> = BTreeMap::new();
    for seed in 0..schedules {
        let outcome = format!("{:?}", play(&Script::any(seed)));
        let kind = outcome
            .split([' ', '('])
            .next()
            .unwrap_or_default()
            .to_string();
        *outcomes.entry(kind).or_default() += 1;
    }
    println!("{schedules} schedules: {outcomes:?}");
    // Rules about an end say nothing when no schedule ends so.
    assert!(schedules < 500 || outcomes.len() == 7, "{outcomes:?}");
}

/// When a failure comes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    FirstRequest,
    MidSpan,
    LastBlock,
    Resume,
}

impl Phase {
    fn script(self, failure: Failure, second: Option<Origin>) -> Script {
        // One span: two that break at once would be two bad answers in a row.
        let last = 14;
        let (of, after) = match self {
            Phase::FirstRequest | Phase::Resume => (None, 0),
            Phase::MidSpan => (None, 1),
            Phase::LastBlock => (Some(last), 0),
        };
        let origins = std::iter::once(Origin::failing(failure, of, after))
            .chain(second)
            .collect();
        let mut script = Script::plain(last + 1, origins);
        if self == Phase::Resume {
            script.length_proven = true;
            script.claims = (0..last / 2).map(|block| (block, (5, true))).collect();
        }
        script
    }
}

/// How a run with one source ends that fails each request so.
fn expected(failure: Failure, phase: Phase) -> &'static str {
    // A body that brings a block each time before it breaks gets there, whatever breaks it, unless no repetition helps.
    let progress = phase == Phase::MidSpan;
    match failure {
        // Left alone for as long as the user is patient.
        Failure::Server {
            retry_after_ms: Some(u64::MAX),
            ..
        } => "Patience",
        // From then on all comes in one answer, which never gets further than the first time.
        Failure::BadResponse(BadResponse::Multipart) if progress => "Patience",
        _ if progress && matches!(failure.class(), Class::Again | Class::Elsewhere) => "Done",
        Failure::TooMany {
            retry_after_ms: None | Some(0 | 5_000),
            ..
        } if progress => "Done",
        Failure::Unreachable | Failure::Stalled => "Patience",
        Failure::TooMany {
            retry_after_ms: Some(0 | 5_000),
            ..
        } => "Patience or MustWait",
        Failure::TooMany { .. } => "MustWait",
        Failure::Broken | Failure::Server { .. } => "Tries",
        Failure::Changed(_) => "Changed",
        _ => "NoSource",
    }
}

#[test]
fn every_failure_is_decided_in_every_phase() {
    for failure in all_failures() {
        for phase in [
            Phase::FirstRequest,
            Phase::MidSpan,
            Phase::LastBlock,
            Phase::Resume,
        ] {
            let outcome = format!("{:?}", play(&phase.script(failure, None)));
            let kind = outcome.split([' ', '(']).next().unwrap_or_default();
            assert!(
                expected(failure, phase)
                    .split(" or ")
                    .any(|end| end == kind),
                "{failure:?} at {phase:?}: {outcome}"
            );
            // Another source serves, with ranges or without, first or second.
            for ranges in [true, false] {
                let mut script = phase.script(
                    failure,
                    Some(Origin {
                        ranges,
                        ..Origin::honest()
                    }),
                );
                assert_eq!(
                    play(&script),
                    Outcome::Done,
                    "{failure:?} at {phase:?} beside an honest source"
                );
                script.origins.reverse();
                assert_eq!(
                    play(&script),
                    Outcome::Done,
                    "{failure:?} at {phase:?} behind an honest source"
                );
            }
        }
    }
}

// ---- what once went wrong

#[test]
fn a_dead_first_mirror_does_not_starve_the_second() {
    for failure in [Failure::Unreachable, Failure::Stalled] {
        assert_eq!(
            play(&Script::plain(
                9,
                vec![Origin::failing(failure, None, 0), Origin::honest()]
            )),
            Outcome::Done
        );
    }
}

#[test]
fn blocks_of_a_busy_mirror_do_not_wait_for_it() {
    for failure in all_failures()
        .into_iter()
        .filter(|failure| matches!(failure.class(), Class::Slower | Class::Again))
    {
        let mut world = World::new(
            Script::plain(
                40,
                vec![Origin::failing(failure, None, 0), Origin::honest()],
            ),
            false,
        );
        assert_eq!(world.run(), Ok(Outcome::Done));
        assert!(world.now < 3 * STALL_MS, "{failure:?}: {} ms", world.now);
    }
}

#[test]
fn a_block_that_is_wrong_on_all_mirrors_is_told() {
    let liar = Origin {
        lies_permille: 1000,
        lie_permille: 1000,
        fair: false,
        ..Origin::honest()
    };
    let script = Script::plain(3, vec![liar.clone(), liar.clone(), liar]);
    assert_eq!(
        play(&script),
        Outcome::Wrong {
            block: BlockIndex(2)
        }
    );
}

/// Of a source that has another object, the first answers are wrong, which nobody can know before. Then it gets small requests.
#[test]
fn a_source_of_another_object_soon_gets_requests_for_single_blocks() {
    let another = Origin {
        lies_permille: 1000,
        lie_permille: 1000,
        fair: false,
        ..Origin::honest()
    };
    let mut script = Script::plain(BLOCKS_MAX, vec![another]);
    (script.limits.connections, script.length_proven) = (8, true);
    let mut world = World::new(script, false);
    let outcome = world.run().unwrap();
    assert!(matches!(outcome, Outcome::Wrong { .. }), "{outcome:?}");
    assert!(world.wrongs < 50, "{} blocks came", world.wrongs);
}

/// Where the judge is slow, an idle connection takes over what is still to come, not what has come.
#[test]
fn bytes_that_wait_for_the_judge_are_not_fetched_again() {
    const BLOCKS: u32 = 64;
    let block = BlockSize::MIN.bytes();
    let geometry = Geometry::new(u64::from(BLOCKS) * block, BlockSize::MIN).unwrap();
    let limits = Limits {
        connections: 2,
        tries: 5,
        patience_ms: 300_000,
        seed: 1,
    };
    for arrived in [0, 1, BLOCKS / 2, BLOCKS - 16, BLOCKS - 15, BLOCKS] {
        let mut scheduler = Scheduler::new(geometry, limits, 1, BlockSet::empty(BLOCKS), true);
        let Command::Start { span, blocks, .. } = scheduler.command(0) else {
            panic!("nothing is started");
        };
        assert_eq!(blocks, geometry.all());
        scheduler.handle(10, Event::Opened { span });
        let count = u64::from(arrived) * block;
        scheduler.handle(3_000, Event::Bytes { span, count });
        let end = match scheduler.command(3_000) {
            Command::Shrink { end, .. } => end.0,
            Command::Wait { .. } => BLOCKS,
            other => panic!("{arrived} blocks arrived: {other:?}"),
        };
        assert!(end >= arrived, "{arrived} blocks arrived, {end} are left");
        // Less than 256 KiB to come is left alone.
        assert_eq!(
            end < BLOCKS,
            arrived <= BLOCKS - 16,
            "{arrived} blocks arrived"
        );
    }
}

#[test]
fn a_stream_that_always_breaks_at_one_place_ends() {
    for ranges_of_other in [None, Some(false)] {
        let broken = Origin {
            ranges: false,
            ..Origin::failing(Failure::Broken, None, 5)
        };
        let other = ranges_of_other.map(|ranges| Origin {
            ranges,
            ..broken.clone()
        });
        let script = Script::plain(20, std::iter::once(broken).chain(other).collect());
        assert_eq!(play(&script), Outcome::Tries(Failure::Broken));
    }
}

#[test]
fn a_stream_takes_no_blocks_from_faster_mirrors() {
    let slow = Origin {
        ranges: false,
        bytes_per_ms: 1,
        ..Origin::honest()
    };
    let mut world = World::new(Script::plain(40, vec![slow, Origin::honest()]), false);
    assert_eq!(world.run(), Ok(Outcome::Done));
    assert!(world.now < 2 * STALL_MS, "{} ms", world.now);
}

#[test]
fn a_claim_that_fails_late_finds_patience() {
    let mut script = Script::plain(2, vec![Origin::honest()]);
    script.claims = BTreeMap::from([(0, (10 * script.limits.patience_ms, false)), (1, (5, true))]);
    assert_eq!(play(&script), Outcome::Done);
}

#[test]
fn a_mirror_of_another_version_does_not_end_the_run() {
    let changed = Origin::failing(Failure::Changed(Changed::Length), None, 0);
    assert_eq!(
        play(&Script::plain(9, vec![changed, Origin::honest()])),
        Outcome::Done
    );
}

#[test]
fn connections_that_run_outlive_a_long_cooldown() {
    // The host takes two connections and wants the others to stay away for longer than the user is patient.
    let busy = Origin {
        connections: 2,
        retry_after_ms: Some(u64::MAX),
        bytes_per_ms: 100,
        ..Origin::honest()
    };
    let mut script = Script::plain(400, vec![busy]);
    (script.limits.patience_ms, script.length_proven) = (30_000, true);
    let mut world = World::new(script, false);
    let outcome = world.run().unwrap();
    assert!(matches!(outcome, Outcome::MustWait { .. }), "{outcome:?}");
    assert!(world.held.count() >= 40, "{} blocks", world.held.count());
}
