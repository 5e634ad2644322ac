//! The journal's records and what they claim (journal.md). `disk` reads and writes the file.

use std::collections::BTreeMap;

use super::{
    blockset::BlockSet,
    codec::{self, RawRecord},
    geometry::{BlockIndex, BlockRange, BlockSize, Geometry},
    judge::{Leaves, ObjectKey},
    tree::{Cv, Root},
    validators::Validators,
};

const MAGIC: [u8; 8] = *b"\x89SAPWJRN";
const VERSION: u16 = 1;
/// Bytes of the file before its first record.
pub const FILE_HEADER_BYTES: usize = 16;
const CHECK_BYTES: usize = 16;
const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;
/// A reader stops here: a run that writes a checkpoint every two seconds needs weeks to write as much.
pub const JOURNAL_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Claims and barriers end here, so that what is dropped still fits.
pub const CLAIMS_END_MAX: u64 = JOURNAL_BYTES_MAX - 64 * 1024;
/// The record that drops all blocks: size, kind, count, one range and check.
pub const DROP_ALL_BYTES: u64 = 4 + 4 + 8 + 8 + CHECK_BYTES as u64;
/// Runs of blocks in one record: 8 bytes each, so that a record stays far below its limit.
pub const RUNS_PER_RECORD: usize = 32 * 1024;
/// Leaves in one record, 32 bytes each, for the same reason.
const LEAVES_PER_RECORD: usize = 8 * 1024;
/// The longest text from a server or user in a journal.
const TEXT_BYTES_MAX: usize = 4096;

/// The object that a journal belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `None`: fetched without a manifest.
    pub root: Option<Root>,
    /// Length and block size.
    pub geometry: Geometry,
    /// The entity tag; see [`Validators`].
    pub etag: Option<String>,
    /// `Last-Modified`; see [`Validators`].
    pub last_modified: Option<String>,
}

impl Identity {
    /// The key of the object in proofs.
    pub fn object(&self) -> ObjectKey {
        let (etag, last_modified) = (self.etag.as_deref(), self.last_modified.as_deref());
        match self.root {
            Some(root) => ObjectKey::of_root(root, self.geometry),
            None => ObjectKey::of_version(self.geometry, etag, last_modified),
        }
    }

    fn validators(&self) -> Validators {
        Validators {
            etag: self.etag.clone(),
            last_modified: self.last_modified.clone(),
        }
    }
}

/// Where a run of the program saw the part file. Unsynced claims hold only while this is unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// All zeros: unknown.
    pub boot_id: [u8; 16],
    /// The device that the part is on.
    pub device: u64,
    /// Its inode there.
    pub inode: u64,
    /// Whether the file system is local, so that a kill loses no write.
    pub local: bool,
}

impl Place {
    /// Matches no place of a part.
    pub const NOWHERE: Place = Place {
        boot_id: [0; 16],
        device: 0,
        inode: 0,
        local: false,
    };

    /// Whether unsynced writes at the other place are still visible here.
    fn same_boot(&self, other: &Place) -> bool {
        self == other && self.local && self.boot_id != [0; 16]
    }
}

/// One record.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "journal.md says what they are")]
pub enum Record {
    Begin { identity: Identity, url: String },
    Run { place: Place, time: u64 },
    Blocks(Vec<BlockRange>),
    Leaves { first: BlockIndex, leaves: Vec<Cv> },
    Dropped(Vec<BlockRange>),
    Barrier { records: u64 },
}

impl Record {
    fn to_raw(&self) -> RawRecord {
        let runs = |ranges: &[BlockRange]| {
            ranges
                .iter()
                .map(|range| (range.start, range.count()))
                .collect()
        };
        match self {
            Record::Begin { identity, url } => RawRecord::Begin {
                root: identity.root.map(|root| root.0),
                length: identity.geometry.length(),
                block_size: identity.geometry.block_size().bytes() as u32,
                etag: shortened(identity.etag.as_deref()),
                last_modified: shortened(identity.last_modified.as_deref()),
                url: shortened(Some(url)),
            },
            Record::Run { place, time } => RawRecord::Run {
                boot_id: place.boot_id,
                device: place.device,
                inode: place.inode,
                local: u8::from(place.local),
                time: *time,
            },
            Record::Blocks(ranges) => RawRecord::Blocks { runs: runs(ranges) },
            Record::Leaves { first, leaves } => RawRecord::Leaves {
                first: first.0,
                leaves: leaves.clone(),
            },
            Record::Dropped(ranges) => RawRecord::Dropped { runs: runs(ranges) },
            Record::Barrier { records } => RawRecord::Barrier { records: *records },
        }
    }

