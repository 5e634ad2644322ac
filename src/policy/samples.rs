//! Which anchors of an object are in the index over all objects, and which of many holdings are worth searching.
//!
//! The index has few anchors of each object: those whose hash is so small that any 16 MiB of content have eight of them on
//! average, and at least four. A node over 16 MiB has the smallest of its blocks as its anchor, so the tree of a manifest,
//! which is read first, nearly always (1 - e^-8) names one that is in the index if the same content is.

use std::cmp::Reverse;

use crate::format::{
    anchors::{self, BlockAnchor, NodeAnchor, Tag, WINDOW},
    layout::Group,
};

/// Anchors with smaller hashes are in the index: 8 / 2^24 of all windows.
const HASH_BELOW: u64 = 1 << (64 - 24 + 3);
/// An object with fewer such anchors has this many of its smallest in the index.
const SMALLEST: usize = 4;

/// The tags of an object that are in the index, ascending, each once.
pub fn sampled(anchors: &[BlockAnchor]) -> Vec<Tag> {
    let below = Tag::of(HASH_BELOW);
    let mut smallest: Vec<Tag> = Vec::with_capacity(SMALLEST + 1);
    let mut sampled: Vec<Tag> = Vec::new();
    // Zeros are everywhere and identify nothing.
    let zeros = Tag::of(anchors::gear(&[0; WINDOW]));
    let tags = anchors.iter().filter_map(|anchor| anchor.window());
    for (tag, _) in tags.filter(|(tag, _)| *tag != zeros) {
        if tag < below {
            sampled.push(tag);
        } else if let Err(place) = smallest.binary_search(&tag) {
            smallest.insert(place, tag);
            smallest.truncate(SMALLEST);
        }
    }
    sampled.sort_unstable();
    sampled.dedup();
    let more = SMALLEST.saturating_sub(sampled.len());
    sampled.extend(smallest.into_iter().take(more));
    sampled
}

/// The tags by which an object is looked up that is known by the anchors of its nodes.
pub fn of_nodes(nodes: impl IntoIterator<Item = NodeAnchor>) -> Vec<Tag> {
    let mut tags: Vec<Tag> = nodes
        .into_iter()
        .filter_map(|node| Tag::from_value(node.tag))
        .collect();
    tags.sort_unstable();
    tags.dedup();
    tags
}

/// The tags by which an object is looked up of whose manifest this group was read. Its hints are not proven, and cannot be.
pub fn of_group(group: &Group, bytes: &[u8]) -> Vec<Tag> {
    let hints = bytes.get(group.count as usize * 32..).unwrap_or_default();
    let (words, _) = hints.as_chunks::<8>();
    let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
    match group.level {
        0 => {
            let anchors: Vec<BlockAnchor> = words.into_iter().map(BlockAnchor).collect();
            sampled(&anchors)
        }
        _ => of_nodes(words.chunks_exact(2).map(|pair| NodeAnchor {
            tag: pair[0],
            place: pair[1],
        })),
    }
}

/// The reasons to search a holding. The greater of two merits is the better one; earlier fields count first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "fields are named after what they are")]
pub struct Merit {
    /// It holds the wanted object itself.
    pub same_object: bool,
    /// It came from the same URL: another version, probably.
    pub same_url: bool,
    /// How many of the tags that are looked up it has.
    pub hits: u32,
    /// It holds all of its object.
    pub whole: bool,
    /// When it was last used, in Unix seconds.
    pub used: u64,
}

impl Merit {
    /// Whether there is no reason to search it: the index has its anchors (`sampled`), and none of those looked up is among them.
    pub fn is_none(&self, sampled: bool, looked_up: bool) -> bool {
        sampled && looked_up && !self.same_object && !self.same_url && self.hits == 0
    }
}

/// The best few, best first.
pub fn best<T>(mut candidates: Vec<T>, most: usize, merit: impl Fn(&T) -> Merit) -> Vec<T> {
    candidates.sort_by_key(|one| Reverse(merit(one)));
    candidates.truncate(most);
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anchor(hash: u64) -> BlockAnchor {
        BlockAnchor::new(Tag::of(hash), 7)
    }

    #[test]
    fn small_hashes_and_at_least_four() {
        let large: Vec<BlockAnchor> = (1..10).map(|i| anchor(HASH_BELOW * (i + 1))).collect();
        let tags = |hashes: &[u64]| hashes.iter().map(|h| Tag::of(*h)).collect::<Vec<_>>();
        assert_eq!(
            sampled(&large),
            tags(&[2, 3, 4, 5].map(|i| HASH_BELOW * i)),
            "the smallest of those that are too large"
        );
        assert_eq!(sampled(&[]), []);
        assert_eq!(sampled(&[BlockAnchor::NONE; 3]), []);
        let mut mixed = large;
        mixed.extend((1..=6).map(|i| anchor(HASH_BELOW - (i << 20))));
        mixed.extend_from_within(..);
        let found = sampled(&mixed);
        assert_eq!(found.len(), 6, "each once, and no larger one");
        assert!(found.is_sorted() && found.iter().all(|tag| *tag < Tag::of(HASH_BELOW)));
        let zeros = Tag::of(anchors::gear(&[0; WINDOW]));
        assert_eq!(sampled(&[BlockAnchor::new(zeros, 0)]), []);
    }

    #[test]
    fn eight_in_16_mib() {
        // Hashes of windows are as good as random: 2^24 windows, of which 8 are small.
        let windows = u128::from(HASH_BELOW) * (1 << 24) / (1 << 64);
        assert_eq!(windows, 8);
    }

    #[test]
    fn the_object_itself_then_its_older_versions_then_what_is_like_it() {
        let none = Merit {
            same_object: false,
            same_url: false,
            hits: 0,
            whole: true,
            used: 9,
        };
        let (object, url) = (
            Merit {
                same_object: true,
                used: 1,
                ..none
            },
            Merit {
                same_url: true,
                used: 1,
                ..none
            },
        );
        let (like, part) = (
            Merit {
                hits: 3,
                used: 1,
                ..none
            },
            Merit {
                hits: 3,
                used: 5,
                whole: false,
                ..none
            },
        );
        let all = vec![none, part, like, url, object];
        assert_eq!(best(all, 4, |merit| *merit), [object, url, like, part]);
        assert!(
            none.is_none(true, true) && !none.is_none(false, true) && !none.is_none(true, false)
        );
        assert!(
            [object, url, like]
                .iter()
                .all(|merit| !merit.is_none(true, true))
        );
    }
}
