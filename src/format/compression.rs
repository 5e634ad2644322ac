//! Compressed frames and pieces of a pack (pack.md, 1): zstd frames without their magic number. Nothing else names the library.

use std::sync::OnceLock;

use zstd_safe::{CCtx, CParameter, DCtx, DParameter, InBuffer, OutBuffer};

use super::{
    geometry::{ByteRange, PIECE},
    pack::{BadPack, CLUSTER, FRAME},
};

/// What precedes each zstd frame elsewhere (RFC 8878, 3.1.1).
const MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];
/// Flags of a frame header: a checksum follows the frame, the dictionary has an ID.
const CHECKSUM_FLAG: u8 = 0b100;
const DICTIONARY_FLAG: u8 = 0b11;
/// The largest window, as a power of two: a frame.
const WINDOW_BITS: u32 = FRAME.trailing_zeros();
/// Plain bytes that are decoded at once.
const STEP: usize = 128 << 10;
/// A frame is packed if that saves one byte of so many.
const SAVES_MIN: u64 = 32;

/// The level of compression without a word of the user.
const LEVEL: i32 = 9;

/// How an object is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackOptions {
    /// Of the compression, from 1 to 22.
    pub level: i32,
    /// All frames are packed, also those that do not become shorter: the object can be made of the pack alone.
    pub whole: bool,
}

impl Default for PackOptions {
    fn default() -> PackOptions {
        PackOptions {
            level: LEVEL,
            whole: false,
        }
    }
}

/// Packs the frames of an object, on any thread.
pub struct Packer {
    options: PackOptions,
    /// Blocks are whole clusters.
    with_pieces: bool,
    /// The form of a whole frame of zeros, as holes have many.
    zeros: OnceLock<PackedFrame>,
}

impl Packer {
    /// With pieces if blocks are whole clusters.
    pub fn new(options: PackOptions, with_pieces: bool) -> Packer {
        Packer {
            options,
            with_pieces,
            zeros: OnceLock::new(),
        }
    }

    /// The packed form of a frame.
    pub fn pack(&self, bytes: &[u8]) -> PackedFrame {
        let pack = || PackedFrame::of(bytes, self.options, self.with_pieces);
        let is_zero = bytes.len() as u64 == FRAME && bytes.iter().all(|byte| *byte == 0);
        match is_zero {
            true => self.zeros.get_or_init(pack).clone(),
            false => pack(),
        }
    }
}

/// The compressed form of one frame of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackedFrame {
    /// Bytes of the frame in the object.
    pub plain_bytes: u64,
    /// Empty: not packed.
    pub frame: Vec<u8>,
    /// The length of each packed piece; 0: not packed.
    pub lengths: Vec<u16>,
    /// The packed pieces, back to back.
    pub pieces: Vec<u8>,
}

impl PackedFrame {
    /// Packs the bytes of a frame, at most [`FRAME`]; the pieces too if blocks are whole clusters.
    ///
    /// # Panics
    /// If the library has no such level, or no memory.
    pub fn of(bytes: &[u8], options: PackOptions, with_pieces: bool) -> PackedFrame {
        let mut compressor = Compressor::new();
        let mut packed = PackedFrame {
            plain_bytes: bytes.len() as u64,
            lengths: vec![0; bytes.len().div_ceil(PIECE as usize)],
            ..PackedFrame::default()
        };
        let frame = compressor.pack(options.level, &[], bytes);
        let saves = frame.len() as u64 <= bytes.len() as u64 - bytes.len() as u64 / SAVES_MIN
            && frame.len() < bytes.len();
        if saves || options.whole {
            packed.frame = frame.to_vec();
        }
        if !with_pieces {
            return packed;
        }
        let per_cluster = (CLUSTER / PIECE) as usize;
        let clusters = bytes.chunks(CLUSTER as usize);
        for (cluster, lengths) in clusters.zip(packed.lengths.chunks_mut(per_cluster)) {
            for (index, length) in lengths.iter_mut().enumerate() {
                let start = index * PIECE as usize;
                let end = cluster.len().min(start + PIECE as usize);
                let piece = compressor.pack(options.level, &cluster[..start], &cluster[start..end]);
                if piece.len() < end - start {
                    *length = piece.len() as u16;
                    packed.pieces.extend_from_slice(piece);
                }
            }
        }
        packed
    }