    fn from_raw(raw: RawRecord) -> Option<Record> {
        let ranges = |runs: Vec<(u32, u32)>| {
            runs.into_iter()
                .map(|(first, count)| Some(BlockRange::new(first, first.checked_add(count)?)))
                .collect::<Option<Vec<_>>>()
        };
        let text = |text: String| (!text.is_empty()).then_some(text);
        Some(match raw {
            RawRecord::Begin {
                root,
                length,
                block_size,
                etag,
                last_modified,
                url,
            } => {
                let geometry = Geometry::new(length, BlockSize::new(u64::from(block_size))?)?;
                let (etag, last_modified) = (text(etag), text(last_modified));
                Record::Begin {
                    identity: Identity {
                        root: root.map(Root),
                        geometry,
                        etag,
                        last_modified,
                    },
                    url,
                }
            }
            RawRecord::Run {
                boot_id,
                device,
                inode,
                local: local @ 0..=1,
                time,
            } => Record::Run {
                place: Place {
                    boot_id,
                    device,
                    inode,
                    local: local == 1,
                },
                time,
            },
            RawRecord::Run { .. } => return None,
            RawRecord::Blocks { runs } => Record::Blocks(ranges(runs)?),
            RawRecord::Free(never) => match never {},
            RawRecord::Leaves { first, leaves } => {
                first.checked_add(u32::try_from(leaves.len()).ok()?)?;
                Record::Leaves {
                    first: BlockIndex(first),
                    leaves,
                }
            }
            RawRecord::Dropped { runs } => Record::Dropped(ranges(runs)?),
            RawRecord::Barrier { records } => Record::Barrier { records },
        })
    }
}

/// A text that is too long is left out: it is only compared, and must not fill a record.
fn shortened(text: Option<&str>) -> String {
    text.filter(|text| text.len() <= TEXT_BYTES_MAX)
        .unwrap_or_default()
        .to_owned()
}

/// The records that name these blocks, each small enough.
pub fn blocks_records(ranges: &[BlockRange]) -> impl Iterator<Item = Record> + '_ {
    ranges
        .chunks(RUNS_PER_RECORD)
        .map(|some| Record::Blocks(some.to_vec()))
}

/// The records that name these blocks with their leaves.
pub fn leaves_records(range: BlockRange, leaves: &Leaves) -> impl Iterator<Item = Record> + '_ {
    let blocks: Vec<BlockIndex> = range.iter().collect();
    blocks
        .chunks(LEAVES_PER_RECORD)
        .map(|some| Record::Leaves {
            first: some[0],
            leaves: some.iter().map_while(|block| leaves.leaf(*block)).collect(),
        })
        .collect::<Vec<_>>()
        .into_iter()
}

/// Writes records one after another; the checksum of each depends on all before it.
#[derive(Clone, Debug)]
pub struct RecordWriter {
    check: [u8; CHECK_BYTES],
    records: u64,
}

impl RecordWriter {
    /// The first bytes of a new journal, and the writer that continues after them.
    pub fn begin() -> ([u8; FILE_HEADER_BYTES], RecordWriter) {
        let mut header = [0; FILE_HEADER_BYTES];
        header[..8].copy_from_slice(&MAGIC);
        header[8..10].copy_from_slice(&VERSION.to_le_bytes());
        (
            header,
            RecordWriter {
                check: header,
                records: 0,
            },
        )
    }

