//! Why a use case failed, with one variant for each way a caller can react.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    disk::{error::DiskError, state::StateError, store::StoreError},
    format::{
        digests::Algorithm,
        geometry::{BlockIndex, ByteRange},
        ingest::RefusedUpload,
        keys::{BadKey, NotSigned},
        library::RefusedIndex,
        pack::BadPack,
        part::RefusedPart,
        statement::Refused,
        tree::{Cv, Root},
        trust::Trust,
        upload::SessionId,
    },
    net::error::NetError,
    policy::{
        parts::BadSize,
        recovery::{Changed, Class, Failure},
        sync::Conflict,
    },
};

/// Why a use case failed. Places are printed without the secrets of URLs.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what it is")]
pub enum Error {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("{cause}")]
    Net {
        cause: NetError,
        /// How many times the request was tried.
        tries: u32,
    },
    #[error("the manifest {place} is refused: {cause}")]
    Manifest { place: String, cause: Refused },
    #[error("the pack {place} is refused: {cause}")]
    Pack { place: String, cause: BadPack },
    #[error("the library {place} is refused: {cause}")]
    Index { place: String, cause: RefusedIndex },
    #[error("the part {place} is refused: {cause}")]
    Part { place: String, cause: RefusedPart },
    #[error(
        "{place}: its blocks must begin and end at multiples of {block_size} bytes, or at the end of the file ({length} bytes)"
    )]
    PartRange {
        place: String,
        block_size: u64,
        length: u64,
    },
    #[error("{place} does not fit to the parts before it: {why}")]
    PartsApart { place: String, why: PartsApart },
    #[error("there is no manifest at {place} ({why})")]
    NoManifest { place: String, why: String },
    #[error("the manifest {place} has the root {found}, but {required} is required")]
    OtherRoot {
        place: String,
        required: Root,
        found: Root,
    },
    #[error(
        "the bytes can be proven only with the trust \"{found}\", but \"{required}\" is required"
    )]
    BelowRequired { required: Trust, found: Trust },
    #[error(
        "block {block} (bytes {bytes}) from {source_name} failed verification every time: its hash is {}, the manifest says {}. The \
         object and its manifest do not belong together, or something in transit damages bytes", hex::encode(**found), hex::encode(**expected)
    )]
    Wrong {
        block: BlockIndex,
        bytes: ByteRange,
        expected: Box<Cv>,
        found: Box<Cv>,
        source_name: String,
    },
    #[error(
        "the object at {place} has {bytes} bytes, but its manifest {manifest} is of one with {declared} bytes: they do not belong together"
    )]
    OtherLength {
        place: String,
        bytes: u64,
        manifest: String,
        declared: u64,
    },
    #[error("the object at {place} changed: {how}")]
    Changed { place: String, how: Changed },
    #[error("no new bytes for {patience_s} s{}", last_failure(.last.as_deref()))]
    Patience {
        patience_s: u64,
        last: Option<Box<NetError>>,
    },
    #[error("{place}: the host limits requests; the next one may follow in {wait_s} s")]
    MustWait { place: String, wait_s: u64 },
    #[error("{place} has {bytes} bytes, more than the limit")]
    TooLarge { place: String, bytes: u64 },
    #[error("{place} has {length} bytes; the range begins after its end")]
    NoSuchRange { place: String, length: u64 },
    /// The caller's output refused the bytes.
    #[error("failed to write the output: {0}")]
    Output(io::Error),
    #[error("{place} has too many blocks of this size")]
    TooManyBlocks { place: String },
    /// A file of a library.
    #[error("{}: {cause}", .path.display())]
    NoPlace { path: PathBuf, cause: Conflict },
    #[error(
        "{deletions} of the {files} files in {} are not in the library: more than may be deleted ({most}); nothing was changed", .path.display()
    )]
    TooManyDeletions {
        path: PathBuf,
        deletions: u64,
        files: u64,
        /// The limit, as a user gives it.
        most: String,
    },
    #[error("{place}: {cause}")]
    BadKey { place: String, cause: BadKey },
    #[error("{place}: {cause}")]
    NotSigned { place: String, cause: NotSigned },
    #[error("{place} is signed for the name {signed:?}, not for {required:?}")]
    OtherName {
        place: String,
        signed: String,
        required: String,
    },
    #[error("{place} expired at {at} (Unix time)")]
    Expired { place: String, at: u64 },
    #[error(
        "the sequence number {found} of {place} is lower than {seen}, which was accepted before"
    )]
    Older {
        place: String,
        found: u64,
        seen: u64,
    },
    #[error(
        "{place} would be signed with {}, but {seen} was signed or accepted before under its name: readers refuse an older one", sequence_or_none(*.sequence)
    )]
    SignsOlder {
        place: String,
        /// 0: none.
        sequence: u64,
        seen: u64,
    },
    #[error("{place}: {cause}")]
    Key {
        place: String,
        cause: crate::format::keys::BadSecret,
    },
    #[error("{place}: the {algorithm} digest is {found}, not {expected}{}", where_it_is(.quarantined.as_deref()))]
    OtherDigest {
        place: String,
        algorithm: Algorithm,
        expected: String,
        found: String,
        quarantined: Option<PathBuf>,
    },
    #[error("{place}: {cause}")]
    Upload {
        place: String,
        cause: Box<RefusedUpload>,
    },
    #[error("the upload {id} is over, or of an object of another name, length or part size")]
    OtherUpload { id: SessionId },
    #[error("{cause}")]
    PartSize { cause: BadSize },
}

impl Error {
    /// Whether the same call may succeed later without any other action. A queue tries such a job again.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Disk(cause) => {
                matches!(
                    cause,
                    DiskError::Busy { .. } | DiskError::ChangedAfterProof { .. }
                )
            }
            Error::Net { cause, .. } => {
                // A 416 that was repeated until no try was left is an answer like any other 4xx.
                matches!(cause.failure.class(), Class::Again | Class::Slower)
                    && !matches!(cause.failure, Failure::Refused { .. })
            }
            Error::Patience { .. } | Error::MustWait { .. } => true,
            _ => false,
        }
    }
}

fn sequence_or_none(sequence: u64) -> String {
    match sequence {
        0 => "no sequence number".to_owned(),
        _ => format!("the sequence number {sequence}"),
    }
}

fn last_failure(last: Option<&NetError>) -> String {
    last.map_or_else(String::new, |cause| format!(": {cause}"))
}

fn where_it_is(quarantined: Option<&Path>) -> String {
    quarantined.map_or_else(String::new, |path| {
        format!("; the received bytes are kept as {}", path.display())
    })
}

impl From<StoreError> for Error {
    fn from(cause: StoreError) -> Error {
        match cause {
            StoreError::State(cause) => cause.into(),
            StoreError::Disk(cause) => cause.into(),
        }
    }
}

impl From<NetError> for Error {
    fn from(cause: NetError) -> Error {
        match cause.failure {
            Failure::Changed(how) => Error::Changed {
                place: cause.location.to_string(),
                how,
            },
            _ => Error::Net { cause, tries: 1 },
        }
    }
}

/// Why parts are not those of one manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what it is")]
pub enum PartsApart {
    #[error("it is of a file of another length, or made with other options")]
    OtherObject,
    #[error("bytes {start} to {end} are in no part", start = .0.start, end = .0.end)]
    Gap(ByteRange),
    #[error("bytes from {0} on are in another part too")]
    Overlap(u64),
}
