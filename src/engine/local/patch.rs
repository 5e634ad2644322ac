//! Blocks that are put together: most of their pieces lie on this machine, the others are fetched, and the judge sees the whole. A
//! block for which a hint lied is left for the transfer.

use std::{collections::HashMap, sync::Arc};

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
        geometry::{BlockIndex, ByteRange},
        judge::{self, Leaves},
    },
    policy::descent::{Part as PartOfBlock, Source},
};

use super::seeds::Seeds;

/// Bytes that are fetched for one batch of blocks, which is then written: what a kill can cost.
const BATCH_BYTES: u64 = 8 << 20;
/// Blocks of one batch; their bytes are in memory one by one only.
const BATCH_BLOCKS: usize = 1024;

/// Blocks to be put together, and where.
pub struct Patches {
    pub seeds: Arc<Seeds>,
    pub part: Arc<Part>,
    pub leaves: Arc<Leaves>,
    pub blocks: Blocks,
}

/// What became of some blocks: those that proved, and how many of their bytes were here.
#[derive(Debug, Default)]
pub struct Patched {
    pub stored: Vec<Stored>,
    pub bytes_reused: u64,
}

/// Blocks and where their bytes come from, ascending.
pub type Blocks = Vec<(BlockIndex, Vec<PartOfBlock>)>;

/// Bytes of these blocks that are here.
pub fn bytes_local(blocks: &Blocks) -> u64 {
    let parts = blocks.iter().flat_map(|(_, parts)| parts);
    let local = parts.filter(|part| part.from.is_some());
    local.map(|part| part.bytes.length()).sum()
}

impl Patches {
    /// Fetches what is missing and puts the blocks together, batch by batch; `done` hears of each. While one is put together
    /// the next one is fetched.
    pub async fn run(
        mut self,
        context: &Context,
        source: &RangeReader,
        mut done: impl FnMut(Patched) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let blocks = std::mem::take(&mut self.blocks);
        let this = Arc::new(self);
        let (group, _idle) = Group::new();
        let mut work: Option<Work<Result<Patched, DiskError>>> = None;
        let mut ended = None;
        for batch in batches(blocks) {
            let mut fetched_bytes = HashMap::new();
            let fetched = source
                .read(context, &missing(&batch), |range, bytes| {
                    fetched_bytes.insert(range.start, bytes);
                })
                .await;
            if let Some(work) = work.take() {
                done(work.finish().await?)?;
            }
            let this = this.clone();
            work = Some(group.start(Threads::Blocking, move || {
                this.assemble(&batch, &fetched_bytes)
            }));
            match fetched {
                Ok(()) => (),
                // Whoever waited once for this host does not wait as long again.
                Err(error @ (Error::Patience { .. } | Error::MustWait { .. })) => {
                    ended = Some(error);
                }
                // What else went wrong is the transfer's to deal with, which has other sources too.
                Err(_) => break,
            }
            if ended.is_some() {
                break;
            }
        }
        if let Some(work) = work {
            done(work.finish().await?)?;
        }
        ended.map_or(Ok(()), Err)
    }

    fn assemble(
        &self,
        batch: &Blocks,
        fetched_bytes: &HashMap<u64, Vec<u8>>,
    ) -> Result<Patched, DiskError> {
        let mut patched = Patched::default();
        for (block, parts) in batch {
            let place = self.leaves.geometry().bytes_of(*block);
            let mut bytes = vec![0; place.length() as usize];
            let is_filled = parts
                .iter()
                .all(|part| self.fill(*part, place, &mut bytes, fetched_bytes));
            if !is_filled || self.leaves.leaf(*block).is_none() {
                continue;
            }
            let Ok(proven) = judge::prove(&self.leaves, *block, bytes) else {
                continue;
            };
            patched.stored.push(self.part.write(&proven)?);
            let local = parts.iter().filter(|part| part.from.is_some());
            patched.bytes_reused += local.map(|part| part.bytes.length()).sum::<u64>();
        }
        Ok(patched)
    }

    /// Whether the bytes of a part of a block could be had.
    fn fill(
        &self,
        part: PartOfBlock,
        block: ByteRange,
        buffer: &mut [u8],
        fetched_bytes: &HashMap<u64, Vec<u8>>,
    ) -> bool {
        let within =
            (part.bytes.start - block.start) as usize..(part.bytes.end - block.start) as usize;
        let buffer = &mut buffer[within];
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
            None => match fetched_bytes.get(&part.bytes.start) {
                Some(bytes) if bytes.len() == buffer.len() => {
                    buffer.copy_from_slice(bytes);
                    true
                }
                _ => false,
            },
        }
    }
}

/// What must be fetched for these blocks, ascending.
fn missing(batch: &Blocks) -> Vec<ByteRange> {
    let parts = batch.iter().flat_map(|(_, parts)| parts);
    parts
        .filter(|part| part.from.is_none())
        .map(|part| part.bytes)
        .collect()
}

fn batches(blocks: Blocks) -> Vec<Blocks> {
    let mut batches: Vec<Blocks> = Vec::new();
    let mut room = 0;
    for (block, parts) in blocks {
        let missing = parts.iter().filter(|part| part.from.is_none());
        let bytes: u64 = missing.map(|part| part.bytes.length()).sum();
        match batches.last_mut() {
            Some(last) if room >= bytes && last.len() < BATCH_BLOCKS => {
                last.push((block, parts));
                room -= bytes;
            }
            _ => {
                batches.push(vec![(block, parts)]);
                room = BATCH_BYTES.saturating_sub(bytes);
            }
        }
    }
    batches
}
