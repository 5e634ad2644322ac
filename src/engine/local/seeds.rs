//! The local files that are searched, and their trees.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::{
    disk::{error::DiskError, seed::Seed},
    engine::{error::Error, hashing::TreeHasher},
    format::{
        geometry::{BlockSize, ByteRange},
        manifest::Tree,
        tree::{self, Cv, PartHasher},
    },
    policy::descent::{Local, SeedIndex},
};

use super::{parallel::in_parallel, time::SearchTime};

/// A longer range is hashed in parts of this size on all cores; a shorter one on one core.
const PART_BYTES: u64 = 1 << 20;
const READ_BYTES: usize = 256 * 1024;

/// Open seeds and their trees, the likeliest first.
pub struct Seeds {
    files: Vec<Seed>,
    trees: Vec<Arc<Tree>>,
    stop: Arc<AtomicBool>,
    pub time: SearchTime,
}

impl Seeds {
    /// No seeds yet. `stop` ends all work on them.
    pub fn new(stop: Arc<AtomicBool>, time: SearchTime) -> Seeds {
        Seeds {
            files: Vec::new(),
            trees: Vec::new(),
            stop,
            time,
        }
    }

    /// Adds a file whose tree is known.
    pub fn add(&mut self, file: Seed, tree: Arc<Tree>) {
        self.files.push(file);
        self.trees.push(tree);
    }

    /// Whether this file, in this version, is among them.
    pub fn has(&self, file: &Seed) -> bool {
        self.files.iter().any(|known| known.stamp() == file.stamp())
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    pub fn trees(&self) -> Vec<Arc<Tree>> {
        self.trees.clone()
    }

    pub fn file(&self, seed: SeedIndex) -> &Seed {
        &self.files[usize::from(seed.0)]
    }

    pub fn stop(&self) -> &AtomicBool {
        &self.stop
    }

    /// Computes the tree of a file in one pass.
    pub fn hash_tree(
        &self,
        file: &Seed,
        block_size: BlockSize,
        hints: bool,
    ) -> Result<Tree, Error> {
        let hasher = TreeHasher {
            block_size: block_size.max(BlockSize::auto(file.length())),
            may_grow: false,
            hints,
        };
        let regions = file.regions()?;
        let place = file.path().display().to_string();
        let stopped = || DiskError::ChangedWhileRead {
            path: file.path().into(),
        };
        let mut unless_stopped = |_: &[u8]| match self.stop.load(Ordering::Relaxed) {
            true => Err(stopped().into()),
            false => Ok(()),
        };
        let tree = hasher.run(&regions, &place, &mut unless_stopped)?;
        regions.check_unchanged()?;
        Ok(tree)
    }

    /// Hashes one part of a range.
    fn value_of(&self, seed: SeedIndex, bytes: ByteRange, offset: u64) -> Option<PartHasher> {
        let mut hasher = PartHasher::new(offset);
        let mut buffer = vec![0; READ_BYTES.min(bytes.length() as usize)];
        let mut at = bytes.start;
        while at < bytes.end {
            let now = (bytes.end - at).min(buffer.len() as u64);
            let buffer = &mut buffer[..now as usize];
            if self.stop.load(Ordering::Relaxed) || !self.file(seed).read(buffer, at) {
                return None;
            }
            hasher.update(buffer);
            at += now;
        }
        Some(hasher)
    }
}

impl Local for Seeds {
    fn read(&mut self, seed: SeedIndex, place: u64, into: &mut [u8]) -> bool {
        self.file(seed).read(into, place)
    }

    fn value(&mut self, seed: SeedIndex, bytes: ByteRange, offset: u64, root: bool) -> Option<Cv> {
        if bytes.length() <= PART_BYTES {
            let hasher = self.value_of(seed, bytes, offset)?;
            return Some(match root {
                true => hasher.root().0,
                false => hasher.value(),
            });
        }
        let part = |index: u64| {
            let start = bytes.start + index * PART_BYTES;
            let range = ByteRange::new(start, bytes.end.min(start + PART_BYTES));
            self.value_of(seed, range, offset + index * PART_BYTES)
                .map(|hasher| hasher.value())
        };
        let values = in_parallel(bytes.length().div_ceil(PART_BYTES), part)?;
        Some(match root {
            true => tree::merge_root(&values).0,
            false => tree::merge(&values),
        })
    }

    fn may_continue(&mut self) -> bool {
        !self.stop.load(Ordering::Relaxed) && self.time.is_left()
    }

    fn note_found(&mut self, bytes: u64) {
        self.time.note_found(bytes);
    }
}
