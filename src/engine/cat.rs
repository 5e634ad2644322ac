//! Streaming proven bytes of a remote object in order: a transfer into a window in memory, and into the store's cache.

use std::{io, sync::Arc};

use crate::{
    disk::state::Provenance,
    format::{
        blockset::BlockSet,
        geometry::{BlockIndex, BlockRange, ByteRange, Geometry},
        judge::{Leaves, ObjectKey},
        keys::PublicKey,
        reader::LazyTree,
        tree::{Cv, Root},
        trust::Trust,
    },
    net::location::Location,
    policy::{conditions::Conditions, schedule::Want},
};

use super::{
    blocking,
    cache::ObjectCache,
    context::Context,
    error::Error,
    events::{Event, Events},
    remote::{
        manifest::{self, ManifestPlace, OpenManifest},
        retry::reported,
        source::Source,
    },
    transfer::{
        driver::{Driver, TransferObject},
        sink::{BlockSink, Tee},
        window::Window,
    },
    trust,
};

/// Bytes that are looked up in the cache together, and requested together if they are missing.
const STEP_BYTES: u64 = 4 << 20;
/// How many steps the stream runs ahead of the reader, which bounds its memory.
const STEPS_AHEAD: u32 = 4;
/// A reader in order gains little from more connections: they would deliver the last bytes as early as the first.
const CONNECTIONS_MAX: u32 = 4;

/// The range of an object, as in HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All bytes.
    All,
    /// From the first to the last byte, inclusive, or to the end.
    From(u64, Option<u64>),
    /// This many bytes at the end.
    Last(u64),
}

impl Wanted {
    /// The range in an object of this length; `None`: the object has no such bytes.
    pub fn within(self, length: u64) -> Option<ByteRange> {
        let (start, end) = match self {
            Wanted::All => return Some(ByteRange::new(0, length)),
            Wanted::From(first, last) => (
                first,
                last.map_or(length, |last| last.saturating_add(1).min(length)),
            ),
            Wanted::Last(count) => (length.saturating_sub(count), length),
        };
        (start < end).then(|| ByteRange::new(start, end))
    }
}

/// What to stream.
pub struct CatOptions {
    /// The URL of the object.
    pub url: Location,
    /// The range to stream.
    pub wanted: Wanted,
    /// `None`: beside the object.
    pub manifest: Option<ManifestPlace>,
    /// The object must be this one.
    pub root: Option<Root>,
    /// The manifest must be signed by this key, for the name of the URL.
    pub key: Option<PublicKey>,
    /// The least trust that is accepted.
    pub require: Trust,
    /// The largest object, in bytes.
    pub max_size: Option<u64>,
}

/// Streams the wanted bytes to `out`, whose error ends the stream as [`Error::Output`]. Returns the trust of the bytes.
pub async fn cat(
    context: &Context,
    options: CatOptions,
    events: &mut dyn Events,
    mut out: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<Trust, Error> {
    let hosts = context.client.hosts().clone();
    blocking::run(move || hosts.refresh()).await;
    let place = options
        .manifest
        .clone()
        .unwrap_or_else(|| ManifestPlace::Beside(options.url.of_manifest()));
    let limits = context.limits_now();
    let opened = OpenManifest::open(context, &place, &limits);
    let manifest = reported(events, opened).await?;
    let conditions = Conditions {
        root: options.root,
        digests: Vec::new(),
        key: options.key.clone(),
        name: Some(options.url.last_segment().unwrap_or_default()),
        require: options.require,
    };
    let trust = trust::check(&context.store, &conditions, manifest.front(), events).await?;
    let (root, geometry) = (manifest.header().root, manifest.header().geometry);
    let name = options.url.to_string();
    if options
        .max_size
        .is_some_and(|most| geometry.length() > most)
    {
        return Err(Error::TooLarge {
            place: name,
            bytes: geometry.length(),
        });
    }
    let bytes = options.wanted.within(geometry.length());
    let bytes = bytes.ok_or_else(|| Error::NoSuchRange {
        place: name,
        length: geometry.length(),
    })?;
    let provenance = Provenance {
        origin: Some(options.url.origin()),
        url: Some(options.url.to_string()),
        key_id: options.key.as_ref().map(PublicKey::id_hex),
        name: options.url.safe_name(),
    };
    let leaves = Arc::new(Leaves::empty(ObjectKey::of_root(root, geometry)));
    let cache = ObjectCache::open(&context.store, root, leaves.clone(), provenance, events).await;
    let mut stream = Stream::new(context, manifest, &options.url, leaves, cache, bytes);
    let streamed = stream.run(&mut StreamEvents(events), &mut out).await;
    stream.finish().await;
    match streamed {
        Ok(()) => Ok(trust),
        Err(error) => Err(manifest::explain(context, error, root, &place, &options.url).await),
    }
}

/// Forwards events about problems, not about progress.
struct StreamEvents<'a>(&'a mut dyn Events);

impl Events for StreamEvents<'_> {
    fn event(&mut self, event: Event) {
        if matches!(
            event,
            Event::Warning { .. }
                | Event::Retry { .. }
                | Event::HostSlowed { .. }
                | Event::SourceDropped { .. }
                | Event::BlockWrong { .. }
        ) {
            self.0.event(event);
        }
    }
}

