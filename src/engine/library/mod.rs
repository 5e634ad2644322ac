//! Libraries: a folder and its index (library.md).

pub mod create;
pub mod earlier;
pub mod listing;
pub mod remote;
pub mod spooled;
pub mod verify;
