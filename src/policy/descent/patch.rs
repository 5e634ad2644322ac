//! A block that is nowhere whole, put together from pieces.
//!
//! The checks are of 16 bits, so one that agrees alone may do so by chance; of several shifts that agree the one that
//! agrees for the longest stretch is taken. The judge decides in the end.

use std::{
    ops::Range,
    sync::{Arc, LazyLock},
};

use crate::format::{
    geometry::{ByteRange, PIECE},
    manifest::Tree,
    pieces,
};

use super::{
    level::Node,
    placed::Placed,
    protocol::{Find, Local, Part, Shift, Source},
    rolling,
    shifts::Shifts,
    zeros::ZEROS,
};

/// Local bytes are read in steps of this.
const STEP: u64 = 64 * 1024;
/// How far beyond what the neighbours suggest the bytes of a gap are searched.
const SLACK: u64 = 8 * 1024;
/// Nothing is searched between two neighbours whose shifts differ by more.
const APART_MAX: u64 = 256 * 1024;
/// Shifts that one search may try.
const SHIFTS_MAX: usize = 16;
/// Pieces that must agree side by side before a stretch suggests its shift to neighbours.
const STRETCH_MIN: u32 = 2;
/// Shorter gaps are not worth a search byte by byte.
const GAP_MIN: usize = 4;
/// A shorter gap between equal shifts was overwritten in place; a longer one may have changed places with its neighbour.
const SWAP_MIN: usize = 16;
/// A single piece is searched in gaps of at least this many: with fewer, both its sides would end exactly where it does.
const NEAR_GAP_MIN: usize = 3;
/// How far from the shifts of both sides of a gap a single piece may be. Each place is one chance in 65,536 of a wrong one.
const NEAR_SLACK: i64 = 64;
/// Shifts of both sides that are farther apart leave too many places.
const NEAR_APART_MAX: u64 = 512;
/// Once this many pieces agree side by side, they are not compared with other shifts.
const SETTLED: u32 = 8;

/// The check of a KiB of zeros.
static ZERO_CHECK: LazyLock<u16> = LazyLock::new(|| pieces::piece_of(&ZEROS[..PIECE as usize]));

/// Where a piece may come from, and how many of its neighbours agree.
#[derive(Clone, Copy)]
struct Match {
    from: Source,
    stretch: u32,
}

/// The state of one block.
pub struct Patch {
    node: Node,
    checks: Vec<u16>,
    matches: Vec<Option<Match>>,
    tried: Vec<Shift>,
}

impl Patch {
    pub fn new(node: Node) -> Patch {
        let count = node.bytes.length().div_ceil(PIECE) as usize;
        // Where the whole block failed, pieces of it may be right, so `failed` is not `tried`.
        Patch {
            node,
            checks: vec![0; count],
            matches: vec![None; count],
            tried: Vec::new(),
        }
    }

    pub fn node(&self) -> &Node {
        &self.node
    }

    pub fn bytes(&self) -> ByteRange {
        self.node.bytes
    }

    /// Takes its own of a run of checks, the first of which is of the piece at this byte of the object.
    pub fn take_checks(&mut self, first_byte: u64, checks: &[[u8; 2]]) {
        let Some(skip) = self.node.bytes.start.checked_sub(first_byte) else {
            return;
        };
        let Some(own) = checks.get((skip / PIECE) as usize..) else {
            return;
        };
        for (mine, given) in self.checks.iter_mut().zip(own) {
            *mine = u16::from_le_bytes(*given);
        }
    }

    pub fn is_complete(&self) -> bool {
        self.matches.iter().all(Option::is_some)
    }

    /// The bytes of a piece in the object.
    fn piece(&self, index: usize) -> ByteRange {
        let start = self.node.bytes.start + index as u64 * PIECE;
        ByteRange::new(start, (start + PIECE).min(self.node.bytes.end))
    }

    /// Takes pieces for zeros whose check is that of zeros.
    pub fn zeros(&mut self) {
        let agrees: Vec<bool> = (0..self.checks.len())
            .map(|index| match self.piece(index).length() {
                PIECE => self.checks[index] == *ZERO_CHECK,
                rest => self.checks[index] == pieces::piece_of(&ZEROS[..rest as usize]),
            })
            .collect();
        self.merge(&agrees, Source::Zeros);
    }

