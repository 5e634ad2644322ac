//! The requests of an upload, to a server or to a storage: the same documents, codes and meanings.

use crate::{
    engine::context::{Context, StoreHandle},
    format::{
        ingest::{Base, Checkpoint, Finalize, Offer, Open, Status, Target},
        upload::SessionId,
    },
    net::location::Location,
    policy::schedule::Limits,
};

use super::{
    direct::{Direct, StorageApi},
    failed::Failed,
    place::Place,
    server::ServerApi,
    source::Whole,
};

/// Takes uploads.
#[derive(Clone, Copy)]
pub enum Api<'a> {
    Server(ServerApi<'a>),
    Storage(StorageApi<'a>),
}

impl<'a> Api<'a> {
    /// `direct`: what is known of the uploads, if the place is a storage.
    pub fn new(context: &'a Context, place: &'a Place, direct: &'a Direct) -> Api<'a> {
        match place {
            Place::Server(server) => Api::Server(ServerApi { context, server }),
            Place::Storage(bucket) => Api::Storage(StorageApi {
                context,
                bucket,
                direct,
            }),
        }
    }

    pub fn context(&self) -> &'a Context {
        match self {
            Api::Server(api) => api.context,
            Api::Storage(api) => api.context,
        }
    }

    /// Remembers the sessions of earlier runs.
    pub fn store(&self) -> &'a StoreHandle {
        &self.context().store
    }

    /// As the user typed it, for messages.
    pub fn place(&self) -> &'a Location {
        match self {
            Api::Server(api) => &api.server.url,
            Api::Storage(api) => &api.bucket.folder,
        }
    }

    /// What names belong to.
    pub fn scope(&self) -> String {
        match self {
            Api::Server(api) => api.server.url.origin(),
            Api::Storage(api) => api.bucket.folder.to_string(),
        }
    }

    /// The server that names the URLs of parts; `None`: this program makes them.
    pub fn named_by(&self) -> Option<&'a Location> {
        match self {
            Api::Server(api) => Some(&api.server.url),
            Api::Storage(_) => None,
        }
    }

    /// The limits of one request.
    pub fn limits(&self) -> Limits {
        self.context().limits_now()
    }

    /// Opens a session, or finds it open.
    pub async fn open(&self, id: SessionId, open: &Open<'_>) -> Result<Status, Failed> {
        match self {
            Api::Server(api) => api.open(id, open).await,
            Api::Storage(api) => api.open(id, open).await,
        }
    }

    /// `None`: there is no such session of this user.
    pub async fn status(&self, id: SessionId) -> Result<Option<Status>, Failed> {
        match self {
            Api::Server(api) => api.status(id).await,
            Api::Storage(api) => api.status(id).await,
        }
    }

    /// The sessions of this user, of this name if there is one, newest first.
    pub async fn sessions(&self, name: Option<&str>) -> Result<Vec<Status>, Failed> {
        match self {
            Api::Server(api) => api.sessions(name).await,
            Api::Storage(api) => api.sessions(name).await,
        }
    }

    /// Where these parts go, in the same order; at most [`crate::format::ingest::TARGETS_MAX`].
    /// `base`: the object of which bytes are copied.
    pub async fn targets(
        &self,
        id: SessionId,
        base: Option<Base>,
        offers: &[Offer],
    ) -> Result<Vec<Target>, Failed> {
        match self {
            Api::Server(api) => api.targets(id, base, offers).await,
            Api::Storage(api) => api.targets(id, base, offers).await,
        }
    }

    /// Tells that the storage has a part.
    pub async fn checkpoint(
        &self,
        id: SessionId,
        index: u32,
        checkpoint: &Checkpoint<'_>,
    ) -> Result<(), Failed> {
        match self {
            Api::Server(api) => api.checkpoint(id, index, checkpoint).await,
            Api::Storage(api) => api.checkpoint(id, index, checkpoint).await,
        }
    }

    /// Publishes the object, which has these parts; `None`: the server works at it.
    pub async fn finalize(
        &self,
        id: SessionId,
        finalize: &Finalize,
        whole: &Whole,
    ) -> Result<Option<Status>, Failed> {
        match self {
            Api::Server(api) => api.finalize(id, finalize).await,
            Api::Storage(api) => api.finalize(id, finalize, whole).await.map(Some),
        }
    }

    /// Gives a session up, with all that was sent.
    pub async fn abort(&self, id: SessionId) -> Result<(), Failed> {
        match self {
            Api::Server(api) => api.abort(id).await,
            Api::Storage(api) => api.abort(id).await,
        }
    }
}
