//! Taking uploads over HTTP (manifest-spec/upload.md), below one path of a server for a folder.

mod any_part;
mod arrivals;
mod audit;
mod bodies;
mod companion;
mod cors;
mod counts;
mod cut;
mod dialects;
mod documents;
mod form;
mod growing;
mod notices;
mod part;
mod problem;
mod publish;
mod requests;
mod resumable;
mod routes;
mod signed;
mod stored;
mod streams;
pub mod tokens;
mod turns;
mod web;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{
    extract::Request,
    http::{HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
};
use parking_lot::RwLock;
use serde_json::Value;
use tokio::{sync::mpsc, task::JoinSet, time::sleep};

use crate::{
    disk::{error::DiskError, files::Folder, sessions::SessionsError},
    engine::ingest::{
        FinalizeRun, Ingest, IngestError, IngestEvent, IngestLimits,
        clock::SystemClock,
        session_store::{SessionStore, StoreError},
        sqlite::SqliteSessions,
    },
    engine::storage::StorageError,
    format::library::LibraryPath,
    policy::upload::{Published, Session, notices::KeptNotices},
};

#[cfg(feature = "postgres")]
use crate::engine::ingest::postgres::{self, Place, PostgresSessions};

use super::metrics::Metrics;

pub use arrivals::Pace;
use audit::Audit;
use cors::{From, Origins};
use counts::Counts;
pub use notices::HookNotice;
use problem::Problem;
use signed::Signer;
pub use stored::Stored;
use streams::Streams;
use tokens::TokenFile;
use turns::Turns;

/// The path of the API; all of it is below.
pub const PATH: &str = "/.sapwood/uploads";
/// The database of the sessions, if no other one is named.
const SESSIONS: &str = "sessions.sqlite";
/// How often what nobody needs is removed.
const COLLECT_TIME: Duration = Duration::from_secs(60);
/// Parts that arrive at a time. Each has at most 1.5 MiB in memory.
const PARTS_AT_ONCE: usize = 256;
/// Other requests with a long body at a time, each of at most [`bodies::BYTES_MAX`].
const DOCUMENTS_AT_ONCE: usize = 16;
/// Requests at a time whose parts are copied of earlier objects.
const COPIES_AT_ONCE: usize = 8;

/// Who may upload, and what is done then.
pub struct UploadsOptions {
    /// Where objects are staged and published.
    pub storage: Stored,
    /// Where the sessions are kept.
    pub sessions: Kept,
    /// `None`: whoever reaches the loopback interface.
    pub tokens: Option<TokenFile>,
    /// The web origins whose scripts may use the API.
    pub origins: Vec<String>,
    /// Of each owner, and of each session.
    pub limits: IngestLimits,
    /// Of clients that send parts.
    pub pace: Pace,
    /// Takes what the operator should know.
    pub warn: Arc<dyn Fn(String) + Send + Sync>,
    /// What the operator is told of: see [`Uploads::next_notice`].
    pub kept_notices: KeptNotices,
    /// Whether clients speak TLS with this server.
    pub is_tls: bool,
}

/// Where sessions are kept.
pub enum Kept {
    /// With what is staged, for this server alone.
    Staged,
    /// In this database of `SQLite`.
    File(PathBuf),
    /// In this database of Postgres, which other servers may use too.
    #[cfg(feature = "postgres")]
    Postgres(Box<Place>),
}

/// Why uploads cannot be taken.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what it is")]
pub enum StartError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Sessions(#[from] SessionsError),
    #[error(
        "the sessions in {0} are those of another storage: what is staged for them is not here"
    )]
    OtherStorage(String),
    #[cfg(feature = "postgres")]
    #[error(transparent)]
    Postgres(#[from] postgres::Failed),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("no key for the URLs of parts could be made: {0}")]
    Key(#[source] io::Error),
}

/// Takes what is told of a published object.
type Notice = Box<dyn Fn(&LibraryPath, &Published) + Send + Sync>;

/// Takes uploads.
pub struct Uploads {
    ingest: Ingest,
    tokens: Option<TokenFile>,
    origins: Origins,
    signer: Signer,
    counts: Arc<Counts>,
    published: Arc<RwLock<Vec<Notice>>>,
    events: parking_lot::Mutex<Option<mpsc::UnboundedReceiver<IngestEvent>>>,
    audit: Arc<Audit>,
    warn: Arc<dyn Fn(String) + Send + Sync>,
    intake: Intake,
    stored: Stored,
}

/// How requests are taken: how many at a time, how fast, and what they have open.
struct Intake {
    pace: Pace,
    parts: Turns,
    documents: Turns,
    streams: Streams,
    is_tls: bool,
    copies: Turns,
}

/// Opens the sessions of this storage, with what signs URLs for them.
async fn open_store(
    kept: Kept,
    stored: &Stored,
    kept_notices: KeptNotices,
) -> Result<(Arc<dyn SessionStore>, Signer), StartError> {
    let (storage, staging) = (stored.id()?, stored.own_folder());
    let file = match kept {
        Kept::Staged => staging.path_of(SESSIONS.as_ref()),
        Kept::File(file) => file,
        #[cfg(feature = "postgres")]
        Kept::Postgres(place) => {
            let shown = place.to_string();
            let store = PostgresSessions::open(*place, kept_notices).await?;
            if !store.bind(storage).await? {
                return Err(StartError::OtherStorage(shown));
            }
            // What this server signed before it shared its sessions stays valid.
            let offered = match signed::key_of(staging)? {
                Some(key) => key,
                None => signed::new_key()?,
            };
            let signer = Signer::new(store.url_key(offered).await?);
            return Ok((Arc::new(store), signer));
        }
    };
    let store = SqliteSessions::open(file.clone()).await?;
    if !store.bind(storage).await? {
        return Err(StartError::OtherStorage(file.display().to_string()));
    }
    store.keep_notices(kept_notices).await?;
    Ok((Arc::new(store), Signer::open(staging)?))
}

impl Uploads {
    /// Opens the sessions. Nothing is done before [`Uploads::run`].
    pub async fn open(options: UploadsOptions) -> Result<Arc<Uploads>, StartError> {
        let UploadsOptions {
            storage,
            sessions,
            tokens,
            origins,
            limits,
            pace,
            warn,
            kept_notices,
            is_tls,
        } = options;
        let stored = storage;
        let staging = stored.own_folder();
        // The folder of a server's own is locked.
        let is_alone = matches!(sessions, Kept::Staged);
        let (store, signer) = open_store(sessions, &stored, kept_notices).await?;
        let audit = Arc::new(Audit::open(staging)?);
        let (sender, events) = mpsc::unbounded_channel();
        let counts = Arc::<Counts>::default();
        let published = Arc::<RwLock<Vec<Notice>>>::default();
        let (count, notices) = (counts.clone(), published.clone());
        let tell = move |event: IngestEvent| {
            count.note(&event);
            if let IngestEvent::Published { session, published } = &event {
                for notice in notices.read().iter() {
                    notice(&session.declared.name, published);
                }
            }
            // Nobody takes it when the server has ended.
            let _ = sender.send(event);
        };
        let clock = Arc::new(SystemClock::new());
        let ingest = Ingest::start(store, stored.storage(), clock, limits, Arc::new(tell));
        let ingest = match (ingest.await?.telling(kept_notices), is_alone) {
            (ingest, true) => ingest.alone(),
            (ingest, false) => ingest,
        };
        if ingest.is_alone() {
            ingest.release_notices().await?;
        }
        Ok(Arc::new(Uploads {
            ingest,
            tokens,
            origins: Origins::new(origins),
            signer,
            counts,
            published,
            events: parking_lot::Mutex::new(Some(events)),
            audit,
            warn,
            intake: Intake {
                pace,
                parts: Turns::new(PARTS_AT_ONCE),
                documents: Turns::new(DOCUMENTS_AT_ONCE),
                streams: Streams::default(),
                is_tls,
                copies: Turns::new(COPIES_AT_ONCE),
            },
            stored,
        }))
    }

    /// Tells of each object that is published, before its client knows.
    pub fn at_publication(
        &self,
        notice: impl Fn(&LibraryPath, &Published) + Send + Sync + 'static,
    ) {
        self.published.write().push(Box::new(notice));
    }

    /// Starts what goes on beside the requests: it ends with the set.
    pub fn run(self: &Arc<Self>, metrics: &Metrics, background: &mut JoinSet<()>) {
        self.counts.show(metrics);
        background.spawn(self.clone().keep());
        if let Some(events) = self.events.lock().take() {
            background.spawn(self.clone().follow(events));
        }
    }

    /// Where published objects are, if that is a folder.
    pub fn folder(&self) -> Option<&Arc<Folder>> {
        self.stored.folder()
    }

    /// The response for a path at which no folder has anything: where an object is that was published in S3.
    pub fn elsewhere(&self, method: &Method, path: &Path) -> Option<Response> {
        match self.stored.url(method, path)? {
            Ok(url) => Some(Redirect::temporary(&url).into_response()),
            Err(cause) => {
                tracing::warn!("{}: {cause}", path.display());
                None
            }
        }
    }

    /// Whether a request is for the API, or for that of other clients.
    pub fn takes(request: &Request) -> bool {
        let path = request.uri().path();
        let rest = path.strip_prefix(PATH);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            || resumable::Route::of(path).is_some()
            || companion_route(request).is_some()
    }

    /// The response to a request for the API.
    pub async fn respond(self: &Arc<Self>, request: Request) -> Response {
        let origin = self.origins.of(&request);
        let mut response = self.dispatch(request, &origin).await;
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        self.origins.allow(&origin, headers);
        response
    }

    async fn dispatch(self: &Arc<Self>, request: Request, origin: &From) -> Response {
        let (companion, resumable) = (
            companion_route(&request),
            resumable::Route::of(request.uri().path()),
        );
        if *origin == From::Refused {
            let what = "this server takes no uploads from web pages of this origin";
            let problem = Problem::new(StatusCode::FORBIDDEN, "origin_refused", what);
            return match companion {
                Some(_) => companion::told(self, problem),
                None => problem.response(),
            };
        }
        match (companion, resumable) {
            (Some(route), _) => companion::respond(self, request, route).await,
            (None, Some(route)) => resumable::respond(self, request, route).await,
            (None, None) => routes::respond(self, request).await,
        }
    }

    /// Finishes what servers before this one began, and removes what nobody needs.
    async fn keep(self: Arc<Self>) {
        match self.ingest.unfinished().await {
            Ok(runs) => self.finish(runs).await,
            Err(cause) => (self.warn)(format!("unfinished uploads cannot be published: {cause}")),
        }
        loop {
            match self.ingest.collect().await {
                Ok(collected) => {
                    self.counts.note_collected(&collected);
                    for cause in &collected.failures {
                        (self.warn)(format!("an upload that has ended was not removed: {cause}"));
                    }
                    self.finish(collected.unfinished).await;
                }
                Err(cause) => (self.warn)(format!("uploads that have ended stay: {cause}")),
            }
            sleep(COLLECT_TIME).await;
            self.intake.streams.close_idle();
        }
    }

    async fn finish(&self, runs: Vec<FinalizeRun>) {
        for run in runs {
            let id = run.id();
            match self.ingest.run(run).await {
                Ok(_) | Err(IngestError::Disproved(_)) => (),
                Err(IngestError::Storage(StorageError::Superseded)) => (),
                Err(cause) => (self.warn)(format!("session {id} was not published: {cause}")),
            }
        }
    }

    /// Writes down what happens.
    async fn follow(self: Arc<Self>, mut events: mpsc::UnboundedReceiver<IngestEvent>) {
        let mut has_failed = false;
        while let Some(event) = events.recv().await {
            let mut batch = vec![event];
            while let Ok(event) = events.try_recv() {
                batch.push(event);
            }
            for event in &batch {
                if let IngestEvent::Interrupted { session, detail } = event {
                    let id = session.id;
                    (self.warn)(format!("session {id} was not published: {detail}"));
                }
            }
            let written = self.audit.write(batch).await;
            if let Err(cause) = &written
                && !has_failed
            {
                (self.warn)(format!("the audit log is not written: {cause}"));
            }
            has_failed = written.is_err();
        }
    }

    /// A session without its parts.
    fn status_of(&self, session: &Session) -> Value {
        documents::status(session, None, self.ingest.expires_s(session))
    }
}

fn companion_route(request: &Request) -> Option<companion::Route> {
    let uri = request.uri();
    companion::Route::of(
        request.method(),
        uri.path(),
        uri.query().unwrap_or_default(),
    )
}
