//! The library of the served folder (manifest-spec/library.md): an index that is made in the background, from the manifests that are
//! made anyway, and made anew when files changed. Nothing of it lies in the folder, and a library that was published there comes first:
//! of that, only the manifests of objects are made that it lacks.

use std::{ffi::OsStr, fs::File, io, path::Path, sync::Arc, time::Duration};

use axum::{http::request::Parts, response::Response};
use parking_lot::RwLock;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout_at},
};

use crate::{
    disk::{
        error::{DiskError, FileOperation},
        files::{EntryKind, Folder, Version},
    },
    engine::{
        blocking,
        error::Error,
        library::{
            listing::{self, Listed},
            spooled::{EntryAndPieces, SpooledIndex},
        },
    },
    format::{library, manifest, statement::Statement, tree::Root},
};

use super::{
    Origin,
    cache::Kind,
    endpoint::WAIT,
    files::ServedFile,
    manifests::{self, Manifests},
    not_ready,
    path::is_served,
    published::{LargeObjects, Published},
};

/// Changes are collected for this long.
const QUIET_TIME: Duration = Duration::from_millis(200);
/// While manifests are being made all the time, an index is made without them after this time: the files that are not described in
/// their present version are in it as they were before, or not at all.
const OVERDUE_TIME: Duration = Duration::from_secs(10);
/// The shortest time between two indices, and that time as a multiple of what one takes: many changes in a row cost at most a fifth of
/// one core.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_TIMES: u32 = 4;
/// An index that could not be made is tried again after this time.
const FAILED_TIME: Duration = Duration::from_secs(10);

/// A file of the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Index,
    /// Of the index.
    Manifest,
    /// The manifest of an object of this root.
    Object(Root),
}

impl Part {
    /// Which one a path names, and the folder of the library; `None`: none.
    pub fn of(path: &Path) -> Option<(&Path, Part)> {
        let (folder, name) = (path.parent()?, path.file_name()?.to_str()?);
        match name {
            library::NAME => Some((folder, Part::Index)),
            library::MANIFEST => Some((folder, Part::Manifest)),
            other => {
                let root: Root = other.strip_suffix(".sapwood")?.parse().ok()?;
                let is_name =
                    folder.ends_with(library::MANIFESTS) && library::manifest_name(root) == name;
                is_name.then_some((folder.parent()?, Part::Object(root)))
            }
        }
    }
}

/// The library of a folder.
pub struct Library {
    folder: Arc<Folder>,
    manifests: Arc<Manifests>,
    current: RwLock<Option<Arc<Current>>>,
    /// There is another index.
    made: Notify,
    /// What lies in the folder.
    published: Published,
}

/// An index with what belongs to it.
struct Current {
    files: SpooledIndex,
    /// The entity tag of the manifest.
    manifest_tag: String,
    large: LargeObjects,
}

impl Current {
    fn of(files: SpooledIndex, large: LargeObjects) -> Current {
        let statement = manifests::front(&files.manifest);
        let tag = statement.map_or_else(String::new, |statement| manifests::checksum(&statement));
        Current {
            files,
            manifest_tag: tag,
            large,
        }
    }
}

impl Library {
    /// Of a folder and the manifests that are made of its files.
    pub fn new(folder: Arc<Folder>, manifests: Arc<Manifests>) -> Library {
        Library {
            folder,
            manifests,
            current: RwLock::default(),
            made: Notify::new(),
            published: Published::default(),
        }
    }

    /// Keeps the index up to date until it is dropped.
    pub async fn keep(self: Arc<Self>) {
        let mut has_failed = false;
        loop {
            self.manifests.change().await;
            self.settle().await;
            let began = Instant::now();
            let made = self.make_complete().await;
            if let Err(cause) = &made {
                if !has_failed {
                    let message = format!("no index of the folder could be made: {cause}");
                    (self.manifests.warn)(message);
                }
                sleep(FAILED_TIME).await;
                self.manifests.note_folder_changed();
            }
            has_failed = made.is_err();
            sleep(PAUSE.max(began.elapsed() * PAUSE_TIMES)).await;
        }
    }

    /// Waits until all files are described, but not for ever.
    async fn settle(&self) {
        let began = Instant::now();
        loop {
            sleep(QUIET_TIME).await;
            let is_overdue = self.current().is_some() && began.elapsed() > OVERDUE_TIME;
            if self.manifests.are_complete() || is_overdue {
                return;
            }
        }
    }

