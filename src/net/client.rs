//! The HTTP client: sends a request, follows redirects, checks the status and the head of the response.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use reqwest::header::{CONTENT_TYPE, ETAG, HeaderMap};

use crate::{
    format::ingest::Problem,
    policy::{
        recovery::{BadResponse, Changed, Failure},
        reputation::Reputation,
    },
};

use super::{
    body::Body,
    content_range,
    error::NetError,
    hosts::Hosts,
    location::Location,
    multi_range::{MultiRangeResponse, Parts, boundary_of},
    options::ClientOptions,
    rate_limit::RateLimit,
    redirect::Redirects,
    request::{Body as Content, Method, Refusals, Request, RequiredFields},
    response::{Head, Response, retry_after_ms},
    transport::{Exchange, Transport},
};

/// A small response.
#[derive(Clone, Debug)]
pub struct Reply {
    /// 2xx, or one that refuses the request.
    pub status: u16,
    /// `Retry-After`.
    pub retry_after_ms: Option<u64>,
    /// The entity tag of what was stored.
    pub etag: Option<String>,
    /// The URL of the response, after redirects.
    pub location: Location,
    /// Of a refusal: the problem document (RFC 9457) or XML, if there is one, perhaps cut.
    pub bytes: Vec<u8>,
    /// Why S3 refused the request.
    pub refusal: Option<Refused>,
    fields: HeaderMap,
}

/// A refusal of S3.
#[derive(Clone, Debug)]
pub struct Refused {
    /// As in the list of its errors: `NoSuchUpload`. A response to HEAD has none.
    pub code: Option<String>,
    /// With all that it says.
    pub error: NetError,
}

impl Reply {
    /// The value of a field, by its name in lower case.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name)?.to_str().ok()
    }
}

/// The most bytes of a problem document.
const PROBLEM_BYTES_MAX: usize = 64 * 1024;
/// What a server says for people is cut there.
const DETAIL_CHARS_MAX: usize = 500;
/// These errors of a server stay what they are: it does not have the method, this version of HTTP, or room.
const FINAL: [u16; 3] = [501, 505, 507];
/// What follows from these is said by the code in the body: without it they are no answer.
const CODED: [u16; 4] = [404, 409, 410, 422];

/// Whether the body is of this media type.
fn is_of_type(response: &reqwest::Response, media_type: &[u8]) -> bool {
    let value = response.headers().get(CONTENT_TYPE);
    value.is_some_and(|value| value.as_bytes().starts_with(media_type))
}

/// An HTTP client. Clones share connections, rate limit, byte counter, and facts about hosts.
#[derive(Clone)]
pub struct Client {
    options: Arc<ClientOptions>,
    /// Body bytes received.
    counter: Arc<AtomicU64>,
    rate_limit: Arc<RateLimit>,
    transport: Arc<Transport>,
    redirects: Arc<Redirects>,
}

impl Default for Client {
    fn default() -> Client {
        Client::new(ClientOptions::default())
    }
}

impl Client {
    /// A client with its own connections, rate limit and counter.
    pub fn new(options: ClientOptions) -> Client {
        let options = Arc::new(options);
        let rate_limit = Arc::new(RateLimit::new(options.limit_rate));
        Client {
            counter: Arc::default(),
            transport: Arc::new(Transport::new(options.clone(), rate_limit.clone())),
            rate_limit,
            redirects: Arc::default(),
            options,
        }
    }

    /// The same client with this byte counter. The caller keeps the counter, and can read it after a run was dropped.
    #[must_use]
    pub fn counting(&self, counter: Arc<AtomicU64>) -> Client {
        Client {
            counter,
            ..self.clone()
        }
    }

    /// Body bytes received so far.
    pub fn bytes_fetched(&self) -> u64 {
        self.counter.load(Ordering::Relaxed)
    }

    /// Bytes a second over all connections, if there is a limit.
    pub fn limit_rate(&self) -> Option<u64> {
        self.options.limit_rate
    }

    /// Whether the rate limit holds bytes back now, and not the connections.
    pub fn is_held_back(&self) -> bool {
        self.rate_limit.holds_back()
    }

    /// Sends a request. A 200 is the whole representation even if a range was requested; the caller decides what that means.
    pub async fn send(&self, request: Request<'_>) -> Result<Response, NetError> {
        let exchange = self.exchange(&request).await?;
        self.response(&request, exchange).await
    }

