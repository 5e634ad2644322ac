//! Uploads in memory: a store of sessions, a storage and a clock that do what a test says.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use sapwood::{
    engine::{
        ingest::{
            Ingest, IngestEvent, IngestLimits, OpenRequest,
            clock::Clock,
            session_store::{
                Claimed, Cursor, Inserted, ListQuery, OwnerLimits, QueuedNotice, SessionStore,
                StoreError, Usage, Written,
            },
        },
        storage::{
            Destination, Fence, OfferedPart, PartWriter, Staged, Storage, StorageError, Verdict,
        },
    },
    format::{
        library::LibraryPath,
        tree::Root,
        upload::{SessionId, Sha256},
    },
    policy::upload::{
        Change, Disproved, FinishedPart, Goal, LastPublished, Owner, PartsChange, Protocol,
        Published, Session, StagedBytes, State,
    },
};
use tokio::sync::Notify;

/// What every call passes before and after its effect.
#[derive(Default)]
pub struct Gate {
    passed: AtomicU64,
    /// The pass that fails, counted from 1; 0: none.
    fails: AtomicU64,
    /// Every pass from that one on fails.
    for_ever: Mutex<bool>,
    /// The caller stops at each pass once, so that others run between.
    yields: Mutex<bool>,
    /// Of 1000 passes so many fail, by these random numbers.
    random: Mutex<(u64, u64)>,
}

impl Gate {
    pub fn fail_at(&self, pass: u64, for_ever: bool) {
        self.passed.store(0, Ordering::Relaxed);
        self.fails.store(pass, Ordering::Relaxed);
        *self.for_ever.lock().unwrap() = for_ever;
    }

    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    pub fn yield_always(&self) {
        *self.yields.lock().unwrap() = true;
    }

    pub fn fail_at_random(&self, permille: u64, seed: u64) {
        *self.random.lock().unwrap() = (permille, seed);
    }

