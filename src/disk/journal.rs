//! Writing the journal: which records, and when (journal.md, section 5).

use std::{fs::File, io, os::unix::fs::FileExt, path::PathBuf, sync::Arc};

use parking_lot::Mutex;

use crate::format::{
    blockset::BlockSet,
    geometry::BlockRange,
    journal::{
        self, CLAIMS_END_MAX, Claims, DROP_ALL_BYTES, Identity, JOURNAL_BYTES_MAX, Place, Record,
        RecordWriter,
    },
    judge::{Leaves, ObjectKey},
};

use super::{
    error::{DiskError, FileOperation},
    files,
    part::Stored,
};

/// Where a journal is kept: a file by default, memory in tests, anything of a caller's own.
pub trait JournalKeeper: Send {
    /// All that is there, up to [`JOURNAL_BYTES_MAX`].
    fn read(&mut self) -> Result<Vec<u8>, DiskError>;
    /// Forgets everything from this place on.
    fn cut(&mut self, length: u64) -> Result<(), DiskError>;
    /// Adds to the end, in one step.
    fn append(&mut self, bytes: &[u8]) -> Result<(), DiskError>;
    /// Makes durable what was appended.
    fn sync(&mut self) -> Result<(), DiskError>;
}

/// A journal in a file that is open and locked.
#[derive(Debug)]
pub struct FileKeeper {
    file: File,
    path: PathBuf,
    length: u64,
}

impl FileKeeper {
    /// Keeps it in this file, which is locked for this run; `path` is for messages.
    pub fn new(file: File, path: PathBuf) -> FileKeeper {
        FileKeeper {
            file,
            path,
            length: 0,
        }
    }
}

impl JournalKeeper for FileKeeper {
    fn read(&mut self) -> Result<Vec<u8>, DiskError> {
        let error = |cause: io::Error| DiskError::io(FileOperation::Read, &self.path, cause);
        self.length = self.file.metadata().map_err(error)?.len();
        let mut bytes = vec![0; self.length.min(JOURNAL_BYTES_MAX) as usize];
        self.file.read_exact_at(&mut bytes, 0).map_err(error)?;
        Ok(bytes)
    }

    fn cut(&mut self, length: u64) -> Result<(), DiskError> {
        files::set_length(&self.file, &self.path, length)?;
        self.length = length;
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), DiskError> {
        files::write_at(&self.file, &self.path, bytes, self.length)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), DiskError> {
        files::sync_data(&self.file, &self.path)
    }
}

/// A journal in memory; clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryKeeper(Arc<Mutex<Vec<u8>>>);

impl JournalKeeper for MemoryKeeper {
    fn read(&mut self) -> Result<Vec<u8>, DiskError> {
        Ok(self.0.lock().clone())
    }

    fn cut(&mut self, length: u64) -> Result<(), DiskError> {
        self.0.lock().truncate(length as usize);
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), DiskError> {
        self.0.lock().extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), DiskError> {
        Ok(())
    }
}

/// The journal of one run.
pub struct Journal {
    object: ObjectKey,
    keeper: Box<dyn JournalKeeper>,
    writer: RecordWriter,
    /// Of the file so far.
    bytes: u64,
    /// Proven and written, in no record yet.
    noted: BlockSet,
    /// In a record that no barrier of this run covers, with the number of records up to it.
    unsynced: Vec<(u64, BlockRange)>,
    /// In a record that a barrier covers.
    durable: BlockSet,
    /// Nothing more is claimed: a sync failed, so that what is noted now may be lost already, or the journal is full.
    ended: bool,
    /// Of an object without a manifest: what is noted is written with its leaves.
    leaves: Option<Arc<Leaves>>,
}

