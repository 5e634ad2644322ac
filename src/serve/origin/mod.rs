//! A web server for a folder: serves the files below it to GET and HEAD, with a manifest for each that is made here where none lies
//! beside the file, and an index of all of them where the folder has none.
//!
//! A request costs one open of the file and one look at its attributes, both on the runtime's thread if they need no disk.

mod cache;
mod endpoint;
mod files;
mod folders;
mod index_page;
mod library;
mod manifests;
mod packed;
pub(super) mod path;
mod published;
mod queue;
mod scan;
mod segments;

use std::{
    fs::File,
    future::Future,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use tokio::{net::TcpListener, task::JoinSet, time::sleep};

use crate::{
    disk::{
        error::DiskError,
        files::{EntryKind, Folder, Version},
    },
    engine::blocking,
};

use super::{
    connections::{self, Options},
    ingest::Uploads,
    metrics::{Family, Metrics},
};

use cache::Cache;
use files::ServedFile;
use folders::Folders;
use library::Library;
use manifests::Manifests;
use packed::PackedObjects;
use path::Target;

/// How often a file that was written a moment ago is opened again, until its time stamp tells it from the next version.
const SETTLING_MAX: u32 = 3;
/// The longest of these waits; a file system with coarser time stamps gets a weak entity tag instead.
const SETTLING_TIME: Duration = Duration::from_millis(20);

/// Takes warnings while the server runs.
pub type Warn = Arc<dyn Fn(String) + Send + Sync>;

/// A folder to serve. Links that lead out of it are not followed.
pub struct Origin {
    folders: Folders,
    /// Where the first one is, to be watched.
    path: PathBuf,
    /// `None`: only those that lie beside their files are served.
    manifests: Option<Arc<Manifests>>,
    /// `None`: only one that lies in the folder is served.
    library: Option<Arc<Library>>,
    /// Of its URLs: `http` or `https`.
    pub scheme: &'static str,
    /// Takes uploads, if it does.
    uploads: Option<Arc<Uploads>>,
    packed: PackedObjects,
}

impl Origin {
    /// Opens the folder. Manifests are those that lie in it.
    pub fn open(path: &Path) -> Result<Origin, DiskError> {
        Ok(Origin {
            folders: Folders::new(Folder::open(path)?),
            path: path.to_owned(),
            manifests: None,
            library: None,
            scheme: "http",
            uploads: None,
            packed: PackedObjects::default(),
        })
    }

    /// Makes manifests of all files that have none, and an index of the folder, and keeps them in a folder of the store, or in a
    /// temporary one.
    pub fn make_manifests(&mut self, store: Option<&Path>, warn: Warn) -> io::Result<()> {
        let cache = match store.map(|store| (store, Cache::in_store(store))) {
            Some((_, Ok(cache))) => cache,
            Some((store, Err(cause))) => {
                let store = store.display();
                warn(format!(
                    "manifests are kept in a temporary folder, and made again at the next start, because the store {store} \
                     cannot be used: {cause}"
                ));
                Cache::temporary()?
            }
            None => Cache::temporary()?,
        };
        let manifests = Arc::new(Manifests::new(self.folders.clone(), cache, warn));
        let library = Library::new(self.folders.first().clone(), manifests.clone());
        (self.manifests, self.library) = (Some(manifests), Some(Arc::new(library)));
        Ok(())
    }

    /// The served folder.
    pub fn folder(&self) -> &Folder {
        self.folders.first()
    }

    /// Takes uploads too. What is published is served where the folder has nothing.
    pub fn take_uploads(&mut self, uploads: Arc<Uploads>) -> Result<(), DiskError> {
        if let Some(published) = uploads.folder() {
            self.folders.add(published.clone())?;
        }
        self.uploads = Some(uploads);
        Ok(())
    }
}

/// Serves until `shutdown` is done.
pub async fn run(
    listener: TcpListener,
    origin: Origin,
    options: Options,
    shutdown: impl Future<Output = ()>,
) {
    let origin = Arc::new(origin);
    // Ends with this future.
    let mut background = JoinSet::new();
    if let Some(manifests) = &origin.manifests {
        manifests.start(&mut background);
        show(manifests, &options.metrics);
        background.spawn(scan::run(
            origin.folders.first().clone(),
            origin.path.clone(),
            manifests.clone(),
        ));
    }
    if let Some(library) = &origin.library {
        background.spawn(library.clone().keep());
    }
    if let Some(uploads) = &origin.uploads {
        if let Some(manifests) = origin.manifests.clone() {
            uploads.at_publication(move |name, published| {
                manifests.note_published(Path::new(name.as_str()), published.root);
                manifests.note_folder_changed();
            });
        }
        uploads.run(&options.metrics, &mut background);
    }
    let app = Router::new().fallback(respond).with_state(origin);
    connections::serve(listener, app, options, shutdown).await;
}

/// Shows what happens to manifests among the metrics.
fn show(manifests: &Arc<Manifests>, metrics: &Metrics) {
    let (made, pending) = (manifests.clone(), manifests.clone());
    metrics.show(Family {
        name: "sapwood_manifests_made_total",
        help: "Manifests that were made since the start.",
        is_counter: true,
        value: Box::new(move || made.made() as f64),
    });
    metrics.show(Family {
        name: "sapwood_manifests_pending",
        help: "Files of which a manifest or digests are to be made.",
        is_counter: false,
        value: Box::new(move || pending.pending() as f64),
    });
}

async fn respond(State(origin): State<Arc<Origin>>, request: Request) -> Response {
    if let Some(uploads) = &origin.uploads
        && Uploads::takes(&request)
    {
        return uploads.respond(request).await;
    }
    let (request, _) = request.into_parts();
    if !matches!(request.method, Method::GET | Method::HEAD) {
        let allowed = [(header::ALLOW, "GET, HEAD")];
        return (StatusCode::METHOD_NOT_ALLOWED, allowed).into_response();
    }
    if let Some(uploads) = &origin.uploads
        && let Some(response) = uploads.web(&request)
    {
        return response;
    }
    let response = match path::target(request.uri.path()) {
        Some(Target::File(path)) => origin.file_or_elsewhere(&request, path).await,
        Some(Target::Folder(path)) => origin.index(&request, path).await,
        None => Ok(status(StatusCode::NOT_FOUND)),
    };
    let mut response = response.unwrap_or_else(|cause| {
        tracing::warn!("{cause}");
        status(StatusCode::INTERNAL_SERVER_ERROR)
    });
    let headers = response.headers_mut();
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    // What is under a name may change; a cache has to ask, which costs no body.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

impl Origin {
    /// The response for a path that is no folder's: of the folders, or where it was published in S3.
    async fn file_or_elsewhere(
        &self,
        request: &Parts,
        path: PathBuf,
    ) -> Result<Response, DiskError> {
        let response = self.file(request, path.clone()).await?;
        if let Some(uploads) = &self.uploads
            && response.status() == StatusCode::NOT_FOUND
            && let Some(elsewhere) = uploads.elsewhere(&request.method, &path)
        {
            return Ok(elsewhere);
        }
        Ok(response)
    }

    /// The response for a file, or for what is made of it.
    async fn file(&self, request: &Parts, path: PathBuf) -> Result<Response, DiskError> {
        if let Some(response) = self.library_file(request, &path).await? {
            return Ok(response);
        }
        let described = path::without_suffix(&path, ".sapwood");
        match (self.open_settled(&path).await?, described) {
            (Some((_, version)), _) if version.kind() == EntryKind::Folder => {
                Ok(index_page::redirect(&path))
            }
            (Some((_, version)), _) if version.kind() != EntryKind::Regular => {
                Ok(status(StatusCode::NOT_FOUND))
            }
            (beside @ Some(_), Some(object)) => self.manifest(request, object, beside).await,
            (Some((file, version)), None) => {
                let described = self.manifests.as_ref().and_then(|manifests| {
                    let known = manifests.known(&path, &version);
                    if known.is_none() && path::is_described(&path) {
                        manifests.request(&path);
                    }
                    known
                });
                let file = ServedFile::object(file, version, &path, described.as_deref());
                Ok(file.respond(request))
            }
            (None, Some(object)) => self.manifest(request, object, None).await,
            (None, None) => match path::without_suffix(&path, ".sapwood.json") {
                Some(object) => self.segments(request, object).await,
                None => {
                    let packed = self.packed(request, &path).await?;
                    Ok(packed.unwrap_or_else(|| status(StatusCode::NOT_FOUND)))
                }
            },
        }
    }

    /// Opens a file or folder. A file that was written a moment ago may be written again without another time stamp: it is opened
    /// again a little later.
    async fn open_settled(&self, path: &Path) -> Result<Option<(File, Version)>, DiskError> {
        let mut opened = self.open_beneath(path).await?;
        for _ in 0..SETTLING_MAX {
            let unsettled = match &opened {
                Some((_, version)) if version.kind() == EntryKind::Regular => version.unsettled(),
                _ => Duration::ZERO,
            };
            if unsettled.is_zero() || unsettled > SETTLING_TIME {
                break;
            }
            sleep(unsettled).await;
            opened = self.open_beneath(path).await?;
        }
        Ok(opened)
    }

    async fn open_beneath(&self, path: &Path) -> Result<Option<(File, Version)>, DiskError> {
        if let Ok(opened) = self.folders.open_beneath_if_cached(path) {
            return Ok(opened);
        }
        let (folders, path) = (self.folders.clone(), path.to_owned());
        blocking::on_disk(move || folders.open_beneath(&path)).await
    }
}

fn status(status: StatusCode) -> Response {
    let mut response = Response::new(Body::from(format!("{status}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

/// What was requested is being made.
fn not_ready() -> Response {
    let mut response = status(StatusCode::SERVICE_UNAVAILABLE);
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}
