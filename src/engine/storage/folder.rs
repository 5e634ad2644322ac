//! Uploads to a local folder (upload.md, "Staging").
//!
//! The bytes of a part go to their place in the staged object and are hashed on the way; once they are durable a record proves them.
//! What came of a part that has no record counts only after a look: its blocks are hashed and compared with the leaves that the
//! client offers, so that a block that came before a stop or a crash is not sent again.

mod append;
mod copy;
mod finalize;
mod growing;
mod receive;

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
};

use futures_util::{FutureExt, future::BoxFuture};
use parking_lot::{Mutex, RwLock};

use crate::{
    disk::{
        error::DiskError,
        files::Folder,
        staging::{Content, Place, Staging, Upload},
    },
    engine::{
        blocking,
        upload::describe::{self, PartDescriber},
    },
    format::{geometry::ByteRange, library::LibraryPath, tree::Cv, upload::SessionId},
    policy::{
        parts::PartPlan,
        upload::{FinishedPart, Goal, Session, Staging as Handle},
    },
};

use super::{
    Base, CopyRange, Destination, Fence, GrowingStorage, OfferedPart, PartAppender, PartWriter,
    Staged, Storage, StorageError, UnknownPart, Verdict,
};

/// A folder that takes uploads. Its clones share it.
#[derive(Clone, Debug)]
pub struct FolderStorage(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    staging: Staging,
    /// What goes on in the uploads that were used since the start.
    active: Mutex<HashMap<String, Arc<Active>>>,
    /// Held while an object and its manifest get their names: another upload may be for the same one.
    naming: Mutex<()>,
}

/// What goes on in one upload. Each step of a writer holds the phase, so that it ends before the phase changes.
#[derive(Debug, Default)]
struct Active {
    phase: RwLock<Phase>,
    /// The parts that are being written.
    writing: Mutex<HashSet<u32>>,
    /// Held while it is proven and published, or removed.
    publishing: Mutex<()>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Parts are taken.
    #[default]
    Open,
    /// No part is written.
    Sealed,
    /// Nothing is left.
    Removed,
}

/// The right to write a part.
#[derive(Debug)]
struct Turn {
    active: Arc<Active>,
    index: u32,
}

impl Turn {
    fn take(active: &Arc<Active>, index: u32) -> Result<Turn, StorageError> {
        match active.writing.lock().insert(index) {
            true => Ok(Turn {
                active: active.clone(),
                index,
            }),
            false => Err(StorageError::PartInFlight { index }),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.active.writing.lock().remove(&self.index);
    }
}

impl From<DiskError> for StorageError {
    fn from(cause: DiskError) -> StorageError {
        use std::io::ErrorKind;
        let is_full = match &cause {
            DiskError::NoRoom { .. } => true,
            DiskError::Io { source, .. } => matches!(
                source.kind(),
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
            ),
            _ => false,
        };
        match is_full {
            true => StorageError::Full,
            false => StorageError::Failed(Box::new(cause)),
        }
    }
}

impl FolderStorage {
    /// Opens a folder. Fails with [`DiskError::Busy`] if another server takes uploads there.
    pub fn open(path: &Path) -> Result<FolderStorage, DiskError> {
        Ok(FolderStorage(Arc::new(Shared {
            staging: Staging::open(path)?,
            active: Mutex::default(),
            naming: Mutex::default(),
        })))
    }

    /// Where objects are published.
    pub fn root(&self) -> &Arc<Folder> {
        self.0.staging.root()
    }

    /// The folder of staged uploads, for what belongs to all of them.
    pub fn staging(&self) -> &Folder {
        self.0.staging.folder()
    }

    /// What tells this folder from all others; kept with what is staged.
    pub fn id(&self) -> Result<String, DiskError> {
        self.0.staging.id()
    }

    /// Does work on a thread that may wait for the disk.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let shared = self.0.clone();
        blocking::run(move || work(&shared)).await
    }
}

impl Shared {
    fn active(&self, handle: &str) -> Arc<Active> {
        let mut active = self.active.lock();
        active.entry(handle.to_owned()).or_default().clone()
    }

    fn upload(&self, handle: &str) -> Result<Upload, StorageError> {
        let upload = self.staging.upload(handle)?;
        upload.ok_or(StorageError::StagingGone)
    }

