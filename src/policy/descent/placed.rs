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
        if let Some((&left, &(left_end, left_shift))) = self.ranges.range(..start).next_back()
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
