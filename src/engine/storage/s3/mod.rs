//! Uploads to S3 (upload.md, "Staging in S3").
//!
//! Clients send parts to the service itself, by URLs that are signed for the SHA-256 of the part; the service checks it. The parts are
//! joined under a key below the folder with what is staged, read back once, and copied to the name of the object. What a session
//! declared is in the key, so that the bucket is the record of all uploads.

mod append;
mod calls;
mod copy;
mod error;
mod finalize;
mod keys;
mod lists;
mod proof;
mod publish;
mod uploads;

use std::{
    collections::HashMap,
    str::FromStr,
    sync::{Arc, OnceLock},
};

use futures_util::{FutureExt, future::BoxFuture};
use parking_lot::Mutex;

use crate::{
    disk::files::Folder,
    engine::{context::Context, error::Error},
    format::{geometry::Geometry, library::LibraryPath, tree::Cv, upload::Sha256},
    net::{
        location::Location,
        request::{Method, RequiredFields},
        s3::uploads as of_s3,
    },
    policy::upload::{FinishedPart, Goal, Session, Staging},
};

use super::{
    Base, Begun, CopyRange, Destination, Fence, OfferedPart, PartAppender, PartWriter, Recorded,
    Staged, Storage, StorageError, Unfenced, UnknownPart, Verdict,
};
use calls::Calls;
use keys::{EMPTY, Handle, Place};
use publish::Publication;

pub use error::S3Error;

/// A URL of a part is used within this time.
const TARGET_S: u32 = 900;
/// It is signed for longer, because clocks differ.
const SIGNED_S: u32 = 2 * TARGET_S;
/// What is longer is copied in pieces of about this many bytes, several at a time and while it is read back. A service reads and writes
/// the bytes of a copy itself, so that one of 5 GiB, which is the most for S3, takes minutes.
const COPY_BYTES_MAX: u64 = 256 << 20;

/// How the service encrypts what it stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sse {
    /// With keys of the service.
    Aes256,
    /// With a key of its key management.
    Kms {
        /// `None`: the one of the bucket, or of the account.
        key: Option<String>,
    },
}

/// The text names no encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the encryption of S3 is AES256, aws:kms or aws:kms:KEY")]
pub struct NoSse;

impl FromStr for Sse {
    type Err = NoSse;

    fn from_str(text: &str) -> Result<Sse, NoSse> {
        let is_key =
            |key: &&str| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
        match (text, text.strip_prefix("aws:kms:").filter(is_key)) {
            ("AES256", _) => Ok(Sse::Aes256),
            ("aws:kms", _) => Ok(Sse::Kms { key: None }),
            (_, Some(key)) => Ok(Sse::Kms {
                key: Some(key.to_owned()),
            }),
            _ => Err(NoSse),
        }
    }
}

impl Sse {
    fn algorithm(&self) -> &'static str {
        match self {
            Sse::Aes256 => "AES256",
            Sse::Kms { .. } => "aws:kms",
        }
    }

    fn key(&self) -> Option<&str> {
        match self {
            Sse::Kms { key } => key.as_deref(),
            Sse::Aes256 => None,
        }
    }
}

/// How uploads are stored and proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Options {
    /// `None`: as the bucket is configured.
    pub sse: Option<Sse>,
    /// The SHA-256 that the service computed of each part count as proof: the parts are joined under the name of the object, and nothing
    /// is read back or copied. Root and manifest are then the word of the client.
    pub attested: bool,
    /// What is longer is copied in pieces.
    pub copy_bytes_max: u64,
}

impl Default for S3Options {
    fn default() -> S3Options {
        S3Options {
            sse: None,
            attested: false,
            copy_bytes_max: COPY_BYTES_MAX,
        }
    }
}

/// A bucket, or a folder of it, that takes uploads. Its clones share it.
#[derive(Clone)]
pub struct S3Storage(Arc<Shared>);

struct Shared {
    calls: Calls,
    place: Place,
    options: S3Options,
    /// What the service calls the uploads that were used since the start, by handle.
    uploads: Mutex<HashMap<Handle, String>>,
    /// The base that was used last.
    base: Mutex<Option<copy::FoundBase>>,
    /// Where parts of which the client says nothing are collected.
    spool: OnceLock<Folder>,
}

impl S3Storage {
    /// The bucket, or the folder of it.
    pub fn place(&self) -> &Location {
        self.0.place.folder()
    }

