//! Assembling blocks: most of their pieces are local, the others are fetched, and the judge checks the result. Of a block that it
//! refuses the doubtful parts are fetched, too; what is wrong even then is left to the transfer.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use crate::{
    disk::{
        error::DiskError,
        part::{Part, Stored},
    },
    engine::{
        blocking::{Group, Threads, Work},
        context::Context,
        error::Error,
        remote::ranges::RangeReader,
    },
    format::{
        geometry::{BlockIndex, ByteRange, PIECE},
        judge::{self, Leaves},
        pack::FRAME,
    },
    policy::descent::{Part as PartOfBlock, Patchwork, Source, without_doubtful},
};

use super::{
    packed_pieces::{Arrived, PackedPieces, pieces_of},
    packed_plan::WithoutFrames,
    seeds::Seeds,
};

/// Bytes that are fetched for one batch of blocks before it is written: a kill costs at most these.
const BATCH_BYTES: u64 = 8 << 20;
/// The most blocks of one batch; only one block at a time is in memory.
const BATCH_BLOCKS: usize = 1024;

/// Blocks to assemble, and where to put them.
pub struct Patches {
    pub seeds: Arc<Seeds>,
    pub part: Arc<Part>,
    pub leaves: Arc<Leaves>,
    pub blocks: Patchwork,
    pub pack: Option<PackedPieces>,
    pub without_frames: WithoutFrames,
}

/// The result of a batch: the blocks that verified, and how many of their bytes were local.
#[derive(Debug, Default)]
pub struct Patched {
    pub stored: Vec<Stored>,
    pub bytes_reused: u64,
    /// A block was wrong as long as some of its bytes came packed.
    packed_wrong: bool,
    /// Blocks to try again without some of the local bytes.
    doubted: Batch,
    /// Blocks to try again without packed bytes.
    plain: Batch,
}

/// Blocks that are fetched and assembled together.
#[derive(Debug, Default)]
struct Batch {
    blocks: Patchwork,
    without_frames: WithoutFrames,
    /// What was fetched of them, by the first byte.
    fetched: HashMap<u64, Vec<u8>>,
    packed: Arrived,
    /// The pack was wrong about these blocks.
    is_plain: bool,
    /// All that is fetched of blocks that are tried again.
    bytes: u64,
}

/// The local bytes of these blocks.
pub fn bytes_local(blocks: &Patchwork) -> u64 {
    let parts = blocks.iter().flat_map(|(_, parts)| parts);
    let local = parts.filter(|part| part.from.is_some());
    local.map(|part| part.bytes.length()).sum()
}

impl Patches {
    /// Fetches the missing pieces and assembles the blocks, batch by batch; calls `done` after each. Fetches the next batch while
    /// it assembles one.
    pub async fn run(
        mut self,
        context: &Context,
        source: &RangeReader,
        mut done: impl FnMut(Patched) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut pack = self.pack.take();
        if let Some(pack) = &mut pack {
            pack.read_table(context, &missing_of(&self.blocks)).await;
        }
        let (blocks, without_frames) = (&mut self.blocks, &mut self.without_frames);
        let mut batches = batches(std::mem::take(blocks), std::mem::take(without_frames));
        let this = Arc::new(self);
        let (group, _idle) = Group::new();
        let mut work: Option<Work<Result<Patched, DiskError>>> = None;
        let mut ended = None;
        loop {
            if batches.is_empty()
                && let Some(work) = work.take()
            {
                let patched = work.finish().await?;
                Patches::end_batch(patched, pack.as_ref(), &mut batches, &mut done)?;
            }
            let Some(mut batch) = batches.pop_front() else {
                break;
            };
            let mut missing = batch.missing();
            if let (Some(pack), false) = (&pack, batch.is_plain) {
                pack.fetch(context, &missing, &mut batch.packed).await;
                batch.end_frames();
                missing = batch.missing();
            }
            let fetched = source
                .read(context, &missing, |range, bytes| {
                    batch.fetched.insert(range.start, bytes);
                })
                .await;
            if let Some(work) = work.take() {
                let patched = work.finish().await?;
                Patches::end_batch(patched, pack.as_ref(), &mut batches, &mut done)?;
            }
            let assembling = this.clone();
            work = Some(group.start(Threads::Blocking, move || assembling.assemble(batch)));
            match fetched {
                Ok(()) => (),
                // Patience with this host is used up: end the fetch, rather than wait as long again.
                Err(error @ (Error::Patience { .. } | Error::MustWait { .. })) => {
                    ended = Some(error);
                    break;
                }
                // The transfer handles any other error: it has other sources too.
                Err(_) => break,
            }
        }
        if let Some(work) = work {
            done(work.finish().await?)?;
        }
        ended.map_or(Ok(()), Err)
    }

