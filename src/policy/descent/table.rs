//! The anchors of the seeds' blocks, by tag. Anchors of all levels are looked up here.

use std::sync::Arc;

use crate::format::{geometry::BlockIndex, manifest::Tree};

use super::{
    level::Window,
    protocol::{SeedIndex, Shift},
};

/// For each seed its blocks as `tag << 24 | block`, sorted: 8 bytes a block. A block index has 24 bits.
pub struct Table {
    seeds: Vec<Vec<u64>>,
}

impl Table {
    pub fn new(seeds: &[Arc<Tree>]) -> Table {
        let sorted = |seed: &Arc<Tree>| {
            let blocks = (0u64..).zip(seed.anchors());
            let mut all: Vec<u64> = blocks
                .filter_map(|(block, anchor)| {
                    anchor.window().map(|(tag, _)| tag.value() << 24 | block)
                })
                .collect();
            all.sort_unstable();
            all
        };
        Table {
            seeds: seeds.iter().map(sorted).collect(),
        }
    }

    /// Shifts that put the window where a block of a seed has its anchor: at most `most`, those nearest to `near` first.
    pub fn places(
        &self,
        seeds: &[Arc<Tree>],
        window: Window,
        near: Option<Shift>,
        most: usize,
    ) -> Vec<Shift> {
        let mut found: Vec<(u64, Shift)> = Vec::new();
        for (number, (entries, seed)) in self.seeds.iter().zip(seeds).enumerate() {
            let index = SeedIndex(number as u16);
            let near = near
                .filter(|near| near.seed == index)
                .map_or(0, |near| near.by);
            let expected = window.place.saturating_add_signed(near);
            let size = seed.geometry().block_size().bytes();
            let key = window.tag.value() << 24;
            let first = entries.partition_point(|entry| *entry < key);
            let past = first
                + entries[first..].partition_point(|entry| *entry >> 24 == window.tag.value());
            // A tag that is everywhere, as of zeros, is looked up only around the expected place.
            let block = (expected / size).min(0xFF_FFFF);
            let middle =
                first + entries[first..past].partition_point(|entry| *entry < (key | block));
            let around = middle.saturating_sub(most).max(first)..(middle + most).min(past);
            for entry in &entries[around] {
                let block = BlockIndex((entry & 0xFF_FFFF) as u32);
                let Some((_, offset)) = seed.anchors()[block.0 as usize].window() else {
                    continue;
                };
                let place = u64::from(block.0) * size + u64::from(offset);
                let by = place.wrapping_sub(window.place).cast_signed();
                found.push((place.abs_diff(expected), Shift { seed: index, by }));
            }
        }
        found.sort_by_key(|(distance, _)| *distance);
        found
            .into_iter()
            .take(most)
            .map(|(_, shift)| shift)
            .collect()
    }
}