    /// How many bytes of a part are here, in whole blocks that have the leaves of the offer.
    fn held(&self, handle: &str, plan: &PartPlan, part: &OfferedPart) -> Result<u64, StorageError> {
        let upload = self.upload(handle)?;
        let range = range_of(plan, part)?;
        let mut content = Content::Kept;
        for of in [Content::Kept, Content::Newer] {
            match upload.record_header(of, part.index)? {
                Some(record) if (record.sha256, record.bytes) == (part.sha256, range) => {
                    return Ok(part.length);
                }
                Some(_) => content = Content::Newer,
                None => (),
            }
        }
        let Some(leaves) = part.leaves.as_deref() else {
            return Ok(0);
        };
        let active = self.active(handle);
        // Blocks that are being written would be judged half.
        let Ok(_turn) = Turn::take(&active, part.index) else {
            return Ok(0);
        };
        held_blocks(&upload, content, plan, range, part.index, leaves)
    }

    fn checkpoint(
        &self,
        handle: &str,
        session: SessionId,
        part: &OfferedPart,
    ) -> Result<FinishedPart, StorageError> {
        let active = self.active(handle);
        let phase = active.phase.read();
        if *phase != Phase::Open {
            return Err(phase_error(*phase, part.index));
        }
        let upload = self.upload(handle)?;
        let is_offered = |content| -> Result<_, StorageError> {
            let record = upload.record(content, part.index)?;
            Ok(record.map(|record| record.header).filter(|header| {
                header.session == session
                    && header.sha256 == part.sha256
                    && header.bytes.length() == part.length
            }))
        };
        if is_offered(Content::Kept)?.is_none() {
            let index = part.index;
            let newer = is_offered(Content::Newer)?;
            let newer = newer.ok_or(StorageError::PartNotStored { index })?;
            let _turn = Turn::take(&active, index)?;
            upload.prefer_newer(&newer)?;
        }
        Ok(FinishedPart {
            index: part.index,
            length: part.length,
            sha256: part.sha256,
            etag: None,
        })
    }

    fn remove(&self, handle: &str) -> Result<(), StorageError> {
        let active = self.active(handle);
        let _publishing = active.publishing.lock();
        *active.phase.write() = Phase::Removed;
        self.staging.remove(handle)?;
        // Who still has it finds that it is removed.
        self.active.lock().remove(handle);
        Ok(())
    }

    fn staged(&self) -> Result<Vec<Staged>, StorageError> {
        let listed = self.staging.list()?.into_iter();
        let staged = listed.map(|listed| Staged {
            session: listed.name.parse().ok(),
            handle: listed.name,
            bytes: listed.bytes,
        });
        Ok(staged.collect())
    }
}

/// Why no part can be written now.
fn phase_error(phase: Phase, index: u32) -> StorageError {
    match phase {
        Phase::Removed => StorageError::StagingGone,
        Phase::Open | Phase::Sealed => StorageError::PartInFlight { index },
    }
}

/// What the storage calls the upload of a session.
fn handle(session: &Session) -> Result<String, StorageError> {
    match &session.staging {
        Handle::Begun(handle) => Ok(handle.clone()),
        Handle::None | Handle::Removed => Err(StorageError::StagingGone),
    }
}

/// The bytes of an offered part. The caller has checked them; while the length is not known, a part may be shorter than planned.
fn range_of(plan: &PartPlan, part: &OfferedPart) -> Result<ByteRange, StorageError> {
    let (index, expected) = (part.index, part.length);
    let planned = plan.part(index).filter(|_| plan.allows(index, expected));
    let planned = planned.ok_or(StorageError::PartLength { index, expected })?;
    Ok(ByteRange::new(planned.start, planned.start + expected))
}

/// The bytes at the start of a part whose blocks have these leaves.
fn held_blocks(
    upload: &Upload,
    content: Content,
    plan: &PartPlan,
    range: ByteRange,
    index: u32,
    leaves: &[Cv],
) -> Result<u64, StorageError> {
    let (file, path, at) = upload.file(content, index, range.start)?;
    let block_size = plan.block_size();
    let is_whole = plan.is_whole(index, range.length());
    let mut held = 0;
    for leaf in leaves {
        let end = (held + block_size.bytes()).min(range.length());
        let mut describer = PartDescriber::new(range.start + held, block_size);
        let bytes = ByteRange::new(at + held, at + end);
        match describe::update_from(&mut describer, &file, &path, bytes) {
            // It ends before.
            Err(DiskError::ChangedWhileRead { .. }) => break,
            read => read?,
        }
        if held == range.length() || describer.finish(is_whole).leaves.first() != Some(leaf) {
            break;
        }
        held = end;
    }
    Ok(held)
}

impl Storage for FolderStorage {
    /// The folder of staged uploads is locked.
    fn is_exclusive(&self) -> bool {
        true
    }

