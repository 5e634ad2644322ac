//! Decisions without I/O: which failure has which remedy, what is fetched next, where to search, what is trusted. Pure like [`crate::format`].

pub mod attempts;
pub mod conditions;
pub mod descent;
pub mod filters;
pub mod packing;
pub mod parts;
pub mod recovery;
pub mod refusals;
pub mod reputation;
pub mod requests;
pub mod samples;
pub mod schedule;
pub mod sync;
pub mod upload;