    async fn pass(&self) -> Result<(), Injected> {
        if *self.yields.lock().unwrap() {
            YieldOnce(false).await;
        }
        let number = self.passed.fetch_add(1, Ordering::Relaxed) + 1;
        let at = self.fails.load(Ordering::Relaxed);
        let for_ever = *self.for_ever.lock().unwrap();
        let mut random = self.random.lock().unwrap();
        random.1 = random
            .1
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let is_chance = (random.1 >> 33) % 1000 < random.0;
        match is_chance || at != 0 && (number == at || for_ever && number > at) {
            true => Err(Injected),
            false => Ok(()),
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("injected")]
pub struct Injected;

impl From<Injected> for StoreFailed {
    fn from(injected: Injected) -> StoreFailed {
        StoreFailed(StoreError(Box::new(injected)))
    }
}

/// [`StoreError`] and [`StorageError`], each from [`Injected`].
struct StoreFailed(StoreError);
struct StorageFailed(StorageError);

impl From<Injected> for StorageFailed {
    fn from(injected: Injected) -> StorageFailed {
        StorageFailed(StorageError::Failed(Box::new(injected)))
    }
}

impl From<StorageError> for StorageFailed {
    fn from(error: StorageError) -> StorageFailed {
        StorageFailed(error)
    }
}

struct YieldOnce(bool);

impl Future for YieldOnce {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        context.waker().wake_by_ref();
        match std::mem::replace(&mut self.0, true) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

/// Seconds that a test sets. `sleep` ends when they have passed.
#[derive(Default)]
pub struct TestClock {
    pub unix_s: AtomicU64,
    pub monotonic_s: AtomicU64,
    asleep: Mutex<Vec<Waker>>,
}

impl TestClock {
    pub fn advance(&self, seconds: u64) {
        let mut asleep = self.asleep.lock().unwrap();
        self.unix_s.fetch_add(seconds, Ordering::Relaxed);
        self.monotonic_s.fetch_add(seconds, Ordering::Relaxed);
        for waker in asleep.drain(..) {
            waker.wake();
        }
    }

    /// Waits until a server sleeps, so that it counts what passes from now on.
    pub async fn until_asleep(&self) {
        while self.asleep.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    }

    /// Of the wall clock alone.
    pub fn jump_to(&self, unix_s: u64) {
        self.unix_s.store(unix_s, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn unix_s(&self) -> u64 {
        self.unix_s.load(Ordering::Relaxed)
    }

    fn monotonic_s(&self) -> u64 {
        self.monotonic_s.load(Ordering::Relaxed)
    }

    fn sleep(&self, seconds: u64) -> BoxFuture<'_, ()> {
        let until = self.monotonic_s() + seconds;
        Box::pin(std::future::poll_fn(move |context| {
            // The clock may be advanced by another thread.
            let mut asleep = self.asleep.lock().unwrap();
            match self.monotonic_s() >= until {
                true => Poll::Ready(()),
                false => {
                    asleep.push(context.waker().clone());
                    Poll::Pending
                }
            }
        }))
    }
}

/// Sessions in memory.
#[derive(Default)]
pub struct MemoryStore {
    pub gate: Gate,
    pub kept: Mutex<BTreeMap<SessionId, (Session, BTreeMap<u32, FinishedPart>)>>,
    served_s: AtomicU64,
    /// Of parts that are not finished: the bytes of the first content, and of another one beside it.
    staged: Mutex<BTreeMap<(SessionId, u32), (u64, u64)>>,
    /// Each with the time at which it is due.
    notices: Mutex<Vec<(QueuedNotice, u64)>>,
    notices_added: AtomicU64,
    keeps_notices: AtomicBool,
    published: Mutex<BTreeMap<LibraryPath, LastPublished>>,
}

type Kept = BTreeMap<SessionId, (Session, BTreeMap<u32, FinishedPart>)>;

impl MemoryStore {
    pub fn keep_notices(&self) {
        self.keeps_notices.store(true, Ordering::Relaxed);
    }

    fn has_notices_of(&self, id: SessionId) -> bool {
        let notices = self.notices.lock().unwrap();
        notices.iter().any(|(queued, _)| queued.session == id)
    }

    fn usage_in(&self, kept: &Kept, owner: &Owner) -> Usage {
        let mut usage = usage_in(kept, owner);
        for ((id, _), (first, beside)) in &*self.staged.lock().unwrap() {
            let of_owner =
                |(session, _): &&(Session, _)| session.owner == *owner && session.state.is_live();
            if kept.get(id).filter(of_owner).is_some() {
                usage.bytes += first + beside;
            }
        }
        usage
    }

    fn with<'a, T: Send + 'a>(
        &'a self,
        work: impl FnOnce(&mut BTreeMap<SessionId, (Session, BTreeMap<u32, FinishedPart>)>) -> T
        + Send
        + 'a,
    ) -> BoxFuture<'a, Result<T, StoreError>> {
        Box::pin(async move {
            let done = async move {
                self.gate.pass().await?;
                let done = work(&mut self.kept.lock().unwrap());
                self.gate.pass().await?;
                Ok::<T, StoreFailed>(done)
            };
            done.await.map_err(|failed| failed.0)
        })
    }
}

fn usage_in(
    kept: &BTreeMap<SessionId, (Session, BTreeMap<u32, FinishedPart>)>,
    owner: &Owner,
) -> Usage {
    let mut usage = Usage::default();
    for (session, parts) in kept.values() {
        if session.owner == *owner && session.state.is_live() {
            let sum = || parts.values().map(|part| part.length).sum();
            usage.sessions += 1;
            usage.bytes += session.declared.plan.length().unwrap_or_else(sum);
        }
    }
    usage
}

impl SessionStore for MemoryStore {
    fn insert<'a>(
        &'a self,
        session: &'a Session,
        limits: OwnerLimits,
    ) -> BoxFuture<'a, Result<Inserted, StoreError>> {
        self.with(move |kept| {
            if let Some((found, _)) = kept.get(&session.id) {
                return Inserted::Exists(Box::new(found.clone()));
            }
            let usage = self.usage_in(kept, &session.owner);
            let length = session.declared.plan.length().unwrap_or_default();
            if usage.sessions >= limits.sessions {
                return Inserted::TooMany(usage);
            }
            if usage.bytes + length > limits.bytes {
                return Inserted::OverQuota(usage);
            }
            kept.insert(session.id, (session.clone(), BTreeMap::new()));
            Inserted::New
        })
    }

    fn load(&self, id: SessionId) -> BoxFuture<'_, Result<Option<Session>, StoreError>> {
        self.with(move |kept| kept.get(&id).map(|(session, _)| session.clone()))
    }

