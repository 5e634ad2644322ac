//! Taking the bytes of a part.

use std::{cmp::Ordering, collections::VecDeque, fs::File, mem, path::PathBuf};

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
    policy::{parts::PartPlan, upload::Session},
};

use super::{
    super::{Adds, OfferedPart, PartWriter, StorageError, copies::is_of_blocks},
    FolderStorage, Phase, Shared, Turn, handle, phase_error, range_of,
};

/// Parts leave so much of the disk to the sessions: without it no upload could be noted as given up, and what is staged would stay.
pub const RESERVE_BYTES: u64 = 4 << 20;
/// Bytes that are collected before they are hashed and written together.
const STEP_BYTES: usize = 512 * 1024;

/// The bytes of a part from `from` on.
pub fn after(part: &OfferedPart, from: u64) -> Result<Vec<ByteRange>, StorageError> {
    let (index, expected) = (part.index, part.length);
    match from.cmp(&part.length) {
        Ordering::Less => Ok(vec![ByteRange::new(from, part.length)]),
        Ordering::Equal => Ok(Vec::new()),
        Ordering::Greater => Err(StorageError::PartLength { index, expected }),
    }
}

/// Whether these are whole blocks of the part, in order and apart.
fn are_allowed(send: &[ByteRange], plan: &PartPlan, part: &OfferedPart) -> bool {
    let mut end = 0;
    send.iter().all(|range| {
        let follows = range.start >= end && range.start < range.end;
        end = range.end;
        follows && is_of_blocks(*range, plan, part.length)
    })
}

/// Prepares to take these ranges of a part; the others are here.
pub async fn begin(
    storage: &FolderStorage,
    session: &Session,
    part: &OfferedPart,
    send: Vec<ByteRange>,
) -> Result<Box<dyn PartWriter>, StorageError> {
    let (session, part) = (session.clone(), part.clone());
    let left = send.iter().map(|range| range.length()).sum();
    let open = move |shared: &Shared| Receiving::open(shared, &session, &part, send);
    let receiving = storage.on_disk(open).await?;
    Ok(Box::new(Writer {
        left,
        index: receiving.turn.index,
        adds: receiving.adds,
        expected: receiving.range.length(),
        receiving: Some(Box::new(receiving)),
        step: Vec::new(),
        step_bytes: 0,
    }))
}

/// Where a part lies.
struct Place {
    file: File,
    path: PathBuf,
    /// Where the part begins in the file.
    at: u64,
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
    to: Place,
    /// The ranges of the part that are to come.
    send: VecDeque<ByteRange>,
    /// `None`: the part is here already, and nothing more is to come.
    describer: Option<PartDescriber>,
    adds: Adds,
}

impl Receiving {
    fn open(
        shared: &Shared,
        session: &Session,
        part: &OfferedPart,
        send: Vec<ByteRange>,
    ) -> Result<Receiving, StorageError> {
        let (handle, plan) = (handle(session)?, session.declared.plan);
        let range = range_of(&plan, part)?;
        let block_size = plan.block_size();
        if !are_allowed(&send, &plan, part) {
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
        let is_described = adds != Adds::Nothing || !send.is_empty();
        let describer = is_described.then(|| PartDescriber::new(range.start, block_size));
        drop(phase);
        let mut receiving = Receiving {
            turn,
            upload,
            session: session.id,
            content,
            range,
            sha256: part.sha256,
            is_whole: plan.is_whole(part.index, part.length),
            to: Place { file, path, at },
            send: send.into(),
            describer,
            adds,
        };
        receiving.take_what_is_here()?;
        Ok(receiving)
    }

    /// Describes what lies before the next range that is to come.
    fn take_what_is_here(&mut self) -> Result<(), StorageError> {
        let next = self.send.front();
        let end = next.map_or(self.range.length(), |range| range.start);
        if let Some(describer) = &mut self.describer {
            let here = ByteRange::new(self.to.at + describer.length(), self.to.at + end);
            describe::update_from(describer, &self.to.file, &self.to.path, here)?;
        }
        Ok(())
    }

    fn write(&mut self, step: &[Bytes]) -> Result<(), StorageError> {
        if self.adds == Adds::Nothing {
            // They must be the bytes that are here.
            return step.iter().try_for_each(|bytes| self.take(bytes));
        }
        let active = self.turn.active.clone();
        let phase = active.phase.read();
        if *phase != Phase::Open {
            return Err(phase_error(*phase, self.turn.index));
        }
        if self.upload.bytes_free()? < RESERVE_BYTES {
            return Err(StorageError::Full);
        }
        step.iter().try_for_each(|bytes| self.take(bytes))
    }

    /// Puts bytes into the ranges that are to come.
    fn take(&mut self, mut bytes: &[u8]) -> Result<(), StorageError> {
        while let (Some(describer), Some(range), false) =
            (&mut self.describer, self.send.front(), bytes.is_empty())
        {
            let left = range.end - describer.length();
            let (some, rest) = bytes.split_at(bytes.len().min(left as usize));
            if self.adds != Adds::Nothing {
                let offset = self.to.at + describer.length();
                files::write_at(&self.to.file, &self.to.path, some, offset)?;
            }
            describer.update(some);
            bytes = rest;
            if some.len() as u64 == left {
                self.send.pop_front();
                self.take_what_is_here()?;
            }
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
        files::sync_data(&self.to.file, &self.to.path)?;
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
