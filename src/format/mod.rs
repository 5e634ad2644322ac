//! Every byte format that is written down, and the proof. Pure: no files, sockets, clocks, threads or async code.

pub mod anchors;
pub mod blockset;
pub mod characters;
pub mod codec;
pub mod compression;
pub mod digests;
pub mod geometry;
pub mod ingest;
pub mod journal;
pub mod judge;
pub mod keys;
pub mod layout;
pub mod leaves;
pub mod library;
pub mod manifest;
pub mod notice;
pub mod pack;
#[doc(hidden)]
pub mod paint;
pub mod part;
pub mod pieces;
pub mod reader;
pub mod receipt;
pub mod refused;
pub mod signature;
pub mod statement;
pub mod tree;
pub mod trust;
pub mod upload;
pub mod validators;
