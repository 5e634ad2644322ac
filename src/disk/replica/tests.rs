//! What lies in the folder of a library, and what becomes of it (FAULTS: names and paths). In each test nothing outside may be touched.

use std::{
    fs,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink},
        net::UnixListener,
    },
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, SystemTime},
};

use tempfile::TempDir;

use super::*;
use crate::{
    disk::{destination::Destination, files},
    format::tree::{PartHasher, Root},
};

const OF: Attributes = Attributes {
    modified_ns: 1_234_567_890_123_456_789,
    is_executable: false,
};

/// A folder of a library, and one outside of it.
struct Place {
    base: TempDir,
    replica: Replica,
}

impl Place {
    fn new() -> Place {
        // In memory if possible: a disk takes its time for each sync.
        let memory = Path::new("/dev/shm");
        let base = tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir());
        let base = base.unwrap();
        fs::create_dir(base.path().join("outside")).unwrap();
        for name in ["file", "other"] {
            fs::write(base.path().join("outside").join(name), name).unwrap();
        }
        let replica = Replica::open(&base.path().join("dir")).unwrap();
        Place { base, replica }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.base.path().join("dir").join(path)
    }

    fn outside(&self, path: &str) -> PathBuf {
        self.base.path().join("outside").join(path)
    }

    fn write(&self, path: &str, bytes: &str) -> Stamp {
        let full = self.path(path);
        fs::create_dir_all(full.parent().unwrap()).unwrap();
        fs::write(full, bytes).unwrap();
        self.stamp(path)
    }

    fn stamp(&self, path: &str) -> Stamp {
        let (_, entry) = self
            .replica
            .folder()
            .open_file_below(Path::new(path))
            .unwrap()
            .expect("a file");
        entry.stamp()
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    fn stage(&self, bytes: &str) -> Staged {
        self.replica.stage_bytes(bytes.as_bytes(), OF).unwrap()
    }

    fn place(
        &self,
        staged: Staged,
        path: &str,
        replaces: Option<Stamp>,
    ) -> Result<Entry, DiskError> {
        let placement = Placement {
            staged,
            path: name(path),
            replaces,
        };
        self.replica.place(vec![placement]).pop().unwrap()
    }

    /// All names in the folder but those of the staging folder and the trash, each with what it is.
    fn listed(&self) -> Vec<String> {
        listed(&self.path(""))
    }

    fn staged(&self) -> Vec<String> {
        match self.path(STAGING).exists() {
            true => listed(&self.path(STAGING)),
            false => Vec::new(),
        }
    }
}

fn name(path: &str) -> LibraryPath {
    LibraryPath::new(path).expect("a path that a library may list")
}

fn root(bytes: &str) -> Root {
    root_of(bytes.as_bytes())
}

fn root_of(bytes: &[u8]) -> Root {
    let mut hasher = PartHasher::new(0);
    hasher.update(bytes);
    hasher.root()
}

fn set_modified(path: &Path, time: SystemTime) {
    let file = File::options().write(true).open(path).unwrap();
    files::set_modified(&file, path, time).unwrap();
}

/// Everything below a folder, with kinds, contents, permissions and times; links are not followed.
fn listed(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(inner) = open.pop() {
        for entry in fs::read_dir(folder.join(&inner)).unwrap() {
            let path = inner.join(entry.unwrap().file_name());
            let full = folder.join(&path);
            let about = fs::symlink_metadata(&full).unwrap();
            let kind = about.file_type();
            let what = match kind {
                _ if kind.is_dir() => {
                    open.push(path.clone());
                    "a folder".to_owned()
                }
                _ if kind.is_symlink() => format!("-> {}", fs::read_link(&full).unwrap().display()),
                _ if kind.is_file() => fs::read_to_string(&full).unwrap(),
                _ => "special".to_owned(),
            };
            // Files come and go in a folder, as links do.
            let time = match kind.is_file() {
                true => about.mtime_nsec(),
                false => 0,
            };
            found.push(format!(
                "{}: {what}, {:o}, {time}",
                path.display(),
                about.mode()
            ));
        }
    }
    found.retain(|line| !line.starts_with("library.sapwood"));
    found.sort();
    found
}