    fn part(
        &self,
        id: SessionId,
        index: u32,
    ) -> BoxFuture<'_, Result<Option<FinishedPart>, StoreError>> {
        self.with(move |kept| kept.get(&id)?.1.get(&index).cloned())
    }

    fn parts(&self, id: SessionId) -> BoxFuture<'_, Result<Vec<FinishedPart>, StoreError>> {
        self.with(move |kept| {
            let parts = kept
                .get(&id)
                .map(|(_, parts)| parts.values().cloned().collect());
            parts.unwrap_or_default()
        })
    }

    fn write<'a>(&'a self, change: &'a Change) -> BoxFuture<'a, Result<Written, StoreError>> {
        self.with(move |kept| {
            let found = kept.get_mut(&change.session.id);
            let is_before =
                |(session, _): &&mut (Session, _)| session.version + 1 == change.session.version;
            let Some((session, parts)) = found.filter(is_before) else {
                return Written::Conflict;
            };
            if let (false, State::Done(published)) = (
                matches!(session.state, State::Done(_)),
                &change.session.state,
            ) {
                let last = LastPublished {
                    owner: session.owner.clone(),
                    session: session.id,
                    published: *published,
                };
                let name = session.declared.name.clone();
                self.published.lock().unwrap().insert(name, last);
            }
            *session = change.session.clone();
            if self.keeps_notices.load(Ordering::Relaxed) {
                let mut notices = self.notices.lock().unwrap();
                for notice in &change.notices {
                    let queued = QueuedNotice {
                        id: self.notices_added.fetch_add(1, Ordering::Relaxed),
                        session: session.id,
                        notice: notice.clone(),
                        claims: 0,
                    };
                    notices.push((queued, 0));
                }
            }
            match &change.parts {
                PartsChange::None => (),
                PartsChange::Put(part) => {
                    let is_replaced = parts.insert(part.index, part.clone()).is_some();
                    let mut staged = self.staged.lock().unwrap();
                    if let Some((first, beside)) = staged.get_mut(&(session.id, part.index)) {
                        *first = 0;
                        *beside = if is_replaced { 0 } else { *beside };
                    }
                }
                PartsChange::Remove(indices) => parts.retain(|index, _| !indices.contains(index)),
            }
            Written::Stored
        })
    }

    fn last_published<'a>(
        &'a self,
        name: &'a LibraryPath,
    ) -> BoxFuture<'a, Result<Option<LastPublished>, StoreError>> {
        self.with(move |_| self.published.lock().unwrap().get(name).cloned())
    }

    fn list<'a>(&'a self, query: &'a ListQuery) -> BoxFuture<'a, Result<Vec<Session>, StoreError>> {
        self.with(move |kept| {
            let key = |cursor: Cursor| (cursor.created_s, cursor.id);
            let is_listed = |session: &&Session| {
                session.owner == query.owner
                    && query
                        .name
                        .as_ref()
                        .is_none_or(|name| session.declared.name == *name)
                    && query
                        .after
                        .is_none_or(|after| key(Cursor::of(session)) < key(after))
            };
            let sessions = kept.values().map(|(session, _)| session);
            let mut all: Vec<Session> = sessions.filter(is_listed).cloned().collect();
            all.sort_by_key(|session| std::cmp::Reverse(key(Cursor::of(session))));
            all.truncate(query.limit as usize);
            all
        })
    }

    fn all(
        &self,
        after: Option<SessionId>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<Session>, StoreError>> {
        self.with(move |kept| {
            let behind = kept.values().map(|(session, _)| session);
            let behind = behind.filter(|session| after.is_none_or(|after| session.id > after));
            behind.take(limit as usize).cloned().collect()
        })
    }

    fn usage<'a>(&'a self, owner: &'a Owner) -> BoxFuture<'a, Result<Usage, StoreError>> {
        self.with(move |kept| self.usage_in(kept, owner))
    }

    fn count_staged(
        &self,
        id: SessionId,
        staged: StagedBytes,
        limits: OwnerLimits,
    ) -> BoxFuture<'_, Result<Option<Usage>, StoreError>> {
        self.with(move |kept| {
            let (session, _) = kept.get(&id)?;
            let usage = self.usage_in(kept, &session.owner);
            let mut all = self.staged.lock().unwrap();
            let before = all.get(&(id, staged.index)).copied().unwrap_or_default();
            let now = match staged.is_beside {
                true => (before.0, before.1.max(staged.length)),
                false => (before.0.max(staged.length), before.1),
            };
            let more = now.0 + now.1 - before.0 - before.1;
            if more > 0 && usage.bytes + more > limits.bytes {
                return Some(usage);
            }
            all.insert((id, staged.index), now);
            None
        })
    }

    fn staged_bytes(&self, id: SessionId) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.with(move |_| {
            let all = self.staged.lock().unwrap();
            let of_session = all.range((id, 0)..=(id, u32::MAX));
            of_session.map(|(_, (first, beside))| first + beside).sum()
        })
    }

    fn claim_notice(&self, now_s: u64, until_s: u64) -> BoxFuture<'_, Result<Claimed, StoreError>> {
        self.with(move |_| {
            let mut notices = self.notices.lock().unwrap();
            match notices.iter_mut().find(|(_, due_s)| *due_s <= now_s) {
                Some((notice, due_s)) => {
                    notice.claims += 1;
                    *due_s = until_s;
                    Claimed::Notice(notice.clone())
                }
                None => Claimed::NotBefore(notices.iter().map(|(_, due_s)| *due_s).min()),
            }
        })
    }

    fn postpone_notice<'a>(
        &'a self,
        notice: &'a QueuedNotice,
        due_s: u64,
    ) -> BoxFuture<'a, Result<Written, StoreError>> {
        self.with(move |_| {
            let mut notices = self.notices.lock().unwrap();
            match notices.iter_mut().find(|(queued, _)| queued == notice) {
                Some((_, due)) => {
                    *due = due_s;
                    Written::Stored
                }
                None => Written::Conflict,
            }
        })
    }

    fn remove_notice<'a>(
        &'a self,
        notice: &'a QueuedNotice,
    ) -> BoxFuture<'a, Result<Written, StoreError>> {
        self.with(move |_| {
            let mut notices = self.notices.lock().unwrap();
            let before = notices.len();
            notices.retain(|(queued, _)| queued != notice);
            match notices.len() < before {
                true => Written::Stored,
                false => Written::Conflict,
            }
        })
    }

    fn release_notices(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.with(move |_| {
            let mut notices = self.notices.lock().unwrap();
            notices.iter_mut().for_each(|(_, due_s)| *due_s = 0);
        })
    }

    fn forget(&self, id: SessionId, version: u64) -> BoxFuture<'_, Result<Written, StoreError>> {
        self.with(move |kept| {
            match kept
                .get(&id)
                .is_some_and(|(session, _)| session.version == version)
                && !self.has_notices_of(id)
            {
                true => {
                    kept.remove(&id);
                    Written::Stored
                }
                false => Written::Conflict,
            }
        })
    }

    fn served_s(&self, at_least: u64) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.with(move |_| {
            self.served_s
                .fetch_max(at_least, Ordering::Relaxed)
                .max(at_least)
        })
    }
}

