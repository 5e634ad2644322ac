//! The session of an upload: what it knows, and which change is allowed when (upload.md). The caller passes the time and stores
//! each [`Change`] only if the session still has the version before it.

pub mod notices;
pub mod rows;
mod transitions;

use crate::format::{
    library::LibraryPath,
    notice::Notice,
    tree::Root,
    upload::{SessionId, Sha256},
};

use super::parts::{BadSize, PartPlan};

pub use transitions::Begin;

/// Who may use a session: the name of the token with which it was opened.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(pub String);

/// What was last published under a name through these sessions. Whether it still is there is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastPublished {
    /// Who published it.
    pub owner: Owner,
    /// With which session; it may be forgotten.
    pub session: SessionId,
    /// What.
    pub published: Published,
}

/// The time on both clocks, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Since 1970-01-01 UTC: only for people.
    pub unix_s: u64,
    /// How long servers have run with these sessions: what expires is judged by this. It never jumps.
    pub served_s: u64,
}

/// What a session is opened with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// Where the object is published.
    pub name: LibraryPath,
    /// Length, part size and block size.
    pub plan: PartPlan,
    /// The root that the object must have.
    pub root: Option<Root>,
    /// The SHA-256 that the object must have; once it is published, the one that was proven.
    pub sha256: Option<Sha256>,
    /// Whether the object may take the place of another one.
    pub replace: bool,
    /// Whether it may be read while it is uploaded.
    pub growing: bool,
    /// What its client speaks.
    pub protocol: Protocol,
}

/// What a client speaks, and so what it says of the bytes that it sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// That of upload.md: the SHA-256 of each part.
    #[default]
    Sapwood,
    /// Parts of one size (upload-clients.md, section 2): nothing of their content.
    Parts,
    /// One stream of bytes (upload-clients.md, section 3): nothing of their content.
    Stream,
}

/// What is to be published, as the client says at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goal {
    /// In bytes.
    pub length: u64,
    /// The root that the object must have.
    pub root: Option<Root>,
    /// The SHA-256 that the object must have.
    pub sha256: Option<Sha256>,
    /// Whether the object may take the place of another one.
    pub replace: bool,
}

/// What was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// In bytes.
    pub length: u64,
    /// The object.
    pub root: Root,
}

/// Where a session is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Parts are taken.
    Open,
    /// The object is proven and published.
    Finalizing {
        /// What is to be published.
        goal: Goal,
        /// Counts the servers that began; a later one takes over from one that ended.
        attempt: u32,
        /// No other server begins before this, in served seconds.
        lease_until_s: u64,
    },
    /// The object is there.
    Done(Published),
    /// Nothing was published, and nothing will be.
    Failed,
    /// No client used it for too long.
    Expired,
    /// The client gave it up.
    Aborted,
}

/// What the storage has for a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Staging {
    /// Nothing yet.
    None,
    /// What the storage calls it.
    Begun(String),
    /// Nothing any more.
    Removed,
}

/// Why the last attempt to publish failed, for who was not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// See upload.md.
    pub code: String,
    /// For people.
    pub detail: String,
}

/// A session, without its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its name.
    pub id: SessionId,
    /// Who may use it.
    pub owner: Owner,
    /// What it was opened with.
    pub declared: Declared,
    /// Where it is.
    pub state: State,
    /// Counts the changes, of parts too.
    pub version: u64,
    /// When it was opened, in Unix seconds.
    pub created_s: u64,
    /// When a client last used it, in Unix seconds.
    pub last_alive_s: u64,
    /// The same in served seconds.
    pub alive_at_s: u64,
    /// The owner was told that it expires soon.
    pub is_warned: bool,
    /// What the storage has for it.
    pub staging: Staging,
    /// Why the last attempt to publish failed.
    pub problem: Option<Problem>,
}

