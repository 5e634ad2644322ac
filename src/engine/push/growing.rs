//! A source that grows: its parts are read as they become full, into files without names, so that what was hashed is what is sent,
//! whatever its writer does.

use std::{
    collections::BTreeMap,
    fs::File,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::sleep;

use crate::{
    disk::{
        error::DiskError,
        files,
        growing::{GrowingFile, Look},
        temporary,
    },
    engine::{blocking, error::Error, events::Event, remote::retry::tell, upload::content::Stored},
    format::{geometry::ByteRange, upload::Sha256},
    policy::parts::PartPlan,
};

use super::source::{self, Describer, SourceFile, SourcePart};

/// How often the file is looked at.
const EVERY: Duration = Duration::from_millis(200);

/// A file that is followed while it grows.
pub struct Growing {
    file: Mutex<GrowingFile>,
    open: Arc<File>,
    path: Arc<Path>,
    identity: (u64, u64),
    length: AtomicU64,
}

impl Growing {
    /// Opens it, when it is there.
    pub async fn open(path: &Path, idle: Duration) -> Result<Growing, Error> {
        let path: Arc<Path> = path.into();
        let mut is_told = false;
        let file = loop {
            let of = path.clone();
            let opened = blocking::on_disk(move || GrowingFile::open(&of, idle)).await?;
            if let Some(file) = opened {
                break file;
            }
            if !is_told {
                let path = path.to_path_buf();
                tell(Event::Awaited { path });
                is_told = true;
            }
            sleep(EVERY).await;
        };
        Ok(Growing {
            open: file.file().clone(),
            identity: file.identity(),
            file: Mutex::new(file),
            path,
            length: AtomicU64::new(0),
        })
    }

    pub fn identity(&self) -> (u64, u64) {
        self.identity
    }

    /// In bytes, when it was looked at last.
    pub fn length(&self) -> u64 {
        self.length.load(Ordering::Relaxed)
    }

    /// Fails if it got shorter, or lost its name.
    pub async fn look(self: &Arc<Self>) -> Result<Look, DiskError> {
        let growing = self.clone();
        let look = blocking::on_disk(move || growing.file.lock().look()).await?;
        self.length.store(look.length, Ordering::Relaxed);
        Ok(look)
    }

    /// Waits until it has so many bytes; `false`: it ended before.
    async fn grows_to(self: &Arc<Self>, bytes: u64) -> Result<bool, DiskError> {
        loop {
            let look = self.look().await?;
            if look.length >= bytes {
                return Ok(true);
            }
            if look.has_ended {
                return Ok(false);
            }
            sleep(EVERY).await;
        }
    }

    /// Waits until it has ended.
    pub async fn ends(self: &Arc<Self>) -> Result<(), DiskError> {
        self.grows_to(u64::MAX).await.map(drop)
    }

    /// The file, which has ended.
    pub async fn ended(&self) -> Result<SourceFile, Error> {
        SourceFile::of(self.open.clone(), self.path.clone()).await
    }
}

/// The parts of a file that grows which are full, in order.
pub struct GrowingParts {
    pub source: Arc<Growing>,
    pub next: u32,
    /// What the storage has: such a part is not copied.
    pub finished: Arc<BTreeMap<u32, Sha256>>,
}

/// Waits until a part is full, and describes it. `None`: the file ended before.
pub async fn describe(
    parts: Arc<Growing>,
    finished: Arc<BTreeMap<u32, Sha256>>,
    plan: PartPlan,
    index: u32,
    stop: Arc<AtomicBool>,
) -> Result<Option<SourcePart>, DiskError> {
    let Some(bytes) = plan.part(index) else {
        return Ok(None);
    };
    if !parts.grows_to(bytes.end).await? {
        return Ok(None);
    }
    blocking::on_disk(move || {
        let here = Stored {
            file: parts.open.clone(),
            path: parts.path.clone(),
            bytes,
        };
        if let Some(known) = finished.get(&index) {
            let part = read(here.clone(), &plan, index, None, &stop)?;
            if part.sha256 == *known {
                return Ok(Some(part));
            }
        }
        let (spool, path) = temporary::spool()?;
        let copy = Stored {
            file: Arc::new(spool),
            path: path.into(),
            bytes: ByteRange::new(0, bytes.length()),
        };
        read(here, &plan, index, Some(copy), &stop).map(Some)
    })
    .await
}

/// Reads and hashes a part, and copies it.
fn read(
    from: Stored,
    plan: &PartPlan,
    index: u32,
    copy: Option<Stored>,
    stop: &AtomicBool,
) -> Result<SourcePart, DiskError> {
    let bytes = from.bytes;
    let mut describer = Describer::new(plan.block_size(), bytes.start);
    source::each_chunk(&from, stop, |at, chunk| {
        describer.update(chunk);
        match &copy {
            Some(copy) => files::write_at(&copy.file, &copy.path, chunk, at - bytes.start),
            None => Ok(()),
        }
    })?;
    Ok(describer.finish(plan, index, bytes, copy.unwrap_or(from)))
}
