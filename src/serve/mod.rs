//! HTTP servers. Each takes its surroundings as arguments: a listener, the files to serve, and a signal to stop.

pub mod access;
pub mod connections;
pub mod gateway;
pub mod ingest;
pub mod media_types;
pub mod metrics;
pub mod multipart;
pub mod origin;
pub mod range;
pub mod representation;
pub mod status;
pub mod tls;
