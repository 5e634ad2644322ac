//! The scheduler against pipes in virtual time: how many connections it finds right, and how much it fetches from which mirror.
//!
//! A pipe has a rate for all of its connections together and one for each, which is what loss does to them. The simulation in
//! `simulation.rs` is about failures; here it is about speed, so every figure is exact and the same on every machine.

use std::{collections::BTreeMap, ops::Range, sync::OnceLock};

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
            CONNECTIONS_FIRST, Command, Event, Limits, Millis, Outcome, Scheduler, SourceId, SpanId,
        },
    },
};

const BLOCKS: u32 = 2_000;
const BLOCK_BYTES: u64 = 32 << 10;
/// 65.5 MB.
/// After so long without bytes a request is given up.
const STALL_MS: Millis = 10_000;
const LENGTH: u64 = BLOCKS as u64 * BLOCK_BYTES;

fn geometry() -> Geometry {
    Geometry::new(LENGTH, BlockSize::new(BLOCK_BYTES).unwrap()).unwrap()
}

fn verified(block: u32) -> Verified {
    static ALL: OnceLock<Vec<Verified>> = OnceLock::new();
    ALL.get_or_init(|| {
        let geometry = geometry();
        let bytes = |block: BlockIndex| {
            paint::bytes(u64::from(block.0) * BLOCK_BYTES, BLOCK_BYTES as usize)
        };
        let value = |block| tree::leaf_of(&geometry, block, &bytes(block));
        let leaves = Leaves::new(geometry, geometry.all().iter().map(value).collect());
        let judge = |block| judge::verify(&leaves, block, &bytes(block)).unwrap();
        geometry.all().iter().map(judge).collect()
    })[block as usize]
}

/// A source; rates are in bytes a millisecond.
#[derive(Clone, Debug)]
struct Pipe {
    response_ms: Millis,
    all: f64,
    each: f64,
    /// More connections than this are answered with 429.
    connections: usize,
    retry_after_ms: Option<u64>,
    /// Until then; later it takes any number.
    limited_until: Millis,
    /// While nobody is there.
    away: Range<Millis>,
}

impl Pipe {
    fn new(response_ms: Millis, all: f64, each: f64) -> Pipe {
        Pipe {
            response_ms,
            all,
            each,
            connections: usize::MAX,
            retry_after_ms: None,
            limited_until: Millis::MAX,
            away: 0..0,
        }
    }
}

struct Request {
    source: usize,
    at: u32,
    end: u32,
    /// When its first byte comes, and what came of the current block.
    opens: Millis,
    opened: bool,
    last_received: Millis,
    bytes: f64,
    reported: u64,
}

/// What happened in a run.
struct Run {
    took: Millis,
    /// The number of spans, and the bytes from each source, in each millisecond.
    running: Vec<usize>,
    received: Vec<Vec<f64>>,
    /// What was under way behind a new end.
    wasted: f64,
    /// How many requests were answered with 429.
    refused: u32,
    /// When each span was started, of which source, and its blocks.
    started: Vec<(Millis, usize, u32)>,
}

impl Run {
    /// The average number of spans.
    fn mean(&self, during: Range<usize>) -> f64 {
        let during = during.start..during.end.min(self.running.len());
        let length = during.len() as f64;
        self.running[during].iter().sum::<usize>() as f64 / length
    }

    /// Bytes a millisecond of all sources, or of one.
    fn rate(&self, during: Range<usize>, source: Option<usize>) -> f64 {
        let sum = |source: usize| self.received[source][during.clone()].iter().sum::<f64>();
        let sources = source.map_or(0..self.received.len(), |source| source..source + 1);
        sources.map(sum).sum::<f64>() / during.len() as f64
    }
}

