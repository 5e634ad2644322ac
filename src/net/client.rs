//! Requests and their answers: one GET, perhaps for a range, redirects followed by our rules, the answer's headers checked before
//! a byte of the body is used.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use reqwest::{
    Response,
    header::{self, HeaderMap, HeaderName, HeaderValue},
    redirect,
};
use tokio::time::timeout;

use crate::core::{
    geometry::ByteRange,
    recovery::{BadAnswer, Failure},
};

use super::{
    CONNECT_MS, STALL_MS,
    address::{PublicResolver, is_private},
    body::Body,
    content_range,
    error::NetError,
    location::Location,
    pace::Pace,
};

/// More redirects than this are a loop.
const REDIRECTS_MAX: usize = 5;
/// Connecting and waiting for headers together: a connection that took long leaves less for the answer.
const HEADERS_MS: u64 = STALL_MS + CONNECT_MS / 5;

/// How requests are made.
#[derive(Clone, Debug, Default)]
pub struct ClientOptions {
    /// Sent to the hosts that the user named, and to no other.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Bytes a second over all connections.
    pub limit_rate: Option<u64>,
    /// A server may lead to private addresses.
    pub allow_private: bool,
}

/// An HTTP client for one run.
#[derive(Clone)]
pub struct Client {
    options: ClientOptions,
    plain: reqwest::Client,
    /// Made when a public server redirects; it does not connect to private addresses.
    guarded: Arc<OnceLock<reqwest::Client>>,
    pace: Arc<Pace>,
    counter: Arc<AtomicU64>,
}

/// What to ask for.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub location: &'a Location,
    pub range: Option<ByteRange>,
    /// A strong entity tag that the object must still have.
    pub if_match: Option<&'a str>,
}

/// Which version of an object an answer is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validators {
    /// Only if it is strong.
    pub etag: Option<String>,
    pub last_modified: Option<String>,
}

/// What the body of an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// The whole object, of this length if the server says so.
    Whole { length: Option<u64> },
    /// These bytes of an object of this length, if the server says so.
    Part { bytes: ByteRange, total: Option<u64> },
}

/// An answer that may be used.
pub struct Answer {
    pub content: Content,
    pub validators: Validators,
    pub body: Body,
}

impl Client {
    pub fn new(options: ClientOptions) -> Client {
        Client {
            plain: build(None),
            guarded: Arc::default(),
            pace: Arc::new(Pace::new(options.limit_rate)),
            counter: Arc::default(),
            options,
        }
    }

    /// All bytes of bodies that arrived so far.
    pub fn bytes_fetched(&self) -> u64 {
        self.counter.load(Ordering::Relaxed)
    }

