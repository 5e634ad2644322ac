//! Which session a push goes on with: its own of an earlier run, one with the same content, or a new one.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    disk::machine,
    engine::{context::StoreHandle, error::Error},
    format::{
        ingest::{Base, Finished, Open, State, Status},
        upload::SessionId,
    },
    net::location::Location,
    policy::parts::PartPlan,
};

use super::{api::Api, failed::Failed, same};

/// Sessions of other runs that are looked at.
const LOOKED_AT: usize = 8;

/// The session of a run.
#[derive(Debug)]
pub struct Session {
    pub id: SessionId,
    pub state: State,
    pub plan: PartPlan,
    /// This program opened it for this source: a part of it with other bytes is an older version of the source.
    pub is_own: bool,
    /// Those that the storage has.
    pub finished: BTreeMap<u32, Finished>,
    /// The object of which the server can copy bytes.
    pub base: Option<Base>,
}

/// What a session is for.
pub struct Purpose<'a> {
    pub name: &'a str,
    /// Where the object will be.
    pub url: Location,
    pub plan: PartPlan,
    pub replace: bool,
    /// It is read while it is uploaded.
    pub growing: bool,
    /// Device and inode of the source; `None`: it is a stream, which is not pushed twice.
    pub source: Option<(u64, u64)>,
    /// The session that the user named.
    pub session: Option<SessionId>,
}

impl Session {
    fn new(status: Status, plan: PartPlan, is_own: bool) -> Session {
        let finished = status.parts.into_iter().map(|part| (part.index, part));
        Session {
            id: status.id,
            state: status.state,
            plan,
            is_own,
            finished: finished.collect(),
            base: status.base,
        }
    }

    /// Bytes that the storage has.
    pub fn bytes_held(&self) -> u64 {
        self.finished.values().map(|part| part.length).sum()
    }
}

impl Purpose<'_> {
    /// Whether parts for this purpose fit into the session.
    fn fits(&self, status: &Status) -> bool {
        let parts_fit = |part: &Finished| self.plan.allows(part.index, part.length);
        status.name == self.name
            && status.length == self.plan.length()
            && status.part_size == self.plan.part_size()
            && status.block_size == self.plan.block_size().bytes()
            && status.parts.iter().all(parts_fit)
    }
}

/// Finds a session to go on with, or opens one. `not`: sessions that turned out to have other content; `ours`: those that this run went on
/// with. One that was done before this run says nothing of what has the name now: that is looked at.
pub async fn find_or_open(
    api: &Api<'_>,
    purpose: &Purpose<'_>,
    not: &BTreeSet<SessionId>,
    ours: &BTreeSet<SessionId>,
) -> Result<Session, Error> {
    if let Some(id) = purpose.session {
        return named(api, purpose, id, ours).await;
    }
    let Some(source) = purpose.source else {
        return open(api, purpose, new_id()?).await;
    };
    let memory = Memory::new(api, purpose, source).await;
    if let Some(id) = memory.session().await.filter(|id| !not.contains(id)) {
        match api.status(id).await? {
            Some(status) if is_usable(&status, ours) && purpose.fits(&status) => {
                return Ok(Session::new(status, purpose.plan, true));
            }
            // An earlier run ended before it knew.
            Some(status) if is_published(api, purpose, &status).await => {
                return Ok(Session::new(status, purpose.plan, true));
            }
            // The source has another length now: nobody goes on with it.
            Some(status) if status.state == State::Open => drop(api.abort(id).await),
            Some(_) | None => (),
        }
    }
    if let Some(status) = with_parts(api, purpose, not).await? {
        memory.remember(status.id).await;
        let is_own = ours.contains(&status.id);
        return Ok(Session::new(status, purpose.plan, is_own));
    }
    let id = new_id()?;
    // Before the request: when its response is lost, the next run finds the session.
    memory.remember(id).await;
    open(api, purpose, id).await
}

/// Forgets the session of a push that ended.
pub async fn forget(api: &Api<'_>, purpose: &Purpose<'_>) {
    if let Some(source) = purpose.source {
        Memory::new(api, purpose, source).await.forget().await;
    }
}

/// Gives up the session of a push whose object is published by another one: what it sent would stay until it expires.
pub async fn end(api: &Api<'_>, purpose: &Purpose<'_>, id: SessionId) {
    forget(api, purpose).await;
    if api.abort(id).await.is_err() {
        tracing::debug!("the upload {id} could not be given up");
    }
}

