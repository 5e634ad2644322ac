//! The HTTP client. Knows no disk.

pub mod address;
pub mod body;
pub mod client;
mod connectors;
pub mod content_range;
pub mod error;
pub mod hosts;
pub mod location;
pub mod multi_range;
pub mod multipart;
pub mod netrc;
mod probe;
mod proxies;
pub mod rate_limit;
pub mod repr_digest;
pub mod response;
pub mod validators;

/// A stall: fewer than [`STALL_BYTES`] in so many milliseconds while we were reading and not limiting.
pub const STALL_MS: u64 = 10_000;
/// See [`STALL_MS`].
pub const STALL_BYTES: u64 = 1_000;
/// The longest time to a connection.
pub const CONNECT_MS: u64 = 10_000;
