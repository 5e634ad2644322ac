//! The known leaves of one object, page by page. Those of a large object lie outside of memory.

use std::{
    collections::VecDeque,
    fmt,
    sync::atomic::{AtomicBool, Ordering},
};

use parking_lot::{Mutex, RwLock};

use super::{
    geometry::{BlockIndex, BlockRange, FANOUT, Geometry},
    tree::{self, Cv, Root},
};

/// Pages of a large object that are in memory at a time: 8 MiB of leaves.
const PAGES_IN_MEMORY: usize = 1024;
/// Leaves of an object with more blocks than this go to a [`PageStore`]: all of them would take more than that memory.
pub const BLOCKS_IN_MEMORY: u32 = PAGES_IN_MEMORY as u32 * FANOUT;

/// Which object, in blocks of which size. Proofs of two objects, or of two block sizes, never mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectKey {
    id: [u8; 32],
    geometry: Geometry,
}

impl ObjectKey {
    /// An object with a manifest: its root names it.
    pub fn of_root(root: Root, geometry: Geometry) -> ObjectKey {
        ObjectKey {
            id: root.0,
            geometry,
        }
    }

    /// An object without a manifest: the BLAKE3 hash of its length and its validators names it.
    pub fn of_version(
        geometry: Geometry,
        etag: Option<&str>,
        last_modified: Option<&str>,
    ) -> ObjectKey {
        // Derived, so that no root can be the same.
        let mut hasher = blake3::Hasher::new_derive_key("sapwood 2026 object without a manifest");
        hasher.update(&geometry.length().to_le_bytes());
        for text in [etag, last_modified] {
            let length = text.map_or(u64::MAX, |text| text.len() as u64);
            hasher.update(&length.to_le_bytes());
            hasher.update(text.unwrap_or_default().as_bytes());
        }
        ObjectKey {
            id: *hasher.finalize().as_bytes(),
            geometry,
        }
    }

    /// Where its blocks are.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }
}

/// Keeps pages of proven leaves outside of memory, for one run. Nobody else can change them.
pub trait PageStore: Send + Sync + fmt::Debug {
    /// Keeps a page, which replaces an earlier one of this number. `false`: it cannot be kept.
    fn put(&self, page: u32, leaves: &[Cv]) -> bool;

    /// Reads a page that was put. `false`: it cannot be read.
    fn get(&self, page: u32, leaves: &mut [Cv]) -> bool;
}

/// The leaves of one page of a manifest, up to [`FANOUT`] neighbouring blocks.
#[derive(Debug, Default)]
struct Page {
    /// Which of them are known, one bit each.
    known: [u64; FANOUT as usize / 64],
    /// Empty if none is known, or if they are in the store only.
    values: Box<[Cv]>,
}

impl Page {
    fn knows(&self, at: usize) -> bool {
        self.known[at / 64] >> (at % 64) & 1 == 1
    }

    fn known(&self) -> u32 {
        self.known.iter().map(|word| word.count_ones()).sum()
    }

    /// Adds a leaf, unless it is known.
    fn put(&mut self, at: usize, leaf: Cv) {
        if !self.knows(at) {
            self.known[at / 64] |= 1 << (at % 64);
            self.values[at] = leaf;
        }
    }
}

/// The known leaves of one object, which the judge compares with. Threads share them; they are added page by page or one by one.
#[derive(Debug)]
pub struct Leaves {
    object: ObjectKey,
    pages: Box<[RwLock<Page>]>,
    /// There is no manifest: the first bytes that arrive for a block are trusted, and later ones must equal them.
    first_use: bool,
    store: Option<Stored>,
}

/// Where pages are that are not in memory.
#[derive(Debug)]
struct Stored {
    pages: Box<dyn PageStore>,
    /// Pages that are in memory too, the oldest first. Each is in it once.
    in_memory: Mutex<VecDeque<u32>>,
    failed: AtomicBool,
}

