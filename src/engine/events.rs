//! Events that a use case reports while it runs. The program prints them as progress or as JSON; a caller of the library uses
//! them as it needs.

use std::{path::PathBuf, sync::Arc};

use crate::{
    format::{
        digests::{Algorithm, Digest},
        geometry::{BlockIndex, BlockSize, ByteRange},
        tree::{Cv, Root},
        trust::Trust,
        upload::SessionId,
    },
    policy::{recovery::Class, schedule::DropReason},
};

use super::error::Error;

/// What happened.
#[derive(Clone, Debug)]
#[allow(
    missing_docs,
    reason = "fields are named after their types; sizes are in bytes"
)]
pub enum Event {
    /// The length and the work to be done are known.
    Planned(Planned),
    /// At most once a second.
    Progress(Progress),
    /// Blocks arrived and the judge accepted them.
    BlocksVerified {
        first: BlockIndex,
        count: u32,
        source: String,
    },
    /// A complete block was wrong; it is requested again.
    BlockWrong {
        block: BlockIndex,
        bytes: ByteRange,
        expected: Cv,
        found: Cv,
        source: String,
    },
    /// A problem that does not stop the work.
    Warning { message: String },
    /// The journal was written: a kill after this event loses none of these bytes.
    Checkpoint { bytes_done: u64 },
    /// Local files with this many bytes in all are searched for blocks that need not be fetched.
    Searching { bytes: u64 },
    /// An earlier run left this many bytes.
    Resumed { bytes_held: u64 },
    /// A part file that does not belong to this object: its blocks are judged, and kept where they verify.
    PartReused { path: PathBuf, bytes: u64 },
    /// The object was replaced while it was fetched; the fetch begins again with the object of this root.
    Replaced { url: String, root: Root },
    /// The fetch failed for good, and its part is kept: a later one resumes from these bytes.
    PartKept { path: PathBuf, bytes: u64 },
    /// The existing part is useless: this many bytes are fetched again. `url`: it is of this object, which is another one.
    StartedOver {
        path: PathBuf,
        bytes: u64,
        url: Option<String>,
    },
    /// A request failed; it is sent again after a wait.
    Retry(Retry),
    /// A host limits requests. The number of connections is not raised before the end of the cooldown. What was refused is
    /// requested again after the wait, and any other request too unless the host serves some.
    HostSlowed {
        host: String,
        connections: u32,
        cooldown_ms: u64,
        wait_ms: u64,
        serves: bool,
    },
    /// A source is no longer used in this run.
    SourceDropped { source: String, why: DropReason },
    /// A manifest was written.
    Manifest {
        manifest: PathBuf,
        root: Root,
        bytes_total: u64,
        block_size: BlockSize,
        blocks: u32,
        /// The length of the pack beside it, if one was made.
        pack_bytes: Option<u64>,
    },
    /// A part of a manifest was written.
    ManifestPart(ManifestPart),
    /// The index of a folder, and the manifests that belong to it, were written.
    Library(Library),
    /// Part of a local file is wrong.
    Damaged(Damaged),
    /// A local file is the object.
    Verified {
        path: PathBuf,
        root: Root,
        bytes_total: u64,
        trust: Trust,
    },
    /// The store recorded a file of the user, or knew it already.
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
    /// The store removed blocks from one of its own files, to free space.
    Evicted {
        path: PathBuf,
        root: Root,
        bytes: u64,
    },
    /// A file appeared under its final name, or was there already.
    Published(Published),
    /// A file of a library appeared under its final name.
    Placed(Placed),
    /// A file was given another name, because the library has its content there.
    Moved { from: PathBuf, path: PathBuf },
    /// A file that the library does not list was deleted, or moved into the trash.
    Deleted {
        path: PathBuf,
        trash: Option<PathBuf>,
    },
    /// What a sync would do to a file.
    Intended(Intended),
    /// A file of a library failed; the others go on.
    FileFailed {
        path: PathBuf,
        url: Option<String>,
        error: Arc<Error>,
    },
    /// A folder was synced, or as much of it as possible.
    Synced(Synced),
    /// A file that is to be followed is not there yet.
    Awaited { path: PathBuf },
    /// It is known what a push has to send.
    PushPlanned(PushPlanned),
    /// The server has this many bytes of finished parts from an earlier run.
    PushResumed { bytes_held: u64 },
    /// At most once a second.
    PushProgress(PushProgress),
    /// The server proved a file and published it.
    Pushed(Pushed),
}

