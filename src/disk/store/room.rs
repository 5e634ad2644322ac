//! How much own objects may take, and which blocks go when it is too much. Files of the user are never touched.

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

/// Own objects take at most so much,
const OWN_BYTES_MAX: u64 = 20 << 30;
/// and at most this part of the disk.
const DISK_SHARE: u64 = 10;
/// A process writes at most so much before it tells the index, and makes room for the next so much.
const STEP_BYTES: u64 = 64 << 20;

impl Store {
    /// What own objects may take unless the user says otherwise.
    pub fn own_bytes_max(&self) -> Result<u64, StoreError> {
        let folder = Folder::open(&self.folder)?;
        Ok((folder.bytes_of_disk()? / DISK_SHARE).min(OWN_BYTES_MAX))
    }

    /// Tells the index what was written into an own object, and makes room for more.
    pub fn note_kept(&mut self, own: &OwnObject) -> Result<(), StoreError> {
        let new = own.take_new();
        let noted = own.noted(unix_time())?;
        self.state.add_own(&noted, &new)?;
        let most = self.own_bytes_max()?;
        let step = STEP_BYTES.min(most / 8);
        let held = self.evict(most - step, &mut |_, _| ())?;
        own.allow(step.min(most.saturating_sub(held)), step);
        Ok(())
    }

    /// Takes blocks away from the own objects that were not used for longest until they hold at most so many bytes; returns what
    /// they hold then. Those that are open elsewhere stay. `tell`: what went, in bytes.
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
            let Some(own) = objects.open_alone(&name)? else {
                continue;
            };
            // What is claimed now: another process may have taken blocks away since the list was read.
            if let Some(holding) = self.state.holding_at(&holding.path)? {
                let freed = self.shrink(&objects, own, &holding, held - most)?;
                held = self.state.own_bytes()?;
                report(&holding, freed);
            }
        }
        Ok(held)
    }

    /// Takes so many bytes or a little more away from an own object, from its end.
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

    /// Takes away all but these blocks, from the index first: what it claims is there.
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
            // Nothing is left, or this file system knows no holes.
            self.state
                .set_own(&noted, &BlockSet::empty(kept.blocks()))?;
            objects.remove(own)?;
        }
        Ok(())
    }
}
