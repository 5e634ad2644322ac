//! The clients of the HTTP library: how connections are made.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use reqwest::redirect;

use super::{CONNECT_MS, address::PublicResolver, client::ClientOptions, proxies};

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 over TLS, or to a proxy.
    One,
    /// HTTP/1.1 straight to the host.
    OneInTheClear,
    /// HTTP/2 over TLS, where it is agreed on.
    Two,
    /// HTTP/2 in the clear has no way to ask for it: it must be known.
    TwoInTheClear,
    /// HTTP/3: over QUIC, which is always encrypted, and past any proxy.
    #[cfg(feature = "http3")]
    Three,
}

/// The clients of the HTTP library, one for each way to connect.
#[derive(Default)]
pub struct Connectors([OnceLock<reqwest::Client>; 20]);

impl Connectors {
    /// `guarded`: it does not connect to private addresses. `fresh`: it uses no connection twice.
    pub fn get(
        &self,
        options: &ClientOptions,
        guarded: bool,
        fresh: bool,
        protocol: Protocol,
    ) -> Result<&reqwest::Client, reqwest::Error> {
        let slot = usize::from(guarded) | usize::from(fresh) << 1 | (protocol as usize) << 2;
        let slot = &self.0[slot];
        if let Some(client) = slot.get() {
            return Ok(client);
        }
        let client = build(options, guarded, fresh, protocol)?;
        Ok(slot.get_or_init(|| client))
    }
}

fn build(
    options: &ClientOptions,
    guarded: bool,
    fresh: bool,
    protocol: Protocol,
) -> Result<reqwest::Client, reqwest::Error> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("sapwood/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_millis(CONNECT_MS))
        .redirect(redirect::Policy::none())
        .referer(false)
        .tcp_nodelay(true);
    if fresh {
        builder = builder.pool_max_idle_per_host(0);
    }
    if proxies::are_off() {
        builder = builder.no_proxy();
    }
    if guarded {
        builder = builder.dns_resolver(Arc::new(PublicResolver));
    }
    if !options.authorities.is_empty() {
        builder =
            builder.tls_certs_merge(reqwest::Certificate::from_pem_bundle(&options.authorities)?);
    }
    match protocol {
        Protocol::One => builder.http1_only().build(),
        // The system's authorities are read only where they are asked: that takes longer than the first answers.
        Protocol::OneInTheClear => builder.tls_certs_only([]).http1_only().build(),
        // Without a window of their own size, streams that share a connection would be slow.
        Protocol::Two => builder.http2_adaptive_window(true).build(),
        Protocol::TwoInTheClear => builder.http2_prior_knowledge().build(),
        #[cfg(feature = "http3")]
        Protocol::Three => three(builder),
    }
}

/// A dead QUIC connection says nothing: it is given up after as long as a silent answer is, so that the next request makes
/// a new one.
#[cfg(feature = "http3")]
fn three(builder: reqwest::ClientBuilder) -> Result<reqwest::Client, reqwest::Error> {
    builder
        .http3_prior_knowledge()
        .http3_max_idle_timeout(Duration::from_millis(super::STALL_MS))
        .build()
}
