//! What was made of the served files: manifests and digests of segments, in a folder of the store or a temporary one. Each file is
//! named after the version of the file that it was made of, so no index can disagree with it, and it counts after a restart.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use parking_lot::Mutex;

use crate::disk::{
    error::{DiskError, FileOperation},
    files::{self, EntryKind, Folder, MadeFolder, Version},
};

/// In the store. A manifest has about 0.27 % of the bytes of its file, so this is enough for about 3 TB.
const STORE_BYTES_MAX: u64 = 8 << 30;
/// In a temporary folder, which may lie in memory.
const TEMPORARY_BYTES_MAX: u64 = 256 << 20;
/// A copy is made in steps of this size.
const COPY_BYTES: usize = 256 * 1024;
/// The folder in the store.
const FOLDER: &str = "served";

/// What is made of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `FILE.sapwood`.
    Manifest,
    /// The SHA-256 digests of its segments, one after the other.
    Segments,
}

/// The folder.
#[derive(Debug)]
pub struct Cache {
    path: PathBuf,
    bytes_max: u64,
    /// Since the last eviction.
    bytes_new: AtomicU64,
    evicting: Mutex<()>,
    /// Removed with what is in it.
    temporary: Option<MadeFolder>,
}

impl Cache {
    /// In this store.
    pub fn in_store(store: &Path) -> io::Result<Cache> {
        let path = store.join(FOLDER);
        files::create_private_folder(&path)?;
        let cache = Cache::new(path, STORE_BYTES_MAX, None);
        // It must be writable.
        let folder = Folder::open(&cache.path).map_err(io::Error::other)?;
        let (_, name) = folder.create_unused().map_err(io::Error::other)?;
        folder.remove(&name).map_err(io::Error::other)?;
        cache.evict();
        Ok(cache)
    }

    /// In a folder that is removed with this value.
    pub fn temporary() -> io::Result<Cache> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        for _ in 0..100 {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("sapwood-serve-{}-{number}", std::process::id());
            let path = std::env::temp_dir().join(name);
            let made = MadeFolder::make(&path).map_err(io::Error::other)?;
            if made.is_some() {
                return Ok(Cache::new(path, TEMPORARY_BYTES_MAX, made));
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn new(path: PathBuf, bytes_max: u64, temporary: Option<MadeFolder>) -> Cache {
        Cache {
            path,
            bytes_max,
            bytes_new: AtomicU64::new(0),
            evicting: Mutex::new(()),
            temporary,
        }
    }

    /// The folder itself, for files without names.
    pub fn folder(&self) -> &Path {
        &self.path
    }

    /// Where this is, or will be, of a file in this version.
    pub fn path_of(&self, kind: Kind, version: &Version) -> PathBuf {
        let (stamp, changed) = (version.stamp(), version.attributes_changed());
        let suffix = match kind {
            Kind::Manifest => "sapwood",
            Kind::Segments => "segments",
        };
        self.path.join(format!(
            "{:x}-{:x}-{:x}-{:x}.{:x}-{:x}.{:x}.{suffix}",
            stamp.device,
            stamp.inode,
            stamp.length,
            stamp.changed.0,
            stamp.changed.1,
            changed.0,
            changed.1
        ))
    }

    /// Opens it, if it was made.
    pub fn open(&self, kind: Kind, version: &Version) -> Option<(File, Version)> {
        let path = self.path_of(kind, version);
        let file = files::open_for_reading(&path).ok()?;
        let version = Version::of(&file, &path).ok()?;
        Some((file, version))
    }

    /// Keeps a copy of a file as what was made of this version.
    pub fn copy(
        &self,
        from: &File,
        length: u64,
        kind: Kind,
        version: &Version,
    ) -> Result<(), DiskError> {
        let path = self.path_of(kind, version);
        let folder = Folder::open(&self.path)?;
        let (file, own) = folder.create_unused()?;
        let written = copy_all(from, &file, &path, length).and_then(|()| {
            folder.rename_open(&file, &own, path.file_name().unwrap_or_default(), true)
        });
        if written.is_err() {
            let _ = folder.remove(&own);
        }
        written
    }

    /// Removes what was made of a version that is gone. A failure is harmless.
    pub fn remove(&self, version: &Version) {
        let Ok(folder) = Folder::open(&self.path) else {
            return;
        };
        for kind in [Kind::Manifest, Kind::Segments] {
            let path = self.path_of(kind, version);
            let name = path.file_name().unwrap_or_default();
            let _ = folder.remove(name);
        }
    }

    /// Counts a file that was made, and makes room now and then.
    pub fn note_made(&self, kind: Kind, version: &Version) {
        let length = self
            .open(kind, version)
            .map_or(0, |(_, made)| made.stamp().length);
        let new = self.bytes_new.fetch_add(length, Ordering::Relaxed) + length;
        if new > self.bytes_max / 16 {
            self.bytes_new.store(0, Ordering::Relaxed);
            self.evict();
        }
    }

    /// Removes the oldest files until all have at most 15/16 of the limit: so many are added before the next time.
    fn evict(&self) {
        let _alone = self.evicting.lock();
        let Ok(folder) = Folder::open(&self.path) else {
            return;
        };
        let names = folder.names().unwrap_or_default();
        let mut entries: Vec<_> = names
            .into_iter()
            .filter_map(|name| Some((folder.entry(OsStr::new(&name)).ok()??, name)))
            .filter(|(entry, _)| entry.kind == EntryKind::Regular)
            .map(|(entry, name)| (entry.changed, entry.length, name))
            .collect();
        entries.sort_unstable();
        let mut bytes: u64 = entries.iter().map(|(_, length, _)| length).sum();
        for (_, length, name) in entries {
            if bytes <= self.bytes_max / 16 * 15 {
                break;
            }
            if folder.remove(OsStr::new(&name)).is_ok() {
                bytes -= length;
            }
        }
    }
}

fn copy_all(from: &File, to: &File, path: &Path, length: u64) -> Result<(), DiskError> {
    let mut buffer = vec![0; COPY_BYTES];
    let mut copied = 0;
    while copied < length {
        let most = usize::try_from(length - copied).unwrap_or(COPY_BYTES);
        let step = &mut buffer[..most.min(COPY_BYTES)];
        let read = from.read_exact_at(step, copied);
        read.map_err(|cause| DiskError::io(FileOperation::Read, path, cause))?;
        files::write_at(to, path, step, copied)?;
        copied += step.len() as u64;
    }
    Ok(())
}

impl Drop for Cache {
    fn drop(&mut self) {
        if self.temporary.is_none() {
            return;
        }
        if let Ok(folder) = Folder::open(&self.path) {
            for name in folder.names().unwrap_or_default() {
                let _ = folder.remove(OsStr::new(&name));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_folder_goes_with_what_is_in_it() {
        let cache = Cache::temporary().unwrap();
        let path = cache.path.clone();
        std::fs::write(path.join("x.sapwood"), b"x").unwrap();
        drop(cache);
        assert!(!path.exists());
    }

    #[test]
    fn the_oldest_are_removed_at_the_limit() {
        let mut cache = Cache::temporary().unwrap();
        cache.bytes_max = 1600;
        for name in ["a", "b", "c"] {
            std::fs::write(cache.path.join(name), vec![0; 600]).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(30));
        }
        cache.evict();
        assert!(!cache.path.join("a").exists());
        assert!(cache.path.join("b").exists() && cache.path.join("c").exists());
    }
}
