//! Own objects: sparse files `objects/ROOT` and `objects/ROOT.leaves`, in which the store caches streamed blocks.
//!
//! Reading or writing one takes a shared lock of `objects/ROOT`; evicting blocks takes the exclusive one. The index claims a
//! block only after it was written, and drops the claim before the block is evicted. A kill in between leaves blocks without a
//! claim; a scan of the folder finds them.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    disk::{
        error::{DiskError, FileOperation},
        files::{self, Entry, Folder},
        locks,
        mapped::Mapped,
        part::{Part, Stored},
        state::Own,
    },
    format::{
        blockset::BlockSet,
        geometry::{BlockIndex, BlockRange, ByteRange, Geometry},
        judge::{self, Leaves, ObjectKey, Proven},
        tree::{self, Cv, Root},
    },
};

use super::leaves::{Header, LeavesFile};

/// The suffix of the file of leaves.
const LEAVES: &str = ".leaves";

/// The folder of own objects.
#[derive(Debug)]
pub(super) struct Objects {
    pub folder: Folder,
    /// With symbolic links resolved.
    path: PathBuf,
}

/// An own object, open for reading, and for adding proven blocks.
#[derive(Debug)]
pub struct OwnObject {
    pub(super) header: Header,
    data: Part,
    /// `None`: it cannot be mapped.
    mapped: Option<Mapped>,
    leaves: LeavesFile,
    blocks: Mutex<Blocks>,
}

/// How blocks of own objects are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reads {
    /// From mapped memory, without a copy; plainly where that is not possible.
    #[default]
    Mapped,
    /// Into a buffer.
    Plain,
}

#[derive(Debug)]
struct Blocks {
    /// Claimed by the index, or written since.
    held: BlockSet,
    /// Blocks written since the last update of the index.
    new: BlockSet,
    /// Bytes that may still be written before the index is updated.
    allowance: u64,
    /// The update is due when the allowance is below this.
    due_at: u64,
}

impl Blocks {
    fn note(&mut self, stored: Stored) {
        self.held.insert_range(stored.blocks());
        self.new.insert_range(stored.blocks());
    }
}

/// An own object under the exclusive lock: blocks may be evicted.
pub(super) struct Exclusive {
    pub name: OsString,
    pub entry: Entry,
    pub header: Option<(LeavesFile, Header)>,
    pub data: Part,
}

/// A damaged block of an own object.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields are named after what they are")]
pub struct Damage {
    pub block: BlockIndex,
    pub bytes: ByteRange,
    pub expected: Cv,
    /// `None`: the bytes are missing.
    pub found: Option<Cv>,
}

