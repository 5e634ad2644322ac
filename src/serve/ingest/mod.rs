//! Taking uploads over HTTP (manifest-spec/upload.md), below one path of a server for a folder.

mod audit;
mod bodies;
mod cors;
mod counts;
mod documents;
mod part;
mod problem;
mod routes;
mod signed;
pub mod tokens;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    extract::Request,
    http::{HeaderValue, header},
    response::Response,
};
use parking_lot::RwLock;
use serde_json::Value;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::sleep,
};

use crate::{
    disk::error::DiskError,
    engine::{
        ingest::{
            FinalizeRun, Ingest, IngestError, IngestEvent, IngestLimits,
            clock::SystemClock,
            session_store::{SessionStore, StoreError},
            sqlite::SqliteSessions,
        },
        storage::folder::FolderStorage,
    },
    format::library::LibraryPath,
    policy::upload::Session,
};

use super::metrics::Metrics;

use audit::Audit;
use cors::Origins;
use counts::Counts;
pub use part::Pace;
use signed::Signer;
use tokens::Tokens;

/// The path of the API; all of it is below.
pub const PATH: &str = "/.sapwood/uploads";
/// The database of the sessions, if no other one is named.
const SESSIONS: &str = "sessions.sqlite";
/// How often what nobody needs is removed.
const COLLECT_TIME: Duration = Duration::from_secs(60);
/// Parts that arrive at a time. Each has at most 1.5 MiB in memory.
const PARTS_AT_ONCE: usize = 256;
/// Other requests with a body at a time, each of at most [`bodies::BYTES_MAX`].
const DOCUMENTS_AT_ONCE: usize = 16;

/// Who may upload, and what is done then.
pub struct UploadsOptions {
    /// Where objects are staged and published.
    pub storage: FolderStorage,
    /// The database of the sessions; `None`: with what is staged.
    pub sessions: Option<PathBuf>,
    /// `None`: whoever reaches the loopback interface.
    pub tokens: Option<Tokens>,
    /// The web origins whose scripts may use the API.
    pub origins: Vec<String>,
    /// Of each owner, and of each session.
    pub limits: IngestLimits,
    /// Of clients that send parts.
    pub pace: Pace,
    /// Takes what the operator should know.
    pub warn: Arc<dyn Fn(String) + Send + Sync>,
    /// Takes the status of each session whose object was published, as the API shows it.
    pub on_final: Option<mpsc::UnboundedSender<Value>>,
}

/// Why uploads cannot be taken.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what it is")]
pub enum StartError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("no key for the URLs of parts could be made: {0}")]
    Key(#[source] io::Error),
}

/// Takes what is told of a published object.
type Notice = Box<dyn Fn(&LibraryPath) + Send + Sync>;

/// Takes uploads.
pub struct Uploads {
    ingest: Ingest,
    tokens: Option<Tokens>,
    origins: Origins,
    signer: Signer,
    counts: Arc<Counts>,
    published: Arc<RwLock<Vec<Notice>>>,
    events: parking_lot::Mutex<Option<mpsc::UnboundedReceiver<IngestEvent>>>,
    audit: Arc<Audit>,
    warn: Arc<dyn Fn(String) + Send + Sync>,
    on_final: Option<mpsc::UnboundedSender<Value>>,
    pace: Pace,
    turns: Turns,
}

/// How much is done at a time.
struct Turns {
    parts: Semaphore,
    documents: Semaphore,
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
            on_final,
        } = options;
        let staging = storage.staging();
        let sessions = sessions.unwrap_or_else(|| staging.path_of(SESSIONS.as_ref()));
        let store = SqliteSessions::open(sessions).await;
        let store = store.map_err(|cause| StoreError(Box::new(cause)))?;
        let store: Arc<dyn SessionStore> = Arc::new(store);
        let signer = Signer::open(staging)?;
        let audit = Arc::new(Audit::open(staging)?);
        let (sender, events) = mpsc::unbounded_channel();
        let counts = Arc::<Counts>::default();
        let published = Arc::<RwLock<Vec<Notice>>>::default();
        let (count, notices) = (counts.clone(), published.clone());
        let tell = move |event: IngestEvent| {
            count.note(&event);
            if let IngestEvent::Published { session, .. } = &event {
                for notice in notices.read().iter() {
                    notice(&session.declared.name);
                }
            }
            // Nobody takes it when the server has ended.
            let _ = sender.send(event);
        };
        let clock = Arc::new(SystemClock::new());
        let ingest = Ingest::start(store, Arc::new(storage), clock, limits, Arc::new(tell));
        Ok(Arc::new(Uploads {
            ingest: ingest.await?,
            tokens,
            origins: Origins::new(origins),
            signer,
            counts,
            published,
            events: parking_lot::Mutex::new(Some(events)),
            audit,
            warn,
            on_final,
            pace,
            turns: Turns {
                parts: Semaphore::new(PARTS_AT_ONCE),
                documents: Semaphore::new(DOCUMENTS_AT_ONCE),
            },
        }))
    }

    /// Tells of each object that is published, before its client knows.
    pub fn at_publication(&self, notice: impl Fn(&LibraryPath) + Send + Sync + 'static) {
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

    /// Whether a request is for the API.
    pub fn takes(path: &str) -> bool {
        let rest = path.strip_prefix(PATH);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The response to a request for the API.
    pub async fn respond(self: &Arc<Self>, request: Request) -> Response {
        let origin = self.origins.of(&request);
        let mut response = routes::respond(self, request, &origin).await;
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        self.origins.allow(&origin, headers);
        response
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
        }
    }

    async fn finish(&self, runs: Vec<FinalizeRun>) {
        for run in runs {
            let id = run.id();
            match self.ingest.run(run).await {
                Ok(_) | Err(IngestError::Disproved(_)) => (),
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
                if let (IngestEvent::Published { session, .. }, Some(finals)) =
                    (event, &self.on_final)
                {
                    let _ = finals.send(self.status_of(session));
                }
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
