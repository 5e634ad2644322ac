//! One request to one URL: protocol, connection, fields, and the facts about the host that the response shows.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use reqwest::{Response, Version};
use tokio::time::timeout;

use crate::policy::recovery::{BadResponse, Failure};

use super::{
    CONNECT_MS, STALL_MS,
    address::{is_private, is_private_literal, resolves_to_private},
    auth::{Payload, Token},
    connectors::{Connectors, Protocol, Route},
    error::{self, NetError},
    hosts::InFlight,
    location::Location,
    options::{ClientOptions, Http},
    probe::probe,
    proxies::Proxies,
    rate_limit::RateLimit,
    request::{Body, Request},
    request_log,
    s3::{refusal::Refusal, service::S3},
    sending::Sending,
};

/// See [`Transport::headers_ms`].
const HEADERS_MORE_MS: u64 = CONNECT_MS / 5;
/// The time limit for a request that an S3 service does before it responds: it copies up to 5 GiB, or joins 10,000 parts.
const WORK_MS: u64 = 300_000;
/// The message of the TLS library when client and server have no common version of HTTP.
const NO_COMMON_PROTOCOL: &str = "NoApplicationProtocol";

/// Sends requests. Connectors and facts are shared by all requests of a client.
pub struct Transport {
    options: Arc<ClientOptions>,
    /// Created at their first use.
    connectors: Connectors,
    proxies: Proxies,
    rate_limit: Arc<RateLimit>,
    /// Hosts that offer nothing but HTTP/2.
    http2_only: Mutex<HashSet<String>>,
    facts: Mutex<HashMap<String, HostFacts>>,
    s3: S3,
}

/// A response whose body was not read.
pub struct Exchange {
    /// The response of the HTTP library.
    pub response: Response,
    /// The URL of the response.
    pub location: Location,
    /// The request counts as running until this is dropped.
    pub in_flight: InFlight,
    /// Why S3 refused the request; the body was read for it.
    pub refusal: Option<Refusal>,
    /// See [`S3::ahead_s`], when the request was sent.
    pub ahead_s: i64,
}

/// What a response showed about its host.
#[derive(Clone, Copy, Debug)]
struct HostFacts {
    /// The host has a public address: its name must not resolve to a private one later.
    public: bool,
    /// No request broke since the last response.
    unbroken: bool,
    /// Whether it sends several ranges in one response; `None`: not tried.
    multi_range: Option<bool>,
}

impl Transport {
    /// Without connections or facts.
    pub fn new(options: Arc<ClientOptions>, rate_limit: Arc<RateLimit>) -> Transport {
        Transport {
            s3: S3::new(options.s3.clone()),
            proxies: Proxies::chosen(options.proxy.as_ref()),
            options,
            rate_limit,
            connectors: Connectors::default(),
            http2_only: Mutex::default(),
            facts: Mutex::default(),
        }
    }

    /// Whether redirects may lead to private addresses.
    pub fn allows_private(&self) -> bool {
        self.options.allow_private
    }

    /// Whether requests to this URL go through a proxy. The connection is then to the proxy's address, so that only an address
    /// literal in the URL shows where a response comes from.
    pub fn is_proxied(&self, location: &Location) -> bool {
        self.proxy(location).is_some()
    }

    /// Host and port of the proxy for requests to this URL.
    fn proxy(&self, location: &Location) -> Option<String> {
        match self.options.http {
            // HTTP/3 ignores proxies.
            #[cfg(feature = "http3")]
            Http::Three => None,
            _ => self.proxies.of(location),
        }
    }

    /// Where requests for this URL go first: for an object in S3 to its address, for others to the URL itself.
    pub fn address(&self, location: &Location) -> Result<Location, NetError> {
        let is_signed = self.options.credentials.keys.is_some();
        self.s3.address(location, is_signed)
    }

    /// Where a redirect from one URL to another leads: at the same S3 service, to an address in S3.
    pub fn redirected(&self, from: &Location, to: Location) -> Location {
        self.s3.redirected(from, to)
    }

    /// Whether a refusal of S3 showed that the region or the time of the request was wrong; the next one has others.
    pub fn learns_from(&self, exchange: &Exchange) -> bool {
        let (at, headers) = (&exchange.location, exchange.response.headers());
        let refusal = exchange.refusal.as_ref();
        refusal.is_some_and(|refusal| self.s3.learn(at, exchange.ahead_s, headers, refusal))
    }

