//! The leaves of the blocks that readers need: read from the manifest page by page, several pages at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::Arc,
};

use crate::{
    engine::{context::Context, error::Error, remote::manifest::OpenManifest},
    format::{
        geometry::{BlockIndex, BlockRange, ByteRange, FANOUT, Geometry},
        judge::Leaves,
        layout::{Group, Layout},
        reader::{LazyTree, Page},
        tree::Root,
    },
};

/// Pages whose leaves stay in memory although no reader needs them: of each 8 KiB.
const PAGES_KEPT: usize = 1024;

/// The bytes of groups of a manifest that were read together, or why they could not be read.
pub struct PagesRead {
    /// The pages for which they were read.
    pages: Vec<u32>,
    groups: Vec<Group>,
    result: Result<Vec<(ByteRange, Vec<u8>)>, Error>,
    /// Of a server without ranges: the manifest, whose pages are all known now.
    whole: Option<OpenManifest>,
}

/// Pages that are not known, and why.
pub struct PagesFailed {
    pub pages: Vec<u32>,
    pub error: Error,
}

/// A read that is under way.
pub type Reading = Pin<Box<dyn Future<Output = PagesRead> + Send>>;

enum Manifest {
    Ranges(Arc<OpenManifest>),
    /// The server does not support ranges. `None` while everything is read.
    Stream(Option<Box<OpenManifest>>),
    /// There is none: all leaves are known.
    Nowhere,
}

/// See the module.
pub struct Pages {
    manifest: Manifest,
    layout: Layout,
    tree: LazyTree,
    leaves: Arc<Leaves>,
    /// Groups that are being read, by level and number.
    requested: BTreeSet<(u32, u32)>,
    /// Groups that arrived before the one above them.
    arrived: BTreeMap<(u32, u32), Vec<u8>>,
    /// Known pages, and when each was needed last.
    known: BTreeMap<u32, u64>,
    clock: u64,
}

/// The pages with the leaves of these blocks.
pub fn pages_of(blocks: BlockRange) -> std::ops::Range<u32> {
    match blocks.is_empty() {
        true => 0..0,
        false => blocks.start / FANOUT..(blocks.end - 1) / FANOUT + 1,
    }
}

/// The blocks of a page.
fn blocks_of(geometry: &Geometry, page: u32) -> BlockRange {
    let first = page * FANOUT;
    BlockRange::new(first, (first + FANOUT).min(geometry.blocks()))
}

impl Pages {
    /// Reads from this manifest into these leaves.
    pub fn new(manifest: OpenManifest, leaves: Arc<Leaves>) -> Pages {
        let header = manifest.header();
        let (layout, root) = (header.layout(), header.root);
        Pages {
            layout,
            tree: LazyTree::new(layout, root),
            manifest: match manifest.has_ranges() {
                true => Manifest::Ranges(Arc::new(manifest)),
                false => Manifest::Stream(Some(Box::new(manifest))),
            },
            leaves,
            requested: BTreeSet::new(),
            arrived: BTreeMap::new(),
            known: BTreeMap::new(),
            clock: 0,
        }
    }

    /// All leaves of an object of this root are known.
    pub fn known(leaves: Arc<Leaves>, root: Root) -> Pages {
        let layout = Layout {
            geometry: *leaves.geometry(),
            hints: false,
        };
        let pages = pages_of(layout.geometry.all());
        Pages {
            manifest: Manifest::Nowhere,
            layout,
            tree: LazyTree::new(layout, root),
            leaves,
            requested: BTreeSet::new(),
            arrived: BTreeMap::new(),
            known: pages.map(|page| (page, u64::MAX)).collect(),
            clock: 0,
        }
    }

