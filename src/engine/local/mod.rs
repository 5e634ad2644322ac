//! Finding blocks in local files, so that they need not be fetched: descends in the new manifest over the files, copies what it
//! finds into the part, judges it there, and assembles blocks from pieces.

mod candidates;
mod copy;
mod last;
mod leaves;
mod packed_pieces;
mod packed_plan;
mod parallel;
mod patch;
mod search;
mod seeds;
mod time;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use crate::{
    disk::{
        destination::Opened,
        error::DiskError,
        part::{Stored, StoredBlocks},
    },
    engine::{
        blocking::{self, StopWhenDropped},
        context::Context,
        error::Error,
        events::{Event, Events, Progress},
        remote::{
            manifest::OpenManifest,
            ranges::RangeReader,
            source::{Source as Remote, packed::Pack},
        },
    },
    format::{
        anchors::BlockAnchor,
        geometry::{BlockIndex, ByteRange, FANOUT, Geometry},
        judge::{Leaves, ObjectKey, Proven},
        pack::CLUSTER,
        reader::Page,
    },
    net::location::Location,
    policy::{
        descent::{Source, ZeroSearch},
        samples,
    },
};

use candidates::{Candidates, named_seeds, open_seeds, store_has_any, stored_seeds};
pub use copy::Copied;
use copy::Copying;
use leaves::KeptLeaves;
use packed_pieces::PackedPieces;
use packed_plan::WithoutFrames;
use patch::{Patched, Patches};
pub use search::Search;
use search::{Finds, search};
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
    /// Where the bytes of the object are.
    pub source: Location,
    /// What an earlier run left of it.
    pub part: PathBuf,
    /// The length is trusted.
    pub length_proven: bool,
    /// The user gave the root.
    pub root_given: bool,
    /// The user gave the key with this ID.
    pub key_id: Option<String>,
}

/// What was found, and the anchors of all blocks, if they were read anyway.
pub struct Found {
    pub search: Search,
    pub anchors: Option<Vec<BlockAnchor>>,
    /// The last block, if it was fetched to prove the length.
    pub last: Option<Proven>,
}

/// The store takes no tree of more blocks than this. The default block size makes no more, of up to 16 TiB.
pub const TREE_BLOCKS_MAX: u32 = 1 << 20;
/// An object of more blocks, and of more than this many times the bytes that are here, is searched for only after its last block was
/// proven: whoever has no such object cannot make us search for it. The block is to be fetched anyway, because most of the object is.
const BLOCKS_BELIEVED: u32 = FANOUT;
const TIMES_BELIEVED: u64 = 4;

impl Search {
    /// Bytes of the object that were found.
    pub fn bytes_local(&self, geometry: &Geometry) -> u64 {
        let whole = self.found.whole.iter();
        let whole: u64 = whole
            .map(|find| geometry.bytes_of_range(find.blocks).length())
            .sum();
        whole + self.found.zeros.bytes(geometry) + patch::bytes_local(&self.found.patched)
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
    let mut last = None;
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
        if request.length_proven || is_in_proportion(&header.geometry, candidates.bytes()) {
            seeds = open_seeds(context, candidates, header.layout(), stop, events).await;
        } else if let Some(proof) = last::prove(context, request, manifest).await? {
            last = proof.fetched;
            seeds = open_seeds(context, candidates, header.layout(), stop, events).await;
        }
    }
    let object = ObjectKey::of_root(header.root, header.geometry);
    let target = request.target.clone();
    let leaves = blocking::on_disk(move || KeptLeaves::empty(object, &target)).await?;
    if seeds.is_empty() {
        return without_seeds(context, manifest, leaves, seeds).await;
    }
    Ok(Found {
        search: search(context, manifest, leaves, seeds, top).await?,
        anchors: None,
        last,
    })
}

/// Where a file has blocks of the object of a manifest: bytes of the object, and their place in the file. They had them when they were
/// looked at.
pub async fn find_in_file(
    context: &Context,
    manifest: &OpenManifest,
    path: &Path,
    stop: &StopWhenDropped,
) -> Result<Vec<(ByteRange, u64)>, Error> {
    let header = manifest.header();
    if !manifest.has_ranges() {
        return Ok(Vec::new());
    }
    let (file, target) = (path.to_owned(), path.to_owned());
    let candidates = blocking::run(move || Candidates::of_file(file)).await;
    let seeds = open_seeds(
        context,
        candidates,
        header.layout(),
        stop,
        &mut |_: Event| (),
    )
    .await;
    let object = ObjectKey::of_root(header.root, header.geometry);
    let leaves = blocking::on_disk(move || KeptLeaves::empty(object, &target)).await?;
    let search = search(context, manifest, leaves, seeds, None).await?;
    let place = |whole: &search::Whole| {
        let Source::Seed(shift) = whole.from else {
            return None;
        };
        let bytes = header.geometry.bytes_of_range(whole.blocks);
        let place = bytes.start.checked_add_signed(shift.by)?;
        Some((bytes, place))
    };
    Ok(search.found.whole.iter().filter_map(place).collect())
}

/// Whether so much is here that a search for an object of this length may be worth its time, even if nobody has such an object.
fn is_in_proportion(geometry: &Geometry, bytes_here: u64) -> bool {
    bytes_here == 0
        || geometry.blocks() <= BLOCKS_BELIEVED
        || geometry.length() <= bytes_here.saturating_mul(TIMES_BELIEVED)
}

