//! What an upload writes down: the ID of a session, a SHA-256, and the record of a staged part (upload.md).

use std::{fmt, str::FromStr};

use super::{
    anchors::BlockAnchor,
    geometry::{BlockSize, ByteRange, PIECE},
    tree::Cv,
};

/// The first bytes of every record.
pub const MAGIC: [u8; 8] = *b"\x89SAPWUPL";
/// The version of records that this program reads and writes.
pub const VERSION: u16 = 1;
/// The header, before the leaves.
pub const HEADER_BYTES: usize = 96;
/// The hash of all bytes before, at the end.
pub const HASH_BYTES: usize = 32;
/// The longest part: S3 takes at most 5 GiB, and this is a power of two.
pub const PART_BYTES_MAX: u64 = 4 << 30;
/// The most parts of an upload, which is the most that S3 takes.
pub const PARTS_MAX: u32 = 10_000;
/// Flag: the only block of the part is the whole object, so that its leaf is the root.
const WHOLE: u16 = 1;

/// The name of a session: a UUID of version 4 (RFC 9562), which the client chooses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId([u8; 16]);

impl SessionId {
    /// The ID with these random bits; six of them are given by the version.
    pub fn from_random(mut bytes: [u8; 16]) -> SessionId {
        bytes[6] = bytes[6] & 0x0F | 0x40;
        bytes[8] = bytes[8] & 0x3F | 0x80;
        SessionId(bytes)
    }

    /// An ID from its bytes; `None` unless it has version 4.
    pub fn from_bytes(bytes: [u8; 16]) -> Option<SessionId> {
        (SessionId::from_random(bytes).0 == bytes).then_some(SessionId(bytes))
    }

    /// Its bytes.
    pub fn bytes(&self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = hex::encode(self.0);
        let groups = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20]];
        write!(f, "{}-{}", groups.join("-"), &hex[20..])
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not the ID of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ID of a session is a UUID of version 4, such as 9b2f6c1e-5d0a-4c3b-8f7e-2a1b3c4d5e6f")]
pub struct NotASessionId;

impl FromStr for SessionId {
    type Err = NotASessionId;

    /// In lower case, so that a session has one URL and one folder.
    fn from_str(text: &str) -> Result<SessionId, NotASessionId> {
        let mut bytes = [0; 16];
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| NotASessionId)?;
        let id = SessionId::from_bytes(bytes).ok_or(NotASessionId)?;
        match id.to_string() == text {
            true => Ok(id),
            false => Err(NotASessionId),
        }
    }
}

/// The SHA-256 of a part or an object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256(pub [u8; 32]);

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 is 64 hexadecimal digits")]
pub struct NotASha256;

impl FromStr for Sha256 {
    type Err = NotASha256;

    fn from_str(text: &str) -> Result<Sha256, NotASha256> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| NotASha256)?;
        Ok(Sha256(bytes))
    }
}

/// Why a record is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what it is")]
pub enum RefusedRecord {
    #[error("it is not the record of a staged part")]
    NotARecord,
    #[error("it has version {0}; this program reads version {VERSION}")]
    Version(u16),
    #[error("its header is not allowed")]
    Header,
    #[error("it is {found} bytes long and should be {expected}")]
    Length { expected: u64, found: u64 },
    #[error("it is damaged (checksum)")]
    Checksum,
    #[error("anchor {0} is not allowed")]
    Anchor(u32),
}

/// Which part a record proves, and where its sections lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// A record is of one session: one that was moved is refused by who reads it.
    pub session: SessionId,
    /// The zero-based number of the part.
    pub index: u32,
    /// Of the object.
    pub block_size: BlockSize,
    /// The bytes of the object that the part is.
    pub bytes: ByteRange,
    /// The only block of the part is the whole object: its leaf is the root.
    pub is_whole: bool,
    /// Of the bytes of the part.
    pub sha256: Sha256,
}

