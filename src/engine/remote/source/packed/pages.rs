//! The index of a remote pack: all of it, proven; or the pages that are needed, as hints.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use futures_util::future::BoxFuture;
use parking_lot::RwLock;
use tokio::sync::Mutex;

use crate::{
    engine::error::Error,
    format::{
        geometry::ByteRange,
        pack::{BadIndex, CLUSTER, FRAME, PackHead, PackIndex, PackLayout, PackPage},
    },
};

/// A page is read if this many times its bytes are to be fetched, and so is the whole index.
pub const PAYS_FROM: u64 = 8;

/// The pages of an index, as far as they were read.
pub struct PackPages {
    layout: PackLayout,
    /// Of the pack.
    length: u64,
    /// `None`: it cannot be used.
    pages: RwLock<HashMap<u64, Option<Arc<PackPage>>>>,
    /// `None`: all pages were read.
    more: Option<More>,
    /// Held while pages are read, so that none is read twice.
    turn: Mutex<()>,
}

/// Reads ranges of a manifest. What cannot be read is left out, and why.
pub type ReadRanges = dyn Fn(Vec<ByteRange>) -> BoxFuture<'static, (HashMap<u64, Vec<u8>>, Result<(), Error>)>
    + Send
    + Sync;

/// Where the rest of an index can be read.
pub struct More {
    /// Returns the bytes by where they begin.
    pub read: Box<ReadRanges>,
    /// Of the manifest, for errors.
    pub place: String,
    /// Where the index begins in the manifest.
    pub start: u64,
}

impl PackPages {
    /// Of a whole index.
    pub fn whole(index: &[u8], layout: PackLayout) -> Result<PackPages, BadIndex> {
        let length = PackIndex::from_bytes(index, layout.bytes().length())?
            .head
            .length;
        let page = |number: u64| {
            let place = layout.page(number);
            let bytes = &index[place.start as usize..place.end as usize];
            let page = PackPage::from_bytes(bytes, layout, number)?;
            Ok((number, Some(Arc::new(page))))
        };
        let pages = (0..layout.pages()).map(page).collect::<Result<_, _>>()?;
        Ok(PackPages {
            layout,
            length,
            pages: RwLock::new(pages),
            more: None,
            turn: Mutex::new(()),
        })
    }

    /// Of an index of which only the head was read.
    pub fn some(head: PackHead, layout: PackLayout, more: More) -> PackPages {
        PackPages {
            layout,
            length: head.length,
            pages: RwLock::default(),
            more: Some(more),
            turn: Mutex::new(()),
        }
    }

    /// Where the parts of the pack lie.
    pub fn layout(&self) -> PackLayout {
        self.layout
    }

    /// The length of the pack.
    pub fn length(&self) -> u64 {
        self.length
    }

    fn page_at(&self, offset: u64) -> Option<Arc<PackPage>> {
        let page = self
            .layout
            .pages_of(ByteRange::new(offset, offset + 1))
            .start;
        self.pages.read().get(&page)?.clone()
    }

    /// Where a packed frame lies in the pack; empty: it is not packed, or its page was not read.
    pub fn frame(&self, frame: u64) -> ByteRange {
        let page = self.page_at(frame * FRAME);
        page.map_or(ByteRange::new(0, 0), |page| page.frame(frame))
    }

    /// Where the packed pieces of a cluster lie in the pack, in the same way.
    pub fn cluster(&self, cluster: u64) -> ByteRange {
        let page = self.page_at(cluster * CLUSTER);
        page.map_or(ByteRange::new(0, 0), |page| page.cluster(cluster))
    }

    /// Reads the pages that are worth it for these bytes of the object.
    pub async fn load(&self, wants: impl IntoIterator<Item = ByteRange>) -> Result<(), Error> {
        let Some(more) = &self.more else {
            return Ok(());
        };
        let wanted = self.worthwhile(wants);
        match self.unknown(&wanted).is_empty() {
            true => Ok(()),
            false => self.read(more, wanted).await,
        }
    }

    /// The pages of which enough bytes are wanted.
    fn worthwhile(&self, wants: impl IntoIterator<Item = ByteRange>) -> Vec<u64> {
        let mut wanted: BTreeMap<u64, u64> = BTreeMap::new();
        for want in wants {
            for page in self.layout.pages_of(want) {
                let all = self.layout.bytes_of_page(page);
                let bytes = want.end.min(all.end) - want.start.max(all.start);
                *wanted.entry(page).or_default() += bytes;
            }
        }
        wanted.retain(|page, bytes| self.layout.page(*page).length() * PAYS_FROM <= *bytes);
        wanted.into_keys().collect()
    }

    fn unknown(&self, wanted: &[u64]) -> Vec<u64> {
        let known = self.pages.read();
        let unknown = wanted.iter().filter(|page| !known.contains_key(page));
        unknown.copied().collect()
    }

    async fn read(&self, more: &More, wanted: Vec<u64>) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        let pages = self.unknown(&wanted);
        let place = |page: &u64| {
            let place = self.layout.page(*page);
            ByteRange::new(more.start + place.start, more.start + place.end)
        };
        let ranges: Vec<ByteRange> = pages.iter().map(place).collect();
        let (read, result) = (more.read)(ranges.clone()).await;
        let mut bad = None;
        for (page, range) in pages.iter().zip(&ranges) {
            // What did not arrive may be read another time.
            let Some(bytes) = read.get(&range.start) else {
                continue;
            };
            let usable = self.page(*page, bytes).map(Arc::new);
            bad = bad.or(usable.as_ref().err().copied());
            self.pages.write().insert(*page, usable.ok());
        }
        result?;
        bad.map_or(Ok(()), |cause| {
            Err(Error::Pack {
                place: more.place.clone(),
                cause: cause.into(),
            })
        })
    }

    fn page(&self, page: u64, bytes: &[u8]) -> Result<PackPage, BadIndex> {
        let read = PackPage::from_bytes(bytes, self.layout, page)?;
        match read.is_within(self.layout, self.length) {
            true => Ok(read),
            false => Err(BadIndex::Offsets(page)),
        }
    }
}
