//! A file as a representation.

use std::{
    fs::File,
    io,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderValue, Version as HttpVersion, header, request::Parts},
    response::Response,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};

use crate::{
    disk::{files::Version, reading},
    engine::blocking,
    format::geometry::ByteRange,
    serve::{
        media_types,
        representation::{self, Metadata, Representation},
    },
};

use super::manifests::Described;

/// Bytes that are read from a file at a time. A connection has one response in HTTP/1.1, and many in HTTP/2.
const READ_BYTES: u64 = 128 * 1024;
const READ_BYTES_OF_STREAM: u64 = 32 * 1024;
/// Media types that a browser runs scripts of. All files have one origin in it, so that the script of one could read the others.
const ACTIVE: [&str; 2] = ["html", "xml"];

/// An open file, in the version that the header section describes.
pub struct ServedFile {
    file: Arc<File>,
    version: Version,
    metadata: Metadata,
    /// `Repr-Digest` (RFC 9530).
    digest: Option<HeaderValue>,
    /// The entity tag that it had before its root was known. A client that has it goes on with it.
    earlier_tag: Option<String>,
    /// Takes the place of the first bytes of the file.
    front: Bytes,
    read_bytes: u64,
}

impl ServedFile {
    /// A file of the user.
    pub fn object(
        file: File,
        version: Version,
        path: &Path,
        described: Option<&Described>,
    ) -> ServedFile {
        let own_tag = tag_of(&version);
        let (etag, earlier_tag) = match described {
            Some(described) => (format!("\"{}\"", described.root), Some(own_tag)),
            None => (own_tag, None),
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let mut file = ServedFile::new(file, version, etag, media_types::of(&name));
        file.earlier_tag = earlier_tag;
        file.digest = described.and_then(|described| repr_digest(described.sha256.as_deref()?));
        file
    }

    /// A manifest that was made here, in the version of the file that it describes.
    pub fn manifest(file: File, version: Version, of: &Described) -> ServedFile {
        let media_type = HeaderValue::from_static("application/octet-stream");
        let mut file = ServedFile::new(file, version, of.manifest_tag.clone(), media_type);
        file.metadata.last_modified = Some(modified(&of.version));
        file
    }

    /// A file of the library that was made here.
    pub fn of_library(file: File, version: Version, etag: String) -> ServedFile {
        let media_type = HeaderValue::from_static("application/octet-stream");
        ServedFile::new(file, version, etag, media_type)
    }

    /// With these bytes instead of as many at the start of the file.
    pub fn with_front(self, front: Vec<u8>) -> ServedFile {
        ServedFile {
            front: front.into(),
            ..self
        }
    }

    fn new(file: File, version: Version, etag: String, media_type: HeaderValue) -> ServedFile {
        ServedFile {
            file: Arc::new(file),
            version,
            metadata: Metadata {
                length: version.stamp().length,
                etag,
                last_modified: Some(modified(&version)),
                media_type,
            },
            digest: None,
            earlier_tag: None,
            front: Bytes::new(),
            read_bytes: READ_BYTES,
        }
    }

    /// The response to a GET or HEAD.
    pub fn respond(mut self, request: &Parts) -> Response {
        if let Some(tag) = self.earlier_tag.take_if(|tag| names(&request.headers, tag)) {
            self.metadata.etag = tag;
        }
        if request.version == HttpVersion::HTTP_2 {
            self.read_bytes = READ_BYTES_OF_STREAM;
        }
        let digest = self.digest.take();
        let media_type = self.metadata.media_type.clone();
        let mut response = representation::respond(request, self);
        let is_success = response.status().is_success();
        if let Some(digest) = digest.filter(|_| is_success) {
            response.headers_mut().insert("repr-digest", digest);
        }
        isolated(response, &media_type)
    }
}

/// A response with a file of the user of this media type.
pub fn isolated(mut response: Response, media_type: &HeaderValue) -> Response {
    let media_type = media_type.to_str().unwrap_or_default();
    if ACTIVE.iter().any(|active| media_type.contains(active)) {
        let sandbox = HeaderValue::from_static("sandbox");
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_SECURITY_POLICY, sandbox);
    }
    response
}

/// Whether a condition of the request has this entity tag.
fn names(headers: &HeaderMap, tag: &str) -> bool {
    let conditions = [header::IF_MATCH, header::IF_NONE_MATCH, header::IF_RANGE];
    let mut values = conditions.iter().flat_map(|name| headers.get_all(name));
    values.any(|value| value.to_str().is_ok_and(|value| value.contains(tag)))
}

fn repr_digest(sha256: &[u8]) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("sha-256=:{}:", STANDARD.encode(sha256))).ok()
}

/// When the content was last written.
pub fn modified(version: &Version) -> SystemTime {
    let (seconds, nanoseconds) = version.stamp().changed;
    SystemTime::UNIX_EPOCH + Duration::new(seconds.max(0) as u64, nanoseconds as u32)
}

/// The entity tag of a file whose root is not known: it changes whenever an attribute does. It is weak while the next version may
/// have the same attributes.
pub fn tag_of(version: &Version) -> String {
    let stamp = version.stamp();
    let weak = match version.unsettled().is_zero() {
        true => "",
        false => "W/",
    };
    let ((modified, m_fraction), (changed, c_fraction)) =
        (stamp.changed, version.attributes_changed());
    format!(
        "{weak}\"{:x}-{:x}-{:x}-{modified:x}.{m_fraction:x}-{changed:x}.{c_fraction:x}\"",
        stamp.device, stamp.inode, stamp.length
    )
}

impl Representation for ServedFile {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn body(&self, bytes: ByteRange) -> BoxStream<'static, io::Result<Bytes>> {
        let (file, version, read_bytes) = (self.file.clone(), self.version, self.read_bytes);
        let front = self.front.clone();
        stream::try_unfold(bytes.start, move |start| {
            let (file, front) = (file.clone(), front.clone());
            async move {
                if start == bytes.end {
                    return Ok(None);
                }
                let front_end = bytes.end.min(front.len() as u64);
                if start < front_end {
                    let piece = front.slice(start as usize..front_end as usize);
                    return Ok(Some((piece, front_end)));
                }
                let end = bytes.end.min(start + read_bytes);
                let piece = ByteRange::new(start, end);
                let read = match reading::read_if_cached(&file, &version, piece) {
                    Some(read) => read?,
                    None => blocking::run(move || reading::read(&file, &version, piece)).await?,
                };
                Ok(Some((Bytes::from(read), end)))
            }
        })
        .boxed()
    }
}
