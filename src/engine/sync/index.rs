//! Opening the index of a library: its manifest first, which shows whether anything changed and whether it is trusted; then the
//! index itself, as a delta onto the one of the last run.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use tokio::time::sleep;

use crate::{
    disk::{
        error::{DiskError, FileOperation},
        files::{Folder, MadeFolder},
        replica::Replica,
    },
    engine::{
        blocking,
        context::{Context, StoreHandle},
        error::Error,
        events::{Event, Events},
        fetch::{self, FetchOptions, ManifestPlace},
        library::{AGAIN, INDEX_BYTES_MAX, are_apart, earlier::Earlier},
        manifest_file::CheckedFile,
        remote::{manifest::OpenManifest, retry::reported},
        trust::{self, ManifestFront},
    },
    format::{
        keys::PublicKey,
        library::{self, Entry},
        tree::Root,
        trust::Trust,
    },
    net::location::Location,
    policy::{conditions::Conditions, recovery::Changed},
};

/// The name of the index while it is fetched.
const FETCHED: &str = "index";
/// The manifest of the last index that a key accepted, beside the copy of it that may be replaced: the folder may become a library of
/// its own.
pub const ACCEPTED: &str = "library.sapwood.accepted";

/// Which library, and the folder with the copy of an earlier run.
pub struct IndexRequest {
    /// The folder of the library.
    pub url: Location,
    pub key: Option<PublicKey>,
    pub folder: SyncFolder,
}

/// The folder of a sync.
#[derive(Clone)]
pub enum SyncFolder {
    /// For this run alone.
    Own(Arc<Replica>),
    /// Only to be looked at.
    Seen(Arc<Folder>),
    /// There is none.
    Missing,
}

impl SyncFolder {
    pub fn folder(&self) -> Option<&Folder> {
        match self {
            SyncFolder::Own(replica) => Some(replica.folder()),
            SyncFolder::Seen(folder) => Some(folder),
            SyncFolder::Missing => None,
        }
    }
}

/// A proven index.
pub struct OpenIndex {
    pub trust: Trust,
    pub file: Arc<Earlier>,
    /// Its manifest, if the folder has another one, or one that a key did not accept before.
    pub manifest: Option<Bytes>,
    /// The folder has another index.
    pub is_new: bool,
}

impl OpenIndex {
    fn new(trust: Trust, file: Earlier, manifest: Option<Bytes>, is_new: bool) -> OpenIndex {
        OpenIndex {
            trust,
            file: Arc::new(file),
            manifest,
            is_new,
        }
    }

    /// The files, in the order of their paths.
    pub fn entries(&self) -> &[Entry] {
        self.file.index.entries()
    }

    /// The pieces of an entry; none if it is large.
    pub fn pieces(&self, entry: usize) -> Bytes {
        self.file.pieces(entry)
    }
}

/// What an earlier run left in the folder.
#[derive(Default)]
struct Copy {
    manifest: Option<CheckedFile>,
    accepted: Option<CheckedFile>,
    index: Option<Earlier>,
}

impl Copy {
    fn read(folder: &Folder) -> Result<Copy, DiskError> {
        // One that cannot be read is replaced.
        let open = |name: &str| CheckedFile::open(&folder.path_of(OsStr::new(name))).ok();
        let manifest = open(library::MANIFEST);
        let index = match &manifest {
            Some(manifest) => Earlier::read_proven(folder, manifest.statement.header().root)?,
            None => None,
        };
        Ok(Copy {
            manifest,
            accepted: open(ACCEPTED),
            index: index.and_then(Result::ok),
        })
    }

    /// The manifests that earlier runs kept.
    fn fronts(&self) -> Vec<ManifestFront<'_>> {
        let kept = [&self.manifest, &self.accepted];
        let kept = kept.into_iter().flatten();
        kept.map(|manifest| ManifestFront {
            statement: &manifest.statement,
            signature: &manifest.signature,
            place: library::MANIFEST,
        })
        .collect()
    }

    /// Whether this manifest is kept already, also as one that a key accepted if there is a key.
    fn has(&self, manifest: &OpenManifest, has_key: bool) -> bool {
        let is_this = |kept: &Option<CheckedFile>| {
            kept.as_ref().is_some_and(|kept| {
                kept.statement.bytes() == manifest.statement.bytes()
                    && kept.signature == manifest.signature
            })
        };
        is_this(&self.manifest) && (!has_key || is_this(&self.accepted))
    }
}

/// Opens the index. Nothing is changed in the folder, but for files in its staging folder.
pub async fn open(
    context: &Context,
    request: &IndexRequest,
    events: &mut dyn Events,
) -> Result<OpenIndex, Error> {
    let folder = request.folder.clone();
    let copy = blocking::on_disk(move || {
        folder
            .folder()
            .map_or_else(|| Ok(Copy::default()), Copy::read)
    });
    let (copy, manifest) = tokio::join!(copy, open_manifest(context, request, events));
    let mut copy = copy?;
    let first = async {
        let manifest = manifest?;
        attempt(context, request, &mut copy, manifest, events).await
    };
    match first.await {
        Err(error) if are_apart(&error) => sleep(AGAIN).await,
        other => return other,
    }
    let again = async {
        let manifest = open_manifest(context, request, events).await?;
        attempt(context, request, &mut copy, manifest, events).await
    };
    match again.await {
        Err(error) if are_apart(&error) => Err(Error::Changed {
            place: request.url.below(library::NAME).to_string(),
            how: Changed::Root,
        }),
        other => other,
    }
}