fn run(pipes: &[Pipe], connections: u32) -> Run {
    let limits = Limits {
        connections,
        tries: 5,
        patience_ms: 60_000,
        seed: 7,
    };
    let claimed = BlockSet::empty(BLOCKS);
    let mut scheduler = Scheduler::new(geometry(), limits, pipes.len(), claimed, true);
    let mut requests: BTreeMap<SpanId, Request> = BTreeMap::new();
    let mut ran = Run {
        took: 0,
        running: Vec::new(),
        received: vec![Vec::new(); pipes.len()],
        wasted: 0.0,
        refused: 0,
        started: Vec::new(),
    };
    let mut held = 0;
    for now in 0..200_000 {
        for commands in 0.. {
            assert!(commands < 500, "it does not stop commanding at {now} ms");
            match scheduler.command(now) {
                Command::Start {
                    span,
                    source: SourceId(source),
                    blocks: BlockRange { start, end },
                    ..
                } => {
                    ran.started.push((now, source, end - start));
                    let request = Request {
                        source,
                        at: start,
                        end,
                        opens: now + pipes[source].response_ms,
                        opened: false,
                        last_received: now,
                        bytes: 0.0,
                        reported: 0,
                    };
                    requests.insert(span, request);
                }
                Command::Shrink { span, end } => {
                    let request = requests.get_mut(&span).expect("it runs");
                    request.end = end.0;
                    let pipe = &pipes[request.source];
                    ran.wasted += pipe.each.min(pipe.all) * pipe.response_ms as f64;
                }
                Command::Cancel { span } => _ = requests.remove(&span),
                Command::Wait { .. } => break,
                Command::Finish(outcome) => {
                    assert_eq!(outcome, Outcome::Done, "at {now} ms");
                    ran.took = now;
                    return ran;
                }
                _ => (),
            }
        }
        assert!(
            requests.len() <= connections as usize,
            "{} spans",
            requests.len()
        );
        // The first answers of all have to come before anything can be known.
        let first = requests.len() as u32 <= CONNECTIONS_FIRST;
        assert!(now >= 200 || first, "{} spans at {now} ms", requests.len());
        ran.running.push(requests.len());
        ran.received.iter_mut().for_each(|bytes| bytes.push(0.0));
        pass_a_millisecond(now, pipes, &mut scheduler, &mut requests, &mut ran);
        // Progress never steps back.
        assert!(scheduler.held().count() >= held);
        held = scheduler.held().count();
    }
    panic!("it does not end");
}

fn pass_a_millisecond(
    now: Millis,
    pipes: &[Pipe],
    scheduler: &mut Scheduler,
    requests: &mut BTreeMap<SpanId, Request>,
    ran: &mut Run,
) {
    for (source, pipe) in pipes.iter().enumerate() {
        let of_pipe = |request: &Request| request.source == source;
        let here = requests.values().filter(|request| of_pipe(request)).count();
        let open = |request: &Request| of_pipe(request) && request.opens <= now;
        let flowing = requests.values().filter(|request| open(request)).count();
        let rate = pipe.each.min(pipe.all / flowing.max(1) as f64);
        let ids: Vec<SpanId> = requests.keys().copied().collect();
        let limit = match now < pipe.limited_until {
            true => pipe.connections,
            false => usize::MAX,
        };
        let mut too_many = here.saturating_sub(limit);
        for span in ids.into_iter().rev() {
            let request = requests.get_mut(&span).expect("it runs");
            if request.source != source {
                continue;
            }
            let failure = if pipe.away.contains(&now) {
                // Open connections break.
                Some(if request.opened {
                    Failure::Broken
                } else {
                    Failure::Unreachable
                })
            } else if too_many > 0 && !request.opened && request.opens <= now {
                too_many -= 1;
                ran.refused += 1;
                Some(Failure::TooMany {
                    status: 429,
                    retry_after_ms: pipe.retry_after_ms,
                    serves: flowing > 0,
                })
            } else {
                (now >= request.last_received + STALL_MS).then_some(Failure::Stalled)
            };
            if let Some(failure) = failure {
                requests.remove(&span);
                scheduler.handle(now, Event::Failed { span, failure });
            } else if request.opens <= now {
                if !request.opened {
                    request.opened = true;
                    scheduler.handle(now, Event::Opened { span });
                }
                request.bytes += rate;
                ran.received[source][now as usize] += rate;
                arrive(now, span, scheduler, requests);
            }
        }
    }
}

