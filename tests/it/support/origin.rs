//! A small HTTP/1.1 origin that follows a script of lies.
//!
//! It speaks on raw sockets, so that it can break the protocol at any byte. What it does to which request is data: a [`Rule`] says
//! for which requests, how often, and which [`Lie`]. Every rule that fits changes the [`Answer`] that an honest server would give,
//! in the order in which the rules were added. Every request is logged with what was really sent.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener as StdListener},
    ops::Range,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    sync::Notify,
};

pub use super::lies::Lie;
use super::lies::{Answer, Chunks, Cut};
use super::objects::Content;

/// Bytes of a body that are written in one go.
const CHUNK: u64 = 16 * 1024;

/// What is requested first of an object of which nothing is here.
pub const FIRST_BYTES: u64 = 64 * 1024;

/// An object as it is served.
#[derive(Clone, Debug)]
pub struct Object {
    pub content: Content,
    pub headers: Vec<(String, String)>,
}

impl From<Content> for Object {
    /// With a strong entity tag that follows from content and length.
    fn from(content: Content) -> Object {
        let seen = content.read(0..content.length().min(4096));
        let etag = format!(
            "\"{}-{}\"",
            content.length(),
            &blake3::hash(&seen).to_hex()[..16]
        );
        Object {
            content,
            headers: vec![("ETag".into(), etag)],
        }
    }
}

impl From<Vec<u8>> for Object {
    fn from(bytes: Vec<u8>) -> Object {
        Content::Bytes(bytes).into()
    }
}

/// For what a rule is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    Anything,
    /// The first byte alone, or the first bytes, as before a fetch.
    Preflight,
    /// Everything else.
    Body,
    /// A range that holds this byte, but no preflight.
    Byte(u64),
    /// Several ranges at once.
    Several,
    /// A range or several, but no preflight.
    Range,
    /// A request with a condition.
    Conditional,
}

/// For which of the requests that it fits a rule is, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    All,
    First(u32),
    Nth(u32),
    From(u32),
    EachNth(u32),
}

#[derive(Clone, Debug)]
pub struct Rule {
    path: String,
    asks: Asks,
    of: Of,
    lie: Lie,
    seen: u32,
}

/// A request, and what became of it.
#[derive(Clone, Debug)]
pub struct Asked {
    id: u64,
    pub method: String,
    pub path: String,
    pub query: Option<String>,
    /// Of the request.
    pub range: Option<Range<u64>>,
    pub headers: Vec<(String, String)>,
    pub status: u16,
    /// Body bytes handed to the socket.
    pub bytes_sent: u64,
    /// What was done to the honest answer.
    pub lies: Vec<Lie>,
    pub at: Instant,
}

type Heard = Box<dyn Fn(&Asked) + Send + Sync>;
/// What a request gets instead of what it asks for.
type Guard = Box<dyn Fn(&Request) -> Option<Answer> + Send + Sync>;

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub fn is_preflight(&self) -> bool {
        self.range == Some(0..1)
    }
}

#[derive(Default)]
struct Shared {
    objects: Mutex<BTreeMap<String, Arc<Object>>>,
    guard: Mutex<Option<Guard>>,
    rules: Mutex<Vec<Rule>>,
    log: Mutex<Vec<Asked>>,
    /// Bytes a second over all bodies; 0: as fast as it goes.
    rate: AtomicU64,
    paced: Mutex<Option<Instant>>,
    /// How many bytes of bodies of a path may still be sent.
    allowance: Mutex<BTreeMap<String, u64>>,
    allowed: Notify,
    /// Bytes that passed, for lines that flip bits.
    passed: AtomicU64,
    next_id: AtomicU64,
    /// Connections that are open.
    open: AtomicU64,
    /// Requests that are being answered now, and the most that ever were.
    asking: AtomicU64,
    asking_most: AtomicU64,
    /// Objects that nobody put are looked for here.
    folder: Option<PathBuf>,
    /// Is told of every request when its answer is over.
    heard: Option<Heard>,
}

