//! Moving the blocks of an object into its part: the scheduler on real connections.

mod assembler;
mod checkpoint;
mod claims;
mod digests;
pub mod driver;
mod outcome;
mod rate;
mod span;
