//! The index of a library: a list of the files of a folder (library.md). It is an object with a manifest, which proves and signs it.

use std::{borrow::Cow, cmp::Ordering, collections::HashMap, fmt, ops::Range, sync::LazyLock};

use super::{
    geometry::{BlockSize, PIECE},
    statement::name_is_allowed,
    tree::Root,
};

/// The first bytes of every index.
pub const MAGIC: [u8; 8] = *b"\x89SAPWLIB";
/// The version of indices that this program reads and writes.
pub const VERSION: u16 = 1;
/// The header, before the entries.
pub const HEADER_BYTES: usize = 64;
/// The name of the index in the folder that it describes. Those of its companions begin with it.
pub const NAME: &str = "library.sapwood";
/// The manifest of the index.
pub const MANIFEST: &str = "library.sapwood.sapwood";
/// The folder of the manifests of objects that are not small.
pub const MANIFESTS: &str = "library.sapwood.d";
/// The block size of the index.
pub const INDEX_BLOCK_SIZE: BlockSize = BlockSize::MIN;
/// A larger object has a manifest of its own; a smaller one has its pieces in the index.
pub const SMALL_BYTES_MAX: u64 = 64 << 10;
/// The largest object that can have a manifest.
const LENGTH_MAX: u64 = 1 << 48;
const ENTRIES_MAX: u32 = 1 << 24;
const PATH_BYTES_MAX: usize = 4095;
/// Flags, length, root, modified, and the size of the path.
const FIELDS_BYTES: usize = 1 + 8 + 32 + 8 + 2;
const EXECUTABLE: u8 = 1;
/// Suffixes that a download uses beside its target.
const OWN_SUFFIXES: [&str; 3] = [".part", ".part.journal", ".quarantined"];

/// Why an index is refused, each with its row in the table of library.md, section 4.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what it is")]
pub enum RefusedIndex {
    #[error("it is not the index of a library")]
    NotAnIndex,
    #[error("it is missing, or not the object of its manifest")]
    NotProven,
    #[error("it has version {0}; this program reads version {VERSION}")]
    Version(u16),
    #[error("the sizes in its header are impossible")]
    Sizes,
    #[error("entry {0} cannot be decoded")]
    Undecodable(u32),
    #[error("entry {0} has flags, a length or a root that are impossible")]
    Values(u32),
    #[error("the path of entry {0} is not allowed")]
    Path(u32),
    #[error("{path}: it is listed out of order, twice, or below a file")]
    Order { path: LibraryPath },
    #[error("{path}: another file of the same root has another length")]
    TwoLengths { path: LibraryPath },
    #[error("its sums are not those of its entries")]
    Sums,
}

impl RefusedIndex {
    /// The row of the refusal table.
    pub fn rule(&self) -> u8 {
        match self {
            // Before the table.
            RefusedIndex::NotProven => 0,
            RefusedIndex::NotAnIndex => 1,
            RefusedIndex::Version(_) => 2,
            RefusedIndex::Sizes => 3,
            RefusedIndex::Undecodable(_) => 4,
            RefusedIndex::Values(_) => 5,
            RefusedIndex::Path(_) => 6,
            RefusedIndex::Order { .. } => 7,
            RefusedIndex::TwoLengths { .. } => 8,
            RefusedIndex::Sums => 9,
        }
    }
}

/// A path that a library may list, relative to its folder. Ordered segment by segment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LibraryPath(String);

impl LibraryPath {
    /// `None`: a library may not list it (library.md, section 3).
    pub fn new(path: &str) -> Option<LibraryPath> {
        let lower = match path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => Cow::Owned(path.to_ascii_lowercase()),
            false => Cow::Borrowed(path),
        };
        let is_allowed = |segment: &str| {
            !segment.is_empty()
                && name_is_allowed(segment)
                && !OWN_SUFFIXES.iter().any(|suffix| segment.ends_with(suffix))
        };
        let fits = path.len() <= PATH_BYTES_MAX && !lower.starts_with(NAME);
        (fits && lower.split('/').all(is_allowed)).then(|| LibraryPath(path.to_owned()))
    }

    /// Its text, with `/` between segments.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The order of two texts as paths, segment by segment: a slash comes before all other bytes.
    pub fn order(a: &str, b: &str) -> Ordering {
        let (a, b) = (a.as_bytes(), b.as_bytes());
        let differ = a.iter().zip(b).find(|(a, b)| a != b);
        let rank = |byte: u8| (byte != b'/', byte);
        differ.map_or(a.len().cmp(&b.len()), |(a, b)| rank(*a).cmp(&rank(*b)))
    }

    /// Whether this path is a folder of the other one.
    pub fn is_folder_of(&self, other: &LibraryPath) -> bool {
        let rest = other.0.strip_prefix(&self.0);
        rest.is_some_and(|rest| rest.starts_with('/'))
    }
}

