//! Publishing a folder as a library: an index of its files, and the manifests of the larger ones (library.md). Files that did not
//! change since the last run are not read again.

use std::{
    collections::{BTreeSet, HashMap},
    ffi::OsStr,
    io::Read,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use parking_lot::Mutex;

use crate::{
    disk::{
        error::{DiskError, FileOperation},
        files::{self, Entry, Folder, MadeFolder},
        regions,
        temporary::{Replaces, Temporary},
    },
    engine::{
        create::{self, CreateOptions, Described, Input},
        error::Error,
        events::Library,
        manifest_file::CheckedFile,
        pack, packed_object,
        sign::Signer,
    },
    format::{
        compression::PackOptions,
        geometry::BlockSize,
        library::{self, LibraryPath, SMALL_BYTES_MAX},
        manifest::Particulars,
        pieces,
        statement::default_name,
        tree::Root,
    },
};

use super::{
    earlier::{Earlier, time_of_index},
    listing::{self, Listed},
};

/// The options of a library.
#[derive(Clone, Debug, Default)]
pub struct LibraryOptions {
    /// `None`: the last segment of the folder's path.
    pub name: Option<String>,
    /// The block size of the objects' manifests. `None`: chosen by the length.
    pub block_size: Option<BlockSize>,
    /// Leave anchors and pieces out of these manifests.
    pub no_hints: bool,
    /// Read every file, whatever the last index says.
    pub reads_all: bool,
    /// Grows with each version; 0: not given.
    pub sequence: u64,
    /// Unix seconds; 0: not given.
    pub published: u64,
    /// Unix seconds; 0: not given.
    pub expires: u64,
    /// Pack the larger files.
    pub pack: Option<PackOptions>,
}

/// Publishes a folder. Readers get the earlier library or the new one.
///
/// `progress` is called from several threads with the number of bytes that were read and that are to be read.
pub fn create(
    path: &Path,
    options: &LibraryOptions,
    signer: Option<&Signer>,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<Library, Error> {
    let began = SystemTime::now();
    let folder = Folder::open(path)?;
    folder.lock()?;
    let earlier = Earlier::read(&folder)?;
    let (files, left_out) = listing::list(&folder, |_| true, |_| true)?;
    let known = match (&earlier, options.reads_all) {
        (Some(earlier), false) => known_files(&folder, earlier, &files, options)?,
        _ => HashMap::new(),
    };
    let is_new = |file: &&Listed| !known.contains_key(&file.path);
    let new: Vec<&Listed> = files.iter().filter(is_new).collect();
    let reading = Reading {
        folder: &folder,
        options,
        total: new.iter().map(|file| file.entry.length).sum(),
        done: AtomicU64::new(0),
        progress,
    };
    let (files_read, bytes_read) = (new.len() as u64, reading.total);
    let read = reading.all(&new)?;
    let mut entries = Vec::with_capacity(files.len());
    for file in &files {
        let content = known.get(&file.path).or_else(|| read.get(&file.path));
        let (root, pieces) = content.expect("every file is known or was read").clone();
        entries.push((file.entry_of(root), pieces));
    }
    let (files, bytes_total) = (
        entries.len() as u64,
        entries.iter().map(|(entry, _)| entry.length).sum(),
    );
    let needed = entries.iter().filter(|(entry, _)| !entry.is_small());
    let needed: BTreeSet<Root> = needed.map(|(entry, _)| entry.root).collect();
    let index = library::write(entries).map_err(|cause| Error::Index {
        place: path.display().to_string(),
        cause,
    })?;
    let root = Root(*blake3::hash(&index).as_bytes());
    match earlier.is_some_and(|earlier| earlier.root == root) {
        // The next run need not read again what this one read.
        true if files_read > 0 => date_index(&folder, began)?,
        true => (),
        false => publish_index(&folder, &index, began)?,
    }
    let name = options.name.clone().unwrap_or_else(|| name_of(path));
    if signer.is_some() || !is_described(&folder, root, &name, options) {
        describe_index(&folder, name, options, signer)?;
    }
    forget_manifests(&folder, &needed)?;
    Ok(Library {
        path: path.to_owned(),
        root,
        files,
        bytes_total,
        files_read,
        bytes_read,
        left_out,
    })
}

/// Whether the index has the manifest without a signature that this run would write: to make a file durable can take seconds while
/// other programs write.
fn is_described(folder: &Folder, root: Root, name: &str, options: &LibraryOptions) -> bool {
    let path = folder.path_of(OsStr::new(library::MANIFEST));
    let Ok(manifest) = CheckedFile::open(&path) else {
        return false;
    };
    let is_signed =
        manifest.signature.minisign().is_some() || manifest.signature.trailer_bytes() > 0;
    let header = manifest.statement.header();
    !is_signed
        && (header.root, header.name.as_str()) == (root, name)
        && (header.sequence, header.published, header.expires)
            == (options.sequence, options.published, options.expires)
        && header.geometry.block_size() == library::INDEX_BLOCK_SIZE
        && header.hints()
        && header.digests.is_empty()
        && header.unknown_digests.is_empty()
}

/// Writes the manifest of the index.
fn describe_index(
    folder: &Folder,
    name: String,
    options: &LibraryOptions,
    signer: Option<&Signer>,
) -> Result<(), Error> {
    let input = Input::File(folder.path_of(OsStr::new(library::NAME)));
    let output = create::Output::File(folder.path_of(OsStr::new(library::MANIFEST)));
    let options = CreateOptions {
        block_size: Some(library::INDEX_BLOCK_SIZE),
        name: Some(name),
        sequence: options.sequence,
        published: options.published,
        expires: options.expires,
        ..CreateOptions::default()
    };
    create::create(input, output, &options, signer)?;
    Ok(())
}

/// The last segment of a folder's path, if a manifest may have that name.
pub fn name_of(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or(path.to_owned());
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    default_name(name)
}

fn publish_index(folder: &Folder, index: &[u8], began: SystemTime) -> Result<(), Error> {
    let path = folder.path_of(OsStr::new(library::NAME));
    let temporary = Temporary::create(&path, Replaces::Index)?;
    temporary.write_at(index, 0)?;
    files::set_modified(temporary.file(), &path, time_of_index(began))?;
    Ok(temporary.publish(None)?)
}

/// Gives the time of this run to an index that stays.
fn date_index(folder: &Folder, began: SystemTime) -> Result<(), Error> {
    let path = folder.path_of(OsStr::new(library::NAME));
    if let Some((file, _)) = folder.open_file_below(Path::new(library::NAME))? {
        files::set_modified(&file, &path, time_of_index(began))?;
    }
    Ok(())
}

/// The root of a file, and its pieces if it is small.
type Content = (Root, Vec<u8>);

/// The files that need not be read: they are what the last index says, and the manifests of the larger ones, with packs if they are
/// wanted, are there.
fn known_files(
    folder: &Folder,
    earlier: &Earlier,
    files: &[Listed],
    options: &LibraryOptions,
) -> Result<HashMap<LibraryPath, Content>, Error> {
    let manifests: BTreeSet<String> = match folder.below(Path::new(library::MANIFESTS))? {
        Some(manifests) => manifests.names()?.into_iter().collect(),
        None => BTreeSet::new(),
    };
    let path_of = folder.path_of(OsStr::new(library::MANIFESTS));
    let is_packed = |root: Root| {
        options.pack.is_none()
            || packed_object::has_pack(&path_of.join(library::manifest_name(root)))
    };
    let known = files.iter().filter_map(|file| {
        let place = earlier.still_has(&file.path, &file.entry)?;
        let entry = &earlier.index.entries()[place];
        let is_described = entry.is_small()
            || manifests.contains(&library::manifest_name(entry.root)) && is_packed(entry.root);
        is_described.then(|| {
            let pieces = earlier.pieces(place).to_vec();
            (file.path.clone(), (entry.root, pieces))
        })
    });
    Ok(known.collect())
}

/// Removes the manifests and packs of objects that the library no longer has.
fn forget_manifests(folder: &Folder, needed: &BTreeSet<Root>) -> Result<(), Error> {
    let Some(manifests) = folder.below(Path::new(library::MANIFESTS))? else {
        return Ok(());
    };
    for name in manifests.names()? {
        let root = name.split('.').next().map(str::parse::<Root>);
        if let Some(Ok(root)) = root
            && (name == library::manifest_name(root) || name == library::pack_name(root))
            && !needed.contains(&root)
        {
            manifests.remove(OsStr::new(&name))?;
        }
    }
    Ok(())
}

/// Reading the files that are not known.
struct Reading<'a> {
    folder: &'a Folder,
    options: &'a LibraryOptions,
    total: u64,
    done: AtomicU64,
    progress: &'a (dyn Fn(u64, u64) + Sync),
}

impl Reading<'_> {
    /// Small files on all cores, one core a file; then the larger ones, all cores a file.
    fn all(&self, files: &[&Listed]) -> Result<HashMap<LibraryPath, Content>, Error> {
        (self.progress)(0, self.total);
        let is_small = |file: &&&Listed| file.entry.length <= SMALL_BYTES_MAX;
        let small: Vec<&Listed> = files.iter().filter(is_small).copied().collect();
        let contents = Mutex::new(HashMap::with_capacity(files.len()));
        regions::for_each_item(&small, |_, file| -> Result<(), Error> {
            let content = self.small(file)?;
            contents.lock().insert(file.path.clone(), content);
            self.note(file);
            Ok(())
        })?;
        let mut contents = contents.into_inner();
        for file in files.iter().filter(|file| !is_small(file)) {
            contents.insert(file.path.clone(), (self.large(file)?, Vec::new()));
            self.note(file);
        }
        Ok(contents)
    }

    fn note(&self, file: &Listed) {
        let length = file.entry.length;
        let done = self.done.fetch_add(length, Ordering::Relaxed) + length;
        (self.progress)(done, self.total);
    }

    /// Opens a file, which must be what was listed.
    fn open(&self, file: &Listed) -> Result<(std::fs::File, PathBuf), Error> {
        let path = self.folder.path_of(OsStr::new(file.path.as_str()));
        regions::check_not_stopped(&path)?;
        let opened = self.folder.open_file_below(Path::new(file.path.as_str()))?;
        match opened {
            Some((opened, entry)) if entry.stamp() == file.entry.stamp() => Ok((opened, path)),
            _ => Err(DiskError::ChangedWhileRead { path }.into()),
        }
    }

    fn small(&self, file: &Listed) -> Result<Content, Error> {
        let (mut opened, path) = self.open(file)?;
        let mut bytes = Vec::with_capacity(file.entry.length as usize + 1);
        opened
            .read_to_end(&mut bytes)
            .map_err(|cause| DiskError::io(FileOperation::Read, &path, cause))?;
        regions::note_read(bytes.len() as u64);
        if Entry::of(&opened, &path)?.stamp() != file.entry.stamp() {
            return Err(DiskError::ChangedWhileRead { path }.into());
        }
        let mut checks = Vec::new();
        pieces::append_pieces(&bytes, &mut checks);
        Ok((Root(*blake3::hash(&bytes).as_bytes()), checks))
    }

    /// Reads a larger file, and writes its manifest, and its pack if it is wanted.
    fn large(&self, file: &Listed) -> Result<Root, Error> {
        let (opened, path) = self.open(file)?;
        let place = path.display().to_string();
        let options = CreateOptions {
            block_size: self.options.block_size,
            no_hints: self.options.no_hints,
            pack: self.options.pack,
            ..CreateOptions::default()
        };
        let manifests = self.folder.path_of(OsStr::new(library::MANIFESTS));
        let made = MadeFolder::make(&manifests)?;
        let mut described = Described::of(Input::Open(opened, path), &place, &options, &manifests)?;
        // Another file may have got its name.
        self.open(file)?;
        let root = described.tree.root();
        let manifest = manifests.join(library::manifest_name(root));
        let pack = pack::beside(&manifest);
        // One of before belongs to another manifest, or is damaged.
        if let Some(folder) = self.folder.below(Path::new(library::MANIFESTS))? {
            folder.remove(OsStr::new(&library::pack_name(root)))?;
        }
        match (&mut described.pack, options.pack) {
            (Some(parts), _) => _ = parts.publish(&pack, &described.tree)?,
            (None, Some(_)) => pack::publish_front(&pack, &described.tree)?,
            (None, None) => (),
        }
        described.publish(&manifest, Particulars::default(), None)?;
        drop(made);
        Ok(root)
    }
}
