//! Packs: compressed parts of an object beside its manifest, and their index (pack.md). Without compression and I/O.

use super::{
    geometry::{ByteRange, PIECE},
    tree::Root,
};

/// The first bytes of every pack.
pub const MAGIC: [u8; 8] = *b"\x89SAPPACK";
const VERSION: u16 = 1;
/// The only codec of this version.
const ZSTD: u8 = 1;
/// The bytes of a pack before its table.
pub const FRONT_BYTES: usize = 64;
/// What of an object is compressed together.
pub const FRAME: u64 = 1 << 20;
/// The bytes that a piece may refer to all lie in its cluster.
pub const CLUSTER: u64 = 64 << 10;
/// So many bytes more than its frame a packed frame may have: what does not compress is stored.
const FRAME_LONGER_MAX: u64 = 64;
/// The longest packed piece: it is shorter than the piece.
const PACKED_PIECE_MAX: u64 = PIECE - 1;

/// Bytes of the index before its pages.
pub const HEAD_BYTES: usize = 48;
/// Frames of a page of the index.
const PAGE_FRAMES: u64 = 64;
const CLUSTERS_A_FRAME: u64 = FRAME / CLUSTER;

/// Where the parts of a pack and of its index lie, for an object of some length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackLayout {
    length: u64,
}

/// Why an index cannot be used (pack.md, 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what it is")]
pub enum BadIndex {
    #[error("it has codec {0}, which this program does not know")]
    Codec(u8),
    #[error("the index of the pack has an impossible length, or bytes that must be zero are not")]
    Form,
    #[error("page {0} of the index of the pack does not begin where the one before ends")]
    Offsets(u64),
    #[error("the index of the pack ends at byte {end} of the pack, which has {length}")]
    End { end: u64, length: u64 },
    #[error("the index of the pack has a packed part that is too long")]
    Length,
}

/// Why a pack is not that of an object (pack.md, 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what it is")]
pub enum BadPack {
    #[error(transparent)]
    Index(#[from] BadIndex),
    #[error("it is {found} bytes long and should be {expected}")]
    Length { expected: u64, found: u64 },
    #[error("its first bytes are not those of the pack of this object")]
    Front,
    #[error("the packed pieces of bytes {0} are not as long as the index says")]
    Table(ByteRange),
    #[error("a packed piece of bytes {0} is not shorter than the plain one")]
    LongPiece(ByteRange),
    #[error("the packed bytes {0} are damaged, or of another object")]
    Content(ByteRange),
    #[error("it is not the one that the manifest names (checksum)")]
    Checksum,
}

impl PackLayout {
    /// For an object of this length; an empty one has no pack.
    pub fn new(length: u64) -> Option<PackLayout> {
        (length > 0).then_some(PackLayout { length })
    }

    /// The bytes of the object.
    pub fn bytes(self) -> ByteRange {
        ByteRange::new(0, self.length)
    }

    /// How many frames there are.
    pub fn frames(self) -> u64 {
        self.length.div_ceil(FRAME)
    }

    /// How many clusters there are.
    pub fn clusters(self) -> u64 {
        self.length.div_ceil(CLUSTER)
    }

    /// The bytes of the object in a frame.
    pub fn frame(self, index: u64) -> ByteRange {
        let start = index * FRAME;
        ByteRange::new(start, self.length.min(start + FRAME))
    }

    /// The table in the pack of the pieces of a frame.
    pub fn table_of_frame(self, index: u64) -> ByteRange {
        let frame = self.frame(index);
        let start = FRONT_BYTES as u64 + 2 * (frame.start / PIECE);
        ByteRange::new(start, start + 2 * frame.length().div_ceil(PIECE))
    }

    /// The table in the pack of the pieces that these bytes of the object touch.
    pub fn table_of(self, bytes: ByteRange) -> ByteRange {
        let start = FRONT_BYTES as u64;
        ByteRange::new(
            start + 2 * (bytes.start / PIECE),
            start + 2 * bytes.end.div_ceil(PIECE),
        )
    }

    /// The table in the pack: two bytes a piece.
    pub fn table(self) -> ByteRange {
        let start = FRONT_BYTES as u64;
        ByteRange::new(start, start + 2 * self.length.div_ceil(PIECE))
    }

