//! Copies of an earlier object, whose bytes are not sent again (upload.md, "Copies of an earlier object").

use std::collections::HashMap;

use futures_util::{StreamExt, TryStreamExt, stream};

use crate::{
    format::{
        geometry::{BlockSize, ByteRange},
        library::LibraryPath,
        tree::Root,
        upload::SessionId,
    },
    policy::{parts::PartPlan, upload::Session},
};

use super::{Destination, OfferedPart, Storage, StorageError};

/// Ranges of one part that may be copied.
pub const COPIES_MAX: usize = 1024;
/// Ranges of one part that are sent together: the URL names them, in less than 3 KiB. Others are joined, with what lies between them.
pub const SENT_RANGES_MAX: usize = 128;

/// Parts that are copied at a time for one request.
const AT_ONCE: usize = 4;

/// What a base has of parts, by their indices.
pub type PartCopies = HashMap<u32, Vec<CopyRange>>;

/// An object of which bytes may be copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// Where it is published.
    pub name: LibraryPath,
    /// Its root.
    pub root: Root,
    /// In bytes.
    pub length: u64,
    /// The session that published it; `None`: whoever asks may read what has the name in any case.
    pub session: Option<SessionId>,
}

/// Bytes of a part that a base has, as a client says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyRange {
    /// Where they are in the part.
    pub at: u64,
    /// Where they are in the base.
    pub from: u64,
    /// How many.
    pub length: u64,
}

impl CopyRange {
    /// Its bytes of the part.
    pub fn bytes(&self) -> ByteRange {
        ByteRange::new(self.at, self.at + self.length)
    }

    /// Where these bytes of the part are in a base of this length.
    pub fn source(&self, bytes: ByteRange, base_length: u64) -> Option<ByteRange> {
        let start = self.from.checked_add(bytes.start.checked_sub(self.at)?)?;
        let end = start.checked_add(bytes.length())?;
        (end <= base_length).then(|| ByteRange::new(start, end))
    }
}

/// Where parts go, after what the base has of these was copied: the others are not looked at one by one.
pub async fn destinations(
    storage: &dyn Storage,
    session: &Session,
    parts: &[OfferedPart],
    (base, copies): (&Base, &PartCopies),
) -> Result<Vec<Destination>, StorageError> {
    let is_copied = |part: &&OfferedPart| copies.contains_key(&part.index);
    let plain: Vec<OfferedPart> = parts
        .iter()
        .filter(|part| !is_copied(part))
        .cloned()
        .collect();
    let mut plain = storage.destinations(session, &plain).await?.into_iter();
    let made = parts.iter().filter_map(|part| {
        let copies = copies.get(&part.index)?;
        Some(storage.copy(session, part, base, copies))
    });
    // Collected: the compiler does not see that the stream of a closure is `Send`.
    let made: Vec<_> = made.collect();
    let made: Vec<Destination> = stream::iter(made).buffered(AT_ONCE).try_collect().await?;
    let mut made = made.into_iter();
    let next = |part: &OfferedPart| match is_copied(&part) {
        true => made.next(),
        false => plain.next(),
    };
    Ok(parts.iter().filter_map(next).collect())
}

/// Whether these ranges are of whole blocks of a part, in order and apart.
pub fn are_allowed(copies: &[CopyRange], plan: &PartPlan, part: &OfferedPart) -> bool {
    let mut end = 0;
    copies.len() <= COPIES_MAX
        && copies.iter().all(|copy| {
            let next = copy.at.checked_add(copy.length);
            let next = next.filter(|next| *next <= part.length && copy.at >= end);
            end = next.unwrap_or(u64::MAX);
            next.is_some() && copy.length > 0 && is_of_blocks(copy.bytes(), plan, part.length)
        })
}

/// Whether bytes of a part of this length are whole blocks of it.
pub fn is_of_blocks(bytes: ByteRange, plan: &PartPlan, length: u64) -> bool {
    let block = plan.block_size().bytes();
    bytes.start.is_multiple_of(block)
        && bytes.end <= length
        && (bytes.end == length || bytes.end.is_multiple_of(block))
}

/// Joins ranges until there are at most so many, the nearest first.
pub fn joined(ranges: &[ByteRange], most: usize, block_size: BlockSize) -> Vec<ByteRange> {
    let mut gap = 0;
    loop {
        let mut joined: Vec<ByteRange> = Vec::new();
        for range in ranges {
            match joined.last_mut() {
                Some(last) if range.start <= last.end.saturating_add(gap) => last.end = range.end,
                _ => joined.push(*range),
            }
        }
        if joined.len() <= most.max(1) {
            return joined;
        }
        gap = (gap * 2).max(block_size.bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::upload::Sha256;

    const BLOCK: u64 = 16 << 10;

    fn copy(at: u64, length: u64) -> CopyRange {
        CopyRange {
            at,
            from: 7,
            length,
        }
    }

    #[test]
    fn ranges_are_of_whole_blocks_in_order_and_apart() {
        let length = (5 << 20) + 1;
        let plan = PartPlan::new(Some(length), 6 << 20, BlockSize::new(BLOCK).unwrap()).unwrap();
        let part = OfferedPart {
            index: 0,
            length,
            sha256: Sha256([0; 32]),
            leaves: None,
        };
        let last = length - 1;
        for (copies, expected) in [
            (vec![], true),
            (vec![copy(0, BLOCK)], true),
            (vec![copy(0, length)], true),
            (vec![copy(0, BLOCK), copy(BLOCK, BLOCK)], true),
            (vec![copy(last, 1)], true),
            (vec![copy(last, 2)], false),
            (vec![copy(0, 0)], false),
            (vec![copy(1, BLOCK)], false),
            (vec![copy(0, BLOCK - 1)], false),
            (vec![copy(BLOCK, BLOCK), copy(0, BLOCK)], false),
            (vec![copy(0, 2 * BLOCK), copy(BLOCK, BLOCK)], false),
            (vec![copy(u64::MAX - BLOCK + 1, BLOCK)], false),
            (vec![copy(0, BLOCK); COPIES_MAX + 1], false),
        ] {
            assert_eq!(are_allowed(&copies, &plan, &part), expected, "{copies:?}");
        }
        let one = CopyRange {
            at: BLOCK,
            from: 100,
            length: 2 * BLOCK,
        };
        let second = ByteRange::new(2 * BLOCK, 3 * BLOCK);
        let place = ByteRange::new(100 + BLOCK, 100 + 2 * BLOCK);
        assert_eq!(one.source(second, place.end), Some(place));
        assert_eq!(one.source(second, place.end - 1), None);
    }

    #[test]
    fn near_ranges_are_joined_first() {
        let block_size = BlockSize::new(BLOCK).unwrap();
        let range = |start: u64, end: u64| ByteRange::new(start * BLOCK, end * BLOCK);
        let ranges = [range(0, 1), range(2, 3), range(20, 21), range(21, 22)];
        let joined_to = |most| joined(&ranges, most, block_size);
        assert_eq!(joined_to(9), [range(0, 1), range(2, 3), range(20, 22)]);
        assert_eq!(joined_to(2), [range(0, 3), range(20, 22)]);
        assert_eq!(joined_to(1), [range(0, 22)]);
        assert_eq!(joined(&[], 1, block_size), []);
    }
}