    fn exists<'a>(&'a self, name: &'a LibraryPath) -> BoxFuture<'a, Result<bool, StorageError>> {
        let path = name.clone();
        let look = move |shared: &Shared| {
            let place = Place {
                root: shared.staging.root(),
                path: &path,
                replace: false,
            };
            Ok(!place.is_free()?)
        };
        self.on_disk(look).boxed()
    }

    fn begin<'a>(&'a self, session: &'a Session) -> BoxFuture<'a, Result<String, StorageError>> {
        let handle = session.id.to_string();
        let begin = move |shared: &Shared| {
            shared.staging.begin(&handle)?;
            Ok(handle)
        };
        self.on_disk(begin).boxed()
    }

    fn handle_of(&self, session: &Session) -> Option<String> {
        Some(session.id.to_string())
    }

    fn destinations<'a>(
        &'a self,
        session: &'a Session,
        parts: &'a [OfferedPart],
    ) -> BoxFuture<'a, Result<Vec<Destination>, StorageError>> {
        let (plan, parts) = (session.declared.plan, parts.to_vec());
        let handle = handle(session);
        let look = move |shared: &Shared| {
            let handle = handle?;
            let held = parts.iter().map(|part| {
                let from = shared.held(&handle, &plan, part)?;
                Ok(Destination::Server { from })
            });
            held.collect()
        };
        self.on_disk(look).boxed()
    }

    fn receive<'a>(
        &'a self,
        session: &'a Session,
        part: &'a OfferedPart,
        from: u64,
    ) -> BoxFuture<'a, Result<Box<dyn PartWriter>, StorageError>> {
        let send = receive::after(part, from);
        async move { receive::begin(self, session, part, send?).await }.boxed()
    }

    fn copy<'a>(
        &'a self,
        session: &'a Session,
        part: &'a OfferedPart,
        base: &'a Base,
        copies: &'a [CopyRange],
    ) -> BoxFuture<'a, Result<Destination, StorageError>> {
        let (plan, handle) = (session.declared.plan, handle(session));
        let (part, base, copies) = (part.clone(), base.clone(), copies.to_vec());
        self.on_disk(move |shared| shared.copy(&handle?, &plan, &part, (&base, &copies)))
            .boxed()
    }

    fn receive_ranges<'a>(
        &'a self,
        session: &'a Session,
        part: &'a OfferedPart,
        send: &'a [ByteRange],
    ) -> BoxFuture<'a, Result<Box<dyn PartWriter>, StorageError>> {
        receive::begin(self, session, part, send.to_vec()).boxed()
    }

    fn append<'a>(
        &'a self,
        session: &'a Session,
        part: UnknownPart,
    ) -> BoxFuture<'a, Result<Box<dyn PartAppender>, StorageError>> {
        append::begin(self, session, part).boxed()
    }

    fn begun_bytes<'a>(
        &'a self,
        session: &'a Session,
        index: u32,
    ) -> BoxFuture<'a, Result<u64, StorageError>> {
        let session = session.clone();
        self.on_disk(move |shared| append::begun_bytes(shared, &session, index))
            .boxed()
    }

    fn checkpoint<'a>(
        &'a self,
        session: &'a Session,
        part: &'a OfferedPart,
        _etag: Option<&'a str>,
    ) -> BoxFuture<'a, Result<FinishedPart, StorageError>> {
        let (id, part, handle) = (session.id, part.clone(), handle(session));
        self.on_disk(move |shared| shared.checkpoint(&handle?, id, &part))
            .boxed()
    }

    /// A folder has one server, in which one attempt at a time publishes for a session: it is asked at the beginning alone.
    fn finalize_fenced<'a>(
        &'a self,
        session: &'a Session,
        parts: &'a [FinishedPart],
        goal: &'a Goal,
        fence: &'a dyn Fence,
    ) -> BoxFuture<'a, Result<Verdict, StorageError>> {
        let (session, parts, goal) = (session.clone(), parts.to_vec(), *goal);
        let run = self.on_disk(move |shared| finalize::run(shared, &session, &parts, &goal));
        async move {
            fence.check().await?;
            run.await
        }
        .boxed()
    }

    fn remove<'a>(&'a self, staged: &'a Staged) -> BoxFuture<'a, Result<(), StorageError>> {
        let handle = staged.handle.clone();
        self.on_disk(move |shared| shared.remove(&handle)).boxed()
    }

    fn growing(&self) -> Option<&dyn GrowingStorage> {
        Some(self)
    }

    fn staged(&self) -> BoxFuture<'_, Result<Vec<Staged>, StorageError>> {
        self.on_disk(Shared::staged).boxed()
    }
}

#[cfg(test)]
mod tests;
