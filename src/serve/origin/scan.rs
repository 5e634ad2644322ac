//! Which files there are, and which change: the folder is read once at the start, then the system reports changes. What it does not
//! report (a file system of another machine, a write through mapped memory) is found by reading the folder again now and then. Every
//! request looks at its file too, so that a change that was not seen here costs time, and is never served wrong.

use std::{
    io,
    path::{Component, Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    disk::{
        files::{EntryKind, Folder},
        listing::{self, Listed},
        watch::{Change, Watch},
    },
    engine::blocking,
};

use super::{
    manifests::Manifests,
    path::{is_described, is_served},
};

/// How often the folder is read again while the system reports changes, and while it does not.
const AGAIN_WATCHED: Duration = Duration::from_secs(600);
const AGAIN: Duration = Duration::from_secs(60);
/// The wait while the queue of files is full.
const FULL_WAIT: Duration = Duration::from_millis(100);
/// Changes are collected for this long: many programs write a file in several steps, and to look costs one system call.
const COLLECT_TIME: Duration = Duration::from_millis(100);
/// Entries of one folder of which manifests are made before they are requested.
const ENTRIES_MAX: usize = 1_000_000;

/// Reads and watches the folder until it is dropped.
pub async fn run(folder: Arc<Folder>, path: PathBuf, manifests: Arc<Manifests>) {
    let mut scan = Scan {
        folder,
        manifests,
        watch: None,
    };
    match Watch::new(&path) {
        Ok(watch) => scan.watch = Some(watch),
        Err(cause) => warn(&scan.manifests, &cause),
    }
    loop {
        scan.below(PathBuf::from(".")).await;
        scan.manifests.note_scanned();
        let again = match scan.watch {
            Some(_) => AGAIN_WATCHED,
            None => AGAIN,
        };
        let again = Instant::now() + again;
        while let Ok(changes) = timeout_at(again, scan.changes()).await {
            if changes.contains(&Change::Anything) {
                break;
            }
            for change in changes {
                match change {
                    Change::Written(path) if is_watched(&path) => {
                        scan.manifests.note_written(&path);
                    }
                    Change::File(path) if is_watched(&path) => scan.manifests.note_changed(&path),
                    Change::Folder(path) if is_below(&path) => scan.below(path).await,
                    _ => (),
                }
            }
            scan.manifests.note_folder_changed();
        }
    }
}

fn warn(manifests: &Manifests, cause: &io::Error) {
    let seconds = AGAIN.as_secs();
    (manifests.warn)(format!(
        "changes of the folder are found at requests and every {seconds} s, because the system does not report them: {cause}"
    ));
}

struct Scan {
    folder: Arc<Folder>,
    manifests: Arc<Manifests>,
    watch: Option<Watch>,
}

impl Scan {
    /// Notes all files below a folder, and watches it.
    async fn below(&mut self, folder: PathBuf) {
        let mut folders = vec![folder];
        while let Some(folder) = folders.pop() {
            // Before its entries are read, so that no change is lost between.
            self.watch_folder(&folder);
            for Listed { name, version } in self.entries(&folder).await {
                let path = match folder == Path::new(".") {
                    true => PathBuf::from(name),
                    false => folder.join(name),
                };
                match version.kind() {
                    EntryKind::Folder => folders.push(path),
                    EntryKind::Regular if is_described(&path) => {
                        while self.manifests.is_full() {
                            sleep(FULL_WAIT).await;
                        }
                        self.manifests.note_seen(&path, &version);
                    }
                    EntryKind::Regular | EntryKind::Link | EntryKind::Special => (),
                }
            }
        }
    }

    fn watch_folder(&mut self, folder: &Path) {
        let Some(watch) = &mut self.watch else {
            return;
        };
        // The number of folders that may be watched has a limit (fs.inotify.max_user_watches).
        if let Err(cause) = watch.add(folder) {
            warn(&self.manifests, &cause);
            self.watch = None;
        }
    }

    async fn entries(&self, path: &Path) -> Vec<Listed> {
        let (folder, path) = (self.folder.clone(), path.to_owned());
        let read = move || {
            let (opened, _) = folder.open_beneath(&path).ok()??;
            listing::entries(&opened, ENTRIES_MAX, is_served).ok()
        };
        blocking::run(read).await.unwrap_or_default().0
    }

    /// The next changes. Without a watch there are none.
    async fn changes(&mut self) -> Vec<Change> {
        loop {
            sleep(COLLECT_TIME).await;
            match self.watch.as_mut().map(Watch::changes) {
                Some(Ok(changes)) if changes.is_empty() => (),
                Some(Ok(changes)) => return changes,
                Some(Err(cause)) => {
                    warn(&self.manifests, &cause);
                    self.watch = None;
                }
                None => std::future::pending().await,
            }
        }
    }
}

/// Whether a manifest is made of the file at this path.
fn is_watched(path: &Path) -> bool {
    is_below(path) && is_described(path)
}

/// Whether all segments of a path are served.
fn is_below(path: &Path) -> bool {
    path.components().all(|segment| match segment {
        Component::Normal(name) => is_served(name),
        Component::CurDir => true,
        _ => false,
    })
}
