//! What a gateway serves: objects, each opened at the start, and libraries, whose files are opened when they are first requested. An
//! object is opened once more when its source has replaced it.

use std::{
    cmp::Reverse,
    collections::HashMap,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use axum::http::HeaderValue;
use parking_lot::Mutex;
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    engine::{
        context::Context,
        error::Error,
        events::{Event, Events},
        library::remote::{self, RemoteLibrary, RemoteOptions},
        read::{
            self, ReadOptions, SharedObject, Transfer,
            growing::{GrowingObject, Growth},
        },
    },
    format::{
        library::{Entry, LibraryPath},
        trust::Trust,
    },
    serve::media_types,
};

/// Objects that keep blocks in memory while nobody reads them, and files of libraries that stay open then. The blocks of the others
/// are in the store.
const IDLE_MAX: usize = 4;
/// Blocks in memory, of all objects. Each that is read, or keeps blocks, has the same share.
const MEMORY_BYTES: u64 = 128 << 20;

/// What was opened of a URL, and the name under which it is served.
pub struct Opened {
    name: String,
    what: What,
}

enum What {
    Object(Box<ReadOptions>, SharedObject, Box<Transfer>),
    Library(Box<RemoteLibrary>),
    Growing(Box<GrowingObject>),
}

impl Opened {
    /// Opens an object that is still uploaded.
    pub async fn open_growing(
        context: &Context,
        name: String,
        options: ReadOptions,
        events: &mut dyn Events,
    ) -> Result<Opened, Error> {
        let object = GrowingObject::open(context, options, events).await?;
        let what = What::Growing(Box::new(object));
        Ok(Opened { name, what })
    }

    /// Opens an object. `name`: the last segment of its URL, safe as the name of a file.
    pub async fn open(
        context: &Context,
        name: String,
        options: ReadOptions,
        events: &mut dyn Events,
    ) -> Result<Opened, Error> {
        let (object, transfer) = read::open(context, options.clone(), events).await?;
        let what = What::Object(Box::new(options), object, Box::new(transfer));
        Ok(Opened { name, what })
    }

    /// Reads the index of a library.
    pub async fn open_library(
        context: &Context,
        name: String,
        options: &RemoteOptions,
        events: &mut dyn Events,
    ) -> Result<Opened, Error> {
        let library = remote::open(context, options, events).await?;
        let what = What::Library(Box::new(library));
        Ok(Opened { name, what })
    }
}

impl Opened {
    /// Where it is, below the token. A library that is alone is at the top.
    pub fn place(&self, is_alone: bool) -> String {
        match self.what {
            What::Object(..) | What::Growing(_) => self.name.clone(),
            What::Library(_) if is_alone => String::new(),
            What::Library(_) => format!("{}/", self.name),
        }
    }
}

/// Events, each with the path of its object.
pub type EventSender = mpsc::UnboundedSender<(String, Event)>;

/// All that a gateway serves.
pub struct Objects {
    own: Vec<Arc<Object>>,
    growing: Vec<Arc<Growing>>,
    libraries: Vec<Library>,
    files: Mutex<Files>,
    context: Context,
    events: EventSender,
    transfers: Mutex<JoinSet<()>>,
    /// Counts readers.
    reads: AtomicU64,
}

/// A library, whose files are below a path.
pub struct Library {
    pub name: String,
    /// Before the path of each file: empty, or the name with a slash.
    pub prefix: String,
    pub remote: RemoteLibrary,
}

/// The files of libraries that are open, by path.
#[derive(Default)]
struct Files {
    open: HashMap<String, (u64, Arc<Object>)>,
    /// Counts requests.
    clock: u64,
}

impl Files {
    /// Closes those that nobody has needed for the longest time.
    fn close_idle(&mut self) {
        let is_idle = |object: &Arc<Object>| {
            // Who works with an object has a clone.
            object.readers.load(Ordering::Relaxed) == 0 && Arc::strong_count(object) == 1
        };
        let idle = self.open.iter().filter(|(_, (_, object))| is_idle(object));
        let mut idle: Vec<(u64, String)> =
            idle.map(|(path, (at, _))| (*at, path.clone())).collect();
        idle.sort_unstable_by(|a, b| b.cmp(a));
        for (_, path) in idle.into_iter().skip(IDLE_MAX) {
            self.open.remove(&path);
        }
    }
}

/// One object, in the version that is served now.
pub struct Object {
    /// Below the token.
    pub path: String,
    pub media_type: HeaderValue,
    /// Of a file of a library: what its index is proven against.
    library: Option<Trust>,
    options: ReadOptions,
    version: Mutex<Option<Version>>,
    /// One request opens the object anew, the others wait for it.
    opening: tokio::sync::Mutex<()>,
    readers: AtomicUsize,
    /// The number of the reader that came last; 0: there was none.
    last_read: AtomicU64,
}

/// One version of an object. Clones are the same version.
#[derive(Clone)]
pub struct Version {
    pub object: SharedObject,
    /// The source has another version by now.
    is_replaced: Arc<AtomicBool>,
}

