//! Where in the seeds a node of the new tree is looked for, and a block that is put together from pieces.

use std::sync::Arc;

use crate::format::{
    anchors::{self, Tag, WINDOW},
    geometry::ByteRange,
    manifest::Tree,
};

use super::{
    Descent,
    level::{Level, Node, blocks_of},
    patch::Patch,
    placed::Placed,
    protocol::{Find, Local, SeedIndex, Shift, Source},
    shifts::Shifts,
    table::Table,
};

/// Blocks that are put together from pieces one after the other, while those before and behind them are searched too.
const PATCHES_A_PART: usize = 128;
/// Places at which an anchor is tried.
pub const PLACES_MAX: usize = 8;

impl Descent {
    /// Tries each node with what is known on its left, then those that are left over with what is known on their right.
    pub(super) fn search_level(&mut self, level: &mut Level, local: &mut impl Local) {
        let mut nodes = std::mem::take(&mut level.nodes);
        if self.stopped {
            level.missing.append(&mut nodes);
            level.bare.clear();
            level.missing.sort_by_key(|node| node.index);
            return;
        }
        nodes.retain_mut(|node| !self.search(level.level, node, local));
        let mut from_right: Vec<Node> = Vec::new();
        for mut node in nodes.into_iter().rev() {
            let right = self.placed.right_of(node.bytes.end);
            if !right.is_some_and(|shift| self.holds(&mut node, shift, local)) {
                from_right.push(node);
            }
        }
        level.missing.extend(from_right.into_iter().rev());
        // A page that is searched a second time comes after those that are not.
        level.missing.sort_by_key(|node| node.index);
    }

    /// Tries all places that anything suggests for a node.
    fn search(&mut self, level: u32, node: &mut Node, local: &mut impl Local) -> bool {
        self.stopped |= !local.may_continue();
        if self.stopped {
            return false;
        }
        if self.is_zeros(node) {
            self.finds.push(Find::Whole {
                blocks: node.blocks,
                value: node.value,
                from: Source::Zeros,
            });
            return true;
        }
        for number in 0..self.seeds.len() {
            let shift = Shift {
                seed: SeedIndex(number as u16),
                by: 0,
            };
            match self.same_place(number, level, node) {
                Some(true) => {
                    self.found(node, shift, local);
                    return true;
                }
                Some(false) => node.failed.push(shift),
                None => {}
            }
        }
        let suggested = suggested(self.seeds.len(), &self.placed, &self.shifts, node.bytes);
        if suggested
            .into_iter()
            .any(|shift| self.holds(node, shift, local))
        {
            return true;
        }
        let anchored = anchored(&self.table, &self.seeds, &self.placed, node);
        node.expected = node.window.is_none() || !anchored.is_empty();
        if anchored
            .into_iter()
            .any(|shift| self.holds(node, shift, local))
        {
            return true;
        }
        node.unmoved = level > 0
            && node.window.is_some()
            && self.seeds.iter().enumerate().any(|(number, seed)| {
                let shift = Shift {
                    seed: SeedIndex(number as u16),
                    by: 0,
                };
                window_is_at(node, shift, seed.geometry().length(), local)
            });
        false
    }

    /// Whether the tree of a seed has this very node at the same place; `None` if the trees cannot be compared.
    fn same_place(&self, seed: usize, level: u32, node: &Node) -> Option<bool> {
        let seed = &self.seeds[seed];
        let (old, new) = (seed.geometry(), &self.layout.geometry);
        if old.block_size() != new.block_size() || level > old.levels() {
            return None;
        }
        let values = match level {
            0 => seed.leaves(),
            _ => &seed.levels()[level as usize - 1].values,
        };
        let same = *values.get(node.index as usize)? == node.value;
        let as_long = blocks_of(old, level, node.index) == node.blocks
            && old.bytes_of_range(node.blocks).end == node.bytes.end;
        (same || as_long).then_some(same)
    }

    /// Whether the bytes at this shift are those of the node. Whatever was hashed before is not hashed again.
    fn holds(&mut self, node: &mut Node, shift: Shift, local: &mut impl Local) -> bool {
        let length = self.seeds[usize::from(shift.seed.0)].geometry().length();
        let Some(place) = shift.place(node.bytes, length) else {
            return false;
        };
        if node.failed.contains(&shift) || !window_is_at(node, shift, length, local) {
            return false;
        }
        if !self.shifts.worth_trying(shift) {
            return false;
        }
        if !local.may_continue() {
            self.stopped = true;
            return false;
        }
        let root = node.blocks == self.layout.geometry.all();
        let held = local.value(shift.seed, place, node.bytes.start, root) == Some(node.value);
        self.shifts.note(shift, held);
        match held {
            true => self.found(node, shift, local),
            false => node.failed.push(shift),
        }
        held
    }

    fn found(&mut self, node: &Node, shift: Shift, local: &mut impl Local) {
        local.note_found(node.bytes.length());
        self.placed.insert(node.bytes, shift);
        self.shifts.note_held(shift);
        self.finds.push(Find::Whole {
            blocks: node.blocks,
            value: node.value,
            from: Source::Seed(shift),
        });
    }

    /// Whether the node is all zeros; hashed only when its anchor says so.
    fn is_zeros(&mut self, node: &Node) -> bool {
        let whole = node.blocks == self.layout.geometry.all();
        self.zeros
            .are_zeros(node.bytes, whole, node.window, node.value)
    }

