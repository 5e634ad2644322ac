//! What was found so far and at which shifts, by place, to suggest shifts to the neighbours.

use std::collections::BTreeMap;

use crate::format::geometry::ByteRange;

use super::protocol::Shift;

/// Ranges of the object with their shifts; neighbours with the same shift are one range.
#[derive(Default)]
pub struct Placed {
    ranges: BTreeMap<u64, (u64, Shift)>,
}

impl Placed {
    pub fn insert(&mut self, bytes: ByteRange, shift: Shift) {
        if bytes.is_empty() {
            return;
        }
        let (mut start, mut end) = (bytes.start, bytes.end);
        // One that begins at the same place is not to become shorter.
        if let Some((&left, &(left_end, left_shift))) = self.ranges.range(..=start).next_back()
            && left_shift == shift
            && left_end >= start
        {
            start = left;
            end = end.max(left_end);
        }
        if let Some((&right, &(right_end, right_shift))) = self.ranges.range(end..).next()
            && right == end
            && right_shift == shift
        {
            self.ranges.remove(&right);
            end = right_end;
        }
        self.ranges.insert(start, (end, shift));
    }

    /// The shift of what was found nearest before this place.
    pub fn left_of(&self, place: u64) -> Option<Shift> {
        self.ranges
            .range(..place)
            .next_back()
            .map(|(_, (_, shift))| *shift)
    }

    /// The shift of what was found nearest at or after this place.
    pub fn right_of(&self, place: u64) -> Option<Shift> {
        self.ranges
            .range(place..)
            .next()
            .map(|(_, (_, shift))| *shift)
    }

    /// What was found of the object, and the shift of each range.
    pub fn ranges(&self) -> impl Iterator<Item = (ByteRange, Shift)> + '_ {
        let range =
            |(start, (end, shift)): (&u64, &(u64, Shift))| (ByteRange::new(*start, *end), *shift);
        self.ranges.iter().map(range)
    }
}

#[cfg(test)]
mod tests {
    use super::super::protocol::SeedIndex;
    use super::*;

    /// The bytes behind it were searched again, all the rest of a file.
    #[test]
    fn a_range_that_was_placed_again_lost_what_had_joined_it() {
        let shift = Shift {
            seed: SeedIndex(0),
            by: 0,
        };
        let mut placed = Placed::default();
        placed.insert(ByteRange::new(100, 1000), shift);
        let last_piece = ByteRange::new(90, 100);
        for _ in 0..2 {
            placed.insert(last_piece, shift);
            let ranges: Vec<_> = placed.ranges().collect();
            assert_eq!(ranges, [(ByteRange::new(90, 1000), shift)]);
        }
    }
}