/// Does everything with a path that a run can do with it; all of it must be refused, but what is not there may be deleted.
#[track_caller]
fn must_be_refused(place: &Place, path: &str, stamp: Stamp, allowed: fn(&DiskError) -> bool) {
    let before = (place.listed(), listed(&place.outside("")));
    let trash = Trash::new("T");
    let refused = [
        place.place(place.stage("new"), path, None).err(),
        place.place(place.stage("new"), path, Some(stamp)).err(),
        place.replica.stage_move(&name(path), stamp, OF).err(),
        place
            .replica
            .stage_copy(&name(path), root("file"), OF)
            .err(),
        place.replica.set_attributes(&name(path), stamp, OF).err(),
    ];
    for (number, refused) in refused.into_iter().enumerate() {
        let cause = refused.unwrap_or_else(|| panic!("{path}: {number} was not refused"));
        assert!(allowed(&cause), "{path}: {number}: {cause}");
    }
    for trash in [None, Some(&trash)] {
        match place.replica.delete(&name(path), stamp, trash) {
            Ok(kept) => assert_eq!(kept, None, "{path}"),
            Err(cause) => assert!(allowed(&cause), "{path}: {cause}"),
        }
    }
    place.replica.remove_emptied([&name(path)]).unwrap();
    let after = (place.listed(), listed(&place.outside("")));
    assert_eq!(before, after, "{path}");
    assert_eq!(place.staged(), Vec::<String>::new(), "{path}");
    assert!(!place.path(TRASH).join("T").join(path).exists());
}

fn unsafe_or_gone(cause: &DiskError) -> bool {
    matches!(cause, DiskError::Unsafe { .. } | DiskError::Gone { .. })
}

#[test]
fn a_link_at_any_level_is_not_followed() {
    for level in 0..3 {
        for (to, is_folder) in [
            ("outside", true),
            ("dir/real", true),
            ("missing", true),
            ("outside/file", false),
        ] {
            let place = Place::new();
            let stamp = place.write("real/b/file", "file");
            fs::create_dir_all(place.outside("b")).unwrap();
            fs::write(place.outside("b/file"), "file").unwrap();
            let at = ["a", "a/b", "a/b/file"][level];
            if let Some(parent) = place.path(at).parent() {
                fs::create_dir_all(parent).unwrap();
            }
            let target = place.base.path().join(to);
            // Absolute, and relative to where it lies.
            symlink(&target, place.path(at)).unwrap();
            must_be_refused(&place, "a/b/file", stamp, unsafe_or_gone);
            fs::remove_file(place.path(at)).unwrap();
            let relative = format!("{}{to}", "../".repeat(level + 1));
            symlink(relative, place.path(at)).unwrap();
            must_be_refused(&place, "a/b/file", stamp, unsafe_or_gone);
            // A file or folder of its own is used again.
            fs::remove_file(place.path(at)).unwrap();
            place.place(place.stage("new"), "a/b/file", None).unwrap();
            assert_eq!(place.read("a/b/file"), "new", "{to}, {is_folder}");
        }
    }
}

#[test]
fn a_link_to_itself_ends() {
    let place = Place::new();
    let stamp = place.write("x", "file");
    symlink("a", place.path("a")).unwrap();
    must_be_refused(&place, "a/b", stamp, unsafe_or_gone);
    must_be_refused(&place, "a", stamp, unsafe_or_gone);
}