    /// Makes the index. The first one has all files, but those that cannot be described.
    async fn make_complete(self: &Arc<Self>) -> Result<(), Error> {
        if self.current().is_none() {
            if self.make(true).await? {
                return Ok(());
            }
            self.settle().await;
        }
        self.make(false).await?;
        Ok(())
    }

    async fn make(self: &Arc<Self>, whole_only: bool) -> Result<bool, Error> {
        let library = self.clone();
        blocking::run(move || library.make_now(whole_only)).await
    }

    /// `false`: files are left out, because they are not described yet. With `whole_only` the index is not made then.
    fn make_now(&self, whole_only: bool) -> Result<bool, Error> {
        if is_published_in(&self.folder)? {
            *self.current.write() = None;
            return Ok(true);
        }
        let earlier = self.current();
        let known = earlier.as_ref().map(|earlier| earlier.files.entries());
        let mut known = known.transpose()?.unwrap_or_default();
        let is_readable = |path: &Path| match self.folder.below(path) {
            Err(cause) => !cause.is_forbidden(),
            Ok(_) => true,
        };
        let is_own = |path: &Path| path.iter().all(is_served);
        let enters = |path: &Path| is_own(path) && is_readable(path);
        let (files, _) = listing::list(&self.folder, enters, is_own)?;
        let entries = files.iter().filter_map(|file| {
            let before = known.remove(&file.path);
            self.entry_of(file, before)
        });
        let entries: Vec<EntryAndPieces> = entries.collect();
        let is_complete = entries.len() == files.len();
        if whole_only && !is_complete {
            return Ok(false);
        }
        let large = LargeObjects::of(entries.iter().map(|(entry, _)| entry));
        let root = earlier.map(|earlier| earlier.files.root);
        let made = SpooledIndex::make(self.manifests.folder_of_cache(), entries, root)?;
        if let Some(files) = made {
            *self.current.write() = Some(Arc::new(Current::of(files, large)));
            self.made.notify_waiters();
        }
        Ok(is_complete)
    }

    /// The entry of a file. Until its present version is described, that is the one which it had before.
    fn entry_of(&self, file: &Listed, before: Option<EntryAndPieces>) -> Option<EntryAndPieces> {
        let (path, version) = (Path::new(file.path.as_str()), file.entry.version());
        let described = self.manifests.root_of(path, &version).and_then(|root| {
            let entry = file.entry_of(root);
            let pieces = match &before {
                _ if !entry.is_small() => Vec::new(),
                Some((before, pieces)) if before.root == root => pieces.clone(),
                _ => self.manifests.pieces_of(path, &version)?,
            };
            Some((entry, pieces))
        });
        if described.is_none() {
            self.manifests.note_changed(path);
        }
        described.or(before)
    }

    fn current(&self) -> Option<Arc<Current>> {
        self.current.read().clone()
    }

    /// The index, as soon as there is one; `None`: not in time.
    async fn wait(&self, until: Instant) -> Option<Arc<Current>> {
        loop {
            let made = self.made.notified();
            if let Some(current) = self.current() {
                return Some(current);
            }
            timeout_at(until, made).await.ok()?;
        }
    }
}

async fn read_front(file: File) -> (File, Option<Statement>) {
    let read = move || {
        let statement = manifests::front(&file);
        (file, statement)
    };
    blocking::run(read).await
}

/// Whether a library was published in the folder itself: its last file is there.
fn is_published_in(folder: &Folder) -> Result<bool, DiskError> {
    let entry = folder.entry(OsStr::new(library::MANIFEST))?;
    Ok(entry.is_some_and(|entry| entry.kind == EntryKind::Regular))
}

