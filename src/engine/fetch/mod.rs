//! Fetching an object: lock the target, open the object, find local data, transfer the rest, publish.

mod adopt;
mod known;
mod leftovers;
mod options;
mod publish;
mod receipt;
mod run;
mod unknown_length;
mod whole;
mod with_manifest;
mod without_manifest;

use std::path::Path;

use crate::{
    disk::{
        destination::{Destination, Locked},
        error::DiskError,
        files, lacking,
        temporary::{Replaces, Temporary},
    },
    engine::{
        blocking,
        context::Context,
        error::Error,
        events::{Event, Events, Published},
        remote::{self, Opened, preflight::FIRST_BYTES, retry::reported},
    },
};

pub use super::remote::manifest::ManifestPlace;
use known::Known;
pub use options::FetchOptions;
use run::Run;

/// Fetches one object to its target. The file appears there complete and proven, or not at all.
///
/// Dropping the future is a clean stop: proven blocks are in the part file and recorded in its journal, and the same call resumes
/// from there.
pub async fn fetch(
    context: &Context,
    options: FetchOptions,
    events: &mut dyn Events,
) -> Result<Published, Error> {
    let (target, discard) = (options.target.clone(), options.discard);
    let admitted = context.connections.admit(&context.client, &options.url);
    let admitted = admitted.await;
    let mut run = Run::new(context, options, &mut *events);
    run.admitted = Some(admitted);
    let (locked, here) = lock(&mut run).await?;
    // Boxed, to keep the futures of callers small.
    let outcome = Box::pin(fetch_locked(&mut run, locked, here)).await;
    drop(run);
    for message in lacking::take() {
        events.event(Event::Warning { message });
    }
    if let Err(error) = &outcome {
        leftovers::after(error, target, discard, events).await;
    }
    outcome
}

async fn fetch_locked(run: &mut Run<'_>, locked: Locked, here: Here) -> Result<Published, Error> {
    let mut keeps_first = false;
    if let Here::Nothing { may_be_elsewhere } = here {
        (run.nothing_is_here, run.may_be_elsewhere) = (true, may_be_elsewhere);
        keeps_first = run.options.takes_first_bytes() && !may_be_elsewhere;
    }
    let request = run.options.open_request(keeps_first);
    let opened = reported(&mut *run.events, remote::open(&run.context, &request)).await?;
    let is_small = opened.length().is_some_and(|length| length <= FIRST_BYTES);
    run.context.observed.note_small(is_small);
    let locked = match here {
        Here::Known(known) => match known::unchanged(run, locked, &known, &opened).await? {
            Ok(published) => return Ok(published),
            Err(locked) => locked,
        },
        _ => locked,
    };
    match opened {
        Opened::WithManifest(object) => with_manifest::fetch(run, locked, *object).await,
        Opened::WithoutManifest { url, first, unread } => {
            let locked = match unread {
                Some(error) => go_on_without(run, locked, *error).await?,
                None => locked,
            };
            if run.options.url != url {
                (run.options.url, run.url_hash) = (url, None);
            }
            Box::pin(without_manifest::fetch(run, locked, *first)).await
        }
    }
}

/// What is at the target when it is locked.
enum Here {
    /// Neither a file nor a part. `may_be_elsewhere`: another file may have bytes of the object.
    Nothing {
        may_be_elsewhere: bool,
    },
    /// What an earlier run published.
    Known(Known),
    Other,
}

/// Goes on without a manifest that cannot be read, unless the user requires one, or the part was proven against it: without it, that
/// part would be lost.
async fn go_on_without(run: &mut Run<'_>, locked: Locked, error: Error) -> Result<Locked, Error> {
    let (locked, held) =
        blocking::on_disk(move || locked.held().map(|held| (locked, held))).await?;
    if run.options.requires_manifest() || (held.with_manifest && held.bytes > 0) {
        return Err(error);
    }
    let message = format!(
        "the manifest beside the object cannot be read: {error}. The fetch goes on without it"
    );
    run.events.event(Event::Warning { message });
    Ok(locked)
}