#[test]
fn what_is_no_file_is_not_replaced() {
    let place = Place::new();
    let stamp = place.write("x", "file");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        place.path("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let _socket = UnixListener::bind(place.path("socket")).unwrap();
    fs::create_dir_all(place.path("folder/inner")).unwrap();
    fs::write(place.path("folder/inner/file"), "here").unwrap();
    for path in ["fifo", "socket", "folder", "folder/inner"] {
        must_be_refused(&place, path, stamp, unsafe_or_gone);
        if !path.starts_with("folder") {
            must_be_refused(&place, &format!("{path}/below"), stamp, unsafe_or_gone);
        }
    }
    assert!(
        fs::symlink_metadata(place.path("fifo"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
}

#[test]
fn a_file_where_a_folder_goes_stays() {
    let place = Place::new();
    let stamp = place.write("a", "file");
    must_be_refused(&place, "a/b", stamp, unsafe_or_gone);
    must_be_refused(&place, "a/b/c/d", stamp, unsafe_or_gone);
    assert_eq!(place.read("a"), "file");
}

/// Found: a kill between the deletion of a folder's last file and that of the folder made each later run fail.
#[test]
fn an_empty_folder_where_a_file_goes_goes() {
    let place = Place::new();
    fs::create_dir_all(place.path("empty/a/b")).unwrap();
    fs::create_dir_all(place.path("empty/c")).unwrap();
    place.place(place.stage("new"), "empty", None).unwrap();
    assert_eq!(place.read("empty"), "new");
    // One with a file stays as it is.
    fs::create_dir_all(place.path("full/a/b")).unwrap();
    fs::create_dir_all(place.path("full/z")).unwrap();
    fs::write(place.path("full/z/file"), "here").unwrap();
    let refused = place.place(place.stage("new"), "full", None).unwrap_err();
    assert!(matches!(refused, DiskError::Unsafe { .. }), "{refused}");
    assert_eq!(place.read("full/z/file"), "here");
}

#[test]
fn a_file_with_a_name_outside_is_replaced_and_never_written_to() {
    let place = Place::new();
    let outside = listed(&place.outside(""));
    let link = |path: &str| {
        fs::hard_link(place.outside("file"), place.path(path)).unwrap();
        place.stamp(path)
    };
    // Replaced.
    let stamp = link("replaced");
    place
        .place(place.stage("new"), "replaced", Some(stamp))
        .unwrap();
    assert_eq!(place.read("replaced"), "new");
    assert_eq!(listed(&place.outside("")), outside);
    // Of other attributes.
    let stamp = link("dated");
    let to = Attributes {
        is_executable: true,
        ..OF
    };
    let entry = place
        .replica
        .set_attributes(&name("dated"), stamp, to)
        .unwrap();
    assert_eq!(entry.modified_ns(), Some(OF.modified_ns));
    assert!(entry.is_executable());
    assert_eq!(place.read("dated"), "file");
    assert_eq!(listed(&place.outside("")), outside);
    // Moved.
    let stamp = link("from");
    let staged = place.replica.stage_move(&name("from"), stamp, to).unwrap();
    let entry = place.place(staged, "to", None).unwrap();
    place.replica.delete(&name("from"), stamp, None).unwrap();
    assert_eq!(entry.modified_ns(), Some(OF.modified_ns));
    assert_eq!(place.read("to"), "file");
    assert!(!place.path("from").exists());
    assert_eq!(listed(&place.outside("")), outside);
    // Deleted.
    let stamp = link("deleted");
    place.replica.delete(&name("deleted"), stamp, None).unwrap();
    let stamp = link("trashed");
    place
        .replica
        .delete(&name("trashed"), stamp, Some(&Trash::new("T")))
        .unwrap();
    assert_eq!(listed(&place.outside("")), outside);
    assert_eq!(place.staged(), Vec::<String>::new());
}

/// Folders that become links and folders again, all the time.
#[test]
fn folders_that_are_swapped_for_links_meanwhile_lead_nowhere() {
    let place = Place::new();
    fs::create_dir_all(place.outside("deep")).unwrap();
    // What would be found if a link was followed.
    for outside in ["old", "from", "deep/old", "deep/from", "gone", "deep/gone"] {
        fs::write(place.outside(outside), "file").unwrap();
    }
    place.write("sub/deep/keep", "keep");
    let outside = listed(&place.outside(""));
    let (ended, swaps) = (AtomicBool::new(false), AtomicUsize::new(0));
    symlink(place.outside(""), place.path("link")).unwrap();
    symlink(place.outside("deep"), place.path("deep")).unwrap();
    let exchange = |a: &str, b: &str| exchange(&place.path(a), &place.path(b));
    let swap = || {
        while !ended.load(Ordering::Relaxed) {
            for (folder, link) in [("sub", "link"), ("sub/deep", "deep")] {
                exchange(folder, link);
                thread::yield_now();
                exchange(folder, link);
                thread::yield_now();
                swaps.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let mut done = [0; 7];
    thread::scope(|scope| {
        scope.spawn(swap);
        let _ends = Ends(&ended);
        let is_done = |done: &[u32; 7]| done.iter().all(|done| *done >= 3);
        let mut rounds = 0;
        while rounds < 100 || !is_done(&done) || swaps.load(Ordering::Relaxed) < 20 {
            rounds += 1;
            for folder in ["sub", "sub/deep"] {
                one_round(&place, folder, &mut done);
            }
        }
    });
    assert!(done.iter().all(|done| *done > 0), "{done:?}");
    assert_eq!(listed(&place.outside("")), outside, "{done:?}");
}

/// Does everything once in a folder, and counts what was done.
fn one_round(place: &Place, folder: &str, done: &mut [u32; 7]) {
    let replica = &place.replica;
    let path = |file: &str| name(&format!("{folder}/{file}"));
    let stamp = |file: &str| {
        let opened = replica
            .folder()
            .open_file_below(Path::new(path(file).as_str()));
        opened.unwrap().map(|(_, entry)| entry.stamp())
    };
    let put = |staged: Staged, file: &str| {
        let placement = Placement {
            staged,
            path: path(file),
            replaces: stamp(file),
        };
        replica.place(vec![placement]).pop().unwrap()
    };
    let mut count = |what: usize, is_done: bool| done[what] += u32::from(is_done);
    count(0, put(place.stage("file"), "old").is_ok());
    count(1, put(place.stage("file"), "from").is_ok());
    if let Some(from) = stamp("from") {
        count(2, replica.set_attributes(&path("from"), from, OF).is_ok());
        let moved = replica.stage_move(&path("from"), from, OF);
        count(3, moved.is_ok_and(|staged| put(staged, "moved").is_ok()));
    }
    let copied = replica.stage_copy(&path("old"), root("file"), OF);
    count(4, copied.is_ok_and(|staged| put(staged, "gone").is_ok()));
    for (what, file, trash) in [(5, "gone", None), (6, "old", Some(Trash::new("T")))] {
        if let Some(found) = stamp(file) {
            let gone = replica.delete(&path(file), found, trash.as_ref());
            count(what, gone.is_ok());
        }
    }
    for file in ["from", "moved"] {
        if let Some(found) = stamp(file) {
            let _ = replica.delete(&path(file), found, None);
        }
    }
    let _ = replica.remove_emptied([&path("gone")]);
}

/// Ends the other thread, also if this one panics.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn exchange(a: &Path, b: &Path) {
    let (cwd, flags) = (rustix::fs::CWD, rustix::fs::RenameFlags::EXCHANGE);
    rustix::fs::renameat_with(cwd, a, cwd, b, flags).unwrap();
}

/// Another program replaces a file all the time; what it wrote is only replaced by a run that knew it.
#[test]
fn a_file_that_another_program_put_there_meanwhile_is_not_lost() {
    let place = Place::new();
    place.write("file", "first");
    let ended = AtomicBool::new(false);
    let own = place.outside("own");
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    // Two files change places until the run replaces one; then a new one takes part.
    let other = || {
        let mut written = Vec::new();
        while !ended.load(Ordering::Relaxed) {
            if !written.contains(&inode(&own)) {
                fs::remove_file(&own).unwrap();
                fs::write(&own, "of the other").unwrap();
                // No other file gets its number.
                let kept = place.outside(&format!("kept{}", written.len()));
                fs::hard_link(&own, kept).unwrap();
                written.push(inode(&own));
            }
            exchange(&own, &place.path("file"));
        }
        written
    };
    fs::write(&own, "").unwrap();
    let (mut replaced, mut refused, mut rounds) = (Vec::new(), 0, 0);
    let written = thread::scope(|scope| {
        let other = scope.spawn(other);
        let ends = Ends(&ended);
        while rounds < 300 || replaced.len() < 3 || refused < 3 {
            rounds += 1;
            let stamp = place.stamp("file");
            match place.place(place.stage("of the run"), "file", Some(stamp)) {
                Ok(_) => replaced.push(stamp.inode),
                // It was replaced, and then the new one.
                Err(DiskError::ChangedAfterProof { .. }) => replaced.push(stamp.inode),
                Err(_) => refused += 1,
            }
        }
        drop(ends);
        other.join().unwrap()
    });
    let mut present = vec![inode(&own)];
    for entry in fs::read_dir(place.path("")).unwrap() {
        present.push(entry.unwrap().metadata().unwrap().ino());
    }
    let is_lost = |inode: &&u64| !present.contains(inode) && !replaced.contains(inode);
    let lost: Vec<&u64> = written.iter().filter(is_lost).collect();
    assert!(lost.is_empty(), "{} of {}", lost.len(), written.len());
    assert_eq!(place.staged(), Vec::<String>::new());
}

#[test]
fn a_file_that_changed_since_the_plan_stays() {
    let place = Place::new();
    let changed = |cause: &DiskError| matches!(cause, DiskError::ChangedSince { .. });
    let stamp = place.write("file", "planned");
    place.write("file", "changed!");
    must_be_refused_but_copies(&place, "file", stamp, changed);
    // Another file of the same length and time.
    let stamp = place.write("twin", "planned");
    let time = fs::metadata(place.path("twin"))
        .unwrap()
        .modified()
        .unwrap();
    fs::rename(place.path("twin"), place.path("kept")).unwrap();
    place.write("twin", "another");
    set_modified(&place.path("twin"), time);
    must_be_refused_but_copies(&place, "twin", stamp, changed);
    // One that appeared.
    place.write("new", "appeared");
    let cause = place.place(place.stage("new"), "new", None).unwrap_err();
    assert!(changed(&cause), "{cause}");
    assert_eq!(place.read("new"), "appeared");
    // One that is gone takes nothing with it.
    let stamp = place.write("gone", "planned");
    fs::remove_file(place.path("gone")).unwrap();
    place
        .place(place.stage("new"), "gone", Some(stamp))
        .unwrap();
    assert_eq!(place.read("gone"), "new");
    assert_eq!(place.staged(), Vec::<String>::new());
}

#[track_caller]
fn must_be_refused_but_copies(
    place: &Place,
    path: &str,
    stamp: Stamp,
    allowed: fn(&DiskError) -> bool,
) {
    let before = place.listed();
    let trash = Trash::new("T");
    let refused = [
        place.place(place.stage("new"), path, None).err(),
        place.place(place.stage("new"), path, Some(stamp)).err(),
        place.replica.stage_move(&name(path), stamp, OF).err(),
        place
            .replica
            .stage_copy(&name(path), root("planned"), OF)
            .err(),
        place.replica.set_attributes(&name(path), stamp, OF).err(),
        place.replica.delete(&name(path), stamp, None).err(),
        place.replica.delete(&name(path), stamp, Some(&trash)).err(),
    ];
    for (number, refused) in refused.into_iter().enumerate() {
        let cause = refused.unwrap_or_else(|| panic!("{path}: {number} was not refused"));
        assert!(allowed(&cause), "{path}: {number}: {cause}");
    }
    assert_eq!(place.listed(), before, "{path}");
}

#[test]
fn names_are_kept_to_the_letter() {
    let place = Place::new();
    let long = "ä".repeat(127) + "x";
    let (deep, deepest) = ("d/".repeat(2047) + "e", "d/".repeat(1900) + &long);
    assert_eq!((long.len(), deep.len(), deepest.len()), (255, 4095, 4055));
    let names = [
        "-rf",
        "--",
        "~",
        "~root",
        "%2e%2e%2fetc",
        "%2F",
        "CON",
        "aux.txt",
        "COM1",
        "dot.",
        "blank ",
        " ",
        "...",
        "a:b",
        "a*?\"<>|",
        "Case",
        "case",
        "CASE/x",
        "\u{e9}",
        "e\u{301}",
        "\u{ac00}",
        "\u{1100}\u{1161}",
        "ß",
        "ss",
        "ﬁ",
        "fi",
        &long,
        &deep,
        &deepest,
        "$(x)",
        "'",
        ".hidden",
        "library",
        "sub/library.sapwood",
    ];
    let batch = names.iter().map(|path| Placement {
        staged: place.stage(path),
        path: name(path),
        replaces: None,
    });
    for placed in place.replica.place(batch.collect()) {
        placed.unwrap();
    }
    let mut walked: Vec<String> = place
        .replica
        .folder()
        .walk(|path| path != Path::new(STAGING))
        .unwrap()
        .into_iter()
        .map(|walked| walked.path.to_str().unwrap().to_owned())
        .collect();
    walked.sort();
    let mut names = names.map(str::to_owned).to_vec();
    names.sort();
    assert_eq!(walked, names);
    for path in &names {
        let (mut file, _) = place
            .replica
            .folder()
            .open_file_below(Path::new(path))
            .unwrap()
            .unwrap();
        let mut bytes = String::new();
        std::io::Read::read_to_string(&mut file, &mut bytes).unwrap();
        assert_eq!(bytes, *path);
    }
    // The same where the file system may change names, which is looked up then.
    for path in &names {
        let stamp = place.stamp(path);
        place.replica.delete(&name(path), stamp, None).unwrap();
    }
    let all: Vec<LibraryPath> = names.iter().map(|path| name(path)).collect();
    place.replica.remove_emptied(&all).unwrap();
    assert_eq!(place.listed(), Vec::<String>::new());
}

#[test]
fn a_folder_that_is_deeper_than_any_path_is_walked_around() {
    let place = Place::new();
    place.write("file", "file");
    let mut folder = place.replica.folder().again().unwrap();
    for _ in 0..30 {
        let name = OsStr::new("x").to_owned();
        let name = std::ffi::OsString::from(name.to_str().unwrap().repeat(200));
        folder.make_folder(&name, 0o777).unwrap();
        folder = folder.folder_of_name(&name).unwrap();
    }
    folder.create(OsStr::new("deep"), 0o666).unwrap();
    let walked = place.replica.folder().walk(|_| true).unwrap();
    let walked: Vec<_> = walked.into_iter().map(|walked| walked.path).collect();
    assert_eq!(walked, [Path::new("file")]);
    // No tool that takes paths removes it.
    fs::rename(place.path("x".repeat(200).as_str()), place.path("y")).unwrap();
    std::process::Command::new("rm")
        .arg("-rf")
        .arg(place.path("y"))
        .status()
        .unwrap();
}

#[test]
fn where_names_may_be_changed_each_is_looked_up() {
    let place = Place::new();
    place.replica.folds.set(true).unwrap();
    place.place(place.stage("new"), "Sub/File", None).unwrap();
    place
        .place(
            place.stage("newer"),
            "Sub/File",
            Some(place.stamp("Sub/File")),
        )
        .unwrap();
    place.place(place.stage("new"), "sub/file", None).unwrap();
    assert_eq!(place.read("Sub/File"), "newer");
    let taken = place
        .place(place.stage("new"), "sub/file", None)
        .unwrap_err();
    assert!(matches!(taken, DiskError::ChangedSince { .. }), "{taken}");
}

#[test]
fn this_file_system_keeps_names_apart() {
    let place = Place::new();
    place.place(place.stage("new"), "file", None).unwrap();
    assert_eq!(place.replica.folds.get(), Some(&false));
    assert_eq!(place.staged(), Vec::<String>::new());
}

#[test]
fn files_change_places_in_any_order() {
    let place = Place::new();
    let stamps: Vec<Stamp> = ["a", "b", "c"]
        .iter()
        .map(|path| place.write(path, path))
        .collect();
    let staged: Vec<Staged> = (0..3)
        .map(|at| {
            place
                .replica
                .stage_move(&name(["a", "b", "c"][at]), stamps[at], OF)
                .unwrap()
        })
        .collect();
    // Nothing has changed before they are placed.
    assert_eq!(
        (place.read("a"), place.stamp("a")),
        ("a".to_owned(), stamps[0])
    );
    let batch = staged.into_iter().zip(["b", "c", "a"]).zip([1, 2, 0]);
    let batch = batch.map(|((staged, path), replaced)| Placement {
        staged,
        path: name(path),
        replaces: Some(stamps[replaced]),
    });
    for (at, placed) in place.replica.place(batch.collect()).into_iter().enumerate() {
        let entry = placed.unwrap();
        assert_eq!(
            entry.inode, stamps[at].inode,
            "a file that is moved is not copied"
        );
        assert_eq!(entry.modified_ns(), Some(OF.modified_ns));
    }
    assert_eq!(
        [place.read("a"), place.read("b"), place.read("c")],
        ["c", "a", "b"]
    );
    assert_eq!(place.staged(), Vec::<String>::new());
    // Into a folder; the old name goes away then, although the attributes have changed.
    let stamp = place.stamp("a");
    let to = Attributes {
        modified_ns: -1_500_000_001,
        is_executable: true,
    };
    let staged = place.replica.stage_move(&name("a"), stamp, to).unwrap();
    let entry = place.place(staged, "sub/deep/a", None).unwrap();
    assert_eq!(
        (entry.modified_ns(), entry.is_executable()),
        (Some(-1_500_000_001), true)
    );
    place.replica.delete(&name("a"), stamp, None).unwrap();
    assert!(!place.path("a").exists());
    assert_eq!(place.read("sub/deep/a"), "c");
}

#[test]
fn a_copy_is_proven() {
    let place = Place::new();
    let content = "x".repeat(300_000);
    place.write("file", &content);
    let staged = place
        .replica
        .stage_copy(&name("file"), root(&content), OF)
        .unwrap();
    place.place(staged, "copy", None).unwrap();
    assert_eq!(place.read("copy"), content);
    assert_ne!(place.stamp("copy").inode, place.stamp("file").inode);
    let cause = place
        .replica
        .stage_copy(&name("file"), root("other"), OF)
        .unwrap_err();
    assert!(matches!(cause, DiskError::ChangedSince { .. }), "{cause}");
    // Zeros need no room, at the end neither.
    let zeros = File::create(place.path("zeros")).unwrap();
    files::set_length(&zeros, &place.path("zeros"), 64 << 20).unwrap();
    let of_zeros = root_of(&vec![0; 64 << 20]);
    let staged = place
        .replica
        .stage_copy(&name("zeros"), of_zeros, OF)
        .unwrap();
    let entry = place.place(staged, "hole", None).unwrap();
    assert_eq!(entry.length, 64 << 20);
    assert!(fs::metadata(place.path("hole")).unwrap().blocks() < 1000);
    let staged = place.replica.stage_copy(&name("hole"), root(""), OF);
    assert!(staged.is_err());
    assert_eq!(place.staged(), Vec::<String>::new());
}

#[test]
fn permissions_are_those_of_new_files_or_of_the_replaced_one() {
    let place = Place::new();
    let mode = |path: &str| fs::metadata(place.path(path)).unwrap().mode() & 0o7777;
    let executable = Attributes {
        is_executable: true,
        ..OF
    };
    let of_new = default_mode();
    place.place(place.stage("new"), "file", None).unwrap();
    assert_eq!(mode("file"), of_new);
    let staged = place.replica.stage_bytes(b"new", executable).unwrap();
    let entry = place.place(staged, "program", None).unwrap();
    assert_eq!(mode("program"), executable_mode(of_new, true));
    assert_eq!(entry.modified_ns(), Some(OF.modified_ns));
    // What the user allowed to nobody else stays so; a set-user-ID bit does not stay.
    fs::set_permissions(place.path("program"), fs::Permissions::from_mode(0o4700)).unwrap();
    place
        .place(
            place.stage("newer"),
            "program",
            Some(place.stamp("program")),
        )
        .unwrap();
    assert_eq!(mode("program"), 0o600);
    let entry = place
        .replica
        .set_attributes(&name("program"), place.stamp("program"), executable)
        .unwrap();
    assert_eq!((mode("program"), entry.mode), (0o700, 0o700));
    assert_eq!(place.read("program"), "newer");
}

#[test]
fn attributes_that_are_right_are_not_set_again() {
    let place = Place::new();
    let placed = place.place(place.stage("new"), "file", None).unwrap();
    thread::sleep(Duration::from_millis(20));
    let entry = place
        .replica
        .set_attributes(&name("file"), placed.stamp(), OF)
        .unwrap();
    assert_eq!(entry.attributes_changed, placed.attributes_changed);
}

#[test]
fn a_part_of_the_staging_folder_is_kept_for_those_who_want_it() {
    let place = Place::new();
    let staging = place.replica.staging().unwrap();
    assert_eq!(
        fs::metadata(place.path(STAGING)).unwrap().mode() & 0o777,
        0o700
    );
    let destination = Destination::in_folder(staging.into(), "object".into()).unwrap();
    assert_eq!(destination.path(), place.path(STAGING).join("object"));
    for name in ["object", "object.part", "old", ".sapwood-1-1"] {
        fs::write(place.path(STAGING).join(name), name).unwrap();
    }
    fs::create_dir(place.path(STAGING).join("folder")).unwrap();
    symlink(place.outside("file"), place.path(STAGING).join("link")).unwrap();
    let outside = listed(&place.outside(""));
    place
        .replica
        .clean_staging(|name| name.to_string_lossy().starts_with("object"))
        .unwrap();
    let mut left: Vec<_> = fs::read_dir(place.path(STAGING))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["folder", "object", "object.part"]);
    assert_eq!(listed(&place.outside("")), outside);
    // One that is not placed stays for the next run.
    drop(place.replica.stage_named(OsStr::new("object"), OF).unwrap());
    let staged = place.replica.stage_named(OsStr::new("object"), OF).unwrap();
    place.place(staged, "sub/object", None).unwrap();
    assert_eq!(place.read("sub/object"), "object");
    place.replica.remove_staging().unwrap();
    assert!(place.path(STAGING).exists(), "it was not empty");
    fs::remove_file(place.path(STAGING).join("object.part")).unwrap();
    fs::remove_dir(place.path(STAGING).join("folder")).unwrap();
    place.replica.remove_staging().unwrap();
    assert!(!place.path(STAGING).exists());
    // It is made anew.
    place.place(place.stage("new"), "file", None).unwrap();
}

#[test]
fn a_staging_folder_that_is_a_link_is_refused() {
    for kept in [STAGING, TRASH] {
        let place = Place::new();
        let stamp = place.write("file", "file");
        symlink(place.outside(""), place.path(kept)).unwrap();
        let outside = listed(&place.outside(""));
        let staged = place.replica.stage_bytes(b"new", OF);
        assert_eq!(staged.is_err(), kept == STAGING);
        drop(staged);
        let deleted = place
            .replica
            .delete(&name("file"), stamp, Some(&Trash::new("T")));
        assert_eq!(deleted.is_err(), kept == TRASH);
        place.replica.clean_staging(|_| false).unwrap();
        assert_eq!(listed(&place.outside("")), outside);
    }
}

#[test]
fn what_was_staged_is_what_gets_the_name() {
    let place = Place::new();
    let staged_file = || {
        let name = fs::read_dir(place.path(STAGING))
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        name.path()
    };
    let refused = |placed: Result<Entry, DiskError>| {
        let cause = placed.unwrap_err();
        assert!(
            matches!(
                cause,
                DiskError::ChangedAfterProof { .. } | DiskError::Gone { .. }
            ),
            "{cause}"
        );
        assert!(!place.path("file").exists());
    };
    // Written to, with its time put back.
    let staged = place.stage("proven");
    let time = fs::metadata(staged_file()).unwrap().modified().unwrap();
    thread::sleep(Duration::from_millis(20));
    fs::write(staged_file(), "forged").unwrap();
    set_modified(&staged_file(), time);
    refused(place.place(staged, "file", None));
    // Replaced.
    let staged = place.stage("proven");
    fs::write(place.path("forged"), "forged").unwrap();
    fs::rename(place.path("forged"), staged_file()).unwrap();
    refused(place.place(staged, "file", None));
    // Replaced by a link.
    let staged = place.stage("proven");
    let path = staged_file();
    fs::remove_file(&path).unwrap();
    symlink(place.outside("file"), &path).unwrap();
    refused(place.place(staged, "file", None));
    // Removed.
    let staged = place.stage("proven");
    fs::remove_file(staged_file()).unwrap();
    refused(place.place(staged, "file", None));
    // A moved one, before it is opened.
    let stamp = place.write("from", "proven");
    let staged = place.replica.stage_move(&name("from"), stamp, OF).unwrap();
    fs::write(place.path("from"), "forged!").unwrap();
    refused(place.place(staged, "file", None));
    assert_eq!(place.read("from"), "forged!");
}

#[test]
fn deleted_files_are_in_the_trash_of_their_run() {
    let place = Place::new();
    let trash = Trash::new("2026-01-02T03:04:05Z");
    assert!(!place.path(TRASH).exists(), "it is made when it is needed");
    let delete = |path: &str, trash: &Trash| {
        let kept = place
            .replica
            .delete(&name(path), place.stamp(path), Some(trash))
            .unwrap();
        kept.expect("its path in the trash")
    };
    for path in ["a", "sub/deep/b", "sub/c"] {
        place.write(path, path);
        let kept = delete(path, &trash);
        assert_eq!(
            kept,
            Path::new(TRASH).join("2026-01-02T03:04:05Z").join(path)
        );
        assert_eq!(fs::read_to_string(place.path("").join(kept)).unwrap(), path);
        assert!(!place.path(path).exists());
    }
    // Another run of the same second.
    place.write("a", "another");
    let kept = delete("a", &Trash::new("2026-01-02T03:04:05Z"));
    assert_eq!(kept, Path::new(TRASH).join("2026-01-02T03:04:05Z.2/a"));
    // A file in the trash is never replaced.
    place.write("a", "third");
    let cause = place
        .replica
        .delete(&name("a"), place.stamp("a"), Some(&trash))
        .unwrap_err();
    assert!(matches!(cause, DiskError::Exists { .. }), "{cause}");
    assert_eq!(place.read("a"), "third");
    assert_eq!(
        fs::metadata(place.path(TRASH)).unwrap().mode() & 0o777,
        0o700
    );
    // What is gone is no error, and for good is for good.
    let stamp = place.write("b", "b");
    assert_eq!(place.replica.delete(&name("b"), stamp, None).unwrap(), None);
    assert_eq!(place.replica.delete(&name("b"), stamp, None).unwrap(), None);
    assert_eq!(
        place.replica.delete(&name("no/b"), stamp, None).unwrap(),
        None
    );
    assert_eq!(place.staged(), Vec::<String>::new());
}

#[test]
fn only_emptied_folders_are_removed() {
    let place = Place::new();
    for path in ["a/b/c/gone", "a/kept", "d/e/gone", "empty/x"] {
        place.write(path, path);
    }
    fs::create_dir_all(place.path("d/e/other")).unwrap();
    fs::remove_file(place.path("empty/x")).unwrap();
    let gone = ["a/b/c/gone", "d/e/gone"].map(name);
    for path in &gone {
        place
            .replica
            .delete(path, place.stamp(path.as_str()), None)
            .unwrap();
    }
    place.replica.remove_emptied(&gone).unwrap();
    assert!(!place.path("a/b").exists());
    for kept in ["a/kept", "d/e/other", "empty"] {
        assert!(place.path(kept).exists(), "{kept}");
    }
}

#[test]
fn one_run_has_the_folder() {
    let place = Place::new();
    let again = Replica::open(&place.path(""));
    assert!(matches!(again, Err(DiskError::Busy { .. })));
    let path = place.path("");
    drop(place.replica);
    drop(Replica::open(&path).unwrap());
    // What is missing is made, and goes if nothing came.
    drop(Replica::open(&path.join("no/dir")).unwrap());
    assert!(!path.exists());
    fs::create_dir(&path).unwrap();
    fs::write(path.join("file"), "file").unwrap();
    assert!(Replica::open(&path.join("file")).is_err());
}

#[test]
fn one_bad_file_does_not_stop_the_others() {
    let place = Place::new();
    place.write("taken", "taken");
    symlink(place.outside(""), place.path("link")).unwrap();
    let paths = ["a", "link/b", "c/d", "taken", "taken/e", "f"];
    let batch = paths.map(|path| Placement {
        staged: place.stage(path),
        path: name(path),
        replaces: None,
    });
    let placed = place.replica.place(batch.into());
    let placed: Vec<bool> = placed.iter().map(Result::is_ok).collect();
    assert_eq!(placed, [true, false, true, false, false, true]);
    assert_eq!(listed(&place.outside("")).len(), 2);
    assert_eq!(place.staged(), Vec::<String>::new());
}