/// Reports what arrived.
fn arrive(
    now: Millis,
    span: SpanId,
    scheduler: &mut Scheduler,
    requests: &mut BTreeMap<SpanId, Request>,
) {
    let request = requests.get_mut(&span).expect("it runs");
    let count = request.bytes as u64 - request.reported;
    request.reported += count;
    if count > 0 {
        request.last_received = now;
        scheduler.handle(now, Event::Bytes { span, count });
    }
    while request.reported >= BLOCK_BYTES && request.at < request.end {
        (request.reported, request.bytes) = (
            request.reported - BLOCK_BYTES,
            request.bytes - BLOCK_BYTES as f64,
        );
        let verified = verified(request.at);
        request.at += 1;
        scheduler.handle(now, Event::Proven { span, verified });
    }
    if request.at >= request.end {
        requests.remove(&span);
        scheduler.handle(now, Event::Ended { span });
    }
}

/// At most `share` of the time that the best possible transfer takes, more.
#[track_caller]
fn close_to(ran: &Run, best_rate: f64, share: f64) {
    let best = LENGTH as f64 / best_rate;
    let most = best * (1.0 + share);
    assert!(
        ran.took as f64 <= most,
        "{} ms where {best:.0} ms would do",
        ran.took
    );
    let wasted = ran.wasted / LENGTH as f64;
    assert!(wasted <= 0.02, "{wasted:.3} of it wasted");
}

#[test]
fn loss_is_answered_with_more_connections() {
    for (connections, response_ms, share) in [
        (16, 40, 0.1),
        (12, 40, 0.1),
        (64, 40, 0.8),
        (16, 1, 0.1),
        (3, 40, 0.05),
    ] {
        let lossy = Pipe::new(response_ms, 1e9, 300.0);
        let ran = run(&[lossy], connections);
        assert_eq!(ran.running.iter().max(), Some(&(connections as usize)));
        close_to(&ran, f64::from(connections) * 300.0, share);
    }
}

#[test]
fn one_full_pipe_keeps_the_number_it_began_with() {
    for response_ms in [0, 1, 40, 200] {
        let ran = run(&[Pipe::new(response_ms, 2_000.0, 2_000.0)], 16);
        let mean = ran.mean(0..ran.running.len());
        assert!(mean <= 10.0, "{mean} connections");
        close_to(&ran, 2_000.0, 0.05);
    }
}

#[test]
fn what_is_over_in_a_second_is_left_alone() {
    let ran = run(&[Pipe::new(0, 64_000.0, 64_000.0)], 16);
    assert_eq!(ran.running.iter().max(), Some(&8));
    close_to(&ran, 64_000.0, 0.05);
}

#[test]
fn the_number_is_about_the_one_that_fills_the_pipe() {
    let ran = run(&[Pipe::new(40, 16.0 * 200.0, 200.0)], 64);
    let mean = ran.mean(ran.running.len() / 2..ran.running.len());
    assert!((12.0..=34.0).contains(&mean), "{mean} connections");
    close_to(&ran, 16.0 * 200.0, 0.15);
}

#[test]
fn a_host_that_limits_connections_gets_no_more() {
    let busy = Pipe {
        connections: 6,
        ..Pipe::new(40, 1e9, 300.0)
    };
    let ran = run(&[busy], 16);
    assert!(ran.running[50..].iter().all(|running| *running <= 6));
    assert!(
        ran.running[ran.took as usize / 2..]
            .iter()
            .all(|running| *running <= 4)
    );
    close_to(&ran, 4.0 * 300.0, 0.2);
    // One that says for how long.
    let busy = Pipe {
        connections: 6,
        retry_after_ms: Some(2_000),
        ..Pipe::new(40, 1e9, 300.0)
    };
    close_to(&run(&[busy], 16), 4.0 * 300.0, 0.2);
    // Beside a mirror that takes any number.
    let busy = Pipe {
        connections: 2,
        ..Pipe::new(40, 1e9, 300.0)
    };
    let ran = run(&[busy, Pipe::new(40, 1e9, 300.0)], 16);
    close_to(&ran, 16.0 * 300.0, 0.4);
}

