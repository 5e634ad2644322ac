//! Libraries: a folder and its index (library.md).

pub mod create;
mod earlier;
pub mod verify;