    /// How many pages the index has.
    pub fn pages(self) -> u64 {
        self.frames().div_ceil(PAGE_FRAMES)
    }

    /// The bytes of a page, counted from the start of the index.
    pub fn page(self, index: u64) -> ByteRange {
        let whole = 16 + PAGE_FRAMES * (4 + 2 * CLUSTERS_A_FRAME);
        let start = HEAD_BYTES as u64 + index * whole;
        let (frames, clusters) = self.of_page(index);
        ByteRange::new(start, start + 16 + 4 * frames + 2 * clusters)
    }

    /// The pages that these bytes of the object touch.
    pub fn pages_of(self, bytes: ByteRange) -> std::ops::Range<u64> {
        let page = PAGE_FRAMES * FRAME;
        bytes.start / page..bytes.end.div_ceil(page)
    }

    /// The bytes of the object whose parts a page has.
    pub fn bytes_of_page(self, index: u64) -> ByteRange {
        let start = index * PAGE_FRAMES * FRAME;
        ByteRange::new(start, self.length.min(start + PAGE_FRAMES * FRAME))
    }

    /// The length of the index.
    pub fn index_bytes(self) -> u64 {
        self.page(self.pages() - 1).end
    }

    /// How many frames and clusters a page has.
    fn of_page(self, index: u64) -> (u64, u64) {
        let rest = |all: u64, each: u64| (all - index * each).min(each);
        (
            rest(self.frames(), PAGE_FRAMES),
            rest(self.clusters(), PAGE_FRAMES * CLUSTERS_A_FRAME),
        )
    }

    /// The longest that the packed pieces of a cluster may be together.
    fn cluster_max(self, cluster: u64) -> u64 {
        let bytes = CLUSTER.min(self.length - cluster * CLUSTER);
        bytes.div_ceil(PIECE) * PACKED_PIECE_MAX
    }
}

/// The first bytes of the pack of an object.
pub fn front(length: u64, root: Root) -> [u8; FRONT_BYTES] {
    let mut front = [0; FRONT_BYTES];
    front[..8].copy_from_slice(&MAGIC);
    front[8..10].copy_from_slice(&VERSION.to_le_bytes());
    front[10] = ZSTD;
    front[16..24].copy_from_slice(&length.to_le_bytes());
    front[32..].copy_from_slice(&root.0);
    front
}

/// The packed lengths of all frames and clusters, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackedLengths {
    /// 0: not packed.
    pub frames: Vec<u32>,
    /// The sums of the packed pieces of each cluster.
    pub clusters: Vec<u16>,
}

impl PackedLengths {
    /// Adds those of a frame and of its pieces, which are shorter packed or 0.
    pub fn push(&mut self, frame: usize, pieces: &[u16]) {
        self.frames.push(frame as u32);
        let clusters = pieces.chunks((CLUSTER / PIECE) as usize);
        self.clusters
            .extend(clusters.map(|cluster| cluster.iter().sum::<u16>()));
    }

    /// All bytes of packed frames.
    pub fn frames_bytes(&self) -> u64 {
        self.frames.iter().copied().map(u64::from).sum()
    }

    /// All bytes of packed pieces.
    pub fn pieces_bytes(&self) -> u64 {
        self.clusters.iter().copied().map(u64::from).sum()
    }

    /// The index of a pack with these parts and this BLAKE3.
    ///
    /// # Panics
    /// If they are not as many as the object has.
    pub fn to_index(&self, layout: PackLayout, blake3: [u8; 32]) -> Vec<u8> {
        assert_eq!(self.frames.len() as u64, layout.frames());
        assert_eq!(self.clusters.len() as u64, layout.clusters());
        let mut frames_at = layout.table().end;
        let mut pieces_at = frames_at + self.frames_bytes();
        let mut index = Vec::with_capacity(layout.index_bytes() as usize);
        index.extend([ZSTD, 0, 0, 0, 0, 0, 0, 0]);
        index.extend((pieces_at + self.pieces_bytes()).to_le_bytes());
        index.extend(blake3);
        let frames = self.frames.chunks(PAGE_FRAMES as usize);
        let clusters = self
            .clusters
            .chunks((PAGE_FRAMES * CLUSTERS_A_FRAME) as usize);
        for (frames, clusters) in frames.zip(clusters) {
            index.extend(frames_at.to_le_bytes());
            index.extend(pieces_at.to_le_bytes());
            index.extend(frames.iter().flat_map(|length| length.to_le_bytes()));
            index.extend(clusters.iter().flat_map(|length| length.to_le_bytes()));
            frames_at += frames.iter().copied().map(u64::from).sum::<u64>();
            pieces_at += clusters.iter().copied().map(u64::from).sum::<u64>();
        }
        index
    }
}