    /// Sends a request whose response is a small document of at most this many bytes. A refusal of the request is a [`Reply`] too, unless
    /// its status alone says what follows: then it is an error, as for every request.
    pub async fn call(&self, request: Request<'_>, bytes_max: usize) -> Result<Reply, NetError> {
        let mut exchange = self.redirects.follow(&self.transport, &request).await?;
        let status = exchange.response.status().as_u16();
        let retry_after_ms = retry_after_ms(exchange.response.headers());
        let serves = exchange.in_flight.host_serves();
        let is_success = exchange.response.status().is_success();
        let is_problem = is_of_type(&exchange.response, b"application/problem+json");
        // S3 at a URL that a server named.
        let is_xml = is_of_type(&exchange.response, b"application/xml");
        let failure = Failure::of_status(status, retry_after_ms, serves);
        let failure = match &exchange.refusal {
            Some(refusal) => {
                failure.map(|by_status| refusal.failure(status, by_status, retry_after_ms, serves))
            }
            None => failure,
        };
        let refused = self.refused(&exchange, failure);
        match failure.filter(|_| !is_success) {
            None => exchange.in_flight.served(),
            Some(Failure::Refused { .. }) => (),
            Some(Failure::Changed(Changed::Precondition)) if refused.is_some() => (),
            Some(Failure::Server { .. }) if FINAL.contains(&status) => (),
            // A limit of the server's own, that no waiting lifts.
            Some(Failure::TooMany { status: 429, .. })
                if is_problem && retry_after_ms.is_none() => {}
            Some(failure) if status == 503 && is_problem => {
                return Err(self.of_problem(exchange, failure, retry_after_ms).await);
            }
            Some(failure) => {
                if let Failure::TooMany { retry_after_ms, .. } = failure {
                    exchange.in_flight.refused(retry_after_ms);
                }
                let error = refused.map(|refused| refused.error);
                return Err(error.unwrap_or_else(|| NetError::new(&exchange.location, failure)));
            }
        }
        let field = |name| {
            let value = exchange.response.headers().get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        let mut reply = Reply {
            status,
            retry_after_ms,
            etag: field(ETAG),
            location: exchange.location.clone(),
            bytes: Vec::new(),
            refusal: refused,
            fields: exchange.response.headers().clone(),
        };
        let mut body = self.body(exchange);
        if is_success {
            reply.bytes = body.read_up_to(bytes_max + 1).await?;
            if reply.bytes.len() > bytes_max {
                let failure = Failure::BadResponse(BadResponse::Status(status));
                let detail = format!("its response is longer than {bytes_max} bytes");
                return Err(NetError::with_detail(&reply.location, failure, detail));
            }
        } else if is_problem || is_xml {
            reply.bytes = match body.read_up_to(PROBLEM_BYTES_MAX).await {
                Ok(bytes) => bytes,
                Err(error) if is_problem && CODED.contains(&status) => return Err(error),
                // What it says is useful, and the status enough: the connection may break after it.
                Err(_) => Vec::new(),
            };
        }
        Ok(reply)
    }

    /// What a problem document says of a 503: the host limits requests only if it is busy.
    async fn of_problem(
        &self,
        exchange: Exchange,
        failure: Failure,
        retry_after_ms: Option<u64>,
    ) -> NetError {
        let location = exchange.location.clone();
        let read = self.body(exchange).read_up_to(PROBLEM_BYTES_MAX).await;
        let Problem { code, detail, .. } = Problem::read(&read.unwrap_or_default());
        if code == "busy" {
            return NetError::new(&location, failure);
        }
        let status = 503;
        let failure = match code.as_str() {
            // Its database is away, and comes back without any help of ours.
            "store_failed" => Failure::Unreachable,
            _ => Failure::Server {
                status,
                retry_after_ms,
            },
        };
        let detail: String = detail.chars().take(DETAIL_CHARS_MAX).collect();
        let what = format!("the server reported an error (status {status}, {code}): {detail}");
        NetError::with_detail(&location, failure, what)
    }

    /// What S3 says of a failure.
    fn refused(&self, exchange: &Exchange, failure: Option<Failure>) -> Option<Refused> {
        let (refusal, failure) = exchange.refusal.as_ref().zip(failure)?;
        let error = match self.transport.told(refusal) {
            Some(told) => NetError::refused(&exchange.location, failure, &told),
            None => NetError::new(&exchange.location, failure),
        };
        let code = refusal.code.clone();
        Some(Refused { code, error })
    }

    /// A URL of an object in S3, or of a view of it, to which whoever has it may send a request with this method and exactly these
    /// fields, from now on for so many seconds. It is a secret: its printed form has no query.
    pub fn presigned(
        &self,
        method: Method,
        target: &Location,
        fields: &RequiredFields,
        seconds: u32,
    ) -> Result<Location, NetError> {
        let request = Request {
            required: Some(fields),
            ..Request::new(method, target, Content::Empty)
        };
        self.transport.presigned(&request, seconds)
    }

    /// Sends a request for several ranges. Many servers send one part, or everything, instead.
    pub async fn send_multi_range(
        &self,
        request: Request<'_>,
    ) -> Result<MultiRangeResponse, NetError> {
        let exchange = self.exchange(&request).await?;
        let parts = boundary_of(&exchange.response);
        self.transport
            .note_multi_range(&exchange.location, parts.is_some());
        let Some((boundary, validators)) = parts else {
            let response = self.response(&request, exchange).await?;
            return Ok(MultiRangeResponse::One(Box::new(response)));
        };
        if request
            .version
            .is_some_and(|wanted| wanted.differ(&validators))
        {
            return Err(NetError::changed(&exchange.location, Changed::Validator));
        }
        let parts = Parts::new(&boundary, self.body(exchange));
        Ok(MultiRangeResponse::Parts(Box::new(parts)))
    }

    /// Sends a request, and once more without its condition if that was not met: some servers refuse every condition, and the
    /// response shows its version too.
    async fn exchange(&self, request: &Request<'_>) -> Result<Exchange, NetError> {
        let failed = Failure::Changed(Changed::Precondition);
        match self.exchange_once(request).await {
            Err(error) if error.failure == failed && request.condition().is_some() => {
                let unconditional = Request {
                    conditional: false,
                    ..request.clone()
                };
                self.exchange_once(&unconditional).await
            }
            other => other,
        }
    }

    /// Sends a request, follows its redirects, and checks the status.
    async fn exchange_once(&self, request: &Request<'_>) -> Result<Exchange, NetError> {
        let mut exchange = self.redirects.follow(&self.transport, request).await?;
        let status = exchange.response.status().as_u16();
        let retry_after_ms = retry_after_ms(exchange.response.headers());
        let serves = exchange.in_flight.host_serves();
        let Some(mut failure) = Failure::of_status(status, retry_after_ms, serves) else {
            exchange.in_flight.served();
            return Ok(exchange);
        };
        if let Some(refusal) = &exchange.refusal {
            failure = refusal.failure(status, failure, retry_after_ms, serves);
        }
        let is_of_host = match request.refusals {
            Refusals::OfTheHost => true,
            Refusals::NotReady => status != 503 || retry_after_ms.is_none(),
            Refusals::OfTheTarget => false,
        };
        if let Failure::TooMany { retry_after_ms, .. } = failure
            && is_of_host
        {
            exchange.in_flight.refused(retry_after_ms);
        }
        let now = content_range::of_unsatisfied(&exchange.response);
        if request
            .length
            .zip(now)
            .is_some_and(|(wanted, now)| wanted != now)
        {
            return Err(NetError::changed(&exchange.location, Changed::Length));
        }
        let refused = self.refused(&exchange, Some(failure));
        let mut error = match refused {
            Some(refused) => refused.error,
            None => NetError::new(&exchange.location, failure),
        };
        error.length = now;
        Err(error)
    }

    async fn response(
        &self,
        request: &Request<'_>,
        exchange: Exchange,
    ) -> Result<Response, NetError> {
        let head = Head::read(&exchange.response);
        let mut head = head.map_err(|failure| NetError::new(&exchange.location, failure))?;
        let mut body = self.body(exchange);
        head.look_at(&mut body).await?;
        head.check_version(request.version, body.location())?;
        Ok(head.with_body(body))
    }

    fn body(&self, exchange: Exchange) -> Body {
        let (rate_limit, counter) = (self.rate_limit.clone(), self.counter.clone());
        Body::new(
            exchange.response,
            exchange.location,
            exchange.in_flight,
            rate_limit,
            counter,
        )
    }

    /// Where requests for this URL go first.
    fn address(&self, location: &Location) -> Location {
        let address = self.transport.address(location);
        address.unwrap_or_else(|_| location.clone())
    }

    /// Where requests for this URL go, after known redirects.
    fn resolved(&self, location: &Location) -> Location {
        let resolved = self.redirects.resolved(location);
        resolved.unwrap_or_else(|| self.address(location))
    }

    /// The reputation of the URL's host, merged with that of the host that known redirects lead to. Times are Unix milliseconds.
    pub fn reputation(&self, location: &Location) -> Reputation {
        let first = self
            .options
            .hosts
            .reputation(&self.address(location).host());
        match self.redirects.resolved(location) {
            None => first,
            Some(resolved) => self
                .options
                .hosts
                .reputation(&resolved.host())
                .joined(first),
        }
    }

    /// Whether the host of this URL, after known redirects, sends several ranges in one response; `None`: not tried.
    pub fn sends_multi_range(&self, location: &Location) -> Option<bool> {
        // S3 sends one range at most.
        if location.is_in_s3() {
            return Some(false);
        }
        self.transport.sends_multi_range(&self.resolved(location))
    }

    /// Notes that the host of this URL, after known redirects, fails when several ranges are requested at once.
    pub fn refuses_multi_range(&self, location: &Location) {
        self.transport
            .note_multi_range(&self.resolved(location), false);
    }

    /// The state of hosts (how many connections they accept), shared with the client's clones.
    pub fn hosts(&self) -> &Hosts {
        &self.options.hosts
    }
}