/// Opens the manifest of the index.
async fn open_manifest(
    context: &Context,
    request: &IndexRequest,
    events: &mut dyn Events,
) -> Result<OpenManifest, Error> {
    let place = ManifestPlace::Url(request.url.below(library::MANIFEST));
    let limits = context.limits_now();
    let opening = OpenManifest::open(context, &place, &limits);
    reported(events, opening).await
}

async fn attempt(
    context: &Context,
    request: &IndexRequest,
    copy: &mut Copy,
    manifest: OpenManifest,
    events: &mut dyn Events,
) -> Result<OpenIndex, Error> {
    let conditions = Conditions {
        key: request.key.clone(),
        name: Some(request.url.folder_name().unwrap_or_default()),
        ..Conditions::default()
    };
    let (front, kept) = (manifest.front(), copy.fronts());
    let trust = trust::check_with_kept(&context.store, &conditions, front, &kept, events).await?;
    let header = manifest.header();
    let (root, bytes) = (header.root, header.geometry.length());
    if bytes > INDEX_BYTES_MAX {
        let place = request.url.below(library::NAME).to_string();
        return Err(Error::TooLarge { place, bytes });
    }
    if copy.has(&manifest, request.key.is_some())
        && let Some(file) = copy.index.take()
    {
        return Ok(OpenIndex::new(trust, file, None, false));
    }
    let of_index = manifest.whole(context).await?;
    let same = copy.index.take_if(|index| index.root == root);
    let is_new = same.is_none();
    let file = match same {
        Some(file) => file,
        None => fetch_index(context, request, root, of_index.clone(), events).await?,
    };
    Ok(OpenIndex::new(trust, file, Some(of_index), is_new))
}

/// Fetches the index of this root, and reads it.
async fn fetch_index(
    context: &Context,
    request: &IndexRequest,
    root: Root,
    manifest: Bytes,
    events: &mut dyn Events,
) -> Result<Earlier, Error> {
    let folder = request.folder.clone();
    let place = blocking::on_disk(move || FetchPlace::new(&folder)).await?;
    let url = request.url.below(library::NAME);
    let options = FetchOptions {
        folder: Some(place.again()?),
        manifest: Some(ManifestPlace::Bytes(manifest)),
        root: Some(root),
        seeds: place.seed.iter().cloned().collect(),
        ..FetchOptions::new(url.clone(), place.target())
    };
    let context = Context {
        store: StoreHandle::default(),
        ..context.clone()
    };
    fetch::fetch(&context, options, &mut OnlyTroubles(events)).await?;
    let bytes = blocking::on_disk(move || place.take()).await?;
    let refuse = |cause| Error::Index {
        place: url.to_string(),
        cause,
    };
    if *blake3::hash(&bytes).as_bytes() != root.0 {
        return Err(refuse(library::RefusedIndex::NotProven));
    }
    Earlier::of(bytes, root).map_err(refuse)
}

/// Where the index is fetched to.
struct FetchPlace {
    folder: Folder,
    name: OsString,
    /// The index of the last run.
    seed: Option<PathBuf>,
    _made: Option<MadeFolder>,
}

impl FetchPlace {
    fn new(folder: &SyncFolder) -> Result<FetchPlace, DiskError> {
        let (staging, made) = match folder {
            SyncFolder::Own(replica) => (replica.staging()?, None),
            SyncFolder::Seen(_) | SyncFolder::Missing => {
                let made = MadeFolder::temporary()?;
                (Folder::open(made.path())?, Some(made))
            }
        };
        let seed = folder.folder();
        Ok(FetchPlace {
            folder: staging,
            name: FETCHED.into(),
            seed: seed
                .map(|folder| folder.path_of(OsStr::new(library::NAME)))
                .filter(|path| path.exists()),
            _made: made,
        })
    }

    fn target(&self) -> PathBuf {
        self.folder.path_of(&self.name)
    }

    fn again(&self) -> Result<Folder, DiskError> {
        self.folder.again()
    }

    /// Reads what was fetched, and removes it.
    fn take(self) -> Result<Vec<u8>, DiskError> {
        let path = self.target();
        let opened = self.folder.open_file_below(Path::new(&self.name))?;
        let Some((file, _)) = opened else {
            return Err(DiskError::Gone { path });
        };
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut &file, &mut bytes)
            .map_err(|cause| DiskError::io(FileOperation::Read, &path, cause))?;
        self.folder.remove(&self.name)?;
        Ok(bytes)
    }
}

/// Of a fetch inside of a sync, the events that tell of troubles.
pub struct OnlyTroubles<'a>(pub &'a mut dyn Events);

impl Events for OnlyTroubles<'_> {
    fn event(&mut self, event: Event) {
        if is_trouble(&event) {
            self.0.event(event);
        }
    }
}

/// Whether an event tells that something does not go well.
pub fn is_trouble(event: &Event) -> bool {
    matches!(
        event,
        Event::Warning { .. }
            | Event::BlockWrong { .. }
            | Event::Retry(_)
            | Event::HostSlowed { .. }
            | Event::SourceDropped { .. }
    )
}
