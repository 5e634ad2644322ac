//! Missing pieces of blocks, from the pack of the object (pack.md, 4). What precedes a piece in its cluster is local, or was decoded
//! before it.

use std::collections::{BTreeMap, HashMap};

use crate::{
    engine::{
        context::Context,
        error::Error,
        remote::{ranges::RangeReader, source::packed::Pack},
    },
    format::{
        blockset::BlockSet,
        compression,
        geometry::{BlockIndex, BlockRange, ByteRange, Geometry, PIECE},
        pack::{CLUSTER, FRAME},
    },
    policy::descent::{Part, Patchwork},
};

/// Pieces that are requested packed: the pack, and its table as far as it was read.
pub struct PackedPieces {
    pack: Pack,
    reader: RangeReader,
    /// The lengths of the packed pieces of these clusters, from the first one on.
    table: BTreeMap<u64, Vec<u16>>,
}

/// Packed pieces that arrived, by their first byte in the object.
#[derive(Debug, Default)]
pub struct Arrived(HashMap<u64, Vec<u8>>);

impl Arrived {
    /// Whether some piece of these bytes arrived packed; they begin at a border of pieces.
    pub fn has(&self, bytes: ByteRange) -> bool {
        !self.0.is_empty() && pieces_of(bytes).any(|piece| self.0.contains_key(&piece.start))
    }

    /// Decodes a piece whose bytes in the block are these; the bytes before it in the block are there. `false`: it did not arrive,
    /// or is bad.
    pub fn fill(&self, block: ByteRange, piece: ByteRange, buffer: &mut [u8]) -> bool {
        let Some(packed) = self.0.get(&piece.start) else {
            return false;
        };
        let cluster = piece.start / CLUSTER * CLUSTER;
        let within = |at: u64| (at - block.start) as usize;
        let (before, rest) = buffer.split_at_mut(within(piece.start));
        let prefix = &before[within(cluster)..];
        let length = piece.length() as usize;
        match compression::unpack(packed, prefix, length) {
            Some(plain) => {
                rest[..length].copy_from_slice(&plain);
                true
            }
            None => false,
        }
    }
}

impl PackedPieces {
    /// Of this pack.
    pub fn new(pack: Pack) -> PackedPieces {
        let (source, length) = pack.representation();
        PackedPieces {
            pack,
            reader: RangeReader::optional(source, length),
            table: BTreeMap::new(),
        }
    }

    /// Reads the table for these ascending bytes of the object, which begin at borders of pieces. What the table cannot be read
    /// for is requested plain.
    pub async fn read_table(&mut self, context: &Context, wants: &[ByteRange]) {
        let mut ranges: Vec<ByteRange> = Vec::new();
        for want in wants {
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
        if read.await.is_err() {
            self.pack.note_wrong();
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

    /// Fetches packed pieces of these ascending bytes. Returns what arrived, and the bytes that are to be fetched plain.
    pub async fn fetch(&self, context: &Context, wants: &[ByteRange]) -> (Arrived, Vec<ByteRange>) {
        let mut plain: Vec<ByteRange> = Vec::new();
        // Runs of packed pieces, and the pieces in each.
        let mut runs: Vec<ByteRange> = Vec::new();
        let mut pieces: HashMap<u64, Vec<(u64, ByteRange)>> = HashMap::new();
        let all = wants
            .iter()
            .flat_map(|want| pieces_of(*want).map(|piece| (*want, piece)));
        for (want, piece) in all {
            match self.place(piece).filter(|_| self.pack.is_trusted()) {
                Some(place) => {
                    match runs.last_mut() {
                        Some(last) if last.end == place.start => last.end = place.end,
                        _ => runs.push(place),
                    }
                    let run = runs.last().expect("it was pushed").start;
                    pieces.entry(run).or_default().push((piece.start, place));
                }
                None => match plain.last_mut() {
                    // One that ends where a part of a block does.
                    Some(last) if last.end == piece.start && last.start >= want.start => {
                        last.end = piece.end;
                    }
                    _ => plain.push(piece),
                },
            }
        }
        let mut arrived = Arrived::default();
        let read: Result<(), Error> = self
            .reader
            .read(context, &runs, |run, bytes| {
                for (start, place) in pieces.remove(&run.start).unwrap_or_default() {
                    let within =
                        (place.start - run.start) as usize..(place.end - run.start) as usize;
                    arrived.0.insert(start, bytes[within].to_vec());
                }
            })
            .await;
        if read.is_err() {
            self.pack.note_wrong();
        }
        // What did not arrive comes from the object itself.
        let missing = pieces.into_values().flatten();
        let size = |start: u64| {
            let want = wants
                .iter()
                .find(|want| (want.start..want.end).contains(&start));
            want.map_or(PIECE, |want| PIECE.min(want.end - start))
        };
        plain.extend(missing.map(|(start, _)| ByteRange::new(start, start + size(start))));
        plain.sort_unstable_by_key(|range| range.start);
        (arrived, plain)
    }
}

/// Adds the missing blocks of frames of which something is here, so that their pieces are fetched packed, where that is fewer bytes
/// than the frame. Frames of which nothing is here are left to the transfer.
pub fn with_missing(
    pack: &Pack,
    geometry: &Geometry,
    here: &BlockSet,
    patched: Patchwork,
) -> Patchwork {
    let size = geometry.block_size().bytes();
    if size > FRAME || size < CLUSTER {
        return patched;
    }
    let mut all: BTreeMap<BlockIndex, Vec<Part>> = patched.into_iter().collect();
    let a_frame = (FRAME / size) as u32;
    for frame in 0..geometry.length().div_ceil(FRAME) {
        let first = frame as u32 * a_frame;
        let blocks = BlockRange::new(first, geometry.blocks().min(first + a_frame));
        let is_missing = |block: &BlockIndex| !here.contains(*block) && !all.contains_key(block);
        let missing: Vec<BlockIndex> = blocks.iter().filter(is_missing).collect();
        let is_partial = missing.len() < blocks.count() as usize;
        let pieces = |block: &BlockIndex| {
            let bytes = geometry.bytes_of(*block);
            let clusters = bytes.start / CLUSTER..bytes.end.div_ceil(CLUSTER);
            let packed: u64 = clusters.map(|cluster| pack.cluster(cluster).length()).sum();
            if packed == 0 { bytes.length() } else { packed }
        };
        let of_pieces: u64 = missing.iter().map(pieces).sum();
        if is_partial
            && pack
                .frame_bytes(frame)
                .is_none_or(|packed| of_pieces < packed)
        {
            for block in missing {
                let bytes = geometry.bytes_of(block);
                all.insert(block, vec![Part { bytes, from: None }]);
            }
        }
    }
    all.into_iter().collect()
}

/// The pieces of these bytes, which begin at a border of pieces.
pub fn pieces_of(bytes: ByteRange) -> impl Iterator<Item = ByteRange> {
    let starts = (bytes.start..bytes.end).step_by(PIECE as usize);
    starts.map(move |start| ByteRange::new(start, bytes.end.min(start + PIECE)))
}
