//! One integration binary: one file a subject, linked once.

#![allow(
    clippy::pedantic,
    clippy::type_complexity,
    reason = "it pays where code is called by others; a test is read from top to bottom"
)]

mod bar;
mod below;
mod cat;
mod copies;
mod corpora;
mod crashes;
mod delta;
mod digests;
mod documents;
mod exits;
mod fetch;
mod follow;
mod gateway;
mod golden;
mod habits;
mod hosts;
mod ingest;
mod ingest_faults;
mod ingest_http;
mod ingest_parts;
mod ingest_streams;
mod inspect;
mod library;
mod long;
mod memory;
mod mirrors;
mod mistakes;
mod nginx;
#[cfg(feature = "postgres")]
mod operating;
mod origin;
mod pack;
mod packed;
mod packed_pages;
mod parts;
mod pipes;
mod plain;
#[cfg(feature = "postgres")]
mod postgres;
mod prompts;
mod proxies;
mod publish;
mod push;
mod push_s3;
mod python;
mod rates;
mod read;
mod recipes;
mod roots;
mod round_trips;
mod s3;
mod s3_storage;
mod secrets;
mod serve;
mod servers;
mod session_stores;
mod several;
mod silence;
mod simulation;
mod small;
mod staged;
mod store;
mod storms;
mod streams;
mod suggestions;
mod support;
mod sync;
mod tidy;
mod transport;
mod trust;
mod uploads;
mod vectors;
mod versions;
mod wants;
mod web;