    /// `place`: a bucket, or a folder of it. Requests are repeated within the limits of the context.
    pub fn new(
        context: &Context,
        place: &Location,
        options: S3Options,
    ) -> Result<S3Storage, StorageError> {
        let not_in_s3 = || S3Error::NotInS3 {
            place: place.to_string(),
        };
        Ok(S3Storage(Arc::new(Shared {
            calls: Calls::new(context, options.sse.clone()),
            place: Place::new(place).ok_or_else(not_in_s3)?,
            options,
            uploads: Mutex::default(),
            base: Mutex::default(),
            spool: OnceLock::new(),
        })))
    }

    /// Takes parts through this server too, and collects each in a file without a name in this folder.
    pub fn spool_to(&self, folder: Folder) {
        // The first one stays.
        let _ = self.0.spool.set(folder);
    }

    /// Where an object of this name is published.
    pub fn location(&self, name: &LibraryPath) -> Location {
        self.0.place.object(name)
    }

    /// A URL with which whoever has it may read what is under this path: with its content, or by HEAD.
    pub fn url_to_read(
        &self,
        path: &str,
        with_content: bool,
        seconds: u32,
    ) -> Result<String, StorageError> {
        let method = match with_content {
            true => Method::Get,
            false => Method::Head,
        };
        let (client, place) = (&self.0.calls.context().client, self.0.place.below(path));
        let url = client.presigned(method, &place, &RequiredFields::default(), seconds);
        Ok(url.map_err(Error::from)?.url().to_string())
    }
}

/// What the storage calls the upload of a session.
fn handle(session: &Session) -> Result<Handle, StorageError> {
    match &session.staging {
        Staging::Begun(handle) => Handle::parse(handle).ok_or(StorageError::StagingGone),
        Staging::None | Staging::Removed => Err(StorageError::StagingGone),
    }
}

/// The SHA-256 of no bytes.
fn of_nothing() -> Sha256 {
    of_s3::sha256_of(b"")
}

/// The number that S3 gives a part.
fn number(index: u32) -> u32 {
    index + 1
}

impl Shared {
    async fn destinations(
        &self,
        session: &Session,
        parts: &[OfferedPart],
    ) -> Result<Vec<Destination>, StorageError> {
        let handle = handle(session)?;
        let key = self.place.joined(&handle, &session.declared.name);
        let mut all = Vec::with_capacity(parts.len());
        let Some(first) = parts.first() else {
            return Ok(all);
        };
        // A request that is signed shows the region and the time for which URLs are signed.
        let (id, _) = self.upload(session, Some(first.index)).await?;
        let empty = self.place.beside(&handle, EMPTY);
        for part in parts {
            // S3 has no empty parts.
            let (place, upload) = match part.length {
                0 => (&empty, None),
                _ => (&key, Some((id.as_str(), number(part.index)))),
            };
            let signed = self.calls.part_url(place, upload, part.sha256, SIGNED_S);
            let (url, headers) = signed?;
            all.push(Destination::Storage {
                url,
                headers,
                expires_in_s: TARGET_S.into(),
            });
        }
        Ok(all)
    }

    async fn attest(
        &self,
        session: &Session,
        length: u64,
        leaves: &[Cv],
    ) -> Result<(), StorageError> {
        let handle = handle(session)?;
        let (name, plan) = (&session.declared.name, session.declared.plan);
        let geometry = Geometry::new(length, plan.block_size()).filter(|_| handle.attested);
        let Some(geometry) = geometry else {
            return Ok(());
        };
        let (root, manifest) = proof::manifest_of(name.as_str(), geometry, leaves.to_vec()).await?;
        let publication = Publication {
            shared: self,
            session,
            handle: &handle,
            fence: &Unfenced,
        };
        publication.stage_manifest(manifest, root).await
    }

    async fn checkpoint(
        &self,
        session: &Session,
        part: &OfferedPart,
    ) -> Result<FinishedPart, StorageError> {
        let index = part.index;
        let finished = |etag| FinishedPart {
            index,
            length: part.length,
            sha256: part.sha256,
            etag,
        };
        if part.length == 0 {
            return match part.sha256 == of_nothing() {
                true => Ok(finished(None)),
                false => Err(StorageError::PartNotStored { index }),
            };
        }
        let (_, stored) = self.upload(session, Some(index)).await?;
        let stored = stored.into_iter().find(|stored| {
            let is_same = (stored.size, stored.sha256) == (part.length, Some(part.sha256));
            stored.number == number(index) && is_same
        });
        match stored {
            Some(stored) => Ok(finished(Some(stored.etag))),
            None => Err(StorageError::PartNotStored { index }),
        }
    }
}

