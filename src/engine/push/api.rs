//! The requests of an upload, each repeated by the recovery policy. All are idempotent.

use crate::{
    engine::{context::Context, error::Error},
    format::{
        ingest::{
            self, Checkpoint, DOCUMENT_BYTES_MAX, Document, Finalize, Offer, Offers, Open, PATH,
            Problem, RefusedUpload, Sessions, Status, TARGETS_MAX, Target, Targets,
        },
        upload::SessionId,
    },
    net::{
        auth::Token,
        client::Reply,
        error::NetError,
        location::Location,
        request::{Body, Method, Request},
    },
    policy::{recovery::Failure, schedule::Limits},
};

/// Pages of a list of sessions that are read: 100,000 sessions.
const PAGES_MAX: usize = 100;

/// The upload API of a server.
#[derive(Clone, Copy)]
pub struct Api<'a> {
    pub context: &'a Context,
    /// As the user typed it; its origin has the API.
    pub typed: &'a Location,
    pub token: Option<&'a Token>,
}

/// The server refused a request.
#[derive(Debug)]
pub struct Refusal {
    pub status: u16,
    pub problem: Box<Problem>,
    pub place: String,
}

/// Why a request failed.
#[derive(Debug)]
pub enum Failed {
    Refused(Refusal),
    Error(Error),
}

impl Failed {
    /// The code of the refusal; empty if there is none.
    pub fn code(&self) -> &str {
        match self {
            Failed::Refused(refusal) => &refusal.problem.code,
            Failed::Error(_) => "",
        }
    }
}

impl Refusal {
    pub fn new(reply: &Reply) -> Refusal {
        Refusal {
            status: reply.status,
            problem: Box::new(Problem::read(&reply.bytes)),
            place: reply.location.to_string(),
        }
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed::Error(error)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        Error::Upload {
            cause: Box::new(refusal.problem.refusal(refusal.status)),
            place: refusal.place,
        }
    }
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Error {
        match failed {
            Failed::Refused(refusal) => refusal.into(),
            Failed::Error(error) => error,
        }
    }
}

impl Api<'_> {
    /// Opens a session, or finds it open.
    pub async fn open(&self, id: SessionId, open: &Open<'_>) -> Result<Status, Failed> {
        let place = self.session(id, "");
        let body = Body::json(ingest::write(open));
        let reply = self.request(Method::Put, &place, body).await?;
        document(&reply)
    }

    /// `None`: there is no such session of this user.
    pub async fn status(&self, id: SessionId) -> Result<Option<Status>, Failed> {
        let place = self.session(id, "");
        let reply = self.request(Method::Get, &place, Body::Empty).await?;
        match reply.status {
            404 | 410 => Ok(None),
            _ => document(&reply).map(Some),
        }
    }

    /// The sessions of this user, of this name if there is one, newest first.
    pub async fn sessions(&self, name: Option<&str>) -> Result<Vec<Status>, Failed> {
        let query = name.map(|name| ("name", name));
        let mut place = self.typed.at_origin(PATH, query);
        let mut all = Vec::new();
        for _ in 0..PAGES_MAX {
            let reply = self.request(Method::Get, &place, Body::Empty).await?;
            let page: Sessions = document(&reply)?;
            all.extend(page.sessions);
            let next = page.next.and_then(|next| place.join(&next));
            match next.and_then(Location::from_url) {
                Some(next) if next.same_origin(self.typed) => place = next,
                _ => break,
            }
        }
        Ok(all)
    }

    /// Where these parts go, in the same order; at most [`TARGETS_MAX`].
    pub async fn targets(&self, id: SessionId, offers: &[Offer]) -> Result<Vec<Target>, Failed> {
        debug_assert!(offers.len() <= TARGETS_MAX);
        let place = self.session(id, "/targets");
        let body = Body::json(ingest::write(&Offers { parts: offers }));
        let reply = self.request(Method::Post, &place, body).await?;
        let targets: Targets = document(&reply)?;
        let are_of = |(target, offer): (&Target, &Offer)| target.index == offer.index;
        let fits = targets.targets.len() == offers.len();
        match fits && targets.targets.iter().zip(offers).all(are_of) {
            true => Ok(targets.targets),
            false => {
                let what = "its targets are not those of the parts".to_owned();
                Err(no_document(&reply, RefusedUpload::Document(what)))
            }
        }
    }

    /// Tells that the storage has a part.
    pub async fn checkpoint(
        &self,
        id: SessionId,
        index: u32,
        checkpoint: &Checkpoint<'_>,
    ) -> Result<(), Failed> {
        let place = self.session(id, &format!("/parts/{index}"));
        let body = Body::json(ingest::write(checkpoint));
        let reply = self.request(Method::Put, &place, body).await?;
        success(&reply)
    }

    /// Publishes the object; `None`: the server works at it.
    pub async fn finalize(
        &self,
        id: SessionId,
        finalize: &Finalize,
    ) -> Result<Option<Status>, Failed> {
        let place = self.session(id, "/finalize");
        let body = Body::json(ingest::write(finalize));
        let reply = self.request(Method::Post, &place, body).await?;
        match reply.status {
            202 => Ok(None),
            _ => document(&reply).map(Some),
        }
    }

    /// Gives a session up, with all that was sent.
    pub async fn abort(&self, id: SessionId) -> Result<(), Failed> {
        let place = self.session(id, "");
        let reply = self.request(Method::Delete, &place, Body::Empty).await?;
        success(&reply)
    }

    /// The limits of one request.
    pub fn limits(&self) -> Limits {
        self.context.limits_now()
    }

    fn session(&self, id: SessionId, below: &str) -> Location {
        self.typed.at_origin(&format!("{PATH}/{id}{below}"), None)
    }

    async fn request(&self, method: Method, place: &Location, body: Body) -> Result<Reply, Error> {
        let limits = self.limits();
        let request = Request {
            named_by: Some(self.typed),
            token: self.token,
            ..Request::new(method, place, body)
        };
        retried!(&limits, self.once(request.clone()))
    }

    async fn once(&self, request: Request<'_>) -> Result<Reply, NetError> {
        let reply = self
            .context
            .client
            .call(request, DOCUMENT_BYTES_MAX)
            .await?;
        let is_limit = ["too_many_sessions", "quota"];
        if reply.status == 429 && !is_limit.contains(&Problem::read(&reply.bytes).code.as_str()) {
            let failure = Failure::TooMany {
                status: 429,
                retry_after_ms: None,
                serves: true,
            };
            return Err(NetError::new(&reply.location, failure));
        }
        Ok(reply)
    }
}

fn success(reply: &Reply) -> Result<(), Failed> {
    match reply.status {
        200..=299 => Ok(()),
        _ => Err(Failed::Refused(Refusal::new(reply))),
    }
}

fn document<T: Document>(reply: &Reply) -> Result<T, Failed> {
    success(reply)?;
    ingest::read(&reply.bytes).map_err(|cause| no_document(reply, cause))
}

fn no_document(reply: &Reply, cause: RefusedUpload) -> Failed {
    Failed::Error(Error::Upload {
        place: reply.location.to_string(),
        cause: Box::new(cause),
    })
}

impl Failed {
    /// A target that no request can be made of.
    pub fn no_target(place: &Location) -> Failed {
        let what = "a target has no URL or fields that are allowed".to_owned();
        Failed::Error(Error::Upload {
            place: place.to_string(),
            cause: Box::new(RefusedUpload::Document(what)),
        })
    }
}