/// The head of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackHead {
    /// Of the pack.
    pub length: u64,
    /// Of the pack.
    pub blake3: [u8; 32],
}

impl PackHead {
    /// Reads the first bytes of an index.
    pub fn read(head: &[u8; HEAD_BYTES]) -> Result<PackHead, BadIndex> {
        match head[0] {
            ZSTD if head[1..8] == [0; 7] => Ok(PackHead {
                length: u64_at(head, 8),
                blake3: head[16..].try_into().expect("32 bytes"),
            }),
            ZSTD => Err(BadIndex::Form),
            codec => Err(BadIndex::Codec(codec)),
        }
    }
}

/// A page of an index: by itself it may say anything but that a part is too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackPage {
    /// Where its first packed frame begins.
    frames_at: u64,
    /// Where its first packed piece begins.
    pieces_at: u64,
    lengths: PackedLengths,
}

impl PackPage {
    /// Reads a page of the index of an object.
    pub fn from_bytes(bytes: &[u8], layout: PackLayout, index: u64) -> Result<PackPage, BadIndex> {
        if bytes.len() as u64 != layout.page(index).length() {
            return Err(BadIndex::Form);
        }
        let (frames, clusters) = bytes[16..].split_at(4 * layout.of_page(index).0 as usize);
        let frames = frames.as_chunks().0.iter();
        let clusters = clusters.as_chunks().0.iter();
        let lengths = PackedLengths {
            frames: frames.map(|n| u32::from_le_bytes(*n)).collect(),
            clusters: clusters.map(|n| u16::from_le_bytes(*n)).collect(),
        };
        lengths.check_each(layout, index * PAGE_FRAMES)?;
        Ok(PackPage {
            frames_at: u64_at(bytes, 0),
            pieces_at: u64_at(bytes, 8),
            lengths,
        })
    }

    /// Whether all of its parts lie between the table and the end of a pack of this length.
    pub fn is_within(&self, layout: PackLayout, length: u64) -> bool {
        let ends =
            |start: u64, bytes: u64| start.checked_add(bytes).is_some_and(|end| end <= length);
        self.frames_at.min(self.pieces_at) >= layout.table().end
            && ends(self.frames_at, self.lengths.frames_bytes())
            && ends(self.pieces_at, self.lengths.pieces_bytes())
    }

    /// Where a packed frame lies in the pack; empty: it is not packed.
    pub fn frame(&self, index: u64) -> ByteRange {
        let (before, rest) = self.lengths.frames.split_at((index % PAGE_FRAMES) as usize);
        let start = self.frames_at + before.iter().copied().map(u64::from).sum::<u64>();
        ByteRange::new(start, start + u64::from(rest[0]))
    }

    /// Where the packed pieces of a cluster lie in the pack.
    pub fn cluster(&self, index: u64) -> ByteRange {
        let within = index % (PAGE_FRAMES * CLUSTERS_A_FRAME);
        let (before, rest) = self.lengths.clusters.split_at(within as usize);
        let start = self.pieces_at + before.iter().copied().map(u64::from).sum::<u64>();
        ByteRange::new(start, start + u64::from(rest[0]))
    }
}

/// A whole index that is well-formed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackIndex {
    /// Length and hash of the pack.
    pub head: PackHead,
    /// Of its parts.
    pub lengths: PackedLengths,
}