impl Journal {
    /// Starts a journal anew.
    pub fn begin(
        mut keeper: Box<dyn JournalKeeper>,
        identity: &Identity,
        url: &str,
        place: Place,
        time: u64,
    ) -> Result<Journal, DiskError> {
        let (header, mut writer) = RecordWriter::begin();
        let begin = Record::Begin {
            identity: identity.clone(),
            url: url.to_owned(),
        };
        let bytes = [
            &header[..],
            &writer.append(&begin),
            &writer.append(&Record::Run { place, time }),
        ]
        .concat();
        keeper.cut(0)?;
        keeper.append(&bytes)?;
        Ok(Journal {
            object: identity.object(),
            keeper,
            writer,
            bytes: bytes.len() as u64,
            noted: BlockSet::empty(identity.geometry.blocks()),
            unsynced: Vec::new(),
            durable: BlockSet::empty(identity.geometry.blocks()),
            ended: false,
            leaves: None,
        })
    }

    /// Continues a journal that was read, behind its sound part, for an identity as which it may be continued. One that is half
    /// full is begun anew, with its claims as what is written next.
    pub fn resume(
        mut keeper: Box<dyn JournalKeeper>,
        identity: &Identity,
        claims: &Claims,
        place: Place,
        time: u64,
    ) -> Result<Journal, DiskError> {
        if claims.end > JOURNAL_BYTES_MAX / 2 {
            let mut journal = Journal::begin(keeper, identity, &claims.url, place, time)?;
            journal.drop_claims(claims.dropped.ranges().collect())?;
            journal.noted = claims.claimed.clone();
            return Ok(journal);
        }
        let mut writer = claims.writer.clone();
        keeper.cut(claims.end)?;
        let run = writer.append(&Record::Run { place, time });
        keeper.append(&run)?;
        Ok(Journal {
            object: identity.object(),
            keeper,
            writer,
            bytes: claims.end + run.len() as u64,
            noted: BlockSet::empty(claims.durable.blocks()),
            unsynced: Vec::new(),
            durable: claims.durable.clone(),
            ended: false,
            leaves: None,
        })
    }

    /// From now on blocks are recorded with their leaves, which were learned when the blocks arrived.
    pub fn record_leaves(&mut self, leaves: Arc<Leaves>) {
        self.leaves = Some(leaves);
    }

    /// These blocks are in the part now.
    ///
    /// # Panics
    /// If they are of another object.
    pub fn note(&mut self, stored: Stored) {
        assert_eq!(
            *stored.verified().object(),
            self.object,
            "a journal is of one object"
        );
        self.noted.insert_range(stored.blocks());
    }

    /// Writes what was noted. Returns the number of records, for a barrier later.
    pub fn checkpoint(&mut self) -> Result<u64, DiskError> {
        if !self.noted.is_empty() && !self.ended {
            let ranges: Vec<BlockRange> = self.noted.ranges().collect();
            let records: Vec<Record> = match &self.leaves {
                None => journal::blocks_records(&ranges).collect(),
                Some(leaves) => ranges
                    .iter()
                    .flat_map(|range| journal::leaves_records(*range, leaves))
                    .collect(),
            };
            for record in records {
                self.ended = !self.append(&record, CLAIMS_END_MAX)?;
                if self.ended {
                    return Ok(self.writer.records());
                }
            }
            let records = self.writer.records();
            self.unsynced
                .extend(ranges.into_iter().map(|range| (records, range)));
            self.noted = BlockSet::empty(self.noted.blocks());
        }
        Ok(self.writer.records())
    }

    /// Records that all blocks in the first `records` records are on the disk. Call it after a sync that began after them.
    pub fn barrier(&mut self, records: u64) -> Result<(), DiskError> {
        let covered = self
            .unsynced
            .extract_if(.., |(number, _)| *number <= records);
        let covered: Vec<BlockRange> = covered.map(|(_, range)| range).collect();
        if !covered.is_empty() && self.append(&Record::Barrier { records }, CLAIMS_END_MAX)? {
            self.keeper.sync()?;
            for range in covered {
                self.durable.insert_range(range);
            }
        }
        Ok(())
    }

    /// A sync of the part failed: whatever no barrier covers may be lost, although reading it still shows it. That includes
    /// what earlier runs wrote and what no record names yet.
    pub fn sync_failed(&mut self) -> Result<(), DiskError> {
        self.ended = true;
        self.unsynced.clear();
        let mut lost = BlockSet::full(self.durable.blocks());
        lost.remove_all(&self.durable);
        self.drop_claims(lost.ranges().collect())
    }

