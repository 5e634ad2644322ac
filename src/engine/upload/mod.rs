//! What both ends of an upload share.

pub mod content;
pub mod describe;
