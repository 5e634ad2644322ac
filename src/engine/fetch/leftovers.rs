//! What a fetch that failed leaves behind.

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

/// Removes what no later run can go on from, and tells how to go on from what is kept. Proven blocks are always kept; so are
/// bytes behind a link that expired, because they come from the next link too.
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
    // A second failure would only hide the first one: what could not be removed is seen by the next run.
    let Ok((path, left)) = left.await else {
        return;
    };
    if expired && left != Left::Nothing {
        let message = format!(
            "{} is kept: fetch a fresh URL to the same file to resume",
            path.display()
        );
        events.event(Event::Warning { message });
    }
}
