//! The uploads of sessions: begun, found again, counted, removed.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{
    disk::machine,
    engine::storage::{Begun, Staged, StorageError},
    format::library::LibraryPath,
    net::{
        location::Location,
        s3::uploads::{StoredPart, sha256_of},
    },
    policy::{
        parts::PartPlan,
        upload::{Declared, FinishedPart, Now, Owner, Protocol, Session, Staging},
    },
};

use super::{
    S3Error, Shared,
    calls::{Calls, Created, Meta, plain},
    handle,
    keys::{Handle, Place},
    number,
};

/// How often uploads are aborted until none is left: parts that arrive meanwhile may stay once more.
const ABORTS: u32 = 5;
/// Bytes of the longest key in S3.
const KEY_BYTES_MAX: usize = 1024;

impl Shared {
    pub async fn begin(&self, session: &Session) -> Result<String, StorageError> {
        let nonce = machine::random()?;
        let (handle, name) = (
            Handle::new(session, nonce, self.options.attested),
            &session.declared.name,
        );
        let longest = [self.place.staged(&handle, name), self.place.manifest(name)];
        let is_too_long = |place: &Location| {
            let key = place.bucket_and_key().map(|(_, key)| key.len());
            key.unwrap_or_default() > KEY_BYTES_MAX
        };
        if longest.iter().any(is_too_long) {
            let name = name.to_string();
            return Err(S3Error::LongName { name }.into());
        }
        let key = self.place.joined(&handle, name);
        let meta = handle.attested.then_some(Meta {
            handle: &handle,
            root: None,
        });
        let created = self.calls.create(&key, meta).await?;
        let prepared = self.prepare(&handle, session, &created).await;
        if let Err(error) = prepared {
            self.calls.abort(&key, &created.upload_id).await?;
            return Err(error);
        }
        let text = handle.to_string();
        self.uploads.lock().insert(handle, created.upload_id);
        Ok(text)
    }

    /// What is to be done before an upload takes parts.
    async fn prepare(
        &self,
        handle: &Handle,
        session: &Session,
        created: &Created,
    ) -> Result<(), StorageError> {
        let name = &session.declared.name;
        let key = self.place.joined(handle, name);
        if !created.has_checksums {
            probe(&self.calls, &key).await?;
        }
        if handle.attested {
            let note = Bytes::from(created.upload_id.clone());
            let content = (plain(note.clone()), sha256_of(&note));
            let meta = Meta { handle, root: None };
            let staged = self.place.staged(handle, name);
            return self
                .calls
                .put(&staged, meta, content, false)
                .await
                .map(drop);
        }
        // A request whose response was lost may have created another one.
        for other in self.pending_at(&key).await? {
            if other.1 != created.upload_id {
                self.calls.abort(&key, &other.1).await?;
            }
        }
        Ok(())
    }

    /// The multipart upload that the note of an attested upload names.
    async fn noted(&self, note: &Location) -> Result<Option<String>, StorageError> {
        let noted = self.calls.get(note).await?;
        Ok(noted.and_then(|noted| String::from_utf8(noted).ok()))
    }

    /// The uploads at a key: when they were begun, and what they are called.
    async fn pending_at(&self, key: &Location) -> Result<Vec<(u64, String)>, StorageError> {
        let (_, key) = key.bucket_and_key().unwrap_or_default();
        let pending = self.calls.pending(self.place.bucket(), &key).await?;
        let pending = pending.into_iter().filter(|upload| upload.key == key);
        Ok(pending.map(|one| (one.begun_s, one.upload_id)).collect())
    }

    /// `None`: it was joined, or is gone.
    async fn find_upload(&self, session: &Session) -> Result<Option<String>, StorageError> {
        let handle = handle(session)?;
        if let Some(id) = self.uploads.lock().get(&handle) {
            return Ok(Some(id.clone()));
        }
        let key = self.place.staged(&handle, &session.declared.name);
        let found = match handle.attested {
            true => self.noted(&key).await?,
            false => {
                let latest = self.pending_at(&key).await?.into_iter().max();
                latest.map(|(_, id)| id)
            }
        };
        let Some(id) = found else {
            return Ok(None);
        };
        self.uploads.lock().insert(handle, id.clone());
        Ok(Some(id))
    }

    /// The upload of a session and its parts, or the one with this index; `None`: it was joined, or is gone.
    pub async fn open_upload(
        &self,
        session: &Session,
        index: Option<u32>,
    ) -> Result<Option<(String, Vec<StoredPart>)>, StorageError> {
        let handle = handle(session)?;
        let key = self.place.joined(&handle, &session.declared.name);
        // What was found before may be over.
        for _ in 0..2 {
            let Some(id) = self.find_upload(session).await? else {
                break;
            };
            let (after, one) = (index.unwrap_or_default(), index.is_some());
            if let Some(parts) = self.calls.parts(&key, &id, after, one).await? {
                return Ok(Some((id, parts)));
            }
            self.uploads.lock().remove(&handle);
        }
        Ok(None)
    }

