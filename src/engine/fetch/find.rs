//! Finding on this machine what need not be fetched: the descent in the new manifest over local files, what it found copied into
//! the part and judged there, and blocks put together from pieces.

mod candidates;
mod land;
mod parallel;
mod patch;
mod search;
mod seeds;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    disk::destination::{Locked, Opened},
    engine::{
        blocking,
        error::Error,
        events::{Event, Progress},
        remote::{
            manifest::{OpenManifest, Pages},
            ranges::RangeReader,
            source::Source as Remote,
        },
    },
    format::{
        anchors::BlockAnchor,
        blockset::BlockSet,
        geometry::{BlockIndex, BlockRange, Geometry},
        judge::{Leaves, ObjectKey},
        statement::Header,
        tree::Cv,
    },
    net::location::Location,
    policy::{
        descent::{self, Source},
        samples,
    },
};

use super::Fetch;

use land::{Landed, land};
use patch::Patches;
use search::{Search, Whole, search};
use seeds::Seeds;

impl Search {
    /// Bytes of the object that it found.
    pub fn bytes_local(&self, geometry: &Geometry) -> u64 {
        let whole = self.whole.iter();
        let whole: u64 = whole
            .map(|find| geometry.bytes_of_range(find.blocks).length())
            .sum();
        whole + patch::bytes_local(&self.patched)
    }
}

impl Fetch<'_> {
    /// Reads of the manifest what is needed to find what is here and to judge what is not.
    pub(super) async fn look_around(
        &mut self,
        locked: &Locked,
        manifest: &mut OpenManifest,
    ) -> Result<Search, Error> {
        let header = manifest.header().clone();
        let before = self.client.bytes_fetched();
        let (mut seeds, mut top) = (Seeds::new(Arc::default(), Duration::ZERO), None);
        if manifest.has_ranges() {
            let mut candidates = self.named_seeds(locked).await;
            if self.store_has_any(&header).await {
                let group = header.layout().group(header.geometry.levels(), 0);
                let wants = [group.bytes];
                let read = manifest.read_ranges(&self.context, &wants);
                top = read.await?.pop();
                let tags = top
                    .as_ref()
                    .map(|(_, bytes)| samples::of_group(&group, bytes));
                candidates.stored = self.stored_seeds(&header, tags.unwrap_or_default()).await;
            }
            seeds = self.open_seeds(candidates, header.layout()).await;
        }
        let found = if seeds.is_empty() {
            let pages = manifest.all_leaves(&self.context).await;
            pages.map(|pages| self.without_seeds(&header, pages, seeds))
        } else {
            let what = (header.layout(), header.root);
            search(&self.context, manifest, what, seeds, top).await
        };
        self.bytes_manifest += self.client.bytes_fetched() - before;
        found
    }

    /// Without any seed all leaves are read at once. Blocks of zeros need no source.
    fn without_seeds(&mut self, header: &Header, pages: Pages, seeds: Seeds) -> Search {
        let geometry = header.geometry;
        let leaves = Leaves::empty(ObjectKey::of_root(header.root, geometry));
        leaves.insert(BlockIndex(0), &pages.leaves);
        let zeros = |(block, anchor): (u32, &BlockAnchor)| {
            let value: Cv = pages.leaves[block as usize];
            let block = BlockIndex(block);
            descent::is_zero_block(&geometry, block, *anchor, value).then_some(Whole {
                blocks: BlockRange::one(block),
                value,
                from: Source::Zeros,
            })
        };
        let whole = (0..).zip(&pages.anchors).filter_map(zeros).collect();
        if header.layout().hints {
            self.anchors = Some(pages.anchors);
        }
        Search {
            seeds,
            whole,
            patched: Vec::new(),
            leaves,
        }
    }

    /// Copies what was found into the part and judges it there, and puts blocks together whose pieces are partly here. Returns the
    /// leaves that are known then.
    pub(super) async fn land(
        &mut self,
        search: Search,
        opened: &mut Opened,
        source: &Location,
    ) -> Result<(Landed, Arc<Leaves>), Error> {
        let Search {
            seeds,
            whole,
            patched,
            leaves,
        } = search;
        let leaves = Arc::new(leaves);
        if whole.is_empty() && patched.is_empty() {
            return Ok((Landed::default(), leaves));
        }
        let (part, claimed) = (opened.part.clone(), opened.claimed.clone());
        let known = leaves.clone();
        let landed = blocking::on_disk(move || {
            let landed = land(&part, &seeds, &known, whole, &claimed);
            landed.map(|landed| (landed, seeds))
        });
        let (mut landed, seeds) = landed.await?;
        for stored in &landed.stored {
            opened.journal.note(*stored);
        }
        opened.journal.checkpoint()?;
        let search = (seeds, leaves.clone(), patched);
        self.patch(search, opened, source, &mut landed).await?;
        Ok((landed, leaves))
    }

    async fn patch(
        &mut self,
        (seeds, leaves, mut blocks): (Seeds, Arc<Leaves>, patch::Blocks),
        opened: &mut Opened,
        source: &Location,
        landed: &mut Landed,
    ) -> Result<(), Error> {
        blocks.retain(|(block, _)| !opened.claimed.contains(*block));
        let geometry = *leaves.geometry();
        let patches = Patches {
            seeds: Arc::new(seeds),
            part: opened.part.clone(),
            leaves,
            blocks,
        };
        let source = Remote::http(&self.client, source);
        let source = RangeReader::new(source, None, geometry.length());
        let mut held = BlockSet::empty(geometry.blocks());
        for stored in &landed.stored {
            held.insert_range(stored.blocks());
        }
        let (began, before) = (Instant::now(), self.client.bytes_fetched());
        let (client, events) = (&self.client, &mut *self.events);
        let done = |patched: patch::Patched| {
            landed.bytes_reused += patched.bytes_reused;
            for stored in patched.stored {
                opened.journal.note(stored);
                held.insert_range(stored.blocks());
                landed.stored.push(stored);
            }
            opened.journal.checkpoint()?;
            let fetched = client.bytes_fetched();
            let seconds = began.elapsed().as_secs_f64().max(0.001);
            events.event(Event::Progress(Progress {
                bytes_done: held.bytes(&geometry) + opened.claimed.bytes(&geometry),
                bytes_total: geometry.length(),
                bytes_fetched: fetched,
                bytes_proven: held.bytes(&geometry),
                rate_bps: ((fetched - before) as f64 / seconds) as u64,
            }));
            Ok(())
        };
        patches.run(&self.context, &source, done).await
    }

    /// Reads all leaves, when some of what the search found is not there any more.
    pub(super) async fn all_leaves(
        &mut self,
        manifest: &mut OpenManifest,
        leaves: &Leaves,
    ) -> Result<(), Error> {
        let before = self.client.bytes_fetched();
        let pages = manifest.all_leaves(&self.context).await;
        self.bytes_manifest += self.client.bytes_fetched() - before;
        leaves.insert(BlockIndex(0), &pages?.leaves);
        Ok(())
    }
}
