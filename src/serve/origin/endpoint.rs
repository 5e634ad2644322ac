//! What belongs to a file beside its bytes: its manifest, and a description in JSON for programs that know no manifests
//! (manifest-spec/http.md).

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use axum::{
    body::Bytes,
    http::{HeaderValue, StatusCode, request::Parts},
    response::Response,
};
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use crate::{
    disk::{
        error::{DiskError, FileOperation},
        files::{EntryKind, Version},
        reading,
    },
    engine::{blocking, manifest_file},
    format::{
        geometry::ByteRange,
        layout::FRONT_BYTES,
        signature::SignatureArea,
        statement::{self, Statement},
    },
    serve::representation::{self, Metadata, Representation},
};

use super::{
    Origin,
    cache::Kind,
    files::{self, ServedFile},
    manifests::{self, Described},
    not_ready, path, segments, status,
};

/// How long a request waits for what is being made. Our client takes 10 s without a byte as a stall, and repeats a request for a manifest
/// that failed for 10 s: in two requests it waits about 17 s.
pub const WAIT: Duration = Duration::from_secs(8);
/// Bytes of a SHA-256 digest.
const DIGEST_BYTES: usize = 32;

/// The manifest that lies beside a file.
struct Beside {
    file: File,
    version: Version,
    /// `None`: it is no manifest, but another file that has this name.
    front: Option<(Statement, SignatureArea)>,
    /// It begins like a manifest.
    is_manifest: bool,
}

impl Beside {
    /// Whether it can be of the file in this version; `known`: what is known of that.
    fn fits(&self, object: &Version, known: Option<&Described>) -> bool {
        match &self.front {
            Some((statement, _)) => {
                let header = statement.header();
                header.geometry.length() == object.stamp().length
                    && known.is_none_or(|known| known.root == header.root)
            }
            None => !self.is_manifest,
        }
    }
}

impl Origin {
    /// The response for `object.sapwood`: the manifest that lies beside the object, if it fits the object as it is now, else one that
    /// was made here.
    pub(super) async fn manifest(
        &self,
        request: &Parts,
        object: PathBuf,
        beside: Option<(File, Version)>,
    ) -> Result<Response, DiskError> {
        let mut beside = match beside {
            Some((file, version)) => Some(read_beside(file, version).await?),
            None => None,
        };
        let place = manifest_file::beside(&object);
        let serve = |beside: Beside| {
            let file = ServedFile::object(beside.file, beside.version, &place, None);
            file.respond(request)
        };
        let missing = StatusCode::NOT_FOUND;
        let until = Instant::now() + WAIT;
        loop {
            let is_file = |(_, version): &(File, Version)| version.kind() == EntryKind::Regular;
            let opened = self.open_settled(&object).await?.filter(is_file);
            let (Some((_, version)), Some(manifests)) = (opened, &self.manifests) else {
                return Ok(beside.map_or_else(|| status(missing), serve));
            };
            let ended = manifests.next_end();
            let known = manifests.known(&object, &version);
            if let Some(fits) = beside.take_if(|beside| beside.fits(&version, known.as_deref())) {
                return Ok(serve(fits));
            }
            if let Some(known) = known {
                let made = manifests.open(Kind::Manifest, known.version).await;
                if let Some((file, made)) = made {
                    return Ok(ServedFile::manifest(file, made, &known).respond(request));
                }
            }
            manifests.request(&object);
            if timeout_at(until, ended).await.is_err() {
                return Ok(not_ready());
            }
        }
    }

    /// The response for `object.sapwood.json`.
    pub(super) async fn segments(
        &self,
        request: &Parts,
        object: PathBuf,
    ) -> Result<Response, DiskError> {
        let until = Instant::now() + WAIT;
        loop {
            let is_file = |(_, version): &(File, Version)| version.kind() == EntryKind::Regular;
            let opened = self.open_settled(&object).await?.filter(is_file);
            let (Some((_, version)), Some(manifests)) = (opened, &self.manifests) else {
                return Ok(status(StatusCode::NOT_FOUND));
            };
            let ended = manifests.next_end();
            match manifests.known(&object, &version) {
                None => manifests.request(&object),
                Some(known) => match manifests.open(Kind::Segments, known.version).await {
                    None => manifests.request_segments(&object),
                    Some((file, made)) => {
                        let length = made.stamp().length;
                        let digests = read(file, made, ByteRange::new(0, length)).await?;
                        let signed = self.signature_beside(&object, &known).await?;
                        let document = document(&object, &known, &digests, signed.as_ref());
                        return Ok(representation::respond(request, document));
                    }
                },
            }
            if timeout_at(until, ended).await.is_err() {
                return Ok(not_ready());
            }
        }
    }

