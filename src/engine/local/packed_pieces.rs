//! Missing bytes of an update, from the pack of the object (pack.md, 4): pieces, and frames where these are fewer bytes. What
//! precedes a piece in its cluster is local, or was decoded before it.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::{
    engine::{
        context::Context,
        remote::{ranges::RangeReader, source::packed::Pack},
    },
    format::{
        compression,
        geometry::{ByteRange, PIECE},
        pack::{CLUSTER, FRAME},
    },
};

/// Pieces that are requested packed: the pack, and its table as far as it was read.
pub struct PackedPieces {
    pack: Pack,
    /// Those that are fetched whole.
    frames: HashSet<u64>,
    reader: RangeReader,
    /// The lengths of the packed pieces of these clusters, from the first one on.
    table: BTreeMap<u64, Vec<u16>>,
}

/// What arrived packed.
#[derive(Debug, Default)]
pub struct Arrived {
    /// Packed pieces, by their first byte in the object.
    pieces: HashMap<u64, Vec<u8>>,
    /// Packed frames, and the lengths of their plain bytes.
    frames: HashMap<u64, (Vec<u8>, usize)>,
    /// The frame that was decoded last; empty: it is bad.
    decoded: Option<(u64, Vec<u8>)>,
}

impl Arrived {
    /// Whether some of these bytes arrived packed; they begin at a border of pieces.
    pub fn has(&self, bytes: ByteRange) -> bool {
        self.frames.contains_key(&(bytes.start / FRAME))
            || !self.pieces.is_empty()
                && pieces_of(bytes).any(|piece| self.pieces.contains_key(&piece.start))
    }

    /// Moves the pieces of these bytes.
    pub fn give(&mut self, bytes: ByteRange, to: &mut Arrived) {
        for piece in pieces_of(bytes) {
            let packed = self.pieces.remove(&piece.start);
            to.pieces.extend(packed.map(|packed| (piece.start, packed)));
        }
    }

    /// Decodes a piece whose bytes in the block are these; the bytes before it in the block are there. `false`: it did not arrive,
    /// or is bad.
    pub fn fill(&mut self, block: ByteRange, piece: ByteRange, buffer: &mut [u8]) -> bool {
        let within = |at: u64| (at - block.start) as usize;
        let (before, rest) = buffer.split_at_mut(within(piece.start));
        let length = piece.length() as usize;
        if let Some(frame) = self.frame(piece.start / FRAME) {
            let start = (piece.start % FRAME) as usize;
            let plain = frame.get(start..start + length);
            return plain.is_some_and(|plain| {
                rest[..length].copy_from_slice(plain);
                true
            });
        }
        let Some(packed) = self.pieces.get(&piece.start) else {
            return false;
        };
        let prefix = &before[within(piece.start / CLUSTER * CLUSTER)..];
        let plain = compression::unpack(packed, prefix, length);
        plain.is_some_and(|plain| {
            rest[..length].copy_from_slice(&plain);
            true
        })
    }

    /// The bytes of a frame that arrived, none if it is bad.
    fn frame(&mut self, frame: u64) -> Option<&[u8]> {
        let (packed, length) = self.frames.get(&frame)?;
        if self.decoded.as_ref().is_none_or(|(last, _)| *last != frame) {
            let plain = compression::unpack(packed, &[], *length).unwrap_or_default();
            self.decoded = Some((frame, plain));
        }
        self.decoded.as_ref().map(|(_, plain)| plain.as_slice())
    }
}

impl PackedPieces {
    /// Of this pack; these frames are fetched whole.
    pub fn new(pack: Pack, frames: HashSet<u64>) -> PackedPieces {
        let (source, length) = pack.representation();
        PackedPieces {
            pack,
            frames,
            reader: RangeReader::optional(source, length),
            table: BTreeMap::new(),
        }
    }