/// A request that is being answered. It ends just before the last bytes are sent: after them the next one may come at once.
struct Asking(Arc<Shared>);

impl Asking {
    fn new(shared: &Arc<Shared>) -> Asking {
        let now = shared.asking.fetch_add(1, Ordering::SeqCst) + 1;
        shared.asking_most.fetch_max(now, Ordering::SeqCst);
        Asking(shared.clone())
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.asking.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A running origin. It ends when it is dropped.
pub struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Origin {
    /// On a free port of the loopback.
    pub fn start() -> Origin {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Origin::start_on(any, None, None).expect("a free port")
    }

    /// On this address, with the files of a folder as objects.
    pub fn start_on(
        address: SocketAddr,
        folder: Option<PathBuf>,
        heard: Option<Heard>,
    ) -> std::io::Result<Origin> {
        let listener = StdListener::bind(address)?;
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("it is bound");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("threads");
        let shared = Arc::new(Shared {
            folder,
            heard,
            ..Shared::default()
        });
        runtime.spawn({
            let shared = shared.clone();
            async move {
                let listener = TcpListener::from_std(listener).expect("a listener");
                while let Ok((stream, _)) = listener.accept().await {
                    let shared = shared.clone();
                    shared.open.fetch_add(1, Ordering::SeqCst);
                    tokio::spawn(async move {
                        serve(stream, shared.clone()).await;
                        shared.open.fetch_sub(1, Ordering::SeqCst);
                    });
                }
            }
        });
        Ok(Origin {
            address,
            shared,
            runtime: Some(runtime),
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn put(&self, path: &str, object: impl Into<Object>) {
        lock(&self.shared.objects).insert(path.to_owned(), Arc::new(object.into()));
    }

    /// Refuses requests: those for which this returns an answer. Rules do not change it.
    pub fn guard(&self, guard: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static) {
        *lock(&self.shared.guard) = Some(Box::new(guard));
    }

    pub fn remove(&self, path: &str) {
        lock(&self.shared.objects).remove(path);
    }

    /// Adds a rule.
    pub fn lie(&self, path: &str, asks: Asks, of: Of, lie: Lie) {
        lock(&self.shared.rules).push(Rule {
            path: path.to_owned(),
            asks,
            of,
            lie,
            seen: 0,
        });
    }

    pub fn be_honest(&self) {
        lock(&self.shared.rules).clear();
    }

    pub fn log(&self) -> Vec<Asked> {
        lock(&self.shared.log).clone()
    }

    /// The requests for a path.
    pub fn log_of(&self, path: &str) -> Vec<Asked> {
        self.log()
            .into_iter()
            .filter(|asked| asked.path == path)
            .collect()
    }

    /// The requests for bytes of a path that are no preflight.
    pub fn bodies_of(&self, path: &str) -> Vec<Asked> {
        self.log_of(path)
            .into_iter()
            .filter(|asked| !asked.is_preflight())
            .collect()
    }

    /// The same after the first bytes, which are requested together with the manifest.
    pub fn later_bodies_of(&self, path: &str) -> Vec<Asked> {
        let mut bodies = self.bodies_of(path);
        bodies.retain(|asked| asked.range != Some(0..FIRST_BYTES));
        bodies
    }

    /// Body bytes of a path that were sent, without preflights.
    pub fn sent(&self, path: &str) -> u64 {
        self.bodies_of(path)
            .iter()
            .map(|asked| asked.bytes_sent)
            .sum()
    }

    pub fn forget_log(&self) {
        self.shared.asking_most.store(0, Ordering::SeqCst);
        lock(&self.shared.log).clear();
    }

    /// Bytes a second over all connections.
    pub fn pace(&self, bytes_per_second: Option<u64>) {
        self.shared
            .rate
            .store(bytes_per_second.unwrap_or(0), Ordering::Relaxed);
    }

    /// From now on so many bytes of this path are sent, preflights not counted; then every connection falls silent.
    pub fn allow(&self, path: &str, bytes: u64) {
        lock(&self.shared.allowance).insert(path.to_owned(), bytes);
        self.shared.allowed.notify_waiters();
    }

    /// Waits until the connections of a client that is gone are closed here too, so that they take nothing that is meant for the
    /// next one.
    pub fn wait_until_idle(&self) {
        while self.shared.open.load(Ordering::SeqCst) > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The most requests that were being answered at a time.
    pub fn most_at_a_time(&self) -> u64 {
        self.shared.asking_most.load(Ordering::SeqCst)
    }

    /// Whether all that was allowed is sent.
    pub fn is_spent(&self, path: &str) -> bool {
        lock(&self.shared.allowance).get(path) == Some(&0)
    }

    pub fn allow_all(&self) {
        lock(&self.shared.allowance).clear();
        self.shared.allowed.notify_waiters();
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A request as it came.
pub struct Request {
    pub method: String,
    pub path: String,
    pub query: Option<String>,
    pub headers: Vec<(String, String)>,
    pub range: Option<Range<u64>>,
}

impl Request {
    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// Answers one connection until it ends.
async fn serve(mut stream: TcpStream, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut buffer).await {
        let mut asking = Some(Asking::new(&shared));
        let (answer, lies) = answer(&request, &shared);
        let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
        lock(&shared.log).push(Asked {
            id,
            method: request.method.clone(),
            path: request.path.clone(),
            query: request.query.clone(),
            range: request.range.clone(),
            headers: request.headers.clone(),
            status: answer.as_ref().map_or(0, |answer| answer.status),
            bytes_sent: 0,
            lies,
            at: Instant::now(),
        });
        let Some(answer) = answer else {
            shared.tell(id);
            let _ = stream.set_zero_linger();
            return;
        };
        let close_on_reuse = answer.close_on_reuse;
        let sent = send(&mut stream, &request, answer, &mut asking, |bytes| {
            // A log that was forgotten meanwhile has no line for it.
            if let Some(asked) = lock(&shared.log)
                .iter_mut()
                .rev()
                .find(|asked| asked.id == id)
            {
                asked.bytes_sent += bytes;
            }
        });
        let sent = sent.await;
        shared.tell(id);
        match sent {
            Ok(true) if close_on_reuse => {
                read_request(&mut stream, &mut buffer).await;
                return;
            }
            Ok(true) => (),
            Ok(false) | Err(_) => return,
        }
    }
}

async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Request> {
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        let mut more = [0; 4096];
        match stream.read(&mut more).await {
            Ok(0) | Err(_) => return None,
            Ok(count) => buffer.extend_from_slice(&more[..count]),
        }
    };
    let head: Vec<u8> = buffer.drain(..end + 4).collect();
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head.split("\r\n");
    let mut words = lines.next()?.split(' ').map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path.to_owned(), Some(query.to_owned())),
        None => (target, None),
    };
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let range = headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("range"))
        // Several ranges at once are answered with everything, as many servers do.
        .filter(|(_, value)| !value.contains(','))
        .and_then(|(_, value)| {
            let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
            Some(
                first.parse().ok()?
                    ..last
                        .parse::<u64>()
                        .map_or(u64::MAX, |last| last.saturating_add(1)),
            )
        });
    Some(Request {
        method,
        path,
        query,
        headers,
        range,
    })
}

/// The honest answer, then what the rules make of it. `None`: no answer at all.
fn answer(request: &Request, shared: &Shared) -> (Option<Answer>, Vec<Lie>) {
    let mut lies = Vec::new();
    for rule in lock(&shared.rules)
        .iter_mut()
        .filter(|rule| rule.path == request.path || rule.path == "*")
    {
        if fits(rule.asks, request) {
            rule.seen += 1;
            let now = match rule.of {
                Of::All => true,
                Of::First(count) => rule.seen <= count,
                Of::Nth(number) => rule.seen == number,
                Of::From(number) => rule.seen >= number,
                Of::EachNth(number) => rule.seen % number == 0,
            };
            if now {
                lies.push(rule.lie.clone());
            }
        }
    }
    if let Some(refused) = lock(&shared.guard)
        .as_ref()
        .and_then(|guard| guard(request))
    {
        return (Some(refused), lies);
    }
    let instead = lies.iter().rev().find_map(|lie| match lie {
        Lie::Instead(path) => Some(*path),
        _ => None,
    });
    let mut answer = match shared.object(instead.unwrap_or(&request.path)) {
        Some(object) => Answer::honest(request, object),
        None => Answer::plain(404, b"there is nothing here"),
    };
    for lie in &lies {
        if matches!(lie, Lie::Refuse) {
            return (None, lies);
        }
        match lie {
            Lie::Crowded(most, status, headers) if shared.asking.load(Ordering::SeqCst) > *most => {
                Lie::StatusWith(*status, headers.clone()).apply(&mut answer, request);
            }
            other => other.apply(&mut answer, request),
        }
    }
    if request.method == "HEAD" {
        answer.headers.push((
            "Content-Length".into(),
            (answer.bytes.end - answer.bytes.start).to_string(),
        ));
        answer.bytes.end = answer.bytes.start;
    }
    (Some(answer), lies)
}

impl Shared {
    fn object(&self, path: &str) -> Option<Arc<Object>> {
        if let Some(object) = lock(&self.objects).get(path) {
            return Some(object.clone());
        }
        let name = percent_encoding::percent_decode_str(path.trim_start_matches('/'))
            .decode_utf8()
            .ok()?;
        let inside = |part: &str| !matches!(part, "" | "." | "..");
        let file = self.folder.as_ref()?.join(&*name);
        let length = std::fs::metadata(&file)
            .ok()
            .filter(|found| found.is_file() && name.split('/').all(inside))?
            .len();
        Some(Arc::new(Content::File(file, length).into()))
    }

    /// The answer to a request is over.
    fn tell(&self, id: u64) {
        let Some(heard) = &self.heard else { return };
        if let Some(asked) = lock(&self.log).iter().find(|asked| asked.id == id) {
            heard(asked);
        }
    }
}

fn fits(asks: Asks, request: &Request) -> bool {
    let preflight = [Some(0..1), Some(0..FIRST_BYTES)].contains(&request.range);
    match asks {
        Asks::Anything => true,
        Asks::Preflight => preflight,
        Asks::Body => !preflight,
        Asks::Several => request
            .headers
            .iter()
            .any(|(name, value)| name.eq_ignore_ascii_case("range") && value.contains(',')),
        Asks::Range => !preflight && request.header("range").is_some(),
        Asks::Conditional => ["if-match", "if-range"]
            .iter()
            .any(|name| request.header(name).is_some()),
        Asks::Byte(byte) => {
            !preflight
                && request
                    .range
                    .as_ref()
                    .is_none_or(|range| range.contains(&byte))
        }
    }
}

/// Sends an answer; `true`: the connection can be used again.
async fn send(
    stream: &mut TcpStream,
    request: &Request,
    answer: Answer,
    asking: &mut Option<Asking>,
    count: impl Fn(u64),
) -> std::io::Result<bool> {
    let shared = &asking.as_ref().expect("it is being answered").0.clone();
    tokio::time::sleep(answer.late).await;
    if let Some(raw) = &answer.raw {
        stream.write_all(raw).await?;
        stream.shutdown().await?;
        return Ok(false);
    }
    let head = answer.head();
    for _ in 0..answer.informational {
        stream
            .write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
            .await?;
    }
    if answer.silent {
        stream.write_all(&head[..head.len() - 2]).await?;
        return silence(stream).await;
    }
    let end = match answer.endless {
        true => u64::MAX,
        false => answer.bytes.end + answer.longer,
    };
    // Of an error nobody reads more than the head.
    if end == answer.bytes.start || answer.status >= 400 {
        asking.take();
    }
    stream.write_all(&head).await?;
    let limited = request.range != Some(0..1);
    let mut at = answer.bytes.start;
    loop {
        let sent = at - answer.bytes.start;
        let mut now = CHUNK.min(end - at);
        if let Some((after, how)) = answer.cut {
            now = now.min(after.saturating_sub(sent));
            if now == 0 {
                return match how {
                    Cut::Reset => {
                        stream.set_zero_linger()?;
                        Ok(false)
                    }
                    Cut::Close => {
                        stream.shutdown().await?;
                        Ok(false)
                    }
                    Cut::Stall => silence(stream).await,
                };
            }
        }
        if now == 0 {
            break;
        }
        if let Some((after, apart)) = answer.trickle {
            now = match after.saturating_sub(sent) {
                0 => {
                    tokio::time::sleep(apart).await;
                    1
                }
                before => now.min(before),
            };
        }
        if answer.chunks == Some(Chunks::BadSize) && sent > 0 {
            stream.write_all(b"twelve\r\n").await?;
            return silence(stream).await;
        }
        if limited {
            now = tokio::select! {
                allowed = allowance(shared, &request.path, now) => allowed,
                outcome = silence(stream) => return outcome,
            };
        }
        let bytes = body(&answer, at..at + now, shared);
        pace(shared, now).await;
        if at + now == end {
            asking.take();
        }
        if answer.chunks.is_some() {
            stream
                .write_all(format!("{:x}\r\n", bytes.len()).as_bytes())
                .await?;
        }
        stream.write_all(&bytes).await?;
        if answer.chunks.is_some() {
            stream.write_all(b"\r\n").await?;
        }
        count(now);
        at += now;
    }
    match answer.chunks {
        None => (),
        Some(Chunks::NoEnd) => {
            stream.shutdown().await?;
            return Ok(false);
        }
        Some(_) => stream.write_all(b"0\r\n\r\n").await?,
    }
    if answer.leftover > 0 {
        stream
            .write_all(&vec![b'x'; answer.leftover as usize])
            .await?;
    }
    Ok(answer.longer == 0)
}

/// Until the other side goes away.
async fn silence(stream: &mut TcpStream) -> std::io::Result<bool> {
    let mut nothing = [0; 1024];
    while stream.read(&mut nothing).await? > 0 {}
    Ok(false)
}

/// Waits until some of these bytes may be sent, and takes them.
async fn allowance(shared: &Shared, path: &str, wanted: u64) -> u64 {
    loop {
        let notified = shared.allowed.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        {
            let mut allowances = lock(&shared.allowance);
            match allowances.get_mut(path) {
                None => return wanted,
                Some(left) if *left > 0 => {
                    let now = wanted.min(*left);
                    *left -= now;
                    return now;
                }
                Some(_) => (),
            }
        }
        notified.await;
    }
}

async fn pace(shared: &Shared, bytes: u64) {
    let rate = shared.rate.load(Ordering::Relaxed);
    if rate == 0 {
        return;
    }
    let until = {
        let mut paced = lock(&shared.paced);
        let start = paced.map_or(Instant::now(), |next| next.max(Instant::now()));
        let until = start + Duration::from_secs_f64(bytes as f64 / rate as f64);
        *paced = Some(until);
        until
    };
    tokio::time::sleep_until(until.into()).await;
}

/// The bytes of these places, with what the script does to them.
fn body(answer: &Answer, range: Range<u64>, shared: &Shared) -> Vec<u8> {
    let from = range.start.saturating_add_signed(answer.shift);
    let count = range.end - range.start;
    let mut bytes = answer.content.content.read(from..from + count);
    let mut flip = |place: u64| bytes[(place - range.start) as usize] ^= 0x10;
    answer
        .flip_at
        .iter()
        .filter(|place| range.contains(place))
        .for_each(|place| flip(*place));
    if let Some(each) = answer.flip_each {
        let first = range.start.next_multiple_of(each);
        (first..range.end)
            .step_by(each as usize)
            .for_each(&mut flip);
    }
    if let Some(each) = answer.flip_in_passing {
        let before = shared.passed.fetch_add(count, Ordering::Relaxed);
        let next = (before + 1).next_multiple_of(each);
        (next..before + count + 1)
            .step_by(each as usize)
            .for_each(|passed| flip(range.start + passed - before - 1));
    }
    bytes
}
