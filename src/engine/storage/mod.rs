//! Where uploads go: parts are staged, proven and published. One trait for all storages.

mod appending;
pub mod copies;
pub mod folder;
mod probe;
pub mod s3;

use std::{error::Error as StdError, slice};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};

use crate::{
    format::{
        geometry::ByteRange,
        library::LibraryPath,
        tree::Cv,
        upload::{SessionId, Sha256},
    },
    policy::upload::{Disproved, FinishedPart, Goal, Published, Session},
};

pub use copies::{Base, CopyRange};
pub use probe::probe;

/// A part that a client is about to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferedPart {
    /// Zero-based. The caller has checked index and length against the plan of the session.
    pub index: u32,
    /// In bytes.
    pub length: u64,
    /// Of its bytes.
    pub sha256: Sha256,
    /// The leaves of all its blocks, where the client knows them.
    pub leaves: Option<Vec<Cv>>,
}

/// A part of which the client says nothing before it comes: the storage computes its SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownPart {
    /// Zero-based. The caller has checked it and the length against the plan of the session.
    pub index: u32,
    /// The most bytes that it can have.
    pub longest: u64,
    /// It is sent from its start, and takes the place of what is finished; else after what is here of it.
    pub is_new: bool,
}

/// Where the bytes of a part go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To [`Storage::receive`], through a URL of the server. `from`: the first bytes of the part that are here already and have
    /// the leaves of the offer; a whole number of blocks.
    Server {
        /// Where the client continues.
        from: u64,
    },
    /// To [`Storage::receive_ranges`], through a URL of the server: the rest is here and has the leaves of the offer.
    Rest {
        /// Ranges of the part, in order, of whole blocks.
        send: Vec<ByteRange>,
        /// Bytes that were copied just now.
        copied: u64,
    },
    /// Nowhere: the storage has the part whole, made of copies, and [`Storage::checkpoint`] will prove it.
    Stored {
        /// Bytes that were copied just now.
        copied: u64,
    },
    /// To this URL of the storage, by PUT.
    Storage {
        /// Signed for the length and the SHA-256 of the part.
        url: String,
        /// To be sent exactly so.
        headers: Vec<(String, String)>,
        /// How long from now a request may begin, in seconds.
        expires_in_s: u64,
    },
}

/// What the storage holds for a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staged {
    /// The session for which it was begun; `None`: what has no such name.
    pub session: Option<SessionId>,
    /// What [`Storage::begin`] returned.
    pub handle: String,
    /// About how many bytes it takes.
    pub bytes: u64,
}

/// What came of [`Storage::finalize`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Proven and durable under its name, with its manifest.
    Published(Published),
    /// Nothing was published.
    Disproved(Disproved),
}

/// An upload, as a storage itself has noted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begun {
    /// Its ID, name and sizes are those that were declared; what the storage does not note is missing.
    pub session: Session,
    /// When, in Unix seconds.
    pub begun_s: u64,
    /// Its parts were joined: an attempt to publish it did not end, or goes on.
    pub is_complete: bool,
}

/// Why a storage did not do something. Whether it was done all the same is not known, unless it says so.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what it is")]
pub enum StorageError {
    #[error("the storage is full")]
    Full,
    #[error("the storage does not have part {index} with this SHA-256")]
    PartNotStored { index: u32 },
    #[error("another request writes part {index}")]
    PartInFlight { index: u32 },
    #[error("part {index} has the SHA-256 {found}, not {expected}; it was not kept")]
    PartDiffers {
        index: u32,
        expected: Sha256,
        found: Sha256,
    },
    #[error("part {index} has more or fewer bytes than the {expected} that were declared")]
    PartLength { index: u32, expected: u64 },
    /// Nothing more can be done for the session.
    #[error("what was staged for the session is gone")]
    StagingGone,
    /// See [`Fence`].
    #[error("another server goes on with it")]
    Superseded,
    #[error("the storage takes no bytes through this server")]
    NotThroughServer,
    #[error("the storage asks to slow down; the next request may follow in {after_s} s")]
    Busy { after_s: u64 },
    #[error("the storage failed: {0}")]
    Failed(#[source] Box<dyn StdError + Send + Sync>),
}

/// Asked right before each step that cannot be taken back, whether it may still be taken: a server may have slept so long that another one
/// went on in its place.
pub trait Fence: Send + Sync {
    /// [`StorageError::Superseded`]: it may not.
    fn check(&self) -> BoxFuture<'_, Result<(), StorageError>>;
}

/// Nobody else goes on.
#[derive(Clone, Copy, Debug)]
pub struct Unfenced;

impl Fence for Unfenced {
    fn check(&self) -> BoxFuture<'_, Result<(), StorageError>> {
        Box::pin(async { Ok(()) })
    }
}

