//! Pushing files to a server that takes uploads, or into a storage (upload.md).
//!
//! The source is read once, part after part, on threads that may block (`source`). What the storage has is not sent; the rest is,
//! some parts at a time (`send`, `part`), and published when the root is proven. A later push goes on with the session of an
//! earlier one, or with one of the same content (`sessions`). Requests go to a server (`server`), or straight to a storage
//! (`direct`). Dropping the future is a clean stop.

mod api;
mod base;
mod direct;
mod failed;
mod follow;
mod growing;
mod part;
mod place;
mod reader;
mod removal;
mod same;
mod send;
mod server;
mod sessions;
mod source;

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::time::sleep;

use crate::{
    format::{
        ingest::{Detail, Finalize, Problem, RefusedUpload, State, Status},
        library::LibraryPath,
        tree::Root,
        upload::SessionId,
    },
    net::location::Location,
    policy::parts::{PART_BYTES_MIN, PartPlan},
};

use super::{
    context::Context,
    error::Error,
    events::{Event, Events, PushPlanned, Pushed},
    remote::retry,
    upload::content::Counters,
};
use api::Api;

use direct::Direct;
use failed::{Failed, Refusal};
use growing::Growing;
use part::PartFailed;
use reader::Reader;
use send::Sender;
use sessions::{Purpose, Session};
use source::SourceFile;

pub use place::{Bucket, Place, Server};
pub use reader::{Input, Pipe};

/// Parts that are sent at a time, unless the caller says otherwise.
pub const PARTS_AT_ONCE: u32 = 6;
/// The server is asked so often whether it has published an object.
const FINALIZE_EVERY: Duration = Duration::from_secs(1);
/// How often parts are sent again that the server lacks when it publishes.
const ROUNDS: u32 = 3;
/// How many sessions that turn out to be of other content are left for another one.
const SESSIONS_MAX: u32 = 4;

/// What to push, and where to.
#[derive(Clone, Debug)]
pub struct PushOptions {
    /// Where to.
    pub place: Place,
    /// The path of the object, at the origin of the server or below the folder of the storage.
    pub name: LibraryPath,
    /// For messages.
    pub path: PathBuf,
    /// An object of this name is replaced.
    pub replace: bool,
    /// In bytes; `None`: chosen by the length.
    pub part_size: Option<u64>,
    /// How many parts are sent at a time.
    pub parts_at_once: u32,
    /// Go on with this session; `None`: with one that fits, or a new one.
    pub session: Option<SessionId>,
    /// A source with more bytes is not pushed.
    pub max_size: Option<u64>,
    /// Send a file while another program writes it, and publish it when that has ended: when it closed the file, or the file did not
    /// change for so long.
    pub follow: Option<Duration>,
    /// Counts the bytes that are sent, also of a run that is dropped.
    pub sent: Arc<AtomicU64>,
}

impl PushOptions {
    /// The defaults of the program.
    pub fn new(place: Place, name: LibraryPath, path: PathBuf) -> PushOptions {
        PushOptions {
            place,
            name,
            path,
            replace: false,
            part_size: None,
            parts_at_once: PARTS_AT_ONCE,
            session: None,
            max_size: None,
            follow: None,
            sent: Arc::default(),
        }
    }

    /// Where the object will be.
    pub fn url(&self) -> Location {
        self.place.url_of(self.name.as_str())
    }
}

/// Pushes a file or a stream. A later call goes on where a dropped or failed one of a file ended.
pub async fn push(
    context: &Context,
    input: Input,
    options: &PushOptions,
    events: &mut dyn Events,
) -> Result<Pushed, Error> {
    let pushed = retry::reported(events, run(context, input, options)).await;
    pushed.map_err(|error| match error {
        // The URL of a session is nothing that the user knows.
        Error::Upload { cause, .. } => Error::Upload {
            place: options.url().to_string(),
            cause,
        },
        other => other,
    })
}

