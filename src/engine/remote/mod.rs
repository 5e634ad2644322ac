//! What is read of a remote object before its blocks: what its server says of it, and its manifest.

mod in_order;
pub mod manifest;
pub mod preflight;
pub mod ranges;
pub mod retry;

/// A server may round the start of a range down, to a page or a sector. One that begins earlier than this ignores what it is
/// asked for, and each request would read over the same bytes.
pub const EARLY_BYTES_MAX: u64 = 1 << 20;