/// A request that failed, and is sent again.
#[derive(Clone, Debug)]
pub struct Retry {
    /// Its URL, without secrets.
    pub source: String,
    /// How the failure is treated.
    pub class: Class,
    /// The failures so far that count as tries.
    pub attempt: u32,
    /// It is sent again after this time.
    pub wait_ms: u64,
    /// No other request is under way.
    pub idle: bool,
    /// What was wrong, and where.
    pub reason: String,
    /// Since the last bytes nothing was told of a host that is unreachable or sends nothing.
    pub is_first: bool,
    /// When it is given up, unless bytes arrive; Unix milliseconds.
    pub until_ms: u64,
}

/// Why a holding is no longer usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgotten {
    /// There is no regular file at the path.
    Gone,
    /// The path has another file, or the file was modified.
    Changed,
    /// The user said so.
    Told,
}

/// The plan of a fetch.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The final name.
    pub path: PathBuf,
    /// Without secrets.
    pub url: String,
    /// The root of the object, if it is known before the fetch.
    pub root: Option<Root>,
    /// The length of the object.
    pub bytes_total: u64,
    /// Claimed by the journal of an earlier run.
    pub bytes_held: u64,
    /// Found in other local files.
    pub bytes_local: u64,
    /// What is neither held nor found locally.
    pub bytes_to_fetch: u64,
    /// With a manifest.
    pub block_size: Option<BlockSize>,
    /// What the result is proven against.
    pub trust: Trust,
}

/// The progress of a fetch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Proven or claimed.
    pub bytes_done: u64,
    /// The length of the object.
    pub bytes_total: u64,
    /// Body bytes that arrived in this run, from all requests.
    pub bytes_fetched: u64,
    /// The part of `bytes_done` that the judge verified in this run.
    pub bytes_proven: u64,
    /// Bytes per second, over the last few seconds.
    pub rate_bps: u64,
    /// Of several files: how many are done, and how many there are.
    pub files: Option<(u64, u64)>,
}

/// A part of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestPart {
    /// Its path.
    pub path: PathBuf,
    /// The bytes of the object that it describes.
    pub bytes: ByteRange,
    /// The length of the object.
    pub bytes_total: u64,
    /// That of the manifest.
    pub block_size: BlockSize,
}

/// A folder that was published as a library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    /// The folder.
    pub path: PathBuf,
    /// The root of the index.
    pub root: Root,
    /// Listed files.
    pub files: u64,
    /// The sum of their lengths.
    pub bytes_total: u64,
    /// Files that were read in this run.
    pub files_read: u64,
    /// Their bytes.
    pub bytes_read: u64,
    /// Links, special files, names that a library cannot list, unfinished downloads, manifests of neighbours.
    pub left_out: u64,
}

/// A block that differs from its manifest.
#[derive(Clone, Debug)]
pub struct Damaged {
    /// The file that was checked.
    pub path: PathBuf,
    /// `None`: bytes after the end of the object.
    pub block: Option<BlockIndex>,
    /// The place.
    pub bytes: ByteRange,
    /// The leaf in the manifest, if there is one for these bytes.
    pub expected: Option<Cv>,
    /// `None`: the bytes are missing.
    pub found: Option<Cv>,
}

/// A file that was published whole and proven.
#[derive(Clone, Debug)]
pub struct Published {
    /// The final name.
    pub path: PathBuf,
    /// Without secrets.
    pub url: String,
    /// The name of the object.
    pub root: Root,
    /// In hexadecimal, if it is known.
    pub sha256: Option<String>,
    /// The digests that the user gave or the server offered, all of them verified.
    pub digests: Vec<Digest>,
    /// What the result is proven against.
    pub trust: Trust,
    /// The algorithm of the user's own digest, if that digest alone gives the trust of a root.
    pub proven_by: Option<Algorithm>,
    /// The key that signed the manifest, if the user required one.
    pub key_id: Option<String>,
    /// The strong entity tag of the representation.
    pub etag: Option<String>,
    /// `Last-Modified`, if it is a strong validator.
    pub last_modified: Option<String>,
    /// The length of the object.
    pub bytes_total: u64,
    /// `false`: only the end of a connection shows that this is all of it, so that bytes may be missing.
    pub end_known: bool,
    /// Body bytes that arrived in this run, including discarded ones and those of the manifest.
    pub bytes_fetched: u64,
    /// The part of `bytes_fetched` that is the manifest.
    pub bytes_manifest: u64,
    /// Found in other local files.
    pub bytes_reused: u64,
    /// Left by an earlier run, and proven.
    pub bytes_resumed: u64,
    /// The file was complete before this run.
    pub unchanged: bool,
    /// The duration of this run.
    pub elapsed_ms: u64,
}

