//! Calls that a file system does not support. The program goes on without them, and warns once about each.

use std::{fmt, path::Path};

use parking_lot::Mutex;
use rustix::io::Errno;

/// What a file system does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lacking {
    /// flock(2)
    Locks,
    /// fsync(2), fdatasync(2)
    Syncs,
    /// fchmod(2)
    Modes,
}

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Lacking::Locks => {
                "cannot be locked on this file system: do not run another fetch to the same file at the same time"
            }
            Lacking::Syncs => {
                "cannot be synced on this file system: verify the file again after a crash or a power cut"
            }
            Lacking::Modes => {
                "keeps the permissions that it was made with: others cannot be set on this file system"
            }
        })
    }
}

#[derive(Debug)]
struct Notes {
    noted: Vec<Lacking>,
    /// Not taken yet.
    messages: Vec<String>,
}

static NOTES: Mutex<Notes> = Mutex::new(Notes {
    noted: Vec::new(),
    messages: Vec::new(),
});

/// Notes what is lacking at this path.
pub(super) fn note(lacking: Lacking, path: &Path) {
    let mut notes = NOTES.lock();
    if !notes.noted.contains(&lacking) {
        notes.noted.push(lacking);
        notes.messages.push(format!("{} {lacking}", path.display()));
    }
}

/// The warnings since the last call.
pub fn take() -> Vec<String> {
    std::mem::take(&mut NOTES.lock().messages)
}

/// Whether a file system does not have a call.
pub fn is_unsupported(cause: Errno) -> bool {
    matches!(cause, Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS)
}