impl Leaves {
    /// All leaves of an object, one for each block. Their root is the object's.
    ///
    /// # Panics
    /// If `values` has not one leaf for each block.
    pub fn new(geometry: Geometry, values: Vec<Cv>) -> Leaves {
        assert_eq!(values.len(), geometry.blocks() as usize, "one leaf a block");
        let leaves = Leaves::empty(ObjectKey::of_root(tree::root_of(&values), geometry));
        leaves.insert(BlockIndex(0), &values);
        leaves
    }

    /// Leaves of an object with a manifest, of which none is known yet.
    pub fn empty(object: ObjectKey) -> Leaves {
        let pages = 0..object.geometry.blocks().div_ceil(FANOUT);
        Leaves {
            object,
            pages: pages.map(|_| RwLock::default()).collect(),
            first_use: false,
            store: None,
        }
    }

    /// The same for an object of more than [`BLOCKS_IN_MEMORY`]: this store keeps them.
    pub fn stored(object: ObjectKey, pages: Box<dyn PageStore>) -> Leaves {
        Leaves {
            store: Some(Stored {
                pages,
                in_memory: Mutex::default(),
                failed: AtomicBool::new(false),
            }),
            ..Leaves::empty(object)
        }
    }

    /// Leaves of an object without a manifest, learned from what arrives first; these were learned in earlier runs.
    pub fn first_use(
        object: ObjectKey,
        known: impl IntoIterator<Item = (BlockIndex, Cv)>,
    ) -> Leaves {
        let leaves = Leaves {
            first_use: true,
            ..Leaves::empty(object)
        };
        for (block, leaf) in known {
            if block.0 < object.geometry.blocks() {
                leaves.get_or_insert(block, leaf);
            }
        }
        leaves
    }

    /// Whose leaves they are.
    pub fn object(&self) -> &ObjectKey {
        &self.object
    }

    /// Where the blocks are.
    pub fn geometry(&self) -> &Geometry {
        &self.object.geometry
    }

    /// Whether they are learned from what arrives.
    pub fn are_first_use(&self) -> bool {
        self.first_use
    }

    /// Whether the store failed: known leaves may be missing.
    pub fn have_failed(&self) -> bool {
        let store = self.store.as_ref();
        store.is_some_and(|store| store.failed.load(Ordering::Relaxed))
    }

    /// Adds leaves of neighbouring blocks that were proven against the root. Known leaves stay as they are.
    ///
    /// # Panics
    /// If the object has fewer blocks.
    pub fn insert(&self, first: BlockIndex, values: &[Cv]) {
        let (mut block, mut rest) = (first, values);
        while !rest.is_empty() {
            let at = (block.0 % FANOUT) as usize;
            let (now, later) = rest.split_at(rest.len().min(FANOUT as usize - at));
            self.change_page(block, |page| {
                for (at, leaf) in (at..).zip(now) {
                    page.put(at, *leaf);
                }
            });
            rest = later;
            block = BlockIndex(block.0 + now.len() as u32);
        }
    }

    /// The leaf of a block, if it is known.
    pub fn leaf(&self, block: BlockIndex) -> Option<Cv> {
        if block.0 >= self.geometry().blocks() {
            return None;
        }
        let at = (block.0 % FANOUT) as usize;
        let page = self.page(block).read();
        if !page.knows(at) || !page.values.is_empty() {
            return page.knows(at).then(|| page.values[at]);
        }
        drop(page);
        let mut page = self.page(block).write();
        let loaded = self.load(block, &mut page);
        let leaf = page.values.get(at).copied();
        drop(page);
        if loaded {
            self.note_in_memory(block);
        }
        leaf
    }

    /// Whether all are known.
    pub fn are_complete(&self) -> bool {
        let known = self.pages.iter().map(|page| page.read().known());
        known.sum::<u32>() == self.geometry().blocks()
    }

