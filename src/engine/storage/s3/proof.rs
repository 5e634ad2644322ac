//! Proof by reading back: the object that the service joined is read once, and is what its manifest says.

use std::{fs::File, path::PathBuf, sync::Arc};

use futures_util::stream::{self, StreamExt};
use parking_lot::Mutex;
use sha2::Digest as _;

use crate::{
    disk::{files, regions, temporary},
    engine::{
        blocking,
        context::Context,
        create::Described,
        error::Error,
        remote::{
            retry::Attempts,
            source::{Extent, Source, SourceRequest},
        },
        upload::{
            content::{Counters, Stored, StoredContent},
            describe::{DescribedPart, PartDescriber},
        },
    },
    format::{
        digests::{Algorithm, Digest},
        geometry::{ByteRange, Geometry},
        manifest::{Particulars, Tree},
        statement,
        tree::{Cv, Root},
        upload::Sha256,
        validators::Validators,
    },
    net::{error::NetError, location::Location, request::Body},
    policy::{parts::PartPlan, recovery::Failure},
};

use super::calls::AT_ONCE;

/// Bytes that are collected before they are hashed together.
const STEP_BYTES: usize = 1 << 20;
/// The longest object whose manifest has hints: that of a longer one would be more than S3 takes in one request.
const HINTS_BYTES_MAX: u64 = 1 << 40;

/// What was read.
pub struct ReadBack {
    pub described: Described,
    /// Of each part, in order.
    pub parts: Vec<Sha256>,
    /// Of the object, if it was wanted.
    pub sha256: Option<Sha256>,
}

/// An object to read.
pub struct Reader<'a> {
    pub context: &'a Context,
    pub place: &'a Location,
    pub etag: &'a str,
    /// With the length of the object.
    pub plan: PartPlan,
}

/// Hashes all bytes in order.
type Whole = Arc<Mutex<sha2::Sha256>>;

/// What hashes one part on threads that may block.
struct Hashing {
    describer: PartDescriber,
    whole: Option<Whole>,
}

impl Hashing {
    async fn take(mut self, step: Vec<u8>) -> Hashing {
        blocking::run(move || {
            self.describer.update(&step);
            if let Some(whole) = &self.whole {
                whole.lock().update(&step);
            }
            self
        })
        .await
    }
}

