//! The pure core: formats, proof, plans and decisions. No files, sockets, clocks, threads or async code.

pub mod anchors;
pub mod blockset;
pub mod codec;
pub mod descent;
pub mod digests;
pub mod geometry;
pub mod journal;
pub mod judge;
pub mod keys;
pub mod layout;
pub mod manifest;
pub mod offered;
#[doc(hidden)]
pub mod paint;
pub mod pieces;
pub mod plan;
pub mod reader;
pub mod receipt;
pub mod recovery;
pub mod reputation;
pub mod samples;
pub mod schedule;
pub mod statement;
pub mod tree;
pub mod trust;