    /// Whether this is the packed form of these bytes: all that is packed decodes to them, and is shorter. `at`: where they begin
    /// in the object. A frame or piece that is not packed is none to complain about.
    pub fn check(&self, at: u64, bytes: &[u8]) -> Result<(), BadPack> {
        let place = |start: usize, end: usize| ByteRange::new(at + start as u64, at + end as u64);
        if !self.frame.is_empty() && unpack(&self.frame, &[], bytes.len()).as_deref() != Some(bytes)
        {
            return Err(BadPack::Content(place(0, bytes.len())));
        }
        let mut packed = self.pieces.as_slice();
        for (index, length) in self.lengths.iter().enumerate() {
            let start = index * PIECE as usize;
            let end = bytes.len().min(start + PIECE as usize);
            let Some((piece, rest)) = packed.split_at_checked(usize::from(*length)) else {
                return Err(BadPack::Table(place(start, end)));
            };
            packed = rest;
            if piece.is_empty() {
                continue;
            }
            if piece.len() >= end - start {
                return Err(BadPack::LongPiece(place(start, end)));
            }
            let cluster = start - start % CLUSTER as usize;
            let plain = unpack(piece, &bytes[cluster..start], end - start);
            if plain.as_deref() != Some(&bytes[start..end]) {
                return Err(BadPack::Content(place(start, end)));
            }
        }
        match packed.is_empty() {
            true => Ok(()),
            false => Err(BadPack::Table(place(0, bytes.len()))),
        }
    }
}

/// A compressor for the frame and the pieces of some bytes.
struct Compressor<'a> {
    context: CCtx<'a>,
    packed: Vec<u8>,
}

impl<'a> Compressor<'a> {
    fn new() -> Compressor<'a> {
        let mut context = CCtx::create();
        for parameter in [
            CParameter::WindowLog(WINDOW_BITS),
            // The reader knows the size.
            CParameter::ContentSizeFlag(false),
            CParameter::ChecksumFlag(false),
            CParameter::DictIdFlag(false),
        ] {
            context
                .set_parameter(parameter)
                .expect("the library has this parameter");
        }
        Compressor {
            context,
            packed: vec![0; zstd_safe::compress_bound(FRAME as usize)],
        }
    }

    /// The packed form of some bytes, which may refer to the prefix.
    fn pack(&mut self, level: i32, prefix: &'a [u8], bytes: &[u8]) -> &[u8] {
        let level = CParameter::CompressionLevel(level);
        let ready = self.context.set_parameter(level);
        let result = ready
            .and_then(|_| self.context.ref_prefix(prefix))
            .and_then(|_| {
                let packed: &mut [u8] = &mut self.packed;
                self.context.compress2(packed, bytes)
            });
        let length = result.expect("there is room for the largest result");
        &self.packed[MAGIC.len()..length]
    }
}

/// The plain bytes of a packed frame or piece; `None`: it is bad (pack.md, 4).
pub fn unpack(packed: &[u8], prefix: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut unpacker = Unpacker::new(prefix, length)?;
    let plain = unpacker.push(packed)?;
    unpacker.is_complete().then_some(plain)
}

/// A packed frame or piece whose bytes arrive one after another. Memory is that of the decoder, a window of at most [`FRAME`],
/// and never more plain bytes than were expected, whatever arrives.
pub struct Unpacker<'a> {
    context: DCtx<'a>,
    /// Plain bytes that are still to come.
    left: usize,
    /// The end of the zstd frame was seen.
    ended: bool,
    begun: bool,
}