    /// Passes a result on. Its refused blocks come next, so that what was fetched of them is not kept for long.
    fn end_batch(
        mut patched: Patched,
        pack: Option<&PackedPieces>,
        batches: &mut VecDeque<Batch>,
        done: &mut impl FnMut(Patched) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if let (Some(pack), true) = (pack, patched.packed_wrong) {
            pack.note_wrong();
        }
        for refused in [
            std::mem::take(&mut patched.doubted),
            std::mem::take(&mut patched.plain),
        ] {
            if !refused.blocks.is_empty() {
                batches.push_front(refused);
            }
        }
        done(patched)
    }

    /// Assembles the blocks of a batch.
    fn assemble(&self, batch: Batch) -> Result<Patched, DiskError> {
        let mut patched = Patched::default();
        let Batch {
            blocks,
            mut without_frames,
            mut fetched,
            mut packed,
            is_plain,
            ..
        } = batch;
        for (block, parts) in blocks {
            let place = self.leaves.geometry().bytes_of(block);
            let mut bytes = vec![0; place.length() as usize];
            let is_filled = parts
                .iter()
                .all(|part| self.fill(*part, place, &mut bytes, (&fetched, &mut packed)));
            if self.leaves.leaf(block).is_none() {
                continue;
            }
            let proven = match is_filled {
                true => judge::prove(&self.leaves, block, bytes).ok(),
                false => None,
            };
            let Some(proven) = proven else {
                let arrived = (&mut fetched, &mut packed);
                let without_frame = without_frames.remove(&block);
                let refused = (block, &parts[..], without_frame);
                patched.refuse(refused, (is_filled, is_plain), arrived);
                continue;
            };
            patched.packed_wrong |= is_plain;
            patched.stored.push(self.part.write(&proven)?);
            let local = parts.iter().filter(|part| part.from.is_some());
            patched.bytes_reused += local.map(|part| part.bytes.length()).sum::<u64>();
        }
        Ok(patched)
    }

    /// Fills a part of a block. `false`: its bytes are not available.
    fn fill(
        &self,
        part: PartOfBlock,
        block: ByteRange,
        whole: &mut [u8],
        (fetched, packed): (&HashMap<u64, Vec<u8>>, &mut Arrived),
    ) -> bool {
        let within =
            (part.bytes.start - block.start) as usize..(part.bytes.end - block.start) as usize;
        let buffer = &mut whole[within.clone()];
        match part.from {
            Some(Source::Zeros) => {
                buffer.fill(0);
                true
            }
            Some(Source::Seed(shift)) => {
                let seed = self.seeds.file(shift.seed);
                let place = shift.place(part.bytes, seed.length());
                place.is_some_and(|place| seed.read(buffer, place.start))
            }
            None => {
                // Plain bytes came in runs, which may be parts of this one.
                let mut at = part.bytes.start;
                while at < part.bytes.end {
                    if let Some(bytes) = fetched.get(&at) {
                        let start = (at - block.start) as usize;
                        let Some(place) = whole.get_mut(start..start + bytes.len()) else {
                            return false;
                        };
                        place.copy_from_slice(bytes);
                        at += bytes.len() as u64;
                        continue;
                    }
                    let piece = ByteRange::new(at, part.bytes.end.min(at + PIECE));
                    if !packed.fill(block, piece, whole) {
                        return false;
                    }
                    at = piece.end;
                }
                at == part.bytes.end
            }
        }
    }
}