    /// [`Shared::open_upload`], after which there is an upload: parts that were joined are copied to a new one, unless that published
    /// them.
    pub async fn upload(
        &self,
        session: &Session,
        index: Option<u32>,
    ) -> Result<(String, Vec<StoredPart>), StorageError> {
        if let Some(opened) = self.open_upload(session, index).await? {
            return Ok(opened);
        }
        if handle(session)?.attested {
            return Err(StorageError::StagingGone);
        }
        self.reopen(session, &[]).await?;
        let opened = self.open_upload(session, index).await?;
        opened.ok_or(StorageError::StagingGone)
    }

    pub async fn finished(&self, session: &Session) -> Result<Vec<FinishedPart>, StorageError> {
        let (plan, handle) = (session.declared.plan, handle(session)?);
        if handle.attested && !self.options.attested {
            // What it publishes would not be proven.
            return Err(StorageError::StagingGone);
        }
        let parts = match self.upload(session, None).await {
            Ok((_, parts)) => parts,
            Err(StorageError::StagingGone) => {
                self.forget(&handle, &session.declared.name).await?;
                return Err(StorageError::StagingGone);
            }
            Err(error) => return Err(error),
        };
        let finished = parts.into_iter().filter_map(|part| {
            let index = part.number.checked_sub(number(0))?;
            plan.allows(index, part.size).then_some(FinishedPart {
                index,
                length: part.size,
                sha256: part.sha256?,
                etag: Some(part.etag),
            })
        });
        Ok(finished.collect())
    }

    /// Removes what is left of an attested upload that was given up by others.
    async fn forget(&self, handle: &Handle, name: &LibraryPath) -> Result<(), StorageError> {
        match handle.attested && !self.is_joined(handle, name).await? {
            true => self.remove(&handle.to_string()).await,
            false => Ok(()),
        }
    }

    /// Whether an attested upload has its name.
    async fn is_joined(&self, handle: &Handle, name: &LibraryPath) -> Result<bool, StorageError> {
        let found = self.calls.head(&self.place.object(name)).await?;
        Ok(found.is_some_and(|found| found.is_of(handle)))
    }

    /// Takes parts again after they were joined: a new upload gets copies of all parts but the wrong ones.
    pub async fn reopen(&self, session: &Session, wrong: &[u32]) -> Result<(), StorageError> {
        let (calls, handle) = (&self.calls, handle(session)?);
        let key = self.place.staged(&handle, &session.declared.name);
        let Some(found) = calls.head(&key).await? else {
            return Err(StorageError::StagingGone);
        };
        self.uploads.lock().remove(&handle);
        for (_, id) in self.pending_at(&key).await? {
            calls.abort(&key, &id).await?;
        }
        let id = calls.create(&key, None).await?.upload_id;
        let from = (&key, found.etag.as_str());
        let parts = ranges(session.declared.plan, found.length);
        let copies = parts
            .filter(|(index, bytes)| !bytes.is_empty() && !wrong.contains(index))
            .map(|(index, bytes)| (number(index), bytes));
        // A part that is missing after all is sent again.
        calls.copy_parts(from, &key, &id, copies).await?;
        // While it is there, an attempt to publish goes on with it.
        calls.delete(&key).await?;
        self.uploads.lock().insert(handle, id);
        Ok(())
    }

    pub async fn begun(&self, name: Option<&LibraryPath>) -> Result<Vec<Begun>, StorageError> {
        let (bucket, prefix) = (self.place.bucket(), self.place.staging(None));
        let mut all: BTreeMap<String, Begun> = BTreeMap::new();
        for upload in self.calls.pending(bucket, &prefix).await? {
            let Some(begun) = begun_at(&self.place, &upload.key, upload.begun_s) else {
                continue;
            };
            all.insert(upload.key, begun);
        }
        for object in self.calls.objects(bucket, &prefix).await? {
            let parsed = self.place.parse(&object.key);
            let Some((handle, Some(object_name))) = parsed else {
                continue;
            };
            if name.is_some_and(|name| *name != object_name) {
                continue;
            }
            if let Some(begun) = begun_at(&self.place, &object.key, object.modified_s) {
                let is_complete = !handle.attested || self.is_joined(&handle, &object_name).await?;
                all.insert(
                    object.key,
                    Begun {
                        is_complete,
                        ..begun
                    },
                );
            }
        }
        let mut all: Vec<Begun> = all.into_values().collect();
        all.retain(|begun| name.is_none_or(|name| begun.session.declared.name == *name));
        all.sort_by_key(|begun| std::cmp::Reverse(begun.begun_s));
        Ok(all)
    }

