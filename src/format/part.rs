//! A part of a manifest: leaves, anchors and pieces of a range of an object (part.md). Parts are joined to the manifest.

use super::{
    anchors::BlockAnchor,
    geometry::{BlockRange, BlockSize, ByteRange, Geometry, PIECE},
    tree::Cv,
};

/// The first bytes of every part.
pub const MAGIC: [u8; 8] = *b"\x89SAPWPRT";
/// The version of parts that this program reads and writes.
pub const VERSION: u16 = 1;
/// The header, before the leaves.
pub const HEADER_BYTES: usize = 64;
/// The hash of all bytes before, at the end.
pub const HASH_BYTES: usize = 32;
const HINTS: u16 = 1;

/// Why a part is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what it is")]
pub enum RefusedPart {
    #[error("it is not a part of a manifest")]
    NotAPart,
    #[error("it has version {0}; this program reads version {VERSION}")]
    Version(u16),
    #[error("its header is not allowed")]
    Header,
    #[error("it is {found} bytes long and should be {expected}")]
    Length { expected: u64, found: u64 },
    #[error("it is damaged (checksum)")]
    Checksum,
}

/// What a part describes, and where its sections lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartHeader {
    /// Of the whole object.
    pub geometry: Geometry,
    /// Whether there are anchors and pieces.
    pub hints: bool,
    /// The blocks that are described.
    pub blocks: BlockRange,
}

impl PartHeader {
    /// The part for these bytes of an object. `None`: they do not begin and end at borders of blocks, or there are none.
    pub fn of_bytes(geometry: Geometry, hints: bool, bytes: ByteRange) -> Option<PartHeader> {
        let block_size = geometry.block_size().bytes();
        let is_border = |at: u64| at.is_multiple_of(block_size) && at <= geometry.length();
        let fits =
            is_border(bytes.start) && (is_border(bytes.end) || bytes.end == geometry.length());
        // An empty object has one block without bytes.
        let has_any = bytes.start < bytes.end || geometry.length() == 0;
        let block = |at: u64| at.div_ceil(block_size) as u32;
        let blocks = match geometry.length() {
            0 => geometry.all(),
            _ => BlockRange::new(block(bytes.start), block(bytes.end)),
        };
        (fits && has_any).then_some(PartHeader {
            geometry,
            hints,
            blocks,
        })
    }

    /// The bytes of the object.
    pub fn bytes(&self) -> ByteRange {
        self.geometry.bytes_of_range(self.blocks)
    }

    /// Reads the first bytes of a part.
    pub fn read(bytes: &[u8]) -> Result<PartHeader, RefusedPart> {
        let header = bytes.first_chunk::<HEADER_BYTES>();
        let header = header.filter(|header| header.starts_with(&MAGIC));
        let header = header.ok_or(RefusedPart::NotAPart)?;
        let u16_at = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let u64_at = |at: usize| {
            let bytes = header[at..].first_chunk::<8>().copied();
            u64::from_le_bytes(bytes.unwrap_or_default())
        };
        if u16_at(8) != VERSION {
            return Err(RefusedPart::Version(u16_at(8)));
        }
        let block_size = u64_at(12) & u64::from(u32::MAX);
        let geometry = BlockSize::new(block_size).and_then(|size| Geometry::new(u64_at(16), size));
        let (start, end) = (u64_at(24), u64_at(32));
        let part = geometry.filter(|_| start <= end).and_then(|geometry| {
            PartHeader::of_bytes(geometry, u16_at(10) == HINTS, ByteRange::new(start, end))
        });
        let is_allowed = u16_at(10) <= HINTS && header[40..].iter().all(|byte| *byte == 0);
        part.filter(|_| is_allowed).ok_or(RefusedPart::Header)
    }

