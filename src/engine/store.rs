//! The commands of the store: add files, verify what it knows, clean up.

use std::path::{Path, PathBuf};

use crate::{
    disk::{
        error::{DiskError, FileOperation},
        files,
        machine::unix_time,
        regions::FileRegions,
        state::{Holding, Provenance},
        store::{HoldingChange, Store, StoreError},
    },
    format::{
        geometry::{BlockSize, Geometry},
        manifest::Tree,
        signature::SignatureArea,
        statement::{self, Statement},
    },
    policy::conditions::BY_ROOT,
};

use super::{
    error::Error,
    events::{Damaged, Event, Events, Forgotten},
    hashing::{Digests, TreeHasher},
    verify::Verdict,
};

/// Suffixes of files that are not content: unfinished downloads and manifests.
const NOT_CONTENT: [&str; 4] = [".part", ".part.journal", ".quarantined", ".sapwood"];

/// The files that a path stands for: the file itself, or all regular files below a folder, sorted, without following links.
pub fn files_of(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |cause| DiskError::io(FileOperation::Read, path, cause);
    // Links are followed only here, because the user named this path.
    let path = path.canonicalize().map_err(failed)?;
    if !path.is_dir() {
        return Ok(vec![path]);
    }
    let (mut found, mut folders) = (Vec::new(), vec![path]);
    while let Some(folder) = folders.pop() {
        let failed = |cause| DiskError::io(FileOperation::Read, &folder, cause);
        for entry in std::fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let kind = entry.file_type().map_err(failed)?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let content = !NOT_CONTENT.iter().any(|suffix| name.ends_with(suffix));
            match (kind.is_dir(), kind.is_file() && content) {
                (true, _) => folders.push(entry.path()),
                (_, true) => found.push(entry.path()),
                _ => (),
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Records a file of the user with its anchors, so that later fetches find its blocks. A file that is known in this version is
/// not read again.
pub fn add(store: &mut Store, path: &Path, events: &mut dyn Events) -> Result<(), Error> {
    let regions = FileRegions::open(path)?;
    let known = store.state().holding_at(path)?;
    let known = known.filter(|known| known.has_anchors && known.stamp == regions.stamp());
    let (root, is_known) = match &known {
        Some(holding) => {
            store.note_used(holding, unix_time())?;
            (holding.root, true)
        }
        None => {
            let tree = tree_of(path, &regions, BlockSize::auto(regions.length()), true)?;
            store.adopt(path, &tree, Provenance::default(), unix_time())?;
            (tree.root(), false)
        }
    };
    events.event(Event::Added {
        path: path.to_owned(),
        root,
        bytes_total: regions.length(),
        is_known,
    });
    Ok(())
}

fn tree_of(
    path: &Path,
    regions: &FileRegions,
    block_size: BlockSize,
    hints: bool,
) -> Result<Tree, Error> {
    let place = path.display().to_string();
    if Geometry::new(regions.length(), block_size).is_none() {
        return Err(Error::TooManyBlocks { place });
    }
    let hasher = TreeHasher {
        block_size,
        may_grow: false,
        hints,
    };
    hasher.run_file(regions, &place, &mut Digests::new([]), &mut |_| Ok(()))
}

/// Judges everything that a holding claims to have. A damaged, missing or changed one is forgotten. `None`: there is no verdict,
/// because the user changed or removed the file, or because it is in use.
pub fn verify(
    store: &mut Store,
    holding: Holding,
    events: &mut dyn Events,
) -> Result<Option<Verdict>, Error> {
    let verdict = match holding.own {
        true => verify_own(store, &holding, events)?,
        false => verify_file(store, &holding, events)?,
    };
    if verdict == Some(Verdict::Verified) {
        events.event(Event::Verified {
            path: holding.path,
            root: holding.root,
            bytes_total: holding.bytes,
            trust: BY_ROOT,
        });
    }
    Ok(verdict)
}

fn verify_own(
    store: &mut Store,
    holding: &Holding,
    events: &mut dyn Events,
) -> Result<Option<Verdict>, Error> {
    let mut blocks = 0;
    let judged = store.verify_own(holding, &mut |damage| {
        blocks += 1;
        events.event(Event::Damaged(Damaged {
            path: holding.path.clone(),
            block: Some(damage.block),
            bytes: damage.bytes,
            expected: Some(damage.expected),
            found: damage.found,
        }));
    })?;
    Ok(judged.map(|is_sound| match is_sound {
        true => Verdict::Verified,
        false => Verdict::Damaged { blocks },
    }))
}

fn verify_file(
    store: &mut Store,
    holding: &Holding,
    events: &mut dyn Events,
) -> Result<Option<Verdict>, Error> {
    let mut is_there = |store: &mut Store| {
        let forward = &mut |change| forward(change, events);
        store.check(holding.clone(), forward)
    };
    if !is_there(store)? {
        return Ok(None);
    }
    let Some(expected) = store.tree_of(holding)? else {
        // A damaged row in the database: its facts about the file are lost; the file may be added again.
        store.forget(holding)?;
        return Ok(None);
    };
    let block_size = expected.geometry().block_size();
    let read = || {
        let regions = FileRegions::open(&holding.path)?;
        // It may have been replaced since it was looked at.
        let is_same = regions.stamp() == holding.stamp;
        let tree = || tree_of(&holding.path, &regions, block_size, false);
        is_same.then(tree).transpose()
    };
    let found = match read() {
        Ok(Some(found)) if found.geometry() == expected.geometry() => found,
        // The file was modified or removed while it was read.
        _ if !is_there(store)? => return Ok(None),
        Ok(_) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut damaged = 0;
    for block in expected.geometry().all().iter() {
        let (expected_leaf, found_leaf) = (
            expected.leaves()[block.0 as usize],
            found.leaves()[block.0 as usize],
        );
        if expected_leaf != found_leaf {
            damaged += 1;
            events.event(Event::Damaged(Damaged {
                path: holding.path.clone(),
                block: Some(block),
                bytes: expected.geometry().bytes_of(block),
                expected: Some(expected_leaf),
                found: Some(found_leaf),
            }));
        }
    }
    if damaged == 0 {
        return Ok(Some(Verdict::Verified));
    }
    store.forget(holding)?;
    Ok(Some(Verdict::Damaged { blocks: damaged }))
}

/// The manifest that a file came with, as far as the store keeps it.
pub struct Kept {
    /// The bytes that are, or can be, signed.
    pub statement: Statement,
    /// Well-formed; whether it is valid depends on a key.
    pub signature: SignatureArea,
    /// All leaves of the object.
    pub tree: Tree,
}

/// The manifest of the file that was fetched to this path, whatever is there now. `None`: there was none, or the store has forgotten
/// it.
pub fn kept_manifest(store: &mut Store, path: &Path) -> Result<Option<Kept>, StoreError> {
    let Some((holding, front)) = store.recorded_at(path)? else {
        return Ok(None);
    };
    let front = statement::read_front(&front).ok();
    let front = front.filter(|(statement, _)| statement.header().root == holding.root);
    let tree = store.tree_of(&holding)?;
    Ok(front.zip(tree).map(|((statement, signature), tree)| Kept {
        statement,
        signature,
        tree,
    }))
}

/// Forgets the files of the user at this path or below it, and returns how many there were. The files may be gone already.
pub fn forget(store: &mut Store, path: &Path, events: &mut dyn Events) -> Result<usize, Error> {
    // A folder may be a link; a file that is gone has no path but its own.
    let places = [path.canonicalize().ok(), files::noted_path(path)];
    let mut count = 0;
    for holding in store.state().holdings()? {
        let is_named = |place: &PathBuf| holding.path.starts_with(place);
        if holding.own || !places.iter().flatten().any(is_named) {
            continue;
        }
        store.forget(&holding)?;
        let Holding { path, root, .. } = holding;
        let why = Forgotten::Told;
        events.event(Event::Forgotten { path, root, why });
        count += 1;
    }
    Ok(count)
}

/// Forgets missing files, checks the store's own objects, and evicts blocks until they take at most `bytes_max`.
pub fn collect(
    store: &mut Store,
    bytes_max: Option<u64>,
    events: &mut dyn Events,
) -> Result<(), Error> {
    Ok(store.collect(bytes_max, &mut |change| forward(change, events))?)
}

fn forward(change: HoldingChange, events: &mut dyn Events) {
    let mut forgotten = |holding: Holding, why| {
        let Holding { path, root, .. } = holding;
        events.event(Event::Forgotten { path, root, why });
    };
    match change {
        HoldingChange::Gone(holding) => forgotten(holding, Forgotten::Gone),
        HoldingChange::Changed(holding) => forgotten(holding, Forgotten::Changed),
        HoldingChange::Evicted(Holding { path, root, .. }, bytes) => {
            events.event(Event::Evicted { path, root, bytes });
        }
        HoldingChange::Removed(path) => tracing::debug!("{} had no blocks", path.display()),
    }
}

/// The contents of the store, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields are named after what they are")]
pub struct Status {
    /// Files of the user.
    pub files: u64,
    pub bytes_of_files: u64,
    pub own_objects: u64,
    pub bytes_own: u64,
    pub bytes_own_max: u64,
    /// The size of the database.
    pub bytes_index: u64,
    /// Tags in the content index.
    pub samples: u64,
}

/// Counts the contents of the store.
pub fn status(store: &mut Store) -> Result<Status, Error> {
    let mut status = Status {
        bytes_own_max: store.own_bytes_max()?,
        bytes_index: store.state().bytes()?,
        samples: store.state().samples()?,
        ..Status::default()
    };
    for holding in store.state().holdings()? {
        let (count, bytes) = match holding.own {
            true => (&mut status.own_objects, &mut status.bytes_own),
            false => (&mut status.files, &mut status.bytes_of_files),
        };
        *count += 1;
        *bytes += holding.bytes;
    }
    Ok(status)
}

/// Returns an error if this path cannot be added.
pub fn check_path(path: &Path) -> Result<(), Error> {
    match path.is_dir() {
        true => Ok(()),
        false => Ok(files::open_for_reading(path).map(drop)?),
    }
}
