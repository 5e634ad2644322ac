//! Fetching an object: lock the target, open the object, find local data, transfer the rest, publish.

mod adopt;
mod known;
mod leftovers;
mod locks;
mod options;
mod publish;
mod receipt;
mod remembered;
mod run;
mod saved_manifest;
mod suggested_names;
mod unknown_length;
mod whole;
mod with_manifest;
mod without_manifest;

use std::sync::Arc;

use crate::{
    disk::{destination::Locked, lacking},
    engine::{
        blocking,
        context::Context,
        error::Error,
        events::{Event, Events, Published},
        remote::{self, Opened, preflight::FIRST_BYTES, retry::reported},
    },
};

pub use super::remote::manifest::ManifestPlace;
use locks::Here;
pub use locks::Locks;
pub use options::FetchOptions;
use run::Run;
pub use suggested_names::{came_from, suggested_names};

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
    let mut run = Run::new(context, options, &mut *events);
    // Those that wait for a connection are locked meanwhile.
    let (locked, here) = lock(&mut run).await?;
    let admitted = context.connections.admit(&context.client, &run.options.url);
    run.admitted = Some(admitted.await);
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
    if let Here::Nothing {
        is_of_known_origin,
        is_elsewhere,
    } = here
    {
        // For an object that is probably small, only a file that is known to be all of it counts: to search others takes longer than
        // to fetch it.
        let may_be_elsewhere = match run.context.observed.expects_small() {
            true => is_elsewhere,
            false => is_of_known_origin,
        };
        (run.nothing_is_here, run.may_be_elsewhere) = (true, may_be_elsewhere);
        keeps_first = run.options.takes_first_bytes() && !may_be_elsewhere;
    }
    if let Here::Known(known) = &here
        && let Some(trust) = known::trust_by_manifest(run, known).await?
    {
        run.context.observed.note_small(true);
        return known::unchanged(run, locked, known, trust).await;
    }
    let request = run.options.open_request(keeps_first);
    let opened = reported(&mut *run.events, remote::open(&run.context, &request)).await?;
    let is_small = opened.length().is_some_and(|length| length <= FIRST_BYTES);
    run.context.observed.note_small(is_small);
    if let Here::Known(known) = &here
        && let Some(trust) = known::trust_now(run, known, &opened).await?
    {
        return known::unchanged(run, locked, known, trust).await;
    }
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
    let options = &mut run.options;
    let request = locks::Request {
        target: options.target.clone(),
        receipt: options.receipt.clone(),
        manifest: match &options.manifest {
            Some(ManifestPlace::File(path)) => Some(path.clone()),
            _ => None,
        },
        folder: options.folder.take().map(Arc::new),
        no_clobber: options.no_clobber,
        url: options.url.clone(),
        hosts: run.context.client.hosts().clone(),
        store: run.context.store.clone(),
    };
    let held = options.locks.lock(request).await?;
    if held.url_hash.is_none() {
        // Reports why, if there is a store.
        run.in_store(|_| Ok(())).await;
    }
    run.url_hash = held.url_hash;
    let here = match held.here {
        Here::Known(known) if !run.options.is_satisfied_by(known.trust) => Here::Other,
        here => here,
    };
    Ok((held.locked, here))
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