/// The hash of some bytes, which stands for both hashes.
pub fn sum(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

/// The root of an object of these parts: a hash of their sums.
pub fn root_of(sums: &[Sha256]) -> Root {
    let all: Vec<u8> = sums.iter().flat_map(|sum| sum.0).collect();
    Root(sum(&all))
}

/// What is staged for one handle.
#[derive(Clone, Debug, Default)]
struct StagedParts {
    session: Option<SessionId>,
    /// Whole parts by index: all contents that came, and which was preferred last.
    whole: BTreeMap<u32, Vec<Sha256>>,
    preferred: BTreeMap<u32, Sha256>,
}

#[derive(Debug, Default)]
struct StorageState {
    staged: BTreeMap<String, StagedParts>,
    published: BTreeMap<LibraryPath, (SessionId, Root)>,
    of_session: BTreeMap<SessionId, Published>,
    begun: u64,
}

/// A storage in memory. Its bytes are short: only their sums count.
#[derive(Clone, Default)]
pub struct MemoryStorage(Arc<StorageShared>);

#[derive(Default)]
pub struct StorageShared {
    pub gate: Gate,
    state: Mutex<StorageState>,
    pub is_exclusive: AtomicBool,
    pause: Mutex<Option<Arc<Pause>>>,
}

/// A server sleeps between proof and publication.
#[derive(Default)]
pub struct Pause {
    pub reached: Notify,
    pub over: Notify,
}

impl MemoryStorage {
    pub fn gate(&self) -> &Gate {
        &self.0.gate
    }

    /// The next attempt to publish sleeps.
    pub fn pause(&self) -> Arc<Pause> {
        let pause = Arc::<Pause>::default();
        *self.0.pause.lock().unwrap() = Some(pause.clone());
        pause
    }

    /// Which session published what has this name.
    pub fn has_name(&self, name: &str) -> Option<SessionId> {
        let name = LibraryPath::new(name).unwrap();
        let state = self.0.state.lock().unwrap();
        state.published.get(&name).map(|(id, _)| *id)
    }

    pub fn be_exclusive(&self) {
        self.0.is_exclusive.store(true, Ordering::Relaxed);
    }

    /// What was published for a session.
    pub fn published(&self, id: SessionId) -> Option<Published> {
        self.0.state.lock().unwrap().of_session.get(&id).copied()
    }

    /// Bytes of staging that nobody began.
    pub fn leave_orphan(&self, handle: &str) {
        let mut state = self.0.state.lock().unwrap();
        state
            .staged
            .insert(handle.to_owned(), StagedParts::default());
    }

    /// A part arrives for what nobody began.
    pub fn grow_orphan(&self, handle: &str, index: u32) {
        let mut state = self.0.state.lock().unwrap();
        let staged = state.staged.get_mut(handle).expect("it is staged");
        staged.whole.insert(index, Vec::new());
    }

    /// The handles of all that is staged.
    pub fn handles(&self) -> Vec<String> {
        self.0
            .state
            .lock()
            .unwrap()
            .staged
            .keys()
            .cloned()
            .collect()
    }

    /// Another object under a name.
    pub fn put_object(&self, name: &str) {
        let name = LibraryPath::new(name).unwrap();
        let other = (SessionId::from_random([9; 16]), Root([9; 32]));
        self.0.state.lock().unwrap().published.insert(name, other);
    }

    /// A part rots.
    pub fn lose_part(&self, index: u32) {
        let mut state = self.0.state.lock().unwrap();
        for staged in state.staged.values_mut() {
            staged.whole.remove(&index);
            staged.preferred.remove(&index);
        }
    }

    /// What is staged vanishes.
    pub fn lose_all(&self) {
        self.0.state.lock().unwrap().staged.clear();
    }

    fn with<'a, T: Send + 'a>(
        &'a self,
        work: impl FnOnce(&mut StorageState) -> Result<T, StorageError> + Send + 'a,
    ) -> BoxFuture<'a, Result<T, StorageError>> {
        Box::pin(async move {
            let done = async move {
                self.0.gate.pass().await?;
                let done = work(&mut self.0.state.lock().unwrap())?;
                self.0.gate.pass().await?;
                Ok::<T, StorageFailed>(done)
            };
            done.await.map_err(|failed| failed.0)
        })
    }
}