    /// All leaves, as soon as all are known.
    pub fn all(&self) -> Option<Vec<Cv>> {
        let mut all = Vec::with_capacity(self.geometry().blocks() as usize);
        for block in self.geometry().all().iter() {
            all.push(self.leaf(block)?);
        }
        Some(all)
    }

    /// Forgets the pages that end within these blocks: memory of a long stream stays bounded. They can be inserted again.
    ///
    /// # Panics
    /// If the leaves are learned from what arrives: other ones could be learned then.
    pub fn forget(&self, blocks: BlockRange) {
        assert!(!self.first_use, "trust on first use is not forgotten");
        let pages = (blocks.start / FANOUT) as usize..(blocks.end / FANOUT) as usize;
        for page in &self.pages[pages] {
            *page.write() = Page::default();
        }
    }

    /// The known leaf of a block; if there is none, makes it this one.
    pub(super) fn get_or_insert(&self, block: BlockIndex, leaf: Cv) -> Cv {
        let at = (block.0 % FANOUT) as usize;
        self.change_page(block, |page| {
            page.put(at, leaf);
            page.values[at]
        })
    }

    fn page(&self, block: BlockIndex) -> &RwLock<Page> {
        &self.pages[(block.0 / FANOUT) as usize]
    }

    fn change_page<T>(&self, block: BlockIndex, change: impl FnOnce(&mut Page) -> T) -> T {
        let mut page = self.page(block).write();
        let mut is_new = self.load(block, &mut page);
        if page.values.is_empty() {
            let first = block.0 / FANOUT * FANOUT;
            let count = (self.geometry().blocks() - first).min(FANOUT);
            page.values = vec![[0; 32]; count as usize].into();
            is_new = true;
        }
        let changed = change(&mut page);
        if let Some(store) = &self.store
            && !store.pages.put(block.0 / FANOUT, &page.values)
        {
            store.failed.store(true, Ordering::Relaxed);
        }
        drop(page);
        if is_new {
            self.note_in_memory(block);
        }
        changed
    }

    /// Reads a page that is in the store only. Returns whether it is in memory since now.
    fn load(&self, block: BlockIndex, page: &mut Page) -> bool {
        let Some(store) = &self.store else {
            return false;
        };
        if !page.values.is_empty() || page.known() == 0 {
            return false;
        }
        let first = block.0 / FANOUT * FANOUT;
        let count = (self.geometry().blocks() - first).min(FANOUT);
        let mut values = vec![[0; 32]; count as usize];
        if !store.pages.get(block.0 / FANOUT, &mut values) {
            store.failed.store(true, Ordering::Relaxed);
            page.known = Page::default().known;
            return false;
        }
        page.values = values.into();
        true
    }

