//! The only file that names bincode. What its bytes are is written in manifest.md 3.2 and journal.md 2, so that
//! another codec can take its place; here they are described to bincode as plain records.

#![allow(
    missing_docs,
    reason = "fields are those of manifest.md and journal.md, in their order, and mean what is said there"
)]

use bincode::{
    Decode, Encode,
    config::{self, Configuration, Fixint, Limit, LittleEndian},
    de::{Decoder, read::Reader},
    enc::{Encoder, write::Writer},
    error::{DecodeError, EncodeError},
};

/// More than any header (980 bytes) and what bincode sets aside for the lists in it (at most 490 digests of 2 bytes, 32
/// in memory each), and far below anything that hurts.
const HEADER_LIMIT: usize = 32 * 1024;
/// The largest payload of a journal record is 1 MiB; lists are counted at their size in memory, which is at most twice that.
const RECORD_LIMIT: usize = 4 * 1024 * 1024;

/// The header of a statement as it lies in the file; nothing is checked yet.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RawHeader {
    pub length: u64,
    pub block_size: u32,
    pub root: [u8; 32],
    pub name: Vec<u8>,
    pub sequence: u64,
    pub published: u64,
    pub expires: u64,
    pub digests: Vec<RawDigest>,
    pub sections: Vec<RawSection>,
}

/// A digest of any kind: a u8 kind, a u8 length, that many bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawDigest {
    pub kind: u8,
    pub value: Vec<u8>,
}

/// One entry of the table of sections, as it lies in the header.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RawSection {
    pub kind: u8,
    pub critical: u8,
    pub offset: u64,
    pub length: u64,
    pub blake3: [u8; 32],
}

impl Encode for RawDigest {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        let length = u8::try_from(self.value.len());
        let length = length.map_err(|_| EncodeError::Other("a digest over 255 bytes"))?;
        (self.kind, length).encode(encoder)?;
        encoder.writer().write(&self.value)
    }
}

impl<Context> Decode<Context> for RawDigest {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let (kind, length) = <(u8, u8)>::decode(decoder)?;
        let mut value = vec![0; usize::from(length)];
        decoder.claim_bytes_read(value.len())?;
        decoder.reader().read(&mut value)?;
        Ok(RawDigest { kind, value })
    }
}

bincode::impl_borrow_decode!(RawDigest);

/// What no record has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Never {}

impl Encode for Never {
    fn encode<E: Encoder>(&self, _: &mut E) -> Result<(), EncodeError> {
        match *self {}
    }
}

impl<Context> Decode<Context> for Never {
    fn decode<D: Decoder<Context = Context>>(_: &mut D) -> Result<Self, DecodeError> {
        Err(DecodeError::Other("a kind that is free"))
    }
}

bincode::impl_borrow_decode!(Never);

/// A record of the journal as it lies in the file; nothing is checked yet.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum RawRecord {
    Begin {
        root: Option<[u8; 32]>,
        length: u64,
        block_size: u32,
        etag: String,
        last_modified: String,
        url: String,
    },
    Run {
        boot_id: [u8; 16],
        device: u64,
        inode: u64,
        local: u8,
        time: u64,
    },
    Blocks {
        runs: Vec<(u32, u32)>,
    },
    /// Keeps the numbers of those behind it.
    Free(Never),
    Leaves {
        first: u32,
        leaves: Vec<[u8; 32]>,
    },
    Dropped {
        runs: Vec<(u32, u32)>,
    },
    Barrier {
        records: u64,
    },
}

/// The bytes end too early, are too many, or hold a kind that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undecodable;

fn config<const LIMIT: usize>() -> Configuration<LittleEndian, Fixint, Limit<LIMIT>> {
    config::standard()
        .with_little_endian()
        .with_fixed_int_encoding()
        .with_limit::<LIMIT>()
}

fn encode<const LIMIT: usize>(value: impl Encode) -> Vec<u8> {
    bincode::encode_to_vec(value, config::<LIMIT>()).expect("plain data is encoded into memory")
}

fn decode<const LIMIT: usize, T: Decode<()>>(bytes: &[u8]) -> Result<T, Undecodable> {
    match bincode::decode_from_slice(bytes, config::<LIMIT>()) {
        Ok((value, used)) if used == bytes.len() => Ok(value),
        Ok(_) | Err(_) => Err(Undecodable),
    }
}

/// The bytes of a header.
pub fn encode_header(header: &RawHeader) -> Vec<u8> {
    encode::<HEADER_LIMIT>(header)
}

/// Decodes exactly these bytes.
pub fn decode_header(bytes: &[u8]) -> Result<RawHeader, Undecodable> {
    decode::<HEADER_LIMIT, _>(bytes)
}

/// The bytes of a journal record, without its frame.
pub fn encode_record(record: &RawRecord) -> Vec<u8> {
    encode::<RECORD_LIMIT>(record)
}

/// Decodes exactly these bytes.
pub fn decode_record(bytes: &[u8]) -> Result<RawRecord, Undecodable> {
    decode::<RECORD_LIMIT, _>(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_counts_are_refused_before_anything_is_set_aside() {
        let header = RawHeader {
            length: 1,
            block_size: 1 << 16,
            root: [7; 32],
            name: b"a".to_vec(),
            sequence: 1,
            published: 2,
            expires: 3,
            digests: vec![RawDigest {
                kind: 4,
                value: vec![9; 16],
            }],
            sections: vec![],
        };
        let bytes = encode_header(&header);
        assert_eq!(bytes.len(), 8 + 4 + 32 + 8 + 1 + 24 + 8 + 18 + 8);
        assert_eq!(decode_header(&bytes), Ok(header));
        for count_at in [44, 77, bytes.len() - 8] {
            for count in [u64::MAX, u64::from(u32::MAX), 5000] {
                let mut bad = bytes.clone();
                bad[count_at..count_at + 8].copy_from_slice(&count.to_le_bytes());
                assert_eq!(decode_header(&bad), Err(Undecodable));
            }
        }
        for end in 0..bytes.len() {
            assert!(decode_header(&bytes[..end]).is_err());
        }
        assert!(decode_header(&[bytes.clone(), vec![0]].concat()).is_err());
        let mut unknown = bytes.clone();
        unknown[85] = 200;
        assert_eq!(
            decode_header(&unknown).map(|header| header.digests[0].kind),
            Ok(200)
        );
        unknown[86] = 255;
        assert_eq!(decode_header(&unknown), Err(Undecodable));
    }
}
