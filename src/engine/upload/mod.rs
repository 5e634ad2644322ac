//! What both ends of an upload share.

pub mod describe;
