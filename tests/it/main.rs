//! One integration binary: one file a subject, linked once.

mod simulation;
