//! One integration binary: one file a subject, linked once.

#![allow(
    clippy::pedantic,
    clippy::type_complexity,
    reason = "it pays where code is called by others; a test is read from top to bottom"
)]

mod crashes;
mod fetch;
mod golden;
mod long;
mod mistakes;
mod nginx;
mod python;
mod roots;
mod simulation;
mod support;
mod tidy;
mod vectors;
