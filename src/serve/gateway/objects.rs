//! The objects of a gateway. Each is opened at the start, and once more when its source has replaced it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use axum::http::HeaderValue;
use parking_lot::Mutex;
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    engine::{
        context::Context,
        error::Error,
        events::{Event, Events},
        read::{self, ReadOptions, SharedObject, Transfer},
    },
    serve::media_types,
};

/// An object that was opened, and the name under which it is served.
pub struct Opened {
    name: String,
    options: ReadOptions,
    object: SharedObject,
    transfer: Transfer,
}

impl Opened {
    /// Opens an object. `name`: the last segment of its URL, safe as the name of a file.
    pub async fn open(
        context: &Context,
        name: String,
        options: ReadOptions,
        events: &mut dyn Events,
    ) -> Result<Opened, Error> {
        let (object, transfer) = read::open(context, options.clone(), events).await?;
        Ok(Opened {
            name,
            options,
            object,
            transfer,
        })
    }
}

/// Events, each with the index of its object.
pub type EventSender = mpsc::UnboundedSender<(usize, Event)>;

/// All objects of a gateway.
pub struct Objects {
    all: Vec<Object>,
    context: Context,
    events: EventSender,
    transfers: Mutex<JoinSet<()>>,
}

/// One object, in the version that is served now.
pub struct Object {
    pub name: String,
    pub media_type: HeaderValue,
    options: ReadOptions,
    version: Mutex<Version>,
    /// One request opens the object anew, the others wait for it.
    opening: tokio::sync::Mutex<()>,
    readers: AtomicUsize,
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
    /// Runs the transfers of these objects. Each fetches only what its readers wait for.
    pub fn new(context: Context, opened: Vec<Opened>, events: EventSender) -> Arc<Objects> {
        let mut transfers = Vec::new();
        let objects = opened.into_iter().map(|opened| {
            transfers.push(opened.transfer);
            Object {
                media_type: media_types::of(&opened.name),
                name: opened.name,
                options: opened.options,
                version: Mutex::new(Version::new(opened.object)),
                opening: tokio::sync::Mutex::default(),
                readers: AtomicUsize::new(0),
            }
        });
        let objects = Objects {
            all: objects.collect(),
            context,
            events,
            transfers: Mutex::default(),
        };
        for (index, transfer) in transfers.into_iter().enumerate() {
            objects.run(index, transfer);
        }
        Arc::new(objects)
    }

    fn run(&self, index: usize, mut transfer: Transfer) {
        let sender = self.events.clone();
        let mut transfers = self.transfers.lock();
        // Drops those that ended.
        while transfers.try_join_next().is_some() {}
        transfers.spawn(async move {
            // The receiver ends with the gateway.
            let mut events = |event| drop(sender.send((index, event)));
            transfer.run(&mut events).await;
            transfer.finish().await;
        });
    }

    pub fn iter(&self) -> impl Iterator<Item = &Object> {
        self.all.iter()
    }

    pub fn get(&self, index: usize) -> Option<&Object> {
        self.all.get(index)
    }

    /// Body bytes that arrived in this run, for all objects.
    pub fn bytes_fetched(&self) -> u64 {
        self.context.client.bytes_fetched()
    }

    /// The version of an object that its source has, as far as this is known: one that was found replaced is opened anew.
    pub async fn version(&self, index: usize) -> Result<Version, Error> {
        let object = &self.all[index];
        let usable = || {
            Some(object.version()).filter(|version| !version.is_replaced.load(Ordering::Relaxed))
        };
        if let Some(version) = usable() {
            return Ok(version);
        }
        let _alone = object.opening.lock().await;
        if let Some(version) = usable() {
            return Ok(version);
        }
        let sender = self.events.clone();
        let mut events = |event| drop(sender.send((index, event)));
        let opened = read::open(&self.context, object.options.clone(), &mut events).await?;
        let (opened, transfer) = opened;
        self.run(index, transfer);
        let version = Version::new(opened);
        *object.version.lock() = version.clone();
        Ok(version)
    }

    /// Counts a reader of an object until it is dropped. Objects without readers leave their connections to the others.
    pub fn count_reader(self: &Arc<Objects>, index: usize) -> CountedReader {
        self.all[index].readers.fetch_add(1, Ordering::Relaxed);
        self.share_connections();
        CountedReader(self.clone(), index)
    }

    fn share_connections(&self) {
        let is_read = |object: &&Object| object.readers.load(Ordering::Relaxed) > 0;
        let read = self.all.iter().filter(is_read).count();
        self.context.connections.share_among(read);
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
    /// The version that is served now.
    pub fn version(&self) -> Version {
        self.version.lock().clone()
    }
}

/// A reader that is counted.
pub struct CountedReader(Arc<Objects>, usize);

impl Drop for CountedReader {
    fn drop(&mut self) {
        let CountedReader(objects, index) = self;
        objects.all[*index].readers.fetch_sub(1, Ordering::Relaxed);
        objects.share_connections();
    }
}