    /// Compares all pieces with what a seed has at this shift.
    pub fn try_shift(&mut self, shift: Shift, seeds: &[Arc<Tree>], local: &mut impl Local) {
        if self.is_complete() || self.tried.contains(&shift) {
            return;
        }
        self.tried.push(shift);
        let length = seeds[usize::from(shift.seed.0)].geometry().length();
        let mut agrees = vec![false; self.checks.len()];
        let mut buffer = vec![0; STEP as usize];
        let open = |found: &Option<Match>| found.is_none_or(|found| found.stretch < SETTLED);
        let mut index = self.matches.iter().position(open).unwrap_or(agrees.len());
        let end = self
            .matches
            .iter()
            .rposition(open)
            .map_or(0, |last| last + 1);
        while index < end {
            // As many pieces at once as fit the buffer and the seed.
            let fits = |index: usize| shift.place(self.piece(index), length);
            let Some(first) = fits(index) else {
                index += 1;
                continue;
            };
            let most = (STEP / PIECE) as usize;
            let past = (index..end.min(index + most))
                .take_while(|index| fits(*index).is_some())
                .last();
            let past = past.map_or(index + 1, |last| last + 1);
            let count = (self.piece(past - 1).end - self.piece(index).start) as usize;
            if local.read(shift.seed, first.start, &mut buffer[..count]) {
                for (at, piece) in buffer[..count].chunks(PIECE as usize).enumerate() {
                    agrees[index + at] = pieces::piece_of(piece) == self.checks[index + at];
                }
            }
            index = past;
        }
        self.merge(&agrees, Source::Seed(shift));
    }

    /// Takes pieces from a source where it agrees for longer than what they had.
    fn merge(&mut self, agrees: &[bool], from: Source) {
        let mut index = 0;
        while index < agrees.len() {
            let stretch = agrees[index..].iter().take_while(|agrees| **agrees).count();
            let found = Match {
                from,
                stretch: stretch as u32,
            };
            for held in &mut self.matches[index..index + stretch] {
                if held.is_none_or(|held| held.stretch < found.stretch) {
                    *held = Some(found);
                }
            }
            index += stretch.max(1);
        }
    }

    /// Searches, byte by byte, the seed's bytes between the two sides of each gap, for pieces at a shift of their own: a frame
    /// that moved a little further than those around it.
    pub fn search_between(
        &mut self,
        placed: &Placed,
        seeds: &[Arc<Tree>],
        shifts: &mut Shifts,
        local: &mut impl Local,
    ) {
        for pieces in self.gaps(GAP_MIN) {
            let (start, end) = (pieces.start, pieces.end);
            let (left, right) = self.sides(&pieces, placed);
            let least = if left == right { SWAP_MIN } else { GAP_MIN };
            if end - start < least || !shifts.worth_searching() {
                continue;
            }
            let gap = ByteRange::new(self.piece(start).start, self.piece(end - 1).end);
            let mut found = Vec::new();
            for (seed, stretch) in stretches(gap, left, right, seeds) {
                self.search_stretch(seed, stretch, start..end, local, &mut found);
            }
            shifts.note_search(!found.is_empty());
            for shift in found {
                self.try_shift(shift, seeds, local);
            }
        }
    }

    fn shift_of(&self, index: usize) -> Option<Shift> {
        match self.matches[index] {
            Some(Match {
                from: Source::Seed(shift),
                ..
            }) => Some(shift),
            _ => None,
        }
    }

    /// Looks in a stretch of a seed for two neighbouring pieces of a gap, and appends their shift.
    fn search_stretch(
        &self,
        seed: Shift,
        stretch: ByteRange,
        gap: Range<usize>,
        local: &mut impl Local,
        found: &mut Vec<Shift>,
    ) {
        let mut bytes = vec![0; stretch.length() as usize];
        if !local.read(seed.seed, stretch.start, &mut bytes) {
            return;
        }
        // One bit a check, so that nearly all places cost one look; then pairs in order, so that checks which are all alike cost no more.
        let mut wanted = vec![0u64; 1 << 10];
        let mut pairs: Vec<(u16, u16, usize)> = Vec::with_capacity(gap.len());
        for index in gap.start..gap.end - 1 {
            let (check, next) = (self.checks[index], self.checks[index + 1]);
            wanted[usize::from(check >> 6)] |= 1 << (check & 63);
            pairs.push((check, next, index));
        }
        pairs.sort_unstable();
        let checks = rolling::checks(&bytes);
        let seconds = checks.get(PIECE as usize..).unwrap_or_default();
        for (place, (check, next)) in (stretch.start..).zip(checks.iter().zip(seconds)) {
            if wanted[usize::from(check >> 6)] >> (check & 63) & 1 == 0 {
                continue;
            }
            let first = pairs.partition_point(|pair| (pair.0, pair.1) < (*check, *next));
            for (_, _, index) in pairs[first..]
                .iter()
                .take_while(|pair| (pair.0, pair.1) == (*check, *next))
            {
                let by = place.wrapping_sub(self.piece(*index).start).cast_signed();
                let shift = Shift {
                    seed: seed.seed,
                    by,
                };
                if !found.contains(&shift) {
                    found.push(shift);
                }
                if found.len() >= SHIFTS_MAX {
                    return;
                }
            }
        }
    }

