//! A bucket of S3, in memory, that takes uploads: it checks every signature and checksum, and follows a script of lies.
//!
//! A [`Rule`] says for which operation, for which of its requests, and which [`S3Lie`]; [`Faults`] are what the service does always. All
//! requests are logged.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    ops::Range,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use md5::Md5;
use sha2::{Digest as _, Sha256};

use super::{
    origin::{Of, Request},
    s3::{self, BUCKET, Rules},
};

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    Create,
    PutPart,
    CopyPart,
    ListParts,
    Complete,
    Abort,
    Head,
    Get,
    Put,
    Copy,
    Delete,
    ListUploads,
    ListObjects,
}

#[derive(Clone, Debug)]
pub enum S3Lie {
    /// Nothing is done: this status with this code.
    Refused(u16, &'static str),
    /// Nothing is done, and the body of a 200 is an error with this code.
    ErrorIn200(&'static str),
    /// It is done, and the body of a 200 is an error with this code.
    DoneAndError(&'static str),
    /// It is done, and the body is cut.
    Cut,
    /// It is done, and the connection ends without a response.
    Lost,
    /// Nothing is done, and the connection ends.
    Reset,
}

/// What the service does wrong with everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// It knows no SHA-256 of parts and objects.
    pub no_checksums: bool,
    /// It checks them, and does not say so when an upload is created.
    pub no_announcement: bool,
    /// `If-None-Match` does nothing.
    pub ignores_conditions: bool,
    /// Parts are stored under another entity tag than the response had.
    pub renames_parts: bool,
    /// Objects that were joined have a composite that is none.
    pub wrong_composite: bool,
    /// A byte of this part is another one in the object that is joined.
    pub damages: Option<u32>,
    /// This part is listed, and not joined until it is sent again.
    pub poisons: Option<u32>,
    /// Parts but the last may be short.
    pub short_parts: bool,
    /// Entries on a page; 0: 1000.
    pub page: usize,
}

struct Rule {
    op: Op,
    of: Of,
    lie: S3Lie,
    seen: u32,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Logged {
    pub op: Op,
    pub key: String,
    /// Of a part.
    pub number: Option<u32>,
    pub fields: Vec<(String, String)>,
    pub status: u16,
}

impl Logged {
    pub fn field(&self, name: &str) -> Option<&str> {
        let found = self
            .fields
            .iter()
            .find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

#[derive(Clone, Debug)]
pub struct Stored {
    pub bytes: Arc<Vec<u8>>,
    pub etag: String,
    /// Fields of the response, in lower case.
    pub fields: BTreeMap<String, String>,
    sha256: Option<String>,
    at: SystemTime,
}

#[derive(Clone, Debug)]
struct Part {
    bytes: Arc<Vec<u8>>,
    etag: String,
    sha256: String,
    is_poisoned: bool,
}

#[derive(Clone, Debug)]
pub struct Upload {
    key: String,
    fields: BTreeMap<String, String>,
    has_checksums: bool,
    parts: BTreeMap<u32, Part>,
    at: SystemTime,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Stored>,
    uploads: BTreeMap<String, Upload>,
    faults: Faults,
    rules: Vec<Rule>,
    log: Vec<Logged>,
    created: u64,
    /// Connections that are not closed.
    open: u32,
    /// All requests wait from this one on, counted from 1: before it is done, or after.
    hold: Option<(u64, bool)>,
    /// Requests since the hold was set.
    came: u64,
    holds: bool,
}

struct Shared {
    state: Mutex<State>,
    released: Condvar,
    rules: Mutex<Rules>,
    address: SocketAddr,
}

/// A running service. Its threads end with the tests.
#[derive(Clone)]
pub struct Bucket(Arc<Shared>);

/// See [`Bucket::save`].
pub struct Saved(BTreeMap<String, Stored>, BTreeMap<String, Upload>, Faults);

/// A response.
struct Answer {
    status: u16,
    fields: Vec<(String, String)>,
    body: Arc<Vec<u8>>,
    range: Range<usize>,
}

type Outcome = Result<Answer, (u16, &'static str)>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Answer {
    fn bytes(status: u16, bytes: Vec<u8>) -> Answer {
        Answer {
            status,
            fields: Vec::new(),
            range: 0..bytes.len(),
            body: Arc::new(bytes),
        }
    }

    fn xml(name: &str, inside: &str) -> Answer {
        let text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{name} xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{inside}</{name}>"
        );
        Answer::bytes(200, text.into_bytes())
    }

    fn empty(status: u16) -> Answer {
        Answer::bytes(status, Vec::new())
    }

    fn error(status: u16, code: &str, more: &str) -> Answer {
        let text =
            format!("<Error><Code>{code}</Code><Message>No, {code}.</Message>{more}</Error>");
        Answer::bytes(status, text.into_bytes()).with("Content-Type", "application/xml")
    }

    fn with(mut self, name: &str, value: impl Into<String>) -> Answer {
        self.fields.push((name.to_owned(), value.into()));
        self
    }
}

fn base64_sum(bytes: &[u8]) -> String {
    STANDARD.encode(Sha256::digest(bytes))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;")
}

fn tag(bytes: &[u8]) -> String {
    format!("\"{}\"", hex::encode(Md5::digest(bytes)))
}

fn time(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at).expect("a time").to_string()
}

impl Bucket {
    pub fn start() -> Bucket {
        Bucket::with(Rules::default())
    }

    pub fn with(rules: Rules) -> Bucket {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let bucket = Bucket(Arc::new(Shared {
            state: Mutex::default(),
            released: Condvar::new(),
            rules: Mutex::new(rules),
            address: listener.local_addr().expect("it is bound"),
        }));
        std::thread::spawn({
            let bucket = bucket.clone();
            move || {
                for stream in listener.incoming().flatten() {
                    let bucket = bucket.clone();
                    lock(&bucket.0.state).open += 1;
                    std::thread::spawn(move || {
                        bucket.serve(stream);
                        lock(&bucket.0.state).open -= 1;
                    });
                }
            }
        });
        bucket
    }

    /// Its endpoint.
    pub fn url(&self) -> String {
        format!("http://{}", self.0.address)
    }

    pub fn port(&self) -> u16 {
        self.0.address.port()
    }

    pub fn set_rules(&self, rules: Rules) {
        *lock(&self.0.rules) = rules;
    }

    pub fn lie(&self, op: Op, of: Of, lie: S3Lie) {
        let seen = 0;
        lock(&self.0.state).rules.push(Rule { op, of, lie, seen });
    }

    pub fn be_honest(&self) {
        let mut state = lock(&self.0.state);
        state.rules.clear();
        state.faults = Faults::default();
    }

    /// Waits for the answers to a client that was killed: none of its requests comes after this.
    pub fn wait_until_idle(&self) {
        // Connections are taken in the order in which they came: this one is the last.
        let mut last = TcpStream::connect(self.0.address).expect("the bucket");
        last.shutdown(Shutdown::Write).expect("it is open");
        last.read_to_end(&mut Vec::new()).expect("it is closed");
        while lock(&self.0.state).open > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn fault(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut lock(&self.0.state).faults);
    }

    pub fn log(&self) -> Vec<Logged> {
        lock(&self.0.state).log.clone()
    }

    pub fn log_of(&self, op: Op) -> Vec<Logged> {
        let mut log = self.log();
        log.retain(|logged| logged.op == op);
        log
    }

    pub fn forget_log(&self) {
        lock(&self.0.state).log.clear();
    }

    pub fn object(&self, key: &str) -> Option<Stored> {
        lock(&self.0.state).objects.get(key).cloned()
    }

    pub fn keys(&self) -> Vec<String> {
        lock(&self.0.state).objects.keys().cloned().collect()
    }

    /// The keys of uploads that are neither completed nor aborted.
    pub fn pending(&self) -> Vec<String> {
        let state = lock(&self.0.state);
        state
            .uploads
            .values()
            .map(|upload| upload.key.clone())
            .collect()
    }

    /// The bytes of all their parts.
    pub fn pending_bytes(&self) -> usize {
        let state = lock(&self.0.state);
        let parts = state
            .uploads
            .values()
            .flat_map(|upload| upload.parts.values());
        parts.map(|part| part.bytes.len()).sum()
    }

    /// As another program puts it.
    pub fn put(&self, key: &str, bytes: &[u8]) {
        let stored = stored(bytes.to_vec().into(), BTreeMap::new());
        lock(&self.0.state).objects.insert(key.to_owned(), stored);
    }

    pub fn remove(&self, key: &str) {
        lock(&self.0.state).objects.remove(key);
    }

    /// Changes a byte of an object, and nothing else.
    pub fn damage(&self, key: &str, at: usize) {
        let mut state = lock(&self.0.state);
        let object = state.objects.get_mut(key).expect("it is there");
        Arc::make_mut(&mut object.bytes)[at] ^= 1;
    }

    /// Loses a part of all uploads.
    pub fn lose_part(&self, number: u32) {
        for upload in lock(&self.0.state).uploads.values_mut() {
            upload.parts.remove(&number);
        }
    }

    /// A later transfer of the part broke: it is listed, and not joined.
    pub fn poison(&self, number: u32) {
        for upload in lock(&self.0.state).uploads.values_mut() {
            if let Some(part) = upload.parts.get_mut(&number) {
                part.is_poisoned = true;
            }
        }
    }

    /// All that is in it, with its faults.
    pub fn save(&self) -> Saved {
        let state = lock(&self.0.state);
        Saved(state.objects.clone(), state.uploads.clone(), state.faults)
    }

    pub fn restore(&self, saved: &Saved) {
        let mut state = lock(&self.0.state);
        (state.objects, state.uploads) = (saved.0.clone(), saved.1.clone());
        state.faults = saved.2;
    }

    /// All requests wait from this one on, counted from 1 from now.
    pub fn hold_at(&self, request: u64, after_it_is_done: bool) {
        let mut state = lock(&self.0.state);
        state.hold = Some((request, after_it_is_done));
        (state.came, state.holds) = (0, false);
    }

    pub fn holds(&self) -> bool {
        lock(&self.0.state).holds
    }

    /// Requests that wait end without a response, and nothing more of them is done.
    pub fn release(&self) {
        let mut state = lock(&self.0.state);
        (state.hold, state.holds) = (None, false);
        self.0.released.notify_all();
    }

    fn serve(&self, mut stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        while let Some((request, length)) = read_head(&mut stream) {
            let mut body = vec![0; length];
            if stream.read_exact(&mut body).is_err() {
                return;
            }
            let Some(answer) = self.answer(&request, body.into()) else {
                let _ = stream.shutdown(Shutdown::Both);
                return;
            };
            if respond(&mut stream, &request, &answer).is_none() {
                return;
            }
        }
    }

    /// `true`: the request was held, and its client is gone.
    fn hold(&self, is_after: bool) -> bool {
        let mut state = lock(&self.0.state);
        if !is_after {
            state.came += 1;
        }
        let came = state.came;
        let holds = |state: &State| {
            state
                .hold
                .is_some_and(|(at, after)| after == is_after && came >= at || came > at)
        };
        if !holds(&state) {
            return false;
        }
        state.holds = true;
        while state.hold.is_some() {
            state = self
                .0
                .released
                .wait(state)
                .unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        true
    }

    /// `None`: the connection ends.
    fn answer(&self, request: &Request, body: Arc<Vec<u8>>) -> Option<Answer> {
        let query: BTreeMap<String, String> =
            s3::query(request.query.as_deref().unwrap_or_default())
                .into_iter()
                .collect();
        let path = percent_encoding::percent_decode_str(&request.path).decode_utf8_lossy();
        let bucket = format!("/{BUCKET}/");
        let key = path.strip_prefix(&bucket).unwrap_or_default().to_owned();
        let op = operation(request, &key, &query);
        if self.hold(false) {
            return None;
        }
        let (lie, number) = {
            let mut state = lock(&self.0.state);
            state.log.push(Logged {
                op,
                key: key.clone(),
                number: query.get("partNumber").and_then(|text| text.parse().ok()),
                fields: request.headers.clone(),
                status: 0,
            });
            (state.rule(op), state.log.len() - 1)
        };
        let rules = lock(&self.0.rules).clone();
        let answer = match (s3::judge(request, &rules), &lie) {
            (Err((status, code, more)), _) => {
                let now = httpdate::fmt_http_date(SystemTime::now() + rules.ahead);
                Answer::error(status, code, &more).with("Date", now)
            }
            (_, Some(S3Lie::Reset)) => return None,
            (_, Some(S3Lie::Refused(status, code))) => Answer::error(*status, code, ""),
            (_, Some(S3Lie::ErrorIn200(code))) => Answer::error(200, code, ""),
            (Ok(()), _) => {
                let call = Call {
                    op,
                    key: &key,
                    query: &query,
                    request,
                    body,
                };
                let done = lock(&self.0.state).act(&call);
                done.unwrap_or_else(|(status, code)| Answer::error(status, code, ""))
            }
        };
        if let Some(logged) = lock(&self.0.state).log.get_mut(number) {
            logged.status = answer.status;
        }
        if self.hold(true) {
            return None;
        }
        match lie {
            Some(S3Lie::Lost) => None,
            Some(S3Lie::DoneAndError(code)) => Some(Answer::error(200, code, "")),
            Some(S3Lie::Cut) => {
                let half = answer.body.len() / 2;
                Some(Answer::bytes(answer.status, answer.body[..half].to_vec()))
            }
            _ => Some(answer),
        }
    }
}

/// A request with what it is for.
struct Call<'a> {
    op: Op,
    key: &'a str,
    query: &'a BTreeMap<String, String>,
    request: &'a Request,
    body: Arc<Vec<u8>>,
}

impl Call<'_> {
    fn member(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    fn number(&self) -> u32 {
        self.member("partNumber").parse().expect("a number")
    }

    /// What stays with an object.
    fn kept(&self) -> BTreeMap<String, String> {
        let fields = self.request.headers.iter();
        let fields = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
        let is_kept = |name: &str| {
            name.starts_with("x-amz-meta-") || name.starts_with("x-amz-server-side-encryption")
        };
        fields.filter(|(name, _)| is_kept(name)).collect()
    }
}

fn stored(bytes: Arc<Vec<u8>>, fields: BTreeMap<String, String>) -> Stored {
    Stored {
        etag: tag(&bytes),
        sha256: None,
        fields,
        at: SystemTime::now(),
        bytes,
    }
}

fn operation(request: &Request, key: &str, query: &BTreeMap<String, String>) -> Op {
    let has = |name: &str| query.contains_key(name);
    let copies = request.header("x-amz-copy-source").is_some();
    match request.method.as_str() {
        "POST" if has("uploads") => Op::Create,
        "POST" => Op::Complete,
        "PUT" if has("partNumber") && copies => Op::CopyPart,
        "PUT" if has("partNumber") => Op::PutPart,
        "PUT" if copies => Op::Copy,
        "PUT" => Op::Put,
        "DELETE" if has("uploadId") => Op::Abort,
        "DELETE" => Op::Delete,
        "HEAD" => Op::Head,
        "GET" if has("uploadId") => Op::ListParts,
        "GET" if has("uploads") => Op::ListUploads,
        "GET" if key.is_empty() => Op::ListObjects,
        "GET" => Op::Get,
        other => panic!("{other} of {key:?}"),
    }
}

impl State {
    fn rule(&mut self, op: Op) -> Option<S3Lie> {
        let mut now = None;
        for rule in self.rules.iter_mut().filter(|rule| rule.op == op) {
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

    fn act(&mut self, call: &Call) -> Outcome {
        check_content(call)?;
        match call.op {
            Op::Create => self.create(call),
            Op::PutPart => self.put_part(call, call.body.clone()),
            Op::CopyPart => self.copy_part(call),
            Op::ListParts => self.list_parts(call),
            Op::Complete => self.complete(call),
            Op::Abort => match self.uploads.remove(call.member("uploadId")) {
                Some(_) => Ok(Answer::empty(204)),
                None => Err((404, "NoSuchUpload")),
            },
            Op::Head | Op::Get => self.get(call),
            Op::Put => {
                self.check_condition(call)?;
                let mut object = stored(call.body.clone(), call.kept());
                object.sha256 = Some(base64_sum(&call.body));
                let etag = object.etag.clone();
                self.objects.insert(call.key.to_owned(), object);
                Ok(Answer::empty(200).with("ETag", etag))
            }
            Op::Copy => self.copy(call),
            Op::Delete => {
                self.objects.remove(call.key);
                Ok(Answer::empty(204))
            }
            Op::ListUploads => self.list_uploads(call),
            Op::ListObjects => self.list_objects(call),
        }
    }

    fn check_condition(&self, call: &Call) -> Result<(), (u16, &'static str)> {
        let is_new = call.request.header("if-none-match") == Some("*");
        let exists = self.objects.contains_key(call.key);
        match is_new && exists && !self.faults.ignores_conditions {
            true => Err((412, "PreconditionFailed")),
            false => Ok(()),
        }
    }

    fn create(&mut self, call: &Call) -> Outcome {
        self.created += 1;
        // Others than letters are allowed.
        let id = format!("up/{}+{}=", self.created, call.key.len());
        let algorithm = call.request.header("x-amz-checksum-algorithm");
        let has_checksums = algorithm == Some("SHA256") && !self.faults.no_checksums;
        let upload = Upload {
            key: call.key.to_owned(),
            fields: call.kept(),
            has_checksums,
            parts: BTreeMap::new(),
            at: SystemTime::now(),
        };
        self.uploads.insert(id.clone(), upload);
        let xml = format!("<Bucket>{BUCKET}</Bucket><UploadId>{id}</UploadId>");
        let answer = Answer::xml("InitiateMultipartUploadResult", &xml);
        Ok(match has_checksums && !self.faults.no_announcement {
            true => answer.with("x-amz-checksum-algorithm", "SHA256"),
            false => answer,
        })
    }

    fn upload(&mut self, call: &Call) -> Result<&mut Upload, (u16, &'static str)> {
        let upload = self.uploads.get_mut(call.member("uploadId"));
        let upload = upload.filter(|upload| upload.key == call.key);
        upload.ok_or((404, "NoSuchUpload"))
    }

    fn put_part(&mut self, call: &Call, bytes: Arc<Vec<u8>>) -> Outcome {
        let (faults, number) = (self.faults, call.number());
        let upload = self.upload(call)?;
        let told = tag(&bytes);
        let etag = match faults.renames_parts {
            true => told.replacen('"', "\"renamed-", 1),
            false => told.clone(),
        };
        let part = Part {
            sha256: base64_sum(&bytes),
            etag,
            bytes,
            is_poisoned: faults.poisons == Some(number),
        };
        upload.parts.insert(number, part);
        Ok(Answer::empty(200).with("ETag", told))
    }

    fn source(&self, call: &Call) -> Result<Stored, (u16, &'static str)> {
        let header = |name| call.request.header(name);
        let from = header("x-amz-copy-source").expect("it copies");
        let from = percent_encoding::percent_decode_str(from).decode_utf8_lossy();
        let key = from
            .trim_start_matches('/')
            .strip_prefix(&format!("{BUCKET}/"));
        let source = self.objects.get(key.expect("of this bucket"));
        let source = source.ok_or((404, "NoSuchKey"))?;
        match header("x-amz-copy-source-if-match") {
            Some(etag) if etag != source.etag => Err((412, "PreconditionFailed")),
            _ => Ok(source.clone()),
        }
    }

    fn copy_part(&mut self, call: &Call) -> Outcome {
        let source = self.source(call)?;
        let range = range_of(call.request.header("x-amz-copy-source-range"), &source);
        let bytes = source.bytes[range.ok_or((400, "InvalidRequest"))?].to_vec();
        let etag = tag(&bytes);
        self.put_part(call, bytes.into())?;
        let xml = format!("<ETag>{}</ETag>", escaped(&etag));
        Ok(Answer::xml("CopyPartResult", &xml))
    }

    fn copy(&mut self, call: &Call) -> Outcome {
        let source = self.source(call)?;
        self.check_condition(call)?;
        assert_eq!(
            call.request.header("x-amz-metadata-directive"),
            Some("REPLACE")
        );
        let object = stored(source.bytes, call.kept());
        let xml = format!("<ETag>{}</ETag>", escaped(&object.etag));
        self.objects.insert(call.key.to_owned(), object);
        Ok(Answer::xml("CopyObjectResult", &xml))
    }

    fn page(&self) -> usize {
        match self.faults.page {
            0 => 1000,
            page => page,
        }
    }

    fn list_parts(&mut self, call: &Call) -> Outcome {
        let most = call.member("max-parts").parse().unwrap_or(1000);
        let most = self.page().min(most);
        let hides = self.faults.no_checksums;
        let after: u32 = call.member("part-number-marker").parse().unwrap_or(0);
        let upload = self.upload(call)?;
        let mut xml = String::new();
        let later: Vec<(&u32, &Part)> = upload.parts.range(after + 1..).collect();
        for (number, part) in later.iter().take(most) {
            let (etag, size) = (escaped(&part.etag), part.bytes.len());
            xml += &format!(
                "<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag><Size>{size}</Size>"
            );
            if upload.has_checksums && !hides {
                xml += &format!("<ChecksumSHA256>{}</ChecksumSHA256>", part.sha256);
            }
            xml += "</Part>";
        }
        xml += &format!("<IsTruncated>{}</IsTruncated>", later.len() > most);
        if let Some((last, _)) = later.iter().take(most).next_back() {
            xml += &format!("<NextPartNumberMarker>{last}</NextPartNumberMarker>");
        }
        Ok(Answer::xml("ListPartsResult", &xml))
    }

    fn complete(&mut self, call: &Call) -> Outcome {
        let faults = self.faults;
        let upload = self.upload(call)?.clone();
        self.check_condition(call)?;
        let text = String::from_utf8_lossy(&call.body).into_owned();
        let (mut bytes, mut sums, mut before) = (Vec::new(), Vec::new(), 0);
        let listed: Vec<&str> = text.split("<Part>").skip(1).collect();
        for (index, one) in listed.iter().enumerate() {
            let of = |name: &str| {
                let (_, rest) = one.split_once(&format!("<{name}>"))?;
                Some(rest.split_once('<')?.0.replace("&quot;", "\""))
            };
            let number: u32 = of("PartNumber")
                .and_then(|text| text.parse().ok())
                .unwrap_or(0);
            if number <= before {
                return Err((400, "InvalidPartOrder"));
            }
            before = number;
            let part = upload.parts.get(&number);
            let part = part.filter(|part| of("ETag") == Some(part.etag.clone()));
            let part = part
                .filter(|part| !part.is_poisoned)
                .ok_or((400, "InvalidPart"))?;
            if of("ChecksumSHA256").is_some_and(|sum| sum != part.sha256) {
                return Err((400, "InvalidDigest"));
            }
            let is_short = part.bytes.len() < 5 << 20 && !faults.short_parts;
            if index + 1 < listed.len() && is_short {
                return Err((400, "EntityTooSmall"));
            }
            let start = bytes.len();
            bytes.extend_from_slice(&part.bytes);
            if faults.damages == Some(number) {
                bytes[start + 9] ^= 1;
            }
            sums.extend(STANDARD.decode(&part.sha256).expect("base64"));
        }
        if sums.is_empty() {
            return Err((400, "MalformedXML"));
        }
        if faults.wrong_composite {
            sums[0] ^= 1;
        }
        let mut object = stored(bytes.into(), upload.fields.clone());
        object.etag = format!("{}-{}\"", object.etag.trim_end_matches('"'), listed.len());
        object.sha256 = upload
            .has_checksums
            .then(|| format!("{}-{}", base64_sum(&sums), listed.len()));
        let xml = format!("<ETag>{}</ETag>", escaped(&object.etag));
        self.objects.insert(call.key.to_owned(), object);
        self.uploads.remove(call.member("uploadId"));
        Ok(Answer::xml("CompleteMultipartUploadResult", &xml))
    }

    fn get(&mut self, call: &Call) -> Outcome {
        let object = self.objects.get(call.key).ok_or((404, "NoSuchKey"))?;
        let field = |name| call.request.header(name);
        if field("if-match").is_some_and(|etag| etag != object.etag) {
            return Err((412, "PreconditionFailed"));
        }
        let (all, mut status) = (0..object.bytes.len(), 200);
        let mut answer = Answer::empty(200);
        let mut range = all.clone();
        if let Some(wanted) = field("range") {
            range = range_of(Some(wanted), object).ok_or((416, "InvalidRange"))?;
            status = 206;
            let of = format!("bytes {}-{}/{}", range.start, range.end - 1, all.end);
            answer = answer.with("Content-Range", of);
        }
        if field("x-amz-checksum-mode").is_some()
            && let Some(sha256) = &object.sha256
        {
            answer = answer.with("x-amz-checksum-sha256", sha256.as_str());
        }
        for (name, value) in &object.fields {
            answer = answer.with(name, value.as_str());
        }
        let modified = httpdate::fmt_http_date(object.at);
        answer = answer
            .with("ETag", object.etag.as_str())
            .with("Last-Modified", modified);
        Ok(Answer {
            status,
            body: object.bytes.clone(),
            range,
            ..answer
        })
    }

    fn list_uploads(&mut self, call: &Call) -> Outcome {
        let mark = (call.member("key-marker"), call.member("upload-id-marker"));
        let mut all: Vec<(&str, &str, &Upload)> = self
            .uploads
            .iter()
            .map(|(id, upload)| (upload.key.as_str(), id.as_str(), upload))
            .filter(|(key, id, _)| key.starts_with(call.member("prefix")) && (*key, *id) > mark)
            .collect();
        all.sort_by_key(|(key, id, _)| (*key, *id));
        let mut xml = String::new();
        for (key, id, upload) in all.iter().take(self.page()) {
            let (key, at) = (escaped(key), time(upload.at));
            xml += &format!(
                "<Upload><Key>{key}</Key><UploadId>{id}</UploadId><Initiated>{at}</Initiated></Upload>"
            );
        }
        xml += &format!("<IsTruncated>{}</IsTruncated>", all.len() > self.page());
        if let Some((key, id, _)) = all.iter().take(self.page()).next_back() {
            let key = escaped(key);
            xml += &format!(
                "<NextKeyMarker>{key}</NextKeyMarker><NextUploadIdMarker>{id}</NextUploadIdMarker>"
            );
        }
        Ok(Answer::xml("ListMultipartUploadsResult", &xml))
    }

    fn list_objects(&mut self, call: &Call) -> Outcome {
        let (prefix, mark) = (call.member("prefix"), call.member("continuation-token"));
        let fits = |key: &str| key.starts_with(prefix) && key > mark;
        let all: Vec<(&String, &Stored)> =
            self.objects.iter().filter(|(key, _)| fits(key)).collect();
        let mut xml = String::new();
        for (key, object) in all.iter().take(self.page()) {
            let (key, size, at) = (escaped(key), object.bytes.len(), time(object.at));
            xml += &format!(
                "<Contents><Key>{key}</Key><LastModified>{at}</LastModified><Size>{size}</Size></Contents>"
            );
        }
        xml += &format!("<IsTruncated>{}</IsTruncated>", all.len() > self.page());
        if let Some((key, _)) = all.iter().take(self.page()).next_back() {
            let key = escaped(key);
            xml += &format!("<NextContinuationToken>{key}</NextContinuationToken>");
        }
        Ok(Answer::xml("ListBucketResult", &xml))
    }
}

/// The content is what its fields say.
fn check_content(call: &Call) -> Result<(), (u16, &'static str)> {
    let field = |name| call.request.header(name);
    if let Some(signed) = field("x-amz-content-sha256").filter(|signed| signed.len() == 64)
        && signed != hex::encode(Sha256::digest(&*call.body))
    {
        return Err((400, "XAmzContentSHA256Mismatch"));
    }
    match field("x-amz-checksum-sha256") {
        Some(sum) if sum != base64_sum(&call.body) => Err((400, "BadDigest")),
        _ => Ok(()),
    }
}

fn range_of(field: Option<&str>, object: &Stored) -> Option<Range<usize>> {
    let (first, last) = field?.strip_prefix("bytes=")?.split_once('-')?;
    let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
    let end = object.bytes.len().min(last + 1);
    (first < end).then_some(first..end)
}

fn read_head(stream: &mut TcpStream) -> Option<(Request, usize)> {
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
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path.to_owned(), Some(query.to_owned())),
        None => (target, None),
    };
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let request = Request {
        method,
        path,
        query,
        headers,
        range: None,
    };
    assert_eq!(
        request.header("transfer-encoding"),
        None,
        "S3 wants a length"
    );
    let length = request.header("content-length").unwrap_or("0");
    let length = length.parse().expect("a number");
    Some((request, length))
}

fn respond(stream: &mut TcpStream, request: &Request, answer: &Answer) -> Option<()> {
    let mut head = format!("HTTP/1.1 {} Said\r\n", answer.status);
    for (name, value) in &answer.fields {
        head += &format!("{name}: {value}\r\n");
    }
    if answer.status != 204 {
        head += &format!("Content-Length: {}\r\n", answer.range.len());
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).ok()?;
    if request.method != "HEAD" && answer.status != 204 {
        stream.write_all(&answer.body[answer.range.clone()]).ok()?;
    }
    stream.flush().ok()?;
    // What a client that went away still sends is not waited for.
    let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
    Some(())
}
