//! A file that another program writes while it is read: how long it is, and when the other program has ended.
//!
//! A writer is known to have ended when it was seen and is gone, or when it closed the file since we look. Writers on other machines,
//! and those that may not be looked at, show nothing: there the file has ended when it did not change for a long time.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{
    entry::{Entry, Stamp},
    error::{DiskError, FileOperation},
    files,
    watch::{Change, Watch},
};

/// A file that did not change for so long has ended, if its writer has.
const QUIET: Duration = Duration::from_secs(1);
/// Processes are looked through at most this often.
const WRITERS_EVERY: Duration = Duration::from_secs(1);
/// The bits of the flags of an open file that say whether it can be written.
const ACCESS_MODE: u32 = 0o3;

/// A file, and what was seen of it.
#[derive(Debug)]
pub struct GrowingFile {
    file: Arc<File>,
    path: PathBuf,
    /// Without a change for so long it has ended, unless a writer is seen.
    idle: Duration,
    /// `None`: the system does not tell.
    watch: Option<Watch>,
    name: OsString,
    stamp: Stamp,
    /// When it changed last, as far as we know.
    changed: Instant,
    /// When we began to look.
    began: Instant,
    /// A writer closed it after the last change.
    closed: bool,
    /// A process was seen that had it open for writing.
    had_writer: bool,
    looked_for_writers: Option<Instant>,
}

/// What a look at a growing file showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// In bytes.
    pub length: u64,
    /// It will not change any more.
    pub has_ended: bool,
}

impl GrowingFile {
    /// Opens it. `None`: it is not there yet, but its folder is.
    pub fn open(path: &Path, idle: Duration) -> Result<Option<GrowingFile>, DiskError> {
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let name = path.file_name().unwrap_or_default().to_owned();
        // Before it is opened: a close after that is noticed.
        let watch = Watch::new(folder).and_then(|mut watch| {
            watch.add(Path::new("."))?;
            Ok(watch)
        });
        let file = match files::open_for_reading(path) {
            Err(DiskError::Io { source, .. })
                if source.kind() == io::ErrorKind::NotFound && folder.is_dir() =>
            {
                return Ok(None);
            }
            opened => Arc::new(opened?),
        };
        let stamp = Entry::of(&file, path)?.version().stamp();
        let now = Instant::now();
        Ok(Some(GrowingFile {
            changed: now.checked_sub(age(&file)).unwrap_or(now),
            file,
            path: path.to_owned(),
            idle,
            watch: watch.ok(),
            name,
            stamp,
            began: now,
            closed: false,
            had_writer: false,
            looked_for_writers: None,
        }))
    }

    /// The open file.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Device and inode.
    pub fn identity(&self) -> (u64, u64) {
        (self.stamp.device, self.stamp.inode)
    }

    /// Looks at it. Fails if it got shorter, or if another file has its name.
    pub fn look(&mut self) -> Result<Look, DiskError> {
        // Before the file itself: a write before a close is then seen before the close.
        let was_closed = self.was_closed();
        let stamp = Entry::of(&self.file, &self.path)?.version().stamp();
        if stamp.length < self.stamp.length {
            let path = self.path.clone();
            return Err(DiskError::Shrunk { path });
        }
        self.check_name()?;
        if stamp != self.stamp {
            self.stamp = stamp;
            self.changed = Instant::now();
            self.closed = false;
        }
        self.closed |= was_closed;
        Ok(Look {
            length: stamp.length,
            has_ended: self.has_ended(),
        })
    }

    fn check_name(&self) -> Result<(), DiskError> {
        let path = || self.path.clone();
        match fs::metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) == self.identity() => Ok(()),
            Ok(_) => Err(DiskError::Supplanted { path: path() }),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                Err(DiskError::Supplanted { path: path() })
            }
            Err(cause) => Err(DiskError::io(FileOperation::Inspect, &self.path, cause)),
        }
    }

    fn was_closed(&mut self) -> bool {
        let Some(changes) = self.watch.as_mut().map(Watch::changes) else {
            return false;
        };
        let Ok(changes) = changes else {
            self.watch = None;
            return false;
        };
        let is_close = |change: &Change| matches!(change, Change::Written(path) if path.as_os_str() == self.name);
        changes.iter().any(is_close)
    }

    fn has_ended(&mut self) -> bool {
        let is_first = self.looked_for_writers.is_none();
        let quiet = self.changed.elapsed();
        let is_quiet = quiet >= QUIET && self.began.elapsed() >= QUIET;
        let is_due = (self.looked_for_writers).is_none_or(|last| last.elapsed() >= WRITERS_EVERY);
        if !(is_first || is_quiet && is_due) {
            return false;
        }
        self.looked_for_writers = Some(Instant::now());
        if has_writer(self.identity()) {
            self.had_writer = true;
            return false;
        }
        is_quiet && (self.closed || self.had_writer || quiet >= self.idle)
    }
}