impl Reader<'_> {
    /// Reads all of it. `sha256`: that of the object is wanted, so that its parts are read one after the other.
    pub async fn read(&self, sha256: bool) -> Result<ReadBack, Error> {
        let length = self.plan.length().unwrap_or_default();
        let geometry = Geometry::new(length, self.plan.block_size());
        let geometry = geometry.ok_or_else(|| Error::TooManyBlocks {
            place: self.place.to_string(),
        })?;
        let whole: Option<Whole> = sha256.then(Arc::default);
        let hints = length <= HINTS_BYTES_MAX;
        let mut spool = blocking::on_disk(temporary::spool).await?;
        let (mut leaves, mut anchors, mut sums) = (Vec::new(), Vec::new(), Vec::new());
        let mut spooled = 0;
        let count = self.plan.count().unwrap_or_default();
        let parts = (0..count).map(|index| self.part(index, whole.clone()));
        let parts: Vec<_> = parts.collect();
        let mut parts = stream::iter(parts).buffered(if sha256 { 1 } else { AT_ONCE });
        while let Some(part) = parts.next().await {
            let part = part?;
            sums.push(part.sha256);
            leaves.extend(part.leaves);
            if hints {
                anchors.extend(part.anchors);
                let at = spooled;
                spooled += part.pieces.len() as u64;
                spool = blocking::on_disk(move || {
                    files::write_at(&spool.0, &spool.1, &part.pieces, at)?;
                    Ok(spool)
                })
                .await?;
            }
        }
        let (file, path) = spool;
        Ok(ReadBack {
            described: Described {
                tree: Tree::new(geometry, leaves, hints.then_some(anchors)),
                digests: Vec::new(),
                pieces: hints.then_some((file, path, spooled)),
                pack: None,
            },
            parts: sums,
            sha256: whole.map(|whole| Sha256(whole.lock().clone().finalize().into())),
        })
    }

    /// Reads one part. After a break only the missing bytes are requested.
    async fn part(&self, index: u32, whole: Option<Whole>) -> Result<DescribedPart, Error> {
        let range = self.plan.part(index).unwrap_or(ByteRange::new(0, 0));
        let is_whole = self.plan.is_whole(index, range.length());
        let mut hashing = Hashing {
            describer: PartDescriber::new(range.start, self.plan.block_size()),
            whole,
        };
        let limits = self.context.limits_now();
        let mut attempts = Attempts::new(&limits);
        loop {
            let at = range.start + hashing.describer.length();
            if at >= range.end {
                break;
            }
            let read = self.read_on(ByteRange::new(at, range.end), hashing).await;
            hashing = read.0;
            let Err(error) = read.1 else { continue };
            if range.start + hashing.describer.length() > at {
                attempts.progress();
            }
            attempts.wait_after(error).await?;
        }
        Ok(blocking::run(move || hashing.describer.finish(is_whole)).await)
    }

    async fn read_on(&self, range: ByteRange, hashing: Hashing) -> (Hashing, Result<(), NetError>) {
        let connections = &self.context.connections;
        let _admitted = connections.admit(&self.context.client, self.place).await;
        let version = Validators {
            etag: Some(self.etag.to_owned()),
            last_modified: None,
        };
        let request = SourceRequest {
            range: Some(range),
            version: Some(&version),
            ..SourceRequest::default()
        };
        let source = Source::http(&self.context.client, self.place);
        let mut response = match source.open(request).await {
            Ok(response) => response,
            Err(error) => return (hashing, Err(error)),
        };
        if matches!(response.extent(), Extent::Whole { .. }) {
            response.skip_to(range.start);
        }
        let (mut hashing, mut step, mut at) = (hashing, Vec::new(), range.start);
        let read = loop {
            match response.next().await {
                Ok(Some((_, chunk))) => {
                    let wanted = (range.end - at).min(chunk.len() as u64) as usize;
                    step.extend_from_slice(&chunk[..wanted]);
                    at += wanted as u64;
                }
                Ok(None) => break Err(NetError::new(self.place, Failure::Broken)),
                Err(error) => break Err(error),
            }
            if at == range.end {
                break Ok(());
            }
            if step.len() >= STEP_BYTES {
                hashing = hashing.take(std::mem::take(&mut step)).await;
            }
        };
        (hashing.take(step).await, read)
    }
}

/// The manifest of an object whose leaves its client knows. `name`: that of the object.
pub async fn manifest_of(
    name: &str,
    geometry: Geometry,
    leaves: Vec<Cv>,
) -> Result<(Root, Spooled), Error> {
    let read = ReadBack {
        described: Described {
            tree: Tree::new(geometry, leaves, None),
            digests: Vec::new(),
            pieces: None,
            pack: None,
        },
        parts: Vec::new(),
        sha256: None,
    };
    let root = read.root();
    Ok((root, read.manifest(name, None).await?))
}

/// A manifest that is complete, outside of memory.
pub struct Spooled {
    pub body: Body,
    pub sha256: Sha256,
}

impl ReadBack {
    pub fn root(&self) -> Root {
        self.described.tree.root()
    }

    /// The manifest of the object. `name`: that of the object; `sha256`: proven.
    pub async fn manifest(self, name: &str, sha256: Option<Sha256>) -> Result<Spooled, Error> {
        let last = name.rsplit('/').next().unwrap_or_default();
        let digest = sha256.and_then(|sha256| {
            let value = sha256.0.to_vec();
            Digest::new(Algorithm::Sha256, value).ok()
        });
        let particulars = Particulars {
            name: statement::default_name(last),
            digests: digest.into_iter().collect(),
            ..Particulars::default()
        };
        blocking::run(move || spool(&self.described, particulars)).await
    }
}

fn spool(described: &Described, particulars: Particulars) -> Result<Spooled, Error> {
    let (file, path): (File, PathBuf) = temporary::spool()?;
    let length = described.write(particulars, None, &file, &path)?;
    let bytes = ByteRange::new(0, length);
    let mut hasher = sha2::Sha256::new();
    regions::copy(&file, &path, bytes, |bytes| {
        hasher.update(bytes);
        Ok::<(), Error>(())
    })?;
    let stored = Stored {
        file: Arc::new(file),
        path: path.into(),
        bytes,
    };
    let content = StoredContent::new(stored, &[bytes], &Counters::default());
    Ok(Spooled {
        body: Body::Content(Arc::new(content)),
        sha256: Sha256(hasher.finalize().into()),
    })
}
