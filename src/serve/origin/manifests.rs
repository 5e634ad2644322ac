//! Manifests of served files, made in the background: those that were requested first, the newest request first, then all others.

use std::{
    collections::HashMap,
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use tokio::{
    sync::{Notify, futures::Notified},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    disk::{
        error::DiskError,
        files::{self, EntryKind, Version},
    },
    engine::{
        blocking,
        create::{self, CreateOptions, Input, Output},
        error::Error,
    },
    format::{
        digests::Algorithm,
        geometry::BlockSize,
        layout::FRONT_BYTES,
        statement::{self, Statement},
        tree::Root,
    },
};

use super::{
    Warn,
    cache::{Cache, Kind},
    folders::Folders,
    queue::{Job, Outcome, Queue},
    segments,
};

/// Files in memory; others are found in the cache again. One takes about 300 bytes.
const KNOWN_MAX: usize = 100_000;
/// Workers for requested files, beside the one for all. Each hashes on all cores.
const URGENT_WORKERS: usize = 2;
/// How often files that were left alone are looked at.
const CHECK_TIME: Duration = Duration::from_secs(1);

/// A file in one version, of which a manifest was made.
#[derive(Clone, Debug)]
pub struct Described {
    /// Which one.
    pub version: Version,
    /// The name of its content.
    pub root: Root,
    /// Of its content.
    pub sha256: Option<Vec<u8>>,
    /// Of the manifest.
    pub block_size: BlockSize,
    /// A program wrote to the file after, or while, it was hashed. One write can take longer than its time stamp shows, so the file is
    /// hashed again.
    doubted: bool,
    /// The entity tag of the manifest. The checksum of its statement covers all of its bytes.
    pub manifest_tag: String,
}

/// The manifests of a folder.
pub struct Manifests {
    folders: Folders,
    cache: Cache,
    /// Takes what the operator should know.
    pub warn: Warn,
    known: RwLock<HashMap<PathBuf, Arc<Described>>>,
    /// Uploads that were proven and published with this root, and not looked at since.
    published: Mutex<HashMap<PathBuf, Root>>,
    queue: Mutex<Queue>,
    made: AtomicU64,
    /// A job was added.
    added: Notify,
    /// A job ended.
    ended: Notify,
    /// A file, or what is known of it, changed.
    changed: Notify,
    /// All files of the folder were seen.
    is_scanned: AtomicBool,
}

impl Manifests {
    /// Of the files below these folders.
    pub fn new(folders: Folders, cache: Cache, warn: Warn) -> Manifests {
        Manifests {
            folders,
            cache,
            warn,
            known: RwLock::default(),
            published: Mutex::default(),
            queue: Mutex::default(),
            made: AtomicU64::new(0),
            added: Notify::new(),
            ended: Notify::new(),
            changed: Notify::new(),
            is_scanned: AtomicBool::new(false),
        }
    }

    /// How many manifests were made since the start.
    pub fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// How many files wait for something to be made of them, or have it made now.
    pub fn pending(&self) -> u64 {
        self.queue.lock().jobs() as u64
    }

    /// Starts the workers.
    pub fn start(self: &Arc<Self>, workers: &mut JoinSet<()>) {
        for worker in 0..=URGENT_WORKERS {
            workers.spawn(self.clone().work(worker > 0));
        }
    }

    /// What was made of this file, if it still is in this version.
    pub fn known(&self, path: &Path, version: &Version) -> Option<Arc<Described>> {
        let known = self.known.read();
        let described = known.get(path)?;
        described
            .version
            .has_bytes_of(version)
            .then(|| described.clone())
    }

    /// What was made of a file, open.
    pub async fn open(self: &Arc<Self>, kind: Kind, version: Version) -> Option<(File, Version)> {
        let manifests = self.clone();
        blocking::run(move || manifests.cache.open(kind, &version)).await
    }

    /// Makes the manifest of this file soon.
    pub fn request(&self, path: &Path) {
        self.add(Kind::Manifest, path, true);
    }

    /// Makes the digests of its segments soon.
    pub fn request_segments(&self, path: &Path) {
        self.add(Kind::Segments, path, true);
    }

    /// Makes the manifest of a file that may have changed, when nothing else is to do.
    pub fn note_changed(&self, path: &Path) {
        self.add(Kind::Manifest, path, false);
    }

    /// Notes a file that was proven and published with its manifest. It is not hashed again if nobody wrote to it since.
    pub fn note_published(&self, path: &Path, root: Root) {
        let mut published = self.published.lock();
        if published.len() < KNOWN_MAX {
            published.insert(path.to_owned(), root);
        }
        drop(published);
        self.note_changed(path);
    }

    /// Notes that a program has written to a file.
    pub fn note_written(&self, path: &Path) {
        self.doubt(path);
        self.note_changed(path);
    }

    fn doubt(&self, path: &Path) {
        if let Some(described) = self.known.write().get_mut(path) {
            Arc::make_mut(described).doubted = true;
        }
    }

    /// Notes that a file in this version was seen.
    pub fn note_seen(&self, path: &Path, version: &Version) {
        if self.known(path, version).is_none() {
            self.note_changed(path);
        }
    }

    /// Notes that all files of the folder were seen.
    pub fn note_scanned(&self) {
        self.is_scanned.store(true, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// Notes that there may be other files.
    pub fn note_folder_changed(&self) {
        self.changed.notify_one();
    }

    /// Waits until a file, or what is known of it, changed since the last call.
    pub async fn change(&self) {
        self.changed.notified().await;
    }

    /// Whether all files were seen, and no manifest is to be made but of files that change all the time.
    pub fn are_complete(&self) -> bool {
        self.is_scanned.load(Ordering::Relaxed) && !self.queue.lock().makes_manifests()
    }

    /// Where files without names may lie.
    pub fn folder_of_cache(&self) -> &Path {
        self.cache.folder()
    }

    /// The root of a file in this version, if a manifest was made of it and nothing casts doubt on it. Blocks.
    pub fn root_of(&self, path: &Path, version: &Version) -> Option<Root> {
        match self.known(path, version) {
            Some(known) => (!known.doubted).then_some(known.root),
            // Not all files are in memory.
            None => Some(self.in_cache(version, &name_of(path))?.root),
        }
    }

    /// The pieces of a file in this version, from its manifest. Blocks.
    pub fn pieces_of(&self, path: &Path, version: &Version) -> Option<Vec<u8>> {
        let known = self.known(path, version);
        let version = known.map_or(*version, |known| known.version);
        let (file, _) = self.cache.open(Kind::Manifest, &version)?;
        let place = front(&file)?.header().layout().pieces();
        let mut pieces = vec![0; place.length() as usize];
        file.read_exact_at(&mut pieces, place.start).ok()?;
        Some(pieces)
    }

    /// Whether as many files wait as may.
    pub fn is_full(&self) -> bool {
        self.queue.lock().is_full()
    }

    /// The end of the next job after this call.
    pub fn next_end(&self) -> Notified<'_> {
        self.ended.notified()
    }

    fn add(&self, kind: Kind, path: &Path, urgent: bool) {
        let path = path.to_owned();
        if self.queue.lock().add(Job { kind, path }, urgent) {
            self.added.notify_waiters();
        }
    }

    async fn work(self: Arc<Self>, urgent_only: bool) {
        loop {
            let added = self.added.notified();
            let job = self.queue.lock().next(urgent_only);
            let Some(job) = job else {
                let _ = timeout(CHECK_TIME, added).await;
                continue;
            };
            let outcome = match job.kind {
                Kind::Manifest => self.describe(&job.path).await,
                Kind::Segments => self.digest_segments(&job.path).await,
            };
            let changed = self.queue.lock().finish(job, &outcome);
            if let Some(changed) = changed {
                self.note_written(&changed.path);
            }
            self.ended.notify_waiters();
        }
    }

    /// Opens a file when its time stamp tells it from the next version. `None`: there is none.
    async fn open_settled(&self, path: &Path) -> Option<(File, Version)> {
        loop {
            let (folders, path) = (self.folders.clone(), path.to_owned());
            let opened = blocking::run(move || folders.open_beneath(&path)).await;
            let (file, version) = opened.ok()??;
            if version.kind() != EntryKind::Regular {
                return None;
            }
            match version.unsettled() {
                Duration::ZERO => return Some((file, version)),
                unsettled => sleep(unsettled).await,
            }
        }
    }

    async fn describe(self: &Arc<Self>, path: &Path) -> Outcome {
        let Some((file, version)) = self.open_settled(path).await else {
            self.forget(path);
            return Outcome::Done;
        };
        let published = self.published.lock().remove(path);
        let known = self.known(path, &version);
        let doubted = known.as_ref().is_some_and(|known| known.doubted);
        if let Some(known) = known.filter(|known| !known.doubted)
            && self.open(Kind::Manifest, known.version).await.is_some()
        {
            return Outcome::Done;
        }
        let (manifests, path) = (self.clone(), path.to_owned());
        blocking::run(move || {
            let name = name_of(&path);
            let found = || {
                let adopted = || manifests.adopted(&path, &version, &name, published?);
                manifests.in_cache(&version, &name).or_else(adopted)
            };
            let described = match (!doubted).then(found).flatten() {
                Some(described) => described,
                None => match manifests.make(file, &path, version, &name) {
                    Ok(Some(described)) => described,
                    Ok(None) => return Outcome::Again,
                    Err(cause) => {
                        let path = path.display();
                        (manifests.warn)(format!("no manifest of {path} could be made: {cause}"));
                        return Outcome::Again;
                    }
                },
            };
            manifests.remember(&path, described);
            Outcome::Done
        })
        .await
    }

    /// Makes a manifest; `None`: the file changed meanwhile.
    fn make(
        &self,
        file: File,
        path: &Path,
        version: Version,
        name: &str,
    ) -> Result<Option<Described>, Error> {
        let still = file.try_clone();
        let options = CreateOptions {
            digests: vec![Algorithm::Sha256],
            name: Some(name.to_owned()),
            ..CreateOptions::default()
        };
        let output = Output::File(self.cache.path_of(Kind::Manifest, &version));
        match create::create(Input::Open(file, path.to_owned()), output, &options, None) {
            Err(Error::Disk(DiskError::ChangedWhileRead { .. } | DiskError::Stopped { .. })) => {
                return Ok(None);
            }
            made => made?,
        };
        let now = still.ok().and_then(|file| Version::of(&file, path).ok());
        if now != Some(version) {
            self.cache.remove(&version);
            return Ok(None);
        }
        self.cache.note_made(Kind::Manifest, &version);
        self.made.fetch_add(1, Ordering::Relaxed);
        Ok(self.in_cache(&version, name))
    }

    /// What the manifest beside a file says that was published with this root.
    fn adopted(&self, path: &Path, version: &Version, name: &str, root: Root) -> Option<Described> {
        let beside = files::with_suffix(path.as_os_str(), ".sapwood");
        let (manifest, made) = self.folders.open_beneath(Path::new(&beside)).ok()??;
        let header_root = front(&manifest)?.header().root;
        // The manifest got its name after the object: whoever wrote to the object since, or put another one in its place, did it later.
        let is_unchanged = version.attributes_changed() <= made.attributes_changed();
        if header_root != root || !is_unchanged {
            return None;
        }
        let length = made.stamp().length;
        let copied = self.cache.copy(&manifest, length, Kind::Manifest, version);
        if let Err(cause) = copied {
            tracing::debug!("the manifest of {} was not kept: {cause}", path.display());
            return None;
        }
        self.cache.note_made(Kind::Manifest, version);
        self.in_cache(version, name)
    }

    /// What an earlier run, or this one, made of a file in this version under this name.
    fn in_cache(&self, version: &Version, name: &str) -> Option<Described> {
        let (file, made) = self.cache.open(Kind::Manifest, version)?;
        let statement = front(&file)?;
        let header = statement.header();
        let is_whole = header.geometry.length() == version.stamp().length
            && header.sections_end() == made.stamp().length
            && header.name == name;
        is_whole.then(|| described(&statement, *version))
    }

    fn remember(&self, path: &Path, described: Described) {
        let mut known = self.known.write();
        if known.len() >= KNOWN_MAX
            && let Some(any) = known.keys().next().cloned()
        {
            known.remove(&any);
        }
        let version = described.version;
        let earlier = known.insert(path.to_owned(), Arc::new(described));
        drop(known);
        self.changed.notify_one();
        if let Some(earlier) = earlier.filter(|earlier| earlier.version != version) {
            self.cache.remove(&earlier.version);
        }
    }

    fn forget(&self, path: &Path) {
        let forgotten = self.known.write().remove(path);
        if let Some(earlier) = forgotten {
            self.cache.remove(&earlier.version);
        }
    }

    async fn digest_segments(self: &Arc<Self>, path: &Path) -> Outcome {
        let Some((file, version)) = self.open_settled(path).await else {
            return Outcome::Done;
        };
        let manifests = self.clone();
        blocking::run(move || {
            if manifests.cache.open(Kind::Segments, &version).is_some() {
                return Outcome::Done;
            }
            let to = manifests.cache.path_of(Kind::Segments, &version);
            match segments::digest(file, &version, &to) {
                Ok(()) => {
                    manifests.cache.note_made(Kind::Segments, &version);
                    Outcome::Done
                }
                Err(cause) => {
                    tracing::debug!("no digests of segments: {cause}");
                    Outcome::Again
                }
            }
        })
        .await
    }
}

/// The statement of a manifest that was made here.
pub fn front(manifest: &File) -> Option<Statement> {
    let mut front = [0; FRONT_BYTES];
    manifest.read_exact_at(&mut front, 0).ok()?;
    let (statement, _) = statement::read_front(&front).ok()?;
    Some(statement)
}

/// The name that a manifest of this file has.
fn name_of(path: &Path) -> String {
    let name = path.file_name().and_then(|name| name.to_str());
    name.map(statement::default_name).unwrap_or_default()
}

fn described(statement: &Statement, version: Version) -> Described {
    let header = statement.header();
    let sha256 = header
        .digests
        .iter()
        .find(|digest| digest.algorithm() == Algorithm::Sha256);
    Described {
        version,
        root: header.root,
        sha256: sha256.map(|digest| digest.value().to_vec()),
        block_size: header.geometry.block_size(),
        doubted: false,
        manifest_tag: format!("\"{}\"", checksum(statement)),
    }
}

/// The checksum at the end of a statement, which changes with every byte of its manifest but the signature.
pub fn checksum(statement: &Statement) -> String {
    let bytes = statement.bytes();
    hex::encode(&bytes[bytes.len() - 32..])
}
