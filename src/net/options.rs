//! How a client makes requests.

use std::time::Duration;

use super::{
    CONNECT_MS, auth::Credentials, authorities::Authorities, hosts::Hosts, proxies::Proxy,
    s3::service::Service,
};

/// The version of HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Http {
    /// HTTP/1.1, because every span then has its own TCP connection; HTTP/2 where nothing else is offered.
    #[default]
    Auto,
    /// HTTP/1.1.
    One,
    /// HTTP/2: over TLS, or for an `http://` URL in the clear.
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
    /// Certificates that are trusted beside those of the system.
    pub authorities: Authorities,
    /// Fields and logins for the origins that the user typed.
    pub credentials: Credentials,
    /// Where objects in S3 are requested.
    pub s3: Service,
    /// Bytes a second over all connections.
    pub limit_rate: Option<u64>,
    /// The proxy of all requests, in place of those that the environment names.
    pub proxy: Option<Proxy>,
    /// The longest time to a connection; the default is 10 s.
    pub connect_timeout: Option<Duration>,
    /// Redirects may lead to private addresses.
    pub allow_private: bool,
    /// The state of hosts: how many connections they accept.
    pub hosts: Hosts,
}

impl ClientOptions {
    /// The longest time to a connection.
    pub(super) fn connect_timeout(&self) -> Duration {
        let default = Duration::from_millis(CONNECT_MS);
        self.connect_timeout.unwrap_or(default)
    }
}
