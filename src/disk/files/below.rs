//! Opening what is below a folder that is open: no path is resolved from the root of the file system, and where this module says so,
//! no link is followed.

use std::{
    ffi::OsStr,
    fs::File,
    os::fd::{AsFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{self, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use super::{
    super::{
        entry::{Entry, EntryKind, NotCached, Version},
        error::{DiskError, FileOperation},
    },
    Folder, READING,
};

/// Nothing outside of the folder, and no link on the way.
const UNLINKED: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// How often a path is resolved again that something was moved away from meanwhile.
const RESOLVED_AGAIN_MAX: u32 = 16;

impl Folder {
    /// Opens a file or folder below this folder for reading; links may lead to places inside the folder, not out of it. `None`: there
    /// is nothing that may be opened. FIFOs and devices do not block.
    pub fn open_beneath(&self, path: &Path) -> Result<Option<(File, Version)>, DiskError> {
        let beneath = ResolveFlags::BENEATH;
        match fs::openat2(&self.fd, path, READING, Mode::empty(), beneath) {
            Ok(fd) => {
                let file = File::from(fd);
                let version = Version::of(&file, path)?;
                Ok(Some((file, version)))
            }
            Err(
                cause @ (Errno::NOSPC | Errno::NOMEM | Errno::MFILE | Errno::NFILE | Errno::IO),
            ) => Err(self.error(FileOperation::Open, path.as_os_str(), cause)),
            Err(_) => Ok(None),
        }
    }

    /// The same without waiting for a disk.
    pub fn open_beneath_if_cached(
        &self,
        path: &Path,
    ) -> Result<Option<(File, Version)>, NotCached> {
        let cached = ResolveFlags::BENEATH | ResolveFlags::CACHED;
        let file: File = match fs::openat2(&self.fd, path, READING, Mode::empty(), cached) {
            Ok(fd) => fd.into(),
            Err(Errno::NOENT) => return Ok(None),
            Err(_) => return Err(NotCached),
        };
        let version = Version::of(&file, path).map_err(|_| NotCached)?;
        Ok(Some((file, version)))
    }

    /// A folder below this one; of an empty path, this one. `None`: there is none, or a link on the way.
    pub fn below(&self, path: &Path) -> Result<Option<Folder>, DiskError> {
        let path = match path.as_os_str().is_empty() {
            true => Path::new("."),
            false => path,
        };
        let fd = self.open_unlinked(path, true)?;
        Ok(fd.map(|fd| Folder::of(fd, self.path_of_below(path))))
    }

    /// A folder below this one; what is missing is made, with these permission bits less the umask.
    pub fn make_below(&self, path: &Path, mode: u32) -> Result<Folder, DiskError> {
        if let Some(folder) = self.below(path)? {
            return Ok(folder);
        }
        let mut folder = self.again()?;
        for name in path {
            folder.make_folder(name, mode)?;
            folder = folder.folder_of_name(name)?;
        }
        Ok(folder)
    }

    /// The folder of this name.
    pub fn folder_of_name(&self, name: &OsStr) -> Result<Folder, DiskError> {
        if let Some(folder) = self.below(Path::new(name))? {
            return Ok(folder);
        }
        let path = self.path_of(name);
        let what = match self.entry(name)?.map(|entry| entry.kind) {
            None => return Err(DiskError::Gone { path }),
            Some(EntryKind::Link) => "a symbolic link, where a folder is needed",
            Some(_) => "not a folder, where one is needed",
        };
        Err(DiskError::Unsafe { path, what })
    }

    /// This folder, opened once more.
    pub fn again(&self) -> Result<Folder, DiskError> {
        let again = self.below(Path::new(""))?;
        again.ok_or_else(|| DiskError::Gone {
            path: self.path.clone(),
        })
    }

    /// Opens a regular file below this folder for reading. `None`: there is none, or a link on the way.
    pub fn open_file_below(&self, path: &Path) -> Result<Option<(File, Entry)>, DiskError> {
        let Some(fd) = self.open_unlinked(path, false)? else {
            return Ok(None);
        };
        let file = File::from(fd);
        let entry = Entry::of(&file, &self.path_of(path.as_os_str()))?;
        Ok((entry.kind == EntryKind::Regular).then_some((file, entry)))
    }

    /// The path of a folder below this one, for messages.
    fn path_of_below(&self, path: &Path) -> PathBuf {
        match path == Path::new(".") {
            true => self.path.clone(),
            false => self.path_of(path.as_os_str()),
        }
    }

    /// Opens an entry below this folder for reading. `None`: there is none, or a link on the way.
    fn open_unlinked(&self, path: &Path, is_folder: bool) -> Result<Option<OwnedFd>, DiskError> {
        let mut flags = READING;
        flags.set(OFlags::DIRECTORY, is_folder);
        let open = || fs::openat2(&self.fd, path, flags, Mode::empty(), UNLINKED);
        // What is moved out of the folder while the path is resolved is refused: the path may lead to something else now.
        let moved_away =
            |opened: &Result<_, Errno>| matches!(opened, Err(Errno::XDEV | Errno::AGAIN));
        let mut opened = open();
        for _ in 0..RESOLVED_AGAIN_MAX {
            if !moved_away(&opened) {
                break;
            }
            opened = open();
        }
        let opened = match opened {
            // The kernel, or a sandbox, does not have this call.
            Err(Errno::NOSYS | Errno::PERM) => open_by_segments(&self.fd, path, flags),
            opened => opened,
        };
        match opened {
            Ok(fd) => Ok(Some(fd)),
            // The last one is of a socket.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG | Errno::NXIO) => {
                Ok(None)
            }
            Err(cause) => Err(self.error(FileOperation::Open, path.as_os_str(), cause)),
        }
    }
}

/// Opens an entry below a folder, each folder on the way by itself. A path that could lead out of the folder names nothing.
fn open_by_segments(folder: impl AsFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let on_the_way = READING | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let mut open = fs::openat(folder, ".", on_the_way, Mode::empty())?;
    let mut segments = path.components().peekable();
    while let Some(segment) = segments.next() {
        let flags = match segments.peek() {
            Some(_) => on_the_way,
            None => flags | OFlags::NOFOLLOW,
        };
        open = match segment {
            Component::CurDir => continue,
            Component::Normal(name) => fs::openat(&open, name, flags, Mode::empty())?,
            _ => return Err(Errno::NOENT),
        };
    }
    Ok(open)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn without_openat2_no_link_is_followed_either() {
        let base = tempfile::tempdir().unwrap();
        let path = |name: &str| base.path().join(name);
        std::fs::create_dir_all(path("in/a/b")).unwrap();
        std::fs::write(path("in/a/b/file"), b"here").unwrap();
        std::fs::write(path("outside"), b"outside").unwrap();
        symlink("b", path("in/a/link")).unwrap();
        symlink("../../../outside", path("in/a/b/leaf")).unwrap();
        symlink(path("outside"), path("in/absolute")).unwrap();
        let folder = Folder::open(&path("in")).unwrap();
        let by_segments = |path: &str, flags| open_by_segments(&folder.fd, Path::new(path), flags);
        for allowed in ["a/b/file", "./a/b/file", "a/b", ".", ""] {
            assert!(by_segments(allowed, READING).is_ok(), "{allowed}");
            assert!(folder.open_unlinked(Path::new(allowed), false).is_ok());
        }
        for refused in [
            "a/link",
            "a/link/file",
            "a/b/leaf",
            "absolute",
            "..",
            "../outside",
            "a/../../outside",
            "/etc/passwd",
            "a/b/file/",
            "a/b/file/x",
            "missing",
        ] {
            let opened = by_segments(refused, READING);
            // What the two ways must agree on is that nothing is opened; a slash at the end names a folder to the one of the kernel.
            if refused != "a/b/file/" {
                assert!(opened.is_err(), "{refused}");
            }
            assert!(
                !matches!(folder.open_unlinked(Path::new(refused), false), Ok(Some(_))),
                "{refused}"
            );
        }
        let folders = READING | OFlags::DIRECTORY;
        assert!(by_segments("a/b", folders).is_ok());
        for no_folder in ["a/link", "a/b/file"] {
            assert!(by_segments(no_folder, folders).is_err(), "{no_folder}");
        }
    }
}
