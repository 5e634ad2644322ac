//! A seeded simulation of uploads: two clients and two servers on one session, on a store and a storage in memory.
//!
//! The servers are the real use cases. Between any two calls of the store and the storage another task may run, a server may be
//! killed, an answer may be lost, clocks may jump. A seed that fails prints itself; `SAPWOOD_SEED=<seed>` runs it alone,
//! `SAPWOOD_SCHEDULES=<n>` runs more.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use sapwood::{
    engine::ingest::{Finalize, Ingest, IngestError, IngestLimits, session_store::OwnerLimits},
    format::upload::SessionId,
    policy::upload::{Published, State},
};

use super::support::ingest::{
    MemoryStorage, MemoryStore, PART, TestClock, content, finished, goal, offered, open_request,
    owner, root,
};

const PARTS: u32 = 3;
const TTL_S: u64 = 7200;
/// What a session may live less than that: it is noted as used once a minute, and a server that starts learns the served seconds
/// as they were at the last collection of another.
const SLACK_S: u64 = 900;
/// Polls with faults, and polls after them in which everything must come to its end.
const STEPS_WITH_FAULTS: u64 = 1500;
const STEPS_MAX: u64 = 60_000;

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// splitmix64.
struct Random(Cell<u64>);

impl Random {
    fn next(&self) -> u64 {
        self.0.set(self.0.get().wrapping_add(0x9E37_79B9_7F4A_7C15));
        let z = self.0.get();
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&self, end: u64) -> u64 {
        self.next() % end
    }

    fn chance(&self, permille: u64) -> bool {
        self.below(1000) < permille
    }
}

/// One server: the process that runs now, and its clocks.
struct Server {
    clock: Arc<TestClock>,
    running: RefCell<Option<Rc<Ingest>>>,
    /// Counts the kills.
    life: Cell<u64>,
}

/// How a client ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Done,
    /// The session has a part of the other client.
    OtherContent,
    /// The session ended without an object.
    Ended,
    Aborted,
}

/// What one client does.
#[derive(Clone, Copy, Debug)]
struct Client {
    object: u8,
    aborts: bool,
    replaces: bool,
}

struct World {
    random: Random,
    store: Arc<MemoryStore>,
    storage: MemoryStorage,
    servers: [Server; 2],
    /// Tasks that were begun and not yet given to the executor: of a server, or of a client.
    begun: RefCell<Vec<(Option<usize>, Task)>>,
    has_faults: Cell<bool>,
    /// Simulated seconds, which are the truth.
    now_s: Cell<u64>,
    last_use_s: Cell<u64>,
    was_aborted: Cell<bool>,
    ends: RefCell<Vec<End>>,
}

fn id() -> SessionId {
    SessionId::from_random([1; 16])
}

impl World {
    fn new(seed: u64) -> World {
        let server = || Server {
            clock: Arc::default(),
            running: RefCell::default(),
            life: Cell::new(0),
        };
        World {
            random: Random(Cell::new(seed)),
            store: Arc::default(),
            storage: MemoryStorage::default(),
            servers: [server(), server()],
            begun: RefCell::default(),
            has_faults: Cell::new(true),
            now_s: Cell::new(0),
            last_use_s: Cell::new(0),
            was_aborted: Cell::new(false),
            ends: RefCell::default(),
        }
    }

    fn advance(&self, seconds: u64) {
        self.now_s.set(self.now_s.get() + seconds);
        for server in &self.servers {
            server.clock.advance(seconds);
        }
    }

    fn begin(&self, server: Option<usize>, task: impl Future<Output = ()> + 'static) {
        self.begun.borrow_mut().push((server, Box::pin(task)));
    }
}