    /// How many records there are so far.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// The bytes of the next record.
    pub fn append(&mut self, record: &Record) -> Vec<u8> {
        let payload = codec::encode_record(&record.to_raw());
        debug_assert!(payload.len() <= PAYLOAD_BYTES_MAX);
        let size = (payload.len() as u32).to_le_bytes();
        self.check = check(&self.check, &size, &payload);
        self.records += 1;
        [&size, payload.as_slice(), &self.check].concat()
    }
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "all three are bytes to be hashed"
)]
fn check(previous: &[u8; CHECK_BYTES], size: &[u8; 4], payload: &[u8]) -> [u8; CHECK_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(previous).update(size).update(payload);
    *hasher
        .finalize()
        .as_bytes()
        .first_chunk()
        .expect("a hash has 32 bytes")
}

/// What a journal claims, read from the start up to the first invalid record.
#[derive(Debug)]
pub struct Claims {
    /// The object.
    pub identity: Identity,
    /// The URL of the object, without secrets.
    pub url: String,
    /// Blocks that should be in the part file.
    pub claimed: BlockSet,
    /// The ones of them that were synced.
    pub durable: BlockSet,
    /// Blocks that were dropped since the machine booted and not claimed again: reads in their place may return bytes that are on
    /// no disk.
    pub dropped: BlockSet,
    /// The leaves of blocks that arrived without a manifest.
    pub leaves: BTreeMap<BlockIndex, Cv>,
    /// The end of the valid records.
    pub end: u64,
    /// Continues after the last valid record.
    pub writer: RecordWriter,
}

impl Claims {
    /// Whether the part may be continued as this object: it has the same root, or, without roots, the same origin and path, the
    /// same length and the same strong validator. The query is not compared: that of a signed link changes.
    pub fn are_of(&self, object: &Identity, url: &str) -> bool {
        let mine = &self.identity;
        self.identity.geometry == object.geometry
            && match (mine.root, object.root) {
                (Some(mine), Some(theirs)) => mine == theirs,
                (None, None) => {
                    let (mine, theirs) = (mine.validators(), object.validators());
                    !url.is_empty()
                        && self.url == url
                        && mine.are_strong()
                        && theirs.are_strong()
                        && mine.agree(&theirs)
                }
                _ => false,
            }
    }
}

/// Whether these bytes begin like a journal, of any version and in any state.
pub fn is_journal(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

/// Reads a journal; `here` is where the part file is now. `None`: the journal claims nothing.
pub fn read(bytes: &[u8], here: &Place) -> Option<Claims> {
    let (header, mut writer) = RecordWriter::begin();
    let mut rest = bytes.strip_prefix(&header)?;
    let mut replay: Option<Replay> = None;
    let mut end = FILE_HEADER_BYTES as u64;
    while let Some((record, after, next)) = next_record(rest, &writer) {
        match (&mut replay, record) {
            (None, Record::Begin { identity, url }) => replay = Some(Replay::new(identity, url)),
            (None, _) => return None,
            // This record is not allowed here: ignore it and everything after it.
            (Some(_), Record::Begin { .. }) => break,
            (Some(replay), record) => replay.apply(record, writer.records())?,
        }
        end += (rest.len() - after.len()) as u64;
        (rest, writer) = (after, next);
    }
    let mut replay = replay?;
    replay.place?;
    replay.moved_to(here);
    let Replay {
        identity,
        url,
        claimed,
        durable,
        dropped,
        leaves,
        ..
    } = replay;
    Some(Claims {
        identity,
        url,
        claimed,
        durable,
        dropped,
        leaves,
        end,
        writer,
    })
}

/// The next valid record, the bytes after it, and the writer that continues there.
fn next_record<'a>(
    bytes: &'a [u8],
    writer: &RecordWriter,
) -> Option<(Record, &'a [u8], RecordWriter)> {
    let (size, rest) = bytes.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*size) as usize;
    if length > PAYLOAD_BYTES_MAX {
        return None;
    }
    let (payload, rest) = rest.split_at_checked(length)?;
    let (found, rest) = rest.split_first_chunk::<CHECK_BYTES>()?;
    let check = check(&writer.check, size, payload);
    if check != *found {
        return None;
    }
    let record = Record::from_raw(codec::decode_record(payload).ok()?)?;
    let records = writer.records + 1;
    Some((record, rest, RecordWriter { check, records }))
}

