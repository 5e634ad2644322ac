//! What happens to sessions, for metrics and the audit log.

use crate::{
    engine::storage::Staged,
    format::notice::Notice,
    policy::upload::{FinishedPart, Published, Session},
};

use super::NoticeEnd;

/// What happened. The session is as it was stored then.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each says what it is")]
pub enum IngestEvent {
    Opened {
        session: Session,
    },
    /// `replaced`: the part had other bytes before.
    PartFinished {
        session: Session,
        part: FinishedPart,
        replaced: bool,
    },
    /// A server began to prove and publish the object.
    Finalizing {
        session: Session,
        attempt: u32,
    },
    Published {
        session: Session,
        published: Published,
    },
    /// The parts are not what the client said; the session is open again.
    Disproved {
        session: Session,
        code: &'static str,
        wrong_parts: Vec<u32>,
    },
    /// The storage or the store failed; the session stays as it is.
    Interrupted {
        session: Session,
        detail: String,
    },
    /// Nothing will be published.
    Failed {
        session: Session,
    },
    Aborted {
        session: Session,
    },
    /// No client used it for most of its life.
    ExpiresSoon {
        session: Session,
        in_s: u64,
    },
    Expired {
        session: Session,
    },
    /// The operator was told of a session, or was not.
    Noticed {
        session: Session,
        notice: Notice,
        /// How often it was tried.
        tries: u32,
        end: NoticeEnd,
    },
    /// Staged bytes of no session were removed.
    OrphanRemoved {
        staged: Staged,
    },
}
