//! Taking the bytes of a part.

use std::{fs::File, mem, path::PathBuf};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};

use crate::{
    disk::{
        files,
        staging::{Content, Upload},
    },
    engine::{
        blocking,
        upload::describe::{self, PartDescriber},
    },
    format::{
        geometry::ByteRange,
        upload::{SessionId, Sha256},
    },
    policy::upload::Session,
};

use super::{
    super::{Adds, OfferedPart, PartWriter, StorageError},
    FolderStorage, Phase, Shared, Turn, handle, phase_error, range_of,
};

/// Parts leave so much of the disk to the sessions: without it no upload could be noted as given up, and what is staged would stay.
pub const RESERVE_BYTES: u64 = 4 << 20;
/// Bytes that are collected before they are hashed and written together.
const STEP_BYTES: usize = 512 * 1024;

/// Prepares to take a part from `from` on.
pub async fn begin(
    storage: &FolderStorage,
    session: &Session,
    part: &OfferedPart,
    from: u64,
) -> Result<Box<dyn PartWriter>, StorageError> {
    let (session, part) = (session.clone(), part.clone());
    let open = move |shared: &Shared| Receiving::open(shared, &session, &part, from);
    let receiving = storage.on_disk(open).await?;
    Ok(Box::new(Writer {
        left: receiving.range.length() - from,
        index: receiving.turn.index,
        adds: receiving.adds,
        expected: receiving.range.length(),
        receiving: Some(Box::new(receiving)),
        step: Vec::new(),
        step_bytes: 0,
    }))
}

/// A part that arrives. While a step works on it nothing else has it: a step whose request is gone goes on to its end.
struct Receiving {
    turn: Turn,
    upload: Upload,
    session: SessionId,
    content: Content,
    range: ByteRange,
    sha256: Sha256,
    is_whole: bool,
    /// Where the part begins in the file.
    file: File,
    path: PathBuf,
    at: u64,
    /// `None`: the part is here already, and nothing more is to come.
    describer: Option<PartDescriber>,
    adds: Adds,
}

impl Receiving {
    fn open(
        shared: &Shared,
        session: &Session,
        part: &OfferedPart,
        from: u64,
    ) -> Result<Receiving, StorageError> {
        let (handle, plan) = (handle(session)?, session.declared.plan);
        let range = range_of(&plan, part)?;
        let block_size = plan.block_size();
        if from > part.length || (from < part.length && !from.is_multiple_of(block_size.bytes())) {
            let (index, expected) = (part.index, part.length);
            return Err(StorageError::PartLength { index, expected });
        }
        let active = shared.active(&handle);
        let turn = Turn::take(&active, part.index)?;
        let phase = active.phase.read();
        if *phase != Phase::Open {
            return Err(phase_error(*phase, part.index));
        }
        let upload = shared.upload(&handle)?;
        // Of an upload that is published no file may appear again.
        if upload.published()?.is_some() || upload.half_published()?.is_some() {
            return Err(StorageError::StagingGone);
        }
        let (mut here, mut content) = (None, Content::Kept);
        for of in [Content::Kept, Content::Newer] {
            if let Some(record) = upload.record(of, part.index)? {
                let is_same = (record.header.sha256, record.header.bytes) == (part.sha256, range);
                here = here.or(is_same.then_some(of));
                content = Content::Newer;
            }
        }
        let adds = match (here, content) {
            (Some(_), _) => Adds::Nothing,
            (None, Content::Kept) => Adds::Part,
            (None, Content::Newer) => Adds::Second,
        };
        if adds == Adds::Second {
            // What is written now is not what an earlier record proves.
            upload.forget_record(Content::Newer, part.index)?;
        }
        let (file, path, at) = upload.file(here.unwrap_or(content), part.index, range.start)?;
        let mut describer = None;
        if adds != Adds::Nothing || from < part.length {
            let describer = describer.insert(PartDescriber::new(range.start, block_size));
            let before = ByteRange::new(at, at + from);
            describe::update_from(describer, &file, &path, before)?;
        }
        drop(phase);
        Ok(Receiving {
            turn,
            upload,
            session: session.id,
            content,
            range,
            sha256: part.sha256,
            is_whole: plan.is_whole(part.index, part.length),
            file,
            path,
            at,
            describer,
            adds,
        })
    }

