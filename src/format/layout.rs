//! Where the sections of a manifest lie and how they are cut into groups (manifest.md, 3.4).

use super::geometry::{ByteRange, FANOUT, Geometry};

/// Bytes of the statement, the signed part.
pub const STATEMENT_BYTES: usize = 1024;
/// Bytes of statement and signature; one read of them gives everything but the leaves.
pub const FRONT_BYTES: usize = 1536;

/// The places of tree, pages and pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Of the object.
    pub geometry: Geometry,
    /// Whether there are anchors and pieces.
    pub hints: bool,
}

/// At most 256 neighbouring values of one level with their anchors: a page of leaves (level 0) or a group of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// 0 are the leaves.
    pub level: u32,
    /// Its number in its level, which is also the number of the node above it.
    pub index: u32,
    /// How many values it has.
    pub count: u32,
    /// Where it lies in the manifest.
    pub bytes: ByteRange,
}

impl Layout {
    /// Bytes of one value and its anchor.
    pub fn entry_bytes(&self, level: u32) -> u64 {
        match (self.hints, level) {
            (false, _) => 32,
            (true, 0) => 40,
            (true, _) => 48,
        }
    }

    /// The tree section.
    pub fn tree(&self) -> ByteRange {
        let nodes: u64 = (1..=self.geometry.levels())
            .map(|level| u64::from(self.geometry.nodes(level)))
            .sum();
        let start = FRONT_BYTES as u64;
        ByteRange::new(start, start + nodes * self.entry_bytes(1))
    }

    /// The pages section.
    pub fn pages(&self) -> ByteRange {
        let start = self.tree().end;
        ByteRange::new(
            start,
            start + u64::from(self.geometry.blocks()) * self.entry_bytes(0),
        )
    }

    /// Empty without hints.
    pub fn pieces(&self) -> ByteRange {
        let start = self.pages().end;
        let pieces = if self.hints {
            self.geometry.pieces()
        } else {
            0
        };
        ByteRange::new(start, start + 2 * pieces)
    }

    /// How many groups a level has.
    pub fn groups(&self, level: u32) -> u32 {
        self.geometry.nodes(level).div_ceil(FANOUT)
    }

    /// One group of a level: its place in the manifest and how many entries it has.
    pub fn group(&self, level: u32, index: u32) -> Group {
        let values = self.geometry.nodes(level);
        let first = index * FANOUT;
        let count = FANOUT.min(values - first);
        // Levels lie from the highest to the lowest.
        let level_start = match level {
            0 => self.pages().start,
            _ => {
                let above: u64 = (level + 1..=self.geometry.levels())
                    .map(|l| u64::from(self.geometry.nodes(l)))
                    .sum();
                FRONT_BYTES as u64 + above * self.entry_bytes(1)
            }
        };
        let start = level_start + u64::from(first) * self.entry_bytes(level);
        let bytes = ByteRange::new(start, start + u64::from(count) * self.entry_bytes(level));
        Group {
            level,
            index,
            count,
            bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::geometry::BlockSize;

    #[test]
    fn groups_lie_back_to_back() {
        for blocks in [1u64, 255, 256, 257, 65_536, 65_537, 1 << 24] {
            for hints in [false, true] {
                let geometry = Geometry::new(blocks << 14, BlockSize::MIN).unwrap();
                let layout = Layout { geometry, hints };
                let mut at = FRONT_BYTES as u64;
                for level in (0..=geometry.levels()).rev() {
                    if level == 0 {
                        assert_eq!(at, layout.tree().end);
                    }
                    for index in 0..layout.groups(level) {
                        let group = layout.group(level, index);
                        assert_eq!(group.bytes.start, at);
                        at = group.bytes.end;
                    }
                }
                assert_eq!(at, layout.pages().end);
                assert_eq!(
                    layout.pieces().length(),
                    if hints { blocks << 5 } else { 0 }
                );
            }
        }
    }
}
