//! What is read of a remote object before its blocks: what its server says of it, and its manifest; and where its bytes come from.

mod in_order;
pub mod manifest;
pub mod preflight;
pub mod ranges;
pub mod retry;
pub mod source;
