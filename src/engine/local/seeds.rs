//! The local files that are searched, and their trees.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use parking_lot::Mutex;

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

impl Seeds {
    /// See [`Local::value`].
    fn value_at(&self, seed: SeedIndex, bytes: ByteRange, offset: u64, root: bool) -> Option<Cv> {
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

    /// Whether a search may go on that read so many bytes, and found so many that are not noted yet.
    fn is_worth_more(&self, read: u64, found: u64) -> bool {
        let is_stopped = self.stop.load(Ordering::Relaxed);
        !is_stopped && self.time.is_left(found) && read < self.bytes_worth()
    }
}

impl Local for Seeds {
    fn read(&mut self, seed: SeedIndex, place: u64, into: &mut [u8]) -> bool {
        self.bytes_read += into.len() as u64 + READ_COST;
        self.file(seed).read(into, place)
    }

    fn split<I: Send, T: Send>(
        &mut self,
        items: Vec<I>,
        work: impl Fn(I, &mut dyn Local) -> T + Sync,
    ) -> Vec<T> {
        let (read, found) = (AtomicU64::new(self.bytes_read), AtomicU64::new(0));
        let items = items.into_iter().map(|item| Mutex::new(Some(item)));
        let items: Vec<_> = items.collect();
        let one = |index: u64| {
            let item = items[index as usize].lock().take()?;
            let mut reader = Reader {
                seeds: self,
                read: &read,
                found: &found,
            };
            Some(work(item, &mut reader))
        };
        let done = in_parallel(items.len() as u64, one).expect("each item is taken once");
        self.bytes_read = read.into_inner();
        self.time.note_found(found.into_inner());
        done
    }

    fn value(&mut self, seed: SeedIndex, bytes: ByteRange, offset: u64, root: bool) -> Option<Cv> {
        self.bytes_read += bytes.length() + READ_COST;
        self.value_at(seed, bytes, offset, root)
    }

    fn may_continue(&mut self) -> bool {
        self.is_worth_more(self.bytes_read, 0)
    }

    fn note_found(&mut self, bytes: u64) {
        self.time.note_found(bytes);
    }
}

/// Access to the seeds for one of several threads.
struct Reader<'a> {
    seeds: &'a Seeds,
    /// The bytes that were read by all of them and before them.
    read: &'a AtomicU64,
    /// The bytes that they found.
    found: &'a AtomicU64,
}

impl Local for Reader<'_> {
    fn read(&mut self, seed: SeedIndex, place: u64, into: &mut [u8]) -> bool {
        let cost = into.len() as u64 + READ_COST;
        self.read.fetch_add(cost, Ordering::Relaxed);
        self.seeds.file(seed).read(into, place)
    }

    fn value(&mut self, seed: SeedIndex, bytes: ByteRange, offset: u64, root: bool) -> Option<Cv> {
        let cost = bytes.length() + READ_COST;
        self.read.fetch_add(cost, Ordering::Relaxed);
        self.seeds.value_at(seed, bytes, offset, root)
    }

    fn may_continue(&mut self) -> bool {
        let (read, found) = (self.read, self.found);
        self.seeds
            .is_worth_more(read.load(Ordering::Relaxed), found.load(Ordering::Relaxed))
    }

    fn note_found(&mut self, bytes: u64) {
        self.found.fetch_add(bytes, Ordering::Relaxed);
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

    #[test]
    fn what_is_searched_side_by_side_counts_together() {
        let (mut seeds, _file) = seeds();
        let items: Vec<u64> = (0..9).collect();
        let done = seeds.split(items.clone(), |item, local| {
            local.note_found(item);
            local
                .read(SeedIndex(0), item, &mut [0; 1000])
                .then_some(item)
        });
        assert_eq!(done, items.into_iter().map(Some).collect::<Vec<_>>());
        assert_eq!(seeds.bytes_read, 9 * (1000 + READ_COST));
        assert_eq!(seeds.time.found(), (0..9).sum::<u64>());
        // What others read counts before they end.
        let stops = seeds.split(vec![(); 3], |(), local| {
            let mut reads = 0;
            while local.may_continue() && reads < 1000 {
                local.value(SeedIndex(0), ByteRange::new(0, LENGTH), 0, false);
                reads += 1;
            }
            reads
        });
        assert!(stops.iter().sum::<u64>() <= 2 + 3, "{stops:?}");
    }
}
