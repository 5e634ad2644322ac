//! Keeping a folder in step with a library (library.md): what differs is moved, copied or fetched, proven, and placed; what is no
//! longer listed is deleted if the user wants it.

mod content;
mod counts;
mod fetch;
mod fetching;
mod here;
mod index;
mod intent;
mod local;
mod place;
mod removal;
mod results;
mod run;
mod state;

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    disk::{error::DiskError, files::Folder, regions, replica::Replica},
    format::keys::PublicKey,
    net::location::Location,
    policy::sync::{Plan, Wishes},
};

use super::{
    blocking,
    context::Context,
    error::Error,
    events::{Event, Events, Synced},
};

use here::Here;
use index::{IndexRequest, OpenIndex, SyncFolder};
use run::Run;

/// What to sync, and how.
#[derive(Clone, Debug)]
pub struct SyncOptions {
    /// The folder of the library, or its index.
    pub url: Location,
    /// The folder that becomes like it. It is made if it is missing.
    pub folder: PathBuf,
    /// The index must be signed by this key, for the name of the folder in the URL.
    pub key: Option<PublicKey>,
    /// Which files, and what is deleted.
    pub wishes: Wishes,
    /// The folder in `library.sapwood.trash` where deleted files are kept; `None`: they are not.
    pub trash: Option<String>,
    /// Report what would be done, and do nothing.
    pub is_dry_run: bool,
    /// The largest file, in bytes.
    pub max_size: Option<u64>,
    /// Attempts of one file.
    pub rounds: u32,
    /// A file fails if its host requires a longer wait than this.
    pub patience: Duration,
}

/// Makes a folder what its library says. A file that fails is an event, and the others go on. When `stop` is ready, nothing new is
/// begun: what was placed stays, and the same call goes on from there.
pub async fn sync(
    context: &Context,
    options: SyncOptions,
    stop: impl Future<Output = ()> + Send,
    events: &mut dyn Events,
) -> Result<Synced, Error> {
    let began = Instant::now();
    let mut stop: Stop<'_> = Box::pin(stop);
    let (path, is_dry_run) = (options.folder.clone(), options.is_dry_run);
    let folder = blocking::on_disk(move || open_folder(path, is_dry_run)).await?;
    let request = IndexRequest {
        url: options.url.of_library(),
        key: options.key.clone(),
        folder: folder.clone(),
    };
    let prepared = prepare(context, &options, &request, &mut stop, events).await;
    if let (Err(_), SyncFolder::Own(replica)) = (&prepared, &folder) {
        let replica = replica.clone();
        // A folder that is not empty has what the next run goes on with.
        let _ = blocking::on_disk(move || replica.remove_staging(|_| true)).await;
    }
    let (Prepared { index, here, plan }, url) = (prepared?, request.url);
    let synced = match folder {
        SyncFolder::Own(replica) => {
            let run = Run::new(context, (options, url), replica, index, here, events);
            Box::pin(run.carry_out(plan, stop)).await
        }
        SyncFolder::Seen(_) | SyncFolder::Missing => {
            let synced = intent::report((&options, &url), &index, &here.files, &plan, events);
            Ok(Synced {
                bytes_fetched: context.client.bytes_fetched(),
                ..synced
            })
        }
    };
    let synced = Synced {
        elapsed_ms: began.elapsed().as_millis() as u64,
        ..synced?
    };
    events.event(Event::Synced(synced.clone()));
    Ok(synced)
}

/// What is to be done, and what it follows from.
struct Prepared {
    index: Arc<OpenIndex>,
    here: Here,
    plan: Plan,
}

/// Opens the index, looks at the folder, and plans. Nothing is changed.
async fn prepare(
    context: &Context,
    options: &SyncOptions,
    request: &IndexRequest,
    stop: &mut Stop<'_>,
    events: &mut dyn Events,
) -> Result<Prepared, Error> {
    // What the server and the disk say takes its time: both at once.
    let (opened, seen) = (
        Box::pin(index::open(context, request, events)),
        here::see(request.folder.clone()),
    );
    let both = async {
        let (opened, seen) = tokio::join!(opened, seen);
        Ok((opened?, seen?))
    };
    let (index, seen) = unless_stopped(options, stop, both).await?;
    let (index, folder) = (Arc::new(index), request.folder.clone());
    let looked = here::look(folder, seen, options.wishes.clone(), index.clone());
    let here = unless_stopped(options, stop, Box::pin(looked)).await?;
    let plan = match options.wishes.plan(index.entries(), &here.files) {
        Ok(plan) => plan,
        Err(refused) => {
            if options.is_dry_run {
                let plan = options.wishes.unchecked_plan(index.entries(), &here.files);
                intent::report((options, &request.url), &index, &here.files, &plan, events);
            }
            return Err(Error::TooManyDeletions {
                path: options.folder.clone(),
                deletions: refused.deletions,
                files: refused.files,
                most: options.wishes.delete_max.to_string(),
            });
        }
    };
    if plan.steps.is_empty() && !index.entries().is_empty() {
        let message = "the filters leave out every file of the library".to_owned();
        events.event(Event::Warning { message });
    }
    Ok(Prepared { index, here, plan })
}

/// What ends a sync early.
type Stop<'a> = std::pin::Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Works until it is done, or fails when the sync is stopped.
async fn unless_stopped<T>(
    options: &SyncOptions,
    stop: &mut Stop<'_>,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::select! {
        outcome = work => outcome,
        () = stop => {
            regions::stop();
            let path = options.folder.clone();
            Err(DiskError::Stopped { path }.into())
        }
    }
}

fn open_folder(path: PathBuf, is_dry_run: bool) -> Result<SyncFolder, DiskError> {
    if !is_dry_run {
        let replica = Replica::open(&path).map_err(|cause| not_a_folder(cause, &path))?;
        return Ok(SyncFolder::Own(Arc::new(replica)));
    }
    match Folder::open(&path) {
        Ok(folder) => {
            folder.lock()?;
            Ok(SyncFolder::Seen(Arc::new(folder)))
        }
        Err(DiskError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
            Ok(SyncFolder::Missing)
        }
        Err(cause) => Err(not_a_folder(cause, &path)),
    }
}

/// The error of a folder that cannot be opened, because something else has its name.
fn not_a_folder(cause: DiskError, path: &Path) -> DiskError {
    match cause {
        DiskError::Io { source, .. }
            if matches!(
                source.kind(),
                ErrorKind::NotADirectory | ErrorKind::AlreadyExists
            ) =>
        {
            let (path, what) = (path.to_owned(), "not a folder");
            DiskError::Unsafe { path, what }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_send<T: Send>(_: T) {}

    /// A server may run a sync as a task. This need only compile.
    #[test]
    fn the_future_is_send() {
        let _ = |context: &Context, options: SyncOptions, events: &mut dyn Events| {
            is_send(sync(context, options, std::future::pending(), events));
        };
    }
}