    /// Searches each gap for single pieces at shifts near to those of its two sides: between two changes that lie close together.
    pub fn search_near(&mut self, placed: &Placed, seeds: &[Arc<Tree>], local: &mut impl Local) {
        for gap in self.gaps(NEAR_GAP_MIN) {
            let Some((least, most)) = self.near(&gap, placed) else {
                continue;
            };
            for index in gap {
                if self.matches[index].is_none() {
                    self.search_piece(index, least, most, seeds, local);
                }
            }
        }
    }

    /// Runs of at least so many pieces that are nowhere yet.
    fn gaps(&self, least: usize) -> Vec<Range<usize>> {
        let (mut gaps, mut start) = (Vec::new(), 0);
        for index in 0..=self.matches.len() {
            if self.matches.get(index).is_none_or(Option::is_some) {
                if index >= start + least {
                    gaps.push(start..index);
                }
                start = index + 1;
            }
        }
        gaps
    }

    /// The shifts on both sides of some pieces.
    fn sides(&self, pieces: &Range<usize>, placed: &Placed) -> (Option<Shift>, Option<Shift>) {
        let left = match pieces.start {
            0 => placed.left_of(self.node.bytes.start),
            start => self.shift_of(start - 1),
        };
        let right = match pieces.end == self.matches.len() {
            true => placed.right_of(self.node.bytes.end),
            false => self.shift_of(pieces.end),
        };
        (left, right)
    }

    /// The shifts that are near to those on both sides, from the least to the most.
    fn near(&self, pieces: &Range<usize>, placed: &Placed) -> Option<(Shift, Shift)> {
        let (Some(left), Some(right)) = self.sides(pieces, placed) else {
            return None;
        };
        if left.seed != right.seed || left.by.abs_diff(right.by) > NEAR_APART_MAX {
            return None;
        }
        let shift = |by| Shift {
            seed: left.seed,
            by,
        };
        let least = shift(left.by.min(right.by).saturating_sub(NEAR_SLACK));
        Some((
            least,
            shift(left.by.max(right.by).saturating_add(NEAR_SLACK)),
        ))
    }

    fn search_piece(
        &mut self,
        index: usize,
        least: Shift,
        most: Shift,
        seeds: &[Arc<Tree>],
        local: &mut impl Local,
    ) {
        let (piece, length) = (
            self.piece(index),
            seeds[usize::from(least.seed.0)].geometry().length(),
        );
        let start = piece.start.saturating_add_signed(least.by);
        let end = piece.end.saturating_add_signed(most.by).min(length);
        if piece.length() != PIECE || end < start + PIECE {
            return;
        }
        let mut bytes = vec![0; (end - start) as usize];
        if !local.read(least.seed, start, &mut bytes) {
            return;
        }
        let agrees = |check: &u16| *check == self.checks[index];
        if let Some(place) = rolling::checks(&bytes).iter().position(agrees) {
            let by = (start + place as u64)
                .wrapping_sub(piece.start)
                .cast_signed();
            let seed = least.seed;
            self.try_shift(Shift { seed, by }, seeds, local);
        }
    }

    /// Pairs of neighbouring pieces that are not both at a place, each as the index of the first and both checks.
    pub fn open_pairs(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let is_open = |index: usize| !self.is_sure(index);
        (0..self.checks.len().saturating_sub(1))
            .filter(move |index| is_open(*index) || is_open(index + 1))
            .filter(|index| self.piece(index + 1).length() == PIECE)
            .map(|index| (index, self.checks[index], self.checks[index + 1]))
            .filter(|(_, first, second)| first != second)
            .map(|(index, first, second)| {
                (index as u32, u32::from(first) << 16 | u32::from(second))
            })
    }

