//! What a use case tells while it runs. The program prints them as progress or as JSON; a library's caller does as it likes.

use std::path::PathBuf;

use crate::core::{
    geometry::{BlockIndex, BlockSize, ByteRange},
    recovery::Class,
    schedule::Why,
    tree::{Cv, Root},
    trust::Trust,
};

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// What is to be done is known.
    Planned(Planned),
    Progress(Progress),
    BlocksVerified { first: BlockIndex, count: u32, source: String },
    /// A block came whole and wrong; it is asked for again.
    BlockWrong { block: BlockIndex, bytes: ByteRange, expected: Cv, found: Cv, source: String },
    /// Something that does not stop the work but should be known.
    Warning { message: String },
    Checkpoint { bytes_done: u64 },
    /// An earlier run left so many bytes.
    Resumed { bytes_held: u64 },
    /// A part that cannot be gone on from: what it holds is tried and kept where it proves.
    PartReused { path: PathBuf, bytes: u64 },
    /// What was there is of no use any more: so many bytes are fetched again.
    StartedOver { path: PathBuf, bytes: u64 },
    Retry { source: String, class: Class, attempt: u32, wait_ms: u64 },
    HostSlowed { host: String, connections: u32, wait_ms: u64 },
    SourceDropped { source: String, why: Why },
    /// A manifest was written.
    Manifest { manifest: PathBuf, root: Root, bytes_total: u64, block_size: BlockSize, blocks: u32 },
    Damaged(Damaged),
    Verified { path: PathBuf, root: Root, bytes_total: u64, trust: Trust },
    Published(Published),
}

/// The work before a fetch.
#[derive(Clone, Debug)]
pub struct Planned {
    pub path: PathBuf,
    pub url: String,
    pub root: Option<Root>,
    pub bytes_total: u64,
    /// Claimed by an earlier run.
    pub bytes_held: u64,
    /// Found in other files here.
    pub bytes_local: u64,
    pub bytes_to_fetch: u64,
    pub block_size: Option<BlockSize>,
    pub trust: Trust,
}

/// How far a fetch is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Proven or claimed.
    pub bytes_done: u64,
    pub bytes_total: u64,
    /// Body bytes that arrived in this run, of everything.
    pub bytes_fetched: u64,
    /// Of the done ones, those that the judge saw in this run.
    pub bytes_proven: u64,
    pub rate_bps: u64,
}

/// A block that is not what its manifest says.
#[derive(Clone, Debug)]
pub struct Damaged {
    pub path: PathBuf,
    /// `None`: bytes behind the end of the object.
    pub block: Option<BlockIndex>,
    pub bytes: ByteRange,
    pub expected: Option<Cv>,
    /// `None`: the bytes are missing.
    pub found: Option<Cv>,
}

/// A file that landed whole and proven.
#[derive(Clone, Debug)]
pub struct Published {
    pub path: PathBuf,
    pub url: String,
    pub root: Root,
    /// As hexadecimal digits, where it is known.
    pub sha256: Option<String>,
    pub trust: Trust,
    pub bytes_total: u64,
    pub bytes_fetched: u64,
    pub bytes_manifest: u64,
    pub bytes_reused: u64,
    pub bytes_resumed: u64,
    /// It was there already.
    pub unchanged: bool,
    pub elapsed_ms: u64,
}

/// Takes events; called from the task that runs the use case.
pub trait Events: Send {
    fn event(&mut self, event: Event);
}

impl<F: FnMut(Event) + Send> Events for F {
    fn event(&mut self, event: Event) {
        self(event);
    }
}