/// The uploads of this user that are not over, newest first.
pub async fn list(
    context: &Context,
    place: &Place,
    events: &mut dyn Events,
) -> Result<Vec<Status>, Error> {
    let direct = Direct::default();
    let api = Api::new(context, place, &direct);
    Ok(retry::reported(events, api.sessions(None)).await?)
}

/// Gives an upload up, with all that was sent.
pub async fn abort(
    context: &Context,
    place: &Place,
    id: SessionId,
    events: &mut dyn Events,
) -> Result<(), Error> {
    let direct = Direct::default();
    let api = Api::new(context, place, &direct);
    Ok(retry::reported(events, api.abort(id)).await?)
}

/// What a push works on.
struct Push<'a> {
    api: Api<'a>,
    options: &'a PushOptions,
    plan: PartPlan,
    /// `None`: a stream, or a file that grows.
    file: Option<Arc<SourceFile>>,
    /// It is sent while it grows.
    growing: Option<Arc<Growing>>,
    /// Bytes that the storage had before this run, if that was counted before.
    reused: Option<u64>,
    counters: Counters,
    began: Instant,
}

async fn run(context: &Context, input: Input, options: &PushOptions) -> Result<Pushed, Error> {
    let began = Instant::now();
    let (file, growing, mut pipe) = match (input, options.follow) {
        (Input::File(path), Some(idle)) => {
            let growing = Growing::open(&path, idle).await?;
            (None, Some(Arc::new(growing)), None)
        }
        (Input::File(path), None) => (Some(Arc::new(SourceFile::open(&path).await?)), None, None),
        (Input::Pipe(pipe), _) => (None, None, Some(pipe)),
    };
    let length = file.as_ref().map(|file| file.length());
    check_size(length.unwrap_or_default(), options)?;
    // What is recorded is to be sent, and played, soon.
    let soon = growing.is_some().then_some(PART_BYTES_MIN);
    let plan = PartPlan::choose(length, options.part_size.or(soon), None);
    let direct = Direct::default();
    let push = Push {
        api: Api::new(context, &options.place, &direct),
        options,
        plan: plan.map_err(|cause| Error::PartSize { cause })?,
        file,
        growing,
        reused: None,
        counters: Counters {
            run: options.sent.clone(),
            ..Counters::default()
        },
        began,
    };
    let (mut not, mut ours) = (BTreeSet::new(), BTreeSet::new());
    let mut tries = 0;
    while tries < SESSIONS_MAX {
        tries += 1;
        let session = sessions::find_or_open(&push.api, &push.purpose(), &not, &ours).await;
        let session = match session {
            Err(error) if same::is_taken(&error) => return push.is_there(error).await,
            session => session?,
        };
        let id = session.id;
        ours.insert(id);
        match push.with_session(session, pipe.take()).await {
            Ok(pushed) => return Ok(pushed),
            // Another upload of the same file was earlier.
            Err(PartFailed::Error(error)) if same::is_taken(&error) => {
                let pushed = push.is_there(error).await?;
                sessions::end(&push.api, &push.purpose(), id).await;
                return Ok(pushed);
            }
            // It had not ended after all.
            Err(PartFailed::Error(error)) if push.goes_on(&error).await? => tries -= 1,
            Err(PartFailed::Error(error)) => return Err(error),
            // A stream cannot be read again.
            Err(PartFailed::OtherSession | PartFailed::Closed) if push.is_stream() => break,
            // Another run publishes it, or has: what it published decides.
            Err(PartFailed::Closed) => (),
            Err(PartFailed::OtherSession) => {
                tracing::debug!("the upload {id} ended, or is of other content");
                sessions::forget(&push.api, &push.purpose()).await;
                not.insert(id);
            }
        }
    }
    Err(Error::Upload {
        place: options.url().to_string(),
        cause: Box::new(RefusedUpload::Ended(Detail::default())),
    })
}

fn check_size(bytes: u64, options: &PushOptions) -> Result<(), Error> {
    match options.max_size.is_some_and(|most| bytes > most) {
        true => Err(Error::TooLarge {
            place: options.path.display().to_string(),
            bytes,
        }),
        false => Ok(()),
    }
}

