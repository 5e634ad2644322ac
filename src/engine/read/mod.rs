//! Reading a remote object with seek: any number of readers over one transfer and the store's cache. Every byte is proven.
//!
//! A [`Reader`] takes blocks from memory, or reads and judges them from the cache. What is missing it waits for. The [`Transfer`]
//! follows the readers: it reads the pages of the manifest that they need, and fetches the most urgent blocks first.

mod failures;
pub mod growing;
mod length;
mod memory;
mod outcomes;
mod pages;
mod plan;
mod reader;
mod shared;
mod state;
mod taking;
mod transfer;

use std::sync::Arc;

use crate::{
    disk::state::Provenance,
    format::{
        geometry::{BlockIndex, BlockSize, ByteRange, Geometry},
        judge::{self, Leaves, ObjectKey},
        keys::PublicKey,
        library::SMALL_BYTES_MAX,
        pack::FRAME,
        statement::Refused,
        tree::Root,
        trust::Trust,
    },
    net::location::Location,
    policy::conditions::Conditions,
};

use super::{
    blocking,
    cache::ObjectCache,
    context::Context,
    error::Error,
    events::Events,
    remote::{
        self,
        manifest::{ManifestPlace, OpenManifest},
        retry::reported,
        source::packed::Pack,
    },
    trust,
};

use length::Length;
use pages::Pages;
use shared::Shared;
use transfer::Origin;

pub use reader::Reader;
pub use state::{BlockState, ObjectState, WrongBlock};
pub use transfer::Transfer;

/// Blocks in memory, of all readers of an object.
const MEMORY_BYTES: u64 = 64 << 20;
/// The first read-ahead of a reader; it grows while the reader reads on.
const FIRST_BYTES: u64 = 256 << 10;
/// The read-ahead of a reader that reads on and on. A player that seeks has it for nothing.
const AHEAD_BYTES_MAX: u64 = 8 << 20;
/// More connections would deliver the last bytes of a read-ahead as early as the first.
const CONNECTIONS_MAX: u32 = 8;
/// What readers are assumed to read. They wait for the index of a pack, which is then 4 MiB at most.
const BYTES_WANTED: u64 = 32 << 20;

/// What to read.
#[derive(Clone)]
pub struct ReadOptions {
    /// The URL of the object.
    pub url: Location,
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
    /// Other URLs of the same object.
    pub mirrors: Vec<Location>,
    /// The name that the key must have signed. `None`: the last segment of the URL.
    pub name: Option<String>,
    /// The length of the object of the root, from the index of a library. The root alone proves a small object: no manifest of it is
    /// read.
    pub length: Option<u64>,
}

/// How much is fetched for readers.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Tuning {
    /// Prove the length of an object whose manifest is not signed, by its last block, before anything else.
    pub prove_length: bool,
    pub connections_max: u32,
    /// Blocks in memory.
    pub memory_bytes: u64,
    /// The first read-ahead of a reader.
    pub first_bytes: u64,
    /// The largest one.
    pub ahead_bytes_max: u64,
    /// About how many bytes will be read, at most: the index of a pack is worth reading for more than its own bytes.
    pub bytes_wanted: u64,
    /// What is wanted ends at multiples of so many bytes, because they are fetched together.
    pub unit_bytes: u64,
}

/// A remote object with a manifest, read by any number of readers at once. Clones share it.
#[derive(Clone)]
pub struct SharedObject {
    handle: Arc<Handle>,
    info: Arc<Info>,
}

/// Exists while anybody may read.
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// What is known of an object from its manifest.
struct Info {
    root: Root,
    trust: Trust,
    sources: Vec<String>,
    context: Context,
}

/// Opens an object: reads the front of its manifest, and checks whether it is trusted.
///
/// The object stays the one of this manifest. If it is replaced at the source, readers end with [`Error::Changed`].
pub async fn open(
    context: &Context,
    options: ReadOptions,
    events: &mut dyn Events,
) -> Result<(SharedObject, Transfer), Error> {
    let tuning = Tuning {
        prove_length: true,
        connections_max: CONNECTIONS_MAX,
        memory_bytes: MEMORY_BYTES,
        first_bytes: FIRST_BYTES,
        ahead_bytes_max: AHEAD_BYTES_MAX,
        bytes_wanted: BYTES_WANTED,
        unit_bytes: 1,
    };
    open_tuned(context, options, tuning, events).await
}

