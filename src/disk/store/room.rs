//! The space of own objects, and which blocks to evict when it is used up. Files of the user are never touched.

use crate::{
    disk::{
        files::Folder,
        machine::unix_time,
        state::{Holding, Own},
    },
    format::{blockset::BlockSet, geometry::BlockIndex},
};

use super::{
    Store, StoreError,
    cached::{Exclusive, Objects, OwnObject},
};

/// Own objects take at most this many bytes,
const OWN_BYTES_MAX: u64 = 20 << 30;
/// and at most this part of the disk.
const DISK_SHARE: u64 = 10;
/// A process writes at most this many bytes before it updates the index and makes space for the next ones.
const STEP_BYTES: u64 = 64 << 20;

impl Store {
    /// The default limit of own objects.
    pub fn own_bytes_max(&self) -> Result<u64, StoreError> {
        let folder = Folder::open(&self.folder)?;
        Ok((folder.bytes_of_disk()? / DISK_SHARE).min(OWN_BYTES_MAX))
    }

    /// Records in the index what was written into an own object, and makes space for more.
    pub fn note_cached(&mut self, own: &OwnObject) -> Result<(), StoreError> {
        let new = own.take_new();
        let noted = own.noted(unix_time())?;
        self.state.add_own(&noted, &new)?;
        let most = self.own_bytes_max()?;
        let step = STEP_BYTES.min(most / 8);
        let held = self.evict(most - step, &mut |_, _| ())?;
        own.allow(step.min(most.saturating_sub(held)), step);
        Ok(())
    }

    /// Evicts blocks of the least recently used own objects until all of them hold at most `most` bytes; returns what they hold
    /// then. Keeps those that another process has open. Calls `report` with each object and its evicted bytes.
    pub(super) fn evict(
        &mut self,
        most: u64,
        report: &mut dyn FnMut(&Holding, u64),
    ) -> Result<u64, StoreError> {
        let mut held = self.state.own_bytes()?;
        if held <= most {
            return Ok(held);
        }
        let Some(objects) = Objects::open(&self.folder, false)? else {
            return Ok(held);
        };
        for holding in self.state.own_objects()? {
            if held <= most {
                break;
            }
            let name = holding.root.to_string();
            let Some(own) = objects.open_exclusive(&name)? else {
                continue;
            };
            // The current claims: another process may have evicted blocks since the list was read.
            if let Some(holding) = self.state.holding_at(&holding.path)? {
                let freed = self.shrink(&objects, own, &holding, held - most)?;
                held = self.state.own_bytes()?;
                report(&holding, freed);
            }
        }
        Ok(held)
    }

    /// Evicts this many bytes or a little more of an own object, from its end.
    fn shrink(
        &mut self,
        objects: &Objects,
        own: Exclusive,
        holding: &Holding,
        excess: u64,
    ) -> Result<u64, StoreError> {
        let before = holding.blocks.clone();
        let blocks = before.unwrap_or_else(|| BlockSet::full(holding.geometry.blocks()));
        let bytes = blocks.bytes(&holding.geometry);
        let mut kept = blocks.clone();
        let ranges: Vec<_> = blocks.ranges().collect();
        for block in ranges
            .into_iter()
            .rev()
            .flat_map(|range| (range.start..range.end).rev())
        {
            if bytes - kept.bytes(&holding.geometry) >= excess {
                break;
            }
            kept.remove(BlockIndex(block));
        }
        self.reduce(objects, own, holding, &kept)?;
        Ok(bytes - kept.bytes(&holding.geometry))
    }

    /// Evicts all but these blocks, from the index first, so that everything it claims is present.
    pub(super) fn reduce(
        &mut self,
        objects: &Objects,
        own: Exclusive,
        holding: &Holding,
        kept: &BlockSet,
    ) -> Result<(), StoreError> {
        let noted = Own::of(holding);
        self.state.set_own(&noted, kept)?;
        let punched = !kept.is_empty() && own.data.keep_only(kept, &holding.geometry)?;
        if !punched {
            // No block is left, or this file system does not support holes.
            self.state
                .set_own(&noted, &BlockSet::empty(kept.blocks()))?;
            objects.remove(own)?;
        }
        Ok(())
    }
}
