//! What every use case shares: the client, the store, limits and connections.
//!
//! A caller makes one [`Context`] per run; its clones share everything. INVARIANT: only [`StoreHandle`] opens the store, once,
//! and only on threads that may block.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::{
    disk::store::{NewHolding, Reads, Store, StoreError},
    net::client::Client,
    policy::schedule::Limits,
};

use super::{
    blocking::{self, Threads},
    connections::{CONNECTIONS_MAX, Connections},
    error::Error,
    group_commit::GroupCommit,
    observed::Observed,
};

/// A transfer with a rate limit gets one connection per this many bytes per second: more would only keep responses open without
/// reading them.
const CONNECTION_RATE: u64 = 1_000_000;
/// The default of [`Limits::tries`].
const TRIES: u32 = 5;
/// The default of [`Limits::patience_ms`].
const PATIENCE_MS: u64 = 5 * 60 * 1000;

/// The client, the store, limits and connections of a run.
#[derive(Clone)]
pub struct Context {
    /// Sends the requests. Clones share connections, rate limit and the reputations of hosts.
    pub client: Client,
    /// Remembers local files, cached blocks and hosts between runs.
    pub store: StoreHandle,
    /// Tries and patience. `connections` is ignored here: [`Context::limits_now`] computes it from [`Context::connections`].
    pub limits: Limits,
    /// The ceiling that all transfers of this context share.
    pub connections: Connections,
    /// Which threads hash and write arriving bytes.
    pub threads: Threads,
    /// Where the connections of transfers are read. `None`: in the runtime of the caller.
    pub transfers: Option<Handle>,
    /// Publishes small objects.
    pub commits: GroupCommit,
    /// What earlier objects of the run showed.
    pub observed: Observed,
}

impl Default for Context {
    fn default() -> Context {
        Context::new(Client::default())
    }
}

impl Context {
    /// The defaults of the program, without a store: nothing is remembered.
    pub fn new(client: Client) -> Context {
        Context {
            client,
            store: StoreHandle::default(),
            limits: Limits {
                connections: CONNECTIONS_MAX,
                tries: TRIES,
                patience_ms: PATIENCE_MS,
                seed: std::process::id().into(),
            },
            connections: Connections::at_most(CONNECTIONS_MAX),
            threads: Threads::Blocking,
            transfers: None,
            commits: GroupCommit::default(),
            observed: Observed::default(),
        }
    }

    /// The same context with a byte counter of its own. Keep a clone of the counter to read it after the run is dropped.
    #[must_use]
    pub fn counting(&self, bytes: Arc<AtomicU64>) -> Context {
        Context {
            client: self.client.counting(bytes),
            ..self.clone()
        }
    }

    /// The limits of one transfer now, with its share of the connections.
    pub fn limits_now(&self) -> Limits {
        Limits {
            connections: self.useful_connections().min(self.connections.per_fetch()),
            tries: self.limits.tries.max(1),
            ..self.limits
        }
    }

    /// The most connections that the rate limit can keep busy; `u32::MAX` without a limit.
    pub fn useful_connections(&self) -> u32 {
        let useful = |rate| u32::try_from(rate / CONNECTION_RATE).unwrap_or(u32::MAX);
        self.client.limit_rate().map_or(u32::MAX, useful).max(1)
    }
}

/// New holdings are recorded together when there are this many: a transaction for each takes longer than a small file itself.
const HOLDINGS_AT_ONCE: usize = 512;
/// Or when the first of them is this old: what a kill loses of them is fetched again.
const HOLDINGS_WAIT: Duration = Duration::from_millis(50);

/// The store of a run, opened at its first use. The default has no store and remembers nothing. Clones share the store.
#[derive(Clone, Default)]
pub struct StoreHandle {
    shared: Option<Arc<Shared>>,
    reads: Reads,
}

struct Shared {
    lazy: Mutex<Lazy>,
    /// To be recorded in one transaction.
    new: Mutex<Vec<NewHolding>>,
}

enum Lazy {
    Closed(PathBuf),
    Open(Box<Store>),
    /// The store failed and is no longer used. Holds the error until one caller gets it.
    Failed(Option<StoreError>),
}

impl StoreHandle {
    /// The store in this folder.
    pub fn at(folder: PathBuf) -> StoreHandle {
        StoreHandle {
            shared: Some(Arc::new(Shared {
                lazy: Mutex::new(Lazy::Closed(folder)),
                new: Mutex::default(),
            })),
            reads: Reads::default(),
        }
    }

    /// The same store, whose own objects are read this way.
    #[must_use]
    pub fn with_reads(self, reads: Reads) -> StoreHandle {
        StoreHandle { reads, ..self }
    }

    /// How its own objects are read.
    pub fn reads(&self) -> Reads {
        self.reads
    }

    /// Whether there is a store. It may still turn out to be unusable.
    pub fn is_some(&self) -> bool {
        self.shared.is_some()
    }

