//! Transferring the blocks of an object from its sources into a sink: the scheduler on real connections.
//!
//! [`driver::Driver`] knows no files. [`part`] runs it into a part with a journal, for `fetch`; `read` runs it into memory and
//! the store.

mod assembler;
mod claims;
mod digests;
pub mod driver;
mod first;
mod outcome;
pub mod part;
pub mod rate;
pub mod sink;
mod span;
