//! Libraries: a folder and its index (library.md).

pub mod create;
pub mod earlier;
pub mod verify;
