//! Objects of which only manifest and whole pack are in the folder.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{body::Bytes, http::request::Parts, response::Response};
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use parking_lot::Mutex;

use crate::{
    disk::{
        error::DiskError,
        files::{EntryKind, Version},
    },
    engine::{blocking, manifest_file, pack, packed_object::PackedObject},
    format::geometry::ByteRange,
    serve::{
        media_types,
        representation::{self, Metadata, Representation},
    },
};

use super::{Origin, files};

/// Open objects that are kept for the next request.
const OPEN_MAX: usize = 16;

/// The objects that were requested last. Opening one reads its manifest.
#[derive(Default)]
pub struct PackedObjects {
    recent: Mutex<VecDeque<Opened>>,
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
    metadata: Metadata,
}

impl Representation for PackedFile {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn body(&self, bytes: ByteRange) -> BoxStream<'static, io::Result<Bytes>> {
        let object = self.object.clone();
        stream::try_unfold(bytes.start, move |start| {
            let object = object.clone();
            async move {
                if start == bytes.end {
                    return Ok(None);
                }
                let mut piece =
                    blocking::run(move || object.read(start))
                        .await
                        .map_err(|cause| {
                            tracing::warn!("{cause}");
                            io::Error::other(cause)
                        })?;
                piece.truncate((bytes.end - start).min(piece.len() as u64) as usize);
                let end = start + piece.len() as u64;
                Ok(Some((piece, end)))
            }
        })
        .boxed()
    }
}
