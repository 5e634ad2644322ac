//! What a use case tells while it runs. The program prints them as progress or as JSON; a library's caller does as it likes.

use std::path::PathBuf;

use crate::{
    format::{
        digests::Digest,
        geometry::{BlockIndex, BlockSize, ByteRange},
        tree::{Cv, Root},
        trust::Trust,
    },
    policy::{recovery::Class, schedule::DropReason},
};

/// What happened.
#[derive(Clone, Debug)]
#[allow(
    missing_docs,
    reason = "fields are named after their types; sizes are in bytes"
)]
pub enum Event {
    /// What is to be done is known.
    Planned(Planned),
    /// At most once a second.
    Progress(Progress),
    /// Blocks came and the judge accepted them.
    BlocksVerified {
        first: BlockIndex,
        count: u32,
        source: String,
    },
    /// A block came whole and wrong; it is asked for again.
    BlockWrong {
        block: BlockIndex,
        bytes: ByteRange,
        expected: Cv,
        found: Cv,
        source: String,
    },
    /// Something that does not stop the work but should be known.
    Warning { message: String },
    /// The journal was written: a kill from now on costs nothing of these bytes.
    Checkpoint { bytes_done: u64 },
    /// Files on this machine, so long in all, are searched for what need not be fetched.
    Searching { bytes: u64 },
    /// An earlier run left so many bytes.
    Resumed { bytes_held: u64 },
    /// A part that cannot be gone on from: what it holds is tried and kept where it proves.
    PartReused { path: PathBuf, bytes: u64 },
    /// What was there is of no use any more: so many bytes are fetched again.
    StartedOver { path: PathBuf, bytes: u64 },
    /// A span failed and will be asked for again.
    Retry {
        source: String,
        class: Class,
        attempt: u32,
        wait_ms: u64,
    },
    /// A host asked for fewer requests.
    HostSlowed {
        host: String,
        connections: u32,
        wait_ms: u64,
    },
    /// A source is not asked any more in this run.
    SourceDropped { source: String, why: DropReason },
    /// A manifest was written.
    Manifest {
        manifest: PathBuf,
        root: Root,
        bytes_total: u64,
        block_size: BlockSize,
        blocks: u32,
    },
    /// A place of a local file is wrong.
    Damaged(Damaged),
    /// A local file is the object.
    Verified {
        path: PathBuf,
        root: Root,
        bytes_total: u64,
        trust: Trust,
    },
    /// The store noted a file of the user's, or knew it already.
    Added {
        path: PathBuf,
        root: Root,
        bytes_total: u64,
        is_known: bool,
    },
    /// The store forgot a holding.
    Forgotten {
        path: PathBuf,
        root: Root,
        why: Forgotten,
    },
    /// The store took blocks out of a file of its own, to make room.
    Evicted {
        path: PathBuf,
        root: Root,
        bytes: u64,
    },
    /// A file appeared under its final name, or was there already.
    Published(Published),
}

/// Why a holding is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgotten {
    /// No regular file is there.
    Gone,
    /// Another file is there, or it was written to.
    Changed,
}

/// The work before a fetch.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The final name.
    pub path: PathBuf,
    /// Without secrets.
    pub url: String,
    /// The name of the object, if it is known before.
    pub root: Option<Root>,
    /// The length of the object.
    pub bytes_total: u64,
    /// Claimed by an earlier run.
    pub bytes_held: u64,
    /// Found in other files here.
    pub bytes_local: u64,
    /// What is neither held nor found here.
    pub bytes_to_fetch: u64,
    /// With a manifest.
    pub block_size: Option<BlockSize>,
    /// What the result is proven against.
    pub trust: Trust,
}

/// How far a fetch is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Proven or claimed.
    pub bytes_done: u64,
    /// The length of the object.
    pub bytes_total: u64,
    /// Body bytes that arrived in this run, of everything.
    pub bytes_fetched: u64,
    /// Of the done ones, those that the judge saw in this run.
    pub bytes_proven: u64,
    /// Bytes a second, over the last few seconds.
    pub rate_bps: u64,
}

/// A block that is not what its manifest says.
#[derive(Clone, Debug)]
pub struct Damaged {
    /// The file that was checked.
    pub path: PathBuf,
    /// `None`: bytes behind the end of the object.
    pub block: Option<BlockIndex>,
    /// The place.
    pub bytes: ByteRange,
    /// What the manifest says, where it says something.
    pub expected: Option<Cv>,
    /// `None`: the bytes are missing.
    pub found: Option<Cv>,
}

/// A file that landed whole and proven.
#[derive(Clone, Debug)]
pub struct Published {
    /// The final name.
    pub path: PathBuf,
    /// Without secrets.
    pub url: String,
    /// The name of the object.
    pub root: Root,
    /// As hexadecimal digits, where it is known.
    pub sha256: Option<String>,
    /// Digests that somebody gave or offered, and that it has.
    pub digests: Vec<Digest>,
    /// What the result is proven against.
    pub trust: Trust,
    /// The key whose signature the manifest has, if one was asked for.
    pub key_id: Option<String>,
    /// The server's strong entity tag.
    pub etag: Option<String>,
    /// The server's date, where it can stand for one version.
    pub last_modified: Option<String>,
    /// The length of the object.
    pub bytes_total: u64,
    /// Body bytes that arrived in this run, wasted ones and those of the manifest included.
    pub bytes_fetched: u64,
    /// Of these, those of the manifest.
    pub bytes_manifest: u64,
    /// Found in other files here.
    pub bytes_reused: u64,
    /// Left by an earlier run, and proven.
    pub bytes_resumed: u64,
    /// It was there already.
    pub unchanged: bool,
    /// Of this run.
    pub elapsed_ms: u64,
}

/// Takes events; called from the task that runs the use case.
pub trait Events: Send {
    /// Called for each event, as it happens; what takes long here holds the transfer up.
    fn event(&mut self, event: Event);
}

impl<F: FnMut(Event) + Send> Events for F {
    fn event(&mut self, event: Event) {
        self(event);
    }
}