impl fmt::Display for LibraryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Ord for LibraryPath {
    fn cmp(&self, other: &LibraryPath) -> Ordering {
        LibraryPath::order(&self.0, &other.0)
    }
}

impl PartialOrd for LibraryPath {
    fn partial_cmp(&self, other: &LibraryPath) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// One file of a library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it lies.
    pub path: LibraryPath,
    /// In bytes.
    pub length: u64,
    /// The object.
    pub root: Root,
    /// The time of its last change, in nanoseconds since 1970-01-01 UTC.
    pub modified_ns: i64,
    /// Whether its owner may execute it.
    pub is_executable: bool,
}

impl Entry {
    /// Whether the index proves it alone: it has no manifest.
    pub fn is_small(&self) -> bool {
        self.length <= SMALL_BYTES_MAX
    }

    /// The size of its pieces in the index.
    fn pieces_bytes(&self) -> u64 {
        match self.is_small() {
            true => 2 * self.length.div_ceil(PIECE),
            false => 0,
        }
    }

    /// Its bytes in the index.
    fn write(&self, out: &mut Vec<u8>) {
        let path = self.path.0.as_bytes();
        out.extend_from_slice(&((FIELDS_BYTES + path.len()) as u16).to_le_bytes());
        out.push(if self.is_executable { EXECUTABLE } else { 0 });
        out.extend_from_slice(&self.length.to_le_bytes());
        out.extend_from_slice(&self.root.0);
        out.extend_from_slice(&self.modified_ns.to_le_bytes());
        out.extend_from_slice(&(path.len() as u16).to_le_bytes());
        out.extend_from_slice(path);
    }
}

/// The header of an index: how many entries there are, and where they and their pieces lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexHeader {
    /// How many entries.
    pub count: u32,
    /// The sum of their lengths.
    pub total: u64,
    entries_bytes: u64,
    pieces_bytes: u64,
}

impl IndexHeader {
    /// Reads the first bytes of an index of this length.
    pub fn read(bytes: &[u8], index_length: u64) -> Result<IndexHeader, RefusedIndex> {
        let header = bytes.first_chunk::<HEADER_BYTES>();
        let header = header.filter(|header| header.starts_with(&MAGIC));
        let mut rest = &header.ok_or(RefusedIndex::NotAnIndex)?[MAGIC.len()..];
        match number::<2>(&mut rest).map(u16::from_le_bytes) {
            Some(VERSION) => (),
            other => return Err(RefusedIndex::Version(other.unwrap_or_default())),
        }
        let fields = (|| {
            let zeros = number::<2>(&mut rest)?;
            let count = u32::from_le_bytes(number(&mut rest)?);
            let total = u64::from_le_bytes(number(&mut rest)?);
            let entries_bytes = u64::from_le_bytes(number(&mut rest)?);
            let pieces_bytes = u64::from_le_bytes(number(&mut rest)?);
            let is_zero = zeros == [0; 2] && rest.iter().all(|byte| *byte == 0);
            is_zero.then_some(IndexHeader {
                count,
                total,
                entries_bytes,
                pieces_bytes,
            })
        })();
        let fits = |header: &IndexHeader| {
            let end = (HEADER_BYTES as u64)
                .checked_add(header.entries_bytes)
                .and_then(|end| end.checked_add(header.pieces_bytes));
            end == Some(index_length) && header.count <= ENTRIES_MAX
        };
        fields.filter(fits).ok_or(RefusedIndex::Sizes)
    }

    /// The bytes of the entries in the index.
    pub fn entries(&self) -> Range<u64> {
        let start = HEADER_BYTES as u64;
        start..start + self.entries_bytes
    }

