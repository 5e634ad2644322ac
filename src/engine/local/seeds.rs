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

/// A search reads at most this many times the bytes of the seeds, and this much more. An honest search of a whole that has nothing
/// in its place reads each byte about ten times.
const READ_TIMES_MAX: u64 = 64;
const READ_BYTES_MIN: u64 = 64 << 20;
/// Beyond twice the bytes of the seeds, each byte of the manifest that was read is worth reading this many: 16 bytes of pieces, of
/// the smallest block, are worth 1 MiB.
const READ_BYTES_A_BYTE: u64 = 64 << 10;
/// What a read costs besides its bytes.
const READ_COST: u64 = 1024;

/// Open seeds and their trees, the likeliest first.
pub struct Seeds {
    files: Vec<Seed>,
    trees: Vec<Arc<Tree>>,
    stop: Arc<AtomicBool>,
    pub time: SearchTime,
    /// The bytes that the search read of the seeds, and of the manifest.
    bytes_read: u64,
    manifest_bytes: u64,
}

impl Seeds {
    /// No seeds yet. `stop` ends all work on them.
    pub fn new(stop: Arc<AtomicBool>, time: SearchTime) -> Seeds {
        Seeds {
            files: Vec::new(),
            trees: Vec::new(),
            stop,
            time,
            bytes_read: 0,
            manifest_bytes: 0,
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

    /// The bytes of all seeds.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(Seed::length).sum()
    }

    /// Notes that so many bytes of the manifest were read.
    pub fn note_manifest(&mut self, bytes: u64) {
        self.manifest_bytes += bytes;
    }

    /// How much the search may read of the seeds. It follows from what is really here, not from what the manifest claims.
    fn bytes_worth(&self) -> u64 {
        let most = self.bytes().saturating_mul(READ_TIMES_MAX) + READ_BYTES_MIN;
        let of_manifest = self.manifest_bytes.saturating_mul(READ_BYTES_A_BYTE);
        most.min(of_manifest.saturating_add(2 * self.bytes()))
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
        self.bytes_read += into.len() as u64 + READ_COST;
        self.file(seed).read(into, place)
    }

    fn map<T: Send>(
        &mut self,
        ranges: &[(SeedIndex, ByteRange)],
        work: impl Fn(&[u8]) -> T + Sync,
    ) -> Vec<Option<T>> {
        let read = ranges.iter().map(|(_, range)| range.length() + READ_COST);
        self.bytes_read += read.sum::<u64>();
        let one = |index: u64| {
            let (seed, range) = ranges[index as usize];
            let mut bytes = vec![0; range.length() as usize];
            let is_read = self.file(seed).read(&mut bytes, range.start);
            Some(is_read.then(|| work(&bytes)))
        };
        in_parallel(ranges.len() as u64, one).expect("no result is `None`")
    }

    fn value(&mut self, seed: SeedIndex, bytes: ByteRange, offset: u64, root: bool) -> Option<Cv> {
        self.bytes_read += bytes.length() + READ_COST;
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
        !self.stop.load(Ordering::Relaxed)
            && self.time.is_left()
            && self.bytes_read < self.bytes_worth()
    }

    fn note_found(&mut self, bytes: u64) {
        self.time.note_found(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{geometry::Geometry, tree::leaf_of};

    const LENGTH: u64 = 1 << 20;

    fn seeds() -> (Seeds, tempfile::NamedTempFile) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes = vec![3; LENGTH as usize];
        std::fs::write(file.path(), &bytes).unwrap();
        let block_size = BlockSize::new(LENGTH).unwrap();
        let geometry = Geometry::new(LENGTH, block_size).unwrap();
        let leaf = leaf_of(&geometry, geometry.last(), &bytes);
        let mut seeds = Seeds::new(Arc::default(), SearchTime::new(1 << 60, None));
        let tree = Tree::new(geometry, vec![leaf], None);
        seeds.add(Seed::open(file.path()).unwrap(), Arc::new(tree));
        (seeds, file)
    }

    /// How many blocks a search reads before it ends.
    fn reads(manifest: u64) -> u64 {
        let (mut seeds, _file) = seeds();
        let bytes = ByteRange::new(0, LENGTH);
        let mut reads = 0;
        while seeds.may_continue() {
            if reads % 64 == 0 {
                seeds.note_manifest(manifest);
            }
            assert!(seeds.value(SeedIndex(0), bytes, 0, false).is_some());
            reads += 1;
        }
        reads
    }

    #[test]
    fn a_search_ends_by_what_is_here_and_by_what_was_read_of_the_manifest() {
        assert_eq!(reads(0), 2, "whatever is here");
        assert_eq!(reads(1 << 40), 128, "whatever the manifest says");
    }
}
