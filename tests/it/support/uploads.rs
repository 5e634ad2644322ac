//! A small server that takes uploads as upload.md says, in memory, and follows a script of lies.
//!
//! A [`Rule`] says for which operation, for which of its requests, and which [`IngestLie`]. All requests are logged.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use sapwood::format::{
    digests::{Algorithm, DigestHasher},
    tree,
};
use serde_json::{Value, json};

use super::{
    objects::{Content, manifest_of},
    origin::Of,
};

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    Open,
    Status,
    List,
    Targets,
    Part,
    Checkpoint,
    Finalize,
    Abort,
    Other,
}

pub const ALL: [Op; 7] = [
    Op::List,
    Op::Open,
    Op::Targets,
    Op::Part,
    Op::Checkpoint,
    Op::Finalize,
    Op::Status,
];

#[derive(Clone, Debug)]
pub enum IngestLie {
    /// This response, and nothing is done. A text that begins with `{` is a problem document.
    Status(u16, Vec<(&'static str, String)>, String),
    /// It is done, and the connection ends without a response.
    Lost,
    /// It is done, and the connection ends in the middle of the response.
    Half,
    /// Nothing is done, and the connection ends.
    Reset,
    /// So many bytes of the body are read, then this response comes and the connection ends.
    Early(u64, u16),
    /// So many bytes of the body are read and kept, then the connection ends.
    Breaks(u64),
    /// Nothing is read until the gate is open.
    Waits,
    /// The response is changed.
    Edited(fn(&mut Value)),
}

struct Rule {
    op: Op,
    of: Of,
    lie: IngestLie,
    seen: u32,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Logged {
    pub op: Op,
    /// Of a part.
    pub index: Option<u32>,
    /// Bytes of its body that were read.
    pub bytes: u64,
    pub has_token: bool,
    pub status: u16,
}

#[derive(Clone, Debug, Default)]
struct Staged {
    sha256: String,
    bytes: Vec<u8>,
}

#[derive(Clone, Debug)]
struct Session {
    opened: Value,
    state: &'static str,
    finished: BTreeMap<u32, Staged>,
    /// Whole parts, and the beginnings of others.
    staged: BTreeMap<(u32, String), Vec<u8>>,
    leaves: BTreeMap<(u32, String), Vec<[u8; 32]>>,
    root: Option<String>,
}

#[derive(Default)]
struct Shared {
    rules: Mutex<Vec<Rule>>,
    log: Mutex<Vec<Logged>>,
    sessions: Mutex<BTreeMap<String, Session>>,
    published: Mutex<BTreeMap<String, Vec<u8>>>,
    token: Mutex<Option<String>>,
    is_open: Mutex<bool>,
    address: Mutex<Option<SocketAddr>>,
}

/// A running server. Its threads end with the tests.
#[derive(Clone)]
pub struct Ingest(Arc<Shared>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn sha256(bytes: &[u8]) -> String {
    let mut hasher = DigestHasher::new(Algorithm::Sha256);
    hasher.update(bytes);
    hasher.finish().hex()
}

struct Request {
    method: String,
    path: String,
    query: String,
    token: Option<String>,
    length: u64,
}

impl Ingest {
    pub fn start() -> Ingest {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let shared = Arc::new(Shared::default());
        *lock(&shared.address) = listener.local_addr().ok();
        let server = Ingest(shared);
        std::thread::spawn({
            let server = server.clone();
            move || {
                for stream in listener.incoming().flatten() {
                    let server = server.clone();
                    std::thread::spawn(move || server.serve(stream));
                }
            }
        });
        server
    }

    pub fn url(&self, path: &str) -> String {
        let address = lock(&self.0.address).expect("it is bound");
        format!("http://{address}{path}")
    }

    pub fn lie(&self, op: Op, of: Of, lie: IngestLie) {
        let seen = 0;
        lock(&self.0.rules).push(Rule { op, of, lie, seen });
    }

    pub fn be_honest(&self) {
        lock(&self.0.rules).clear();
    }

    pub fn require(&self, token: &str) {
        *lock(&self.0.token) = Some(token.to_owned());
    }

    /// Ends the waits of [`IngestLie::Waits`].
    pub fn open_gate(&self) {
        *lock(&self.0.is_open) = true;
    }

    pub fn log(&self) -> Vec<Logged> {
        lock(&self.0.log).clone()
    }

    pub fn log_of(&self, op: Op) -> Vec<Logged> {
        let mut log = self.log();
        log.retain(|logged| logged.op == op);
        log
    }

    pub fn forget_log(&self) {
        lock(&self.0.log).clear();
    }

    /// Bytes of parts that came.
    pub fn bytes_of_parts(&self) -> u64 {
        self.log_of(Op::Part).iter().map(|part| part.bytes).sum()
    }

    pub fn published(&self, name: &str) -> Option<Vec<u8>> {
        lock(&self.0.published).get(name).cloned()
    }

    pub fn publish(&self, name: &str, bytes: &[u8]) {
        lock(&self.0.published).insert(name.to_owned(), bytes.to_vec());
    }

    /// The states of all sessions.
    pub fn states(&self) -> Vec<&'static str> {
        let sessions = lock(&self.0.sessions);
        sessions.values().map(|session| session.state).collect()
    }

    /// The indices of all finished parts.
    pub fn finished(&self) -> Vec<u32> {
        let sessions = lock(&self.0.sessions);
        let all = sessions
            .values()
            .flat_map(|session| session.finished.keys());
        all.copied().collect()
    }

    /// Changes a byte of a part that is finished.
    pub fn damage(&self, index: u32) {
        for session in lock(&self.0.sessions).values_mut() {
            let part = session.finished.get_mut(&index).expect("it is finished");
            part.bytes[7] ^= 1;
        }
    }

    fn serve(&self, mut stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        while let Some(request) = read_head(&mut stream) {
            if self.answer(&mut stream, &request).is_none() {
                // What the client still sends is not to turn the response into a reset.
                let _ = stream.shutdown(Shutdown::Write);
                let _ = stream.set_read_timeout(Some(Duration::from_millis(300)));
                let mut rest = [0; 65536];
                while stream.read(&mut rest).is_ok_and(|count| count > 0) {}
                return;
            }
        }
    }

    /// `None`: the connection ends.
    fn answer(&self, stream: &mut TcpStream, request: &Request) -> Option<()> {
        let (op, id, index) = operation(request);
        if op == Op::Other && request.method == "GET" {
            self.answer_reader(stream, &request.path);
            return Some(());
        }
        let lie = self.rule(op);
        let number = {
            let mut log = lock(&self.0.log);
            log.push(Logged {
                op,
                index,
                bytes: 0,
                has_token: request.token.is_some(),
                status: 0,
            });
            log.len() - 1
        };
        let note = |change: &dyn Fn(&mut Logged)| {
            if let Some(logged) = lock(&self.0.log).get_mut(number) {
                change(logged);
            }
        };
        if matches!(lie, Some(IngestLie::Waits)) {
            while !*lock(&self.0.is_open) {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        let most = match lie {
            Some(IngestLie::Early(bytes, _) | IngestLie::Breaks(bytes)) => bytes,
            Some(IngestLie::Reset) => 0,
            _ => request.length,
        };
        let mut body = vec![0; most.min(request.length) as usize];
        stream.read_exact(&mut body).ok()?;
        note(&|logged| logged.bytes = body.len() as u64);
        match lie {
            Some(IngestLie::Reset) => return None,
            Some(IngestLie::Early(_, status)) => {
                note(&|logged| logged.status = status);
                respond(stream, status, &[], "");
                return None;
            }
            Some(IngestLie::Breaks(_)) => {
                self.keep(&id, index, request, &body);
                return None;
            }
            Some(IngestLie::Status(status, headers, text)) => {
                note(&|logged| logged.status = status);
                respond(stream, status, &headers, &text);
                return Some(());
            }
            _ => (),
        }
        let is_allowed = op == Op::Part || {
            let token = lock(&self.0.token);
            token.is_none() || *token == request.token
        };
        let (status, mut answer) = match is_allowed {
            false => problem(401, "unauthorized", json!({})),
            true => self.act(op, &id, index, request, &body),
        };
        note(&|logged| logged.status = status);
        match lie {
            Some(IngestLie::Lost) => return None,
            Some(IngestLie::Edited(edit)) => edit(&mut answer),
            _ => (),
        }
        let text = match answer {
            Value::Null => String::new(),
            answer => answer.to_string(),
        };
        if matches!(lie, Some(IngestLie::Half)) {
            let mut whole = Vec::new();
            respond(&mut whole, status, &[], &text);
            let _ = stream.write_all(&whole[..whole.len() - text.len() / 2]);
            return None;
        }
        respond(stream, status, &[], &text);
        Some(())
    }

    /// Serves what is published, and its manifest.
    fn answer_reader(&self, stream: &mut TcpStream, path: &str) {
        let name = path.trim_start_matches('/');
        let object = name.strip_suffix(".sapwood").unwrap_or(name);
        let Some(bytes) = self.published(object) else {
            return respond(stream, 404, &[], "");
        };
        let bytes = match object == name {
            true => bytes,
            false => manifest_of(&Content::Bytes(bytes), 1 << 16),
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nETag: \"{}\"\r\n\r\n",
            bytes.len(),
            sha256(&bytes)
        );
        let _ = stream.write_all(&[head.as_bytes(), &bytes].concat());
    }

    fn rule(&self, op: Op) -> Option<IngestLie> {
        let mut now = None;
        for rule in lock(&self.0.rules).iter_mut().filter(|rule| rule.op == op) {
            rule.seen += 1;
            let fits = match rule.of {
                Of::All => true,
                Of::First(count) => rule.seen <= count,
                Of::Nth(number) => rule.seen == number,
                Of::From(number) => rule.seen >= number,
                Of::EachNth(number) => rule.seen % number == 0,
            };
            now = now.or(fits.then(|| rule.lie.clone()));
        }
        now
    }

    /// Keeps the whole blocks at the start of a part.
    fn keep(&self, id: &str, index: Option<u32>, request: &Request, body: &[u8]) {
        let mut sessions = lock(&self.0.sessions);
        let (Some(session), Some(index)) = (sessions.get_mut(id), index) else {
            return;
        };
        let block = session.opened["block_size"].as_u64().expect("a size") as usize;
        let staged = session.staged.entry((index, sha_of(request))).or_default();
        staged.extend_from_slice(body);
        staged.truncate(staged.len() / block * block);
    }

    fn act(
        &self,
        op: Op,
        id: &str,
        index: Option<u32>,
        request: &Request,
        body: &[u8],
    ) -> (u16, Value) {
        let document: Value = serde_json::from_slice(body).unwrap_or_default();
        let mut sessions = lock(&self.0.sessions);
        match op {
            Op::List => {
                let name = url::form_urlencoded::parse(request.query.as_bytes())
                    .find(|(key, _)| key == "name")
                    .map(|(_, value)| value.into_owned());
                let fits =
                    |session: &&Value| name.as_ref().is_none_or(|name| session["name"] == **name);
                let mut all: Vec<Value> = sessions
                    .iter()
                    .map(|(id, session)| status(id, session))
                    .collect();
                all.retain(|session| fits(&session));
                for session in &mut all {
                    session["parts"] = json!([]);
                }
                return (200, json!({ "sessions": all }));
            }
            Op::Open => return self.open(&mut sessions, id, document),
            Op::Abort => {
                if let Some(session) = sessions.get_mut(id) {
                    session.state = "aborted";
                }
                return (204, Value::Null);
            }
            Op::Other => return (404, Value::Null),
            _ => (),
        }
        let Some(session) = sessions.get_mut(id) else {
            return problem(404, "no_session", json!({}));
        };
        match op {
            Op::Status => (200, status(id, session)),
            Op::Finalize => self.finalize(id, session, &document),
            _ if session.state != "open" => problem(410, "session_ended", json!({})),
            Op::Targets => (200, self.targets(id, session, &document)),
            Op::Part => put(session, index.expect("a part"), request, body),
            _ => checkpoint(session, index.expect("a part"), &document),
        }
    }

    fn open(
        &self,
        sessions: &mut BTreeMap<String, Session>,
        id: &str,
        document: Value,
    ) -> (u16, Value) {
        if let Some(session) = sessions.get(id) {
            return match session.opened == document {
                true => (200, status(id, session)),
                false => problem(409, "session_differs", json!({})),
            };
        }
        let name = document["name"].as_str().expect("a name");
        if lock(&self.0.published).contains_key(name) && document["replace"] != true {
            return problem(409, "name_exists", json!({}));
        }
        if name.contains("refused") {
            return problem(422, "bad_name", json!({ "detail": "it is refused" }));
        }
        let session = Session {
            opened: document,
            state: "open",
            finished: BTreeMap::new(),
            staged: BTreeMap::new(),
            leaves: BTreeMap::new(),
            root: None,
        };
        let answer = status(id, &session);
        sessions.insert(id.to_owned(), session);
        (201, answer)
    }

    fn targets(&self, id: &str, session: &mut Session, document: &Value) -> Value {
        let offers = document["parts"].as_array().expect("parts");
        assert!(offers.len() <= 100, "too many at once");
        let target = |offer: &Value| {
            let index = offer["index"].as_u64().expect("an index") as u32;
            let sha = offer["sha256"].as_str().expect("a hash").to_owned();
            if session
                .finished
                .get(&index)
                .is_some_and(|part| part.sha256 == sha)
            {
                return json!({ "index": index, "finished": true });
            }
            let from = session
                .staged
                .get(&(index, sha.clone()))
                .map_or(0, Vec::len);
            if let Some(text) = offer["leaves"].as_str() {
                let leaves = hex::decode(text).expect("leaves");
                let leaves = leaves.as_chunks::<32>().0.to_vec();
                session.leaves.insert((index, sha.clone()), leaves);
            }
            let length = &offer["length"];
            let url = self.url(&format!(
                "/.sapwood/uploads/{id}/parts/{index}?sha256={sha}&length={length}&from={from}"
            ));
            json!({ "index": index, "method": "PUT", "url": url, "headers": { "x-test": "1" }, "from": from })
        };
        json!({ "targets": offers.iter().map(target).collect::<Vec<_>>() })
    }

    fn finalize(&self, id: &str, session: &mut Session, document: &Value) -> (u16, Value) {
        if session.state == "done" {
            return match document["root"].as_str() == session.root.as_deref() {
                true => (200, status(id, session)),
                false => problem(409, "session_done", json!({})),
            };
        }
        if session.state != "open" {
            return problem(410, "session_ended", json!({}));
        }
        let length = document["length"].as_u64().expect("a length");
        let (mut object, mut wrong) = (Vec::new(), Vec::new());
        for (index, part) in &session.finished {
            object.extend_from_slice(&part.bytes);
            wrong.extend((sha256(&part.bytes) != part.sha256).then_some(*index));
        }
        if (object.len() as u64) < length {
            let count = length.div_ceil(session.opened["part_size"].as_u64().expect("a size"));
            let missing: Vec<u64> = (0..count)
                .filter(|index| !session.finished.contains_key(&(*index as u32)))
                .collect();
            return problem(409, "parts_missing", json!({ "missing": missing }));
        }
        let root = blake3::hash(&object).to_hex().to_string();
        if document["root"] != root.as_str() {
            for index in &wrong {
                session.finished.remove(index);
                session.staged.retain(|(staged, _), _| staged != index);
            }
            let expected = &document["root"];
            let more = json!({ "expected": expected, "found": root, "wrong_parts": wrong });
            return problem(422, "root_differs", more);
        }
        let name = session.opened["name"].as_str().expect("a name").to_owned();
        let mut published = lock(&self.0.published);
        if published.contains_key(&name) && document["replace"] != true {
            return problem(409, "name_exists", json!({}));
        }
        published.insert(name, object);
        session.state = "done";
        session.root = Some(root);
        let mut answer = status(id, session);
        answer["url"] = self
            .url(&format!(
                "/{}",
                session.opened["name"].as_str().expect("a name")
            ))
            .into();
        (200, answer)
    }
}

fn status(id: &str, session: &Session) -> Value {
    let part = |(index, part): (&u32, &Staged)| json!({ "index": index, "length": part.bytes.len(), "sha256": part.sha256 });
    let mut status = session.opened.clone();
    status["id"] = id.into();
    status["owner"] = "o".into();
    status["state"] = session.state.into();
    status["root"] = session.root.clone().into();
    status["version"] = 1.into();
    status["parts"] = session.finished.iter().map(part).collect();
    status
}

fn put(session: &mut Session, index: u32, request: &Request, body: &[u8]) -> (u16, Value) {
    let key = (index, sha_of(request));
    let query = |name: &str| {
        let value = request
            .query
            .split('&')
            .find_map(|pair| pair.strip_prefix(name));
        value
            .and_then(|value| value.parse::<u64>().ok())
            .expect("a number")
    };
    let staged = session.staged.entry(key.clone()).or_default();
    staged.truncate(query("from=") as usize);
    staged.extend_from_slice(body);
    let (length, found) = (staged.len() as u64, sha256(staged));
    if length != query("length=") || found != key.1 {
        session.staged.remove(&key);
        return problem(422, "part_differs_from_url", json!({}));
    }
    // The leaves that the client gave are those of the bytes.
    let block = session.opened["block_size"].as_u64().expect("a size");
    if let Some(leaves) = session.leaves.get(&key) {
        let start = u64::from(index) * session.opened["part_size"].as_u64().expect("a size");
        let staged = &session.staged[&key];
        for (number, bytes) in staged.chunks(block as usize).enumerate() {
            let value = tree::value_of(start + number as u64 * block, bytes);
            assert_eq!(leaves[number], value, "leaf {number} of part {index}");
        }
    }
    (204, Value::Null)
}

fn checkpoint(session: &mut Session, index: u32, document: &Value) -> (u16, Value) {
    let sha = document["sha256"].as_str().expect("a hash").to_owned();
    if let Some(finished) = session.finished.get(&index) {
        if finished.sha256 == sha {
            return (200, json!({ "index": index }));
        }
        if document["replace"] != true {
            return problem(409, "part_finished", json!({ "index": index }));
        }
    }
    let Some(bytes) = session.staged.get(&(index, sha.clone())) else {
        return problem(409, "part_not_stored", json!({}));
    };
    if document["length"] != bytes.len() as u64 {
        return problem(409, "part_not_stored", json!({}));
    }
    let bytes = bytes.clone();
    session
        .finished
        .insert(index, Staged { sha256: sha, bytes });
    (200, json!({ "index": index }))
}

fn problem(status: u16, code: &str, more: Value) -> (u16, Value) {
    let mut problem = json!({ "type": "about:blank", "title": code, "status": status, "detail": "", "code": code });
    if let (Some(problem), Value::Object(more)) = (problem.as_object_mut(), more) {
        problem.extend(more);
    }
    (status, problem)
}

fn sha_of(request: &Request) -> String {
    let sha = request
        .query
        .split('&')
        .find_map(|pair| pair.strip_prefix("sha256="));
    sha.unwrap_or_default().to_owned()
}

fn operation(request: &Request) -> (Op, String, Option<u32>) {
    let Some(rest) = request.path.strip_prefix("/.sapwood/uploads") else {
        return (Op::Other, String::new(), None);
    };
    let mut segments = rest.trim_start_matches('/').split('/');
    let id = segments.next().unwrap_or_default().to_owned();
    let (what, index) = (segments.next(), segments.next());
    let index = index.and_then(|index| index.parse().ok());
    let op = match (request.method.as_str(), what) {
        ("GET", None) if id.is_empty() => Op::List,
        ("GET", None) => Op::Status,
        ("PUT", None) => Op::Open,
        ("DELETE", None) => Op::Abort,
        ("POST", Some("targets")) => Op::Targets,
        ("POST", Some("finalize")) => Op::Finalize,
        ("PUT", Some("parts")) if request.query.is_empty() => Op::Checkpoint,
        ("PUT", Some("parts")) => Op::Part,
        _ => Op::Other,
    };
    (op, id, index)
}

fn read_head(stream: &mut TcpStream) -> Option<Request> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head.split("\r\n");
    let mut words = lines.next()?.split(' ').map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let fields: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(": ")).collect();
    let field = |name: &str| {
        let found = fields
            .iter()
            .find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, value)| (*value).to_owned())
    };
    assert_eq!(field("transfer-encoding"), None, "a body without a length");
    Some(Request {
        method,
        path: path.to_owned(),
        query: query.to_owned(),
        token: field("authorization"),
        length: field("content-length").map_or(0, |length| length.parse().expect("a number")),
    })
}

fn respond(stream: &mut impl Write, status: u16, headers: &[(&'static str, String)], text: &str) {
    let media_type = match status {
        400.. if text.starts_with('{') => "application/problem+json",
        _ => "application/json",
    };
    let mut head = format!("HTTP/1.1 {status} Said\r\n");
    if status != 204 {
        head += &format!(
            "Content-Type: {media_type}\r\nContent-Length: {}\r\n",
            text.len()
        );
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    let _ = stream.write_all(format!("{head}\r\n{text}").as_bytes());
}
