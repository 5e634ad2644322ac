//! The HTTP client. It uses neither files nor the database.
//!
//! [`client::Client::send`] is the entry point. It passes a [`request::Request`] to `redirect`, which follows redirects by our
//! rules and sends each step by `transport`; there `auth` adds the fields that are for the typed origin only. An object in S3 is
//! requested at an address that [`s3`] knows, and its requests are signed. The result is a
//! [`response::Response`], whose head was checked and whose [`body::Body`] was not read yet.

pub mod address;
pub mod auth;
pub mod authorities;
pub mod body;
pub mod client;
mod connectors;
mod content_disposition;
pub mod content_range;
#[cfg(feature = "postgres")]
pub mod database_tls;
pub mod error;
pub mod hosts;
mod judged;
mod link;
pub mod location;
pub mod multi_range;
pub mod multipart;
pub mod options;
mod probe;
pub mod proxies;
mod rate_limit;
mod redirect;
pub mod repr_digest;
pub mod request;
mod request_log;
pub mod response;
pub mod s3;
mod sending;
mod transport;
pub mod validators;

/// A stall: fewer than [`STALL_BYTES`] in this many milliseconds of reading, not counting time spent on the rate limit.
pub const STALL_MS: u64 = 10_000;
/// See [`STALL_MS`].
pub const STALL_BYTES: u64 = 1_000;
/// The longest time to a connection, unless the caller says otherwise.
pub const CONNECT_MS: u64 = 10_000;
