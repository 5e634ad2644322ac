//! Giving a proven object and its manifest their names, once.

use std::fmt;

use bytes::Bytes;

use crate::{
    engine::storage::{Fence, StorageError, Verdict},
    format::{geometry::ByteRange, tree::Root},
    net::{
        location::Location,
        s3::uploads::{StoredPart, sha256_of},
    },
    policy::upload::{Disproved, Goal, Published, Session},
};

use super::{
    Shared,
    calls::{Answer, Found, Meta, plain},
    error::{code, is_condition},
    keys::{COPY, Handle, MANIFEST, PUBLISHED},
    of_nothing,
    proof::Spooled,
};

/// The time until the next look at what another request changed meanwhile, in seconds.
const BUSY_S: u64 = 1;

/// A staged object that is proven.
pub struct Proven {
    pub length: u64,
    /// Of the staged object; of an empty one there is none.
    pub etag: String,
    pub root: Root,
}

/// What is published.
pub struct Content {
    pub object: Proven,
    pub manifest: Spooled,
}

/// The publication of one upload.
pub struct Publication<'a> {
    pub shared: &'a Shared,
    pub session: &'a Session,
    pub handle: &'a Handle,
    pub fence: &'a dyn Fence,
}

/// What came of a copy.
enum Copied {
    Done,
    /// Something else has the name.
    NameExists,
}