fn staged_of<'s>(
    state: &'s mut StorageState,
    session: &Session,
) -> Result<&'s mut StagedParts, StorageError> {
    let handle = match &session.staging {
        sapwood::policy::upload::Staging::Begun(handle) => handle.clone(),
        other => panic!("a call with staging {other:?}"),
    };
    state
        .staged
        .get_mut(&handle)
        .ok_or(StorageError::StagingGone)
}

impl Storage for MemoryStorage {
    fn is_exclusive(&self) -> bool {
        self.0.is_exclusive.load(Ordering::Relaxed)
    }

    fn exists<'a>(&'a self, name: &'a LibraryPath) -> BoxFuture<'a, Result<bool, StorageError>> {
        self.with(move |state| Ok(state.published.contains_key(name)))
    }

    fn begin<'a>(&'a self, session: &'a Session) -> BoxFuture<'a, Result<String, StorageError>> {
        self.with(move |state| {
            state.begun += 1;
            let handle = format!("upload-{}", state.begun);
            let staged = StagedParts {
                session: Some(session.id),
                ..StagedParts::default()
            };
            state.staged.insert(handle.clone(), staged);
            Ok(handle)
        })
    }

    fn destinations<'a>(
        &'a self,
        session: &'a Session,
        parts: &'a [OfferedPart],
    ) -> BoxFuture<'a, Result<Vec<Destination>, StorageError>> {
        self.with(move |state| {
            staged_of(state, session)?;
            Ok(vec![Destination::Server { from: 0 }; parts.len()])
        })
    }

    fn receive<'a>(
        &'a self,
        session: &'a Session,
        part: &'a OfferedPart,
        _from: u64,
    ) -> BoxFuture<'a, Result<Box<dyn PartWriter>, StorageError>> {
        self.with(move |state| {
            staged_of(state, session)?;
            Ok(Box::new(MemoryWriter {
                storage: self.clone(),
                session: session.clone(),
                part: part.clone(),
                bytes: Vec::new(),
            }) as Box<dyn PartWriter>)
        })
    }

    fn checkpoint<'a>(
        &'a self,
        session: &'a Session,
        part: &'a OfferedPart,
        _etag: Option<&'a str>,
    ) -> BoxFuture<'a, Result<FinishedPart, StorageError>> {
        self.with(move |state| {
            let staged = staged_of(state, session)?;
            let index = part.index;
            let whole = staged.whole.get(&index);
            if !whole.is_some_and(|whole| whole.contains(&part.sha256)) {
                return Err(StorageError::PartNotStored { index });
            }
            staged.preferred.insert(index, part.sha256);
            Ok(FinishedPart {
                index,
                length: part.length,
                sha256: part.sha256,
                etag: None,
            })
        })
    }

    fn finalize_fenced<'a>(
        &'a self,
        session: &'a Session,
        parts: &'a [FinishedPart],
        goal: &'a Goal,
        fence: &'a dyn Fence,
    ) -> BoxFuture<'a, Result<Verdict, StorageError>> {
        let publish = self.with(move |state| {
            let staged = staged_of(state, session)?.clone();
            let is_wrong =
                |part: &&FinishedPart| staged.preferred.get(&part.index) != Some(&part.sha256);
            let wrong: Vec<u32> = parts
                .iter()
                .filter(is_wrong)
                .map(|part| part.index)
                .collect();
            if !wrong.is_empty() {
                return Ok(Verdict::Disproved(Disproved::Parts(wrong)));
            }
            let found_length: u64 = parts.iter().map(|part| part.length).sum();
            assert_eq!(found_length, goal.length, "published without all its parts");
            let sums: Vec<Sha256> = parts.iter().map(|part| part.sha256).collect();
            let found = root_of(&sums);
            if let Some(expected) = goal.root.filter(|expected| *expected != found) {
                let wrong_parts = Vec::new();
                return Ok(Verdict::Disproved(Disproved::Root {
                    expected,
                    found,
                    wrong_parts,
                }));
            }
            let name = session.declared.name.clone();
            if !goal.replace && state.published.contains_key(&name) {
                return Ok(Verdict::Disproved(Disproved::NameExists(name)));
            }
            let published = Published {
                length: goal.length,
                root: found,
            };
            state.published.insert(name, (session.id, found));
            state.of_session.insert(session.id, published);
            Ok(Verdict::Published(published))
        });
        Box::pin(async move {
            if let Some(published) = self.published(session.id) {
                return Ok(Verdict::Published(published));
            }
            let pause = self.0.pause.lock().unwrap().take();
            if let Some(pause) = pause {
                pause.reached.notify_one();
                pause.over.notified().await;
            }
            fence.check().await?;
            publish.await
        })
    }

    fn remove<'a>(&'a self, staged: &'a Staged) -> BoxFuture<'a, Result<(), StorageError>> {
        self.with(move |state| {
            state.staged.remove(&staged.handle);
            Ok(())
        })
    }

    fn staged(&self) -> BoxFuture<'_, Result<Vec<Staged>, StorageError>> {
        self.with(move |state| {
            let staged = state.staged.iter().map(|(handle, parts)| Staged {
                session: parts.session,
                handle: handle.clone(),
                bytes: 1 + parts.whole.len() as u64,
            });
            Ok(staged.collect())
        })
    }
}

