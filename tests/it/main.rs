//! One integration binary: one file a subject, linked once.

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