    /// The statement and signature of the manifest beside a file, if it is one of this file.
    async fn signature_beside(
        &self,
        object: &Path,
        known: &Described,
    ) -> Result<Option<(Statement, SignatureArea)>, DiskError> {
        let place = manifest_file::beside(object);
        let is_file = |(_, version): &(File, Version)| version.kind() == EntryKind::Regular;
        let Some((file, version)) = self.open_beneath(&place).await?.filter(is_file) else {
            return Ok(None);
        };
        let beside = read_beside(file, version).await?;
        let fits = beside.fits(&known.version, Some(known));
        Ok(beside.front.filter(|_| fits))
    }
}

async fn read_beside(file: File, version: Version) -> Result<Beside, DiskError> {
    let length = version.stamp().length.min(FRONT_BYTES as u64);
    let kept = file.try_clone().map_err(failed)?;
    let front = read(kept, version, ByteRange::new(0, length)).await?;
    let read = statement::read_front(&front);
    Ok(Beside {
        file,
        version,
        is_manifest: !matches!(read, Err(statement::Refused::NotAManifest)),
        front: read.ok(),
    })
}

async fn read(file: File, version: Version, bytes: ByteRange) -> Result<Vec<u8>, DiskError> {
    let read = blocking::run(move || reading::read(&file, &version, bytes)).await;
    read.map_err(failed)
}

fn failed(cause: io::Error) -> DiskError {
    DiskError::io(FileOperation::Read, Path::new("a manifest"), cause)
}

/// The description of a file.
fn document(
    object: &Path,
    known: &Described,
    digests: &[u8],
    beside: Option<&(Statement, SignatureArea)>,
) -> Document {
    let length = known.version.stamp().length;
    let size = segments::bytes_of_each(length);
    let segments: Vec<Value> = digests
        .chunks(DIGEST_BYTES)
        .zip(0..)
        .map(|(digest, index)| {
            let start = index * size;
            let length = size.min(length.saturating_sub(start));
            json!({ "offset": start, "length": length, "sha-256": hex::encode(digest) })
        })
        .collect();
    let key = beside.and_then(|(_, signature)| signature.minisign());
    let key_id = key.map(|signature| signature.key_id_hex());
    let sequence = beside.map(|(statement, _)| statement.header().sequence);
    let (seconds, nanoseconds) = known.version.stamp().changed;
    let version = format!("{seconds}.{nanoseconds:09}");
    let description = json!({
        "name": object.file_name().unwrap_or_default().to_string_lossy(),
        "length": length,
        "root": known.root.to_string(),
        "sha-256": known.sha256.as_ref().map(hex::encode),
        "etag": format!("\"{}\"", known.root),
        "last_modified": time(&known.version),
        "version": version,
        "sequence": sequence.filter(|sequence| *sequence > 0),
        "manifest": format!("{}.sapwood", path::url_path(object)),
        "signed": key_id.is_some(),
        "key_id": key_id,
        "block_size": known.block_size.bytes(),
        "segment_size": size,
        "segments": segments,
    });
    // The name and the paths belong to the URL; all other members change with one of these.
    let statement = beside.map_or_else(String::new, |(statement, _)| {
        manifests::checksum(statement)[..16].to_owned()
    });
    let key = description["key_id"].as_str().unwrap_or_default();
    let etag = format!("\"{}-{version}-{statement}-{key}\"", known.root);
    Document::new(description.to_string(), etag, &known.version)
}

/// When a file was modified, as RFC 3339 has it, in whole seconds.
pub fn time(version: &Version) -> Option<String> {
    let time = Timestamp::from_second(version.stamp().changed.0).ok()?;
    Some(time.to_string())
}

/// JSON in memory.
struct Document {
    bytes: Bytes,
    metadata: Metadata,
}

impl Document {
    fn new(text: String, etag: String, version: &Version) -> Document {
        Document {
            metadata: Metadata {
                length: text.len() as u64,
                etag,
                last_modified: Some(files::modified(version)),
                media_type: HeaderValue::from_static("application/json"),
            },
            bytes: text.into(),
        }
    }
}

impl Representation for Document {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn body(&self, bytes: ByteRange) -> BoxStream<'static, io::Result<Bytes>> {
        let bytes = self.bytes.slice(bytes.start as usize..bytes.end as usize);
        stream::iter([Ok(bytes)]).boxed()
    }
}
