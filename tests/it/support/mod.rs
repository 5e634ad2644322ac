//! What the tests share: origins, programs, scenes, painted objects.

// Not every subject uses all of it.
#![allow(dead_code, reason = "each subject uses a part")]

pub mod bucket;
pub mod caddy;
pub mod claims;
pub mod faults;
pub mod ingest;
pub mod lies;
pub mod nginx;
pub mod objects;
pub mod origin;
pub mod pages;
pub mod painted;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod program;
pub mod programs;
pub mod proxy;
pub mod s3;
pub mod scene;
pub mod secrets;
pub mod servers;
pub mod site;
pub mod socks;
pub mod terminal;
pub mod tls;
pub mod transcript;
pub mod two;
pub mod uploads;

/// Whether the long forms run too: `SAPWOOD_LONG=1`, as `tools/torture --only long-tests` sets it.
pub fn long() -> bool {
    std::env::var_os("SAPWOOD_LONG").is_some_and(|value| value == "1")
}