/// Locks the target for this run, and checks everything that needs no request.
async fn lock(run: &mut Run<'_>) -> Result<(Locked, Here), Error> {
    let (target, receipt) = (run.options.target.clone(), run.options.receipt.clone());
    let manifest = match &run.options.manifest {
        Some(ManifestPlace::File(path)) => Some(path.clone()),
        _ => None,
    };
    let (hosts, no_clobber) = (run.context.client.hosts().clone(), run.options.no_clobber);
    let (store, url) = (run.context.store.clone(), run.options.url.clone());
    let folder = run.options.folder.take();
    let expects_small = run.context.observed.expects_small();
    let locked = blocking::on_disk(move || {
        hosts.refresh();
        check_places(&target, receipt.as_deref(), manifest.as_deref())?;
        let destination = match (folder, target.file_name()) {
            (Some(folder), Some(name)) => Destination::in_folder(folder, name.to_owned())?,
            _ => Destination::new(&target)?,
        };
        let locked = destination.lock()?;
        let destination = locked.destination();
        let existing = destination.existing()?;
        if no_clobber && existing.is_some() {
            return Err(DiskError::Exists {
                path: destination.path(),
            });
        }
        let is_empty = destination.is_empty()?;
        let in_store = store.with_blocking(|store| {
            let url_hash = adopt::url_hash(store, &url)?;
            let here = match existing {
                Some(entry) => known::find(store, destination, entry, &url_hash)?
                    .map_or(Here::Other, Here::Known),
                None if is_empty => Here::Nothing {
                    may_be_elsewhere: known::may_be_elsewhere(
                        store,
                        &url,
                        &url_hash,
                        expects_small,
                    )?,
                },
                None => Here::Other,
            };
            Ok((url_hash, here))
        });
        let in_store = in_store.map(|(url_hash, here)| match here {
            Here::Known(known) if !known.is_at(&destination.path()) => (url_hash, Here::Other),
            here => (url_hash, here),
        });
        Ok((locked, is_empty, in_store))
    });
    let (locked, is_empty, in_store) = locked.await?;
    let Some((url_hash, here)) = in_store else {
        // Reports why, if there is a store.
        run.in_store(|_| Ok(())).await;
        let may_be_elsewhere = false;
        return Ok(match is_empty {
            true => (locked, Here::Nothing { may_be_elsewhere }),
            false => (locked, Here::Other),
        });
    };
    run.url_hash = Some(url_hash);
    match here {
        Here::Known(known) if !known.suffices(&run.options) => Ok((locked, Here::Other)),
        here => Ok((locked, here)),
    }
}

/// Fails if the object or its receipt would replace another file of this run, or the receipt anything that is not a receipt.
fn check_places(
    target: &Path,
    receipt: Option<&Path>,
    manifest: Option<&Path>,
) -> Result<(), DiskError> {
    let refuse = |path: &Path, what| {
        let path = path.to_owned();
        Err(DiskError::Conflict { path, what })
    };
    let is_manifest = |path| manifest.is_some_and(|manifest| files::is_same_file(path, manifest));
    if is_manifest(target) {
        return refuse(target, "the manifest of this run");
    }
    match receipt {
        None => Ok(()),
        Some(receipt) if files::is_same_file(receipt, target) => {
            refuse(receipt, "the target of this run")
        }
        Some(receipt) if is_manifest(receipt) => refuse(receipt, "the manifest of this run"),
        Some(receipt) if receipt.file_name().is_some_and(files::is_own) => refuse(
            receipt,
            "a name of unfinished downloads; choose another name",
        ),
        Some(receipt) => Temporary::check(receipt, Replaces::Receipt),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::remote::OpenRequest;

    fn is_send<T: Send>(_: T) {}

    /// A server spawns a fetch as a task, so its future must be `Send`. This need only compile.
    #[test]
    fn the_futures_of_fetch_and_open_are_send() {
        let _ = |context: &Context, options: FetchOptions, events: &mut dyn Events| {
            is_send(fetch(context, options, events));
        };
        let _ = |context: &Context, request: &OpenRequest<'_>| {
            is_send(remote::open(context, request));
        };
    }
}