/// The state of journal.md, section 4, while records are read.
struct Replay {
    identity: Identity,
    url: String,
    place: Option<Place>,
    claimed: BlockSet,
    durable: BlockSet,
    dropped: BlockSet,
    /// Claims that no barrier covers yet, with the number of their record.
    unsynced: Vec<(u64, BlockRange)>,
    leaves: BTreeMap<BlockIndex, Cv>,
}

impl Replay {
    fn new(identity: Identity, url: String) -> Replay {
        let blocks = identity.geometry.blocks();
        Replay {
            identity,
            url,
            place: None,
            claimed: BlockSet::empty(blocks),
            durable: BlockSet::empty(blocks),
            dropped: BlockSet::empty(blocks),
            unsynced: Vec::new(),
            leaves: BTreeMap::new(),
        }
    }

    /// `None` if a claim comes before any run.
    fn apply(&mut self, record: Record, number: u64) -> Option<()> {
        if let Record::Run { place, .. } = record {
            if self.place.is_some() {
                self.moved_to(&place);
            }
            self.place = Some(place);
            return Some(());
        }
        self.place?;
        match record {
            Record::Blocks(ranges) => ranges
                .into_iter()
                .for_each(|range| self.claim(number, range)),
            Record::Leaves { first, leaves } => {
                self.claim(
                    number,
                    BlockRange::new(first.0, first.0 + leaves.len() as u32),
                );
                let blocks = (first.0..self.identity.geometry.blocks()).map(BlockIndex);
                self.leaves.extend(blocks.zip(leaves));
            }
            Record::Dropped(ranges) => ranges.into_iter().for_each(|range| self.drop_range(range)),
            Record::Barrier { records } => {
                for (_, range) in self
                    .unsynced
                    .extract_if(.., |(number, _)| *number < records)
                {
                    self.durable.insert_range(range);
                }
            }
            Record::Begin { .. } | Record::Run { .. } => unreachable!("handled before"),
        }
        Some(())
    }

    fn within(&self, range: BlockRange) -> BlockRange {
        let end = range.end.min(self.identity.geometry.blocks());
        BlockRange::new(range.start.min(end), end)
    }

    fn claim(&mut self, number: u64, range: BlockRange) {
        let range = self.within(range);
        self.claimed.insert_range(range);
        self.dropped.remove_range(range);
        self.unsynced.push((number, range));
    }

    fn drop_range(&mut self, range: BlockRange) {
        let range = self.within(range);
        self.claimed.remove_range(range);
        self.durable.remove_range(range);
        self.dropped.insert_range(range);
        // A later barrier must not restore dropped claims.
        let unsynced = std::mem::take(&mut self.unsynced);
        for (number, claim) in unsynced {
            let before = BlockRange {
                start: claim.start,
                end: claim.end.min(range.start),
            };
            let after = BlockRange {
                start: claim.start.max(range.end),
                end: claim.end,
            };
            self.unsynced.extend(
                [before, after]
                    .into_iter()
                    .filter(|part| !part.is_empty())
                    .map(|part| (number, part)),
            );
        }
    }