/// A file of a library that was placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The final name.
    pub path: PathBuf,
    /// Without secrets.
    pub url: String,
    /// The name of the object.
    pub root: Root,
    /// What the index is proven against.
    pub trust: Trust,
    /// The length of the object.
    pub bytes_total: u64,
    /// Body bytes that arrived for it, including discarded ones and those of its manifest.
    pub bytes_fetched: u64,
    /// Found in other local files.
    pub bytes_reused: u64,
    /// Left by an earlier run, and proven.
    pub bytes_resumed: u64,
}

/// What a sync would do to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intended {
    /// The final name.
    pub path: PathBuf,
    /// What would be done.
    pub what: Intent,
    /// The file that is moved or copied.
    pub from: Option<PathBuf>,
    /// The length of the file.
    pub bytes: u64,
}

/// What a sync does to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each says what it is")]
pub enum Intent {
    Fetch,
    Update,
    Copy,
    Move,
    SetAttributes,
    Delete,
}

/// The result of a sync. Numbers are of files where they are not of bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synced {
    /// The folder.
    pub path: PathBuf,
    /// Without secrets.
    pub url: String,
    /// The root of the index.
    pub root: Root,
    /// What the index is proven against.
    pub trust: Trust,
    /// Nothing was changed: this is what would be done.
    pub is_dry_run: bool,
    /// Listed and selected.
    pub files_total: u64,
    /// The sum of their lengths.
    pub bytes_total: u64,
    /// Of a dry run: the sum of the lengths of the files to fetch. Updates of files usually need less.
    pub bytes_to_fetch: u64,
    /// How many files ended how.
    pub files: FileCounts,
    /// Body bytes that arrived in this run.
    pub bytes_fetched: u64,
    /// The duration of this run.
    pub elapsed_ms: u64,
    /// It was stopped, or the server is gone: the same call goes on.
    pub is_stopped: bool,
}

/// How many files of a sync ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each says what it is")]
pub struct FileCounts {
    pub fetched: u64,
    pub moved: u64,
    pub copied: u64,
    pub deleted: u64,
    pub unchanged: u64,
    pub failed: u64,
}

/// The plan of a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushPlanned {
    /// The source.
    pub path: PathBuf,
    /// Where the object will be, without secrets.
    pub url: String,
    /// Where it can be played while it grows, if it may.
    pub growing_url: Option<String>,
    /// Which upload of the server it is.
    pub session: SessionId,
    /// The length of the source; `None`: a stream.
    pub bytes_total: Option<u64>,
    /// Of finished parts that the server has. They are compared with the source before they count.
    pub bytes_held: u64,
    /// The others.
    pub bytes_to_send: Option<u64>,
    /// The size of the first parts.
    pub part_size: u64,
    /// That of the object.
    pub block_size: BlockSize,
}

/// The progress of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PushProgress {
    /// What the server has, and what is on the way to it.
    pub bytes_done: u64,
    /// The length of the source; `None`: a stream.
    pub bytes_total: Option<u64>,
    /// Of a file that is followed: how long it is now.
    pub bytes_recorded: Option<u64>,
    /// Sent in this run, with all that was sent again.
    pub bytes_sent: u64,
    /// Bytes per second, over the last few seconds.
    pub rate_bps: u64,
}

/// A file that a server published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The source.
    pub path: PathBuf,
    /// Where the object is, without secrets.
    pub url: String,
    /// The name of the object: the server and this program computed the same.
    pub root: Root,
    /// Its length.
    pub bytes_total: u64,
    /// Sent in this run, with all that was sent again.
    pub bytes_sent: u64,
    /// What the server had before, or copied from an earlier object.
    pub bytes_reused: u64,
    /// Of these, what it copied in this run.
    pub bytes_copied: u64,
    /// The duration of this run.
    pub elapsed_ms: u64,
}

/// Receives events, in the task that runs the use case.
pub trait Events: Send {
    /// Called for each event as it happens. A slow implementation delays the transfer.
    fn event(&mut self, event: Event);
}

impl<F: FnMut(Event) + Send> Events for F {
    fn event(&mut self, event: Event) {
        self(event);
    }
}