    /// A URL for which this request to an address in S3 needs no credentials; see [`Credentials::presigned`].
    ///
    /// [`Credentials::presigned`]: super::auth::Credentials::presigned
    pub fn presigned(&self, request: &Request<'_>, seconds: u32) -> Result<Location, NetError> {
        let address = self.address(request.target)?;
        let (method, fields) = (request.method.name(), request.required_fields());
        let credentials = &self.options.credentials;
        let url = credentials.presigned(method, &address, &fields, self.s3.now(), seconds);
        Location::from_url(url).ok_or_else(|| NetError::new(request.target, Failure::Redirects))
    }

    /// What a refusal of S3 says, without our credentials.
    pub fn told(&self, refusal: &Refusal) -> Option<String> {
        let keys = self.options.credentials.keys.as_ref();
        refusal.told(&keys.map_or_else(Vec::new, |keys| keys.secrets()))
    }

    /// Whether the last response of this host came from a public address. `None`: it sent none yet.
    pub fn is_public(&self, location: &Location) -> Option<bool> {
        let facts = self.facts.lock();
        facts.get(&location.host()).map(|facts| facts.public)
    }

    /// Whether the host of this URL sends several ranges in one response; `None`: not tried.
    pub fn sends_multi_range(&self, location: &Location) -> Option<bool> {
        self.facts.lock().get(&location.host())?.multi_range
    }

    /// See [`Transport::sends_multi_range`].
    pub fn note_multi_range(&self, location: &Location, multi_range: bool) {
        if let Some(facts) = self.facts.lock().get_mut(&location.host()) {
            facts.multi_range = Some(multi_range);
        }
    }

    /// Sends the request to `location`: its target, or the URL of a redirect. `guarded`: refuse private addresses.
    pub async fn exchange(
        &self,
        request: &Request<'_>,
        location: &Location,
        guarded: bool,
    ) -> Result<Exchange, NetError> {
        let proxied = self.is_proxied(location);
        check_token(request, location, proxied)?;
        let in_flight = self.options.hosts.begin(location.host());
        let in_flight = in_flight
            .map_err(|wait_ms| NetError::new(location, Failure::RetryAfter { wait_ms }))?;
        if guarded && proxied && !may_pass_proxy(request, location).await {
            return Err(NetError::new(location, Failure::Unsafe));
        }
        let guarded = guarded && !proxied;
        let protocol = self.protocol(location, proxied)?;
        if !proxied {
            let limit = self.options.connect_timeout();
            probe_first(location, guarded, limit, &in_flight).await?;
        }
        let known = self.facts.lock().get(&location.host()).copied();
        // A name that resolved to a public address must not resolve to a private one later.
        let was_public = known.is_some_and(|known| known.public);
        let guarded = guarded || (was_public && !proxied && !self.options.allow_private);
        let route = Route {
            guarded,
            fresh: false,
            protocol,
        };
        let ahead_s = self.s3.ahead_s();
        let mut response = match self.send_or_adapt(request, location, route, known).await {
            Ok(response) => response,
            Err(error) => {
                if matches!(error.failure, Failure::Unreachable | Failure::Stalled) {
                    in_flight.mark_unreachable();
                }
                return Err(error);
            }
        };
        in_flight.mark_reachable();
        let is_public = |address: SocketAddr| !is_private(address.ip());
        let facts = HostFacts {
            public: !proxied && response.remote_addr().is_some_and(is_public),
            unbroken: true,
            multi_range: known.and_then(|known| known.multi_range),
        };
        self.facts.lock().insert(location.host(), facts);
        let is_refused = location.s3_region().is_some() && response.status().as_u16() >= 300;
        let refusal = match is_refused {
            true => Some(Refusal::read(&mut response).await),
            false => None,
        };
        Ok(Exchange {
            refusal,
            ahead_s,
            response,
            location: location.clone(),
            in_flight,
        })
    }