    /// The bytes of the pieces in the index.
    pub fn pieces(&self) -> Range<u64> {
        let start = self.entries().end;
        start..start + self.pieces_bytes
    }
}

/// The name of the manifest of an object that is not small, in the folder of manifests.
pub fn manifest_name(root: Root) -> String {
    format!("{root}.sapwood")
}

/// The name of its pack, in the same folder.
pub fn pack_name(root: Root) -> String {
    format!("{root}.sapwood.pack")
}

/// The entries of an index, in its order. A value of this type is consistent in itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    entries: Vec<Entry>,
}

impl Index {
    /// Reads the bytes of all entries, which were proven.
    pub fn read(header: &IndexHeader, bytes: &[u8]) -> Result<Index, RefusedIndex> {
        if bytes.len() as u64 != header.entries_bytes {
            return Err(RefusedIndex::Undecodable(header.count));
        }
        let raw = raw_entries(header.count, bytes)?;
        let mut lengths = HashMap::with_capacity(raw.len());
        let mut entries: Vec<Entry> = Vec::with_capacity(raw.len());
        for (number, raw) in (0..).zip(raw) {
            let entry = raw.checked(number)?;
            let path = || entry.path.clone();
            if let Some(before) = entries.last()
                && (before.path >= entry.path || before.path.is_folder_of(&entry.path))
            {
                return Err(RefusedIndex::Order { path: path() });
            }
            if *lengths.entry(entry.root).or_insert(entry.length) != entry.length {
                return Err(RefusedIndex::TwoLengths { path: path() });
            }
            entries.push(entry);
        }
        let index = Index { entries };
        let fits =
            index.total() == Some(header.total) && index.pieces_bytes() == header.pieces_bytes;
        match fits {
            true => Ok(index),
            false => Err(RefusedIndex::Sums),
        }
    }

    /// The files, in the order of their paths.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The file of this path.
    pub fn find(&self, path: &LibraryPath) -> Option<&Entry> {
        self.place_of(path).map(|place| &self.entries[place])
    }

    /// The place of the file of this path among the entries.
    pub fn place_of(&self, path: &LibraryPath) -> Option<usize> {
        let order = |entry: &Entry| entry.path.cmp(path);
        self.entries.binary_search_by(order).ok()
    }

    /// The sum of all lengths; `None`: more than a header can say.
    fn total(&self) -> Option<u64> {
        let mut lengths = self.entries.iter().map(|entry| entry.length);
        lengths.try_fold(0, u64::checked_add)
    }

    fn pieces_bytes(&self) -> u64 {
        self.entries.iter().map(Entry::pieces_bytes).sum()
    }

    /// Each entry, and the bytes of its pieces in the index.
    pub fn pieces(&self, header: &IndexHeader) -> impl Iterator<Item = (&Entry, Range<u64>)> {
        let mut at = header.pieces().start;
        self.entries.iter().map(move |entry| {
            let start = at;
            at += entry.pieces_bytes();
            (entry, start..at)
        })
    }
}

/// An entry whose fields were taken apart and not judged.
struct RawEntry<'a> {
    flags: u8,
    length: u64,
    root: Root,
    modified_ns: i64,
    path: &'a [u8],
}

impl RawEntry<'_> {
    fn checked(&self, number: u32) -> Result<Entry, RefusedIndex> {
        let is_empty = self.root == *EMPTY_ROOT;
        if self.flags > EXECUTABLE || self.length > LENGTH_MAX || (self.length == 0) != is_empty {
            return Err(RefusedIndex::Values(number));
        }
        let path = std::str::from_utf8(self.path).ok();
        let path = path.and_then(LibraryPath::new);
        Ok(Entry {
            path: path.ok_or(RefusedIndex::Path(number))?,
            length: self.length,
            root: self.root,
            modified_ns: self.modified_ns,
            is_executable: self.flags == EXECUTABLE,
        })
    }
}

/// The root of no bytes.
static EMPTY_ROOT: LazyLock<Root> = LazyLock::new(|| Root(*blake3::hash(b"").as_bytes()));

