//! A small HTTP/1.1 origin that follows a script of lies.
//!
//! It speaks on raw sockets, so that it can break the protocol at any byte. What it does to which request is data: a [`Rule`] says
//! for which requests, how often, and which [`Lie`]. Every rule that fits changes the [`Answer`] that an honest server would give,
//! in the order in which the rules were added. Every request is logged with what was really sent.
//!
//! A new lie is a variant of [`Lie`] and a line in [`Lie::apply`].

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener as StdListener},
    ops::Range,
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

use super::objects::Content;

/// Bytes of a body that are written in one go.
const CHUNK: u64 = 16 * 1024;

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
    /// The first byte alone, as before a fetch.
    Preflight,
    /// Everything else.
    Body,
    /// A range that holds this byte, but no preflight.
    Byte(u64),
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

/// What is done to an honest answer.
#[derive(Clone, Debug)]
pub enum Lie {
    /// The connection is reset instead of an answer.
    Refuse,
    /// Not even the headers come to an end.
    SilentHeaders,
    /// After so many bytes of the body: reset, orderly close, silence.
    ResetAfter(u64),
    CloseAfter(u64),
    StallAfter(u64),
    /// Another status, with a short body of its own.
    Status(u16),
    /// 429 with these headers, when more requests than this are being answered.
    Crowded(u64, Vec<(&'static str, String)>),
    /// A status with these headers.
    StatusWith(u16, Vec<(&'static str, String)>),
    Redirect(u16, String),
    /// A header set or replaced.
    Header(&'static str, String),
    /// A header left out.
    Without(&'static str),
    /// The whole object with 200, whatever was asked for.
    NoRanges,
    /// What stands behind the slash of Content-Range.
    Total(String),
    /// The bytes of a place so far away.
    Shift(i64),
    /// One bit of the object at this place is wrong.
    FlipAt(u64),
    /// One bit in every so many bytes of the object is wrong, always the same ones.
    FlipEach(u64),
    /// One bit in every so many bytes that pass is wrong, like on a bad line.
    FlipInPassing(u64),
    /// A 206 that starts so much later, and says so.
    Start(i64),
    /// A 206 that ends after so many bytes, and says so.
    EndEarly(u64),
    /// So many bytes more than declared.
    Longer(u64),
    /// Without a length, in chunks.
    Chunked,
    /// The object of another path.
    Instead(&'static str),
    /// Exactly these bytes, then close.
    Raw(Vec<u8>),
    /// The answer comes so much later.
    Late(Duration),
}

/// How a connection ends before the body does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Reset,
    Close,
    Stall,
}

/// An answer before it is sent.
#[derive(Clone, Debug)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    /// What is sent, by places of the object.
    content: Arc<Object>,
    bytes: Range<u64>,
    shift: i64,
    flip_at: Vec<u64>,
    flip_each: Option<u64>,
    flip_in_passing: Option<u64>,
    /// The total in Content-Range; `None`: the length of the object.
    total: Option<String>,
    longer: u64,
    chunked: bool,
    cut: Option<(u64, Cut)>,
    raw: Option<Vec<u8>>,
    silent: bool,
    late: Duration,
}

/// A request, and what became of it.
#[derive(Clone, Debug)]
pub struct Asked {
    id: u64,
    pub path: String,
    pub query: Option<String>,
    /// Of the request.
    pub range: Option<Range<u64>>,
    pub headers: Vec<(String, String)>,
    pub status: u16,
    /// Body bytes handed to the socket.
    pub bytes_sent: u64,
    pub at: Instant,
}

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
        let listener = StdListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("it is bound");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("threads");
        let shared = Arc::new(Shared::default());
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
        Origin {
            address,
            shared,
            runtime: Some(runtime),
        }
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
struct Request {
    path: String,
    query: Option<String>,
    headers: Vec<(String, String)>,
    range: Option<Range<u64>>,
}

/// Answers one connection until it ends.
async fn serve(mut stream: TcpStream, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut buffer).await {
        let mut asking = Some(Asking::new(&shared));
        let answer = answer(&request, &shared);
        let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
        lock(&shared.log).push(Asked {
            id,
            path: request.path.clone(),
            query: request.query.clone(),
            range: request.range.clone(),
            headers: request.headers.clone(),
            status: answer.as_ref().map_or(0, |answer| answer.status),
            bytes_sent: 0,
            at: Instant::now(),
        });
        let Some(answer) = answer else {
            let _ = stream.set_zero_linger();
            return;
        };
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
        match sent.await {
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
    let target = lines.next()?.split(' ').nth(1)?.to_owned();
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
        path,
        query,
        headers,
        range,
    })
}

/// The honest answer, then what the rules make of it. `None`: no answer at all.
fn answer(request: &Request, shared: &Shared) -> Option<Answer> {
    let object = |path: &str| lock(&shared.objects).get(path).cloned();
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
    let instead = lies.iter().rev().find_map(|lie| match lie {
        Lie::Instead(path) => Some(*path),
        _ => None,
    });
    let mut answer = match object(instead.unwrap_or(&request.path)) {
        Some(object) => Answer::honest(request, object),
        None => Answer::plain(404, b"there is nothing here"),
    };
    for lie in &lies {
        if matches!(lie, Lie::Refuse) {
            return None;
        }
        match lie {
            Lie::Crowded(most, headers) if shared.asking.load(Ordering::SeqCst) > *most => {
                Lie::StatusWith(429, headers.clone()).apply(&mut answer);
            }
            other => other.apply(&mut answer),
        }
    }
    Some(answer)
}

fn fits(asks: Asks, request: &Request) -> bool {
    let preflight = request.range == Some(0..1);
    match asks {
        Asks::Anything => true,
        Asks::Preflight => preflight,
        Asks::Body => !preflight,
        Asks::Byte(byte) => {
            !preflight
                && request
                    .range
                    .as_ref()
                    .is_none_or(|range| range.contains(&byte))
        }
    }
}

impl Answer {
    fn plain(status: u16, text: &[u8]) -> Answer {
        let content = Content::Bytes(text.to_vec());
        let bytes = 0..content.length();
        Answer {
            status,
            headers: vec![("Content-Type".into(), "text/plain".into())],
            content: Arc::new(Object {
                content,
                headers: Vec::new(),
            }),
            bytes,
            shift: 0,
            flip_at: Vec::new(),
            flip_each: None,
            flip_in_passing: None,
            total: None,
            longer: 0,
            chunked: false,
            cut: None,
            raw: None,
            silent: false,
            late: Duration::ZERO,
        }
    }

    fn honest(request: &Request, object: Arc<Object>) -> Answer {
        let length = object.content.length();
        let etag = object
            .headers
            .iter()
            .find(|(name, _)| name == "ETag")
            .map(|(_, value)| value.as_str());
        let if_match = request
            .headers
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case("if-match"));
        if if_match.is_some_and(|(_, tag)| Some(tag.as_str()) != etag) {
            return Answer::plain(412, b"it is another one now");
        }
        let mut answer = match &request.range {
            Some(range) if range.start >= length => {
                let mut answer = Answer::plain(416, b"");
                answer
                    .headers
                    .push(("Content-Range".into(), format!("bytes */{length}")));
                return answer;
            }
            Some(range) => Answer {
                bytes: range.start..range.end.min(length),
                status: 206,
                ..Answer::plain(206, b"")
            },
            None => Answer {
                bytes: 0..length,
                ..Answer::plain(200, b"")
            },
        };
        answer.headers = object.headers.clone();
        answer
            .headers
            .push(("Accept-Ranges".into(), "bytes".into()));
        answer.content = object;
        answer
    }

    fn set(&mut self, name: &str, value: String) {
        self.headers
            .retain(|(other, _)| !other.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value));
    }

    fn head(&self) -> String {
        let mut head = format!("HTTP/1.1 {} Whatever\r\n", self.status);
        let has = |name: &str| {
            self.headers
                .iter()
                .any(|(other, _)| other.eq_ignore_ascii_case(name))
        };
        if self.status == 206 && !has("Content-Range") {
            let total = self
                .total
                .clone()
                .unwrap_or_else(|| self.content.content.length().to_string());
            head += &format!(
                "Content-Range: bytes {}-{}/{total}\r\n",
                self.bytes.start,
                self.bytes.end.saturating_sub(1)
            );
        }
        match self.chunked {
            true => head += "Transfer-Encoding: chunked\r\n",
            false if has("Content-Length") => (),
            false => head += &format!("Content-Length: {}\r\n", self.bytes.end - self.bytes.start),
        }
        for (name, value) in self.headers.iter().filter(|(_, value)| !value.is_empty()) {
            head += &format!("{name}: {value}\r\n");
        }
        head + "\r\n"
    }
}

impl Lie {
    fn apply(&self, answer: &mut Answer) {
        match self {
            Lie::Refuse | Lie::Instead(_) | Lie::Crowded(..) => (),
            Lie::SilentHeaders => answer.silent = true,
            Lie::ResetAfter(bytes) => answer.cut = Some((*bytes, Cut::Reset)),
            Lie::CloseAfter(bytes) => answer.cut = Some((*bytes, Cut::Close)),
            Lie::StallAfter(bytes) => answer.cut = Some((*bytes, Cut::Stall)),
            Lie::Status(status) => {
                *answer = Answer {
                    late: answer.late,
                    ..Answer::plain(*status, b"no")
                }
            }
            Lie::StatusWith(status, headers) => {
                *answer = Answer {
                    late: answer.late,
                    ..Answer::plain(*status, b"no")
                };
                headers
                    .iter()
                    .for_each(|(name, value)| answer.set(name, value.clone()));
            }
            Lie::Redirect(status, target) => {
                *answer = Answer {
                    late: answer.late,
                    ..Answer::plain(*status, b"elsewhere")
                };
                answer.set("Location", target.clone());
            }
            Lie::Header(name, value) => answer.set(name, value.clone()),
            // An empty value is not sent, and keeps the honest one away.
            Lie::Without(name) => answer.set(name, String::new()),
            Lie::NoRanges => {
                answer.status = 200;
                answer.bytes = 0..answer.content.content.length();
                answer.headers.retain(|(name, _)| name != "Accept-Ranges");
            }
            Lie::Total(total) => answer.total = Some(total.clone()),
            Lie::Shift(by) => answer.shift = *by,
            Lie::FlipAt(place) => answer.flip_at.push(*place),
            Lie::FlipEach(bytes) => answer.flip_each = Some(*bytes),
            Lie::FlipInPassing(bytes) => answer.flip_in_passing = Some(*bytes),
            Lie::Start(by) => {
                answer.bytes.start = answer
                    .bytes
                    .start
                    .saturating_add_signed(*by)
                    .min(answer.bytes.end - 1)
            }
            Lie::EndEarly(bytes) => {
                answer.bytes.end = answer.bytes.end.min(answer.bytes.start + bytes)
            }
            Lie::Longer(bytes) => answer.longer = *bytes,
            Lie::Chunked => answer.chunked = true,
            Lie::Raw(bytes) => answer.raw = Some(bytes.clone()),
            Lie::Late(by) => answer.late = *by,
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
    if answer.silent {
        stream.write_all(&head.as_bytes()[..head.len() - 2]).await?;
        return silence(stream).await;
    }
    let end = answer.bytes.end + answer.longer;
    // Of an error nobody reads more than the head.
    if end == answer.bytes.start || answer.status >= 400 {
        asking.take();
    }
    stream.write_all(head.as_bytes()).await?;
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
        if answer.chunked {
            stream
                .write_all(format!("{:x}\r\n", bytes.len()).as_bytes())
                .await?;
        }
        stream.write_all(&bytes).await?;
        if answer.chunked {
            stream.write_all(b"\r\n").await?;
        }
        count(now);
        at += now;
    }
    if answer.chunked {
        stream.write_all(b"0\r\n\r\n").await?;
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