/// Starts a server, as after a kill; it goes on with what is unfinished.
fn boot(world: &Rc<World>, number: usize) {
    let this = world.clone();
    world.begin(Some(number), async move {
        let server = &this.servers[number];
        let limits = IngestLimits {
            owner: OwnerLimits {
                sessions: 10,
                bytes: 100 * PART,
            },
            ttl_s: TTL_S,
        };
        let started = loop {
            let (store, storage) = (this.store.clone(), Arc::new(this.storage.clone()));
            let started =
                Ingest::start(store, storage, server.clock.clone(), limits, Arc::new(drop));
            if let Ok(started) = started.await {
                break Rc::new(started);
            }
        };
        *server.running.borrow_mut() = Some(started.clone());
        for run in started.unfinished().await.unwrap_or_default() {
            let _ = started.run(run).await;
        }
    });
}

fn collect(world: &Rc<World>, number: usize) {
    let Some(ingest) = world.servers[number].running.borrow().clone() else {
        return;
    };
    world.begin(Some(number), async move {
        if let Ok(collected) = ingest.collect().await {
            for run in collected.unfinished {
                let _ = ingest.run(run).await;
            }
        }
    });
}

/// A request to one of the servers. `None`: the answer was lost, and whether it was done is not known. The server goes on with a
/// request that a client no longer waits for.
async fn request<T: 'static, F: Future<Output = T> + 'static>(
    world: &Rc<World>,
    make: impl FnOnce(Rc<Ingest>) -> F,
) -> Option<T> {
    let number = world.random.below(2) as usize;
    let server = &world.servers[number];
    let Some(ingest) = server.running.borrow().clone() else {
        pause().await;
        return None;
    };
    let life = server.life.get();
    let answer: Rc<RefCell<Option<T>>> = Rc::default();
    let (work, to) = (make(ingest), answer.clone());
    world.begin(Some(number), async move {
        let answered = work.await;
        *to.borrow_mut() = Some(answered);
    });
    std::future::poll_fn(|_| {
        let is_lost = world.has_faults.get() && world.random.chance(10);
        if is_lost || world.servers[number].life.get() != life {
            return Poll::Ready(None);
        }
        match answer.borrow_mut().take() {
            Some(answer) => Poll::Ready(Some(answer)),
            None => Poll::Pending,
        }
    })
    .await
}