    /// One GET. A 200 is a whole object even if a range was asked for; the caller decides what that means.
    pub async fn get(&self, request: Request<'_>) -> Result<Answer, NetError> {
        let (response, location) = self.follow(request).await?;
        let headers = response.headers();
        let bad = |how| NetError::new(&location, Failure::BadAnswer(how));
        let status = response.status().as_u16();
        if let Some(failure) = Failure::of_status(status, retry_after_ms(headers)) {
            return Err(NetError::new(&location, failure));
        }
        if headers.get(header::CONTENT_ENCODING).is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity")) {
            return Err(bad(BadAnswer::Encoded));
        }
        let content_type = headers.get(header::CONTENT_TYPE).map_or(&[][..], HeaderValue::as_bytes);
        if status == 206 && content_type.to_ascii_lowercase().starts_with(b"multipart/") {
            return Err(bad(BadAnswer::Multipart));
        }
        let ranges: Vec<_> = headers.get_all(header::CONTENT_RANGE).iter().collect();
        let content = match (status, ranges.as_slice()) {
            (200, []) => Content::Whole { length: response.content_length() },
            (206, [range]) => {
                let parsed = range.to_str().ok().and_then(content_range::parse);
                let part = parsed.ok_or_else(|| bad(BadAnswer::ContentRange))?;
                let length = response.content_length();
                if length.is_some_and(|length| length != part.bytes.length()) {
                    return Err(bad(BadAnswer::ContentRange));
                }
                Content::Part { bytes: part.bytes, total: part.total }
            }
            _ => return Err(bad(BadAnswer::ContentRange)),
        };
        let validators = validators(headers);
        let body = Body::new(response, location, self.pace.clone(), self.counter.clone());
        Ok(Answer { content, validators, body })
    }

    /// The length that a 416 tells, if this range is answered so; used for empty objects.
    pub async fn get_or_length(&self, request: Request<'_>) -> Result<Result<Answer, Option<u64>>, NetError> {
        match self.get(request).await {
            Ok(answer) => Ok(Ok(answer)),
            Err(error) if error.failure == (Failure::Refused { status: 416 }) => Ok(Err(None)),
            Err(error) => Err(error),
        }
    }

    /// Sends the request and follows redirects.
    async fn follow(&self, request: Request<'_>) -> Result<(Response, Location), NetError> {
        let mut location = request.location.clone();
        let mut guarded = false;
        for _ in 0..=REDIRECTS_MAX {
            let response = self.send(request, &location, guarded).await?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok((response, location));
            }
            let nowhere = || NetError::new(&location, Failure::Redirects);
            let target = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok()).ok_or_else(nowhere)?;
            let target = location.join(target).ok_or_else(nowhere)?;
            let unsafe_step = || NetError::new(&location, Failure::Unsafe);
            let next = Location::from_url(target).ok_or_else(unsafe_step)?;
            if location.is_https() && !next.is_https() {
                return Err(unsafe_step());
            }
            // Who is at a private address already may lead to others; the open internet may not lead inside.
            let from_public = response.remote_addr().is_none_or(|address| !is_private(address.ip()));
            guarded = (guarded || from_public) && !self.options.allow_private;
            if guarded && next.url().host().is_some_and(|host| is_private_literal(&host)) {
                return Err(unsafe_step());
            }
            location = next;
        }
        Err(NetError::new(request.location, Failure::Redirects))
    }

    async fn send(&self, request: Request<'_>, location: &Location, guarded: bool) -> Result<Response, NetError> {
        let client = match guarded {
            true => self.guarded.get_or_init(|| build(Some(PublicResolver))),
            false => &self.plain,
        };
        let mut headers = HeaderMap::new();
        if location.same_origin(request.location) {
            headers.extend(self.options.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(range) = request.range {
            let value = format!("bytes={range}");
            headers.insert(header::RANGE, HeaderValue::try_from(value).expect("digits are a header value"));
        }
        if let Some(etag) = request.if_match.and_then(|etag| HeaderValue::try_from(etag).ok()) {
            headers.insert(header::IF_MATCH, etag);
        }
        let sent = client.get(location.url().clone()).headers(headers).send();
        match timeout(Duration::from_millis(HEADERS_MS), sent).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(cause)) => Err(NetError::from_reqwest(location, &cause)),
            Err(_) => Err(NetError::new(location, Failure::Stalled)),
        }
    }
}

fn build(resolver: Option<PublicResolver>) -> reqwest::Client {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("sapwood/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_millis(CONNECT_MS))
        .redirect(redirect::Policy::none())
        .referer(false)
        // Each span has its own TCP connection: under loss, speed follows their number.
        .http1_only()
        .tcp_nodelay(true);
    if let Some(resolver) = resolver {
        builder = builder.dns_resolver(Arc::new(resolver));
    }
    builder.build().expect("these settings are always possible")
}

fn is_private_literal(host: &url::Host<&str>) -> bool {
    match host {
        url::Host::Domain(_) => false,
        url::Host::Ipv4(address) => is_private((*address).into()),
        url::Host::Ipv6(address) => is_private((*address).into()),
    }
}

fn validators(headers: &HeaderMap) -> Validators {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let strong = |etag: &String| etag.len() >= 2 && etag.starts_with('"') && etag.ends_with('"');
    Validators { etag: text(header::ETAG).filter(strong), last_modified: text(header::LAST_MODIFIED) }
}

/// `Retry-After` (RFC 9110, 10.2.3) as a time from now: seconds or a date; nonsense is read as not given.
fn retry_after_ms(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse::<u64>() {
        Ok(seconds) => Some(seconds.saturating_mul(1000)),
        Err(_) => {
            let at = httpdate::parse_http_date(text).ok()?;
            let wait = at.duration_since(std::time::SystemTime::now()).unwrap_or_default();
            Some(wait.as_millis().try_into().unwrap_or(u64::MAX))
        }
    }
}