impl Origin {
    /// The response for a file of a library; `None`: it is not made here, and one may lie in the folder.
    pub(super) async fn library_file(
        &self,
        request: &Parts,
        path: &Path,
    ) -> Result<Option<Response>, DiskError> {
        let (Some(library), Some((folder, part))) = (&self.library, Part::of(path)) else {
            return Ok(None);
        };
        let until = Instant::now() + WAIT;
        if self.has_file(&folder.join(library::MANIFEST)).await? {
            return match part {
                Part::Object(root) if !self.has_file(path).await? => {
                    let large = library
                        .published
                        .large_objects(self.folders.first(), folder)
                        .await?;
                    self.object(request, folder, (&large, root), until).await
                }
                _ => Ok(None),
            };
        }
        // There is one index, of the whole folder.
        if folder != Path::new("") {
            return Ok(None);
        }
        let Some(current) = library.wait(until).await else {
            return Ok(Some(not_ready()));
        };
        let (file, etag) = match part {
            Part::Index => (&current.files.index, current.files.root.to_string()),
            Part::Manifest => (&current.files.manifest, current.manifest_tag.clone()),
            Part::Object(root) => {
                return self
                    .object(request, folder, (&current.large, root), until)
                    .await;
            }
        };
        let failed = |cause: io::Error| DiskError::io(FileOperation::Open, path, cause);
        let file = file.try_clone().map_err(failed)?;
        let version = Version::of(&file, path)?;
        let file = ServedFile::of_library(file, version, format!("\"{etag}\""));
        Ok(Some(file.respond(request)))
    }

    async fn has_file(&self, path: &Path) -> Result<bool, DiskError> {
        let opened = self.open_beneath(path).await?;
        Ok(opened.is_some_and(|(_, version)| version.kind() == EntryKind::Regular))
    }

    /// The manifest of an object of a library, made of a file that has this root now. `None`: there is no such file.
    async fn object(
        &self,
        request: &Parts,
        folder: &Path,
        (large, root): (&LargeObjects, Root),
        until: Instant,
    ) -> Result<Option<Response>, DiskError> {
        for path in large.paths_of(root) {
            let path = folder.join(path.as_str());
            if let Some(response) = self.manifest_of(request, &path, root, until).await? {
                return Ok(Some(response));
            }
        }
        Ok(None)
    }

    /// The manifest of a file of this root, as a library has it. `None`: the file has another root by now.
    async fn manifest_of(
        &self,
        request: &Parts,
        path: &Path,
        root: Root,
        until: Instant,
    ) -> Result<Option<Response>, DiskError> {
        let Some(manifests) = &self.manifests else {
            return Ok(None);
        };
        loop {
            let is_file = |(_, version): &(File, Version)| version.kind() == EntryKind::Regular;
            let Some((_, version)) = self.open_settled(path).await?.filter(is_file) else {
                return Ok(None);
            };
            let ended = manifests.next_end();
            let known = manifests.known(path, &version);
            if known.as_ref().is_some_and(|known| known.root != root) {
                return Ok(None);
            }
            if let Some(known) = known
                && let Some((file, made)) = manifests.open(Kind::Manifest, known.version).await
                && let (file, Some(statement)) = read_front(file).await
            {
                let statement = statement.without_particulars();
                let etag = format!("\"{}\"", manifests::checksum(&statement));
                let file = ServedFile::of_library(file, made, etag)
                    .with_front(manifest::front(&statement, None).to_vec());
                return Ok(Some(file.respond(request)));
            }
            manifests.request(path);
            if timeout_at(until, ended).await.is_err() {
                return Ok(Some(not_ready()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_library() {
        let root = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        let object = Part::Object(root.parse().unwrap());
        for (path, part) in [
            ("library.sapwood".to_owned(), Some(("", Part::Index))),
            (
                "library.sapwood.sapwood".to_owned(),
                Some(("", Part::Manifest)),
            ),
            (
                format!("library.sapwood.d/{root}.sapwood"),
                Some(("", object)),
            ),
            (
                format!("a/b/library.sapwood.d/{root}.sapwood"),
                Some(("a/b", object)),
            ),
            ("a/library.sapwood".to_owned(), Some(("a", Part::Index))),
            (
                format!("library.sapwood.d/{}.sapwood", root.to_uppercase()),
                None,
            ),
            (format!("library.sapwood.d/{root}"), None),
            (format!("library.sapwood.d/x/{root}.sapwood"), None),
            (format!("{root}.sapwood"), None),
            ("library.sapwood.d".to_owned(), None),
            ("Library.sapwood".to_owned(), None),
        ] {
            let part = part.map(|(folder, part)| (Path::new(folder), part));
            assert_eq!(Part::of(Path::new(&path)), part, "{path}");
        }
    }
}
