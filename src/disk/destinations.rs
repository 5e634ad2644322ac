//! Destinations that are opened one after the other, most of them in the same folder.

use std::{path::Path, sync::Arc};

use super::{
    destination::Destination,
    error::DiskError,
    files::{self, Folder},
};

/// Opens destinations. Those in one folder that follow each other share it.
#[derive(Debug, Default)]
pub struct Destinations {
    last: Option<Arc<Folder>>,
}

impl Destinations {
    /// [`Destination::new`].
    pub fn open(&mut self, target: &Path) -> Result<Destination, DiskError> {
        let split = files::split(target);
        let last = self.last.as_ref();
        let destination = match split.zip(last) {
            Some(((folder, name), last)) if last.is_at(&folder) => {
                Destination::in_folder(last.clone(), name)?
            }
            _ => Destination::new(target)?,
        };
        self.last = Some(destination.folder.clone());
        Ok(destination)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each of many small files opened its folder.
    #[test]
    fn files_of_one_folder_share_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("inner")).unwrap();
        let mut destinations = Destinations::default();
        let mut open = |path: &str| destinations.open(&folder.path().join(path)).unwrap();
        let (first, second, inner) = (open("a"), open("b"), open("inner/a"));
        assert!(Arc::ptr_eq(&first.folder, &second.folder));
        assert_eq!(second.path(), folder.path().join("b"));
        assert_eq!(inner.path(), folder.path().join("inner/a"));
        assert!(destinations.open(&folder.path().join("inner")).is_err());
        assert!(destinations.open(&folder.path().join("c/")).is_err());
    }
}
