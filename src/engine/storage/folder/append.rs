//! Taking the bytes of a part of which the client says nothing but where they belong.
//!
//! Where the part ends is known when it is there, so a stop leaves no leaves to judge by: how many bytes are durable is noted, with their
//! SHA-256.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};

use crate::{
    disk::{
        error::DiskError,
        files,
        staging::{Content, Upload},
    },
    engine::{
        blocking,
        storage::appending::{Sink, Steps},
        upload::describe::{self, PartDescriber},
    },
    format::{
        geometry::ByteRange,
        upload::{PartRecord, SessionId, Sha256},
    },
    policy::{
        parts::PartPlan,
        upload::{FinishedPart, Session},
    },
};

use super::{
    super::{Adds, PartAppender, StorageError, UnknownPart},
    FolderStorage, Phase, Shared, Turn, handle, phase_error,
    receive::RESERVE_BYTES,
};

/// Prepares to take a part.
pub async fn begin(
    storage: &FolderStorage,
    session: &Session,
    part: UnknownPart,
) -> Result<Box<dyn PartAppender>, StorageError> {
    let session = session.clone();
    let open = move |shared: &Shared| Appending::open(shared, &session, part);
    let appending = storage.on_disk(open).await?;
    let (adds, length) = (appending.adds, appending.describer.length());
    Ok(Box::new(Appender {
        steps: Steps::new(appending, part.index, length, part.longest),
        adds,
    }))
}

/// How many bytes of a part are here. Blocks.
pub fn begun_bytes(shared: &Shared, session: &Session, index: u32) -> Result<u64, StorageError> {
    let upload = shared.upload(&handle(session)?)?;
    Ok(match upload.record_header(Content::Kept, index)? {
        Some(record) if record.session == session.id => record.bytes.length(),
        _ => upload.begun(index)?.map_or(0, |(length, _)| length),
    })
}

/// A part that arrives.
struct Appending {
    turn: Turn,
    upload: Upload,
    session: SessionId,
    plan: PartPlan,
    content: Content,
    file: File,
    path: PathBuf,
    /// Where the part begins in the file.
    at: u64,
    describer: PartDescriber,
    adds: Adds,
}

impl Appending {
    fn open(
        shared: &Shared,
        session: &Session,
        part: UnknownPart,
    ) -> Result<Appending, StorageError> {
        let (handle, plan, index) = (handle(session)?, session.declared.plan, part.index);
        let expected = part.longest;
        let planned = plan
            .part(index)
            .filter(|planned| expected <= planned.length());
        let start = planned
            .ok_or(StorageError::PartLength { index, expected })?
            .start;
        let active = shared.active(&handle);
        let turn = Turn::take(&active, index)?;
        let phase = active.phase.read();
        if *phase != Phase::Open {
            return Err(phase_error(*phase, index));
        }
        let upload = shared.upload(&handle)?;
        // Of an upload that is published no file may appear again.
        if upload.published()?.is_some() || upload.half_published()?.is_some() {
            return Err(StorageError::StagingGone);
        }
        let record = upload.record(Content::Kept, index)?;
        let (content, adds) = match record.is_some() && part.is_new {
            true => (Content::Newer, Adds::Second),
            false => (Content::Kept, Adds::Part),
        };
        if adds == Adds::Second {
            // What is written now is not what an earlier record proves.
            upload.forget_record(Content::Newer, index)?;
        }
        let (file, path, at) = upload.file(content, index, start)?;
        let mut describer = PartDescriber::new(start, plan.block_size());
        if !part.is_new {
            let noted = noted(&upload, record.as_ref(), index)?;
            let read = noted.filter(|(length, _)| *length <= expected);
            if let Some(noted) = read {
                describer = described((start, plan), (&file, &path, at), noted)?;
            }
            let found = describer.length();
            if record.is_some() || noted.is_some_and(|(length, _)| length != found) {
                upload.note_begun(index, found, describer.sha256_so_far())?;
            }
            if record.is_some() {
                upload.forget_record(Content::Kept, index)?;
            }
        }
        drop(phase);
        Ok(Appending {
            turn,
            upload,
            session: session.id,
            plan,
            content,
            file,
            path,
            at,
            describer,
            adds,
        })
    }

    /// Makes what has come durable, and notes how much that is.
    fn pause(&mut self) -> Result<(), StorageError> {
        files::sync_data(&self.file, &self.path)?;
        let (length, sha256) = (self.describer.length(), self.describer.sha256_so_far());
        match self.content {
            Content::Kept => Ok(self.upload.note_begun(self.turn.index, length, sha256)?),
            // It is sent again from its start.
            Content::Newer => Ok(()),
        }
    }

    /// Makes the part durable, and proves it by a record.
    fn finish(self) -> Result<FinishedPart, StorageError> {
        let index = self.turn.index;
        let is_whole = self.plan.is_whole(index, self.describer.length());
        let part = self.describer.finish(is_whole);
        let phase = self.turn.active.phase.read();
        if *phase != Phase::Open {
            return Err(phase_error(*phase, index));
        }
        files::sync_data(&self.file, &self.path)?;
        let finished = FinishedPart {
            index,
            length: part.bytes.length(),
            sha256: part.sha256,
            etag: None,
        };
        let record = part.into_record(self.session, index, is_whole);
        self.upload.write_record(self.content, &record)?;
        Ok(finished)
    }
}

/// What was noted of the beginning of a part.
fn noted(
    upload: &Upload,
    record: Option<&PartRecord>,
    index: u32,
) -> Result<Option<(u64, Sha256)>, DiskError> {
    match record {
        Some(record) => Ok(Some((record.header.bytes.length(), record.header.sha256))),
        None => upload.begun(index),
    }
}

/// The beginning of a part, if it is what was noted; else nothing.
fn described(
    (start, plan): (u64, PartPlan),
    (file, path, at): (&File, &Path, u64),
    (length, sha256): (u64, Sha256),
) -> Result<PartDescriber, DiskError> {
    let mut describer = PartDescriber::new(start, plan.block_size());
    match describe::update_from(&mut describer, file, path, ByteRange::new(at, at + length)) {
        Err(DiskError::ChangedWhileRead { .. }) => (),
        read => read?,
    }
    let is_same = (describer.length(), describer.sha256_so_far()) == (length, sha256);
    Ok(match is_same {
        true => describer,
        false => PartDescriber::new(start, plan.block_size()),
    })
}

impl Sink for Appending {
    fn write(&mut self, step: &[Bytes]) -> Result<(), StorageError> {
        let phase = self.turn.active.phase.read();
        if *phase != Phase::Open {
            return Err(phase_error(*phase, self.turn.index));
        }
        if self.upload.bytes_free()? < RESERVE_BYTES {
            return Err(StorageError::Full);
        }
        for bytes in step {
            let offset = self.at + self.describer.length();
            files::write_at(&self.file, &self.path, bytes, offset)?;
            self.describer.update(bytes);
        }
        Ok(())
    }
}

struct Appender {
    steps: Steps<Appending>,
    adds: Adds,
}

impl PartAppender for Appender {
    fn adds(&self) -> Adds {
        self.adds
    }

    fn length(&self) -> u64 {
        self.steps.length()
    }

    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), StorageError>> {
        self.steps.take(bytes).boxed()
    }

    fn pause(&mut self) -> BoxFuture<'_, Result<(), StorageError>> {
        self.steps.run(Appending::pause).boxed()
    }

    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<FinishedPart, StorageError>> {
        let end = async move {
            let appending = self.steps.end().await?;
            blocking::run(move || appending.finish()).await
        };
        end.boxed()
    }
}
