//! Bringing index and files together: what is gone or was cut short goes, what was lost from the index is found again.

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

/// What became of a holding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Nothing regular is there any more; it was forgotten.
    Gone(Holding),
    /// Another file, or another version, is there; it was forgotten.
    Changed(Holding),
    /// Blocks went, to make room: so many bytes.
    Evicted(Holding, u64),
    /// Files of an own object without a single block went: what a kill leaves, or garbage.
    Removed(PathBuf),
}

impl Store {
    /// Forgets what is gone, looks through the own objects, and makes them hold at most so many bytes (`None`: the default).
    pub fn collect(
        &mut self,
        most: Option<u64>,
        report: &mut dyn FnMut(News),
    ) -> Result<(), StoreError> {
        for holding in self.state.holdings()? {
            if !holding.own {
                self.check(holding, report)?;
            }
        }
        self.look_through(report)?;
        let most = match most {
            Some(most) => most,
            None => self.own_bytes_max()?,
        };
        self.evict(most, &mut |holding, bytes| {
            report(News::Evicted(holding.clone(), bytes));
        })?;
        self.state.compact();
        Ok(())
    }

    /// Whether a file of the user's is still the version that was noted. If not it is forgotten.
    pub fn check(
        &mut self,
        holding: Holding,
        report: &mut dyn FnMut(News),
    ) -> Result<bool, StoreError> {
        let news = match files::open_noted(&holding.path) {
            Some((_, entry)) if entry.stamp() == holding.stamp => return Ok(true),
            Some(_) => News::Changed(holding.clone()),
            None => News::Gone(holding.clone()),
        };
        // Noted anew meanwhile: then nothing is forgotten.
        if self.state.forget(&holding)? {
            report(news);
        }
        Ok(false)
    }

    /// Looks through the folder of own objects: the index claims what is there, and nothing else is there.
    pub(super) fn look_through(&mut self, report: &mut dyn FnMut(News)) -> Result<(), StoreError> {
        let objects = Objects::open(&self.folder, false)?;
        let names = objects.as_ref().map(Objects::names).transpose()?;
        let names = names.unwrap_or_default();
        for holding in self.state.own_objects()? {
            let name = holding.root.to_string();
            let here = objects
                .as_ref()
                .is_some_and(|objects| objects.path_of(name.as_ref()) == holding.path);
            if !(here && names.contains(&name)) && self.state.forget(&holding)? {
                report(News::Gone(holding));
            }
        }
        let Some(objects) = objects else {
            return Ok(());
        };
        for name in names {
            if let Some(own) = objects.open_alone(&name)? {
                self.look_at(&objects, own, report)?;
            }
        }
        Ok(())
    }

    fn look_at(
        &mut self,
        objects: &Objects,
        own: Exclusive,
        report: &mut dyn FnMut(News),
    ) -> Result<(), StoreError> {
        let path = objects.path_of(&own.name);
        let blocks = own.blocks()?.filter(|blocks| !blocks.is_empty());
        let (Some(blocks), Some((_, header))) = (blocks, &own.header) else {
            if let Some(holding) = self.state.holding_at(&path)? {
                self.state.forget(&holding)?;
            }
            objects.remove(own)?;
            report(News::Removed(path));
            return Ok(());
        };
        // Without a note of its last use: when it was written.
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
        // Where holes cannot be punched the rest is as it is.
        own.data.keep_only(&blocks, &header.geometry)?;
        Ok(self.state.set_own(&noted, &blocks)?)
    }

    /// Judges all blocks of an own object, tells what is damaged, and takes it away. `None`: it is open elsewhere.
    pub fn verify_own(
        &mut self,
        holding: &Holding,
        report: &mut dyn FnMut(Damage),
    ) -> Result<Option<bool>, StoreError> {
        let Some(objects) = Objects::open(&self.folder, false)? else {
            return Ok(None);
        };
        let Some(own) = objects.open_alone(&holding.root.to_string())? else {
            return Ok(None);
        };
        // What is claimed now, not when the list was read.
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
