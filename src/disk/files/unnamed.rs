//! Files that have no name before they are complete: a kill leaves nothing of them.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    os::fd::AsRawFd,
    path::Path,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use rustix::{
    fs::{self, AtFlags, Mode, OFlags},
    io::Errno,
};

use super::{
    super::{
        error::{DiskError, FileOperation},
        lacking::is_unsupported,
    },
    Folder,
};

/// The open files of this process. The only way to name a file that has no name, without a privilege.
const OPEN_FILES: &str = "/proc/self/fd";

impl Folder {
    /// Creates a file without a name, with the user's default permission bits. `None`: this file system, or this system, has no
    /// such files.
    pub fn create_unnamed(&self) -> Result<Option<File>, DiskError> {
        static CAN_BE_NAMED: OnceLock<bool> = OnceLock::new();
        if !*CAN_BE_NAMED.get_or_init(|| Path::new(OPEN_FILES).is_dir()) {
            return Ok(None);
        }
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        match fs::openat(&self.fd, ".", flags, Mode::from_raw_mode(0o666)) {
            Ok(fd) => Ok(Some(fd.into())),
            // The others are those of systems that do not know the flag.
            Err(cause)
                if is_unsupported(cause) || [Errno::ISDIR, Errno::NOENT].contains(&cause) =>
            {
                Ok(None)
            }
            Err(cause) => Err(DiskError::io(FileOperation::Create, &self.path, cause)),
        }
    }

    /// Gives an open file without a name this one. `false`: the name exists.
    pub fn link_open(&self, file: &File, name: &OsStr) -> Result<bool, DiskError> {
        // Without a privilege only since Linux 6.10: before, it fails with ENOENT. To look the file up takes longer.
        let linked = match fs::linkat(file, "", &self.fd, name, AtFlags::EMPTY_PATH) {
            Err(cause) if cause != Errno::EXIST => {
                let open = format!("{OPEN_FILES}/{}", file.as_raw_fd());
                fs::linkat(fs::CWD, open, &self.fd, name, AtFlags::SYMLINK_FOLLOW)
            }
            linked => linked,
        };
        match linked {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(cause) => Err(self.error(FileOperation::Create, name, cause)),
        }
    }

    /// Gives an open file without a name this one, in place of the file that has it.
    pub fn replace_by_open(&self, file: &File, name: &OsStr) -> Result<(), DiskError> {
        let unused = self.link_unused(file)?;
        let renamed = self.rename_open(file, &unused, name, true);
        if renamed.is_err() {
            let _ = self.remove(&unused);
        }
        renamed
    }

    fn link_unused(&self, file: &File) -> Result<OsString, DiskError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            // Only leftovers of an earlier process of this number can have the name.
            let name = OsString::from(format!(".sapwood-{}-u{number}", std::process::id()));
            if self.link_open(file, &name)? {
                return Ok(name);
            }
        }
    }
}