    /// Records that these blocks are not there after all.
    pub fn drop_claims(&mut self, ranges: Vec<BlockRange>) -> Result<(), DiskError> {
        let all = BlockSet::full(self.durable.blocks()).ranges().collect();
        let all = Record::Dropped(all);
        for some in ranges.chunks(journal::RUNS_PER_RECORD) {
            let some = Record::Dropped(some.to_vec());
            // Once all are dropped and nothing fits any more, there is nothing left to be dropped.
            if !self.append(&some, JOURNAL_BYTES_MAX - DROP_ALL_BYTES)? {
                self.append(&all, JOURNAL_BYTES_MAX)?;
            }
        }
        for range in ranges {
            self.durable.remove_range(range);
        }
        Ok(())
    }

    /// Makes what was written so far durable.
    pub fn sync(&mut self) -> Result<(), DiskError> {
        self.keeper.sync()
    }

    /// `false`: the record would end behind `end_max`, and is not written.
    fn append(&mut self, record: &Record, end_max: u64) -> Result<bool, DiskError> {
        // Count a record only once it is written: otherwise a later one would not continue those in the file.
        let mut writer = self.writer.clone();
        let bytes = writer.append(record);
        let end = self.bytes + bytes.len() as u64;
        if end > end_max {
            return Ok(false);
        }
        self.keeper.append(&bytes)?;
        (self.writer, self.bytes) = (writer, end);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{
        geometry::{BlockSize, Geometry},
        tree::Root,
    };

    const HERE: Place = Place {
        boot_id: [1; 16],
        device: 2,
        inode: 3,
        local: true,
    };

    /// A journal with as many claims as it takes, of every second block; it is not synced.
    fn filled(keeper: &MemoryKeeper, checkpoints: u32) -> (Identity, BlockSet) {
        let geometry = Geometry::new(1 << 30, BlockSize::MIN).unwrap();
        let identity = Identity {
            root: Some(Root([7; 32])),
            geometry,
            etag: None,
            last_modified: None,
        };
        let keeper = Box::new(keeper.clone());
        let mut journal = Journal::begin(keeper, &identity, "", HERE, 1).unwrap();
        let mut half = BlockSet::empty(geometry.blocks());
        for block in (0..geometry.blocks()).step_by(2) {
            half.insert_range(BlockRange::new(block, block + 1));
        }
        for _ in 0..checkpoints {
            journal.noted = half.clone();
            journal.checkpoint().unwrap();
        }
        if checkpoints > 200 {
            journal.sync_failed().unwrap();
        }
        (identity, half)
    }

    fn claims(keeper: &MemoryKeeper) -> Claims {
        let bytes = keeper.0.lock();
        let end = bytes.len().min(JOURNAL_BYTES_MAX as usize);
        journal::read(&bytes[..end], &HERE).unwrap()
    }

    /// Found: what did not fit any more was written behind the end of what a reader reads.
    #[test]
    fn a_full_journal_still_drops_what_a_failed_sync_lost() {
        let keeper = MemoryKeeper::default();
        filled(&keeper, 280);
        assert!(keeper.0.lock().len() as u64 <= JOURNAL_BYTES_MAX);
        assert!(claims(&keeper).claimed.is_empty());
    }

    #[test]
    fn a_run_that_finds_a_journal_half_full_begins_it_anew_with_what_it_claimed() {
        let keeper = MemoryKeeper::default();
        let (identity, half) = filled(&keeper, 140);
        let before = claims(&keeper);
        assert!(before.end > JOURNAL_BYTES_MAX / 2 && before.claimed == half);
        let boxed = Box::new(keeper.clone());
        let mut journal = Journal::resume(boxed, &identity, &before, HERE, 2).unwrap();
        journal.checkpoint().unwrap();
        let after = claims(&keeper);
        assert!(after.end < JOURNAL_BYTES_MAX / 64 && after.claimed == half);
    }
}