impl Storage for S3Storage {
    fn is_exclusive(&self) -> bool {
        false
    }

    fn exists<'a>(&'a self, name: &'a LibraryPath) -> BoxFuture<'a, Result<bool, StorageError>> {
        let head = async { Ok(self.0.calls.head(&self.location(name)).await?.is_some()) };
        head.boxed()
    }

    fn begin<'a>(&'a self, session: &'a Session) -> BoxFuture<'a, Result<String, StorageError>> {
        self.0.begin(session).boxed()
    }

    fn destinations<'a>(
        &'a self,
        session: &'a Session,
        parts: &'a [OfferedPart],
    ) -> BoxFuture<'a, Result<Vec<Destination>, StorageError>> {
        self.0.destinations(session, parts).boxed()
    }

    fn receive<'a>(
        &'a self,
        _session: &'a Session,
        _part: &'a OfferedPart,
        _from: u64,
    ) -> BoxFuture<'a, Result<Box<dyn PartWriter>, StorageError>> {
        async { Err(StorageError::NotThroughServer) }.boxed()
    }

    fn copy<'a>(
        &'a self,
        session: &'a Session,
        part: &'a OfferedPart,
        base: &'a Base,
        copies: &'a [CopyRange],
    ) -> BoxFuture<'a, Result<Destination, StorageError>> {
        self.0.copy(session, part, base, copies).boxed()
    }

    fn append<'a>(
        &'a self,
        session: &'a Session,
        part: UnknownPart,
    ) -> BoxFuture<'a, Result<Box<dyn PartAppender>, StorageError>> {
        append::begin(self, session, part).boxed()
    }

    fn checkpoint<'a>(
        &'a self,
        session: &'a Session,
        part: &'a OfferedPart,
        _etag: Option<&'a str>,
    ) -> BoxFuture<'a, Result<FinishedPart, StorageError>> {
        self.0.checkpoint(session, part).boxed()
    }

    fn finalize_fenced<'a>(
        &'a self,
        session: &'a Session,
        parts: &'a [FinishedPart],
        goal: &'a Goal,
        fence: &'a dyn Fence,
    ) -> BoxFuture<'a, Result<Verdict, StorageError>> {
        finalize::run(&self.0, session, parts, goal, fence).boxed()
    }

    fn remove<'a>(&'a self, staged: &'a Staged) -> BoxFuture<'a, Result<(), StorageError>> {
        self.0.remove(&staged.handle).boxed()
    }

    fn staged(&self) -> BoxFuture<'_, Result<Vec<Staged>, StorageError>> {
        self.0.staged().boxed()
    }
}

impl Recorded for S3Storage {
    fn uploads<'a>(
        &'a self,
        name: Option<&'a LibraryPath>,
    ) -> BoxFuture<'a, Result<Vec<Begun>, StorageError>> {
        self.0.begun(name).boxed()
    }

    fn finished<'a>(
        &'a self,
        session: &'a Session,
    ) -> BoxFuture<'a, Result<Vec<FinishedPart>, StorageError>> {
        self.0.finished(session).boxed()
    }

    fn has_joined<'a>(
        &'a self,
        session: &'a Session,
        parts: &'a [FinishedPart],
    ) -> BoxFuture<'a, Result<bool, StorageError>> {
        let look = async {
            let handle = handle(session)?;
            let key = self.0.place.joined(&handle, &session.declared.name);
            let found = self.0.calls.head(&key).await?;
            let sums = parts.iter().map(|part| part.sha256);
            let sum = found.and_then(|found| found.sha256);
            Ok(sum.is_some_and(|sum| sum == of_s3::composite(sums)))
        };
        look.boxed()
    }

    fn attest<'a>(
        &'a self,
        session: &'a Session,
        length: u64,
        leaves: &'a [Cv],
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        self.0.attest(session, length, leaves).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encryptions() {
        let kms = |key: Option<&str>| Sse::Kms {
            key: key.map(str::to_owned),
        };
        for (text, sse) in [
            ("AES256", Ok(Sse::Aes256)),
            ("aws:kms", Ok(kms(None))),
            (
                "aws:kms:arn:aws:kms:x:1:key/a",
                Ok(kms(Some("arn:aws:kms:x:1:key/a"))),
            ),
            ("aws:kms:", Err(NoSse)),
            ("aws:kms:a b", Err(NoSse)),
            ("aes256", Err(NoSse)),
        ] {
            assert_eq!(text.parse(), sse, "{text}");
        }
    }
}