    /// Puts blocks together from pieces, first to last and back.
    pub(super) fn patch(&mut self, patches: &mut [Patch], local: &mut impl Local) {
        self.try_suggested(patches, local);
        self.try_neighbours(patches, local);
        if self.scan(patches, local) {
            self.try_neighbours(patches, local);
        }
        for patch in patches {
            if self.may_patch(local) {
                patch.search_near(&self.placed, &self.seeds, local);
            }
            patch.drop_doubtful(&self.placed);
            self.finds.push(patch.find());
        }
    }

    /// Tries the shifts that are likely for each block, and looks between those that hold. Parts of the object are searched at the
    /// same time; how many they are does not depend on the machine, and neither does what is found.
    fn try_suggested(&mut self, patches: &mut [Patch], local: &mut impl Local) {
        if !self.may_patch(local) {
            return;
        }
        let before = Arc::new(std::mem::take(&mut self.placed));
        let (seeds, table, shifts) = (&self.seeds[..], &self.table, &self.shifts);
        let parts: Vec<&mut [Patch]> = patches.chunks_mut(PATCHES_A_PART).collect();
        let searched = local.split(parts, |part, local| {
            let (mut placed, mut shifts) = (Placed::after(&before), shifts.of_part());
            for patch in part {
                if !local.may_continue() {
                    return (true, shifts);
                }
                try_one(patch, seeds, table, &mut placed, &mut shifts, local);
            }
            (false, shifts)
        });
        self.stopped |= searched.iter().any(|(stopped, _)| *stopped);
        if let Some((_, last)) = searched.last() {
            self.shifts.go_on_from(last);
        }
        self.placed = Arc::into_inner(before).expect("all parts are searched");
        for patch in patches {
            patch.place(&mut self.placed);
        }
    }

    /// Tries in each block what holds in its neighbours.
    fn try_neighbours(&mut self, patches: &mut [Patch], local: &mut impl Local) {
        for patch in patches.iter_mut().rev() {
            if !patch.is_complete() && self.may_patch(local) {
                if let Some(shift) = self.placed.right_of(patch.bytes().end) {
                    patch.try_shift(shift, &self.seeds, local);
                }
                if let Some(shift) = self.placed.left_of(patch.bytes().start) {
                    patch.try_shift(shift, &self.seeds, local);
                }
                patch.place(&mut self.placed);
            }
        }
    }

    pub(super) fn may_patch(&mut self, local: &mut impl Local) -> bool {
        self.stopped |= !local.may_continue();
        !self.stopped
    }
}

/// Tries what is likely for one block.
fn try_one(
    patch: &mut Patch,
    seeds: &[Arc<Tree>],
    table: &Table,
    placed: &mut Placed,
    shifts: &mut Shifts,
    local: &mut (impl Local + ?Sized),
) {
    let mut likely = suggested(seeds.len(), placed, shifts, patch.bytes());
    for shift in anchored(table, seeds, placed, patch.node()) {
        let length = seeds[usize::from(shift.seed.0)].geometry().length();
        if !likely.contains(&shift) && window_is_at(patch.node(), shift, length, local) {
            likely.push(shift);
        }
    }
    patch.zeros();
    for shift in likely {
        patch.try_shift(shift, seeds, local);
    }
    patch.search_near(placed, seeds, local);
    patch.search_between(placed, seeds, shifts, local);
    patch.place(placed);
    local.note_found(patch.found().map(|(piece, _)| piece.length()).sum());
}

/// Shifts that need no hint of the node: of its neighbours, none, and those that held elsewhere.
fn suggested(seeds: usize, placed: &Placed, shifts: &Shifts, bytes: ByteRange) -> Vec<Shift> {
    let neighbours = [placed.left_of(bytes.start), placed.right_of(bytes.end)];
    let unmoved = (0..seeds.min(PLACES_MAX)).map(|seed| Shift {
        seed: SeedIndex(seed as u16),
        by: 0,
    });
    let mut all: Vec<Shift> = Vec::new();
    for shift in neighbours
        .into_iter()
        .flatten()
        .chain(unmoved)
        .chain(shifts.held())
    {
        if !all.contains(&shift) {
            all.push(shift);
        }
    }
    all
}

/// Shifts that the node's own anchor suggests, the nearest to what its neighbour suggests first.
fn anchored(table: &Table, seeds: &[Arc<Tree>], placed: &Placed, node: &Node) -> Vec<Shift> {
    let Some(window) = node.window else {
        return Vec::new();
    };
    let near = placed.left_of(node.bytes.start);
    table.places(seeds, window, near, PLACES_MAX)
}

/// Whether the seed has the node's window where this shift puts it; `true` for a node without a window.
fn window_is_at(
    node: &Node,
    shift: Shift,
    seed_length: u64,
    local: &mut (impl Local + ?Sized),
) -> bool {
    let Some(window) = node.window else {
        return true;
    };
    let bytes = ByteRange::new(window.place, window.place + WINDOW as u64);
    let Some(place) = shift.place(bytes, seed_length) else {
        return false;
    };
    let mut found = [0; WINDOW];
    local.read(shift.seed, place.start, &mut found) && Tag::of(anchors::gear(&found)) == window.tag
}