async fn named(
    api: &Api<'_>,
    purpose: &Purpose<'_>,
    id: SessionId,
    ours: &BTreeSet<SessionId>,
) -> Result<Session, Error> {
    match api.status(id).await? {
        Some(status) if is_usable(&status, ours) && purpose.fits(&status) => {
            Ok(Session::new(status, purpose.plan, true))
        }
        Some(_) => Err(Error::OtherUpload { id }),
        None => open(api, purpose, id).await,
    }
}

async fn open(api: &Api<'_>, purpose: &Purpose<'_>, id: SessionId) -> Result<Session, Error> {
    let plan = &purpose.plan;
    let open = Open {
        name: purpose.name,
        length: plan.length(),
        part_size: plan.part_size(),
        block_size: plan.block_size().bytes(),
        replace: purpose.replace,
        growing: purpose.growing,
    };
    let status = api.open(id, &open).await?;
    Ok(Session::new(status, purpose.plan, true))
}

/// The newest session of another run that fits and has finished parts.
async fn with_parts(
    api: &Api<'_>,
    purpose: &Purpose<'_>,
    not: &BTreeSet<SessionId>,
) -> Result<Option<Status>, Error> {
    let sessions = match api.sessions(Some(purpose.name)).await {
        // The server has no such list, or no uploads at all: opening one tells.
        Err(Failed::Refused(refusal)) if [404, 405, 501].contains(&refusal.status) => {
            return Ok(None);
        }
        sessions => sessions?,
    };
    let fits = |status: &Status| {
        // What a server publishes it publishes without help.
        let is_unfinished = status.state == State::Open
            || status.state == State::Finalizing && api.named_by().is_none();
        is_unfinished && purpose.fits(status)
    };
    let may_fit = |status: &&Status| fits(status) && !not.contains(&status.id);
    for status in sessions.iter().filter(may_fit).take(LOOKED_AT) {
        let status = api.status(status.id).await?.filter(fits);
        let has_content = |status: &Status| !status.parts.is_empty() || status.state != State::Open;
        if let Some(status) = status.filter(has_content) {
            return Ok(Some(status));
        }
    }
    Ok(None)
}

fn is_usable(status: &Status, ours: &BTreeSet<SessionId>) -> bool {
    match status.state {
        State::Open | State::Finalizing => true,
        State::Done => ours.contains(&status.id),
        _ => false,
    }
}

/// Whether this session published what has the name now.
async fn is_published(api: &Api<'_>, purpose: &Purpose<'_>, status: &Status) -> bool {
    if status.state != State::Done || !purpose.fits(status) {
        return false;
    }
    status.root.is_some() && same::root_at(api, &purpose.url).await == status.root
}

fn new_id() -> Result<SessionId, Error> {
    Ok(SessionId::from_random(machine::random()?))
}

/// The record of this push in the store. Without a store, or where it fails, nothing is remembered.
struct Memory<'a> {
    store: &'a StoreHandle,
    key: Option<[u8; 32]>,
}

impl<'a> Memory<'a> {
    async fn new(api: &Api<'a>, purpose: &Purpose<'_>, (device, inode): (u64, u64)) -> Memory<'a> {
        let store = api.store();
        let salt = store.look_up(|store| Ok(store.state().salt()?)).await;
        // A push of the whole file is another one: it does not give up that of a file that grows.
        let how = if purpose.growing { "\ngrowing" } else { "" };
        let name = purpose.name;
        let of = format!("{}\n{name}\n{device}\n{inode}{how}", api.scope());
        let key = salt.ok().flatten();
        Memory {
            store,
            key: key.map(|salt| *blake3::keyed_hash(&salt, of.as_bytes()).as_bytes()),
        }
    }

    async fn session(&self) -> Option<SessionId> {
        let key = self.key?;
        let found = self
            .store
            .look_up(move |store| Ok(store.state().push_session(&key)?));
        found.await.ok()??
    }

    async fn remember(&self, id: SessionId) {
        let Some(key) = self.key else { return };
        let at = machine::unix_time();
        let done = self
            .store
            .look_up(move |store| Ok(store.state().remember_push(&key, id, at)?));
        if let Err(cause) = done.await {
            tracing::warn!("the upload is not remembered: {cause}");
        }
    }

    async fn forget(&self) {
        let Some(key) = self.key else { return };
        let done = self
            .store
            .look_up(move |store| Ok(store.state().forget_push(&key)?));
        if let Err(cause) = done.await {
            tracing::debug!("not forgotten: {cause}");
        }
    }
}
