//! Reading an object with seek.

use std::{
    process,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt;
use parking_lot::Mutex;
use pyo3::{exceptions::PyValueError, prelude::*, types::PyBytes};
use sapwood::{
    engine::{
        error::Error,
        read::{Reader, SharedObject},
    },
    format::geometry::ByteRange,
};
use tokio::{task::JoinHandle, time::timeout};

use crate::{errors, runtime};

/// After so many reads that each went on where the one before ended, what follows is fetched ahead.
const IN_ORDER: u32 = 3;

/// How long what arrived may take into the store, when an object is closed.
const CLOSING: Duration = Duration::from_secs(5);

/// An object that is open.
#[pyclass(frozen, weakref)]
pub struct Object {
    #[pyo3(get)]
    url: String,
    #[pyo3(get)]
    length: u64,
    #[pyo3(get)]
    root: String,
    #[pyo3(get)]
    trust: &'static str,
    #[pyo3(get)]
    block_size: u64,
    opened: Arc<Opened>,
    fetched: Arc<AtomicU64>,
    /// After a fork it cannot be read.
    #[pyo3(get)]
    process: u32,
}

/// What all who read an object share, until it is closed.
struct Opened {
    object: Mutex<Option<SharedObject>>,
    /// Ends when nobody can read any more.
    transfer: Mutex<Option<JoinHandle<()>>>,
}

impl Opened {
    fn reader(&self, start: u64, end: u64) -> PyResult<Reader> {
        Ok(self.object()?.reader(ByteRange::new(start, end.max(start))))
    }

    fn object(&self) -> PyResult<SharedObject> {
        let object = self.object.lock().clone();
        object.ok_or_else(|| PyValueError::new_err("the object is closed"))
    }
}

impl Object {
    /// `length` is proven.
    pub fn new(
        url: String,
        object: SharedObject,
        length: u64,
        fetched: Arc<AtomicU64>,
        transfer: JoinHandle<()>,
    ) -> Object {
        Object {
            url,
            length,
            root: object.root().to_string(),
            trust: object.trust().name(),
            block_size: object.geometry().block_size().bytes(),
            opened: Arc::new(Opened {
                object: Mutex::new(Some(object)),
                transfer: Mutex::new(Some(transfer)),
            }),
            fetched,
            process: process::id(),
        }
    }
}

#[pymethods]
impl Object {
    /// Body bytes that arrived since it was opened, those of the manifest included.
    #[getter]
    fn bytes_fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    /// These bytes, as far as the object has them.
    fn read<'py>(&self, py: Python<'py>, start: u64, end: u64) -> PyResult<Bound<'py, PyBytes>> {
        let mut reader = self.opened.reader(start, end)?;
        let chunks = runtime::wait(py, async move {
            let mut chunks = Vec::new();
            while let Some(chunk) = next(&mut reader).await? {
                chunks.push(chunk);
            }
            Ok(chunks)
        })?;
        joined(py, &chunks)
    }

    /// Ends its requests, and waits until what arrived is in the store. Those who still read end with an error.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let (object, transfer) = (
            self.opened.object.lock().take(),
            self.opened.transfer.lock().take(),
        );
        drop(object);
        let Some(transfer) = transfer.filter(|_| self.process == process::id()) else {
            return Ok(());
        };
        runtime::wait(py, async move {
            // A reader that is left over keeps it from ending.
            let _ = timeout(CLOSING, transfer).await;
            Ok(())
        })
    }

    /// A place in the object, for a file.
    fn cursor(&self) -> Cursor {
        Cursor {
            opened: self.opened.clone(),
            length: self.length,
            place: Mutex::default(),
        }
    }
}

/// Reads an object for one file. Whoever reads in order gets what follows fetched ahead.
#[pyclass(frozen)]
pub struct Cursor {
    opened: Arc<Opened>,
    length: u64,
    place: Mutex<Place>,
}

#[derive(Default)]
struct Place {
    /// Where the last read ended.
    at: u64,
    /// How many reads went on there.
    in_order: u32,
    ahead: Option<Ahead>,
}

/// A reader of all that follows.
struct Ahead {
    reader: Reader,
    /// Of the last chunk.
    left: Bytes,
}

#[pymethods]
impl Cursor {
    /// So many bytes from there on, or those up to the end.
    fn read<'py>(&self, py: Python<'py>, start: u64, length: u64) -> PyResult<Bound<'py, PyBytes>> {
        let end = start.saturating_add(length).min(self.length);
        if start >= end {
            return Ok(PyBytes::new(py, b""));
        }
        let mut place = std::mem::take(&mut *self.place.lock());
        match place.at == start {
            true => place.in_order += 1,
            false => place = Place::default(),
        }
        let goes_on = place.in_order > IN_ORDER;
        let mut ahead = match place.ahead.take() {
            Some(ahead) => ahead,
            None => Ahead {
                reader: self
                    .opened
                    .reader(start, if goes_on { self.length } else { end })?,
                left: Bytes::new(),
            },
        };
        let (chunks, ahead) = runtime::wait(py, async move {
            let chunks = ahead.take(end - start).await?;
            Ok((chunks, ahead))
        })?;
        *self.place.lock() = Place {
            at: end,
            in_order: place.in_order,
            ahead: goes_on.then_some(ahead),
        };
        joined(py, &chunks)
    }
}

impl Ahead {
    /// The next bytes, all of them.
    async fn take(&mut self, length: u64) -> PyResult<Vec<Bytes>> {
        let mut missing = usize::try_from(length).map_err(errors::usage)?;
        let mut chunks = Vec::new();
        while missing > 0 {
            if self.left.is_empty() {
                match next(&mut self.reader).await? {
                    Some(chunk) => self.left = chunk,
                    None => break,
                }
            }
            let chunk = self.left.split_to(missing.min(self.left.len()));
            missing -= chunk.len();
            chunks.push(chunk);
        }
        Ok(chunks)
    }
}

async fn next(reader: &mut Reader) -> PyResult<Option<Bytes>> {
    let raise = |error: Arc<Error>| errors::of(&error);
    reader.next().await.transpose().map_err(raise)
}

fn joined<'py>(py: Python<'py>, chunks: &[Bytes]) -> PyResult<Bound<'py, PyBytes>> {
    let length = chunks.iter().map(Bytes::len).sum();
    PyBytes::new_with(py, length, |buffer| {
        let mut at = 0;
        for chunk in chunks {
            buffer[at..at + chunk.len()].copy_from_slice(chunk);
            at += chunk.len();
        }
        Ok(())
    })
}
