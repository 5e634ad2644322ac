//! The use cases. Typed options in, typed events out; no terminal and no exit codes.

pub mod against;
pub mod blocking;
mod cache;
pub mod cat;
pub mod connections;
pub mod context;
pub mod create;
pub mod error;
pub mod error_kind;
pub mod event_fields;
pub mod events;
pub mod fetch;
pub mod group_commit;
pub mod hashing;
pub mod host_memory;
pub mod ingest;
pub mod inspect;
pub mod library;
mod local;
pub mod manifest_file;
pub mod observed;
pub mod pack;
pub mod packed_object;
pub mod parts;
pub mod queue;
pub mod read;
// Its macro is used below.
#[macro_use]
mod remote;
pub mod push;
pub mod sign;
pub mod small;
pub mod storage;
pub mod store;
pub mod sync;
mod transfer;
pub mod trust;
pub mod upload;
pub mod verify;