    /// Of an upload that is not joined the length is what was declared, or where that is not known what came.
    pub async fn staged(&self) -> Result<Vec<Staged>, StorageError> {
        let (bucket, prefix) = (self.place.bucket(), self.place.staging(None));
        let mut all: BTreeMap<String, Staged> = BTreeMap::new();
        let mut add = |handle: &Handle, bytes: u64| {
            let text = handle.to_string();
            let staged = all.entry(text.clone()).or_insert(Staged {
                session: Some(handle.session),
                handle: text,
                bytes: 0,
            });
            staged.bytes += bytes;
        };
        for object in self.calls.objects(bucket, &prefix).await? {
            let Some((handle, name)) = self.place.parse(&object.key) else {
                continue;
            };
            add(&handle, object.size);
            if let (true, Some(name)) = (handle.attested, name) {
                let key = self.place.object(&name);
                // The note is read only where the handle does not tell the length.
                let id = match (handle.length(), self.place.at(&object.key)) {
                    (None, Some(note)) => self.noted(&note).await?,
                    _ => None,
                };
                add(&handle, self.bytes_of(&handle, &key, id).await?);
            }
        }
        for upload in self.calls.pending(bucket, &prefix).await? {
            let (Some((handle, _)), Some(key)) =
                (self.place.parse(&upload.key), self.place.at(&upload.key))
            else {
                continue;
            };
            let id = Some(upload.upload_id);
            add(&handle, self.bytes_of(&handle, &key, id).await?);
        }
        // Another server may have published or removed them: what is not there any more is not known any longer. One that was begun
        // meanwhile is found again.
        let is_there = |handle: &Handle| all.contains_key(&handle.to_string());
        self.uploads.lock().retain(|handle, _| is_there(handle));
        Ok(all.into_values().collect())
    }

    /// About how many bytes the parts of a multipart upload take.
    async fn bytes_of(
        &self,
        handle: &Handle,
        key: &Location,
        id: Option<String>,
    ) -> Result<u64, StorageError> {
        match (handle.length(), id) {
            (Some(length), _) => Ok(length),
            (None, Some(id)) => {
                let parts = self.calls.parts(key, &id, 0, false).await?;
                let parts = parts.unwrap_or_default();
                Ok(parts.iter().map(|part| part.size).sum())
            }
            (None, None) => Ok(0),
        }
    }

    pub async fn remove(&self, handle: &str) -> Result<(), StorageError> {
        let Some(handle) = Handle::parse(handle) else {
            return Ok(());
        };
        self.uploads.lock().remove(&handle);
        let (bucket, prefix) = (self.place.bucket(), self.place.staging(Some(&handle)));
        for _ in 0..ABORTS {
            let pending = self.calls.pending(bucket, &prefix).await?;
            if pending.is_empty() {
                break;
            }
            for upload in pending {
                if let Some(key) = self.place.at(&upload.key) {
                    self.calls.abort(&key, &upload.upload_id).await?;
                }
            }
        }
        self.remove_copy(&handle).await?;
        for object in self.calls.objects(bucket, &prefix).await? {
            let Some(key) = self.place.at(&object.key) else {
                continue;
            };
            if let (true, Some((_, Some(name)))) = (handle.attested, self.place.parse(&object.key))
                && let Some(id) = self.noted(&key).await?
            {
                self.calls.abort(&self.place.object(&name), &id).await?;
            }
            self.calls.delete(&key).await?;
        }
        Ok(())
    }
}

/// The parts of an object of this length.
pub fn ranges(
    plan: PartPlan,
    length: u64,
) -> impl Iterator<Item = (u32, crate::format::geometry::ByteRange)> {
    let plan = plan.with_length(length).unwrap_or(plan);
    let count = plan.count().unwrap_or_default();
    (0..count).filter_map(move |index| Some((index, plan.part(index)?)))
}

/// What the key of a staged object says.
fn begun_at(place: &Place, key: &str, begun_s: u64) -> Option<Begun> {
    let (handle, name) = place.parse(key)?;
    let declared = Declared {
        name: name?,
        plan: handle.plan()?,
        root: None,
        sha256: None,
        replace: false,
        growing: false,
        protocol: Protocol::default(),
    };
    let now = Now {
        unix_s: begun_s,
        served_s: 0,
    };
    let owner = Owner(String::new());
    let mut session = Session::open(handle.session, owner, declared, now);
    session.staging = Staging::Begun(handle.to_string());
    Some(Begun {
        session,
        begun_s,
        is_complete: false,
    })
}

/// Whether the service checks the SHA-256 of parts, if it does not say so: a part shows it.
async fn probe(calls: &Calls, key: &Location) -> Result<(), StorageError> {
    let key = key.with_suffix(".probe");
    let bytes = Bytes::from_static(b"probe");
    let sha256 = sha256_of(&bytes);
    let id = calls.create(&key, None).await?.upload_id;
    let sent = calls.put_part(&key, (&id, 1), plain(bytes), sha256).await;
    let parts = calls.parts(&key, &id, 0, false).await;
    calls.abort(&key, &id).await?;
    sent?;
    let parts = parts?.unwrap_or_default();
    match parts
        .first()
        .is_some_and(|part| part.sha256 == Some(sha256))
    {
        true => Ok(()),
        false => Err(S3Error::NoChecksums {
            place: key.origin(),
        }
        .into()),
    }
}
