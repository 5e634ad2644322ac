//! Local files, synchronous. It does not use HTTP.

pub mod destination;
pub mod destinations;
pub mod durable;
mod entry;
pub mod error;
pub mod files;
pub mod group_commit;
pub mod growing;
mod holes;
pub mod journal;
pub mod lacking;
pub mod leaf_pages;
pub mod listing;
mod locks;
pub mod machine;
mod mapped;
mod names;
pub mod part;
pub mod quarantine;
pub mod reading;
pub mod regions;
pub mod replica;
pub mod seed;
pub mod sessions;
mod space;
pub mod staging;
pub mod state;
pub mod store;
pub mod streams;
pub mod temporary;
pub mod terminal;

pub mod walk;
pub mod watch;