    fn write(&mut self, step: &[Bytes]) -> Result<(), StorageError> {
        let Some(describer) = &mut self.describer else {
            return Ok(());
        };
        if self.adds == Adds::Nothing {
            // They must be the bytes that are here.
            for bytes in step {
                describer.update(bytes);
            }
            return Ok(());
        }
        let phase = self.turn.active.phase.read();
        if *phase != Phase::Open {
            return Err(phase_error(*phase, self.turn.index));
        }
        if self.upload.bytes_free()? < RESERVE_BYTES {
            return Err(StorageError::Full);
        }
        for bytes in step {
            let offset = self.at + describer.length();
            files::write_at(&self.file, &self.path, bytes, offset)?;
            describer.update(bytes);
        }
        Ok(())
    }

    /// Proves the part, and makes it durable.
    fn finish(mut self) -> Result<(), StorageError> {
        let Some(describer) = self.describer.take() else {
            return Ok(());
        };
        let index = self.turn.index;
        let part = describer.finish(self.is_whole);
        if part.sha256 != self.sha256 {
            return Err(StorageError::PartDiffers {
                index,
                expected: self.sha256,
                found: part.sha256,
            });
        }
        if self.adds == Adds::Nothing {
            return Ok(());
        }
        let phase = self.turn.active.phase.read();
        if *phase != Phase::Open {
            return Err(phase_error(*phase, index));
        }
        files::sync_data(&self.file, &self.path)?;
        let record = part.into_record(self.session, index, self.is_whole);
        Ok(self.upload.write_record(self.content, &record)?)
    }
}

/// Collects the bytes of a part.
struct Writer {
    /// `None`: a step failed, or was left.
    receiving: Option<Box<Receiving>>,
    index: u32,
    adds: Adds,
    expected: u64,
    /// The bytes that are to come.
    left: u64,
    step: Vec<Bytes>,
    step_bytes: usize,
}

impl Writer {
    fn wrong_length(&self) -> StorageError {
        StorageError::PartLength {
            index: self.index,
            expected: self.expected,
        }
    }

    async fn flush(&mut self) -> Result<(), StorageError> {
        let step = mem::take(&mut self.step);
        self.step_bytes = 0;
        let index = self.index;
        let receiving = self.receiving.take();
        let mut receiving = receiving.ok_or(StorageError::PartNotStored { index })?;
        let write = move || receiving.write(&step).map(|()| receiving);
        self.receiving = Some(blocking::run(write).await?);
        Ok(())
    }

    async fn take(&mut self, bytes: Bytes) -> Result<(), StorageError> {
        let length = bytes.len();
        match self.left.checked_sub(length as u64) {
            Some(left) => self.left = left,
            None => return Err(self.wrong_length()),
        }
        self.step.push(bytes);
        self.step_bytes += length;
        match self.step_bytes >= STEP_BYTES {
            true => self.flush().await,
            false => Ok(()),
        }
    }

    async fn end(mut self) -> Result<(), StorageError> {
        // What has come stays: its blocks are judged when the part is offered again.
        self.flush().await?;
        if self.left > 0 {
            return Err(self.wrong_length());
        }
        let index = self.index;
        let receiving = self.receiving.take();
        let receiving = receiving.ok_or(StorageError::PartNotStored { index })?;
        blocking::run(move || receiving.finish()).await
    }
}

impl PartWriter for Writer {
    fn adds(&self) -> Adds {
        self.adds
    }

    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), StorageError>> {
        self.take(bytes).boxed()
    }

    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<(), StorageError>> {
        self.end().boxed()
    }
}