impl<'a> Unpacker<'a> {
    /// For so many plain bytes, which may refer to the prefix. `None`: the decoder cannot be made.
    pub fn new(prefix: &'a [u8], length: usize) -> Option<Unpacker<'a>> {
        let mut context = DCtx::try_create()?;
        let window = DParameter::WindowLogMax(WINDOW_BITS);
        context.set_parameter(window).ok()?;
        context.ref_prefix(prefix).ok()?;
        Some(Unpacker {
            context,
            left: length,
            ended: false,
            begun: false,
        })
    }

    /// Takes the next packed bytes and returns the plain ones that they give; `None`: it is bad.
    pub fn push(&mut self, packed: &[u8]) -> Option<Vec<u8>> {
        let mut plain = Vec::new();
        if !self.begun {
            let Some(flags) = packed.first() else {
                return Some(plain);
            };
            if flags & (CHECKSUM_FLAG | DICTIONARY_FLAG) != 0 {
                return None;
            }
            self.begun = true;
            self.decode(&MAGIC, &mut plain)?;
        }
        self.decode(packed, &mut plain)?;
        Some(plain)
    }

    /// Whether the frame ended, with as many plain bytes as were expected.
    pub fn is_complete(&self) -> bool {
        self.ended && self.left == 0
    }

    fn decode(&mut self, packed: &[u8], plain: &mut Vec<u8>) -> Option<()> {
        if self.ended {
            return packed.is_empty().then_some(());
        }
        let mut input = InBuffer::around(packed);
        loop {
            let (start, before) = (plain.len(), input.pos());
            // One byte more than expected, so that a longer result shows.
            let room = (self.left + 1).min(STEP);
            plain.resize(start + room, 0);
            let mut output = OutBuffer::around(&mut plain[start..]);
            let decoded = self.context.decompress_stream(&mut output, &mut input);
            let made = output.pos();
            plain.truncate(start + made);
            self.ended = decoded.ok()? == 0;
            self.left = self.left.checked_sub(made)?;
            if self.ended {
                return (input.pos() == packed.len()).then_some(());
            }
            // With room left, all that the bytes give was decoded.
            if made < room && input.pos() == packed.len() {
                return Some(());
            }
            if made == 0 && input.pos() == before {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::paint;

    fn text(length: usize) -> Vec<u8> {
        let words = (0u32..).flat_map(|n| format!("line {} of {}\n", n, n % 97).into_bytes());
        words.take(length).collect()
    }

    #[test]
    fn what_is_packed_comes_back() {
        for length in [1usize, 1023, 1024, 1025, 65_535, 65_536, 65_537, 1 << 20] {
            let bytes = text(length);
            let packed = PackedFrame::of(&bytes, PackOptions::default(), true);
            assert_eq!(packed.lengths.len(), length.div_ceil(1024));
            if length > 100 {
                assert_eq!(unpack(&packed.frame, &[], length), Some(bytes.clone()));
            }
            let mut at = 0;
            for (index, packed_length) in packed.lengths.iter().enumerate() {
                let range = index * 1024..length.min((index + 1) * 1024);
                let piece = &packed.pieces[at..at + usize::from(*packed_length)];
                at += piece.len();
                if piece.is_empty() {
                    continue;
                }
                let prefix = &bytes[range.start / 65_536 * 65_536..range.start];
                let plain = unpack(piece, prefix, range.len());
                assert_eq!(plain.as_deref(), Some(&bytes[range]), "piece {index}");
            }
            assert_eq!(at, packed.pieces.len());
        }
    }

    #[test]
    fn zeros_are_packed_once() {
        let packer = Packer::new(PackOptions::default(), true);
        let zeros = vec![0; FRAME as usize];
        let expected = PackedFrame::of(&zeros, PackOptions::default(), true);
        for _ in 0..2 {
            assert_eq!(packer.pack(&zeros), expected);
        }
        assert_eq!(packer.pack(&zeros[1..]).plain_bytes, FRAME - 1);
    }

    #[test]
    fn it_does_not_matter_how_the_bytes_arrive() {
        let bytes = text(300_000);
        let packed = PackedFrame::of(&bytes, PackOptions::default(), false).frame;
        for step in [1, 7, 1_000, packed.len()] {
            let mut unpacker = Unpacker::new(&[], bytes.len()).unwrap();
            let mut plain = Vec::new();
            for some in packed.chunks(step) {
                assert!(!unpacker.is_complete());
                plain.extend(unpacker.push(some).unwrap());
                plain.extend(unpacker.push(&[]).unwrap());
            }
            assert!(
                unpacker.is_complete() && plain == bytes,
                "in steps of {step}"
            );
            assert_eq!(unpacker.push(&[0]), None);
        }
    }

    #[test]
    fn noise_is_not_packed() {
        let packed = PackedFrame::of(&paint::bytes(0, 100_000), PackOptions::default(), true);
        assert!(packed.frame.is_empty() && packed.pieces.is_empty());
        assert!(packed.lengths.iter().all(|length| *length == 0));
        let whole = PackOptions {
            whole: true,
            ..PackOptions::default()
        };
        for length in [1, 1023, 100_000, 1 << 20] {
            let noise = paint::bytes(0, length);
            let packed = PackedFrame::of(&noise, whole, true);
            assert!(packed.frame.len() <= length + 64 && packed.pieces.is_empty());
            assert_eq!(unpack(&packed.frame, &[], length), Some(noise));
        }
    }

    #[test]
    fn bad_frames_are_refused() {
        let bytes = text(5_000);
        let packed = PackedFrame::of(&bytes, PackOptions::default(), true);
        let frame = &packed.frame;
        assert!(unpack(frame, &[], 5_000).is_some());
        for other in [0, 1, 4_999, 5_001, 1 << 20] {
            assert_eq!(unpack(frame, &[], other), None, "{other} bytes");
        }
        for cut in 0..frame.len() {
            assert_eq!(unpack(&frame[..cut], &[], 5_000), None, "cut at {cut}");
        }
        let longer = [frame.as_slice(), &[0]].concat();
        assert_eq!(unpack(&longer, &[], 5_000), None);
        let twice = [frame.as_slice(), &MAGIC, frame].concat();
        assert_eq!(unpack(&twice, &[], 10_000), None);
        for flag in [1u8, 2, 3, 4] {
            let mut changed = frame.clone();
            changed[0] |= flag;
            assert_eq!(unpack(&changed, &[], 5_000), None, "flag {flag}");
        }
        // Without its prefix a piece refers to bytes before the first one.
        let at: usize = packed.lengths[..3].iter().map(|n| usize::from(*n)).sum();
        let piece = &packed.pieces[at..at + usize::from(packed.lengths[3])];
        assert!(unpack(piece, &bytes[..3072], 1024).is_some());
        assert_eq!(unpack(piece, &[], 1024), None);
    }

    #[test]
    fn a_window_above_one_frame_is_refused() {
        // An RLE block of 1,000 bytes behind a window descriptor: 2^(10 + exponent) bytes.
        for (exponent, is_good) in [(0u8, true), (10, true), (11, false), (21, false)] {
            let block = (1_000u32 << 3 | 1 << 1 | 1).to_le_bytes();
            let frame = [&[0, exponent << 3], &block[..3], &[7]].concat();
            let plain = unpack(&frame, &[], 1_000);
            assert_eq!(plain.is_some(), is_good, "2^{}", 10 + exponent);
        }
    }

    #[test]
    fn a_frame_that_would_become_large_stops_at_its_size() {
        // RLE blocks of 128 KiB each: 4 bytes become 131,072.
        let block = (131_072u32 << 3 | 1 << 1).to_le_bytes();
        let bomb = [
            &[0, 7 << 3][..],
            &[block[0], block[1], block[2], 7].repeat(10_000),
        ]
        .concat();
        assert_eq!(unpack(&bomb, &[], 1_024), None);
        assert_eq!(unpack(&bomb, &[], 1 << 20), None);
    }
}