struct MemoryWriter {
    storage: MemoryStorage,
    session: Session,
    part: OfferedPart,
    bytes: Vec<u8>,
}

impl PartWriter for MemoryWriter {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), StorageError>> {
        self.bytes.extend(&bytes);
        Box::pin(async { Ok(()) })
    }

    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<(), StorageError>> {
        Box::pin(async move {
            let MemoryWriter {
                storage,
                session,
                part,
                bytes,
            } = *self;
            let done = storage.with(move |state| {
                let staged = staged_of(state, &session)?;
                let (index, found) = (part.index, Sha256(sum(&bytes)));
                if found != part.sha256 {
                    let expected = part.sha256;
                    return Err(StorageError::PartDiffers {
                        index,
                        expected,
                        found,
                    });
                }
                let whole = staged.whole.entry(index).or_default();
                if !whole.contains(&found) {
                    whole.push(found);
                }
                Ok(())
            });
            done.await
        })
    }
}

/// A small upload: parts of 5 MiB, whose bytes are short.
pub const PART: u64 = 5 << 20;

/// The bytes that stand for a part of an object.
pub fn content(object: u8, index: u32) -> Vec<u8> {
    vec![object, index as u8]
}

/// A part of an object.
pub fn offered(object: u8, index: u32) -> OfferedPart {
    OfferedPart {
        index,
        length: PART,
        sha256: Sha256(sum(&content(object, index))),
        leaves: None,
    }
}

