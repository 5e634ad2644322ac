//! Requests and their answers: one GET, perhaps for a range, redirects followed by our rules, the answer's headers checked before
//! a byte of the body is used.

mod sending;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use reqwest::{
    Response,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};

use crate::{
    format::geometry::ByteRange,
    policy::{
        recovery::{BadAnswer, Changed, Failure},
        reputation::Reputation,
    },
};

use super::{
    address::is_private,
    body::Body,
    connectors::Connectors,
    error::NetError,
    hosts::{Asking, Hosts},
    location::Location,
    multi_range::boundary_of,
    netrc::Netrc,
    proxies::Proxies,
    rate_limit::Pace,
    response::Head,
};

pub use super::{
    multi_range::{Parts, Several},
    response::{Answer, Content},
    validators::Validators,
};

/// More redirects than this are a loop.
const REDIRECTS_MAX: usize = 5;

/// The version of HTTP that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Http {
    /// HTTP/1.1, because every span then has its own TCP connection; HTTP/2 where nothing else is offered.
    #[default]
    Auto,
    /// HTTP/1.1.
    One,
    /// HTTP/2, over TLS or, where the user says so, in the clear.
    Two,
    /// HTTP/3, and nothing else.
    #[cfg(feature = "http3")]
    Three,
}

/// How requests are made.
#[derive(Clone, Debug, Default)]
pub struct ClientOptions {
    /// The version of HTTP.
    pub http: Http,
    /// Certificates of authorities, PEM, that are trusted beside those of the system.
    pub authorities: Vec<u8>,
    /// Logins for the hosts that the user named.
    pub netrc: Netrc,
    /// Sent to the hosts that the user named, and to no other.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Bytes a second over all connections.
    pub limit_rate: Option<u64>,
    /// A server may lead to private addresses.
    pub allow_private: bool,
    /// What hosts have earned.
    pub hosts: Hosts,
}

/// An HTTP client; its clones share connections, pace and what was learnt of hosts.
#[derive(Clone, Default)]
pub struct Client {
    options: Arc<ClientOptions>,
    /// Counts every body byte that arrives.
    counter: Arc<AtomicU64>,
    /// Made when they are first needed.
    connectors: Arc<Connectors>,
    proxies: Arc<Proxies>,
    /// Hosts that speak nothing but HTTP/2.
    only_two: Arc<Mutex<HashSet<String>>>,
    pace: Arc<Pace>,
    /// Where redirects from these URLs led last, and whether that place must be public.
    resolved: Arc<Mutex<HashMap<String, (Location, bool)>>>,
    answered: Arc<Mutex<HashMap<String, Answered>>>,
}

/// What is known of a host that answered.
#[derive(Clone, Copy, Debug)]
struct Answered {
    /// From a public address: it must not lead inside later.
    public: bool,
    /// No request to it broke since.
    last: bool,
    /// Whether it sends several ranges in one answer; `None`: nobody asked.
    several: Option<bool>,
}

/// What to ask for.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The object.
    pub location: &'a Location,
    /// `None`: all of it.
    pub range: Option<ByteRange>,
    /// More ranges, for [`Client::get_several`].
    pub more: &'a [ByteRange],
    /// The version that is wanted; another one is an error, as far as the server can tell.
    pub version: Option<&'a Validators>,
}