    /// Runs `work` on the store, on a thread that may block. `None`: there is no store, or it failed before. The first failure is
    /// returned once; after it the store is no longer used.
    ///
    /// `work` has exclusive access to the store. It must not hash files: until it returns, every other task that needs the store
    /// waits.
    pub async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<Option<T>, StoreError> {
        let Some(shared) = self.shared.clone() else {
            return Ok(None);
        };
        blocking::run(move || {
            shared.record_new()?;
            shared.lazy.lock().with(work)
        })
        .await
    }

    /// [`StoreHandle::with`] for work that does not need the holdings of [`StoreHandle::record_soon`].
    pub async fn look_up<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<Option<T>, StoreError> {
        let Some(shared) = self.shared.clone() else {
            return Ok(None);
        };
        blocking::run(move || shared.lazy.lock().with(work)).await
    }

    /// Records a holding with others, in one transaction: soon, when there are many, before the next [`StoreHandle::with`], or when
    /// the last clone is dropped. The next [`StoreHandle::with`] returns the error, if there is one.
    pub fn record_soon(&self, new: NewHolding) {
        let Some(shared) = self.shared.clone() else {
            return;
        };
        let count = {
            let mut all = shared.new.lock();
            all.push(new);
            all.len()
        };
        if count == 1 {
            // Not a clone: the end of the run does not wait.
            let (weak, reads) = (Arc::downgrade(&shared), self.reads);
            blocking::detach_after(HOLDINGS_WAIT, move || {
                let shared = weak.upgrade();
                StoreHandle { shared, reads }.record_new();
            });
        }
        if count == HOLDINGS_AT_ONCE {
            let handle = self.clone();
            blocking::detach(move || handle.record_new());
        }
    }

    /// Records the new holdings now. Blocks.
    fn record_new(&self) {
        let Some(shared) = &self.shared else { return };
        let all = std::mem::take(&mut *shared.new.lock());
        if !all.is_empty() {
            self.with_blocking(|store| Ok(store.adopt_all(&all)?));
        }
    }

    /// [`StoreHandle::with`] on this thread, which must be allowed to block. The next [`StoreHandle::with`] returns the error, if
    /// there was one.
    pub fn with_blocking<T>(
        &self,
        work: impl FnOnce(&mut Store) -> Result<T, StoreError>,
    ) -> Option<T> {
        let mut lazy = self.shared.as_ref()?.lazy.lock();
        match lazy.with(work) {
            Ok(done) => done,
            Err(cause) => {
                tracing::warn!("the store is disabled for the rest of this run: {cause}");
                *lazy = Lazy::Failed(Some(cause));
                None
            }
        }
    }
}

impl Shared {
    /// Records the new holdings.
    fn record_new(&self) -> Result<(), StoreError> {
        let all = std::mem::take(&mut *self.new.lock());
        if all.is_empty() {
            return Ok(());
        }
        let record = |store: &mut Store| Ok(store.adopt_all(&all)?);
        self.lazy.lock().with(record).map(drop)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Err(cause) = self.record_new() {
            tracing::warn!("the store did not record the last files: {cause}");
        }
    }
}

impl Lazy {
    fn with<T>(
        &mut self,
        work: impl FnOnce(&mut Store) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        if let Lazy::Closed(folder) = self {
            *self = match Store::open(folder) {
                Ok(store) => Lazy::Open(Box::new(store)),
                Err(cause) => Lazy::Failed(Some(cause.into())),
            };
        }
        let done = match self {
            Lazy::Open(store) => work(store),
            Lazy::Closed(_) => return Ok(None),
            Lazy::Failed(cause) => return cause.take().map_or(Ok(None), Err),
        };
        if done.is_err() {
            *self = Lazy::Failed(None);
        }
        done.map(Some)
    }
}

/// Opens the store in this folder for a command that works on the store only. Blocks.
pub fn open_store(folder: &Path) -> Result<Store, Error> {
    Ok(Store::open(folder)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_failure_of_a_store_is_reported_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, b"no folder").unwrap();
        let store = StoreHandle::at(file);
        assert!(store.with(|_| Ok(())).await.is_err());
        assert!(matches!(store.with(|_| Ok(())).await, Ok(None)));
        assert!(matches!(
            StoreHandle::default().with(|_| Ok(())).await,
            Ok(None)
        ));
        // An error of `with_blocking` is kept for the next `with`.
        let store = StoreHandle::at(folder.path().join("file"));
        assert_eq!(store.with_blocking(|_| Ok(())), None);
        assert!(store.with(|_| Ok(())).await.is_err());
    }

    #[tokio::test]
    async fn clones_share_one_open_store() {
        let folder = tempfile::tempdir().unwrap();
        let store = StoreHandle::at(folder.path().join("store"));
        assert_eq!(
            store
                .with(|store| Ok(store.state().holdings()?.len()))
                .await
                .unwrap(),
            Some(0)
        );
        assert!(matches!(
            *store.shared.as_ref().unwrap().lazy.lock(),
            Lazy::Open(_)
        ));
        assert_eq!(store.clone().with_blocking(|_| Ok(7)), Some(7));
    }
}