    #[allow(
        clippy::unnecessary_wraps,
        reason = "builds with HTTP/3 refuse it in the clear"
    )]
    fn protocol(&self, location: &Location, proxied: bool) -> Result<Protocol, NetError> {
        Ok(match self.options.http {
            Http::Two => http2(location),
            Http::Auto if self.http2_only.lock().contains(&location.host()) => http2(location),
            Http::Auto | Http::One if location.is_https() || proxied => Protocol::One,
            Http::Auto | Http::One => Protocol::OneInTheClear,
            #[cfg(feature = "http3")]
            Http::Three if location.is_https() => Protocol::Three,
            #[cfg(feature = "http3")]
            Http::Three => {
                let detail = "HTTP/3 requires https";
                return Err(NetError::with_detail(location, Failure::Tls, detail));
            }
        })
    }

    /// Sends the request, and once more in another way if that can help. The second try may repeat a request that the server
    /// already processed: all are idempotent, and every request body can be produced again.
    async fn send_or_adapt(
        &self,
        request: &Request<'_>,
        location: &Location,
        route: Route,
        known: Option<HostFacts>,
    ) -> Result<Response, NetError> {
        let error = match self.send_by(route, request, location).await {
            Err(error) => error,
            sent => return sent,
        };
        // A server that sent responses before speaks HTTP: this was the rest of one, and as good as a break.
        let error = match error.failure {
            Failure::BadResponse(BadResponse::NotHttp) if known.is_some() => {
                NetError::new(location, Failure::Broken)
            }
            _ => error,
        };
        if error.failure == Failure::Broken
            && route.protocol == Protocol::TwoInTheClear
            && known.is_none()
            && self.responds_by_http1(request, location, route).await
        {
            return Err(NetError::new(location, Failure::NoHttp2));
        }
        // TLS failed only for the protocol: the server does not offer HTTP/1.1.
        if error.failure == Failure::Tls
            && error.detail().contains(NO_COMMON_PROTOCOL)
            && self.options.http == Http::Auto
            && route.protocol == Protocol::One
        {
            self.http2_only.lock().insert(location.host());
            let protocol = http2(location);
            let route = Route { protocol, ..route };
            return self.send_by(route, request, location).await;
        }
        // A server may close an idle connection just when it is reused. One such break is not a failure of the server.
        let is_small = !matches!(request.body, Body::Content(_));
        if error.failure == Failure::Broken && is_small && known.is_some_and(|known| known.unbroken)
        {
            if let Some(facts) = self.facts.lock().get_mut(&location.host()) {
                facts.unbroken = false;
            }
            let route = Route {
                fresh: true,
                ..route
            };
            return self.send_by(route, request, location).await;
        }
        Err(error)
    }

    /// Whether a server that breaks connections in HTTP/2 responds in HTTP/1.1.
    async fn responds_by_http1(
        &self,
        request: &Request<'_>,
        location: &Location,
        route: Route,
    ) -> bool {
        let protocol = match self.is_proxied(location) {
            true => Protocol::One,
            false => Protocol::OneInTheClear,
        };
        let is_small = !matches!(request.body, Body::Content(_));
        let route = Route { protocol, ..route };
        is_small && self.send_by(route, request, location).await.is_ok()
    }

    /// The time limit for connecting and the header section together: a slow connection leaves less for the response.
    fn headers_ms(&self) -> u64 {
        let connect_ms = self.options.connect_timeout().as_millis() as u64;
        STALL_MS.max(connect_ms) + HEADERS_MORE_MS
    }

    /// An error of the HTTP library, with the proxy that the request went to.
    fn error_of(&self, location: &Location, cause: &reqwest::Error) -> NetError {
        let proxy = self.proxy(location);
        NetError::from_reqwest(location, proxy.as_deref(), cause)
    }

    async fn send_by(
        &self,
        route: Route,
        request: &Request<'_>,
        location: &Location,
    ) -> Result<Response, NetError> {
        let client = self.connectors.get(&self.options, route);
        let client = client
            .map_err(|cause| NetError::with_detail(location, Failure::Tls, cause.to_string()))?;
        let method = request.method.name();
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("it is a method");
        // Our own fields come second: they replace fields of the user with the same name.
        let credentials = &self.options.credentials;
        let mut fields = credentials.fields_for(request.typed(), location);
        if let Some(token) = request.token {
            token.add_to(&mut fields, request.typed(), location);
        }
        fields.extend(request.fields());
        let payload = match &request.body {
            Body::Empty => Payload::Bytes(&[]),
            Body::Bytes { bytes, .. } => Payload::Bytes(bytes),
            Body::Content(_) => Payload::Unsigned,
        };
        let now = self.s3.now();
        let signature = credentials.signature(method.as_str(), location, &fields, payload, now);
        let builder = client
            .request(method, location.url().clone())
            .headers(fields)
            .headers(signature);
        #[cfg(feature = "http3")]
        let builder = match route.protocol {
            // Without the version the request goes over TCP, in another version of HTTP.
            Protocol::Three => builder.version(Version::HTTP_3),
            _ => builder,
        };
        let (builder, sending) = match &request.body {
            Body::Empty => (builder, None),
            Body::Bytes { bytes, .. } => (builder.body(bytes.clone()), None),
            Body::Content(content) => {
                let (body, sending) = Sending::start(content, self.rate_limit.clone());
                (builder.body(body), Some(sending))
            }
        };
        let began = Instant::now();
        let limit_ms = self.headers_ms();
        let response = match sending {
            Some(sending) => sending.unless_stalled(limit_ms, builder.send()).await,
            None => {
                let limit = Duration::from_millis(match request.is_work_for(location) {
                    true => WORK_MS,
                    false => limit_ms,
                });
                timeout(limit, builder.send()).await.ok()
            }
        };
        let response = match response {
            Some(Ok(response)) => Ok(response),
            Some(Err(cause)) => Err(self.error_of(location, &cause)),
            None => Err(NetError::new(location, Failure::Stalled)),
        };
        request_log::log(request, location, &response, began.elapsed());
        let response = response?;
        // ALPN offers HTTP/1.1 too, to learn whether there is no TLS or no HTTP/2.
        let needs_http2 = self.options.http == Http::Two && route.protocol == Protocol::Two;
        match needs_http2 && response.version() < Version::HTTP_2 {
            true => Err(NetError::new(location, Failure::NoHttp2)),
            false => Ok(response),
        }
    }
}

