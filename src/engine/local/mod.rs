//! Finding blocks in local files, so that they need not be fetched: descends in the new manifest over the files, copies what it
//! finds into the part, judges it there, and assembles blocks from pieces.

mod candidates;
mod copy;
mod parallel;
mod patch;
mod search;
mod seeds;
mod time;

use std::{path::PathBuf, sync::Arc, time::Instant};

use crate::{
    disk::destination::Opened,
    engine::{
        blocking::{self, StopWhenDropped},
        context::Context,
        error::Error,
        events::{Event, Events, Progress},
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

use candidates::{named_seeds, open_seeds, store_has_any, stored_seeds};
pub use copy::Copied;
use patch::{Patched, Patches};
pub use search::Search;
use search::{Whole, search};
use seeds::Seeds;
use time::SearchTime;

/// Where to search for the object of a manifest.
pub struct FindRequest {
    /// The URL of the object.
    pub url: Location,
    /// The file that the object will replace.
    pub target: PathBuf,
    /// Files that the user names, and folders of files.
    pub seeds: Vec<PathBuf>,
    /// Search everything that the store knows.
    pub seed_store: bool,
    /// The user gave the root.
    pub root_given: bool,
    /// The user gave the key with this ID.
    pub key_id: Option<String>,
}

/// What was found, and the anchors of all blocks, if they were read anyway.
pub struct Found {
    pub search: Search,
    pub anchors: Option<Vec<BlockAnchor>>,
}

impl Search {
    /// Bytes of the object that were found.
    pub fn bytes_local(&self, geometry: &Geometry) -> u64 {
        let whole = self.whole.iter();
        let whole: u64 = whole
            .map(|find| geometry.bytes_of_range(find.blocks).length())
            .sum();
        whole + patch::bytes_local(&self.patched)
    }
}

/// Reads the parts of the manifest that are needed to find local blocks and to judge the others.
pub async fn find(
    context: &Context,
    request: &FindRequest,
    stop: &StopWhenDropped,
    manifest: &mut OpenManifest,
    events: &mut dyn Events,
) -> Result<Found, Error> {
    let header = manifest.header().clone();
    let (mut seeds, mut top) = (Seeds::new(Arc::default(), SearchTime::new(0, None)), None);
    if manifest.has_ranges() {
        let mut candidates = named_seeds(request).await;
        if store_has_any(context, request, &header, events).await {
            let group = header.layout().group(header.geometry.levels(), 0);
            top = manifest.read_ranges(context, &[group.bytes]).await?.pop();
            let tags = top
                .as_ref()
                .map(|(_, bytes)| samples::of_group(&group, bytes));
            let tags = tags.unwrap_or_default();
            candidates.stored = stored_seeds(context, request, &header, tags, events).await;
        }
        seeds = open_seeds(context, candidates, header.layout(), stop, events).await;
    }
    if seeds.is_empty() {
        let pages = manifest.all_leaves(context).await?;
        return Ok(without_seeds(&header, pages, seeds));
    }
    let what = (header.layout(), header.root);
    Ok(Found {
        search: search(context, manifest, what, seeds, top).await?,
        anchors: None,
    })
}

/// Without seeds, all leaves were read at once. Blocks of zeros need no source.
fn without_seeds(header: &Header, pages: Pages, seeds: Seeds) -> Found {
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
    Found {
        search: Search {
            seeds,
            whole,
            patched: Vec::new(),
            leaves,
        },
        anchors: header.layout().hints.then_some(pages.anchors),
    }
}

/// Copies what was found into the part, judges it there, and assembles blocks whose pieces are partly local. Returns the leaves
/// that are known then.
pub async fn copy_found(
    context: &Context,
    search: Search,
    opened: &mut Opened,
    source: &Location,
    events: &mut dyn Events,
) -> Result<(Copied, Arc<Leaves>), Error> {
    let Search {
        seeds,
        whole,
        patched,
        leaves,
    } = search;
    let leaves = Arc::new(leaves);
    if whole.is_empty() && patched.is_empty() {
        return Ok((Copied::default(), leaves));
    }
    let (part, claimed) = (opened.part.clone(), opened.claimed.clone());
    let known = leaves.clone();
    let copied = blocking::on_disk(move || {
        let copied = copy::copy(&part, &seeds, &known, whole, &claimed);
        copied.map(|copied| (copied, seeds))
    });
    let (mut copied, seeds) = copied.await?;
    for stored in &copied.stored {
        opened.journal.note(*stored);
    }
    opened.journal.checkpoint()?;
    let patches = Patches {
        seeds: Arc::new(seeds),
        part: opened.part.clone(),
        leaves: leaves.clone(),
        blocks: patched,
    };
    patch_blocks(context, patches, opened, source, &mut copied, events).await?;
    Ok((copied, leaves))
}

/// Assembles blocks, and reports progress.
async fn patch_blocks(
    context: &Context,
    mut patches: Patches,
    opened: &mut Opened,
    source: &Location,
    copied: &mut Copied,
    events: &mut dyn Events,
) -> Result<(), Error> {
    patches
        .blocks
        .retain(|(block, _)| !opened.claimed.contains(*block));
    let geometry = *patches.leaves.geometry();
    let source = RangeReader::new(
        Remote::http(&context.client, source),
        None,
        geometry.length(),
    );
    let mut held = BlockSet::empty(geometry.blocks());
    for stored in &copied.stored {
        held.insert_range(stored.blocks());
    }
    let (began, before) = (Instant::now(), context.client.bytes_fetched());
    let done = |patched: Patched| {
        copied.bytes_reused += patched.bytes_reused;
        for stored in patched.stored {
            opened.journal.note(stored);
            held.insert_range(stored.blocks());
            copied.stored.push(stored);
        }
        opened.journal.checkpoint()?;
        let fetched = context.client.bytes_fetched();
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
    patches.run(context, &source, done).await
}

/// Reads all leaves, and judges each copied block by its own: a local file is not what the search found in it, or what the store
/// knew of it.
pub async fn judge_by_leaves(
    context: &Context,
    manifest: &mut OpenManifest,
    leaves: &Arc<Leaves>,
    opened: &mut Opened,
    mut copied: Copied,
) -> Result<Copied, Error> {
    let pages = manifest.all_leaves(context).await?;
    leaves.insert(BlockIndex(0), &pages.leaves);
    let before = copied.stored.len();
    let (part, known) = (opened.part.clone(), leaves.clone());
    let judged = blocking::on_disk(move || {
        copy::judge_each(&part, &known, &mut copied)?;
        Ok(copied)
    });
    let copied = judged.await?;
    for stored in &copied.stored[before..] {
        opened.journal.note(*stored);
    }
    opened.journal.checkpoint()?;
    Ok(copied)
}