    /// The part is now at another place than in the last run: perhaps only synced bytes survived.
    fn moved_to(&mut self, place: &Place) {
        if !self.place.is_some_and(|last| last.same_boot(place)) {
            self.claimed = self.durable.clone();
            // From now on every read comes from the disk.
            self.dropped = BlockSet::empty(self.dropped.blocks());
            self.unsynced.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Place = Place {
        boot_id: [1; 16],
        device: 2,
        inode: 3,
        local: true,
    };
    const AFTER_REBOOT: Place = Place {
        boot_id: [9; 16],
        ..HERE
    };

    fn identity() -> Identity {
        let geometry = Geometry::new(10 << 16, BlockSize::DEFAULT).unwrap();
        Identity {
            root: Some(Root([4; 32])),
            geometry,
            etag: Some("\"e\"".into()),
            last_modified: None,
        }
    }

    fn blocks(start: u32, end: u32) -> Record {
        Record::Blocks(vec![BlockRange::new(start, end)])
    }

    fn journal(records: &[Record]) -> Vec<u8> {
        let (header, mut writer) = RecordWriter::begin();
        let begin = [
            Record::Begin {
                identity: identity(),
                url: "http://h/f".into(),
            },
            Record::Run {
                place: HERE,
                time: 5,
            },
        ];
        let mut bytes = header.to_vec();
        for record in begin.iter().chain(records) {
            bytes.extend(writer.append(record));
        }
        bytes
    }

    fn claimed(bytes: &[u8], here: &Place) -> Vec<u32> {
        read(bytes, here).map_or(vec![], |claims| {
            claims
                .claimed
                .ranges()
                .flat_map(|range| range.iter())
                .map(|block| block.0)
                .collect()
        })
    }

    #[test]
    fn after_a_kill_all_claims_hold_and_after_a_power_cut_those_before_the_barrier() {
        let records = [blocks(0, 2), Record::Barrier { records: 3 }, blocks(5, 6)];
        assert_eq!(claimed(&journal(&records), &HERE), [0, 1, 5]);
        assert_eq!(claimed(&journal(&records), &AFTER_REBOOT), [0, 1]);
        assert_eq!(
            claimed(&journal(&records), &Place { inode: 4, ..HERE }),
            [0, 1]
        );
        let mut across = records.to_vec();
        across.push(Record::Run {
            place: AFTER_REBOOT,
            time: 6,
        });
        across.push(blocks(7, 8));
        assert_eq!(claimed(&journal(&across), &AFTER_REBOOT), [0, 1, 7]);
        assert_eq!(claimed(&journal(&across), &HERE), [0, 1]);
    }

    #[test]
    fn a_barrier_covers_only_the_records_that_it_counts() {
        let records = [blocks(0, 2), blocks(5, 6), Record::Barrier { records: 3 }];
        assert_eq!(claimed(&journal(&records), &AFTER_REBOOT), [0, 1]);
    }

    #[test]
    fn dropped_claims_do_not_come_back() {
        let records = [
            blocks(0, 6),
            Record::Dropped(vec![BlockRange::new(2, 4)]),
            Record::Barrier { records: 99 },
        ];
        assert_eq!(claimed(&journal(&records), &HERE), [0, 1, 4, 5]);
        assert_eq!(claimed(&journal(&records), &AFTER_REBOOT), [0, 1, 4, 5]);
    }

    #[test]
    fn dropped_blocks_are_not_looked_for_until_they_are_claimed_again_or_the_machine_starts_anew() {
        let records = [
            blocks(0, 6),
            Record::Barrier { records: 3 },
            Record::Dropped(vec![BlockRange::new(2, 5)]),
            blocks(3, 4),
        ];
        let claims = read(&journal(&records), &HERE).unwrap();
        let ranges = |set: &BlockSet| set.ranges().collect::<Vec<_>>();
        assert_eq!(
            ranges(&claims.dropped),
            [BlockRange::new(2, 3), BlockRange::new(4, 5)]
        );
        assert_eq!(
            ranges(&claims.durable),
            [BlockRange::new(0, 2), BlockRange::new(5, 6)]
        );
        let claims = read(&journal(&records), &AFTER_REBOOT).unwrap();
        assert!(claims.dropped.is_empty());
    }

    #[test]
    fn leaves_are_claims_too() {
        let records = [Record::Leaves {
            first: BlockIndex(4),
            leaves: vec![[8; 32]],
        }];
        let bytes = journal(&records);
        let claims = read(&bytes, &HERE).unwrap();
        assert_eq!(claims.leaves, BTreeMap::from([(BlockIndex(4), [8; 32])]));
        assert_eq!(claimed(&bytes, &HERE), [4]);
    }

    /// The number of each kind is part of the format; 3 is free.
    #[test]
    fn kinds_have_the_numbers_of_the_document() {
        let identity = Identity {
            root: None,
            geometry: Geometry::new(1, BlockSize::MIN).unwrap(),
            etag: None,
            last_modified: None,
        };
        let (place, time, url) = (HERE, 1, String::new());
        let records = [
            (0, Record::Begin { identity, url }),
            (1, Record::Run { place, time }),
            (2, Record::Blocks(vec![])),
            (
                4,
                Record::Leaves {
                    first: BlockIndex(0),
                    leaves: vec![],
                },
            ),
            (5, Record::Dropped(vec![])),
            (6, Record::Barrier { records: 0 }),
        ];
        for (kind, record) in records {
            let payload = codec::encode_record(&record.to_raw());
            assert_eq!(payload[..4], u32::to_le_bytes(kind), "{record:?}");
        }
        let head = [3_u32, 7, 7].map(u32::to_le_bytes).concat();
        assert!(codec::decode_record(&head).is_err());
    }

    #[test]
    fn every_truncation_and_every_flip_claims_no_more_than_was_written() {
        let bytes = journal(&[blocks(0, 2), blocks(4, 5), Record::Barrier { records: 4 }]);
        for end in 0..bytes.len() {
            let found = claimed(&bytes[..end], &HERE);
            assert!(
                [&[][..], &[0, 1], &[0, 1, 4]].contains(&&found[..]),
                "cut at {end}: {found:?}"
            );
        }
        for at in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[at / 8] ^= 1 << (at % 8);
            let found = claimed(&bad, &HERE);
            assert!(
                [&[][..], &[0, 1], &[0, 1, 4]].contains(&&found[..]),
                "flip at bit {at}: {found:?}"
            );
        }
    }

    #[test]
    fn a_writer_goes_on_where_the_reader_stopped() {
        let mut bytes = journal(&[blocks(0, 1)]);
        let sound = bytes.len();
        bytes.extend([1, 2, 3]);
        let mut claims = read(&bytes, &HERE).unwrap();
        assert_eq!(claims.end, sound as u64);
        bytes.truncate(sound);
        bytes.extend(claims.writer.append(&blocks(9, 10)));
        assert_eq!(claimed(&bytes, &HERE), [0, 9]);
    }

    #[test]
    fn claims_outside_the_object_do_not_count() {
        assert_eq!(
            claimed(&journal(&[blocks(8, u32::MAX), blocks(50, 60)]), &HERE),
            [8, 9]
        );
    }

    #[test]
    fn whose_part_it_is() {
        let url = "http://h/f";
        let claims = |identity: &Identity| {
            let (header, mut writer) = RecordWriter::begin();
            let begin = Record::Begin {
                identity: identity.clone(),
                url: url.into(),
            };
            let run = Record::Run {
                place: HERE,
                time: 5,
            };
            let bytes = [&header[..], &writer.append(&begin), &writer.append(&run)].concat();
            read(&bytes, &HERE).unwrap()
        };
        let same = identity();
        // With a root the URL may be another one.
        assert!(claims(&same).are_of(&identity(), "http://mirror/f"));
        let other = Identity {
            root: Some(Root([5; 32])),
            ..identity()
        };
        assert!(!claims(&same).are_of(&other, url));
        let plain = Identity {
            root: None,
            ..identity()
        };
        assert!(claims(&plain).are_of(&plain, url));
        assert!(!claims(&plain).are_of(&same, url));
        for other in ["http://h/g", "http://g/f", "https://h/f", ""] {
            assert!(!claims(&plain).are_of(&plain, other), "{other}");
        }
        let weak = Identity {
            etag: Some("W/\"e\"".into()),
            ..plain.clone()
        };
        assert!(!claims(&weak).are_of(&weak, url));
        let dated = |identity: &Identity, date: &str| Identity {
            last_modified: Some(date.into()),
            ..identity.clone()
        };
        for identity in [&plain, &weak] {
            let (one, two) = (dated(identity, "1"), dated(identity, "2"));
            assert!(claims(&one).are_of(&one, url) && !claims(&one).are_of(&two, url));
        }
    }
}
