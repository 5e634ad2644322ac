//! HTTP servers. Each takes its world as arguments: a listener, what it serves, and what stops it.

pub mod multipart;
pub mod origin;
pub mod range;
pub mod representation;
