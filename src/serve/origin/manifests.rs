//! Manifests of served files, made in the background: those that were requested first, the newest request first, then all others.

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
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
        files::{EntryKind, Folder, Version},
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
    segments,
};

/// Files in memory; others are found in the cache again. One takes about 300 bytes.
const KNOWN_MAX: usize = 100_000;
/// Requested files that wait. A request that finds no place is repeated by its client.
const URGENT_MAX: usize = 1024;
/// Other files that wait. The scan of the folder waits while there are more.
pub const BACKGROUND_MAX: usize = 1024;
/// Workers for requested files, beside the one for all. Each hashes on all cores.
const URGENT_WORKERS: usize = 2;
/// A file whose manifest could not be made, or that changed while it was read, is left alone for this long, and twice as long each time.
const AGAIN: Duration = Duration::from_millis(500);
const AGAIN_MAX: Duration = Duration::from_secs(300);
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

/// Something to make of a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Job {
    kind: Kind,
    path: PathBuf,
}

/// What became of a job.
enum Outcome {
    Done,
    /// The file changed, or could not be read.
    Again,
}

#[derive(Default)]
struct Queue {
    urgent: Vec<Job>,
    background: VecDeque<Job>,
    /// Whether each of them is urgent; one that became urgent is in both lists.
    waiting: HashMap<Job, bool>,
    /// `true`: changed meanwhile.
    running: HashMap<Job, bool>,
    /// When it is due, and how long it was left alone.
    later: HashMap<Job, (Instant, Duration)>,
}

/// The manifests of a folder.
pub struct Manifests {
    folder: Arc<Folder>,
    cache: Cache,
    /// Takes what the operator should know.
    pub warn: Warn,
    known: RwLock<HashMap<PathBuf, Arc<Described>>>,
    queue: Mutex<Queue>,
    made: AtomicU64,
    /// A job was added.
    added: Notify,
    /// A job ended.
    ended: Notify,
}

impl Manifests {
    /// Of the files below this folder.
    pub fn new(folder: Arc<Folder>, cache: Cache, warn: Warn) -> Manifests {
        Manifests {
            folder,
            cache,
            warn,
            known: RwLock::default(),
            queue: Mutex::default(),
            made: AtomicU64::new(0),
            added: Notify::new(),
            ended: Notify::new(),
        }
    }

