//! The requests of an upload to a server, each repeated by the recovery policy. All are idempotent.

use crate::{
    engine::{context::Context, error::Error},
    format::{
        ingest::{
            self, Base, Checkpoint, DOCUMENT_BYTES_MAX, Document, Finalize, Offer, Offers, Open,
            PATH, Problem, RefusedUpload, Sessions, Status, TARGETS_MAX, Target, Targets,
        },
        upload::SessionId,
    },
    net::{
        client::Reply,
        error::NetError,
        location::Location,
        request::{Body, Method, Request},
    },
    policy::recovery::Failure,
};

use super::{
    failed::{Failed, Refusal},
    place::Server,
};

/// Pages of a list of sessions that are read: 100,000 sessions.
const PAGES_MAX: usize = 100;

/// The upload API of a server.
#[derive(Clone, Copy)]
pub struct ServerApi<'a> {
    pub context: &'a Context,
    pub server: &'a Server,
}

impl ServerApi<'_> {
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

    /// Whether the object can be read while it grows: a storage elsewhere gives nothing back before it is published.
    pub async fn is_readable(&self, id: SessionId) -> Result<bool, Failed> {
        let place = self.session(id, "/growing");
        let reply = self.request(Method::Get, &place, Body::Empty).await?;
        Ok(reply.status == 200)
    }

    /// The sessions of this user, of this name if there is one, newest first.
    pub async fn sessions(&self, name: Option<&str>) -> Result<Vec<Status>, Failed> {
        let query = name.map(|name| ("name", name));
        let mut place = self.server.url.at_origin(PATH, query);
        let mut all = Vec::new();
        for _ in 0..PAGES_MAX {
            let reply = self.request(Method::Get, &place, Body::Empty).await?;
            let page: Sessions = document(&reply)?;
            all.extend(page.sessions);
            let next = page.next.and_then(|next| place.join(&next));
            match next.and_then(Location::from_url) {
                Some(next) if next.same_origin(&self.server.url) => place = next,
                _ => break,
            }
        }
        Ok(all)
    }

    /// Where these parts go, in the same order; at most [`TARGETS_MAX`].
    pub async fn targets(
        &self,
        id: SessionId,
        base: Option<Base>,
        offers: &[Offer],
    ) -> Result<Vec<Target>, Failed> {
        debug_assert!(offers.len() <= TARGETS_MAX);
        let place = self.session(id, "/targets");
        let body = Body::json(ingest::write(&Offers {
            base: base.map(|base| base.root.to_string()),
            parts: offers,
        }));
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

    fn session(&self, id: SessionId, below: &str) -> Location {
        self.server
            .url
            .at_origin(&format!("{PATH}/{id}{below}"), None)
    }

    async fn request(&self, method: Method, place: &Location, body: Body) -> Result<Reply, Error> {
        let limits = self.context.limits_now();
        let request = Request {
            named_by: Some(&self.server.url),
            token: self.server.token.as_ref(),
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
