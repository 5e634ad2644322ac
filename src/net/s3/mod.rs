//! Amazon S3, and services that are like it: names of objects, their addresses, and what errors say.
//!
//! Requests are signed by [`super::auth`].

pub mod name;
pub mod refusal;
pub mod service;
pub mod uploads;
mod xml;