/// A transfer that runs ahead of a reader.
struct Stream<'a> {
    context: &'a Context,
    manifest: OpenManifest,
    tree: LazyTree,
    leaves: Arc<Leaves>,
    cache: ObjectCache,
    window: Arc<Window>,
    driver: Driver,
    bytes: ByteRange,
    /// Blocks that were not in the cache, and may not have been read yet.
    wanted: Vec<BlockRange>,
    /// Blocks before this one were read from the cache or wanted from the driver.
    ahead: u32,
    /// The end of the blocks that contain `bytes`.
    end: u32,
}

impl Stream<'_> {
    fn new<'a>(
        context: &'a Context,
        manifest: OpenManifest,
        url: &Location,
        leaves: Arc<Leaves>,
        cache: ObjectCache,
        bytes: ByteRange,
    ) -> Stream<'a> {
        let blocks = blocks_of(leaves.geometry(), bytes);
        let window = Arc::new(Window::new(BlockIndex(blocks.start)));
        let object = TransferObject {
            leaves: leaves.clone(),
            sources: vec![Source::http(&context.client, url)],
            // Whether the source serves ranges is unknown: there was no preflight.
            ranges: true,
            first: None,
            // The blocks are proven against the manifest; bytes after its length are never requested.
            length_proven: true,
            version: None,
            connections_max: CONNECTIONS_MAX,
        };
        let sink = Tee {
            first: window.clone(),
            then: cache.clone(),
        };
        let claimed = BlockSet::empty(leaves.geometry().blocks());
        let driver = Driver::new(context, object, Arc::new(sink), claimed);
        let header = manifest.header();
        Stream {
            context,
            tree: LazyTree::new(header.layout(), header.root),
            manifest,
            leaves,
            cache,
            window,
            driver,
            bytes,
            wanted: Vec::new(),
            ahead: blocks.start,
            end: blocks.end,
        }
    }

    /// Runs until everything was read.
    async fn run(
        &mut self,
        events: &mut dyn Events,
        out: &mut impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), Error> {
        loop {
            self.read_ahead().await?;
            while let Some(run) = self.window.take() {
                for chunk in run.within(self.bytes) {
                    out(&chunk).map_err(Error::Output)?;
                }
                self.forget_read();
            }
            if self.window.next().0 >= self.end {
                return Ok(());
            }
            self.driver.next(events).await?;
        }
    }

    /// Requests more blocks as soon as a step was read.
    async fn read_ahead(&mut self) -> Result<(), Error> {
        let geometry = *self.leaves.geometry();
        let step = (STEP_BYTES / geometry.block_size().bytes()).max(1) as u32;
        let mut moved = false;
        while self.ahead < self.end && self.ahead < self.window.next().0 + step * STEPS_AHEAD {
            let blocks = BlockRange::new(self.ahead, self.end.min(self.ahead + step));
            self.manifest
                .read_groups(self.context, &mut self.tree, blocks)
                .await?;
            let leaves = blocks.iter().map(|block| self.tree.leaf(block));
            let leaves: Vec<Cv> = leaves
                .map(|leaf| leaf.expect("its page was read"))
                .collect();
            self.leaves.insert(BlockIndex(blocks.start), &leaves);
            let cached = self.cache.read(blocks).await;
            for run in cached.proven {
                self.window.put(run)?;
            }
            self.wanted.extend(cached.missing);
            (self.ahead, moved) = (blocks.end, true);
        }
        if moved {
            let next = self.window.next().0;
            self.wanted.retain(|blocks| blocks.end > next);
            self.driver.want(Want {
                ranges: self.wanted.clone(),
                more: self.ahead < self.end,
            });
        }
        Ok(())
    }

    /// Drops the tree pages and leaves that were read, so that a long stream uses bounded memory.
    fn forget_read(&mut self) {
        let next = self.window.next();
        self.tree.forget_before(next);
        self.leaves.forget(BlockRange::new(0, next.0));
    }

    /// Ends the transfer, and records the new blocks in the index of the store.
    async fn finish(self) {
        self.driver.shutdown().await.wait().await;
        self.cache.note().await;
    }
}

/// The blocks that contain these bytes.
fn blocks_of(geometry: &Geometry, bytes: ByteRange) -> BlockRange {
    let last = geometry.length().saturating_sub(1);
    let first = geometry.block_at(bytes.start.min(last)).0;
    match bytes.is_empty() {
        true => BlockRange::new(first, first),
        false => BlockRange::new(first, geometry.block_at(bytes.end - 1).0 + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_send<T: Send>(_: T) {}

    /// A server spawns a stream as a task, so its future must be `Send`. This need only compile.
    #[test]
    fn the_future_of_cat_is_send() {
        let _ = |context: Context, options: CatOptions| {
            is_send(async move {
                let mut events = |_: Event| ();
                cat(&context, options, &mut events, |_: &[u8]| Ok(())).await
            });
        };
    }

    #[test]
    fn ranges_as_in_http() {
        let range =
            |wanted: Wanted, length| wanted.within(length).map(|range| (range.start, range.end));
        assert_eq!(range(Wanted::All, 0), Some((0, 0)));
        assert_eq!(range(Wanted::From(0, Some(0)), 9), Some((0, 1)));
        assert_eq!(range(Wanted::From(3, None), 9), Some((3, 9)));
        assert_eq!(range(Wanted::From(3, Some(u64::MAX)), 9), Some((3, 9)));
        assert_eq!(range(Wanted::From(9, None), 9), None);
        assert_eq!(range(Wanted::Last(4), 9), Some((5, 9)));
        assert_eq!(range(Wanted::Last(40), 9), Some((0, 9)));
        assert_eq!(range(Wanted::Last(0), 9), None);
    }
}