/// Refuses to send a token where others can read it.
fn check_token(request: &Request<'_>, location: &Location, proxied: bool) -> Result<(), NetError> {
    let is_sent = request.token.is_some() && location.same_origin(request.typed());
    let is_safe = Token::is_safe_for(location) && (location.is_https() || !proxied);
    if !is_sent || is_safe {
        return Ok(());
    }
    let detail = "a token is not sent over plain http, except to this machine and past proxies";
    Err(NetError::with_detail(location, Failure::Unsafe, detail))
}

fn http2(location: &Location) -> Protocol {
    match location.is_https() {
        true => Protocol::Two,
        false => Protocol::TwoInTheClear,
    }
}

/// Behind a proxy we do not see the address it connects to. Refuse a redirect whose name resolves here to a private address; a
/// name that does not resolve here is the proxy's decision. The origin the user typed is not checked.
async fn may_pass_proxy(request: &Request<'_>, location: &Location) -> bool {
    location.same_origin(request.typed())
        || match location.url().host() {
            Some(url::Host::Domain(name)) => !resolves_to_private(name).await,
            _ => !is_private_literal(location),
        }
}

/// Probes a host that was unreachable. One request probes; the others wait for the result.
async fn probe_first(
    location: &Location,
    guarded: bool,
    limit: Duration,
    in_flight: &InFlight,
) -> Result<(), NetError> {
    if !in_flight.needs_probe() {
        return Ok(());
    }
    let probe_lock = in_flight.probe_lock();
    let _one_at_a_time = probe_lock.lock().await;
    if in_flight.needs_probe() {
        probe(location, guarded, limit)
            .await
            .map_err(|cause| NetError::unreachable(location, None, &error::why(&cause)))?;
        in_flight.mark_reachable();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The name of a public host may resolve to a private address the next time.
    #[tokio::test]
    async fn a_public_name_may_not_become_private() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let place = Location::parse(&format!("http://localhost:{port}/x")).unwrap();
        for (allow_private, refused) in [(false, true), (true, false)] {
            let options = ClientOptions {
                allow_private,
                ..ClientOptions::default()
            };
            let transport = Transport::new(Arc::new(options), Arc::default());
            let known = HostFacts {
                public: true,
                unbroken: true,
                multi_range: None,
            };
            transport.facts.lock().insert(place.host(), known);
            let request = Request::whole(&place);
            let sent = transport.exchange(&request, &place, false);
            let failure = tokio::select! {
                exchange = sent => exchange.err().map(|error| error.failure),
                connection = listener.accept() => {
                    connection.unwrap();
                    None
                }
            };
            assert_eq!(failure == Some(Failure::Unsafe), refused, "{failure:?}");
        }
    }
}
