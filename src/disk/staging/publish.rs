//! Giving a proven upload its name, in steps that may be done again after a kill at any of them:
//!
//! 1. `object` gets its length and permission bits and is synced; `manifest` is written and synced.
//! 2. `publishing` names the content: from here on no other one can be published for this upload.
//! 3. The manifest beside the name is moved to `replaced`. `object` is renamed to its name, and the folder is synced.
//! 4. `manifest` is renamed to its name, if the name still is that of the object, and the folder is synced.
//! 5. `publishing` is renamed to `published`.
//!
//! `object` is missing exactly after step 3: what has the name then may be removed or replaced by anybody, and is not touched again.

use std::{ffi::OsStr, fs::File, io::Read, path::Path};

use crate::format::{
    layout::FRONT_BYTES,
    library::LibraryPath,
    statement::{self, MAGIC},
    tree::Root,
};

use super::{
    super::{
        error::{DiskError, FileOperation},
        files::{self, Entry, EntryKind, Folder, with_suffix},
        machine::default_mode,
    },
    OBJECT, Upload,
};

const MANIFEST: &str = "manifest";
const PUBLISHING: &str = "publishing";
const PUBLISHED: &str = "published";
/// The manifest of the object that is replaced, until that is gone.
const REPLACED: &str = "replaced";
/// A root, two numbers, and the signs between.
const INTENT_BYTES_MAX: u64 = 100;

/// The content that is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intent {
    /// The object.
    pub root: Root,
    /// In bytes.
    pub length: u64,
    /// Of the file: tells it from another one that has the name later.
    pub inode: u64,
}

impl Intent {
    /// To publish this file.
    pub fn new(object: &File, root: Root, length: u64) -> Result<Intent, DiskError> {
        let inode = Entry::of(object, Path::new(OBJECT))?.inode;
        Ok(Intent {
            root,
            length,
            inode,
        })
    }

    fn to_text(self) -> String {
        format!("{} {} {}\n", self.root, self.length, self.inode)
    }

    fn read(bytes: &[u8]) -> Option<Intent> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut words = text.strip_suffix('\n')?.split(' ');
        let intent = Intent {
            root: words.next()?.parse().ok()?,
            length: words.next()?.parse().ok()?,
            inode: words.next()?.parse().ok()?,
        };
        words.next().is_none().then_some(intent)
    }
}

/// Where an object is published.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The served folder.
    pub root: &'a Folder,
    /// Below it.
    pub path: &'a LibraryPath,
    /// Whether it may take the place of another file.
    pub replace: bool,
}

impl Place<'_> {
    fn split(&self) -> (&Path, &OsStr) {
        let (folder, name) = match self.path.as_str().rsplit_once('/') {
            Some((folder, name)) => (folder, name),
            None => ("", self.path.as_str()),
        };
        (Path::new(folder), OsStr::new(name))
    }

    /// Whether the name is free, or may be taken.
    pub fn is_free(&self) -> Result<bool, DiskError> {
        let (folder, name) = self.split();
        let Some(folder) = self.root.below(folder)? else {
            return self.can_be_made(folder);
        };
        let is_free = match folder.entry(name)? {
            None => true,
            Some(entry) => self.replace && entry.kind == EntryKind::Regular,
        };
        Ok(is_free && has_no_other_file(&folder, &with_suffix(name, ".sapwood"))?)
    }

    /// The file with this name, if it is what an upload published there: the manifest beside it has this root and length, and nothing
    /// changed the file, or gave it the name, after the manifest got its own.
    pub fn published(&self, root: Root, length: u64) -> Result<Option<File>, DiskError> {
        let (folder, name) = self.split();
        let Some(folder) = self.root.below(folder)? else {
            return Ok(None);
        };
        let beside = with_suffix(name, ".sapwood");
        let object = folder.open_file_below(Path::new(name))?;
        let manifest = folder.open_file_below(Path::new(&beside))?;
        let (Some((file, entry)), Some((_, manifest))) = (object, manifest) else {
            return Ok(None);
        };
        let is_older = entry.attributes_changed <= manifest.attributes_changed;
        let is_same = is_older && entry.length == length && is_manifest_of(&folder, &beside, root)?;
        Ok(is_same.then_some(file))
    }

    /// Whether each folder on the way is one, or missing.
    fn can_be_made(&self, path: &Path) -> Result<bool, DiskError> {
        let mut folder = self.root.again()?;
        for name in path {
            match folder.entry(name)?.map(|entry| entry.kind) {
                None => return Ok(true),
                Some(EntryKind::Folder) => folder = folder.folder_of_name(name)?,
                Some(_) => return Ok(false),
            }
        }
        Ok(true)
    }

    /// The folder of the object; what is missing is made, durably.
    fn folder(&self) -> Result<Folder, DiskError> {
        let (path, _) = self.split();
        if let Some(folder) = self.root.below(path)? {
            return Ok(folder);
        }
        let folder = self.root.make_below(path, 0o777)?;
        let mut above = self.root.again()?;
        for name in path {
            above.sync()?;
            above = above.folder_of_name(name)?;
        }
        Ok(folder)
    }
}

/// Whether no file but a manifest has this name.
fn has_no_other_file(folder: &Folder, name: &OsStr) -> Result<bool, DiskError> {
    match folder.entry(name)? {
        None => Ok(true),
        Some(entry) if entry.kind != EntryKind::Regular => Ok(false),
        Some(_) => {
            let front = front(folder, name)?;
            Ok(front.is_empty() || front.starts_with(&MAGIC))
        }
    }
}

