//! Reconciling index and files: forgets missing and truncated files, and finds own objects that the index lost.

use std::path::PathBuf;

use crate::{
    disk::{
        files,
        machine::unix_time,
        state::{Holding, Own},
    },
    format::blockset::BlockSet,
};

use super::{
    Store, StoreError,
    cached::{Damage, Exclusive, Objects},
};

/// What happened to a holding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HoldingChange {
    /// There is no regular file any more; the holding was forgotten.
    Gone(Holding),
    /// The file was replaced or modified; the holding was forgotten.
    Changed(Holding),
    /// This many bytes of blocks were evicted, to make space.
    Evicted(Holding, u64),
    /// The files of an own object without any block were removed: left by a kill, or garbage.
    Removed(PathBuf),
}

impl Store {
    /// Forgets missing files, scans the own objects, and makes them hold at most this many bytes (`None`: the default).
    pub fn collect(
        &mut self,
        most: Option<u64>,
        report: &mut dyn FnMut(HoldingChange),
    ) -> Result<(), StoreError> {
        for holding in self.state.holdings()? {
            if !holding.own {
                self.check(holding, report)?;
            }
        }
        self.scan_objects(report)?;
        let most = match most {
            Some(most) => most,
            None => self.own_bytes_max()?,
        };
        self.evict(most, &mut |holding, bytes| {
            report(HoldingChange::Evicted(holding.clone(), bytes));
        })?;
        self.state.compact();
        Ok(())
    }

    /// Whether a file of the user is still the recorded version. If not, forgets it.
    pub fn check(
        &mut self,
        holding: Holding,
        report: &mut dyn FnMut(HoldingChange),
    ) -> Result<bool, StoreError> {
        let change = match files::open_noted(&holding.path) {
            Some((_, entry)) if entry.stamp() == holding.stamp => return Ok(true),
            Some(_) => HoldingChange::Changed(holding.clone()),
            None => HoldingChange::Gone(holding.clone()),
        };
        // Recorded again meanwhile: forget nothing.
        if self.state.forget(&holding)? {
            report(change);
        }
        Ok(false)
    }

    /// Scans the folder of own objects. Afterwards the index claims exactly the blocks that are in it.
    pub(super) fn scan_objects(
        &mut self,
        report: &mut dyn FnMut(HoldingChange),
    ) -> Result<(), StoreError> {
        let objects = Objects::open(&self.folder, false)?;
        let names = objects.as_ref().map(Objects::names).transpose()?;
        let names = names.unwrap_or_default();
        for holding in self.state.own_objects()? {
            let name = holding.root.to_string();
            let here = objects
                .as_ref()
                .is_some_and(|objects| objects.path_of(name.as_ref()) == holding.path);
            if !(here && names.contains(&name)) && self.state.forget(&holding)? {
                report(HoldingChange::Gone(holding));
            }
        }
        let Some(objects) = objects else {
            return Ok(());
        };
        for name in names {
            if let Some(own) = objects.open_exclusive(&name)? {
                self.scan_object(&objects, own, report)?;
            }
        }
        Ok(())
    }

    fn scan_object(
        &mut self,
        objects: &Objects,
        own: Exclusive,
        report: &mut dyn FnMut(HoldingChange),
    ) -> Result<(), StoreError> {
        let path = objects.path_of(&own.name);
        let blocks = own.blocks()?.filter(|blocks| !blocks.is_empty());
        let (Some(blocks), Some((_, header))) = (blocks, &own.header) else {
            if let Some(holding) = self.state.holding_at(&path)? {
                self.state.forget(&holding)?;
            }
            objects.remove(own)?;
            report(HoldingChange::Removed(path));
            return Ok(());
        };
        // Without a record of its last use: the time it was written.
        let at = match self.state.holding_at(&path)? {
            Some(known) => known.used,
            None => u64::try_from(own.entry.changed.0).map_or(0, |at| at.min(unix_time())),
        };
        let noted = Own {
            path,
            stamp: own.entry.stamp(),
            root: header.root,
            geometry: header.geometry,
            provenance: header.provenance.clone(),
            at,
        };
        // If holes cannot be punched, the rest stays as it is.
        own.data.keep_only(&blocks, &header.geometry)?;
        Ok(self.state.set_own(&noted, &blocks)?)
    }

    /// Judges all blocks of an own object, and reports and evicts the damaged ones. `None`: another process has it open.
    pub fn verify_own(
        &mut self,
        holding: &Holding,
        report: &mut dyn FnMut(Damage),
    ) -> Result<Option<bool>, StoreError> {
        let Some(objects) = Objects::open(&self.folder, false)? else {
            return Ok(None);
        };
        let Some(own) = objects.open_exclusive(&holding.root.to_string())? else {
            return Ok(None);
        };
        // The current claims, not those when the list was read.
        let Some(holding) = self.state.holding_at(&holding.path)? else {
            return Ok(None);
        };
        let claimed = holding.blocks.clone();
        let claimed = claimed.unwrap_or_else(|| BlockSet::full(holding.geometry.blocks()));
        let sound = own.judge(&claimed, report)?;
        let is_sound = sound == claimed;
        if !is_sound {
            self.reduce(&objects, own, &holding, &sound)?;
        }
        Ok(Some(is_sound))
    }
}
