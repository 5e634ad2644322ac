//! Objects of which only manifest and whole pack are in the folder.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    num::NonZero,
    path::{Path, PathBuf},
    sync::Arc,
    thread::available_parallelism,
};

use axum::{body::Bytes, http::request::Parts, response::Response};
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::{
    disk::{
        error::DiskError,
        files::{EntryKind, Version},
    },
    engine::{blocking, manifest_file, pack, packed_object::PackedObject},
    format::{geometry::ByteRange, tree::Root},
    serve::{
        media_types,
        representation::{self, Metadata, Representation},
    },
};

use super::{Origin, files};

/// Open objects that are kept for the next request.
const OPEN_MAX: usize = 16;

/// Bytes that are given at a time. A longer unit is not kept for a slow client.
const GIVEN_BYTES_MAX: usize = 1 << 20;

/// The objects that were requested last. Opening one reads its manifest.
pub struct PackedObjects {
    recent: Mutex<VecDeque<Opened>>,
    units: Arc<Units>,
}

/// Decodes units, on as many threads as there are cores.
struct Units {
    decoding: Semaphore,
    /// The one that was decoded last, its object and its first byte: ranges of one request are often in the same.
    last: Mutex<Option<(Root, u64, Bytes)>>,
}

impl Default for PackedObjects {
    fn default() -> PackedObjects {
        let cores = available_parallelism().map_or(1, NonZero::get);
        PackedObjects {
            recent: Mutex::default(),
            units: Arc::new(Units {
                decoding: Semaphore::new(cores),
                last: Mutex::default(),
            }),
        }
    }
}

impl Units {
    /// Bytes of an object from this offset on, at least one and at most so many.
    async fn bytes(&self, object: &Arc<PackedObject>, from: u64, most: u64) -> io::Result<Bytes> {
        let permit = self.decoding.acquire().await.map_err(io::Error::other)?;
        let start = object.unit_at(from);
        let last = self.last.lock().clone();
        let unit = match last {
            Some((root, place, unit)) if (root, place) == (object.root(), start) => unit,
            _ => {
                let of = object.clone();
                let read = blocking::run(move || of.read(start)).await;
                let unit = read.map_err(|cause| {
                    tracing::warn!("{cause}");
                    io::Error::other(cause)
                })?;
                *self.last.lock() = Some((object.root(), start, unit.clone()));
                unit
            }
        };
        drop(permit);
        let within = (from - start) as usize;
        let count = (unit.len() - within).min(most.min(GIVEN_BYTES_MAX as u64) as usize);
        let given = unit.slice(within..within + count);
        Ok(match unit.len() > GIVEN_BYTES_MAX {
            true => Bytes::copy_from_slice(&given),
            false => given,
        })
    }
}

/// What manifest and pack in these versions are.
#[derive(Clone)]
struct Opened {
    path: PathBuf,
    manifest: Version,
    pack: Version,
    /// `None`: nothing that can be sent.
    object: Option<Arc<PackedObject>>,
}

impl PackedObjects {
    fn known(&self, path: &Path, manifest: &Version, pack: &Version) -> Option<Opened> {
        let recent = self.recent.lock();
        let is_same = |version: &Version, other: &Version| {
            version.stamp() == other.stamp()
                && version.attributes_changed() == other.attributes_changed()
        };
        let known = recent.iter().find(|opened| opened.path == path)?;
        (is_same(&known.manifest, manifest) && is_same(&known.pack, pack)).then(|| known.clone())
    }

    fn keep(&self, opened: Opened) {
        let mut recent = self.recent.lock();
        recent.retain(|other| other.path != opened.path);
        recent.push_front(opened);
        recent.truncate(OPEN_MAX);
    }
}

impl Origin {
    /// The response for an object that is not in the folder, from its whole pack; `None`: there is none.
    pub(super) async fn packed(
        &self,
        request: &Parts,
        path: &Path,
    ) -> Result<Option<Response>, DiskError> {
        let beside = manifest_file::beside(path);
        let pack_path = pack::beside(&beside);
        let is_file = |(_, version): &(File, Version)| version.kind() == EntryKind::Regular;
        let Some((pack, pack_version)) = self.open_settled(&pack_path).await?.filter(is_file)
        else {
            return Ok(None);
        };
        let Some((manifest, version)) = self.open_settled(&beside).await?.filter(is_file) else {
            return Ok(None);
        };
        let opened = match self.packed.known(path, &version, &pack_version) {
            Some(known) => known,
            None => {
                let opening = move || {
                    let opened = PackedObject::open((manifest, beside), (pack, pack_path));
                    opened.unwrap_or_else(|cause| {
                        tracing::warn!("{cause}");
                        None
                    })
                };
                let opened = Opened {
                    path: path.to_owned(),
                    manifest: version,
                    pack: pack_version,
                    object: blocking::run(opening).await.map(Arc::new),
                };
                self.packed.keep(opened.clone());
                opened
            }
        };
        Ok(opened.object.map(|object| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let media_type = media_types::of(&name);
            let packed = PackedFile {
                units: self.packed.units.clone(),
                metadata: Metadata {
                    length: object.geometry().length(),
                    etag: format!("\"{}\"", object.root()),
                    last_modified: Some(files::modified(&opened.pack)),
                    media_type: media_type.clone(),
                },
                object,
            };
            files::isolated(representation::respond(request, packed), &media_type)
        }))
    }
}

struct PackedFile {
    object: Arc<PackedObject>,
    units: Arc<Units>,
    metadata: Metadata,
}

impl Representation for PackedFile {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn body(&self, bytes: ByteRange) -> BoxStream<'static, io::Result<Bytes>> {
        let (object, units) = (self.object.clone(), self.units.clone());
        stream::try_unfold(bytes.start, move |start| {
            let (object, units) = (object.clone(), units.clone());
            async move {
                if start == bytes.end {
                    return Ok(None);
                }
                let given = units.bytes(&object, start, bytes.end - start).await?;
                let end = start + given.len() as u64;
                Ok(Some((given, end)))
            }
        })
        .boxed()
    }
}