impl Patched {
    /// Notes a block that was refused to be tried again, if bytes of it can be exchanged: the frame that it came with for its
    /// parts, doubtful local bytes, or what came packed.
    fn refuse(
        &mut self,
        (block, parts, without_frame): (BlockIndex, &[PartOfBlock], Option<Vec<PartOfBlock>>),
        (is_filled, was_plain): (bool, bool),
        (fetched, packed): (&mut HashMap<u64, Vec<u8>>, &mut Arrived),
    ) {
        let doubtless = match &without_frame {
            None if is_filled => without_doubtful(parts),
            _ => None,
        };
        let came_packed = parts.iter().any(|part| packed.has(part.bytes));
        let is_plain = was_plain || doubtless.is_none();
        let (batch, retried) = match (doubtless, without_frame) {
            (Some(doubtless), _) => (&mut self.doubted, doubtless),
            (None, Some(parts)) => (&mut self.plain, parts),
            (None, None) if came_packed => (&mut self.plain, parts.to_vec()),
            (None, None) => return,
        };
        batch.is_plain = is_plain;
        let missing = |parts: &[PartOfBlock]| -> u64 {
            let missing = parts.iter().filter(|part| part.from.is_none());
            missing.map(|part| part.bytes.length()).sum()
        };
        batch.bytes += missing(&retried);
        if batch.bytes > 2 * BATCH_BYTES {
            return;
        }
        for part in parts.iter().filter(|part| part.from.is_none()) {
            let pieces = pieces_of(part.bytes);
            batch.fetched.extend(pieces.filter_map(|piece| {
                let bytes = fetched.remove(&piece.start)?;
                Some((piece.start, bytes))
            }));
            if !is_plain {
                packed.give(part.bytes, &mut batch.packed);
            }
        }
        batch.blocks.push((block, retried));
    }
}

impl Batch {
    /// Gives up the frames that did not arrive.
    fn end_frames(&mut self) {
        for (block, parts) in &mut self.blocks {
            let arrived = parts.iter().any(|part| self.packed.has(part.bytes));
            if !arrived && let Some(without_frame) = self.without_frames.remove(block) {
                *parts = without_frame;
            }
        }
    }

    /// The ranges to fetch, ascending: what is neither local nor there already.
    fn missing(&self) -> Vec<ByteRange> {
        let parts = self.blocks.iter().flat_map(|(_, parts)| parts);
        let parts = parts.filter(|part| part.from.is_none());
        parts.flat_map(|part| self.missing_of(part.bytes)).collect()
    }

    /// The ranges of a part that are not there.
    fn missing_of(&self, part: ByteRange) -> Vec<ByteRange> {
        let mut missing: Vec<ByteRange> = Vec::new();
        let mut at = part.start;
        while at < part.end {
            if let Some(bytes) = self.fetched.get(&at) {
                at += bytes.len() as u64;
                continue;
            }
            let piece = ByteRange::new(at, part.end.min(at + PIECE));
            at = piece.end;
            if self.packed.has(piece) {
                continue;
            }
            match missing.last_mut() {
                Some(last) if last.end == piece.start => last.end = piece.end,
                _ => missing.push(piece),
            }
        }
        missing
    }
}

/// The missing parts of all blocks, ascending.
fn missing_of(blocks: &Patchwork) -> Vec<ByteRange> {
    let parts = blocks.iter().flat_map(|(_, parts)| parts);
    let missing = parts.filter(|part| part.from.is_none());
    missing.map(|part| part.bytes).collect()
}

fn batches(blocks: Patchwork, mut without_frames: WithoutFrames) -> VecDeque<Batch> {
    let mut batches: Vec<Patchwork> = Vec::new();
    let mut room = 0;
    let mut last_frame = None;
    for (block, parts) in blocks {
        // A frame is fetched with all that comes of it.
        let frame = parts.first().map(|part| part.bytes.start / FRAME);
        let is_same = frame == last_frame.replace(frame).flatten();
        let missing = parts.iter().filter(|part| part.from.is_none());
        let bytes: u64 = missing.map(|part| part.bytes.length()).sum();
        match batches.last_mut() {
            Some(last) if is_same || room >= bytes && last.len() < BATCH_BLOCKS => {
                last.push((block, parts));
                room = room.saturating_sub(bytes);
            }
            _ => {
                batches.push(vec![(block, parts)]);
                room = BATCH_BYTES.saturating_sub(bytes);
            }
        }
    }
    let batch = |blocks: Patchwork| {
        let of_frames = blocks.iter().map(|(block, _)| *block);
        let of_frames = of_frames.filter_map(|block| without_frames.remove_entry(&block));
        Batch {
            without_frames: of_frames.collect(),
            blocks,
            ..Batch::default()
        }
    };
    batches.into_iter().map(batch).collect()
}