/// Without seeds, all leaves are read at once. Blocks of zeros need no source.
async fn without_seeds(
    context: &Context,
    manifest: &mut OpenManifest,
    leaves: KeptLeaves,
    seeds: Seeds,
) -> Result<Found, Error> {
    let header = manifest.header();
    let (geometry, hints) = (header.geometry, header.layout().hints);
    let mut found = Finds::nothing(geometry.blocks());
    let mut anchors = (hints && geometry.blocks() <= TREE_BLOCKS_MAX).then(Vec::new);
    let mut zeros = ZeroSearch::default();
    let take = |page: Page| {
        leaves.insert(page.first, &page.leaves);
        let hints = page.leaves.iter().zip(&page.anchors);
        for (block, (leaf, anchor)) in (page.first.0..).map(BlockIndex).zip(hints) {
            if zeros.is_zero_block(&geometry, block, *anchor, *leaf) {
                found.zeros.insert(block);
            }
        }
        if let Some(anchors) = &mut anchors {
            anchors.extend(page.anchors);
        }
    };
    manifest.each_page(context, take).await?;
    leaves.check()?;
    Ok(Found {
        search: Search {
            seeds,
            found,
            leaves: leaves.into_leaves(),
        },
        anchors,
        last: None,
    })
}

/// Copies what was found into the part, judges it there, and assembles blocks whose pieces are partly local. Returns the leaves
/// that are known then.
pub async fn copy_found(
    context: &Context,
    found: Found,
    opened: &mut Opened,
    source: (&Location, Option<Pack>),
    events: &mut dyn Events,
) -> Result<(Copied, Arc<Leaves>), Error> {
    let Found { search, last, .. } = found;
    let Search {
        seeds,
        found,
        leaves,
    } = search;
    let leaves = Arc::new(leaves);
    let mut stored = StoredBlocks::new(*leaves.object());
    if let Some(last) = last {
        stored.insert(keep_last(opened, last).await?);
    }
    let Finds {
        whole,
        zeros,
        patched,
        ..
    } = found;
    if whole.is_empty() && zeros.is_empty() && patched.is_empty() {
        return Ok((Copied::of(stored), leaves));
    }
    let (part, claimed) = (opened.part.clone(), opened.claimed.clone());
    let known = leaves.clone();
    let copied = blocking::on_disk(move || {
        let mut copied = Copied::of(stored);
        let copying = Copying {
            part: &part,
            seeds: &seeds,
            leaves: &known,
            claimed: &claimed,
        };
        copying.copy_all(whole, &zeros, &mut copied)?;
        Ok((copied, seeds))
    });
    let (mut copied, seeds) = copied.await?;
    for stored in copied.stored.ranges() {
        opened.journal.note(stored);
    }
    opened.journal.checkpoint()?;
    let has_pieces = leaves.geometry().block_size().bytes() >= CLUSTER;
    let (blocks, without_frames, pack) = match source.1.filter(|_| has_pieces) {
        Some(pack) => {
            let mut here = copied.stored.blocks().clone();
            here.insert_all(&opened.claimed);
            let wants = packed_plan::missing(leaves.geometry(), &here, &patched);
            pack.prepare(wants).await;
            let plan = packed_plan::plan(&pack, leaves.geometry(), &here, patched);
            let pack = PackedPieces::new(pack, plan.frames);
            (plan.blocks, plan.without_frames, Some(pack))
        }
        None => (patched, WithoutFrames::new(), None),
    };
    let patches = Patches {
        seeds: Arc::new(seeds),
        part: opened.part.clone(),
        leaves: leaves.clone(),
        blocks,
        pack,
        without_frames,
    };
    patch_blocks(context, patches, opened, source.0, &mut copied, events).await?;
    Ok((copied, leaves))
}

/// Writes the last block, which was fetched before the part was opened.
async fn keep_last(opened: &mut Opened, last: Proven) -> Result<Stored, Error> {
    let part = opened.part.clone();
    let stored = blocking::on_disk(move || part.write(&last)).await?;
    opened.journal.note(stored);
    opened.journal.checkpoint()?;
    Ok(stored)
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
    let (began, before) = (Instant::now(), context.client.bytes_fetched());
    let done = |patched: Patched| {
        copied.bytes_reused += patched.bytes_reused;
        for stored in patched.stored {
            opened.journal.note(stored);
            copied.stored.insert(stored);
        }
        opened.journal.checkpoint()?;
        let fetched = context.client.bytes_fetched();
        let held = copied.stored.blocks();
        let seconds = began.elapsed().as_secs_f64().max(0.001);
        events.event(Event::Progress(Progress {
            bytes_done: held.bytes(&geometry) + opened.claimed.bytes(&geometry),
            bytes_total: geometry.length(),
            bytes_fetched: fetched,
            bytes_proven: held.bytes(&geometry),
            rate_bps: ((fetched - before) as f64 / seconds) as u64,
            files: None,
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
    let take = |page: Page| leaves.insert(page.first, &page.leaves);
    manifest.each_page(context, take).await?;
    if leaves.have_failed() {
        return Err(DiskError::LeavesLost.into());
    }
    let (part, known) = (opened.part.clone(), leaves.clone());
    let judged = blocking::on_disk(move || {
        let new = copy::judge_each(&part, &known, &mut copied)?;
        Ok((copied, new))
    });
    let (copied, new) = judged.await?;
    for stored in new.ranges() {
        opened.journal.note(stored);
    }
    opened.journal.checkpoint()?;
    Ok(copied)
}
