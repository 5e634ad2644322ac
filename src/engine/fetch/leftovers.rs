//! What a failed fetch leaves behind.

use std::path::PathBuf;

use crate::{
    disk::destination::Destination,
    engine::{
        blocking,
        error::Error,
        events::{Event, Events},
    },
};

/// Reports a part that a later run can resume although this one failed for good. A server may refuse an object for a moment, and a
/// fresh link serves the same bytes, so that only the user deletes them: with `discard`.
pub async fn after(error: &Error, target: PathBuf, discard: bool, events: &mut dyn Events) {
    if !matches!(error, Error::Net { .. }) || error.is_transient() {
        return;
    }
    let kept = blocking::on_disk(move || {
        let locked = Destination::new(&target)?.lock()?;
        let path = locked.destination().part_path();
        let bytes = locked.held()?.bytes;
        if bytes > 0 && discard {
            locked.discard()?;
            return Ok((path, 0));
        }
        Ok((path, bytes))
    });
    // A second error would only hide the first one; the next run reports a part that cannot be used.
    if let Ok((path, bytes)) = kept.await
        && bytes > 0
    {
        events.event(Event::PartKept { path, bytes });
    }
}