    /// Leaves the oldest pages to the store alone.
    fn note_in_memory(&self, block: BlockIndex) {
        let Some(store) = &self.store else {
            return;
        };
        let oldest = {
            let mut in_memory = store.in_memory.lock();
            in_memory.push_back(block.0 / FANOUT);
            match in_memory.len() > PAGES_IN_MEMORY {
                true => in_memory.pop_front(),
                false => None,
            }
        };
        if let Some(oldest) = oldest {
            self.pages[oldest as usize].write().values = Box::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::geometry::BlockSize;

    fn of(blocks: u32) -> (ObjectKey, Vec<Cv>) {
        let geometry = Geometry::new(u64::from(blocks) << 14, BlockSize::MIN).unwrap();
        let values = (0..blocks).map(|i| *blake3::hash(&i.to_le_bytes()).as_bytes());
        (
            ObjectKey::of_root(Root([7; 32]), geometry),
            values.collect(),
        )
    }

    fn version(length: u64) -> ObjectKey {
        let geometry = Geometry::new(length, BlockSize::MIN).unwrap();
        ObjectKey::of_version(geometry, Some("\"a\""), None)
    }

    #[test]
    fn versions_and_roots_are_other_objects() {
        let geometry = *version(99).geometry();
        let other = Geometry::new(99, BlockSize::DEFAULT).unwrap();
        let root = Root(version(99).id);
        let texts = [
            (None, None),
            (Some("a"), None),
            (None, Some("a")),
            (Some(""), None),
            (Some("ab"), None),
            (Some("a"), Some("b")),
        ];
        let mut all: Vec<ObjectKey> = texts
            .iter()
            .map(|(etag, date)| ObjectKey::of_version(geometry, *etag, *date))
            .collect();
        all.extend([
            version(98),
            version(99),
            ObjectKey::of_root(root, other),
            ObjectKey::of_root(Root([0; 32]), geometry),
        ]);
        for (i, one) in all.iter().enumerate() {
            assert_eq!(all.iter().position(|other| one == other), Some(i));
        }
    }

    #[test]
    fn leaves_come_piecewise_and_go_page_by_page() {
        for blocks in [1u32, 255, 256, 257, 700] {
            let (object, values) = of(blocks);
            let leaves = Leaves::empty(object);
            let middle = blocks as usize / 2;
            leaves.insert(BlockIndex(blocks / 2), &values[middle..]);
            assert_eq!(leaves.are_complete(), middle == 0, "{blocks}");
            assert_eq!(leaves.leaf(BlockIndex(0)).is_some(), middle == 0);
            leaves.insert(BlockIndex(0), &values[..middle]);
            assert!(leaves.are_complete(), "{blocks}");
            assert_eq!(leaves.all(), Some(values.clone()));
            assert_eq!(leaves.leaf(BlockIndex(blocks)), None);
            // Pages that do not end within these blocks stay.
            leaves.forget(BlockRange::new(5.min(blocks), blocks.min(600)));
            for block in 0..blocks {
                let is_known = block >= blocks.min(600) / 256 * 256;
                assert_eq!(leaves.leaf(BlockIndex(block)).is_some(), is_known);
            }
        }
    }

    /// A store in memory that may break.
    #[derive(Debug, Default)]
    struct Kept {
        pages: Mutex<std::collections::BTreeMap<u32, Vec<Cv>>>,
        broken: std::sync::Arc<AtomicBool>,
    }

    impl PageStore for Kept {
        fn put(&self, page: u32, leaves: &[Cv]) -> bool {
            self.pages.lock().insert(page, leaves.to_vec());
            !self.broken.load(Ordering::Relaxed)
        }

        fn get(&self, page: u32, leaves: &mut [Cv]) -> bool {
            let pages = self.pages.lock();
            leaves.copy_from_slice(&pages[&page]);
            !self.broken.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn leaves_of_a_large_object_are_in_memory_in_part_and_known_as_a_whole() {
        let blocks = BLOCKS_IN_MEMORY + 3 * FANOUT + 5;
        let (object, values) = of(blocks);
        let kept = Kept::default();
        let broken = kept.broken.clone();
        let leaves = Leaves::stored(object, Box::new(kept));
        let in_memory = || {
            let pages = leaves.pages.iter();
            pages.filter(|page| !page.read().values.is_empty()).count()
        };
        // Odd steps: pages come in parts, and are read again to be completed.
        for first in [1, 0] {
            for (index, some) in values.chunks(77).enumerate().skip(first).step_by(2) {
                leaves.insert(BlockIndex(index as u32 * 77), some);
                assert!(in_memory() <= PAGES_IN_MEMORY);
            }
            assert_eq!(leaves.are_complete(), first == 0);
        }
        assert_eq!(leaves.all(), Some(values.clone()));
        assert_eq!(in_memory(), PAGES_IN_MEMORY);
        assert!(!leaves.have_failed());
        broken.store(true, Ordering::Relaxed);
        let known = (0..blocks).filter(|block| leaves.leaf(BlockIndex(*block)).is_some());
        assert_eq!(known.count() as u32, BLOCKS_IN_MEMORY - FANOUT + 5);
        assert!(leaves.have_failed());
    }
}