pub(in crate::engine) async fn open_tuned(
    context: &Context,
    options: ReadOptions,
    tuning: Tuning,
    events: &mut dyn Events,
) -> Result<(SharedObject, Transfer), Error> {
    let hosts = context.client.hosts().clone();
    blocking::run(move || hosts.refresh()).await;
    let described = match small(&options)? {
        Some(small) => small,
        // Boxed, to keep the futures of callers small.
        None => Box::pin(described(context, &options, events)).await?,
    };
    check_size(&options, &described.geometry)?;
    let pack = described.pack(context, &options.url, tuning).await;
    let tuning = Tuning {
        unit_bytes: pack.as_ref().map_or(tuning.unit_bytes, |_| FRAME),
        ..tuning
    };
    let Described {
        root,
        geometry,
        trust,
        place,
        manifest,
    } = described;
    let provenance = provenance(&options);
    let leaves = Arc::new(Leaves::empty(ObjectKey::of_root(root, geometry)));
    let cache = ObjectCache::open(&context.store, root, leaves.clone(), provenance, events).await;
    if manifest.is_none() {
        leaves.insert(BlockIndex(0), &[root.0]);
    }
    let is_empty = geometry.length() == 0 && judge::verify(&leaves, BlockIndex(0), &[]).is_ok();
    let length = match trust.is_signed() || !tuning.prove_length || is_empty {
        true => Length::Proven,
        false => Length::Wanted,
    };
    let shared = Arc::new(Shared::new(leaves.clone(), cache, tuning, length));
    let mut sources = vec![options.url];
    sources.extend(options.mirrors);
    let info = Info {
        root,
        trust,
        sources: sources.iter().map(Location::to_string).collect(),
        context: context.clone(),
    };
    let object = SharedObject {
        handle: Arc::new(Handle {
            shared: shared.clone(),
        }),
        info: Arc::new(info),
    };
    let origin = Origin {
        root,
        sources,
        place,
        pack,
    };
    let pages = match manifest {
        Some(manifest) => Pages::new(manifest, leaves),
        None => Pages::known(leaves, root),
    };
    Ok((
        object,
        Transfer::new(context.clone(), shared, origin, pages),
    ))
}

/// What is known of an object before any of its bytes is read.
struct Described {
    root: Root,
    geometry: Geometry,
    trust: Trust,
    place: ManifestPlace,
    /// `None`: it has one block, whose leaf is the root.
    manifest: Option<OpenManifest>,
}

impl Described {
    /// The pack of the object, if it is worth reading its index.
    async fn pack(&self, context: &Context, url: &Location, tuning: Tuning) -> Option<Pack> {
        let bytes = tuning.bytes_wanted.min(self.geometry.length());
        let manifest = self.manifest.as_ref()?;
        remote::pack::open(context, manifest, (&self.place, url), bytes).await
    }
}

fn check_size(options: &ReadOptions, geometry: &Geometry) -> Result<(), Error> {
    let bytes = geometry.length();
    match options.max_size.is_some_and(|most| bytes > most) {
        true => Err(Error::TooLarge {
            place: options.url.to_string(),
            bytes,
        }),
        false => Ok(()),
    }
}

/// An object that the root alone proves, if this is one.
fn small(options: &ReadOptions) -> Result<Option<Described>, Error> {
    let length = options.length.filter(|length| *length <= SMALL_BYTES_MAX);
    let geometry = length.and_then(|length| Geometry::new(length, BlockSize::DEFAULT));
    let (Some(root), Some(geometry)) = (options.root, geometry) else {
        return Ok(None);
    };
    let trust = conditions(options).without_manifest(&[]);
    Ok(Some(Described {
        root,
        geometry,
        trust: trust.map_err(|cause| trust::refused(&options.url.to_string(), cause))?,
        place: ManifestPlace::Nowhere,
        manifest: None,
    }))
}