impl Version {
    fn new(object: SharedObject) -> Version {
        Version {
            object,
            is_replaced: Arc::default(),
        }
    }

    /// Notes a failure to read this version: it may say that the source has another one.
    pub fn note(&self, error: &Error) {
        // A manifest that is refused only now was replaced while it was read.
        let is_replaced = matches!(
            error,
            Error::Changed { .. } | Error::OtherLength { .. } | Error::Manifest { .. }
        );
        self.is_replaced.fetch_or(is_replaced, Ordering::Relaxed);
    }
}

impl Objects {
    /// Runs the transfers of these objects. Each fetches only what its readers wait for. A library is at the top if it is alone.
    pub fn new(context: Context, opened: Vec<Opened>, events: EventSender) -> Arc<Objects> {
        let is_alone = opened.len() == 1;
        let (mut own, mut libraries, mut transfers) = (Vec::new(), Vec::new(), Vec::new());
        let mut growing = Vec::new();
        for opened in opened {
            let place = opened.place(is_alone);
            let Opened { name, what } = opened;
            match what {
                What::Library(remote) => libraries.push(Library {
                    prefix: place,
                    name,
                    remote: *remote,
                }),
                What::Growing(object) => {
                    let object = Growing::new(place, *object, events.clone());
                    growing.push(Arc::new(object));
                }
                What::Object(options, object, transfer) => {
                    let opened = Object::new(place, *options, None);
                    *opened.version.lock() = Some(Version::new(object));
                    transfers.push((opened.path.clone(), *transfer));
                    own.push(Arc::new(opened));
                }
            }
        }
        let objects = Objects {
            own,
            growing,
            libraries,
            files: Mutex::default(),
            context,
            events,
            transfers: Mutex::default(),
            reads: AtomicU64::new(0),
        };
        for (path, transfer) in transfers {
            objects.run(path, transfer);
        }
        Arc::new(objects)
    }

    fn run(&self, path: String, mut transfer: Transfer) {
        let sender = self.events.clone();
        let mut transfers = self.transfers.lock();
        // Drops those that ended.
        while transfers.try_join_next().is_some() {}
        transfers.spawn(async move {
            // The receiver ends with the gateway.
            let mut events = |event| drop(sender.send((path.clone(), event)));
            transfer.run(&mut events).await;
            transfer.finish().await;
        });
    }

    /// Those whose URLs were given.
    pub fn own(&self) -> &[Arc<Object>] {
        &self.own
    }

    pub fn libraries(&self) -> &[Library] {
        &self.libraries
    }

    /// The library of a path, and the entry of its file there.
    pub fn entry(&self, path: &str) -> Option<(&Library, &Entry)> {
        self.libraries.iter().find_map(|library| {
            let path = LibraryPath::new(path.strip_prefix(&library.prefix)?)?;
            Some((library, library.remote.index.find(&path)?))
        })
    }

    /// The object of a path that was not published when the gateway started.
    pub fn find_growing(&self, path: &str) -> Option<Arc<Growing>> {
        self.growing
            .iter()
            .find(|object| object.path == path)
            .cloned()
    }

    /// The object of a path, if there is one. It may not be open yet.
    pub fn find(&self, path: &str) -> Option<Arc<Object>> {
        if let Some(own) = self.own.iter().find(|object| object.path == path) {
            return Some(own.clone());
        }
        let (library, entry) = self.entry(path)?;
        let mut files = self.files.lock();
        files.clock += 1;
        let now = files.clock;
        let make = || {
            let (options, trust) = (library.remote.object(entry), library.remote.trust);
            (
                now,
                Arc::new(Object::new(path.to_owned(), options, Some(trust))),
            )
        };
        let (used, object) = files.open.entry(path.to_owned()).or_insert_with(make);
        *used = now;
        let object = object.clone();
        files.close_idle();
        Some(object)
    }

    /// The object of a path, if it is open.
    pub fn find_open(&self, path: &str) -> Option<Arc<Object>> {
        let own = self.own.iter().find(|object| object.path == path).cloned();
        own.or_else(|| Some(self.files.lock().open.get(path)?.1.clone()))
    }

    /// Body bytes that arrived in this run, for all objects.
    pub fn bytes_fetched(&self) -> u64 {
        self.context.client.bytes_fetched()
    }

    /// The version of an object that its source has, as far as this is known: one that was found replaced is opened anew.
    pub async fn version(&self, object: &Object) -> Result<Version, Error> {
        let usable = || {
            let version = object.version();
            version.filter(|version| !version.is_replaced.load(Ordering::Relaxed))
        };
        if let Some(version) = usable() {
            return Ok(version);
        }
        let _alone = object.opening.lock().await;
        if let Some(version) = usable() {
            return Ok(version);
        }
        let sender = self.events.clone();
        let mut events = |event| drop(sender.send((object.path.clone(), event)));
        let opened = read::open(&self.context, object.options.clone(), &mut events).await?;
        let (opened, transfer) = opened;
        self.run(object.path.clone(), transfer);
        let version = Version::new(opened);
        *object.version.lock() = Some(version.clone());
        Ok(version)
    }