fn raw_entries(count: u32, mut bytes: &[u8]) -> Result<Vec<RawEntry<'_>>, RefusedIndex> {
    // No allocation before the bytes are there: each entry takes at least these.
    let most = bytes.len() / (2 + FIELDS_BYTES);
    if count as usize > most {
        return Err(RefusedIndex::Undecodable(most as u32));
    }
    let mut entries = Vec::with_capacity(count as usize);
    for at in 0..count {
        entries.push(raw_entry(&mut bytes).ok_or(RefusedIndex::Undecodable(at))?);
    }
    match bytes.is_empty() {
        true => Ok(entries),
        false => Err(RefusedIndex::Undecodable(count)),
    }
}

fn raw_entry<'a>(bytes: &mut &'a [u8]) -> Option<RawEntry<'a>> {
    let size = u16::from_le_bytes(number(bytes)?);
    let (mut fields, rest) = bytes.split_at_checked(usize::from(size))?;
    *bytes = rest;
    let [flags] = number(&mut fields)?;
    let length = u64::from_le_bytes(number(&mut fields)?);
    let root = Root(number(&mut fields)?);
    let modified_ns = i64::from_le_bytes(number(&mut fields)?);
    let path_size = u16::from_le_bytes(number(&mut fields)?);
    // What follows the path is for later versions.
    let (path, _) = fields.split_at_checked(usize::from(path_size))?;
    Some(RawEntry {
        flags,
        length,
        root,
        modified_ns,
        path,
    })
}

/// The next bytes.
fn number<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (number, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*number)
}

/// The bytes of an index of these files, in any order, with the pieces of the small ones (library.md, section 2). The same files give
/// the same bytes.
///
/// # Errors
/// What a reader would refuse: equal paths, a file below a file, two lengths of one root.
///
/// # Panics
/// If there are not as many pieces as the length of an object says.
pub fn write<P: AsRef<[u8]>>(mut files: Vec<(Entry, P)>) -> Result<Vec<u8>, RefusedIndex> {
    files.sort_by(|(a, _), (b, _)| a.path.cmp(&b.path));
    let (mut entries, mut all_pieces) = (Vec::new(), Vec::new());
    for (entry, pieces) in &files {
        let pieces = pieces.as_ref();
        assert_eq!(pieces.len() as u64, entry.pieces_bytes(), "all pieces");
        entry.write(&mut entries);
        all_pieces.extend_from_slice(pieces);
    }
    let total = files.iter().map(|(entry, _)| entry.length);
    let mut index = Vec::with_capacity(HEADER_BYTES + entries.len() + all_pieces.len());
    index.extend_from_slice(&MAGIC);
    index.extend_from_slice(&VERSION.to_le_bytes());
    index.extend_from_slice(&[0; 2]);
    index.extend_from_slice(&(files.len() as u32).to_le_bytes());
    index.extend_from_slice(&total.fold(0, u64::saturating_add).to_le_bytes());
    index.extend_from_slice(&(entries.len() as u64).to_le_bytes());
    index.extend_from_slice(&(all_pieces.len() as u64).to_le_bytes());
    index.resize(HEADER_BYTES, 0);
    index.extend_from_slice(&entries);
    index.extend_from_slice(&all_pieces);
    let header = IndexHeader::read(&index, index.len() as u64)?;
    Index::read(&header, &entries)?;
    Ok(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_ordered_segment_by_segment() {
        let paths = [
            "", "a", "a/b", "a/b/c", "a/bc", "a b", "a-b", "a!b", "a!/b", "ab", "aé", "b/a", "B",
            "é",
        ];
        for (a, b) in paths.iter().flat_map(|a| paths.map(|b| (*a, b))) {
            let by_segments = a.split('/').cmp(b.split('/'));
            assert_eq!(LibraryPath::order(a, b), by_segments, "{a:?} {b:?}");
        }
    }

    #[test]
    fn names_of_our_own_are_not_listed_in_any_case() {
        for path in [
            "library.sapwood",
            "Library.Sapwood.d/x",
            "a/b.part",
            "a/B.PART",
        ] {
            assert_eq!(LibraryPath::new(path), None, "{path}");
        }
        let path = LibraryPath::new("A/Library.sapwood").unwrap();
        assert_eq!(path.as_str(), "A/Library.sapwood");
    }
}