/// What became of a request to publish.
enum Finalized {
    Published(Box<Status>),
    /// These parts are sent again.
    Lacks(Vec<u32>),
}

impl Push<'_> {
    fn is_stream(&self) -> bool {
        self.file.is_none() && self.growing.is_none()
    }

    fn purpose(&self) -> Purpose<'_> {
        Purpose {
            name: self.options.name.as_str(),
            url: self.options.url(),
            plan: self.plan,
            replace: self.options.replace,
            growing: self.growing.is_some(),
            source: match (&self.file, &self.growing) {
                (Some(file), _) => Some(file.identity()),
                (None, growing) => growing.as_ref().map(|growing| growing.identity()),
            },
            session: self.options.session,
        }
    }

    /// Sends what the session lacks, and publishes.
    async fn with_session(
        &self,
        session: Session,
        pipe: Option<Pipe>,
    ) -> Result<Pushed, PartFailed> {
        if let (None, Some(growing)) = (&self.file, &self.growing) {
            return self.follow(growing, session).await;
        }
        self.tell_plan(&session, None);
        self.send_and_publish(session, pipe).await
    }

    async fn send_and_publish(
        &self,
        session: Session,
        pipe: Option<Pipe>,
    ) -> Result<Pushed, PartFailed> {
        let base = base::find(self, &session).await;
        let mut sender = self.sender(session);
        sender.set_base(base);
        let mut parts: Vec<u32> = (0..self.plan.count().unwrap_or(0)).collect();
        let mut pipe = pipe;
        for _ in 0..ROUNDS {
            let reader = match (&self.file, pipe.take()) {
                (Some(file), _) => Reader::of_file(file.clone(), self.plan, parts),
                (None, Some(pipe)) => Reader::of_pipe(pipe, self.plan),
                (None, None) => break,
            };
            let sent = sender.send_all(reader, self.options).await;
            if let Some(file) = &self.file {
                // First: what was sent of a file that changed fits to nothing.
                file.check_unchanged().await?;
            }
            sent?;
            match self.finalize(&sender).await? {
                Finalized::Published(status) => return self.published(&sender, *status).await,
                Finalized::Lacks(lacks) => {
                    sender.send_again(&lacks);
                    parts = lacks;
                }
            }
        }
        Err(PartFailed::Error(Error::Upload {
            place: self.options.url().to_string(),
            cause: Box::new(RefusedUpload::Root {
                expected: sender.root(),
                found: "another one each time".to_owned(),
            }),
        }))
    }

    /// Publishes, and waits until that is done.
    async fn finalize(&self, sender: &Sender<'_>) -> Result<Finalized, PartFailed> {
        let finalize = Finalize {
            length: sender.length(),
            root: sender.root(),
            replace: self.options.replace,
        };
        let limits = self.api.limits();
        let began = Instant::now();
        let whole = sender.whole();
        while (began.elapsed().as_millis() as u64) < limits.patience_ms {
            let finalized = self.api.finalize(sender.session.id, &finalize, &whole);
            match finalized.await {
                Ok(Some(status)) => return Ok(Finalized::Published(Box::new(status))),
                Ok(None) => (),
                Err(failed) => return self.refused(failed, finalize.root),
            }
            if let Some(finalized) = self.poll(sender, began, limits.patience_ms).await? {
                return Ok(finalized);
            }
        }
        Err(PartFailed::Error(Error::Patience {
            patience_s: limits.patience_ms / 1000,
            last: None,
        }))
    }

    /// Waits while the server works. `None`: it has ended without a reason, or takes too long.
    async fn poll(
        &self,
        sender: &Sender<'_>,
        began: Instant,
        patience_ms: u64,
    ) -> Result<Option<Finalized>, PartFailed> {
        while (began.elapsed().as_millis() as u64) < patience_ms {
            sleep(FINALIZE_EVERY).await;
            let status = self.api.status(sender.session.id).await?;
            let status = status.ok_or(PartFailed::OtherSession)?;
            match status.state {
                State::Finalizing => (),
                State::Done => return Ok(Some(Finalized::Published(Box::new(status)))),
                State::Open => {
                    let Some(error) = &status.error else {
                        return Ok(None);
                    };
                    let (code, detail) = (error.code.clone(), error.detail.clone());
                    let finished = |index| status.parts.iter().any(|part| part.index == index);
                    let lacks =
                        (0..self.plan.count().unwrap_or(0)).filter(|index| !finished(*index));
                    let problem = Problem {
                        wrong_parts: lacks.clone().collect(),
                        missing: lacks.collect(),
                        found: detail.clone(),
                        code,
                        detail,
                    };
                    let refusal = Refusal {
                        status: 409,
                        problem: Box::new(problem),
                        place: self.options.url().to_string(),
                    };
                    return self
                        .refused(Failed::Refused(refusal), sender.root())
                        .map(Some);
                }
                _ => return Err(PartFailed::OtherSession),
            }
        }
        Ok(None)
    }

    /// What follows from the refusal to publish.
    fn refused(&self, failed: Failed, root: Root) -> Result<Finalized, PartFailed> {
        let Failed::Refused(refusal) = failed else {
            return Err(failed.into());
        };
        let problem = &refusal.problem;
        let lacks = match problem.code.as_str() {
            "parts_missing" => &problem.missing,
            "root_differs" => &problem.wrong_parts,
            // It is finalized, or was, with another content.
            "session_differs" | "finalizing" | "session_done" => {
                return Err(PartFailed::OtherSession);
            }
            _ => return Err(Failed::Refused(refusal).into()),
        };
        match lacks.is_empty() || self.file.is_none() {
            false => Ok(Finalized::Lacks(lacks.clone())),
            true => Err(PartFailed::Error(Error::Upload {
                place: refusal.place,
                cause: Box::new(RefusedUpload::Root {
                    expected: root,
                    found: problem.found.clone(),
                }),
            })),
        }
    }

    /// The object is there, if the server says the same of it as the source does.
    async fn published(&self, sender: &Sender<'_>, status: Status) -> Result<Pushed, PartFailed> {
        let root = sender.root();
        if status.root != Some(root) {
            let found = status
                .root
                .map_or_else(String::new, |root| root.to_string());
            return Err(PartFailed::Error(Error::Upload {
                place: self.options.url().to_string(),
                cause: Box::new(RefusedUpload::Root {
                    expected: root,
                    found,
                }),
            }));
        }
        let url = status.url.and_then(|url| self.api.place().join(&url));
        let url = url.and_then(Location::from_url);
        let pushed = Pushed {
            path: self.options.path.clone(),
            url: url.unwrap_or_else(|| self.options.url()).to_string(),
            root,
            bytes_total: sender.length(),
            bytes_sent: self.counters.run.load(Ordering::Relaxed),
            bytes_reused: self.reused.unwrap_or_else(|| sender.bytes_reused()),
            bytes_copied: sender.bytes_copied(),
            elapsed_ms: self.began.elapsed().as_millis() as u64,
        };
        retry::tell(Event::Pushed(pushed.clone()));
        // Not before it is told: a run that is killed between the two is run again.
        sessions::forget(&self.api, &self.purpose()).await;
        Ok(pushed)
    }

    fn tell_plan(&self, session: &Session, growing_url: Option<String>) {
        let bytes_held = session.bytes_held();
        let bytes_total = self.plan.length();
        retry::tell(Event::PushPlanned(PushPlanned {
            path: self.options.path.clone(),
            url: self.options.url().to_string(),
            growing_url,
            session: session.id,
            bytes_total,
            bytes_held,
            bytes_to_send: bytes_total.map(|total| total.saturating_sub(bytes_held)),
            part_size: self.plan.part_size(),
            block_size: self.plan.block_size(),
        }));
        if bytes_held > 0 {
            retry::tell(Event::PushResumed { bytes_held });
        }
    }
}