/// How long ago it was written. Clocks of other machines prove nothing: a file there was written now.
fn age(file: &File) -> Duration {
    let is_remote = rustix::fs::fstatfs(file).is_ok_and(|of| REMOTE.contains(&(of.f_type as u32)));
    let modified = file.metadata().and_then(|metadata| metadata.modified());
    match modified {
        Ok(at) if !is_remote => SystemTime::now().duration_since(at).unwrap_or_default(),
        _ => Duration::ZERO,
    }
}

/// File systems whose files other machines may write (statfs(2)): NFS, CIFS, SMB2, 9P, Ceph, FUSE.
const REMOTE: [u32; 6] = [
    0x6969,
    0xFF53_4D42,
    0xFE53_4D42,
    0x0102_1997,
    0x00C3_6400,
    0x6573_5546,
];

/// Whether a process that we may look at has the file open for writing.
fn has_writer(identity: (u64, u64)) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else {
        return false;
    };
    let mut processes = processes.flatten().filter(|entry| {
        let name = entry.file_name();
        name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
    });
    processes.any(|process| writes(&process.path(), identity))
}

fn writes(process: &Path, identity: (u64, u64)) -> bool {
    // It has ended, or is of another user.
    let Ok(open) = fs::read_dir(process.join("fd")) else {
        return false;
    };
    open.flatten().any(|entry| {
        let is_it = fs::metadata(entry.path())
            .is_ok_and(|found| (found.dev(), found.ino()) == identity && found.is_file());
        is_it && is_for_writing(&process.join("fdinfo").join(entry.file_name()))
    })
}

/// proc(5): the flags are octal.
fn is_for_writing(info: &Path) -> bool {
    let text = fs::read_to_string(info).unwrap_or_default();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| flags & ACCESS_MODE != 0)
}

#[cfg(test)]
mod tests {
    use std::{io::Write, thread::sleep};

    use super::*;

    const IDLE: Duration = Duration::from_secs(3600);

    fn until_ended(growing: &mut GrowingFile) -> u64 {
        let until = Instant::now() + Duration::from_secs(60);
        while Instant::now() < until {
            let look = growing.look().unwrap();
            if look.has_ended {
                return look.length;
            }
            sleep(Duration::from_millis(50));
        }
        panic!("it does not end");
    }

    #[test]
    fn a_file_ends_when_its_writer_closes_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        assert!(GrowingFile::open(&path, IDLE).unwrap().is_none());
        let mut writer = File::create(&path).unwrap();
        writer.write_all(b"one").unwrap();
        let mut growing = GrowingFile::open(&path, IDLE).unwrap().unwrap();
        // A writer that pauses is seen.
        let began = Instant::now();
        while began.elapsed() < QUIET * 2 {
            let look = growing.look().unwrap();
            assert_eq!((look.length, look.has_ended), (3, false));
            sleep(Duration::from_millis(100));
        }
        writer.write_all(b"two").unwrap();
        drop(writer);
        assert_eq!(until_ended(&mut growing), 6);
    }

    #[test]
    fn a_file_whose_writer_was_never_seen_ends_when_it_is_idle() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        fs::write(&path, b"one").unwrap();
        let mut growing = GrowingFile::open(&path, IDLE).unwrap().unwrap();
        growing.closed = false;
        sleep(QUIET);
        assert!(!growing.look().unwrap().has_ended);
        let mut growing = GrowingFile::open(&path, QUIET).unwrap().unwrap();
        assert_eq!(until_ended(&mut growing), 3);
    }

    #[test]
    fn a_file_that_shrinks_or_is_replaced_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("f"), folder.path().join("g"));
        fs::write(&path, b"one").unwrap();
        let mut growing = GrowingFile::open(&path, IDLE).unwrap().unwrap();
        fs::write(&other, b"four").unwrap();
        fs::rename(&other, &path).unwrap();
        let replaced = growing.look().unwrap_err();
        assert!(
            matches!(replaced, DiskError::Supplanted { .. }),
            "{replaced}"
        );
        let mut growing = GrowingFile::open(&path, IDLE).unwrap().unwrap();
        fs::write(&path, b"1").unwrap();
        let shorter = growing.look().unwrap_err();
        assert!(matches!(shorter, DiskError::Shrunk { .. }), "{shorter}");
    }
}
