//! Libraries: a folder and its index (library.md).

use std::time::Duration;

use super::error::Error;

pub mod create;
pub mod earlier;
pub mod listing;
pub mod remote;
pub mod spooled;
pub mod verify;

/// The largest index that is read: that of some ten million files. It is read into memory.
pub const INDEX_BYTES_MAX: u64 = 1 << 30;
/// A library is published in a moment: so long after the first reading it is read once more, if index and manifest were of two
/// versions.
pub const AGAIN: Duration = Duration::from_secs(1);

/// Whether index and manifest are of two versions: the library may be published at this moment.
pub fn are_apart(error: &Error) -> bool {
    matches!(
        error,
        Error::Wrong { .. }
            | Error::OtherLength { .. }
            | Error::OtherRoot { .. }
            | Error::Changed { .. }
    )
}