    /// Reads the table for these ascending bytes of the object, which begin at borders of pieces. What the table cannot be read
    /// for is requested plain.
    pub async fn read_table(&mut self, context: &Context, wants: &[ByteRange]) {
        let mut ranges: Vec<ByteRange> = Vec::new();
        for want in wants.iter().filter(|want| !self.is_of_frame(**want)) {
            let first = want.start / CLUSTER * CLUSTER;
            for cluster in first / CLUSTER..want.end.div_ceil(CLUSTER) {
                if self.pack.cluster(cluster).is_empty() {
                    continue;
                }
                let start = cluster * CLUSTER;
                let touched = ByteRange::new(start, want.end.min(start + CLUSTER));
                match ranges.last_mut() {
                    // The same cluster again, or more of it.
                    Some(last) if last.start == touched.start => {
                        last.end = last.end.max(touched.end);
                    }
                    _ => ranges.push(touched),
                }
            }
        }
        let layout = self.pack.layout();
        let wants: Vec<ByteRange> = ranges.iter().map(|bytes| layout.table_of(*bytes)).collect();
        let clusters: HashMap<u64, u64> = wants
            .iter()
            .zip(&ranges)
            .map(|(want, bytes)| (want.start, bytes.start / CLUSTER))
            .collect();
        let table = &mut self.table;
        let read = self.reader.read(context, &wants, |range, bytes| {
            let lengths = bytes.as_chunks().0.iter();
            let lengths = lengths.map(|length| u16::from_le_bytes(*length)).collect();
            if let Some(cluster) = clusters.get(&range.start) {
                table.insert(*cluster, lengths);
            }
        });
        if let Err(error) = read.await {
            self.pack.note_error(&error);
        }
    }

    /// A piece of it was wrong.
    pub fn note_wrong(&self) {
        self.pack.note_wrong();
    }

    /// Where a piece lies in the pack; `None`: it is not packed, or that is unknown.
    fn place(&self, piece: ByteRange) -> Option<ByteRange> {
        let cluster = piece.start / CLUSTER;
        let lengths = self.table.get(&cluster)?;
        let number = ((piece.start % CLUSTER) / PIECE) as usize;
        let length = u64::from(*lengths.get(number)?);
        let before: u64 = lengths[..number].iter().copied().map(u64::from).sum();
        let all = self.pack.cluster(cluster);
        let start = all.start + before;
        let is_inside = start + length <= all.end;
        let is_shorter = 0 < length && length < piece.length();
        (is_inside && is_shorter).then(|| ByteRange::new(start, start + length))
    }

    /// Whether these bytes, which are of one block, come with the frame that they are in.
    fn is_of_frame(&self, bytes: ByteRange) -> bool {
        self.frames.contains(&(bytes.start / FRAME))
    }

    /// Fetches these ascending bytes packed, as far as they are packed and the pack can be read.
    pub async fn fetch(&self, context: &Context, wants: &[ByteRange], arrived: &mut Arrived) {
        if !self.pack.is_trusted() {
            return;
        }
        let (of_frames, of_pieces): (Vec<ByteRange>, Vec<ByteRange>) =
            wants.iter().partition(|want| self.is_of_frame(**want));
        let mut frames: HashMap<u64, u64> = HashMap::new();
        // Frames, and runs of packed pieces behind all of them, with the pieces in each run.
        let mut runs: Vec<ByteRange> = Vec::new();
        for want in &of_frames {
            let frame = want.start / FRAME;
            let place = self.pack.frame(frame);
            if frames.insert(place.start, frame).is_none() {
                runs.push(place);
            }
        }
        let mut pieces: HashMap<u64, Vec<(ByteRange, ByteRange)>> = HashMap::new();
        for piece in of_pieces.into_iter().flat_map(pieces_of) {
            let Some(place) = self.place(piece) else {
                continue;
            };
            match runs.last_mut() {
                Some(last) if last.end == place.start && pieces.contains_key(&last.start) => {
                    last.end = place.end;
                }
                _ => runs.push(place),
            }
            let run = runs.last().expect("it was pushed").start;
            pieces.entry(run).or_default().push((piece, place));
        }
        let take = |run: ByteRange, bytes: Vec<u8>| {
            if let Some(frame) = frames.remove(&run.start) {
                let length = self.pack.layout().frame(frame).length() as usize;
                arrived.frames.insert(frame, (bytes, length));
                return;
            }
            for (piece, place) in pieces.remove(&run.start).unwrap_or_default() {
                let within = (place.start - run.start) as usize..(place.end - run.start) as usize;
                arrived.pieces.insert(piece.start, bytes[within].to_vec());
            }
        };
        if let Err(error) = self.reader.read(context, &runs, take).await {
            self.pack.note_error(&error);
        }
    }
}

/// The pieces of these bytes, which begin at a border of pieces.
pub fn pieces_of(bytes: ByteRange) -> impl Iterator<Item = ByteRange> {
    let starts = (bytes.start..bytes.end).step_by(PIECE as usize);
    starts.map(move |start| ByteRange::new(start, bytes.end.min(start + PIECE)))
}