/// Lets others run.
async fn pause() {
    let mut was_polled = false;
    std::future::poll_fn(|_| match std::mem::replace(&mut was_polled, true) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .await;
}

async fn send(ingest: &Ingest, object: u8, index: u32) -> Result<(), IngestError> {
    ingest
        .targets(&owner("ann"), id(), &[offered(object, index)])
        .await?;
    let mut writer = ingest.receive(id(), &offered(object, index), 0).await?;
    writer.write(Bytes::from(content(object, index))).await?;
    Ok(writer.finish().await?)
}

/// Finalizes; the server works to the end, whatever the client does.
async fn finish(ingest: &Ingest, object: u8) -> Result<Option<Published>, IngestError> {
    let session = match ingest
        .finalize(&owner("ann"), id(), goal(object, PARTS))
        .await?
    {
        Finalize::Done(session) => *session,
        Finalize::Run(run) => ingest.run(run).await?.session,
        Finalize::Working(_) => return Ok(None),
    };
    match session.state {
        State::Done(published) => Ok(Some(published)),
        _ => Ok(None),
    }
}

/// A client that uploads one object and repeats what it got no answer to.
async fn client(world: Rc<World>, client: Client) {
    let end = loop {
        if let Some(end) = client_once(&world, client).await {
            break end;
        }
        pause().await;
    };
    world.ends.borrow_mut().push(end);
}

async fn client_once(world: &Rc<World>, client: Client) -> Option<End> {
    let object = client.object;
    let used = || world.last_use_s.set(world.now_s.get());
    let opened = request(world, |ingest| async move {
        ingest
            .open(&owner("ann"), id(), &open_request("talk.mp4", PARTS))
            .await
    });
    let status = match opened.await? {
        Ok(opened) => opened.status,
        Err(cause) if cause.code() == "name_exists" => return Some(End::Ended),
        Err(_) => return None,
    };
    match status.session.state {
        State::Open => (),
        State::Finalizing { .. } => return None,
        State::Done(published) => return Some(is_mine(published, object)),
        State::Failed => panic!("nothing was lost"),
        State::Expired => return Some(End::Ended),
        State::Aborted => return Some(End::Ended),
    }
    let mut parts: BTreeMap<u32, _> = status
        .parts
        .iter()
        .map(|part| (part.index, part.sha256))
        .collect();
    for index in 0..PARTS {
        if client.aborts && world.random.chance(200) {
            let aborted = request(world, |ingest| async move {
                ingest.abort(&owner("ann"), id()).await
            });
            if matches!(aborted.await, Some(Ok(()))) {
                world.was_aborted.set(true);
                return Some(End::Aborted);
            }
        }
        match parts.remove(&index) {
            Some(sha256) if sha256 == offered(object, index).sha256 => continue,
            Some(_) if !client.replaces => return Some(End::OtherContent),
            _ => (),
        }
        request(world, move |ingest| async move {
            send(&ingest, object, index).await
        })
        .await?
        .ok()?;
        let noted = request(world, move |ingest| async move {
            let part = finished(object, index);
            ingest
                .checkpoint(&owner("ann"), id(), part, client.replaces)
                .await
        });
        match noted.await? {
            Ok(part) => assert_eq!(part, finished(object, index)),
            Err(cause) if cause.code() == "part_finished" => return Some(End::OtherContent),
            Err(_) => return None,
        }
        used();
    }
    let done = request(
        world,
        move |ingest| async move { finish(&ingest, object).await },
    );
    match done.await? {
        Ok(Some(published)) => {
            assert_eq!(published.root, root(object, PARTS), "a false success");
            Some(End::Done)
        }
        _ => None,
    }
}

fn is_mine(published: Published, object: u8) -> End {
    match published.root == root(object, PARTS) {
        true => End::Done,
        false => End::OtherContent,
    }
}

/// What must hold after every poll.
#[derive(Default)]
struct Rules {
    published: Option<Published>,
    before: Option<(u64, State)>,
    alive_at_s: u64,
}

impl Rules {
    fn check(&mut self, world: &World, objects: [u8; 2]) {
        let published = world.storage.published(id());
        if let Some(before) = self.published {
            assert_eq!(published, Some(before), "two objects under one session");
        }
        if let Some(published) = published {
            let roots = objects.map(|object| root(object, PARTS));
            assert!(
                roots.contains(&published.root),
                "a mixture of two contents was published"
            );
            assert!(!world.was_aborted.get(), "published after an abort");
        }
        self.published = published;
        let kept = world.store.kept.lock().unwrap();
        let Some((session, parts)) = kept.get(&id()) else {
            return;
        };
        if let State::Done(done) = session.state {
            assert_eq!(published, Some(done), "done without an object");
            assert_eq!(parts.len(), PARTS as usize, "done without all parts");
        }
        if let Some((version, state)) = &self.before {
            assert!(session.version >= *version);
            assert!(
                state.is_live() || *state == session.state,
                "{state:?} became {:?}",
                session.state
            );
            if state.is_live() && session.state == State::Expired {
                let unused_s = world.now_s.get() - world.last_use_s.get();
                assert!(
                    unused_s + SLACK_S >= TTL_S,
                    "a live session was collected after {unused_s} s"
                );
            }
        }
        assert!(session.alive_at_s >= self.alive_at_s);
        assert!(
            session.alive_at_s <= world.now_s.get(),
            "served seconds ran ahead of the time"
        );
        self.alive_at_s = session.alive_at_s;
        self.before = Some((session.version, session.state.clone()));
    }
}

/// One schedule; how its clients ended.
fn play(seed: u64) -> Vec<End> {
    let world = Rc::new(World::new(seed));
    let random = &world.random;
    for gate in [&world.store.gate, world.storage.gate()] {
        gate.yield_always();
        gate.fail_at_random(random.below(30), random.next());
    }
    let objects = [7, if random.chance(500) { 7 } else { 8 }];
    for object in objects {
        let one = Client {
            object,
            aborts: random.chance(100),
            replaces: random.chance(300),
        };
        world.begin(None, client(world.clone(), one));
    }
    boot(&world, 0);
    boot(&world, 1);
    let mut tasks: Vec<(Option<usize>, Task)> = Vec::new();
    let mut context = Context::from_waker(Waker::noop());
    let mut rules = Rules::default();
    let mut step = 0;
    while world.ends.borrow().len() < 2 {
        step += 1;
        assert!(step < STEPS_MAX, "the clients come to no end");
        if step == STEPS_WITH_FAULTS {
            world.has_faults.set(false);
            for gate in [&world.store.gate, world.storage.gate()] {
                gate.fail_at_random(0, 0);
            }
        }
        tasks.append(&mut world.begun.borrow_mut());
        happen(&world, &mut tasks);
        if tasks.is_empty() {
            continue;
        }
        let at = random.below(tasks.len() as u64) as usize;
        if tasks[at].1.as_mut().poll(&mut context).is_ready() {
            drop(tasks.swap_remove(at));
        }
        rules.check(&world, objects);
    }
    let ends = world.ends.borrow().clone();
    // Two clients of one content that nobody stops get it published.
    if world.storage.published(id()).is_none() && objects[0] == objects[1] {
        assert!(
            ends.iter()
                .any(|end| [End::Ended, End::Aborted].contains(end)),
            "{ends:?}"
        );
    }
    settle(&world, tasks);
    ends
}

/// What happens beside the requests.
fn happen(world: &Rc<World>, tasks: &mut Vec<(Option<usize>, Task)>) {
    let random = &world.random;
    if random.chance(100) {
        world.advance(random.below(20));
    }
    let number = random.below(2) as usize;
    if random.chance(15) {
        collect(world, number);
    }
    if !world.has_faults.get() {
        return;
    }
    if random.chance(2) {
        world.advance(random.below(TTL_S));
        collect(world, number);
    }
    if random.chance(3) {
        world.servers[number].clock.jump_to(random.next() >> 20);
    }
    if random.chance(4) {
        // Killed: what it was doing is gone.
        let server = &world.servers[number];
        server.life.set(server.life.get() + 1);
        *server.running.borrow_mut() = None;
        tasks.retain(|(of, _)| *of != Some(number));
        boot(world, number);
    }
}

/// Lets everything come to rest: nothing is staged then, and the session is forgotten.
fn settle(world: &Rc<World>, mut tasks: Vec<(Option<usize>, Task)>) {
    world.has_faults.set(false);
    for gate in [&world.store.gate, world.storage.gate()] {
        gate.fail_at_random(0, 0);
    }
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..16 {
        collect(world, 0);
        for _ in 0..200 {
            tasks.append(&mut world.begun.borrow_mut());
            tasks.retain_mut(|(_, task)| task.as_mut().poll(&mut context).is_pending());
        }
        world.advance(1800);
    }
    assert!(tasks.is_empty(), "{} tasks hang", tasks.len());
    assert_eq!(
        world.storage.handles(),
        Vec::<String>::new(),
        "an orphan is left"
    );
    assert!(
        world.store.kept.lock().unwrap().is_empty(),
        "the session is never forgotten"
    );
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Two clients and two servers on one session: never two objects, never one without all its parts, no false answer, no session
/// collected that is used, no orphan.
#[test]
fn upload_schedules_keep_the_rules() {
    if let Some(seed) = from_environment("SAPWOOD_SEED") {
        println!("{:?}", play(seed));
        return;
    }
    let schedules = from_environment("SAPWOOD_SCHEDULES").unwrap_or(300);
    let mut outcomes: BTreeMap<End, u64> = BTreeMap::new();
    for seed in 0..schedules {
        let ends = catch_unwind(AssertUnwindSafe(|| play(seed)));
        let ends = ends.unwrap_or_else(|_| panic!("SAPWOOD_SEED={seed} broke a rule"));
        for end in ends {
            *outcomes.entry(end).or_default() += 1;
        }
    }
    println!("{schedules} uploads: {outcomes:?}");
    // Rules about an end say nothing when no schedule ends so.
    assert!(schedules < 300 || outcomes.len() == 4, "{outcomes:?}");
}