/// What it serves goes on, and what it refused is requested within seconds.
#[test]
fn a_host_that_serves_two_connections_costs_seconds() {
    for all in [600.0, 6_000.0, 60_000.0] {
        let busy = Pipe {
            connections: 2,
            ..Pipe::new(20, all, all / 2.0)
        };
        let ran = run(&[busy], 16);
        let best = (LENGTH as f64 / all) as Millis;
        assert!(ran.took <= best + 3_000, "{} ms, best {best}", ran.took);
        assert!(ran.refused <= 10, "{} refused requests", ran.refused);
        // The two go on, request by request, and the requests are few.
        let second = 100..1_000.min(ran.took as usize);
        assert!(ran.mean(second.clone()) >= 1.5, "{}", ran.mean(second));
        assert!(ran.started.len() <= 18, "{} requests", ran.started.len());
    }
}

#[test]
fn the_number_is_raised_after_the_cooldown() {
    let busy = Pipe {
        connections: 4,
        limited_until: 10_000,
        ..Pipe::new(20, 1e9, 150.0)
    };
    let ran = run(&[busy], 8);
    // A minute with four connections, the rest with eight.
    let best = 60_000.0 + (LENGTH as f64 - 60_000.0 * 600.0) / 1_200.0;
    assert!((ran.took as f64) < best * 1.1, "{} ms", ran.took);
    assert!(
        ran.running[1_000..59_000]
            .iter()
            .all(|running| *running <= 4)
    );
}

#[test]
fn two_mirrors_are_as_fast_as_both_together() {
    for (fast, slow) in [
        (5_000.0, 1_000.0),
        (3_000.0, 3_000.0),
        (1_000.0, 5_000.0),
        (5_000.0, 100.0),
    ] {
        let ran = run(&[Pipe::new(20, fast, fast), Pipe::new(20, slow, slow)], 16);
        close_to(&ran, fast + slow, 1.0 / 0.9 - 1.0);
    }
}

#[test]
fn a_slow_mirror_gets_smaller_spans() {
    let ran = run(
        &[Pipe::new(20, 2_400.0, 600.0), Pipe::new(20, 800.0, 200.0)],
        64,
    );
    // The first ones were cut before anything was known, the last ones are shared out in other ways.
    let (mut of_fast, mut compared) = (0, 0);
    for (_, source, blocks) in ran.started.iter().filter(|(time, ..)| *time > 1_000) {
        match source {
            0 => of_fast = *blocks,
            _ if of_fast < 12 => (),
            _ => {
                compared += 1;
                assert!(4 * blocks < 3 * of_fast, "{blocks} and {of_fast}");
            }
        }
    }
    assert!(compared > 0);
}

#[test]
fn a_mirror_that_dies_is_used_again_when_it_is_back() {
    // Twice: the fast one dies, and the slow one.
    for away in [0, 1] {
        let mut mirrors = [Pipe::new(20, 4_000.0, 4_000.0), Pipe::new(20, 800.0, 800.0)];
        mirrors[away].away = 2_000..5_000;
        let ran = run(&mirrors, 16);
        let other = mirrors[1 - away].all;
        assert!(ran.rate(500..2_000, None) >= 0.9 * 4_800.0);
        assert!(ran.rate(2_100..5_000, Some(1 - away)) >= 0.9 * other);
        // It is probed every second.
        let end = ran.took as usize - 200;
        assert!(
            ran.rate(6_500..end, None) >= 0.9 * 4_800.0,
            "{}",
            ran.rate(6_500..end, None)
        );
    }
}

#[test]
fn a_mirror_that_hangs_does_not_hold_the_end_back() {
    // It answers, and sends nothing.
    let ran = run(
        &[Pipe::new(20, 3_000.0, 3_000.0), Pipe::new(20, 0.0, 0.0)],
        16,
    );
    assert!(
        (ran.took as f64) < LENGTH as f64 / 3_000.0 + 6_000.0,
        "{} ms",
        ran.took
    );
}