    /// Counts a reader of an object until it is dropped. Objects without readers leave their connections to the others.
    pub fn count_reader(self: &Arc<Objects>, object: &Arc<Object>) -> CountedReader {
        object.readers.fetch_add(1, Ordering::Relaxed);
        let now = 1 + self.reads.fetch_add(1, Ordering::Relaxed);
        object.last_read.store(now, Ordering::Relaxed);
        self.share();
        CountedReader(self.clone(), object.clone())
    }

    /// Divides connections and memory among the objects that are read.
    fn share(&self) {
        let is_read = |object: &&Arc<Object>| object.readers.load(Ordering::Relaxed) > 0;
        let files = self.files.lock();
        let of_libraries = files.open.values().map(|(_, object)| object);
        let published = self
            .growing
            .iter()
            .filter_map(|growing| growing.published());
        let published: Vec<Arc<Object>> = published.collect();
        let all = self.own.iter().chain(of_libraries).chain(&published);
        let (read, mut idle): (Vec<_>, Vec<_>) = all.partition(is_read);
        self.context.connections.share_among(read.len());
        let last_read = |object: &&Arc<Object>| object.last_read.load(Ordering::Relaxed);
        // The others have no block but their last one, and need it again.
        idle.retain(|object| last_read(object) > 0);
        idle.sort_by_key(|object| Reverse(last_read(object)));
        let (kept, others) = idle.split_at(idle.len().min(IDLE_MAX));
        let holders = read.len() + kept.len();
        for object in read.iter().chain(kept) {
            object.limit_memory(MEMORY_BYTES / holders as u64);
        }
        for object in others {
            object.limit_memory(0);
        }
    }

    /// Ends the transfers, each of which notes in the store what it fetched.
    pub async fn close(self: Arc<Objects>) {
        let mut transfers = std::mem::take(&mut *self.transfers.lock());
        // A transfer ends with the last clone of its object.
        drop(self);
        while transfers.join_next().await.is_some() {}
    }
}

impl Object {
    pub fn new(path: String, options: ReadOptions, library: Option<Trust>) -> Object {
        let name = path.rsplit('/').next().unwrap_or_default();
        Object {
            media_type: media_types::of(name),
            path,
            library,
            options,
            version: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            readers: AtomicUsize::new(0),
            last_read: AtomicU64::new(0),
        }
    }

    fn limit_memory(&self, bytes: u64) {
        if let Some(version) = self.version() {
            version.object.limit_memory(bytes);
        }
    }

    /// The version that is served now; `None`: it was not opened yet.
    pub fn version(&self) -> Option<Version> {
        self.version.lock().clone()
    }

    /// What the bytes of a version are proven against.
    pub fn trust(&self, version: &Version) -> Trust {
        self.library.unwrap_or_else(|| version.object.trust())
    }
}

/// An object that was not published when the gateway started.
pub struct Growing {
    /// Below the token.
    pub path: String,
    pub media_type: HeaderValue,
    pub object: GrowingObject,
    /// Once it is.
    published: Mutex<Option<Arc<Object>>>,
    events: EventSender,
}

impl Growing {
    pub fn new(path: String, object: GrowingObject, events: EventSender) -> Growing {
        Growing {
            media_type: media_types::of(&path),
            path,
            object,
            published: Mutex::default(),
            events,
        }
    }

    /// The object, if it is known to be published.
    pub fn published(&self) -> Option<Arc<Object>> {
        self.published.lock().clone()
    }

    /// It is published: what is read of it from now on.
    pub fn publish(&self, options: ReadOptions) -> Arc<Object> {
        let mut published = self.published.lock();
        let new = || Arc::new(Object::new(self.path.clone(), options, None));
        published.get_or_insert_with(new).clone()
    }

    /// How it is, or the object that it became.
    pub async fn growth(
        &self,
        beyond: Option<u64>,
    ) -> Result<ControlFlow<Arc<Object>, u64>, Error> {
        if let Some(object) = self.published() {
            return Ok(ControlFlow::Break(object));
        }
        Ok(match self.object.growth(beyond).await? {
            Growth::Grows(proven) => ControlFlow::Continue(proven),
            Growth::Published(published) => {
                ControlFlow::Break(self.publish(self.object.options_of(published.url)))
            }
        })
    }

    /// Tells what happened.
    pub fn event(&self, event: Event) {
        let _ = self.events.send((self.path.clone(), event));
    }
}

/// A reader that is counted.
pub struct CountedReader(Arc<Objects>, Arc<Object>);

impl Drop for CountedReader {
    fn drop(&mut self) {
        let CountedReader(objects, object) = self;
        object.readers.fetch_sub(1, Ordering::Relaxed);
        objects.share();
    }
}
