//! Where in the seeds a node of the new tree is looked for, and a block that is put together from pieces.

use crate::format::{
    anchors::{self, Tag, WINDOW},
    geometry::ByteRange,
};

use super::{
    Descent,
    level::{Level, Node, blocks_of},
    patch::Patch,
    protocol::{Find, Local, SeedIndex, Shift, Source},
};

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
        let suggested = self.suggested(node.bytes);
        if suggested
            .into_iter()
            .any(|shift| self.holds(node, shift, local))
        {
            return true;
        }
        let anchored = self.anchored(node);
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

    /// Shifts that need no hint of the node: of its neighbours, none, and those that held elsewhere.
    fn suggested(&self, bytes: ByteRange) -> Vec<Shift> {
        let neighbours = [
            self.placed.left_of(bytes.start),
            self.placed.right_of(bytes.end),
        ];
        let unmoved = (0..self.seeds.len().min(PLACES_MAX)).map(|seed| Shift {
            seed: SeedIndex(seed as u16),
            by: 0,
        });
        let mut all: Vec<Shift> = Vec::new();
        for shift in neighbours
            .into_iter()
            .flatten()
            .chain(unmoved)
            .chain(self.shifts.held())
        {
            if !all.contains(&shift) {
                all.push(shift);
            }
        }
        all
    }

    /// Shifts that the node's own anchor suggests, the nearest to what its neighbour suggests first.
    fn anchored(&self, node: &Node) -> Vec<Shift> {
        let Some(window) = node.window else {
            return Vec::new();
        };
        let near = self.placed.left_of(node.bytes.start);
        self.table.places(&self.seeds, window, near, PLACES_MAX)
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

    /// Tries the shifts that are likely for each block, and looks between those that hold.
    fn try_suggested(&mut self, patches: &mut [Patch], local: &mut impl Local) {
        for patch in patches.iter_mut() {
            if !self.may_patch(local) {
                break;
            }
            let mut shifts = self.suggested(patch.bytes());
            for shift in self.anchored(patch.node()) {
                let length = self.seeds[usize::from(shift.seed.0)].geometry().length();
                if !shifts.contains(&shift) && window_is_at(patch.node(), shift, length, local) {
                    shifts.push(shift);
                }
            }
            patch.zeros();
            for shift in shifts {
                patch.try_shift(shift, &self.seeds, local);
            }
            patch.search_near(&self.placed, &self.seeds, local);
            patch.search_between(&self.placed, &self.seeds, &mut self.shifts, local);
            patch.place(&mut self.placed);
            local.note_found(patch.found().map(|(piece, _)| piece.length()).sum());
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

/// Whether the seed has the node's window where this shift puts it; `true` for a node without a window.
fn window_is_at(node: &Node, shift: Shift, seed_length: u64, local: &mut impl Local) -> bool {
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