impl PackIndex {
    /// Reads an index, for an object of this length.
    pub fn from_bytes(bytes: &[u8], length: u64) -> Result<PackIndex, BadIndex> {
        let head = bytes.first_chunk().ok_or(BadIndex::Form)?;
        let head = PackHead::read(head)?;
        let layout = PackLayout::new(length).ok_or(BadIndex::Form)?;
        if bytes.len() as u64 != layout.index_bytes() {
            return Err(BadIndex::Form);
        }
        let mut lengths = PackedLengths::default();
        let mut starts = Vec::new();
        for index in 0..layout.pages() {
            let place = layout.page(index);
            let page = &bytes[place.start as usize..place.end as usize];
            let page = PackPage::from_bytes(page, layout, index)?;
            starts.push((page.frames_at, page.pieces_at));
            lengths.frames.extend(page.lengths.frames);
            lengths.clusters.extend(page.lengths.clusters);
        }
        lengths.check_starts(layout, &starts, head.length)?;
        Ok(PackIndex { head, lengths })
    }
}

impl PackIndex {
    /// Where each packed frame lies in the pack, and the packed pieces of each frame.
    pub fn places(&self, layout: PackLayout) -> Vec<(ByteRange, ByteRange)> {
        let mut frame = ByteRange::new(0, layout.table().end);
        let mut pieces = ByteRange::new(0, frame.end + self.lengths.frames_bytes());
        let clusters = self.lengths.clusters.chunks(CLUSTERS_A_FRAME as usize);
        let parts = self.lengths.frames.iter().zip(clusters);
        let places = parts.map(|(length, clusters)| {
            let sum: u64 = clusters.iter().copied().map(u64::from).sum();
            frame = ByteRange::new(frame.end, frame.end + u64::from(*length));
            pieces = ByteRange::new(pieces.end, pieces.end + sum);
            (frame, pieces)
        });
        places.collect()
    }
}

impl PackedLengths {
    /// Whether no part is too long (rule e); they are those from this frame on.
    fn check_each(&self, layout: PackLayout, first: u64) -> Result<(), BadIndex> {
        let frames = (first..).zip(&self.frames);
        let clusters = (first * CLUSTERS_A_FRAME..).zip(&self.clusters);
        let is_long = |(index, length): (u64, &u32)| {
            u64::from(*length) > layout.frame(index).length() + FRAME_LONGER_MAX
        };
        let is_large = |(index, sum): (u64, &u16)| u64::from(*sum) > layout.cluster_max(index);
        match frames.into_iter().any(is_long) || clusters.into_iter().any(is_large) {
            true => Err(BadIndex::Length),
            false => Ok(()),
        }
    }

