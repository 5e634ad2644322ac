//! Checking the files of a folder against its library.

use std::{
    ffi::OsStr,
    io::Read,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;

use crate::{
    disk::{
        error::{DiskError, FileOperation},
        files::{self as disk, Folder},
        quarantine::quarantine,
        regions,
        store::Store,
    },
    engine::{
        context::StoreHandle,
        error::Error,
        events::{Damaged, Event, Events},
        manifest_file::{CheckedFile, ManifestFile},
        verify::{self, Against},
    },
    format::{
        geometry::{BlockIndex, ByteRange},
        library::{self, Entry, Index},
        tree::{Cv, Root},
        trust::Trust,
    },
};

use super::earlier::Earlier;

/// A folder and its library, of which the index is proven against its manifest.
pub struct OpenLibrary {
    folder: Folder,
    path: PathBuf,
    /// The manifest of the index, to be checked for trust.
    pub manifest: CheckedFile,
    index: Index,
    /// There is a folder of manifests: what is fetched from here needs them.
    has_manifests: bool,
}

/// How many files were checked, and how many are not what the library says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each says what it is")]
pub struct Checked {
    pub files: u64,
    pub damaged: u64,
    /// Sound files whose manifest is missing or wrong.
    pub without_manifest: u64,
    /// Sound files with wrong hints, or a wrong pack.
    pub misled: u64,
}

impl Checked {
    /// Whether all files, and what else was checked, are what the library says.
    pub fn is_sound(&self) -> bool {
        self.damaged + self.without_manifest + self.misled == 0
    }
}

/// How a library is checked.
pub struct LibraryCheck {
    /// What was found of the manifest of the index.
    pub trust: Trust,
    /// Rename what is damaged.
    pub quarantines: bool,
    /// Also check the hints and the packs of large files.
    pub hints: bool,
    /// It may know which blocks a damaged file without a manifest should have.
    pub store: StoreHandle,
}

enum Found {
    Sound,
    /// With wrong hints, or a wrong pack.
    Misled,
    /// Nobody can fetch it from this library.
    WithoutManifest,
    Damaged,
}

impl Found {
    fn of(is_sound: bool) -> Found {
        match is_sound {
            true => Found::Sound,
            false => Found::Damaged,
        }
    }
}

/// Opens the library of a folder. `None`: it has none.
pub fn open(path: &Path) -> Result<Option<OpenLibrary>, Error> {
    let folder = Folder::open(path)?;
    let of_index = folder.path_of(OsStr::new(library::MANIFEST));
    let manifest = match CheckedFile::open(&of_index) {
        Err(Error::Disk(cause)) if cause.is_missing() => return Ok(None),
        other => other?,
    };
    let header = manifest.statement.header();
    let index = folder.path_of(OsStr::new(library::NAME));
    let refuse = |cause| Error::Index {
        place: index.display().to_string(),
        cause,
    };
    let read = Earlier::read_proven(&folder, header.root)?;
    let index = read
        .ok_or(())
        .map_err(|()| refuse(library::RefusedIndex::NotProven))?;
    let index = index.map_err(refuse)?.index;
    Ok(Some(OpenLibrary {
        path: path.to_owned(),
        has_manifests: folder.below(Path::new(library::MANIFESTS))?.is_some(),
        folder,
        manifest,
        index,
    }))
}

impl OpenLibrary {
    /// The sum of the lengths of all listed files.
    pub fn bytes_total(&self) -> u64 {
        self.index.entries().iter().map(|entry| entry.length).sum()
    }

    /// Reads every listed file. `tell` is called from several threads; a file that is not as listed is an event, not an error.
    pub fn verify(
        &self,
        how: &LibraryCheck,
        tell: &(dyn Fn(Event) + Sync),
    ) -> Result<Checked, Error> {
        let entries = self.index.entries();
        let damaged = Mutex::new(Vec::new());
        let (misled, without) = (AtomicU64::new(0), AtomicU64::new(0));
        let check = |entry: &Entry| -> Result<(), Error> {
            let found = match entry.is_small() {
                true => Found::of(self.small(entry, tell)?),
                false => self.large(entry, how, tell)?,
            };
            match found {
                Found::Sound => (),
                Found::Misled => _ = misled.fetch_add(1, Ordering::Relaxed),
                Found::WithoutManifest => _ = without.fetch_add(1, Ordering::Relaxed),
                Found::Damaged => damaged.lock().push(self.path_of(entry)),
            }
            Ok(())
        };
        let is_small = |entry: &&Entry| entry.is_small();
        let small: Vec<&Entry> = entries.iter().filter(is_small).collect();
        // What cannot be read keeps nothing else from being checked.
        let mut failed = regions::for_each_item(&small, |_, entry| check(entry)).err();
        for entry in entries.iter().filter(|entry| !is_small(entry)) {
            failed = failed.or(check(entry).err());
        }
        let damaged = damaged.into_inner();
        for path in damaged.iter().filter(|_| how.quarantines) {
            match quarantine(path) {
                Ok(kept) => tell(Event::Warning {
                    message: format!("{} is kept as {}", path.display(), kept.display()),
                }),
                Err(cause) if cause.is_missing() => (),
                Err(cause) => return Err(cause.into()),
            }
        }
        if let Some(cause) = failed {
            return Err(cause);
        }
        let checked = Checked {
            files: entries.len() as u64,
            damaged: damaged.len() as u64,
            without_manifest: without.into_inner(),
            misled: misled.into_inner(),
        };
        if checked.is_sound() {
            tell(Event::Verified {
                path: self.path.clone(),
                root: self.manifest.statement.header().root,
                bytes_total: self.bytes_total(),
                trust: how.trust,
            });
        }
        Ok(checked)
    }

    fn path_of(&self, entry: &Entry) -> PathBuf {
        self.folder.path_of(OsStr::new(entry.path.as_str()))
    }

    fn open(&self, entry: &Entry) -> Result<Option<std::fs::File>, DiskError> {
        let path = Path::new(entry.path.as_str());
        regions::check_not_stopped(path)?;
        Ok(self.folder.open_file_below(path)?.map(|(file, _)| file))
    }

    /// Compares a file that is one block; returns whether it is as listed.
    fn small(&self, entry: &Entry, tell: &(dyn Fn(Event) + Sync)) -> Result<bool, Error> {
        let path = self.path_of(entry);
        let damaged = |block, bytes, expected: Option<Root>, found: Option<Cv>| {
            tell(Event::Damaged(Damaged {
                path: path.clone(),
                block,
                bytes,
                expected: expected.map(|root| root.0),
                found,
            }));
        };
        let (block, whole) = (Some(BlockIndex(0)), ByteRange::new(0, entry.length));
        let Some(file) = self.open(entry)? else {
            damaged(block, whole, Some(entry.root), None);
            return Ok(false);
        };
        let length = disk::Entry::of(&file, &path)?.length;
        let mut bytes = Vec::new();
        file.take(entry.length)
            .read_to_end(&mut bytes)
            .map_err(|cause| DiskError::io(FileOperation::Read, &path, cause))?;
        regions::note_read(bytes.len() as u64);
        let found = *blake3::hash(&bytes).as_bytes();
        let is_sound = found == entry.root.0;
        if !is_sound {
            let is_whole = bytes.len() as u64 == entry.length;
            damaged(block, whole, Some(entry.root), is_whole.then_some(found));
        }
        if length > entry.length {
            damaged(None, ByteRange::new(entry.length, length), None, None);
        }
        Ok(is_sound && length == entry.length)
    }

    /// Compares a file with its manifest, block by block.
    fn large(
        &self,
        entry: &Entry,
        how: &LibraryCheck,
        tell: &(dyn Fn(Event) + Sync),
    ) -> Result<Found, Error> {
        let path = self.path_of(entry);
        if self.open(entry)?.is_none() {
            tell(Event::Damaged(Damaged {
                path,
                block: Some(BlockIndex(0)),
                bytes: ByteRange::new(0, entry.length),
                expected: Some(entry.root.0),
                found: None,
            }));
            return Ok(Found::Damaged);
        }
        let manifests = self.folder.path_of(OsStr::new(library::MANIFESTS));
        let place = manifests.join(library::manifest_name(entry.root));
        let manifest = ManifestFile::open(&place);
        let fits = |manifest: &ManifestFile| {
            let tree = &manifest.manifest.tree;
            (tree.root(), tree.geometry().length()) == (entry.root, entry.length)
        };
        let manifest = manifest.ok().filter(fits);
        let has_manifest = manifest.is_some();
        // A copy of a library has no manifests.
        let needs_manifest = self.has_manifests;
        if needs_manifest && !has_manifest {
            let message = format!(
                "{} is missing, or not the manifest of {}: nobody can fetch the file from this library",
                place.display(),
                path.display()
            );
            tell(Event::Warning { message });
        }
        let mut tell_more = |event: Event| {
            if matches!(event, Event::Damaged(_) | Event::Warning { .. }) {
                tell(event);
            }
        };
        let verdict = match manifest {
            Some(manifest) => {
                let manifest = Box::new(manifest);
                let against = Against::Manifest {
                    manifest,
                    trust: how.trust,
                    hints: how.hints,
                };
                match verify::verify(&path, &against, &mut tell_more) {
                    // The manifest was read, and the file is as it says: hints or pack are not.
                    Err(wrong @ (Error::Manifest { .. } | Error::Pack { .. })) => {
                        let message = wrong.to_string();
                        tell(Event::Warning { message });
                        return Ok(Found::Misled);
                    }
                    verdict => verdict?,
                }
            }
            None => without_manifest(&path, entry, &how.store, &mut tell_more)?,
        };
        Ok(match verdict == verify::Verdict::Verified {
            true if needs_manifest && !has_manifest => Found::WithoutManifest,
            is_sound => Found::of(is_sound),
        })
    }
}

/// Compares a file with its root, and if it is damaged, with its leaves, if the store has them.
fn without_manifest(
    path: &Path,
    entry: &Entry,
    store: &StoreHandle,
    events: &mut dyn Events,
) -> Result<verify::Verdict, Error> {
    let mut damage = Vec::new();
    let against = Against::Root(entry.root);
    let mut keep = |event: Event| damage.push(event);
    let verdict = verify::verify(path, &against, &mut keep)?;
    if verdict == verify::Verdict::Verified {
        return Ok(verdict);
    }
    let look = |store: &mut Store| Ok(store.state().any_tree_of(entry.root, entry.length)?);
    if let Some(tree) = store.with_blocking(look).flatten() {
        return verify::against_tree(path, &tree, events);
    }
    for event in damage {
        events.event(event);
    }
    Ok(verdict)
}