/// A part that the storage has, whole and durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinishedPart {
    /// Zero-based.
    pub index: u32,
    /// In bytes.
    pub length: u64,
    /// Of its bytes.
    pub sha256: Sha256,
    /// What the storage calls this version of the part, where it does.
    pub etag: Option<String>,
}

/// Bytes of a part that lie in the storage and are not those of a finished part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StagedBytes {
    /// Zero-based.
    pub index: u32,
    /// Of the part.
    pub length: u64,
    /// They lie beside another content of the part.
    pub is_beside: bool,
}

/// A change of a session. It is stored only if the stored session has the version before that of this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The session after it.
    pub session: Session,
    /// What changes in its parts.
    pub parts: PartsChange,
    /// What the operator is told of it.
    pub notices: Vec<Notice>,
}

/// A change of the parts of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartsChange {
    /// None.
    None,
    /// This part is finished, with this content.
    Put(FinishedPart),
    /// These are no longer finished.
    Remove(Vec<u32>),
}

/// The storage found that what was to be published is not what it has; nothing was published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what it is")]
pub enum Disproved {
    #[error("{0} exists")]
    NameExists(LibraryPath),
    #[error("the parts have {found} bytes, not {expected}")]
    Length { expected: u64, found: u64 },
    #[error("the root of the parts is {found}, not {expected}")]
    Root {
        expected: Root,
        found: Root,
        /// The parts whose bytes are not those of their checkpoint.
        wrong_parts: Vec<u32>,
    },
    #[error("the SHA-256 of the parts is {found}, not {expected}")]
    Sha256 { expected: Sha256, found: Sha256 },
    #[error("the storage lacks parts, or has them with other bytes: {0:?}")]
    Parts(Vec<u32>),
}

/// Who runs an attempt to publish says so this often, or another server may take over, in served seconds.
pub const LEASE_S: u64 = 120;
/// The owner is told so long before a session expires, or a quarter of the time to live before if that is shorter.
pub const WARN_S: u64 = 24 * 3600;
/// A session is noted as used at most this often.
pub const TOUCH_EVERY_S: u64 = 60;
/// Ends of the names of files that belong to an object.
const OWN_SUFFIXES: [&str; 3] = [".sapwood", ".sapwood.json", ".sapwood.d"];
/// Pages that the server has at its root.
const PAGES: [&str; 2] = ["metrics", "healthz"];
/// What other clients request there (upload-clients.md, section 2).
const ROUTES: [&str; 2] = ["s3/params", "s3/multipart"];
/// The folder with what is staged.
pub const STAGING_FOLDER: &str = "sapwood-staging";
/// The longest last segment of a name: the names of its manifest and of temporary files are longer.
const LAST_SEGMENT_BYTES_MAX: usize = 240;