    /// Whether the pages begin where they must (rules b, c) and the last part ends with the pack (rule d).
    fn check_starts(
        &self,
        layout: PackLayout,
        starts: &[(u64, u64)],
        length: u64,
    ) -> Result<(), BadIndex> {
        let mut frames_at = layout.table().end;
        let mut pieces_at = frames_at + self.frames_bytes();
        let frames = self.frames.chunks(PAGE_FRAMES as usize);
        let clusters = self
            .clusters
            .chunks((PAGE_FRAMES * CLUSTERS_A_FRAME) as usize);
        for ((index, start), (frames, clusters)) in (0..).zip(starts).zip(frames.zip(clusters)) {
            if *start != (frames_at, pieces_at) {
                return Err(BadIndex::Offsets(index));
            }
            frames_at += frames.iter().copied().map(u64::from).sum::<u64>();
            pieces_at += clusters.iter().copied().map(u64::from).sum::<u64>();
        }
        match pieces_at == length {
            true => Ok(()),
            false => Err(BadIndex::End {
                end: pieces_at,
                length,
            }),
        }
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths_of(layout: PackLayout) -> PackedLengths {
        let mut lengths = PackedLengths::default();
        for frame in 0..layout.frames() {
            let plain = layout.frame(frame).length();
            let pieces: Vec<u16> = (0..plain.div_ceil(PIECE))
                .map(|n| (n % 700) as u16)
                .collect();
            lengths.push((plain / 3) as usize, &pieces);
        }
        lengths
    }

    #[test]
    fn an_index_comes_back() {
        assert_eq!(PackLayout::new(0), None);
        for length in [
            1,
            1024,
            65_536,
            65_537,
            FRAME,
            FRAME + 1,
            64 * FRAME,
            64 * FRAME + 1,
            1 << 30,
        ] {
            let layout = PackLayout::new(length).unwrap();
            let lengths = lengths_of(layout);
            let bytes = lengths.to_index(layout, [7; 32]);
            assert_eq!(bytes.len() as u64, layout.index_bytes());
            let (frames, clusters) = (length.div_ceil(FRAME), length.div_ceil(CLUSTER));
            let expected = 48 + 16 * frames.div_ceil(64) + 4 * frames + 2 * clusters;
            assert_eq!(layout.index_bytes(), expected, "{length}");
            let read = PackIndex::from_bytes(&bytes, length).unwrap();
            assert_eq!(read.lengths, lengths);
            assert_eq!(read.head.blake3, [7; 32]);
            let end = layout.table().end + lengths.frames_bytes() + lengths.pieces_bytes();
            assert_eq!(read.head.length, end);
            for (frame, place) in (0..).zip(read.places(layout)) {
                let number = layout.pages_of(layout.frame(frame)).start;
                let at = layout.page(number);
                let page = &bytes[at.start as usize..at.end as usize];
                let page = PackPage::from_bytes(page, layout, number).unwrap();
                assert!(page.is_within(layout, end));
                assert_eq!(page.frame(frame), place.0);
                assert_eq!(page.cluster(frame * CLUSTERS_A_FRAME).start, place.1.start);
                let last = layout.clusters().min((frame + 1) * CLUSTERS_A_FRAME) - 1;
                assert_eq!(page.cluster(last).end, place.1.end);
            }
        }
        assert_eq!(PackLayout::new(1 << 40).unwrap().page(0).length(), 2_320);
    }

    #[test]
    fn a_page_by_itself_may_lie_anywhere_in_the_pack() {
        let layout = PackLayout::new(FRAME).unwrap();
        let good = lengths_of(layout).to_index(layout, [7; 32]);
        let (good, length) = (&good[HEAD_BYTES..], u64_at(&good, 8));
        let read = |at: usize, start: u64| {
            let mut bytes = good.to_vec();
            bytes[at..at + 8].copy_from_slice(&start.to_le_bytes());
            PackPage::from_bytes(&bytes, layout, 0).unwrap()
        };
        for at in [0, 8] {
            assert!(read(at, layout.table().end).is_within(layout, length));
            for start in [0, layout.table().end - 1, length, u64::MAX] {
                assert!(!read(at, start).is_within(layout, length), "{start}");
            }
        }
        for bytes in [&good[1..], &[]] {
            let refused = PackPage::from_bytes(bytes, layout, 0);
            assert_eq!(refused, Err(BadIndex::Form));
        }
    }

    #[test]
    fn an_index_that_is_not_well_formed_is_refused() {
        let length = 65 * FRAME + 5;
        let layout = PackLayout::new(length).unwrap();
        let good = lengths_of(layout).to_index(layout, [7; 32]);
        let check = |at: usize, xor: u8, bad: BadIndex| {
            let mut bytes = good.clone();
            bytes[at] ^= xor;
            assert_eq!(PackIndex::from_bytes(&bytes, length), Err(bad), "byte {at}");
        };
        check(0, 3, BadIndex::Codec(2));
        for at in 1..8 {
            check(at, 1, BadIndex::Form);
        }
        let end = u64_at(&good, 8);
        check(
            8,
            1,
            BadIndex::End {
                end,
                length: end ^ 1,
            },
        );
        let second = layout.page(1).start as usize;
        check(48, 1, BadIndex::Offsets(0));
        check(56, 1, BadIndex::Offsets(0));
        check(second, 1, BadIndex::Offsets(1));
        check(second + 8, 1, BadIndex::Offsets(1));
        check(64 + 3, 1, BadIndex::Length);
        for bytes in [&good[..good.len() - 1], &good[..47], &[]] {
            assert_eq!(PackIndex::from_bytes(bytes, length), Err(BadIndex::Form));
        }
        assert_eq!(PackIndex::from_bytes(&good, 0), Err(BadIndex::Form));
        // The last cluster has one piece.
        let mut lengths = lengths_of(layout);
        *lengths.clusters.last_mut().unwrap() = 1024;
        let index = lengths.to_index(layout, [7; 32]);
        assert_eq!(PackIndex::from_bytes(&index, length), Err(BadIndex::Length));
    }
}
