//! Bytes that are collected before a thread that may wait for the disk takes them.

use std::mem;

use bytes::Bytes;

use crate::engine::blocking;

use super::StorageError;

/// Bytes that are collected before they are hashed and written together.
pub const STEP_BYTES: usize = 512 * 1024;

/// What writes them.
pub trait Sink: Send + 'static {
    /// Writes the next bytes. Blocks.
    fn write(&mut self, step: &[Bytes]) -> Result<(), StorageError>;
}

/// Collects the bytes of a part.
pub struct Steps<S> {
    /// `None`: a step failed, or was left.
    sink: Option<Box<S>>,
    index: u32,
    step: Vec<Bytes>,
    step_bytes: usize,
    length: u64,
    longest: u64,
}

impl<S: Sink> Steps<S> {
    /// For a part that has so many bytes, and may get so many.
    pub fn new(sink: S, index: u32, length: u64, longest: u64) -> Steps<S> {
        Steps {
            sink: Some(Box::new(sink)),
            index,
            step: Vec::new(),
            step_bytes: 0,
            length,
            longest,
        }
    }

    /// Of the part so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    pub async fn take(&mut self, bytes: Bytes) -> Result<(), StorageError> {
        let length = self.length + bytes.len() as u64;
        if length > self.longest {
            let (index, expected) = (self.index, self.longest);
            return Err(StorageError::PartLength { index, expected });
        }
        self.length = length;
        self.step_bytes += bytes.len();
        self.step.push(bytes);
        match self.step_bytes >= STEP_BYTES {
            true => self.run(|_| Ok(())).await,
            false => Ok(()),
        }
    }

    /// Writes what was collected, and does more.
    pub async fn run(
        &mut self,
        more: impl FnOnce(&mut S) -> Result<(), StorageError> + Send + 'static,
    ) -> Result<(), StorageError> {
        let step = mem::take(&mut self.step);
        self.step_bytes = 0;
        let index = self.index;
        let sink = self.sink.take();
        let mut sink = sink.ok_or(StorageError::PartNotStored { index })?;
        let work = move || {
            sink.write(&step)?;
            more(&mut sink).map(|()| sink)
        };
        self.sink = Some(blocking::run(work).await?);
        Ok(())
    }

    /// The end: all was written.
    pub async fn end(mut self) -> Result<S, StorageError> {
        self.run(|_| Ok(())).await?;
        let index = self.index;
        let sink = self.sink.take();
        let sink = sink.ok_or(StorageError::PartNotStored { index })?;
        Ok(*sink)
    }
}
