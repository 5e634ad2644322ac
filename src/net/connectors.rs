//! The clients of the HTTP library: how connections are made.

use std::{
    error::Error,
    sync::{Arc, OnceLock},
};

use reqwest::redirect;

use super::{address::PublicResolver, options::ClientOptions, proxies};

/// The protocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 over TLS, or to a proxy.
    One,
    /// HTTP/1.1 straight to the host.
    OneInTheClear,
    /// HTTP/2 over TLS, negotiated by ALPN.
    Two,
    /// HTTP/2 in the clear, by prior knowledge: nothing negotiates it.
    TwoInTheClear,
    /// HTTP/3: over QUIC, which is always encrypted, and past any proxy.
    #[cfg(feature = "http3")]
    Three,
}

impl Protocol {
    /// What ALPN offers. HTTP/3 has its own.
    pub(super) fn names(self) -> Vec<Vec<u8>> {
        match self {
            Protocol::One | Protocol::OneInTheClear => vec![b"http/1.1".to_vec()],
            Protocol::Two => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Protocol::TwoInTheClear => vec![b"h2".to_vec()],
            #[cfg(feature = "http3")]
            Protocol::Three => vec![b"h3".to_vec()],
        }
    }
}

/// How a request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// It does not connect to private addresses.
    pub guarded: bool,
    /// It reuses no connection.
    pub fresh: bool,
    /// The protocol of the connection.
    pub protocol: Protocol,
}

/// The clients of the HTTP library, one for each route, made when they are first needed.
#[derive(Default)]
pub struct Connectors([OnceLock<reqwest::Client>; 20]);

impl Connectors {
    /// The client for this route. The options must be the same each time.
    pub fn get(&self, options: &ClientOptions, route: Route) -> Result<&reqwest::Client, NoClient> {
        let protocol = (route.protocol as usize) << 2;
        let slot = usize::from(route.guarded) | usize::from(route.fresh) << 1 | protocol;
        let slot = &self.0[slot];
        if let Some(client) = slot.get() {
            return Ok(client);
        }
        let client = build(options, route)?;
        Ok(slot.get_or_init(|| client))
    }
}

/// Why a client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum NoClient {
    /// Nothing says which servers to trust.
    #[error(
        "no certificate authorities are installed here, so that no server can be trusted (Debian has them in ca-certificates)"
    )]
    NoAuthorities,
    /// The HTTP library says so.
    #[error("{0}")]
    Http(String),
    /// The TLS library says so.
    #[error(transparent)]
    Tls(rustls::Error),
}

/// The TLS library's text for a system without certificate authorities. It has no kind of error for that.
const NO_AUTHORITIES: &str = "No CA certificates were loaded";

impl From<reqwest::Error> for NoClient {
    fn from(error: reqwest::Error) -> NoClient {
        // The HTTP library itself says "builder error", whatever it is.
        let mut cause: &dyn Error = &error;
        while let Some(below) = cause.source() {
            cause = below;
        }
        match cause.to_string() {
            text if text.contains(NO_AUTHORITIES) => NoClient::NoAuthorities,
            text => NoClient::Http(text),
        }
    }
}

impl From<rustls::Error> for NoClient {
    fn from(error: rustls::Error) -> NoClient {
        match error.to_string().contains(NO_AUTHORITIES) {
            true => NoClient::NoAuthorities,
            false => NoClient::Tls(error),
        }
    }
}

fn build(options: &ClientOptions, route: Route) -> Result<reqwest::Client, NoClient> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("sapwood/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(options.connect_timeout())
        .redirect(redirect::Policy::none())
        .referer(false)
        // Field names are case-insensitive, but some servers know only `Range`, as curl and browsers write it in HTTP/1.1.
        .http1_title_case_headers()
        .tcp_nodelay(true);
    if route.fresh {
        builder = builder.pool_max_idle_per_host(0);
    }
    if proxies::are_off() {
        builder = builder.no_proxy();
    } else if let Some(proxy) = &options.proxy {
        builder = builder.proxy(proxy.for_all()?);
    }
    if route.guarded {
        builder = builder.dns_resolver(Arc::new(PublicResolver));
    }
    if !options.authorities.is_empty() && route.protocol != Protocol::OneInTheClear {
        let tls = options.authorities.tls(route.protocol.names());
        builder = builder.tls_backend_preconfigured(tls?);
    }
    Ok(match route.protocol {
        Protocol::One => builder.http1_only().build(),
        // The system's authorities are not read: that takes longer than the first responses.
        Protocol::OneInTheClear => builder.tls_certs_only([]).http1_only().build(),
        // With windows of a fixed size, streams that share a connection would be slow.
        Protocol::Two => builder.http2_adaptive_window(true).build(),
        Protocol::TwoInTheClear => builder.http2_prior_knowledge().build(),
        #[cfg(feature = "http3")]
        Protocol::Three => three(builder),
    }?)
}

/// A dead QUIC connection sends nothing. Its idle timeout is that of a stalled response, so that the next request makes a new one.
#[cfg(feature = "http3")]
fn three(builder: reqwest::ClientBuilder) -> Result<reqwest::Client, reqwest::Error> {
    builder
        .http3_prior_knowledge()
        .http3_max_idle_timeout(std::time::Duration::from_millis(super::STALL_MS))
        .build()
}
