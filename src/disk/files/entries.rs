//! The entries of open folders: renaming, linking, exchanging and removing them within one file system.

use std::{ffi::OsStr, fs::File, path::PathBuf};

use rustix::{
    fs::{self, AtFlags, Mode, RenameFlags},
    io::{Errno, retry_on_intr},
};

use super::{
    super::{
        entry::Entry,
        error::{DiskError, FileOperation},
        lacking::is_unsupported,
        names::with_suffix,
    },
    Folder,
};

/// File systems of other programs (statfs(2)), FUSE and 9P: only a sync of a file is passed on to them.
const SYNCED_ELSEWHERE: [u32; 2] = [0x6573_5546, 0x0102_1997];

impl Folder {
    /// Renames the file that is open. Another file that was put in its place does not get the name.
    pub fn rename_open(
        &self,
        file: &File,
        from: &OsStr,
        to: &OsStr,
        replace: bool,
    ) -> Result<(), DiskError> {
        let other = || DiskError::Unsafe {
            path: self.path_of(from),
            what: "not the file that this program wrote",
        };
        if !self.is_still(from, file)? {
            let (path, now) = (self.path_of(from), self.entry(from)?);
            return Err(now.map_or(DiskError::Gone { path }, |_| other()));
        }
        self.rename(from, to, replace)?;
        // It may have been replaced between the two calls.
        if !self.is_still(to, file)? {
            self.remove(to)?;
            return Err(other());
        }
        Ok(())
    }

    /// Renames a file in this folder. `replace: false` fails with [`DiskError::Exists`] if the new name exists.
    pub fn rename(&self, from: &OsStr, to: &OsStr, replace: bool) -> Result<(), DiskError> {
        self.rename_to(from, self, to, replace)
    }