/// The record of a staged part: proof that the part is whole and durable, and what a manifest says of its blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartRecord {
    /// Which part.
    pub header: RecordHeader,
    /// One for each block.
    pub leaves: Vec<Cv>,
    /// One for each block.
    pub anchors: Vec<BlockAnchor>,
    /// The pieces, as the manifest holds them: 2 bytes for each KiB.
    pub pieces: Vec<u8>,
}

impl RecordHeader {
    /// Whether a part can have these bytes.
    fn is_allowed(&self) -> bool {
        let size = self.block_size.bytes();
        let length = self.bytes.length();
        let fits_whole = match self.is_whole {
            true => self.bytes.start == 0 && self.index == 0 && length <= size,
            false => length > 0,
        };
        fits_whole
            && self.index < PARTS_MAX
            && (self.index == 0) == (self.bytes.start == 0)
            && self.bytes.start.is_multiple_of(size)
            && length <= PART_BYTES_MAX
    }

    /// The number of blocks; at least one.
    pub fn blocks(&self) -> u64 {
        self.block_size.blocks_for(self.bytes.length())
    }

    /// Where the leaves lie.
    pub fn leaves(&self) -> ByteRange {
        let start = HEADER_BYTES as u64;
        ByteRange::new(start, start + 32 * self.blocks())
    }

    /// Where the anchors lie.
    pub fn anchors(&self) -> ByteRange {
        let start = self.leaves().end;
        ByteRange::new(start, start + 8 * self.blocks())
    }

    /// Where the pieces lie.
    pub fn pieces(&self) -> ByteRange {
        let start = self.anchors().end;
        ByteRange::new(start, start + 2 * self.bytes.length().div_ceil(PIECE))
    }

    /// The length of the record.
    pub fn record_bytes(&self) -> u64 {
        self.pieces().end + HASH_BYTES as u64
    }

    /// Reads the first bytes of a record.
    pub fn read(bytes: &[u8]) -> Result<RecordHeader, RefusedRecord> {
        let header = bytes.first_chunk::<HEADER_BYTES>();
        let header = header.filter(|header| header.starts_with(&MAGIC));
        let header = header.ok_or(RefusedRecord::NotARecord)?;
        let u16_at = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let u64_at = |at: usize| {
            let bytes = header[at..].first_chunk::<8>().copied();
            u64::from_le_bytes(bytes.unwrap_or_default())
        };
        let (version, flags) = (u16_at(8), u16_at(10));
        if version != VERSION {
            return Err(RefusedRecord::Version(version));
        }
        let u32_at = |at: usize| u64_at(at) as u32;
        let session = header[40..].first_chunk::<16>().copied();
        let sha256 = header[56..].first_chunk::<32>().copied();
        let (start, length) = (u64_at(16), u64_at(24));
        let parsed = || {
            let record = RecordHeader {
                session: SessionId::from_bytes(session?)?,
                index: u32_at(32),
                block_size: BlockSize::new(u64::from(u32_at(12)))?,
                bytes: ByteRange::new(start, start.checked_add(length)?),
                is_whole: flags == WHOLE,
                sha256: Sha256(sha256?),
            };
            let zeros = header[36..40].iter().chain(&header[88..]);
            let is_allowed = flags <= WHOLE && zeros.copied().all(|byte| byte == 0);
            (is_allowed && record.is_allowed()).then_some(record)
        };
        parsed().ok_or(RefusedRecord::Header)
    }

    /// The first bytes of a record.
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(10, &u16::from(self.is_whole).to_le_bytes());
        put(12, &(self.block_size.bytes() as u32).to_le_bytes());
        put(16, &self.bytes.start.to_le_bytes());
        put(24, &self.bytes.length().to_le_bytes());
        put(32, &self.index.to_le_bytes());
        put(40, &self.session.bytes());
        put(56, &self.sha256.0);
        header
    }
}

