//! How a client makes requests.

use super::{auth::Credentials, hosts::Hosts, s3::service::Service};

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
    /// Certificates of authorities, PEM, that are trusted beside those of the system.
    pub authorities: Vec<u8>,
    /// Fields and logins for the origins that the user typed.
    pub credentials: Credentials,
    /// Where objects in S3 are requested.
    pub s3: Service,
    /// Bytes a second over all connections.
    pub limit_rate: Option<u64>,
    /// Redirects may lead to private addresses.
    pub allow_private: bool,
    /// The state of hosts: how many connections they accept.
    pub hosts: Hosts,
}
