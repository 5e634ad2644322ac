//! What a failed fetch leaves behind.

use std::path::PathBuf;

use crate::{
    disk::destination::{Destination, Left},
    engine::{
        blocking,
        error::Error,
        events::{Event, Events},
    },
    policy::recovery::{BadResponse, Failure},
};

/// Removes a part that no later run can resume, and tells the user how to resume a part that is kept. Proven blocks are always
/// kept; so are bytes from a link that expired, because a fresh link serves the same bytes.
pub async fn after(error: &Error, target: PathBuf, events: &mut dyn Events) {
    let Error::Net { cause, .. } = error else {
        return;
    };
    let expired = match cause.failure {
        Failure::Refused {
            status: 401 | 403 | 410,
        } => true,
        Failure::Refused { .. }
        | Failure::BadResponse(BadResponse::Encoded)
        | Failure::TooLarge => false,
        _ => return,
    };
    let left = blocking::on_disk(move || {
        let locked = Destination::new(&target)?.lock()?;
        let path = locked.destination().part_path();
        let left = locked.left()?;
        if left == Left::Unproven && !expired {
            locked.discard()?;
        }
        Ok((path, left))
    });
    // A second error would only hide the first one; the next run reports a part that could not be removed.
    let Ok((path, left)) = left.await else {
        return;
    };
    if expired && left != Left::Nothing {
        let message = format!(
            "{} is kept; to resume, fetch a fresh URL to the same file",
            path.display()
        );
        events.event(Event::Warning { message });
    }
}