impl Publication<'_> {
    fn object(&self) -> Location {
        self.shared.place.object(&self.session.declared.name)
    }

    fn staged(&self) -> Location {
        let name = &self.session.declared.name;
        self.shared.place.staged(self.handle, name)
    }

    fn beside(&self, end: &str) -> Location {
        self.shared.place.beside(self.handle, end)
    }

    fn meta(&self, root: Option<Root>) -> Meta<'_> {
        let handle = self.handle;
        Meta { handle, root }
    }

    /// Whether this upload published what has the name.
    pub fn is_mine(&self, found: &Found) -> bool {
        found.is_of(self.handle)
    }

    /// What this upload published before, whatever has the name now.
    pub async fn published(&self) -> Result<Option<Published>, StorageError> {
        let calls = &self.shared.calls;
        let found = calls.head(&self.object()).await?;
        let mine = found.filter(|found| self.is_mine(found));
        let root = mine.as_ref().and_then(|found| found.root);
        if let (Some(Found { length, .. }), Some(root)) = (&mine, root) {
            let length = *length;
            let published = Published { length, root };
            // After the removal of what was staged nothing of it comes back.
            let staged = self.staged();
            if calls.head(&staged).await?.is_some() {
                self.note(&published).await?;
            }
            self.publish_manifest(root).await?;
            return Ok(Some(published));
        }
        let noted = calls.get(&self.beside(PUBLISHED)).await?;
        let noted = noted.and_then(|noted| read_note(&noted));
        if let (Some(_), Some(published)) = (mine, &noted) {
            // An attested object does not say its root.
            self.publish_manifest(published.root).await?;
        }
        Ok(noted)
    }

    /// Gives it its name.
    pub async fn publish(&self, content: Content, goal: &Goal) -> Result<Verdict, StorageError> {
        let Proven { length, root, .. } = content.object;
        self.stage_manifest(content.manifest, root).await?;
        if length == 0 {
            return self.publish_nothing(root, goal).await;
        }
        let is_new = !goal.replace;
        let copied = match self.is_in_pieces(length) {
            true => self.copy_in_pieces(&content.object, is_new).await?,
            false => self.copy(&content.object, is_new).await?,
        };
        self.copied(copied, Published { length, root }).await
    }

    async fn copied(&self, copied: Copied, published: Published) -> Result<Verdict, StorageError> {
        match copied {
            Copied::Done => self.finish(published).await,
            Copied::NameExists => {
                let name = self.session.declared.name.clone();
                Ok(Verdict::Disproved(Disproved::NameExists(name)))
            }
        }
    }

    /// The object has its name: the rest.
    pub async fn finish(&self, published: Published) -> Result<Verdict, StorageError> {
        self.note(&published).await?;
        self.publish_manifest(published.root).await?;
        Ok(Verdict::Published(published))
    }

    /// Puts the manifest beside what is staged.
    pub async fn stage_manifest(&self, manifest: Spooled, root: Root) -> Result<(), StorageError> {
        let Spooled { body, sha256 } = manifest;
        let (staged, meta) = (self.beside(MANIFEST), self.meta(Some(root)));
        let calls = &self.shared.calls;
        calls
            .put(&staged, meta, (body, sha256), false)
            .await
            .map(drop)
    }

    /// Looks once more whether the object may get its name, right before it does: since the first look it was proven, which takes long.
    /// If it may, the manifest of another object at this name is removed, which would not belong to this one. `is_new`: nothing else may
    /// have the name.
    pub async fn may_take_name(&self, is_new: bool) -> Result<bool, StorageError> {
        let (calls, place) = (&self.shared.calls, &self.shared.place);
        let is_other = |found: Option<Found>| found.is_some_and(|found| !self.is_mine(&found));
        if is_new && is_other(calls.head(&self.object()).await?) {
            return Ok(false);
        }
        let manifest = place.manifest(&self.session.declared.name);
        let is_of_other = is_other(calls.head(&manifest).await?);
        self.fence.check().await?;
        if is_of_other {
            calls.delete(&manifest).await?;
        }
        Ok(true)
    }

    /// Publishes an object without bytes.
    pub async fn publish_nothing(&self, root: Root, goal: &Goal) -> Result<Verdict, StorageError> {
        let is_new = !goal.replace;
        if !self.may_take_name(is_new).await? {
            return self
                .copied(Copied::NameExists, Published { length: 0, root })
                .await;
        }
        let (meta, body) = (self.meta(Some(root)), plain(Bytes::new()));
        let (calls, to) = (&self.shared.calls, self.object());
        let put = calls.put(&to, meta, (body, of_nothing()), is_new).await;
        let put = self.outcome(put, 0, is_new).await?;
        self.copied(put, Published { length: 0, root }).await
    }

    async fn copy(&self, object: &Proven, is_new: bool) -> Result<Copied, StorageError> {
        let (calls, to) = (&self.shared.calls, self.object());
        let key = self.staged();
        let (from, meta) = ((&key, object.etag.as_str()), self.meta(Some(object.root)));
        if !self.may_take_name(is_new).await? {
            return Ok(Copied::NameExists);
        }
        let mut copied = calls.copy(from, &to, meta, is_new).await;
        if let Ok(Answer::Refused(refused)) = &copied
            && code(refused) == "NotImplemented"
            && is_new
        {
            // It copies without conditions only; whether the name is free was looked at just before.
            self.fence.check().await?;
            copied = calls.copy(from, &to, meta, false).await;
        }
        self.outcome(copied, object.length, is_new).await
    }

    /// Whatever the response says, what has the name decides.
    async fn outcome(
        &self,
        done: Result<Answer, StorageError>,
        length: u64,
        is_new: bool,
    ) -> Result<Copied, StorageError> {
        let found = self.shared.calls.head(&self.object()).await?;
        let is_done = matches!(done, Ok(Answer::Done));
        match found {
            Some(found) if self.is_mine(&found) && found.length == length => Ok(Copied::Done),
            // A service that ignores the condition: another upload was later, or at the same time.
            Some(_) if is_new => Ok(Copied::NameExists),
            // It was replaced since.
            Some(found) if is_done && !self.is_mine(&found) => Ok(Copied::Done),
            _ => match done {
                Err(error) => Err(error),
                // Another run published it, or gave it up.
                Ok(Answer::Refused(refused)) if code(&refused) == "NoSuchKey" => {
                    Err(StorageError::StagingGone)
                }
                Ok(Answer::Refused(refused)) if !is_condition(&refused) => Err(refused.into()),
                Ok(_) => Err(StorageError::Busy { after_s: BUSY_S }),
            },
        }
    }

    /// Copies a large object in pieces, several at a time, and joins them.
    async fn copy_in_pieces(&self, object: &Proven, is_new: bool) -> Result<Copied, StorageError> {
        let (calls, to) = (&self.shared.calls, self.object());
        let source = Source {
            length: object.length,
            etag: &object.etag,
            root: Some(object.root),
        };
        for is_first in [true, false] {
            let Some((id, stored)) = self.copy_pieces(&source).await? else {
                // Perhaps they were joined; else the next attempt begins another upload.
                calls.delete(&self.beside(COPY)).await?;
                let unclear = Ok(Answer::Unclear);
                return self.outcome(unclear, object.length, is_new).await;
            };
            if !self.may_take_name(is_new).await? {
                return Ok(Copied::NameExists);
            }
            let joined = calls.complete(&to, &id, &stored, is_new).await;
            match &joined {
                // A piece of which another copy broke is listed, and lost.
                Ok(Answer::Refused(refused)) if is_first && code(refused) == "InvalidPart" => {
                    self.shared.remove_copy(self.handle).await?;
                }
                _ => return self.outcome(joined, object.length, is_new).await,
            }
        }
        Err(StorageError::Busy { after_s: BUSY_S })
    }

    /// Copies a large object ahead of its proof: nothing of it is seen before the pieces are joined.
    pub async fn copy_ahead(&self, source: &Source<'_>) {
        if source.root.is_none() || !self.is_in_pieces(source.length) {
            return;
        }
        if let Err(error) = self.copy_pieces(source).await {
            // What is missing is copied after the proof.
            tracing::debug!("a copy ahead of the proof failed: {error}");
        }
    }

    fn is_in_pieces(&self, length: u64) -> bool {
        length > self.shared.options.copy_bytes_max
    }

    /// The upload at the name of the object, with all pieces of this version of what is staged. `None`: there is no such upload any
    /// more. A note in the staging folder names the upload before it has any bytes, so that it is found again, and removed with the
    /// rest.
    async fn copy_pieces(
        &self,
        source: &Source<'_>,
    ) -> Result<Option<(String, Vec<StoredPart>)>, StorageError> {
        let (calls, to) = (&self.shared.calls, self.object());
        let id = match self.begun_copy(source).await? {
            Some(id) => id,
            None => {
                let meta = self.meta(source.root);
                let id = calls.create_for_copies(&to, meta).await?.upload_id;
                let text = Copy {
                    id: id.clone(),
                    key: self.shared.place.key(&self.session.declared.name),
                    etag: source.etag.to_owned(),
                    root: source.root,
                }
                .to_string();
                let content = (plain(Bytes::from(text.clone())), sha256_of(text.as_bytes()));
                calls
                    .put(&self.beside(COPY), self.meta(None), content, false)
                    .await?;
                // Another run may have noted one in the same moment: the later note is that of both.
                match self.begun_copy(source).await? {
                    Some(noted) if noted != id => {
                        calls.abort(&to, &id).await?;
                        noted
                    }
                    _ => id,
                }
            }
        };
        let Some(have) = calls.parts(&to, &id, 0, false).await? else {
            return Ok(None);
        };
        let most = self.shared.options.copy_bytes_max;
        let pieces = pieces(source.length, most, self.session.declared.plan.part_size());
        let lacks = |(number, bytes): &(u32, ByteRange)| {
            let is_it = |part: &StoredPart| (part.number, part.size) == (*number, bytes.length());
            !have.iter().any(is_it)
        };
        let from = (&self.staged(), source.etag);
        let left = pieces.clone().filter(lacks);
        calls.copy_parts(from, &to, &id, left).await?;
        let stored = calls.parts(&to, &id, 0, false).await?.unwrap_or_default();
        let sizes = stored.iter().map(|part| (part.number, part.size));
        match sizes.eq(pieces.map(|(number, bytes)| (number, bytes.length()))) {
            true => Ok(Some((id, stored))),
            false => Err(StorageError::Busy { after_s: BUSY_S }),
        }
    }

    /// The upload to which an earlier attempt copied this version. One of another version is given up.
    async fn begun_copy(&self, source: &Source<'_>) -> Result<Option<String>, StorageError> {
        let noted = self.shared.calls.get(&self.beside(COPY)).await?;
        let Some(copy) = noted.and_then(|noted| Copy::parse(&noted)) else {
            return Ok(None);
        };
        if (copy.etag.as_str(), copy.root) == (source.etag, source.root) {
            return Ok(Some(copy.id));
        }
        self.shared.remove_copy(self.handle).await?;
        Ok(None)
    }

    async fn note(&self, published: &Published) -> Result<(), StorageError> {
        let Published { length, root } = published;
        let text = format!("{root} {length}\n");
        let content = (plain(Bytes::from(text.clone())), sha256_of(text.as_bytes()));
        let meta = self.meta(Some(*root));
        let (calls, note) = (&self.shared.calls, self.beside(PUBLISHED));
        calls.put(&note, meta, content, false).await.map(drop)
    }

    /// Gives the manifest its name, if there is one and the object still has its own.
    async fn publish_manifest(&self, root: Root) -> Result<(), StorageError> {
        let calls = &self.shared.calls;
        let to = self.shared.place.manifest(&self.session.declared.name);
        let there = calls.head(&to).await?;
        if there.is_some_and(|there| self.is_mine(&there)) {
            return Ok(());
        }
        let staged = self.beside(MANIFEST);
        let Some(found) = calls.head(&staged).await? else {
            return Ok(());
        };
        let object = calls.head(&self.object()).await?;
        if !object.is_some_and(|object| self.is_mine(&object)) {
            return Ok(());
        }
        let from = (&staged, found.etag.as_str());
        self.fence.check().await?;
        let copied = calls.copy(from, &to, self.meta(Some(root)), false).await;
        let there = calls.head(&to).await?;
        match (there, copied) {
            (Some(there), _) if self.is_mine(&there) && there.length == found.length => {
                self.remove_if_replaced(&to, &there.etag).await
            }
            (_, Err(error)) => Err(error),
            (_, Ok(Answer::Refused(refused))) => Err(refused.into()),
            _ => Err(StorageError::Busy { after_s: BUSY_S }),
        }
    }

    /// Removes a manifest that got its name after the object was replaced by another one.
    async fn remove_if_replaced(
        &self,
        manifest: &Location,
        etag: &str,
    ) -> Result<(), StorageError> {
        let calls = &self.shared.calls;
        let object = calls.head(&self.object()).await?;
        match object.is_some_and(|object| self.is_mine(&object)) {
            true => Ok(()),
            false => calls.delete_version(manifest, etag).await,
        }
    }
}

