//! The use cases. Typed options in, typed events out; no terminal, no exit codes.

mod asked;
pub mod cat;
pub mod create;
pub mod error;
pub mod events;
pub mod fetch;
pub mod hosts;
pub mod inspect;
mod kept;
pub mod manifest_file;
mod receipt;
pub mod sign;
pub mod store;
pub mod survey;
pub mod verify;
