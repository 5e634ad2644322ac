//! What an earlier object has of the source, so that its bytes are copied and not sent: blocks at the same place by their leaves, and,
//! where those differ, shifted content by a search for the blocks of the earlier object in the source.

use std::path::Path;

use crate::{
    engine::{
        blocking::{self, StopWhenDropped},
        error::Error,
        local,
        remote::manifest::{ManifestPlace, OpenManifest},
        storage::copies::COPIES_MAX,
    },
    format::{
        geometry::ByteRange,
        ingest::{self, Copy, State},
        reader::Page,
        tree::{self, Cv, PartHasher},
    },
    policy::parts::PartPlan,
};

use super::{
    Push,
    api::Api,
    sessions::Session,
    source::{SourceFile, SourcePart},
};

/// An object of more blocks is no base: 128 MiB of leaves.
const BLOCKS_MAX: u32 = 1 << 22;
/// Blocks that are compared to see whether content is shifted, and the bytes of them that are read.
const SAMPLES: u64 = 64;
const SAMPLE_BYTES: u64 = 64 << 20;
/// So many neighbouring samples that differ are taken for shifted content. Single blocks that were written to are not so close.
const DIFFERENT: usize = 4;
/// Shifted ranges that may contain a block and are looked at.
const LOOKED_AT: usize = 8;

/// An earlier object.
pub struct Base {
    object: ingest::Base,
    /// Bytes that a leaf stands for: a block of the object, or of the upload if that is larger.
    block: u64,
    leaves: Vec<Cv>,
    /// Of the upload.
    plan: PartPlan,
    /// Content at other places, by its place in the source.
    moved: Vec<Moved>,
}

/// Bytes of the source that the base has from there on.
#[derive(Clone, Copy)]
struct Moved {
    bytes: ByteRange,
    from: u64,
}

/// The earlier object, if there is one of which the place copies bytes, and its manifest can be read. Without it all is sent.
pub async fn find(push: &Push<'_>, session: &Session) -> Option<Base> {
    let is_own = matches!(push.api, Api::Storage(_));
    if !push.options.replace || session.state != State::Open || !is_own && session.base.is_none() {
        return None;
    }
    match load(push, session).await {
        Ok(base) => base,
        Err(cause) => {
            tracing::debug!("nothing is copied from an earlier object: {cause}");
            None
        }
    }
}

async fn load(push: &Push<'_>, session: &Session) -> Result<Option<Base>, Error> {
    let context = push.api.context();
    let beside = format!("{}.sapwood", push.options.name);
    let place = ManifestPlace::Beside(push.options.place.url_of(&beside));
    let mut manifest = OpenManifest::open(context, &place, &push.api.limits()).await?;
    let header = manifest.header().clone();
    let (geometry, root) = (header.geometry, header.root);
    let is_other = session.base.is_some_and(|base| base.root != root);
    // The leaf of an only block is a root, and nothing else has it.
    if is_other || !(2..=BLOCKS_MAX).contains(&geometry.blocks()) {
        return Ok(None);
    }
    let mut leaves: Vec<Cv> = Vec::with_capacity(geometry.blocks() as usize);
    let take = |page: Page| leaves.extend(page.leaves);
    manifest.each_page(context, take).await?;
    let (own, theirs) = (
        session.plan.block_size().bytes(),
        geometry.block_size().bytes(),
    );
    if theirs < own {
        let nodes = leaves.chunks((own / theirs) as usize).map(tree::merge);
        leaves = nodes.collect();
    }
    let mut base = Base {
        object: ingest::Base {
            root,
            length: geometry.length(),
        },
        block: own.max(theirs),
        leaves,
        plan: session.plan,
        moved: Vec::new(),
    };
    if let Some(file) = push.file.clone().filter(|_| header.hints()) {
        let (compared, differs) = blocking::run(move || {
            let differs = base.differs_from(&file);
            (base, differs)
        })
        .await;
        base = compared;
        if differs {
            let stop = StopWhenDropped::default();
            let path = push.file.as_ref().map(|file| file.path());
            base.moved = search(push, &manifest, path, &stop).await?;
        }
    }
    Ok(Some(base))
}

/// Where the source has blocks of the base.
async fn search(
    push: &Push<'_>,
    manifest: &OpenManifest,
    path: Option<&Path>,
    stop: &StopWhenDropped,
) -> Result<Vec<Moved>, Error> {
    let Some(path) = path else {
        return Ok(Vec::new());
    };
    let context = push.api.context();
    let mut found = local::find_in_file(context, manifest, path, stop).await?;
    found.sort_unstable_by_key(|(bytes, place)| (*place, bytes.start));
    let mut moved: Vec<Moved> = Vec::new();
    for (bytes, place) in found {
        match moved.last_mut() {
            Some(last) if last.follows(bytes, place) => last.bytes.end += bytes.length(),
            _ => moved.push(Moved {
                bytes: ByteRange::new(place, place + bytes.length()),
                from: bytes.start,
            }),
        }
    }
    Ok(moved)
}