impl Shared {
    /// Gives up the upload to which a large object was copied.
    pub async fn remove_copy(&self, handle: &Handle) -> Result<(), StorageError> {
        let note = self.place.beside(handle, COPY);
        let noted = self.calls.get(&note).await?;
        let Some(copy) = noted.and_then(|noted| Copy::parse(&noted)) else {
            return Ok(());
        };
        if let Some(key) = self.place.at(&copy.key) {
            self.calls.abort(&key, &copy.id).await?;
        }
        self.calls.delete(&note).await
    }
}

/// A version of what is staged.
pub struct Source<'a> {
    pub length: u64,
    pub etag: &'a str,
    /// As far as it is known before the proof.
    pub root: Option<Root>,
}

/// A note of an upload to which pieces are copied.
struct Copy {
    id: String,
    key: String,
    /// Of what is copied.
    etag: String,
    root: Option<Root>,
}

impl Copy {
    fn parse(bytes: &[u8]) -> Option<Copy> {
        let mut lines = std::str::from_utf8(bytes).ok()?.split('\n');
        Some(Copy {
            id: lines.next()?.to_owned(),
            key: lines.next()?.to_owned(),
            etag: lines.next().unwrap_or_default().to_owned(),
            root: lines.next().and_then(|root| root.parse().ok()),
        })
    }
}

impl fmt::Display for Copy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Copy {
            id,
            key,
            etag,
            root,
        } = self;
        let root = root.map(|root| root.to_string()).unwrap_or_default();
        write!(f, "{id}\n{key}\n{etag}\n{root}")
    }
}

/// The pieces in which an object is copied, with their numbers: whole parts, if they are longer than a part.
fn pieces(
    length: u64,
    most: u64,
    part_size: u64,
) -> impl Iterator<Item = (u32, ByteRange)> + Clone {
    // All of about the same size, and no more than S3 has.
    let count = length.div_ceil(most).clamp(1, 10_000);
    let size = match length.div_ceil(count) {
        size if size > part_size => size.next_multiple_of(part_size),
        size => size,
    };
    (0..length.div_ceil(size)).map(move |piece| {
        let bytes = ByteRange::new(piece * size, ((piece + 1) * size).min(length));
        (piece as u32 + 1, bytes)
    })
}

/// `ROOT LENGTH`.
fn read_note(bytes: &[u8]) -> Option<Published> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (root, length) = text.trim_end().split_once(' ')?;
    Some(Published {
        length: length.parse().ok()?,
        root: root.parse().ok()?,
    })
}