/// The same once it is finished.
pub fn finished(object: u8, index: u32) -> FinishedPart {
    let part = offered(object, index);
    FinishedPart {
        index,
        length: part.length,
        sha256: part.sha256,
        etag: None,
    }
}

/// The root of an object of so many parts.
pub fn root(object: u8, parts: u32) -> Root {
    let sums: Vec<Sha256> = (0..parts)
        .map(|index| offered(object, index).sha256)
        .collect();
    root_of(&sums)
}

/// A request to open a session for an object of so many parts.
pub fn open_request(name: &str, parts: u32) -> OpenRequest {
    OpenRequest {
        name: name.to_owned(),
        length: Some(u64::from(parts) * PART),
        part_size: Some(PART),
        block_size: None,
        root: None,
        sha256: None,
        replace: false,
        growing: false,
        protocol: Protocol::default(),
    }
}

/// What a client wants published.
pub fn goal(object: u8, parts: u32) -> Goal {
    Goal {
        length: u64::from(parts) * PART,
        root: Some(root(object, parts)),
        sha256: None,
        replace: false,
    }
}

pub fn owner(name: &str) -> Owner {
    Owner(name.to_owned())
}

/// A server over memory.
pub struct Server {
    pub store: Arc<MemoryStore>,
    pub storage: MemoryStorage,
    pub clock: Arc<TestClock>,
    pub events: Arc<Mutex<Vec<IngestEvent>>>,
    pub limits: IngestLimits,
}

pub const TTL_S: u64 = 24 * 3600;

impl Server {
    pub fn new() -> Server {
        let clock = TestClock::default();
        clock.advance(1_000_000);
        Server {
            store: Arc::default(),
            storage: MemoryStorage::default(),
            clock: Arc::new(clock),
            events: Arc::default(),
            limits: IngestLimits {
                owner: OwnerLimits {
                    sessions: 10,
                    bytes: 100 * PART,
                },
                ttl_s: TTL_S,
            },
        }
    }

    /// Starts it, as after a crash.
    pub async fn start(&self) -> Ingest {
        let events = self.events.clone();
        let tell = Arc::new(move |event| events.lock().unwrap().push(event));
        let storage = Arc::new(self.storage.clone());
        let started = Ingest::start(
            self.store.clone(),
            storage,
            self.clock.clone(),
            self.limits,
            tell,
        );
        started.await.expect("the store works at the start")
    }
}