/// Where uploads go. Every call may be repeated, by another server and after a crash too, and then does the rest.
///
/// Dropping the future of a call leaves what a crash would.
pub trait Storage: Send + Sync {
    /// Whether no other process can use this storage while this one does, so that what is unfinished at the start is nobody's.
    fn is_exclusive(&self) -> bool;

    /// Whether there is an object, or anything else, under this name.
    fn exists<'a>(&'a self, name: &'a LibraryPath) -> BoxFuture<'a, Result<bool, StorageError>>;

    /// Prepares to take parts and returns the handle of what it made. Called again it may make another: the caller removes the
    /// one that it does not need.
    fn begin<'a>(&'a self, session: &'a Session) -> BoxFuture<'a, Result<String, StorageError>>;

    /// The handle of what [`Storage::begin`] may have made for a session although it failed, where it is always the same.
    fn handle_of(&self, _session: &Session) -> Option<String> {
        None
    }

    /// Where these parts go, in the same order.
    fn destinations<'a>(
        &'a self,
        session: &'a Session,
        parts: &'a [OfferedPart],
    ) -> BoxFuture<'a, Result<Vec<Destination>, StorageError>>;

    /// Takes the bytes of a part from `from` on. A part that is whole already with the same SHA-256 stays; one with another
    /// SHA-256 stays too, until [`Storage::checkpoint`] prefers the new one.
    fn receive<'a>(
        &'a self,
        session: &'a Session,
        part: &'a OfferedPart,
        from: u64,
    ) -> BoxFuture<'a, Result<Box<dyn PartWriter>, StorageError>>;

    /// Copies what the base has of a part that is not whole yet, and says where the rest goes. Copies that are not what the part is to
    /// have do not count, and a storage may copy nothing. [`copies::are_allowed`] is checked by the caller.
    fn copy<'a>(
        &'a self,
        session: &'a Session,
        part: &'a OfferedPart,
        _base: &'a Base,
        _copies: &'a [CopyRange],
    ) -> BoxFuture<'a, Result<Destination, StorageError>> {
        let to = async {
            let mut to = self.destinations(session, slice::from_ref(part)).await?;
            to.pop().ok_or(StorageError::StagingGone)
        };
        to.boxed()
    }

    /// [`Storage::receive`], of these ranges, one after the other.
    fn receive_ranges<'a>(
        &'a self,
        _session: &'a Session,
        _part: &'a OfferedPart,
        _send: &'a [ByteRange],
    ) -> BoxFuture<'a, Result<Box<dyn PartWriter>, StorageError>> {
        async { Err(StorageError::NotThroughServer) }.boxed()
    }

    /// Takes the bytes of a part of which nothing is known. A finished part stays until [`Storage::checkpoint`] prefers the new one, or
    /// the new one goes on after it.
    fn append<'a>(
        &'a self,
        _session: &'a Session,
        _part: UnknownPart,
    ) -> BoxFuture<'a, Result<Box<dyn PartAppender>, StorageError>> {
        async { Err(StorageError::NotThroughServer) }.boxed()
    }

    /// How many bytes at the start of such a part are here and durable; a writer may find that they are damaged.
    fn begun_bytes<'a>(
        &'a self,
        _session: &'a Session,
        _index: u32,
    ) -> BoxFuture<'a, Result<u64, StorageError>> {
        async { Ok(0) }.boxed()
    }

    /// Proves that the part with this length and SHA-256 is here, whole and durable, and makes it the one that is published.
    /// `etag`: what the storage told the client, where it does.
    fn checkpoint<'a>(
        &'a self,
        session: &'a Session,
        part: &'a OfferedPart,
        etag: Option<&'a str>,
    ) -> BoxFuture<'a, Result<FinishedPart, StorageError>>;

    /// Proves length, parts, root and SHA-256, then publishes object and manifest. At most one content is ever published for a
    /// session; if it was published before, that is returned, whatever else is asked. An object of this session under the name
    /// is not [`Disproved::NameExists`]. What was staged stays until [`Storage::remove`].
    fn finalize<'a>(
        &'a self,
        session: &'a Session,
        parts: &'a [FinishedPart],
        goal: &'a Goal,
    ) -> BoxFuture<'a, Result<Verdict, StorageError>> {
        self.finalize_fenced(session, parts, goal, &Unfenced)
    }

    /// The same, where others may go on in the place of the caller.
    fn finalize_fenced<'a>(
        &'a self,
        session: &'a Session,
        parts: &'a [FinishedPart],
        goal: &'a Goal,
        fence: &'a dyn Fence,
    ) -> BoxFuture<'a, Result<Verdict, StorageError>>;

    /// Removes what was staged, not what was published. After it nothing is published for this handle. Done again it does
    /// nothing. Writers of parts fail from then on.
    fn remove<'a>(&'a self, staged: &'a Staged) -> BoxFuture<'a, Result<(), StorageError>>;

    /// What can be read of an object before it is published. `None`: nothing.
    fn growing(&self) -> Option<&dyn GrowingStorage> {
        None
    }

    /// All that is staged.
    fn staged(&self) -> BoxFuture<'_, Result<Vec<Staged>, StorageError>>;
}