impl<'a> Request<'a> {
    /// For all of whatever is there.
    pub fn whole(location: &'a Location) -> Request<'a> {
        Request {
            location,
            range: None,
            more: &[],
            version: None,
        }
    }

    /// For a range of whatever is there.
    pub fn range(location: &'a Location, range: ByteRange) -> Request<'a> {
        Request {
            location,
            range: Some(range),
            more: &[],
            version: None,
        }
    }
}

impl Client {
    /// A client that nobody shares yet.
    pub fn new(options: ClientOptions) -> Client {
        Client {
            pace: Arc::new(Pace::new(options.limit_rate)),
            options: Arc::new(options),
            ..Client::default()
        }
    }

    /// The same client, counting by itself; who keeps the counter can read it even when a run was dropped.
    #[must_use]
    pub fn counting(&self, counter: Arc<AtomicU64>) -> Client {
        Client {
            counter,
            ..self.clone()
        }
    }

    /// All bytes of bodies that arrived so far.
    pub fn bytes_fetched(&self) -> u64 {
        self.counter.load(Ordering::Relaxed)
    }

    /// Bytes a second over all connections, if there is a limit.
    pub fn limit_rate(&self) -> Option<u64> {
        self.options.limit_rate
    }

    /// One GET. A 200 is a whole object even if a range was asked for; the caller decides what that means.
    pub async fn get(&self, request: Request<'_>) -> Result<Answer, NetError> {
        let (response, location, asking) = self.served(request).await?;
        let head = Head::read(&response).map_err(|failure| NetError::new(&location, failure))?;
        Self::check_version(request, &head, &location)?;
        Ok(head.with_body(self.body(response, location, asking)))
    }

    /// One GET for several ranges. Many servers answer with one part, or with everything, instead.
    pub async fn get_several(&self, request: Request<'_>) -> Result<Several, NetError> {
        let (response, location, asking) = self.served(request).await?;
        let parts = boundary_of(&response);
        self.note_several(&location, parts.is_some());
        let Some((boundary, validators)) = parts else {
            let head =
                Head::read(&response).map_err(|failure| NetError::new(&location, failure))?;
            Self::check_version(request, &head, &location)?;
            let body = self.body(response, location, asking);
            return Ok(Several::One(Box::new(head.with_body(body))));
        };
        if request
            .version
            .is_some_and(|wanted| wanted.differ(&validators))
        {
            return Err(NetError::changed(&location, Changed::Validator));
        }
        let body = self.body(response, location, asking);
        Ok(Several::Parts(Box::new(Parts::new(&boundary, body))))
    }

    /// Sends a request, and judges the status of the answer.
    async fn served(&self, request: Request<'_>) -> Result<(Response, Location, Asking), NetError> {
        let (response, location, asking) = self.follow(request).await?;
        let status = response.status().as_u16();
        let headers = response.headers();
        if let Some(mut failure) = Failure::of_status(status, retry_after_ms(headers)) {
            if let Failure::TooMany { retry_after_ms, .. } = &mut failure {
                // From now on nobody asks there; so long it will be.
                let rest_ms = self
                    .options
                    .hosts
                    .too_many(&location.host(), *retry_after_ms);
                *retry_after_ms = Some(rest_ms);
            }
            return Err(NetError::new(&location, failure));
        }
        self.options.hosts.served(&location.host());
        Ok((response, location, asking))
    }

    fn check_version(
        request: Request<'_>,
        head: &Head,
        location: &Location,
    ) -> Result<(), NetError> {
        if request
            .version
            .is_none_or(|wanted| !wanted.differ(&head.validators))
        {
            return Ok(());
        }
        // A page without a tag of its own is no version of anything.
        let page = head.is_page && !head.validators.are_strong();
        Err(match page {
            true => NetError::new(location, Failure::BadAnswer(BadAnswer::Page)),
            false => NetError::changed(location, Changed::Validator),
        })
    }

    fn body(&self, response: Response, location: Location, asking: Asking) -> Body {
        let (pace, counter) = (self.pace.clone(), self.counter.clone());
        Body::new(response, location, asking, pace, counter)
    }

    /// What the host has earned that requests for this place go to, as far as redirects are known; times are Unix milliseconds.
    pub fn reputation(&self, location: &Location) -> Reputation {
        let resolved = self.resolved().get(location.url().as_str()).cloned();
        let place = resolved.as_ref().map_or(location, |(place, _)| place);
        let own = self.options.hosts.reputation(&place.host());
        match place == location {
            true => own,
            false => own.joined(self.options.hosts.reputation(&location.host())),
        }
    }

    /// Whether the host of this place, as far as redirects are known, sends several ranges in one answer; `None`: nobody asked.
    pub fn sends_several(&self, location: &Location) -> Option<bool> {
        let resolved = self.resolved().get(location.url().as_str()).cloned();
        let place = resolved.as_ref().map_or(location, |(place, _)| place);
        self.answered().get(&place.host())?.several
    }

    fn note_several(&self, location: &Location, several: bool) {
        if let Some(known) = self.answered().get_mut(&location.host()) {
            known.several = Some(several);
        }
    }

    /// What is known of hosts, for this client and all that share it.
    pub fn hosts(&self) -> &Hosts {
        &self.options.hosts
    }

    /// Sends the request to where its redirects led last, or follows them. A signed address expires: when it is refused, the
    /// first URL is asked once more, and what that leads to counts.
    async fn follow(&self, request: Request<'_>) -> Result<(Response, Location, Asking), NetError> {
        let refused = |status: u16| matches!(status, 401 | 403 | 404 | 410);
        let known = self
            .resolved()
            .get(request.location.url().as_str())
            .cloned();
        if let Some((location, guarded)) = known {
            let (response, asking) = self.send(request, &location, guarded).await?;
            let status = response.status().as_u16();
            if !refused(status) && !matches!(status, 301..=308) {
                return Ok((response, location, asking));
            }
            self.resolved().remove(request.location.url().as_str());
            return self.follow_anew(request).await;
        }
        let answer = self.follow_anew(request).await?;
        match refused(answer.0.status().as_u16()) && answer.1 != *request.location {
            true => self.follow_anew(request).await,
            false => Ok(answer),
        }
    }

    /// Follows redirects from the first URL on.
    async fn follow_anew(
        &self,
        request: Request<'_>,
    ) -> Result<(Response, Location, Asking), NetError> {
        let mut location = request.location.clone();
        let mut guarded = false;
        for _ in 0..=REDIRECTS_MAX {
            let (response, asking) = self.send(request, &location, guarded).await?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                if location != *request.location {
                    self.resolved().insert(
                        request.location.url().to_string(),
                        (location.clone(), guarded),
                    );
                }
                return Ok((response, location, asking));
            }
            (location, guarded) = self.next_step(&location, &response, guarded)?;
        }
        Err(NetError::new(request.location, Failure::Redirects))
    }

    fn resolved(&self) -> MutexGuard<'_, HashMap<String, (Location, bool)>> {
        self.resolved
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Where a redirect leads, and whether that place must be public, if it may be followed.
    fn next_step(
        &self,
        from: &Location,
        response: &Response,
        guarded: bool,
    ) -> Result<(Location, bool), NetError> {
        let nowhere = || NetError::new(from, Failure::Redirects);
        let unsafe_step = || NetError::new(from, Failure::Unsafe);
        let target = response
            .headers()
            .get(header::LOCATION)
            .and_then(|value| value.to_str().ok())
            .ok_or_else(nowhere)?;
        let target = from.join(target).ok_or_else(nowhere)?;
        let next = Location::from_url(target).ok_or_else(unsafe_step)?;
        if from.is_https() && !next.is_https() {
            return Err(unsafe_step());
        }
        // Who is at a private address already may lead to others; the open internet may not lead inside.
        let from_public = !is_private_literal(from)
            && (self.is_proxied(from)
                || response
                    .remote_addr()
                    .is_none_or(|address| !is_private(address.ip())));
        let guarded = (guarded || from_public) && !self.options.allow_private;
        match guarded && is_private_literal(&next) {
            true => Err(unsafe_step()),
            false => Ok((next, guarded)),
        }
    }
}

/// Whether the URL itself has a private address as its host.
fn is_private_literal(location: &Location) -> bool {
    match location.url().host() {
        Some(url::Host::Ipv4(address)) => is_private(address.into()),
        Some(url::Host::Ipv6(address)) => is_private(address.into()),
        Some(url::Host::Domain(_)) | None => false,
    }
}

/// `Retry-After` (RFC 9110, 10.2.3) as a time from now: seconds or a date; nonsense is read as not given.
fn retry_after_ms(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse::<u64>() {
        Ok(seconds) => Some(seconds.saturating_mul(1000)),
        Err(_) => {
            let at = httpdate::parse_http_date(text).ok()?;
            let wait = at
                .duration_since(std::time::SystemTime::now())
                .unwrap_or_default();
            Some(wait.as_millis().try_into().unwrap_or(u64::MAX))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server of another name may answer with an inside address the next time its name is looked up.
    #[tokio::test]
    async fn a_public_name_may_not_become_private() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let place = Location::parse(&format!("http://localhost:{port}/x")).unwrap();
        for (allow_private, refused) in [(false, true), (true, false)] {
            let client = Client::new(ClientOptions {
                allow_private,
                ..ClientOptions::default()
            });
            let known = Answered {
                public: true,
                last: true,
                several: None,
            };
            client.answered().insert(place.host(), known);
            let asked = client.get(Request::whole(&place));
            let failure = tokio::select! {
                answer = asked => answer.err().map(|error| error.failure),
                connection = listener.accept() => {
                    connection.unwrap();
                    None
                }
            };
            assert_eq!(failure == Some(Failure::Unsafe), refused, "{failure:?}");
        }
    }
}