async fn described(
    context: &Context,
    options: &ReadOptions,
    events: &mut dyn Events,
) -> Result<Described, Error> {
    let opened = reported(events, open_manifest(context, options)).await;
    let (manifest, place) = opened?;
    let conditions = conditions(options);
    let trust = trust::check(&context.store, &conditions, manifest.front(), events).await?;
    let (root, geometry) = (manifest.header().root, manifest.header().geometry);
    if options
        .length
        .is_some_and(|length| length != geometry.length())
    {
        return Err(Error::Manifest {
            place: place.to_string(),
            cause: Refused::Geometry,
        });
    }
    Ok(Described {
        root,
        geometry,
        trust,
        place,
        manifest: Some(manifest),
    })
}

fn provenance(options: &ReadOptions) -> Provenance {
    Provenance {
        origin: Some(options.url.origin()),
        url: Some(options.url.to_string()),
        key_id: options.key.as_ref().map(PublicKey::id_hex),
        name: options.url.safe_name(),
    }
}

fn conditions(options: &ReadOptions) -> Conditions {
    let of_url = || options.url.last_segment().unwrap_or_default();
    Conditions {
        root: options.root,
        digests: Vec::new(),
        key: options.key.clone(),
        name: Some(options.name.clone().unwrap_or_else(of_url)),
        require: options.require,
    }
}

/// Opens the manifest where the user says it is, or beside the first source that has one.
async fn open_manifest(
    context: &Context,
    options: &ReadOptions,
) -> Result<(OpenManifest, ManifestPlace), Error> {
    let beside = |url: &Location| ManifestPlace::Beside(url.of_manifest());
    if let Some(place) = &options.manifest {
        let manifest = OpenManifest::open(context, place, &context.limits_now()).await?;
        return Ok((manifest, place.clone()));
    }
    let limits = remote::limits(context, !options.mirrors.is_empty());
    let place = beside(&options.url);
    let first = OpenManifest::open(context, &place, &limits).await;
    let error = match first {
        Ok(manifest) => return Ok((manifest, place)),
        Err(error) => error,
    };
    for mirror in &options.mirrors {
        let place = beside(mirror);
        if let Ok(manifest) = OpenManifest::open(context, &place, &limits).await {
            return Ok((manifest, place));
        }
    }
    Err(error)
}

impl SharedObject {
    /// The name of the object.
    pub fn root(&self) -> Root {
        self.info.root
    }

    /// What its bytes are proven against.
    pub fn trust(&self) -> Trust {
        self.info.trust
    }

    /// Where its blocks are, as the manifest declares; [`SharedObject::proven_length`] is proven.
    pub fn geometry(&self) -> &Geometry {
        self.handle.shared.geometry()
    }

    /// The length, as soon as it is proven: at once if the statement is signed, else when the last block is proven. An attempt
    /// that fails is an error; the next call tries again.
    pub async fn proven_length(&self) -> Result<u64, Arc<Error>> {
        self.handle.shared.proven_length().await
    }

    /// Keeps at most so many bytes in memory from now on, beside the blocks that readers need.
    pub fn limit_memory(&self, bytes: u64) {
        self.handle.shared.limit_memory(bytes);
    }

    /// A reader of these bytes in order; bytes after the end of the object are left out.
    pub fn reader(&self, bytes: ByteRange) -> Reader {
        let end = bytes.end.min(self.geometry().length());
        let bytes = ByteRange::new(bytes.start.min(end), end);
        Reader::new(self.handle.clone(), bytes)
    }

    /// What is here of the object, and who reads it.
    pub fn state(&self) -> ObjectState {
        let shared = &self.handle.shared;
        let (proven, wrong, readers, length_proven) = shared.snapshot();
        let blocks = wrong.iter().map(|wrong| wrong.block);
        ObjectState {
            blocks: state::ranges(&proven, &shared.cache.held(), blocks),
            wrong,
            readers,
            bytes_fetched: self.info.context.client.bytes_fetched(),
            sources: self.info.sources.clone(),
            length_proven,
        }
    }
}