/// A storage that gives back what was staged before it is published.
pub trait GrowingStorage: Send + Sync {
    /// The leaves of a finished part.
    fn leaves<'a>(
        &'a self,
        session: &'a Session,
        part: &'a FinishedPart,
    ) -> BoxFuture<'a, Result<Vec<Cv>, StorageError>>;

    /// Bytes of finished parts. While a part gets another content they may be of both.
    fn read<'a>(
        &'a self,
        session: &'a Session,
        bytes: ByteRange,
    ) -> BoxFuture<'a, Result<Bytes, StorageError>>;
}

/// What the bytes of a writer add to what lies in the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adds {
    /// Nothing: the part is here.
    Nothing,
    /// The part.
    Part,
    /// Another content of a part that is here.
    Second,
}

/// A storage that is itself the record of its uploads, so that they need no other.
pub trait Recorded: Storage {
    /// The uploads that were begun and whose staging was not removed, newest first; with a name, those for it.
    fn uploads<'a>(
        &'a self,
        name: Option<&'a LibraryPath>,
    ) -> BoxFuture<'a, Result<Vec<Begun>, StorageError>>;

    /// The parts that it has, each with the SHA-256 that it computed.
    fn finished<'a>(
        &'a self,
        session: &'a Session,
    ) -> BoxFuture<'a, Result<Vec<FinishedPart>, StorageError>>;

    /// Takes the leaves that the client itself computed, before [`Storage::finalize`], for the manifest of an object that the storage
    /// does not read. For others it does nothing.
    fn attest<'a>(
        &'a self,
        session: &'a Session,
        length: u64,
        leaves: &'a [Cv],
    ) -> BoxFuture<'a, Result<(), StorageError>>;

    /// Whether the parts that were joined for a session are these.
    fn has_joined<'a>(
        &'a self,
        session: &'a Session,
        parts: &'a [FinishedPart],
    ) -> BoxFuture<'a, Result<bool, StorageError>>;
}

/// Takes the bytes of one part.
pub trait PartWriter: Send {
    /// See [`Adds`].
    fn adds(&self) -> Adds {
        Adds::Part
    }

    /// Takes the next bytes. More than the part has are [`StorageError::PartLength`].
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), StorageError>>;

    /// The body ended: proves the part and makes it durable. A writer that is dropped before keeps only blocks that are proven.
    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<(), StorageError>>;
}

/// Takes the bytes of one part of which the client says nothing.
pub trait PartAppender: Send + Sync {
    /// See [`Adds`].
    fn adds(&self) -> Adds;

    /// The bytes of the part so far.
    fn length(&self) -> u64;

    /// Takes the next bytes. More than the part may have are [`StorageError::PartLength`].
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), StorageError>>;

    /// Makes what has come durable, where the storage can: [`Storage::begun_bytes`]. More may follow.
    fn pause(&mut self) -> BoxFuture<'_, Result<(), StorageError>>;

    /// The part ends here: it is durable then, and is to be checkpointed.
    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<FinishedPart, StorageError>>;
}
