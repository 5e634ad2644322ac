//! Fetching one file of a library into the staging folder: one that is not large in memory, another one as a part that a later run
//! goes on with.

use std::{
    ffi::OsStr,
    io::Read,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use tokio::sync::mpsc::UnboundedSender;

use crate::{
    disk::{
        error::DiskError,
        files::Folder,
        replica::{Attributes, Replica, Staged},
    },
    engine::{
        blocking,
        context::{Context, StoreHandle},
        error::Error,
        events::{Event, Events},
        fetch::{self, FetchOptions, ManifestPlace},
        small::{self, Expected},
    },
    format::{
        geometry::{ByteRange, PIECE},
        library::{self, Entry, LibraryPath, SMALL_BYTES_MAX},
        pieces,
    },
    net::location::Location,
};

use super::{
    counts::{Counts, Running},
    index::{OpenIndex, is_trouble},
    results::of_staged,
};

/// A range of a small file is requested only if it saves this much: a response with a range has more fields.
const SAVED_MIN: u64 = 256;

/// A file of up to so many bytes of which nothing is here is fetched whole into memory too: with a part it would take three more
/// requests, which cost more than a part could save.
const WHOLE_BYTES_MAX: u64 = 2 * SMALL_BYTES_MAX;

/// Whether a file is fetched into memory: there is never a part of it. `is_update`: another version of it is here.
pub fn is_whole(entry: &Entry, is_update: bool) -> bool {
    entry.is_small() || (entry.length <= WHOLE_BYTES_MAX && !is_update)
}

/// A file to fetch.
#[derive(Clone, Debug)]
pub struct Job {
    /// The entry in the index.
    pub entry: usize,
    /// Entries of the same small object.
    pub also: Vec<usize>,
    /// There is a regular file of this length under its name.
    pub replaces: Option<u64>,
}

/// A file that was fetched.
pub struct Fetched {
    /// With its entry: one, or several of a small object.
    pub staged: Vec<(usize, Staged)>,
    pub bytes: Counts,
}

/// What all fetches share.
pub struct Fetches {
    pub context: Context,
    pub url: Location,
    pub replica: Arc<Replica>,
    pub index: Arc<OpenIndex>,
    pub max_size: Option<u64>,
    /// Events of troubles.
    pub troubles: UnboundedSender<Event>,
    pub running: Running,
}

impl Fetches {
    fn entry(&self, index: usize) -> &Entry {
        &self.index.entries()[index]
    }

    /// Fetches a file, and stages it.
    pub async fn fetch(&self, job: &Job) -> Result<Fetched, Error> {
        let entry = self.entry(job.entry);
        if self.max_size.is_some_and(|most| entry.length > most) {
            return Err(Error::TooLarge {
                place: self.url.below(entry.path.as_str()).to_string(),
                bytes: entry.length,
            });
        }
        let arrived = Arc::new(AtomicU64::new(0));
        let context = self.context.counting(arrived.clone());
        let fetched = match is_whole(entry, job.replaces.is_some()) {
            true => self.whole(&context, job).await,
            false => Box::pin(self.in_parts(&context, job)).await,
        };
        let count = arrived.load(Ordering::Relaxed);
        self.running.ended(job.entry, count);
        let mut fetched = fetched.map_err(|error| of_staged(&self.replica, &entry.path, error))?;
        fetched.bytes.fetched = count;
        Ok(fetched)
    }

    async fn whole(&self, context: &Context, job: &Job) -> Result<Fetched, Error> {
        let entry = self.entry(job.entry);
        let (bytes, reused) = match self.updated(context, job).await {
            Some(updated) => updated,
            None if entry.length == 0 => (Bytes::new(), 0),
            None => {
                let expected = Expected {
                    root: entry.root,
                    length: entry.length,
                };
                let url = self.url.below(entry.path.as_str());
                (small::get(context, &url, Some(expected)).await?.bytes, 0)
            }
        };
        let targets = [job.entry].into_iter().chain(job.also.iter().copied());
        let targets = targets.map(|target| (target, attributes(self.entry(target))));
        let (replica, targets): (_, Vec<_>) = (self.replica.clone(), targets.collect());
        let stage = move || -> Result<_, DiskError> {
            let stage = |(target, of)| Ok((target, replica.stage_bytes(&bytes, of)?));
            targets.into_iter().map(stage).collect()
        };
        let (group, _) = blocking::Group::new();
        let staged = group.start(context.threads, stage).finish().await?;
        Ok(Fetched {
            staged,
            bytes: Counts {
                reused,
                ..Counts::default()
            },
        })
    }

    /// A small file from its earlier version, and the range of it that differs; with the number of bytes that were not fetched. `None`:
    /// too little would be saved, or the earlier version is not what its pieces say.
    async fn updated(&self, context: &Context, job: &Job) -> Option<(Bytes, u64)> {
        job.replaces.filter(|length| *length <= SMALL_BYTES_MAX)?;
        let entry = self.entry(job.entry).clone();
        let (replica, path) = (self.replica.clone(), entry.path.clone());
        let old = blocking::run(move || read_small(replica.folder(), &path)).await?;
        let wanted = differing(&old, &self.index.pieces(job.entry), entry.length);
        if wanted.length() + SAVED_MIN >= entry.length {
            return None;
        }
        let mut bytes = old;
        bytes.resize(entry.length as usize, 0);
        if wanted.length() > 0 {
            let url = self.url.below(entry.path.as_str());
            let ranges = [wanted];
            let given = small::get_ranges(context, &url, &ranges, entry.length, None).await;
            for (range, new) in given.ok()? {
                bytes[range.start as usize..range.end as usize].copy_from_slice(&new);
            }
        }
        let is_right = *blake3::hash(&bytes).as_bytes() == entry.root.0;
        is_right.then(|| (bytes.into(), entry.length - wanted.length()))
    }

    async fn in_parts(&self, context: &Context, job: &Job) -> Result<Fetched, Error> {
        let entry = self.entry(job.entry);
        let name = entry.root.to_string();
        let replica = self.replica.clone();
        let staging = blocking::on_disk(move || replica.staging()).await?;
        let manifest = format!(
            "{}/{}",
            library::MANIFESTS,
            library::manifest_name(entry.root)
        );
        let old = self
            .replica
            .folder()
            .path_of(OsStr::new(entry.path.as_str()));
        let target = staging.path_of(OsStr::new(&name));
        let options = FetchOptions {
            folder: Some(staging),
            manifest: Some(ManifestPlace::Url(self.url.below(&manifest))),
            root: Some(entry.root),
            seeds: job.replaces.map(|_| old).into_iter().collect(),
            ..FetchOptions::new(self.url.below(entry.path.as_str()), target)
        };
        let context = Context {
            store: StoreHandle::default(),
            ..context.clone()
        };
        let mut events = OfFile {
            fetches: self,
            job: job.entry,
        };
        let published = fetch::fetch(&context, options, &mut events).await?;
        let (replica, of) = (self.replica.clone(), attributes(entry));
        let staged = blocking::on_disk(move || replica.stage_named(OsStr::new(&name), of)).await?;
        Ok(Fetched {
            staged: vec![(job.entry, staged)],
            bytes: Counts {
                fetched: 0,
                reused: published.bytes_reused,
                resumed: published.bytes_resumed,
            },
        })
    }
}

/// The time and the mode that a file gets.
pub fn attributes(entry: &Entry) -> Attributes {
    Attributes {
        modified_ns: entry.modified_ns,
        is_executable: entry.is_executable,
    }
}

/// All of a small file. `None`: there is none.
fn read_small(folder: &Folder, path: &LibraryPath) -> Option<Vec<u8>> {
    let (file, entry) = folder.open_file_below(Path::new(path.as_str())).ok()??;
    let mut bytes = Vec::with_capacity(entry.length.min(SMALL_BYTES_MAX) as usize);
    file.take(SMALL_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The range of a new version outside of which all pieces are those of the old one.
fn differing(old: &[u8], new_pieces: &[u8], length: u64) -> ByteRange {
    let piece = PIECE as usize;
    let differs = |(index, check): (usize, &[u8])| {
        let start = index * piece;
        let end = (start + piece).min(length as usize);
        let is_same = old
            .get(start..end)
            .is_some_and(|bytes| pieces::piece_of(bytes).to_le_bytes() == check);
        !is_same
    };
    let checks = || new_pieces.chunks(2).enumerate();
    let first = checks().position(differs);
    let last = checks().rev().find(|check| differs(*check));
    match (first, last) {
        (Some(first), Some((last, _))) => {
            let end = ((last as u64 + 1) * PIECE).min(length);
            ByteRange::new(first as u64 * PIECE, end)
        }
        _ => ByteRange::new(0, 0),
    }
}

/// The events of one file.
struct OfFile<'a> {
    fetches: &'a Fetches,
    job: usize,
}

impl Events for OfFile<'_> {
    fn event(&mut self, event: Event) {
        match event {
            Event::Progress(progress) => {
                let bytes = (progress.bytes_done, progress.bytes_fetched);
                self.fetches.running.progressed(self.job, bytes);
            }
            // The receiver outlives the fetches.
            event if is_trouble(&event) => drop(self.fetches.troubles.send(event)),
            _ => (),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::paint;

    #[test]
    fn only_what_differs_of_a_small_file_is_requested() {
        let old = paint::bytes(0, 5000);
        let range = |new: &[u8]| {
            let mut checks = Vec::new();
            pieces::append_pieces(new, &mut checks);
            let range = differing(&old, &checks, new.len() as u64);
            (range.start, range.end)
        };
        assert_eq!(range(&old), (0, 0));
        let mut new = old.clone();
        new[2000] ^= 1;
        assert_eq!(range(&new), (1024, 2048));
        new[3500] ^= 1;
        assert_eq!(range(&new), (1024, 4096));
        assert_eq!(range(&old[..4500]), (0, 0));
        assert_eq!(range(&old[..4096]), (0, 0));
        let longer = paint::bytes(0, 6000);
        assert_eq!(range(&longer), (4096, 6000));
    }
}