/// Whether a manifest of an object with this root has this name.
fn is_manifest_of(folder: &Folder, name: &OsStr, root: Root) -> Result<bool, DiskError> {
    let front = front(folder, name)?;
    let read = statement::read_front(&front);
    Ok(read.is_ok_and(|(statement, _)| statement.header().root == root))
}

/// The first bytes of a file; none if there is no such file.
fn front(folder: &Folder, name: &OsStr) -> Result<Vec<u8>, DiskError> {
    let Some((file, _)) = folder.open_file_below(Path::new(name))? else {
        return Ok(Vec::new());
    };
    let mut front = Vec::new();
    let read = file.take(FRONT_BYTES as u64).read_to_end(&mut front);
    read.map_err(|cause| {
        let path = folder.path_of(name);
        DiskError::io(FileOperation::Read, &path, cause)
    })?;
    Ok(front)
}

impl Upload {
    /// What was published.
    pub fn published(&self) -> Result<Option<Intent>, DiskError> {
        self.intent(PUBLISHED)
    }

    /// What is published already, but for the last steps.
    pub fn half_published(&self) -> Result<Option<Intent>, DiskError> {
        match self.folder.entry(OsStr::new(OBJECT))? {
            Some(_) => Ok(None),
            None => self.intent(PUBLISHING),
        }
    }

    fn intent(&self, name: &str) -> Result<Option<Intent>, DiskError> {
        let bytes = self.read(name, INTENT_BYTES_MAX)?;
        Ok(bytes.and_then(|bytes| Intent::read(&bytes)))
    }

    /// The object, cut to its length.
    pub fn object(&self, length: u64) -> Result<File, DiskError> {
        let (file, path, _) = self.file(super::Content::Kept, 0, 0)?;
        files::set_length(&file, &path, length)?;
        Ok(file)
    }

    /// Writes the manifest.
    pub fn write_manifest<E: From<DiskError>>(
        &self,
        write: impl FnOnce(&File, &Path) -> Result<(), E>,
    ) -> Result<(), E> {
        let name = OsStr::new(MANIFEST);
        // What a run that was killed left.
        self.folder.remove(name)?;
        let file = self.folder.open_own_or_create(name)?;
        let path = self.folder.path_of(name);
        write(&file, &path)?;
        files::set_mode(&file, &path, default_mode())?;
        Ok(files::sync_all(&file, &path)?)
    }

    /// Gives object and manifest their names. [`DiskError::Exists`]: the name is taken, and nothing was published.
    pub fn publish(&self, object: File, intent: Intent, place: &Place) -> Result<(), DiskError> {
        let shown = self.folder.path_of(OsStr::new(OBJECT));
        files::set_mode(&object, &shown, default_mode())?;
        files::sync_all(&object, &shown)?;
        // Whoever watches the folder is not to see a file that somebody could write to.
        drop(object);
        let folder = place.folder()?;
        let (_, name) = place.split();
        let exists = || DiskError::Exists {
            path: folder.path_of(name),
        };
        if !place.is_free()? {
            return Err(exists());
        }
        self.write(PUBLISHING, intent.to_text().as_bytes())?;
        let (beside, replaced) = (with_suffix(name, ".sapwood"), OsStr::new(REPLACED));
        if folder.entry(&beside)?.is_some() {
            // Of an object that goes or is gone.
            folder.rename_to(&beside, &self.folder, replaced, true)?;
        }
        let own = OsStr::new(OBJECT);
        let renamed = self.folder.rename_to(own, &folder, name, place.replace);
        if let Err(cause) = renamed {
            self.restore_in(&folder, name)?;
            self.folder.remove(OsStr::new(PUBLISHING))?;
            self.folder.sync()?;
            return Err(cause);
        }
        folder.sync()?;
        self.folder.sync()?;
        self.finish(&folder, name, intent)
    }

    /// Puts a manifest back that was moved away for an object which has not got the name: a kill ended that attempt.
    pub fn restore(&self, place: &Place) -> Result<(), DiskError> {
        let (path, name) = place.split();
        match self.folder.entry(OsStr::new(REPLACED))? {
            None => Ok(()),
            Some(_) => match place.root.below(path)? {
                None => Ok(()),
                Some(folder) => self.restore_in(&folder, name),
            },
        }
    }

    fn restore_in(&self, folder: &Folder, name: &OsStr) -> Result<(), DiskError> {
        let (beside, replaced) = (with_suffix(name, ".sapwood"), OsStr::new(REPLACED));
        if self.folder.entry(replaced)?.is_some() && folder.entry(&beside)?.is_none() {
            self.folder.rename_to(replaced, folder, &beside, false)?;
            folder.sync()?;
        }
        Ok(())
    }

    /// Does the last steps of an upload whose object has its name.
    pub fn finish_publication(&self, intent: Intent, place: &Place) -> Result<(), DiskError> {
        let folder = place.folder()?;
        self.finish(&folder, place.split().1, intent)
    }

    fn finish(&self, folder: &Folder, name: &OsStr, intent: Intent) -> Result<(), DiskError> {
        let (own, beside) = (OsStr::new(MANIFEST), with_suffix(name, ".sapwood"));
        let now = folder.entry(name)?;
        // Else another object has the name now, and its manifest comes from elsewhere.
        let is_ours =
            now.is_some_and(|now| (now.inode, now.length) == (intent.inode, intent.length));
        if is_ours
            && self.folder.entry(own)?.is_some()
            && has_no_other_file(folder, &beside)?
            && !is_manifest_of(folder, &beside, intent.root)?
        {
            self.folder.rename_to(own, folder, &beside, true)?;
        }
        folder.sync()?;
        let (publishing, published) = (OsStr::new(PUBLISHING), OsStr::new(PUBLISHED));
        self.folder.rename(publishing, published, true)?;
        self.folder.sync()
    }
}