impl PartRecord {
    /// The bytes of the record.
    ///
    /// # Panics
    /// If leaves, anchors and pieces are not as many as the header says.
    pub fn to_bytes(&self) -> Vec<u8> {
        debug_assert!(self.header.is_allowed());
        let mut bytes = self.header.to_bytes().to_vec();
        bytes.extend(self.leaves.iter().flatten());
        let ends = [self.header.leaves().end, self.header.anchors().end];
        assert_eq!(bytes.len() as u64, ends[0], "one leaf for each block");
        bytes.extend(
            self.anchors
                .iter()
                .flat_map(|anchor| anchor.0.to_le_bytes()),
        );
        assert_eq!(bytes.len() as u64, ends[1], "one anchor for each block");
        bytes.extend(&self.pieces);
        assert_eq!(bytes.len() as u64, self.header.pieces().end, "each KiB");
        bytes.extend(blake3::hash(&bytes).as_bytes());
        bytes
    }

    /// Reads a record.
    pub fn read(bytes: &[u8]) -> Result<PartRecord, RefusedRecord> {
        let header = RecordHeader::read(bytes)?;
        let (found, expected) = (bytes.len() as u64, header.record_bytes());
        if found != expected {
            return Err(RefusedRecord::Length { expected, found });
        }
        let (content, hash) = bytes.split_at(bytes.len() - HASH_BYTES);
        if blake3::hash(content).as_bytes() != hash {
            return Err(RefusedRecord::Checksum);
        }
        let section = |at: ByteRange| &content[at.start as usize..at.end as usize];
        let words = section(header.anchors()).as_chunks::<8>().0.iter();
        let anchors: Vec<BlockAnchor> = words
            .map(|word| BlockAnchor(u64::from_le_bytes(*word)))
            .collect();
        for (block, anchor) in anchors.iter().enumerate() {
            let size = header.block_size.bytes();
            let left = header.bytes.length() - block as u64 * size;
            if !anchor.fits(left.min(size)) {
                return Err(RefusedRecord::Anchor(block as u32));
            }
        }
        Ok(PartRecord {
            header,
            leaves: section(header.leaves()).as_chunks::<32>().0.to_vec(),
            anchors,
            pieces: section(header.pieces()).to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{anchors::anchor_of, paint, pieces::append_pieces, tree::PartHasher};

    fn record(index: u32, start: u64, length: u64, is_whole: bool) -> PartRecord {
        let bytes = paint::bytes(start, length as usize);
        let size = BlockSize::MIN.bytes();
        let blocks = || {
            (0..size_blocks(length)).map(|block| {
                let end = ((block + 1) * size).min(length);
                (
                    start + block * size,
                    &bytes[(block * size) as usize..end as usize],
                )
            })
        };
        let leaf = |(at, bytes): (u64, &[u8])| {
            let mut hasher = PartHasher::new(at);
            hasher.update(bytes);
            match is_whole {
                true => hasher.root().0,
                false => hasher.value(),
            }
        };
        let mut pieces = Vec::new();
        append_pieces(&bytes, &mut pieces);
        PartRecord {
            header: RecordHeader {
                session: SessionId::from_random([0xA5; 16]),
                index,
                block_size: BlockSize::MIN,
                bytes: ByteRange::new(start, start + length),
                is_whole,
                sha256: Sha256([7; 32]),
            },
            leaves: blocks().map(leaf).collect(),
            anchors: blocks().map(|(_, bytes)| anchor_of(bytes)).collect(),
            pieces,
        }
    }

    fn size_blocks(length: u64) -> u64 {
        BlockSize::MIN.blocks_for(length)
    }

    #[test]
    fn what_was_written_is_read() {
        let b = BlockSize::MIN.bytes();
        for (index, start, length, is_whole) in [
            (0, 0, 0, true),
            (0, 0, 1, true),
            (0, 0, b, true),
            (0, 0, b, false),
            (0, 0, b + 1, false),
            (0, 0, 3 * b, false),
            (9999, 7 * b, 1, false),
            (1, 7 * b, 2 * b + 1025, false),
        ] {
            let record = record(index, start, length, is_whole);
            let bytes = record.to_bytes();
            assert_eq!(bytes.len() as u64, record.header.record_bytes());
            assert_eq!(PartRecord::read(&bytes), Ok(record), "{start} {length}");
        }
    }

    #[test]
    fn every_change_of_a_record_is_refused() {
        let bytes = record(0, 0, 100, true).to_bytes();
        for at in 0..bytes.len() {
            assert!(PartRecord::read(&bytes[..at]).is_err(), "cut at {at}");
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert!(PartRecord::read(&changed).is_err(), "{at} {bit}");
            }
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert!(matches!(
            PartRecord::read(&longer),
            Err(RefusedRecord::Length { .. })
        ));
    }

    /// The checksum was made again: what is read is refused for what it says.
    #[test]
    fn what_a_record_may_not_say_is_refused() {
        let refused = |record: &PartRecord, at: usize, new: &[u8]| {
            let mut bytes = record.to_bytes();
            bytes[at..at + new.len()].copy_from_slice(new);
            let end = bytes.len() - HASH_BYTES;
            let hash = blake3::hash(&bytes[..end]);
            bytes[end..].copy_from_slice(hash.as_bytes());
            PartRecord::read(&bytes).expect_err("it is refused")
        };
        let first = record(0, 0, 100, true);
        assert_eq!(refused(&first, 0, b"\x88"), RefusedRecord::NotARecord);
        assert_eq!(refused(&first, 8, &[2]), RefusedRecord::Version(2));
        let huge = (PART_BYTES_MAX + 1).to_le_bytes();
        let last = 10_000_u32.to_le_bytes();
        for (at, new) in [
            (10, &[2][..]),
            (10, &[0, 1]),
            (12, &[1]),
            (12, &[0, 0, 0, 2]),
            (16, &[1]),
            (16, &[0, 0x40]),
            (16, &[0xFF; 8]),
            (24, &huge),
            (24, &[0xFF; 8]),
            (32, &[1]),
            (32, &last),
            (36, &[1]),
            (46, &[0x15]),
            (88, &[1]),
            (95, &[1]),
        ] {
            assert_eq!(
                refused(&first, at, new),
                RefusedRecord::Header,
                "{at} {new:?}"
            );
        }
        // An empty part that is not the whole object; a whole object at another place.
        assert_eq!(
            refused(&record(0, 0, 0, true), 10, &[0]),
            RefusedRecord::Header
        );
        assert_eq!(
            refused(&record(1, 16384, 5, false), 10, &[1]),
            RefusedRecord::Header
        );
        let anchor = first.header.anchors().start as usize;
        assert_eq!(
            refused(&first, anchor, &[0xFF; 8]),
            RefusedRecord::Anchor(0)
        );
    }

    #[test]
    fn ids_as_text() {
        let id = SessionId::from_random([0xFF; 16]);
        let text = "ffffffff-ffff-4fff-bfff-ffffffffffff";
        assert_eq!(id.to_string(), text);
        assert_eq!(text.parse(), Ok(id));
        for bad in [
            "",
            "ffffffff-ffff-5fff-bfff-ffffffffffff",
            "ffffffff-ffff-4fff-cfff-ffffffffffff",
            "FFFFFFFF-FFFF-4FFF-BFFF-FFFFFFFFFFFF",
            "ffffffffffff4fffbfffffffffffffff",
            "ffffffff-ffff-4fff-bfff-fffffffffff",
            "-ffffffff-ffff-4fff-bfff-ffffffffffff",
            "ffffffff-ffff-4fff-bfff-ffffffffffff/..",
        ] {
            assert_eq!(bad.parse::<SessionId>(), Err(NotASessionId), "{bad}");
        }
        let sum = Sha256([0xAB; 32]);
        assert_eq!(sum.to_string().parse(), Ok(sum));
        assert_eq!("ab".parse::<Sha256>(), Err(NotASha256));
    }
}
