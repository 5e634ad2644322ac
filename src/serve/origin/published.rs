//! The larger objects of libraries, by root. A copy that `sapwood sync` keeps has the index of its publisher, and no manifests of objects:
//! the index says of which files they are to be made.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::Mutex;

use crate::{
    disk::{
        error::{DiskError, FileOperation},
        files::{EntryKind, Folder, Version},
    },
    engine::{blocking, library::INDEX_BYTES_MAX},
    format::{
        library::{self, Entry, Index, IndexHeader, LibraryPath},
        tree::Root,
    },
};

/// Indices whose large objects are kept in memory.
const KEPT_MAX: usize = 4;

/// The objects of an index that are not small, by root.
#[derive(Default)]
pub struct LargeObjects(Vec<(Root, LibraryPath)>);

impl LargeObjects {
    /// Of these entries.
    pub fn of<'a>(entries: impl Iterator<Item = &'a Entry>) -> LargeObjects {
        let large = entries.filter(|entry| !entry.is_small());
        let mut large: Vec<_> = large
            .map(|entry| (entry.root, entry.path.clone()))
            .collect();
        large.sort_unstable_by_key(|(root, _)| root.0);
        LargeObjects(large)
    }

    /// The files of this root.
    pub fn paths_of(&self, root: Root) -> impl Iterator<Item = &LibraryPath> {
        let first = self.0.partition_point(|(other, _)| other.0 < root.0);
        let rest = self.0[first..].iter();
        rest.take_while(move |(other, _)| *other == root)
            .map(|(_, path)| path)
    }
}

/// The libraries that were published in the served folder or below it; those that were requested last.
#[derive(Default)]
pub struct Published(Mutex<Vec<Kept>>);

struct Kept {
    /// The index.
    path: PathBuf,
    version: Version,
    objects: Arc<LargeObjects>,
}

impl Published {
    /// The large objects of the library that was published in a folder below the served one. There are none in an index that cannot
    /// be read.
    pub async fn large_objects(
        &self,
        served: &Arc<Folder>,
        folder: &Path,
    ) -> Result<Arc<LargeObjects>, DiskError> {
        let path = folder.join(library::NAME);
        // An index is read once, however many requests need it.
        let mut kept = self.0.lock().await;
        let opened = {
            let (served, path) = (served.clone(), path.clone());
            blocking::on_disk(move || served.open_beneath(&path)).await?
        };
        let is_file = |(_, version): &(File, Version)| version.kind() == EntryKind::Regular;
        let Some((file, version)) = opened.filter(is_file) else {
            return Ok(Arc::default());
        };
        let known = kept.iter().position(|one| one.path == path);
        let known = known.map(|at| kept.remove(at));
        let objects = match known.filter(|known| known.version == version) {
            Some(known) => known.objects,
            None => {
                let path = path.clone();
                Arc::new(blocking::on_disk(move || read(&file, &version, &path)).await?)
            }
        };
        kept.truncate(KEPT_MAX - 1);
        let one = Kept {
            path,
            version,
            objects: objects.clone(),
        };
        kept.insert(0, one);
        Ok(objects)
    }
}

/// Reads an index. It proves nothing here: what is made of a file has the root that was requested, or is not sent.
fn read(file: &File, version: &Version, path: &Path) -> Result<LargeObjects, DiskError> {
    let length = version.stamp().length;
    if length > INDEX_BYTES_MAX {
        return Ok(LargeObjects::default());
    }
    let mut bytes = Vec::with_capacity(length as usize);
    file.take(length)
        .read_to_end(&mut bytes)
        .map_err(|cause| DiskError::io(FileOperation::Read, path, cause))?;
    let index = IndexHeader::read(&bytes, bytes.len() as u64).and_then(|header| {
        let entries = header.entries();
        Index::read(
            &header,
            &bytes[entries.start as usize..entries.end as usize],
        )
    });
    Ok(index.map_or_else(
        |_| LargeObjects::default(),
        |index| LargeObjects::of(index.entries().iter()),
    ))
}