    /// How many manifests were made since the start.
    pub fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// How many files wait for something to be made of them, or have it made now.
    pub fn pending(&self) -> u64 {
        let queue = self.queue.lock();
        (queue.waiting.len() + queue.running.len() + queue.later.len()) as u64
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

    /// Whether as many files wait as may.
    pub fn is_full(&self) -> bool {
        self.queue.lock().background.len() >= BACKGROUND_MAX
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
            let (folder, path) = (self.folder.clone(), path.to_owned());
            let opened = blocking::run(move || folder.open_beneath(&path)).await;
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
            let found = (!doubted).then(|| manifests.in_cache(&version, &name));
            let described = match found.flatten() {
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

    /// What an earlier run, or this one, made of a file in this version under this name.
    fn in_cache(&self, version: &Version, name: &str) -> Option<Described> {
        let (file, made) = self.cache.open(Kind::Manifest, version)?;
        let mut front = [0; FRONT_BYTES];
        file.read_exact_at(&mut front, 0).ok()?;
        let (statement, _) = statement::read_front(&front).ok()?;
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

impl Queue {
    /// `true`: a worker has something to do.
    fn add(&mut self, job: Job, urgent: bool) -> bool {
        if let Some(changed) = self.running.get_mut(&job) {
            *changed |= !urgent;
            return false;
        }
        let is_left_alone = |(due, _): &(Instant, Duration)| *due > Instant::now();
        if self.later.get(&job).is_some_and(is_left_alone) {
            return false;
        }
        match self.waiting.get(&job) {
            Some(was_urgent) if *was_urgent || !urgent => return false,
            _ => (),
        }
        let (length, most) = match urgent {
            true => (self.urgent.len(), URGENT_MAX),
            false => (self.background.len(), 2 * BACKGROUND_MAX),
        };
        if length >= most {
            // The next request, or the next scan, comes back to it.
            return false;
        }
        self.waiting.insert(job.clone(), urgent);
        match urgent {
            true => self.urgent.push(job),
            false => self.background.push_back(job),
        }
        true
    }

    fn next(&mut self, urgent_only: bool) -> Option<Job> {
        let now = Instant::now();
        if !urgent_only {
            let due: Vec<Job> = self
                .later
                .iter()
                .filter(|(_, (due, _))| *due <= now)
                .map(|(job, _)| job.clone())
                .collect();
            for job in due {
                self.add(job, false);
            }
        }
        loop {
            let (job, urgent) = match self.urgent.pop() {
                Some(job) => (job, true),
                None if urgent_only => return None,
                None => (self.background.pop_front()?, false),
            };
            // The same job may have been in the other list, and is done or running.
            if self.waiting.get(&job) == Some(&urgent) {
                self.waiting.remove(&job);
                self.running.insert(job.clone(), false);
                return Some(job);
            }
        }
    }

    /// Returns the job if its file changed meanwhile.
    fn finish(&mut self, job: Job, outcome: &Outcome) -> Option<Job> {
        let changed = self.running.remove(&job).unwrap_or_default();
        match outcome {
            Outcome::Done => {
                self.later.remove(&job);
                return changed.then_some(job);
            }
            Outcome::Again if self.later.len() < KNOWN_MAX => {
                let before = self.later.get(&job).map(|(_, before)| *before * 2);
                let wait = before.unwrap_or(AGAIN).min(AGAIN_MAX);
                self.later.insert(job, (Instant::now() + wait, wait));
            }
            Outcome::Again => (),
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(path: &str) -> Job {
        Job {
            kind: Kind::Manifest,
            path: path.into(),
        }
    }

    #[test]
    fn the_newest_request_is_first_and_each_job_is_done_once() {
        let mut queue = Queue::default();
        for background in ["a", "b", "c"] {
            assert!(queue.add(job(background), false));
        }
        for urgent in ["x", "c", "y"] {
            assert!(queue.add(job(urgent), true));
            assert!(!queue.add(job(urgent), true));
        }
        let order = ["y", "c", "x", "a", "b"];
        for path in order {
            assert_eq!(queue.next(false), Some(job(path)));
            assert!(!queue.add(job(path), true));
        }
        assert_eq!(queue.next(false), None);
        assert_eq!(queue.waiting.len(), 0);
    }

    #[test]
    fn a_worker_for_requests_leaves_the_rest() {
        let mut queue = Queue::default();
        queue.add(job("a"), false);
        assert_eq!(queue.next(true), None);
        queue.add(job("x"), true);
        assert_eq!(queue.next(true), Some(job("x")));
    }

    #[test]
    fn a_file_that_changed_while_it_was_read_comes_again_later() {
        let mut queue = Queue::default();
        queue.add(job("a"), true);
        let running = queue.next(false).unwrap();
        queue.finish(running, &Outcome::Again);
        assert!(!queue.add(job("a"), true));
        assert_eq!(queue.next(false), None);
        queue.later.get_mut(&job("a")).unwrap().0 = Instant::now();
        let running = queue.next(false).unwrap();
        // A change that is reported now is not lost.
        queue.add(job("a"), false);
        assert_eq!(queue.finish(running, &Outcome::Done), Some(job("a")));
        assert!(queue.later.is_empty());
    }

    #[test]
    fn queues_are_bounded() {
        let mut queue = Queue::default();
        for index in 0..10 * BACKGROUND_MAX {
            queue.add(job(&index.to_string()), index % 2 == 0);
        }
        assert!(queue.waiting.len() <= URGENT_MAX + 2 * BACKGROUND_MAX);
    }
}