    fn is_sure(&self, index: usize) -> bool {
        self.matches[index].is_some_and(|found| found.stretch >= STRETCH_MIN)
    }

    /// Pieces that are at a place in a seed, with their shifts.
    pub fn found(&self) -> impl Iterator<Item = (ByteRange, Shift)> + '_ {
        let sure = (0..self.matches.len()).filter(|index| self.is_sure(*index));
        sure.filter_map(|index| Some((self.piece(index), self.shift_of(index)?)))
    }

    /// Suggests the shifts at both ends of the block to its neighbours.
    pub fn place(&self, placed: &mut Placed) {
        let sure = |index: &usize| {
            self.matches[*index].is_some_and(|found| found.stretch >= STRETCH_MIN)
                && self.shift_of(*index).is_some()
        };
        let indices = 0..self.matches.len();
        for index in [indices.clone().find(sure), indices.rev().find(sure)]
            .into_iter()
            .flatten()
        {
            if let Some(shift) = self.shift_of(index) {
                placed.insert(self.piece(index), shift);
            }
        }
    }

    /// Gives up single pieces at a shift that no neighbour has: one such agreement is more likely chance than a place, and if
    /// it is, all of the block that came from here must be fetched.
    pub fn drop_doubtful(&mut self, placed: &Placed) {
        for index in 0..self.matches.len() {
            let Some(Match {
                from: Source::Seed(shift),
                stretch: 1,
            }) = self.matches[index]
            else {
                continue;
            };
            if shift.by != 0 && !self.is_likely(index, shift, placed) {
                self.matches[index] = None;
            }
        }
    }

    /// Whether a piece that agrees alone may be at this shift: its neighbours are, or it is near to theirs.
    fn is_likely(&self, index: usize, shift: Shift, placed: &Placed) -> bool {
        let sure = |index: &usize| self.is_sure(*index);
        let left = (0..index).rev().find(sure);
        let right = (index + 1..self.matches.len()).find(sure);
        let between = left.map_or(0, |left| left + 1)..right.unwrap_or(self.matches.len());
        let (left, right) = self.sides(&between, placed);
        let near = self.near(&between, placed);
        (left.is_none() && right.is_none())
            || left == Some(shift)
            || right == Some(shift)
            || near.is_some_and(|(least, most)| {
                shift.seed == least.seed && (least.by..=most.by).contains(&shift.by)
            })
    }

    /// Whether so many of its pieces are here that chance is unlikely.
    pub fn has_any(&self) -> bool {
        self.matches.iter().flatten().count() >= STRETCH_MIN as usize
    }

    /// The result. A single piece does not count: it saves less than the two requests around it cost.
    pub fn find(&self) -> Find {
        let mut parts: Vec<Part> = Vec::new();
        for (index, found) in self.matches.iter().enumerate() {
            let (bytes, from) = (self.piece(index), found.map(|found| found.from));
            match parts.last_mut() {
                Some(last) if last.from == from => last.bytes.end = bytes.end,
                _ => parts.push(Part { bytes, from }),
            }
        }
        match self.has_any() {
            true => Find::Patched {
                block: super::BlockIndex(self.node.blocks.start),
                parts,
            },
            false => Find::Missing {
                blocks: self.node.blocks,
            },
        }
    }
}

/// Where in the seeds the bytes of a gap may lie, given the shifts on its two sides.
fn stretches(
    gap: ByteRange,
    left: Option<Shift>,
    right: Option<Shift>,
    seeds: &[Arc<Tree>],
) -> Vec<(Shift, ByteRange)> {
    let clipped = |low: Shift, high: Shift| {
        let length = seeds[usize::from(low.seed.0)].geometry().length();
        let start = gap
            .start
            .saturating_add_signed(low.by)
            .saturating_sub(SLACK)
            .min(length);
        let end = gap
            .end
            .saturating_add_signed(high.by)
            .saturating_add(SLACK)
            .min(length);
        (low, ByteRange::new(start, end.max(start)))
    };
    match (left, right) {
        (Some(left), Some(right))
            if left.seed == right.seed && left.by.abs_diff(right.by) <= APART_MAX =>
        {
            vec![clipped(left.min(right), left.max(right))]
        }
        _ => left
            .into_iter()
            .chain(right)
            .map(|shift| clipped(shift, shift))
            .collect(),
    }
}