/// Why a request is refused, whatever the storage has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what it is")]
pub enum Refusal {
    #[error("the session was opened with other values")]
    SessionDiffers,
    #[error("the session has ended: it {0}")]
    SessionEnded(&'static str),
    #[error("the object of the session is published")]
    SessionDone,
    #[error("the object is being proven and published")]
    Finalizing,
    #[error("an object with these sizes has no part {index} of {length} bytes")]
    BadPart { index: u32, length: u64 },
    #[error("part {index} is finished with the SHA-256 {finished}, not {offered}")]
    PartFinished {
        index: u32,
        finished: Sha256,
        offered: Sha256,
    },
    #[error("{} parts are not finished", .missing.len())]
    PartsMissing { missing: Vec<u32> },
    #[error("the session has {found} bytes, not {expected}")]
    LengthDiffers { expected: u64, found: u64 },
    #[error(transparent)]
    BadSize(#[from] BadSize),
}

/// A name under which an object may be published: one that a library may list, and that is not taken for a file of this program.
pub fn name(text: &str) -> Option<LibraryPath> {
    let path = LibraryPath::new(text)?;
    let lower = text.to_ascii_lowercase();
    let is_own = |segment: &str| {
        segment.starts_with('.') || OWN_SUFFIXES.iter().any(|suffix| segment.ends_with(suffix))
    };
    let last = lower.rsplit('/').next().unwrap_or_default();
    let is_route = |route: &str| {
        let below = text.strip_prefix(route);
        below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
    };
    let is_allowed = !ROUTES.into_iter().any(is_route)
        && !lower.split('/').any(is_own)
        && !lower.split('/').any(|segment| segment == STAGING_FOLDER)
        && !text.split('/').take(1).any(|first| PAGES.contains(&first))
        && last.len() <= LAST_SEGMENT_BYTES_MAX;
    is_allowed.then_some(path)
}

impl State {
    /// Its name in upload.md.
    pub fn name(&self) -> &'static str {
        match self {
            State::Open => "open",
            State::Finalizing { .. } => "finalizing",
            State::Done(_) => "done",
            State::Failed => "failed",
            State::Expired => "expired",
            State::Aborted => "aborted",
        }
    }

    /// Whether something can still be published.
    pub fn is_live(&self) -> bool {
        matches!(self, State::Open | State::Finalizing { .. })
    }
}

impl Declared {
    /// Whether a request to open a session is the same as the one that opened this one. Sizes that it does not give were chosen.
    pub fn is_same(&self, other: &Declared, part_size_given: bool, block_size_given: bool) -> bool {
        let (mine, theirs) = (self.plan, other.plan);
        self.name == other.name
            && mine.length() == theirs.length()
            && (!part_size_given || mine.part_size() == theirs.part_size())
            && (!block_size_given || mine.block_size() == theirs.block_size())
            && (self.root, self.sha256) == (other.root, other.sha256)
            && (self.replace, self.growing) == (other.replace, other.growing)
            && self.protocol == other.protocol
    }
}

impl Protocol {
    /// As sessions are stored with it.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Sapwood => "sapwood",
            Protocol::Parts => "parts",
            Protocol::Stream => "stream",
        }
    }

    /// The one with this name.
    pub fn named(name: &str) -> Option<Protocol> {
        let all = [Protocol::Sapwood, Protocol::Parts, Protocol::Stream];
        all.into_iter().find(|protocol| protocol.name() == name)
    }

    /// What the object is proven against, as upload.md calls it.
    pub fn proof(self) -> &'static str {
        match self.is_read_back() {
            true => "read_back",
            false => "client",
        }
    }

    /// Whether the client said nothing of the content, so that what is stored is read before it is published.
    pub fn is_read_back(self) -> bool {
        self != Protocol::Sapwood
    }
}

impl Disproved {
    /// Its code in upload.md.
    pub fn code(&self) -> &'static str {
        match self {
            Disproved::NameExists(_) => "name_exists",
            Disproved::Length { .. } => "length_differs",
            Disproved::Root { .. } => "root_differs",
            Disproved::Sha256 { .. } => "sha256_differs",
            Disproved::Parts(_) => "parts_missing",
        }
    }

    /// Parts that are to be sent again.
    pub fn wrong_parts(&self) -> &[u32] {
        match self {
            Disproved::Root { wrong_parts, .. } | Disproved::Parts(wrong_parts) => wrong_parts,
            _ => &[],
        }
    }

    fn problem(&self) -> Problem {
        Problem {
            code: self.code().to_owned(),
            detail: self.to_string(),
        }
    }
}

impl Refusal {
    /// Its code in upload.md.
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::SessionDiffers => "session_differs",
            Refusal::SessionEnded(_) => "session_ended",
            Refusal::SessionDone => "session_done",
            Refusal::Finalizing => "finalizing",
            Refusal::BadPart { .. } => "bad_part",
            Refusal::PartFinished { .. } => "part_finished",
            Refusal::PartsMissing { .. } => "parts_missing",
            Refusal::LengthDiffers { .. } => "length_differs",
            Refusal::BadSize(_) => "bad_size",
        }
    }
}