    /// Renames a file of this folder to a name in another one, in the same way.
    pub fn rename_to(
        &self,
        from: &OsStr,
        folder: &Folder,
        to: &OsStr,
        replace: bool,
    ) -> Result<(), DiskError> {
        let flags = if replace {
            RenameFlags::empty()
        } else {
            RenameFlags::NOREPLACE
        };
        match fs::renameat_with(&self.fd, from, &folder.fd, to, flags) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) if !replace => Err(DiskError::Exists {
                path: folder.path_of(to),
            }),
            // This file system cannot do it in one step: check first.
            Err(Errno::INVAL) if !replace => match folder.entry(to)? {
                Some(_) => Err(DiskError::Exists {
                    path: folder.path_of(to),
                }),
                None => self.rename_to(from, folder, to, true),
            },
            Err(cause) => Err(folder.error_of_name(FileOperation::Rename, to, cause)),
        }
    }

    /// Renames a file of this folder to the first free one of `NAME.quarantined`, `NAME.2.quarantined` ... in another one, and returns
    /// that path; nothing is replaced.
    pub fn set_aside(
        &self,
        file: &OsStr,
        folder: &Folder,
        name: &OsStr,
    ) -> Result<PathBuf, DiskError> {
        let mut number = 1;
        loop {
            let suffix = match number {
                1 => ".quarantined".to_owned(),
                _ => format!(".{number}.quarantined"),
            };
            let quarantined = with_suffix(name, &suffix);
            match self.rename_to(file, folder, &quarantined, false) {
                Err(DiskError::Exists { .. }) => number += 1,
                outcome => {
                    outcome?;
                    folder.sync()?;
                    return Ok(folder.path_of(&quarantined));
                }
            }
        }
    }

    /// Exchanges a file of this folder and an entry of another one, in one step. `false`: this file system cannot do it.
    pub fn exchange(&self, own: &OsStr, folder: &Folder, other: &OsStr) -> Result<bool, DiskError> {
        match fs::renameat_with(&self.fd, own, &folder.fd, other, RenameFlags::EXCHANGE) {
            Ok(()) => Ok(true),
            Err(cause) if is_unsupported(cause) => Ok(false),
            Err(cause) => Err(folder.error_of_name(FileOperation::Rename, other, cause)),
        }
    }

    /// Gives a file of this folder a second name in another one. `false`: this cannot be done to this file or in this file system.
    pub fn link_to(&self, from: &OsStr, folder: &Folder, to: &OsStr) -> Result<bool, DiskError> {
        match fs::linkat(&self.fd, from, &folder.fd, to, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(cause) if is_unsupported(cause) => Ok(false),
            // FAT says the first; so does Linux for the file of somebody else.
            Err(Errno::PERM | Errno::ACCESS | Errno::MLINK | Errno::XDEV) => Ok(false),
            Err(Errno::EXIST) => Err(DiskError::Exists {
                path: folder.path_of(to),
            }),
            Err(Errno::NOENT) => Err(DiskError::Gone {
                path: self.path_of(from),
            }),
            Err(cause) => Err(folder.error_of_name(FileOperation::Create, to, cause)),
        }
    }

    /// Removes a name; succeeds if it does not exist.
    pub fn remove(&self, name: &OsStr) -> Result<(), DiskError> {
        match fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(cause) => Err(self.error(FileOperation::Remove, name, cause)),
        }
    }

    /// Creates a folder; `false`: the name exists.
    pub fn make_folder(&self, name: &OsStr, mode: u32) -> Result<bool, DiskError> {
        match fs::mkdirat(&self.fd, name, Mode::from_raw_mode(mode)) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(cause) => Err(self.error_of_name(FileOperation::Create, name, cause)),
        }
    }

    /// Removes a folder if it is empty; `false`: it is not, or no folder, or in use.
    pub fn remove_folder(&self, name: &OsStr) -> Result<bool, DiskError> {
        match fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR | Errno::BUSY) => {
                Ok(false)
            }
            Err(cause) => Err(self.error(FileOperation::Remove, name, cause)),
        }
    }

    /// Makes renames and removals in this folder durable.
    pub fn sync(&self) -> Result<(), DiskError> {
        match fs::fsync(&self.fd) {
            Ok(()) => Ok(()),
            // Some file systems cannot sync a folder, but files; there is nothing more to do.
            Err(cause) if is_unsupported(cause) => Ok(()),
            Err(cause) => Err(DiskError::io(FileOperation::Sync, &self.path, cause)),
        }
    }

    /// Writes all that is changed in this file system to its disk. `false`: some of it may not have been written.
    pub fn sync_file_system(&self) -> bool {
        let reaches_disk = fs::fstatfs(&self.fd)
            .is_ok_and(|system| !SYNCED_ELSEWHERE.contains(&(system.f_type as u32)));
        reaches_disk && retry_on_intr(|| fs::syncfs(&self.fd)).is_ok()
    }

    /// Whether this folder takes names for one that differ in case only, unlike others of its file system. Where this cannot be asked
    /// it does not.
    pub fn folds_case(&self) -> bool {
        const FS_CASEFOLD_FL: u32 = 0x4000_0000;
        fs::ioctl_getflags(&self.fd).is_ok_and(|flags| flags.bits() & FS_CASEFOLD_FL != 0)
    }

    /// Its own entry.
    pub fn own_entry(&self) -> Result<Entry, DiskError> {
        let stat = fs::fstat(&self.fd);
        stat.map(|stat| Entry::new(&stat))
            .map_err(|cause| DiskError::io(FileOperation::Inspect, &self.path, cause))
    }

    /// Sets its own permission bits, where the file system lets us.
    pub fn set_mode(&self, mode: u32) -> Result<(), DiskError> {
        super::mode_set(fs::fchmod(&self.fd, Mode::from_raw_mode(mode)), &self.path)
    }

    /// Why an entry cannot have this name in this folder.
    pub(super) fn error_of_name(
        &self,
        operation: FileOperation,
        name: &OsStr,
        cause: Errno,
    ) -> DiskError {
        let what = match cause {
            Errno::NAMETOOLONG => "a name that is too long for this file system",
            Errno::INVAL | Errno::ILSEQ => "a name that this file system cannot hold",
            Errno::XDEV => "in another file system than the folder where files are staged",
            _ => return self.error(operation, name, cause),
        };
        let path = self.path_of(name);
        DiskError::Unsafe { path, what }
    }
}
