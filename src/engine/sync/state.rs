//! What earlier runs proved of the files in the folder, so that these need not be read again. It has the format of an index. A file
//! is believed to be what the state says while its length and time are those of the state, and no attribute changed since: the time
//! of the state file is when all work of its run had ended.

use std::{
    ffi::OsStr,
    io::Read,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use crate::{
    disk::{
        error::{DiskError, FileOperation},
        files::{self, EntryKind, Folder},
        temporary::{Replaces, Temporary},
    },
    engine::{
        error::Error,
        library::{
            INDEX_BYTES_MAX,
            earlier::{self, Earlier},
        },
    },
    format::{
        geometry::PIECE,
        library::{self, Entry, SMALL_BYTES_MAX},
        tree::Root,
    },
    policy::sync::Local,
};

use super::content::{Known, listable};

const NAME: &str = "library.sapwood.sync";
/// The clocks of file systems are behind by one tick, of at most 10 ms: what is written after this time is later than the state.
const TICK: Duration = Duration::from_millis(20);

/// Whether the time that a run gave to its state is as much earlier than the last change of the file as the run makes it.
fn is_earlier((seconds, nanoseconds): (i64, u64), changed: (i64, u64)) -> bool {
    let time =
        |seconds: i64, nanoseconds: u64| Duration::new(seconds.max(0) as u64, nanoseconds as u32);
    time(seconds, nanoseconds) + TICK / 2 <= time(changed.0, changed.1)
}

/// The size of the pieces of a file in an index.
fn pieces_bytes(length: u64) -> u64 {
    match length {
        0..=SMALL_BYTES_MAX => 2 * length.div_ceil(PIECE),
        _ => 0,
    }
}

/// What earlier runs proved.
pub struct State {
    pub file: Arc<Earlier>,
    /// What was touched later was not seen by the run that wrote the state.
    pub made: Duration,
}

/// The bytes of a state, which are not decoded yet.
pub struct StateFile {
    bytes: Vec<u8>,
    made: Duration,
}

impl StateFile {
    /// Decodes it. `None`: it is not one. A folder that is as its library says has a state with the bytes of the index.
    pub fn state(self, index: &Arc<Earlier>) -> Option<State> {
        let file = match self.bytes == index.bytes() {
            true => index.clone(),
            false => {
                let root = Root(*blake3::hash(&self.bytes).as_bytes());
                Arc::new(Earlier::of(self.bytes, root).ok()?)
            }
        };
        let made = self.made;
        Some(State { file, made })
    }
}

/// Reads the state. `None`: there is none, or none that is believed.
pub fn read(folder: &Folder) -> Result<Option<StateFile>, DiskError> {
    let Some((mut file, entry)) = folder.open_file_below(Path::new(NAME))? else {
        return Ok(None);
    };
    // Its time must have been set when it was written, not by a later write or `touch`.
    let is_ours = entry.kind == EntryKind::Regular
        && folder.suspicious(&entry).is_none()
        && is_earlier(entry.changed, entry.attributes_changed)
        && entry.length <= INDEX_BYTES_MAX;
    if !is_ours {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|cause| {
        DiskError::io(
            FileOperation::Read,
            &folder.path_of(OsStr::new(NAME)),
            cause,
        )
    })?;
    let made = earlier::since_1970(entry.changed);
    Ok(Some(StateFile { bytes, made }))
}

/// Writes the state: the files that are still in the version whose content is known.
pub fn write(folder: &Folder, known: &Known, here: &[Local]) -> Result<(), Error> {
    let ended = SystemTime::now();
    thread::sleep(TICK);
    let known = known.by_path(here);
    let mut files = Vec::with_capacity(known.len());
    for (path, entry) in listable(folder)? {
        let content = known.get(&path).copied();
        let content = content.filter(|(version, _)| entry.version().has_bytes_of(version));
        if let Some((_, content)) = content
            && content.pieces.len() as u64 == pieces_bytes(entry.length)
            && let Some(modified_ns) = entry.modified_ns()
        {
            let listed = Entry {
                path,
                length: entry.length,
                root: content.root,
                modified_ns,
                is_executable: entry.is_executable(),
            };
            files.push((listed, content.pieces.clone()));
        }
    }
    let path = folder.path_of(OsStr::new(NAME));
    let bytes = library::write(files).map_err(|cause| Error::Index {
        place: path.display().to_string(),
        cause,
    })?;
    let temporary = Temporary::create(&path, Replaces::Index)?;
    temporary.write_at(&bytes, 0)?;
    files::set_modified(temporary.file(), &path, ended)?;
    Ok(temporary.publish(None)?)
}
