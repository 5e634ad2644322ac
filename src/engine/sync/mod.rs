//! Keeping a folder in step with a library (library.md): what differs is moved, copied or fetched, proven, and placed; what is no
//! longer listed is deleted if the user wants it.

mod fetch;
mod here;
mod index;
mod intent;
mod place;
mod run;
mod state;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    disk::{error::DiskError, files::Folder, regions, replica::Replica},
    format::keys::PublicKey,
    net::location::Location,
    policy::sync::{TooManyDeletions, Wishes},
};

use super::{
    blocking,
    context::Context,
    error::Error,
    events::{Events, Synced},
};

use here::Here;
use index::{IndexRequest, OpenIndex};
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
    /// Deleted files are kept in `library.sapwood.trash`.
    pub uses_trash: bool,
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
    let url = options.url.of_library();
    let folder = open_folder(&options).await?;
    let mut stop = Box::pin(stop);
    let request = IndexRequest {
        url: &url,
        key: options.key.as_ref(),
        folder: &folder,
    };
    let index = tokio::select! {
        opened = Box::pin(index::open(context, &request, events)) => opened?,
        () = &mut stop => return Err(stopped(&options)),
    };
    let index = Arc::new(index);
    let here = tokio::select! {
        here = look(&folder, &options, &index, events) => here?,
        () = &mut stop => {
            regions::stop();
            return Err(stopped(&options));
        }
    };
    let entries = index.file.index.entries();
    let plan = options.wishes.plan(entries, &here.files);
    let plan = plan.map_err(|refused| too_many(&options, refused))?;
    let replica = match folder {
        SyncFolder::Locked(replica) if !options.is_dry_run => replica,
        _ => {
            let synced = intent::report(&options, &url, &index, &here, &plan, events);
            return Ok(Synced {
                bytes_fetched: context.client.bytes_fetched(),
                elapsed_ms: began.elapsed().as_millis() as u64,
                ..synced
            });
        }
    };
    let mut run = Run::new(context, options, url, replica, index, here, events);
    run.began = began;
    Box::pin(run.carry_out(plan, stop)).await
}

/// The folder of a sync.
enum SyncFolder {
    /// No other run may use it.
    Locked(Arc<Replica>),
    /// Only to be looked at.
    Seen(Arc<Folder>),
    /// There is none, and none is to be made.
    Missing,
}

impl SyncFolder {
    fn folder(&self) -> Option<&Folder> {
        match self {
            SyncFolder::Locked(replica) => Some(replica.folder()),
            SyncFolder::Seen(folder) => Some(folder),
            SyncFolder::Missing => None,
        }
    }
}

async fn open_folder(options: &SyncOptions) -> Result<Arc<SyncFolder>, Error> {
    let (path, is_dry_run) = (options.folder.clone(), options.is_dry_run);
    let opened = blocking::on_disk(move || {
        if !is_dry_run {
            return Ok(SyncFolder::Locked(Arc::new(Replica::open(&path)?)));
        }
        match Folder::open(&path) {
            Ok(folder) => {
                folder.lock()?;
                Ok(SyncFolder::Seen(Arc::new(folder)))
            }
            Err(cause) if cause.is_missing() => Ok(SyncFolder::Missing),
            Err(cause) => Err(cause),
        }
    });
    Ok(Arc::new(opened.await?))
}