impl Moved {
    /// Whether these bytes of the base, at this place of the source, come next in both.
    fn follows(&self, bytes: ByteRange, place: u64) -> bool {
        self.bytes.end == place && self.from + self.bytes.length() == bytes.start
    }
}

impl Base {
    /// What a server is told of it.
    pub fn object(&self) -> ingest::Base {
        self.object
    }

    /// What it has of a part.
    pub fn copies(&self, part: &SourcePart) -> Vec<Copy> {
        let own = self.plan.block_size().bytes();
        if part.is_whole {
            return Vec::new();
        }
        let mut copies: Vec<Copy> = Vec::new();
        let (mut at, length) = (0, part.bytes.length());
        while at < length {
            let same = self.same(part, at);
            let end = same.unwrap_or(at + own).min(length);
            let place = part.bytes.start + at;
            let from = match same {
                Some(_) => Some(place),
                None => self.moved_to(ByteRange::new(place, part.bytes.start + end)),
            };
            if let Some(from) = from {
                let copy = Copy {
                    at,
                    from,
                    length: end - at,
                };
                push(&mut copies, copy, 0);
            }
            at = end;
        }
        join(copies, length)
    }

    /// The end of the blocks of a part from there on that the base has at the same place.
    fn same(&self, part: &SourcePart, at: u64) -> Option<u64> {
        let own = self.plan.block_size().bytes();
        let place = part.bytes.start + at;
        if !place.is_multiple_of(self.block) {
            return None;
        }
        let theirs = self.leaves.get((place / self.block) as usize)?;
        let first = (at / own) as usize;
        let last = (first + (self.block / own) as usize).min(part.leaves.len());
        let ours = tree::merge(&part.leaves[first..last]);
        let end = (at + self.block).min(part.bytes.length());
        (ours == *theirs).then_some(end)
    }

    /// Where the base has these bytes of the source, if it has them at another place.
    fn moved_to(&self, bytes: ByteRange) -> Option<u64> {
        let after = self
            .moved
            .partition_point(|moved| moved.bytes.start <= bytes.start);
        let near = self.moved[..after].iter().rev().take(LOOKED_AT);
        let mut around = near.filter(|moved| bytes.end <= moved.bytes.end);
        let moved = around.next()?;
        Some(moved.from + (bytes.start - moved.bytes.start))
    }

    /// Whether several neighbouring blocks are not at their place in the source. Blocks.
    fn differs_from(&self, file: &SourceFile) -> bool {
        let blocks = self.object.length.min(file.length()) / self.block;
        let most = (SAMPLE_BYTES / self.block).clamp(1, SAMPLES);
        let step = blocks.div_ceil(most).max(1);
        let (mut different, mut looked_at) = (0, 0);
        let mut bytes = vec![0; self.block as usize];
        for block in (0..blocks).step_by(step as usize) {
            let start = block * self.block;
            if file.read(&mut bytes, start).is_err() {
                return false;
            }
            let mut hasher = PartHasher::new(start);
            hasher.update(&bytes);
            looked_at += 1;
            different = match self.leaves.get(block as usize) == Some(&hasher.value()) {
                true => 0,
                false => different + 1,
            };
            if different == DIFFERENT {
                return true;
            }
        }
        different == looked_at
    }
}

/// Adds a range, to the one before if it is no further away than that and moved as far.
fn push(copies: &mut Vec<Copy>, copy: Copy, gap: u64) {
    if let Some(last) = copies.last_mut() {
        let is_near = copy.at - (last.at + last.length) <= gap;
        if is_near && copy.from.wrapping_sub(last.from) == copy.at - last.at {
            last.length = copy.at + copy.length - last.at;
            return;
        }
    }
    copies.push(copy);
}

/// Joins ranges until there are few enough: what lies between them is copied as well, and does not prove.
fn join(mut copies: Vec<Copy>, length: u64) -> Vec<Copy> {
    let mut gap = length >> 12;
    while copies.len() > COPIES_MAX && gap < length {
        gap = gap.max(1) * 2;
        let mut joined = Vec::new();
        for copy in copies {
            push(&mut joined, copy, gap);
        }
        copies = joined;
    }
    copies.truncate(COPIES_MAX);
    copies
}
