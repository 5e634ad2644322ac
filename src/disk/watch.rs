//! Changes below a folder, as the system reports them (inotify). Only what writes, moves or deletes is reported: to be told of each
//! file that is opened would cost a server as much as its requests.

use std::{
    collections::HashMap,
    ffi::OsStr,
    io,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
    io::Errno,
};

/// Bytes of events that are read at a time; one has at most 272.
const EVENTS_BYTES: usize = 16 * 1024;

/// A change below the watched folder. Paths are relative to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A file was closed that was open for writing.
    Written(PathBuf),
    /// A file was moved, made or deleted, or an attribute of it changed.
    File(PathBuf),
    /// A folder was made or moved here: all below it is new.
    Folder(PathBuf),
    /// Anything may have changed: folders were moved, or there were too many changes.
    Anything,
}

/// Watches folders, one by one.
#[derive(Debug)]
pub struct Watch {
    fd: OwnedFd,
    top: PathBuf,
    folders: HashMap<i32, PathBuf>,
}

impl Watch {
    /// Watches nothing yet. Paths are relative to `top`.
    pub fn new(top: &Path) -> io::Result<Watch> {
        Ok(Watch {
            fd: inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?,
            top: top.to_owned(),
            folders: HashMap::new(),
        })
    }

    /// Watches the entries of this folder, but not those of folders below it.
    pub fn add(&mut self, folder: &Path) -> io::Result<()> {
        let flags = WatchFlags::CLOSE_WRITE
            | WatchFlags::ATTRIB
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVE
            | WatchFlags::ONLYDIR
            | WatchFlags::DONT_FOLLOW
            | WatchFlags::EXCL_UNLINK;
        // The user may have named the top by a link, which the dot follows.
        let path = self.top.join(".").join(folder);
        match inotify::add_watch(&self.fd, &path, flags) {
            Ok(number) => {
                // The path of a file has one form: `name`, never `./name`.
                let folder = folder.strip_prefix(".").unwrap_or(folder);
                self.folders.insert(number, folder.to_owned());
                Ok(())
            }
            // It is gone, or may not be read.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS | Errno::LOOP) => Ok(()),
            Err(cause) => Err(cause.into()),
        }
    }

    /// The changes so far; empty: none yet.
    pub fn changes(&mut self) -> io::Result<Vec<Change>> {
        let mut buffer = [MaybeUninit::uninit(); EVENTS_BYTES];
        let mut reader = Reader::new(&self.fd, &mut buffer);
        let mut changes = Vec::new();
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::WOULDBLOCK) => return Ok(changes),
                Err(Errno::INTR) => continue,
                Err(cause) => return Err(cause.into()),
            };
            let flags = event.events();
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                changes.push(Change::Anything);
            } else if flags.contains(ReadFlags::IGNORED) {
                self.folders.remove(&event.wd());
            } else if let Some((folder, name)) =
                self.folders.get(&event.wd()).zip(event.file_name())
            {
                let path = folder.join(OsStr::from_bytes(name.to_bytes()));
                changes.push(match flags.contains(ReadFlags::ISDIR) {
                    false if flags.contains(ReadFlags::CLOSE_WRITE) => Change::Written(path),
                    false => Change::File(path),
                    // The paths of the folders below it are wrong now.
                    true if flags.contains(ReadFlags::MOVED_FROM) => Change::Anything,
                    true if flags.contains(ReadFlags::CREATE) => Change::Folder(path),
                    true if flags.contains(ReadFlags::MOVED_TO) => Change::Folder(path),
                    true => continue,
                });
            }
        }
    }
}
