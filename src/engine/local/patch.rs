//! Assembling blocks: most of their pieces are local, the others are fetched, and the judge checks the result. A block with a
//! wrong hint is left to the transfer.

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

/// Bytes that are fetched for one batch of blocks before it is written: a kill costs at most these.
const BATCH_BYTES: u64 = 8 << 20;
/// The most blocks of one batch; only one block at a time is in memory.
const BATCH_BLOCKS: usize = 1024;

/// Blocks to assemble, and where to put them.
pub struct Patches {
    pub seeds: Arc<Seeds>,
    pub part: Arc<Part>,
    pub leaves: Arc<Leaves>,
    pub blocks: Blocks,
}

/// The result of a batch: the blocks that verified, and how many of their bytes were local.
#[derive(Debug, Default)]
pub struct Patched {
    pub stored: Vec<Stored>,
    pub bytes_reused: u64,
}

/// Blocks and the sources of their bytes, ascending.
pub type Blocks = Vec<(BlockIndex, Vec<PartOfBlock>)>;

/// The local bytes of these blocks.
pub fn bytes_local(blocks: &Blocks) -> u64 {
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
                // Patience with this host is used up: end the fetch, rather than wait as long again.
                Err(error @ (Error::Patience { .. } | Error::MustWait { .. })) => {
                    ended = Some(error);
                }
                // The transfer handles any other error: it has other sources too.
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

    /// Fills a part of a block. `false`: its bytes are not available.
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

/// The ranges to fetch for these blocks, ascending.
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