    /// Begins to read those of these pages that are neither known nor being read, with all groups above them at once.
    pub fn need(&mut self, context: &Context, pages: &BTreeSet<u32>) -> Option<Reading> {
        self.clock += 1;
        let mut groups: Vec<Group> = Vec::new();
        let mut needed_for = Vec::new();
        for page in pages {
            if let Some(last) = self.known.get_mut(page) {
                *last = self.clock;
                continue;
            }
            for level in (0..=self.layout.geometry.levels()).rev() {
                let index = page / FANOUT.pow(level);
                let key = (level, index);
                let is_known = self.tree.knows(level, index) || self.arrived.contains_key(&key);
                if !is_known && self.requested.insert(key) {
                    groups.push(self.layout.group(level, index));
                    needed_for.push(*page);
                }
            }
        }
        self.forget(pages);
        if groups.is_empty() {
            return None;
        }
        needed_for.dedup();
        let context = context.clone();
        groups.sort_unstable_by_key(|group| group.bytes.start);
        match &mut self.manifest {
            Manifest::Ranges(manifest) => {
                let manifest = manifest.clone();
                Some(Box::pin(async move {
                    let wants: Vec<ByteRange> = groups.iter().map(|group| group.bytes).collect();
                    let result = manifest.read_ranges(&context, &wants).await;
                    PagesRead {
                        pages: needed_for,
                        groups,
                        result,
                        whole: None,
                    }
                }))
            }
            Manifest::Nowhere => None,
            Manifest::Stream(manifest) => {
                let (mut manifest, leaves) = (*manifest.take()?, self.leaves.clone());
                Some(Box::pin(async move {
                    let take = |page: Page| leaves.insert(page.first, &page.leaves);
                    let result = manifest.each_page(&context, take).await;
                    PagesRead {
                        pages: needed_for,
                        groups,
                        result: result.map(|()| Vec::new()),
                        whole: Some(manifest),
                    }
                }))
            }
        }
    }

    /// Proves what was read and adds its leaves. If that fails, returns which pages are not known.
    pub fn read(&mut self, read: PagesRead) -> Result<(), Box<PagesFailed>> {
        let PagesRead {
            pages,
            groups,
            result,
            whole,
        } = read;
        for group in &groups {
            self.requested.remove(&(group.level, group.index));
        }
        if let Some(manifest) = whole {
            if result.is_ok() {
                let pages = pages_of(self.layout.geometry.all());
                self.known.extend(pages.map(|page| (page, u64::MAX)));
            }
            self.manifest = Manifest::Stream(Some(Box::new(manifest)));
        }
        let read = match result {
            Ok(read) => read,
            Err(error) => return Err(Box::new(PagesFailed { pages, error })),
        };
        for (range, bytes) in read {
            if let Some(group) = groups.iter().find(|group| group.bytes == range) {
                self.arrived.insert((group.level, group.index), bytes);
            }
        }
        match self.settle() {
            None => Ok(()),
            Some((group, error)) => {
                let below = |page: &u32| page / FANOUT.pow(group.level) == group.index;
                let pages = pages.into_iter().filter(below).collect();
                Err(Box::new(PagesFailed { pages, error }))
            }
        }
    }

    /// Proves the groups whose parent is known, from the top down. Returns the last one that is wrong.
    fn settle(&mut self) -> Option<(Group, Error)> {
        let top = self.layout.geometry.levels();
        let mut wrong = None;
        for level in (0..=top).rev() {
            let here: Vec<u32> = (self.arrived.range((level, 0)..(level + 1, 0)))
                .map(|((_, index), _)| *index)
                .filter(|index| level == top || self.tree.knows(level + 1, index / FANOUT))
                .collect();
            for index in here {
                let bytes = self.arrived.remove(&(level, index)).unwrap_or_default();
                let group = self.layout.group(level, index);
                if let Err(cause) = self.tree.give(group, &bytes) {
                    wrong = Some((group, self.refuse(cause)));
                } else if level == 0
                    && let Some(leaves) = self.tree.take_page(index)
                {
                    let first = blocks_of(&self.layout.geometry, index).start;
                    self.leaves.insert(BlockIndex(first), &leaves);
                    self.known.insert(index, self.clock);
                }
            }
        }
        wrong
    }

    fn refuse(&self, cause: crate::format::statement::Refused) -> Error {
        let place = match &self.manifest {
            Manifest::Ranges(manifest) => manifest.place(),
            Manifest::Stream(manifest) => manifest.as_ref().map_or("", |manifest| manifest.place()),
            Manifest::Nowhere => "",
        };
        Error::Manifest {
            place: place.to_owned(),
            cause,
        }
    }

    /// Drops the leaves that were not needed for the longest time.
    fn forget(&mut self, needed: &BTreeSet<u32>) {
        while self.known.len() > PAGES_KEPT + needed.len() {
            let oldest = self.known.iter().filter(|(page, _)| !needed.contains(page));
            let Some((page, age)) = oldest.min_by_key(|(_, age)| **age) else {
                return;
            };
            if *age == u64::MAX {
                // They cannot be read page by page.
                return;
            }
            let page = *page;
            self.known.remove(&page);
            // The last page of an object may be short: it stays in memory.
            self.leaves.forget(blocks_of(&self.layout.geometry, page));
        }
    }

    /// Whether the leaves of this page are known.
    pub fn knows(&self, page: u32) -> bool {
        self.known.contains_key(&page)
    }
}