impl Objects {
    /// Opens the folder; with `make`, creates it if it is missing. `None`: it is missing.
    pub fn open(store: &Path, make: bool) -> Result<Option<Objects>, DiskError> {
        let path = store.join("objects");
        if make {
            files::create_private_folder(&path)
                .map_err(|cause| DiskError::io(FileOperation::Create, &path, cause))?;
        }
        match Folder::open(&path) {
            Ok(folder) => Ok(Some(Objects {
                folder,
                path: path.canonicalize().unwrap_or(path),
            })),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The path of an own object.
    pub fn path_of(&self, name: &OsStr) -> PathBuf {
        self.path.join(name)
    }

    /// The roots of which at least one file exists, sorted.
    pub fn names(&self) -> Result<Vec<String>, DiskError> {
        let mut names = self.folder.names()?;
        names.retain_mut(|name| {
            name.truncate(name.strip_suffix(LEAVES).map_or(name.len(), str::len));
            // Other files are not ours.
            name.parse::<Root>()
                .is_ok_and(|root| root.to_string() == *name)
        });
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// Opens the own object of this root for reading and adding, or creates it. `None`: it is locked to evict blocks, or the
    /// existing leaves are invalid or of another geometry.
    pub fn open_or_create(&self, header: &Header) -> Result<Option<OwnObject>, DiskError> {
        let name = OsString::from(header.root.to_string());
        let path = self.path_of(&name);
        loop {
            let file = self.folder.open_own_or_create(&name)?;
            if !locks::try_lock_shared(&file, &path)? {
                return Ok(None);
            }
            // The process that held the lock before may have removed the file that we opened.
            if !self.folder.is_still(&name, &file)? {
                continue;
            }
            let Some((leaves, header)) = self.leaves(&name, header)? else {
                return Ok(None);
            };
            let geometry = header.geometry;
            let locked = file.try_clone();
            let data = Part::new(file, path);
            if data.length()? < geometry.length() {
                data.set_length(geometry.length())?;
            }
            let locked = locked.ok();
            let mapped = locked.and_then(|file| Mapped::of_own_object(&file, geometry.length()));
            let none = BlockSet::empty(geometry.blocks());
            let blocks = Blocks {
                held: none.clone(),
                new: none,
                allowance: 0,
                due_at: 0,
            };
            return Ok(Some(OwnObject {
                header,
                data,
                mapped,
                leaves,
                blocks: Mutex::new(blocks),
            }));
        }
    }

    fn leaves(
        &self,
        name: &OsStr,
        wanted: &Header,
    ) -> Result<Option<(LeavesFile, Header)>, DiskError> {
        let name = files::with_suffix(name, LEAVES);
        let path = self.path_of(&name);
        let file = self.folder.open_own_or_create(&name)?;
        if Entry::of(&file, &path)?.length == 0 {
            // Two processes that begin at once write the same header.
            let leaves = LeavesFile::begin(file, path, wanted)?;
            return Ok(Some((leaves, wanted.clone())));
        }
        let read = LeavesFile::read(file, path)?;
        let fits = |found: &Header| (found.root, found.geometry) == (wanted.root, wanted.geometry);
        Ok(read.filter(|(_, found)| fits(found)))
    }

    /// All leaves of an own object; `None` if any is missing.
    pub fn leaves_of(&self, root: Root, geometry: &Geometry) -> Result<Option<Vec<Cv>>, DiskError> {
        let name = OsString::from(root.to_string() + LEAVES);
        let Some(file) = self.folder.open_own(&name)? else {
            return Ok(None);
        };
        match LeavesFile::read(file, self.path_of(&name))? {
            Some((leaves, header)) if header.geometry == *geometry => {
                Ok(leaves.get(geometry.all())?.into_iter().collect())
            }
            _ => Ok(None),
        }
    }

    /// Opens the files of this root exclusively; `None`: they are open elsewhere, or were just removed.
    pub fn open_exclusive(&self, name: &str) -> Result<Option<Exclusive>, DiskError> {
        let name = OsString::from(name);
        let path = self.path_of(&name);
        // An interrupted creation or removal leaves `.leaves` without data: create the data file, because it carries the lock.
        let file = self.folder.open_own_or_create(&name)?;
        if !locks::try_lock(&file, &path)? || !self.folder.is_still(&name, &file)? {
            return Ok(None);
        }
        let leaves = files::with_suffix(&name, LEAVES);
        let header = match self.folder.open_own(&leaves)? {
            Some(file) => LeavesFile::read(file, self.path_of(&leaves))?,
            None => None,
        };
        let header = header.filter(|(_, header)| *header.root.to_string() == *name);
        Ok(Some(Exclusive {
            entry: Entry::of(&file, &path)?,
            name,
            header,
            data: Part::new(file, path),
        }))
    }

    /// Removes an own object.
    pub fn remove(&self, own: Exclusive) -> Result<(), DiskError> {
        // The data last, because it carries the lock.
        self.folder.remove(&files::with_suffix(&own.name, LEAVES))?;
        self.folder.remove(&own.name)
    }
}

impl OwnObject {
    /// The blocks that are claimed or were written; reading one may still fail.
    pub fn held(&self) -> BlockSet {
        self.blocks.lock().held.clone()
    }

    /// Whether a block is claimed or was written.
    pub fn holds(&self, block: BlockIndex) -> bool {
        self.blocks.lock().held.contains(block)
    }

    /// The geometry of the object.
    pub fn geometry(&self) -> &Geometry {
        &self.header.geometry
    }

    /// The root of the object.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::of_root(self.header.root, self.header.geometry)
    }

    /// Reads and judges a block. `None`: it is missing, unreadable or damaged, and not held from now on.
    pub fn read(&self, leaves: &Leaves, block: BlockIndex, how: Reads) -> Option<Proven> {
        if !self.holds(block) {
            return None;
        }
        let place = self.header.geometry.bytes_of(block);
        let mapped = self.mapped.as_ref().filter(|_| how == Reads::Mapped);
        let bytes = match mapped.and_then(|mapped| mapped.bytes(place)) {
            Some(bytes) => Some(bytes),
            None => self.read_bytes(place),
        };
        let proven = bytes.and_then(|bytes| judge::prove(leaves, block, bytes).ok());
        if proven.is_none() {
            let mut blocks = self.blocks.lock();
            blocks.held.remove(block);
            blocks.new.remove(block);
        }
        proven
    }

    fn read_bytes(&self, place: ByteRange) -> Option<Bytes> {
        let mut bytes = vec![0; place.length() as usize];
        let is_read = self.data.read(&mut bytes, place.start).unwrap_or(false);
        is_read.then(|| bytes.into())
    }

    /// Writes proven blocks and their leaves. Skips blocks that are held, and those beyond the allowance.
    ///
    /// # Panics
    /// If the blocks are of another object.
    pub fn keep(&self, proven: &Proven, leaves: &Leaves) -> Result<(), DiskError> {
        let verified = proven.verified();
        assert_eq!(*verified.object(), self.key(), "a file is of one object");
        for blocks in self.take_room(verified.blocks()) {
            let stored = self.data.write(&proven.narrowed(blocks))?;
            for block in blocks.iter() {
                if let Some(leaf) = leaves.leaf(block) {
                    self.leaves.put(block, &leaf)?;
                }
            }
            self.blocks.lock().note(stored);
        }
        Ok(())
    }

    /// The wanted blocks that are missing and within the allowance, which shrinks by their length.
    fn take_room(&self, wanted: BlockRange) -> Vec<BlockRange> {
        let mut blocks = self.blocks.lock();
        let mut ranges: Vec<BlockRange> = Vec::new();
        for block in wanted.iter() {
            let length = self.header.geometry.bytes_of(block).length();
            if blocks.held.contains(block) || blocks.allowance < length {
                continue;
            }
            blocks.allowance -= length;
            match ranges.last_mut() {
                Some(last) if last.end == block.0 => last.end += 1,
                _ => ranges.push(BlockRange::one(block)),
            }
        }
        ranges
    }

    /// The blocks written since the last call.
    pub(super) fn take_new(&self) -> BlockSet {
        let none = BlockSet::empty(self.header.geometry.blocks());
        std::mem::replace(&mut self.blocks.lock().new, none)
    }

    /// Adds blocks that the index claims.
    pub(super) fn claim(&self, held: &BlockSet) {
        self.blocks.lock().held.insert_all(held);
    }

    /// Allows this many bytes until the next update of the index, which is due when less than half a step is left.
    pub(super) fn allow(&self, bytes: u64, step: u64) {
        let mut blocks = self.blocks.lock();
        blocks.allowance = bytes;
        blocks.due_at = bytes.min(step / 2);
    }

    /// Whether the index is due to be updated ([`super::Store::note_cached`]).
    pub fn is_due(&self) -> bool {
        let blocks = self.blocks.lock();
        !blocks.new.is_empty() && blocks.allowance < blocks.due_at
    }

    /// The record for the index.
    pub(super) fn noted(&self, at: u64) -> Result<Own, DiskError> {
        Ok(Own {
            path: self.data.path().to_owned(),
            stamp: self.data.entry()?.stamp(),
            root: self.header.root,
            geometry: self.header.geometry,
            provenance: self.header.provenance.clone(),
            at,
        })
    }
}

impl Exclusive {
    /// The blocks whose data and leaves are present, not judged. `None`: there is no valid header.
    pub fn blocks(&self) -> Result<Option<BlockSet>, DiskError> {
        let Some((leaves, header)) = &self.header else {
            return Ok(None);
        };
        let geometry = &header.geometry;
        let mut blocks = BlockSet::empty(geometry.blocks());
        for range in self.data.blocks_with_data(geometry)?.ranges() {
            for (block, leaf) in range.iter().zip(leaves.get(range)?) {
                if leaf.is_some() {
                    blocks.insert(block);
                }
            }
        }
        Ok(Some(blocks))
    }

    /// Compares these blocks with their stored leaves, reports the damaged ones, and returns the sound ones.
    pub fn judge(
        &self,
        blocks: &BlockSet,
        report: &mut dyn FnMut(Damage),
    ) -> Result<BlockSet, DiskError> {
        let mut sound = blocks.clone();
        let Some((leaves, Header { geometry, .. })) = &self.header else {
            return Ok(BlockSet::empty(blocks.blocks()));
        };
        let mut buffer = vec![0; geometry.block_size().bytes() as usize];
        for range in blocks.ranges() {
            for (block, leaf) in range.iter().zip(leaves.get(range)?) {
                let place = geometry.bytes_of(block);
                let buffer = &mut buffer[..place.length() as usize];
                let leaf = leaf.unwrap_or_default();
                let found = match self.data.read(buffer, place.start)? {
                    true => Some(tree::leaf_of(geometry, block, buffer)),
                    false => None,
                };
                if found != Some(leaf) {
                    sound.remove(block);
                    let bytes = geometry.bytes_of(block);
                    report(Damage {
                        block,
                        bytes,
                        expected: leaf,
                        found,
                    });
                }
            }
        }
        Ok(sound)
    }
}