    /// The first bytes of a part.
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(10, &u16::from(self.hints).to_le_bytes());
        put(
            12,
            &(self.geometry.block_size().bytes() as u32).to_le_bytes(),
        );
        put(16, &self.geometry.length().to_le_bytes());
        put(24, &self.bytes().start.to_le_bytes());
        put(32, &self.bytes().end.to_le_bytes());
        header
    }

    fn count(&self) -> u64 {
        u64::from(self.blocks.end - self.blocks.start)
    }

    /// Where the leaves lie.
    pub fn leaves(&self) -> ByteRange {
        let start = HEADER_BYTES as u64;
        ByteRange::new(start, start + 32 * self.count())
    }

    /// Where the anchors lie; empty without hints.
    pub fn anchors(&self) -> ByteRange {
        let (start, each) = (self.leaves().end, if self.hints { 8 } else { 0 });
        ByteRange::new(start, start + each * self.count())
    }

    /// Where the pieces lie; empty without hints.
    pub fn pieces(&self) -> ByteRange {
        let (start, each) = (self.anchors().end, if self.hints { 2 } else { 0 });
        ByteRange::new(start, start + each * self.bytes().length().div_ceil(PIECE))
    }

    /// The length of the part.
    pub fn length(&self) -> u64 {
        self.pieces().end + HASH_BYTES as u64
    }
}

/// Header, leaves and anchors: the bytes before the pieces.
///
/// # Panics
/// If there are not as many as blocks.
pub fn front(header: &PartHeader, leaves: &[Cv], anchors: &[BlockAnchor]) -> Vec<u8> {
    let mut bytes = header.to_bytes().to_vec();
    bytes.extend(leaves.iter().flatten());
    let anchors = if header.hints { anchors } else { &[] };
    bytes.extend(anchors.iter().flat_map(|anchor| anchor.0.to_le_bytes()));
    assert_eq!(
        bytes.len() as u64,
        header.anchors().end,
        "one for each block"
    );
    bytes
}

/// The leaves in their bytes.
pub fn leaves_of(bytes: &[u8]) -> Vec<Cv> {
    bytes.as_chunks::<32>().0.to_vec()
}

/// The anchors in their bytes.
pub fn anchors_of(bytes: &[u8]) -> Vec<BlockAnchor> {
    let words = bytes.as_chunks::<8>().0.iter();
    words
        .map(|word| BlockAnchor(u64::from_le_bytes(*word)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_begin_and_end_at_borders() {
        let geometry = |length| Geometry::new(length, BlockSize::MIN).unwrap();
        let part = |length, start, end| {
            let bytes = ByteRange::new(start, end);
            let part = PartHeader::of_bytes(geometry(length), true, bytes);
            part.map(|part| (part.blocks.start, part.blocks.end))
        };
        let b = 16384;
        assert_eq!(part(3 * b + 5, 0, b), Some((0, 1)));
        assert_eq!(part(3 * b + 5, b, 3 * b), Some((1, 3)));
        assert_eq!(part(3 * b + 5, 3 * b, 3 * b + 5), Some((3, 4)));
        assert_eq!(part(3 * b + 5, 0, 3 * b + 5), Some((0, 4)));
        assert_eq!(part(5, 0, 5), Some((0, 1)));
        assert_eq!(part(0, 0, 0), Some((0, 1)));
        for (start, end) in [(1, b), (0, b + 1), (b, b), (0, 4 * b), (4 * b, 4 * b)] {
            assert_eq!(part(3 * b + 5, start, end), None, "{start} {end}");
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let geometry = Geometry::new(5 * 16384 + 7, BlockSize::MIN).unwrap();
        for hints in [false, true] {
            let bytes = ByteRange::new(16384, 5 * 16384 + 7);
            let part = PartHeader::of_bytes(geometry, hints, bytes).unwrap();
            let header = part.to_bytes();
            assert_eq!(PartHeader::read(&header), Ok(part));
            assert_eq!(PartHeader::read(&header[..63]), Err(RefusedPart::NotAPart));
            for at in 0..HEADER_BYTES {
                for bit in 0..8 {
                    let mut changed = header;
                    changed[at] ^= 1 << bit;
                    assert_ne!(PartHeader::read(&changed), Ok(part), "{at} {bit}");
                }
            }
        }
    }
}
