//! `sapwood sync`: a folder is kept in step with a library.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use rustix::process::Signal;
use sapwood::format::paint;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    packed,
    support::{
        origin::{Asks, Lie, Of, Origin},
        program::{Ended, command, run, sapwood, start},
        programs::{library_reference, output_of},
        scene::names,
    },
};

const INDEX: &str = "/media/library.sapwood";
const MANIFEST: &str = "/media/library.sapwood.sapwood";

/// A library on a server, and a folder that is kept in step with it.
struct Pair {
    folder: TempDir,
    origin: Origin,
}

/// What a folder holds: of each file its bytes, its time, and whether it is executable.
type Tree = BTreeMap<String, (Vec<u8>, i64, bool)>;

impl Pair {
    fn empty() -> Pair {
        let folder = TempDir::new().unwrap();
        let any = ([127, 0, 0, 1], 0).into();
        let origin = Origin::start_on(any, Some(folder.path().to_owned()), None).unwrap();
        fs::create_dir(folder.path().join("media")).unwrap();
        Pair { folder, origin }
    }

    /// Files of each kind, published.
    fn new() -> Pair {
        let pair = Pair::empty();
        for (number, (path, length)) in [
            ("films/a.mp4", 300_000),
            ("films/b.mp4", 200_000),
            ("films/a-b", 1),
            ("films/deep/er/x", 65_536),
            ("films/deep/y", 65_537),
            ("empty", 0),
            ("gemälde 50%?#.bin", 5000),
            ("notes/one.txt", 20_000),
            ("notes/two.txt", 30_000),
        ]
        .into_iter()
        .enumerate()
        {
            pair.write(path, number as u64, length);
        }
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(pair.remote("films/a-b"), mode).unwrap();
        pair.publish(&[]);
        pair
    }

    /// The same, after a first sync.
    fn synced() -> Pair {
        let pair = Pair::new();
        pair.sync(&[]).must(0);
        pair.origin.forget_log();
        pair
    }

    fn remote(&self, name: &str) -> PathBuf {
        self.folder.path().join("media").join(name)
    }

    fn here(&self, name: &str) -> PathBuf {
        self.folder.path().join("copy").join(name)
    }

    /// Files are old, so that each has a time of its own.
    fn write(&self, name: &str, content: u64, length: usize) {
        self.write_bytes(name, &paint::bytes(content * 1_000_000, length));
    }

    fn write_bytes(&self, name: &str, bytes: &[u8]) {
        write(&self.remote(name), bytes);
    }

    fn rename(&self, from: &str, to: &str) {
        fs::create_dir_all(self.remote(to).parent().unwrap()).unwrap();
        fs::rename(self.remote(from), self.remote(to)).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.remote(name)).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        let mut command = sapwood(self.folder.path());
        command.args(arguments);
        run(command)
    }

    fn publish(&self, more: &[&str]) {
        let arguments = [&["manifest", "--read-all", "media"][..], more].concat();
        self.run(&arguments).must(0);
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = sapwood(self.folder.path());
        let url = self.origin.url("/media");
        command.args(["--json", "sync", &url, "copy"]).args(more);
        command
    }

    fn sync(&self, more: &[&str]) -> Ended {
        run(self.command(more))
    }

    /// Syncs, and returns the result.
    #[track_caller]
    fn done(&self, more: &[&str]) -> Value {
        self.sync(more).must(0).event("synced")
    }

    #[track_caller]
    fn must_be_equal(&self) {
        let (remote, here) = (tree(&self.remote("")), tree(&self.here("")));
        let paths = |tree: &Tree| tree.keys().cloned().collect::<Vec<_>>();
        assert_eq!(paths(&here), paths(&remote));
        for (path, file) in remote {
            assert!(here[&path].0 == file.0, "{path} has other bytes");
            assert_eq!((here[&path].1, here[&path].2), (file.1, file.2), "{path}");
        }
        for left in ["library.sapwood.staging", "library.sapwood.trash"] {
            assert!(!self.here(left).exists(), "{left}");
        }
    }

    /// Body bytes that were sent, and requests.
    fn sent(&self) -> (u64, usize) {
        let log = self.origin.log();
        (log.iter().map(|asked| asked.bytes_sent).sum(), log.len())
    }

    /// The paths of all requests but those for index and manifests, sorted.
    fn asked(&self) -> Vec<String> {
        let log = self.origin.log().into_iter();
        let mut paths: Vec<String> = log
            .map(|asked| asked.path)
            .filter(|path| !path.contains("library.sapwood"))
            .collect();
        paths.sort();
        paths.dedup();
        paths
    }
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
    let age = bytes.len() as u64 + 3600;
    let file = File::options().append(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(age))
        .unwrap();
}

/// What a folder holds, without what belongs to a library.
fn tree(folder: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(now) = folders.pop() {
        for entry in fs::read_dir(&now).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(folder).unwrap();
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("library.sapwood") {
                continue;
            }
            let found = fs::symlink_metadata(&path).unwrap();
            if found.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = match found.is_file() {
                true => fs::read(&path).unwrap(),
                false => b"not a file".to_vec(),
            };
            let modified = found.mtime() * 1_000_000_000 + found.mtime_nsec();
            tree.insert(name, (bytes, modified, found.mode() & 0o100 != 0));
        }
    }
    tree
}

#[test]
fn a_folder_becomes_what_the_library_says() {
    let pair = Pair::new();
    let synced = pair.done(&[]);
    pair.must_be_equal();
    assert_eq!(synced["files_total"], 9);
    assert_eq!(synced["fetched"], 9);
    assert_eq!(synced["bytes_total"], 686_074);
    assert_eq!(synced["trust"], "manifest");
    // The second implementation reads what it noted, and finds the files so.
    output_of(
        library_reference().arg("verify-state").arg(pair.here("")),
        b"",
    );
    let planned = pair.sync(&[]).must(0).event("planned");
    assert_eq!(
        (&planned["bytes_total"], &planned["bytes_held"]),
        (&686_074.into(), &686_074.into())
    );
    let own: Vec<String> = names(&pair.here(""))
        .into_iter()
        .filter(|name| name.starts_with("library.sapwood"))
        .collect();
    assert_eq!(
        own,
        [
            "library.sapwood",
            "library.sapwood.sapwood",
            "library.sapwood.sync"
        ]
    );
    // The URL may be that of the index; what was typed after a question mark goes with each request.
    let other = Pair::new();
    let mut command = sapwood(other.folder.path());
    let url = other.origin.url("/media/library.sapwood?token=7");
    command.args(["sync", &url, "copy"]);
    let ended = run(command).must(0);
    assert!(ended.stdout.contains("9 files"), "{}", ended.stdout);
    other.must_be_equal();
    for asked in other.origin.log() {
        assert_eq!(asked.query.as_deref(), Some("token=7"), "{}", asked.path);
    }
}

#[test]
fn nothing_changed_costs_one_small_request() {
    let pair = Pair::synced();
    let before = fs::metadata(pair.here("library.sapwood.sync")).unwrap();
    let synced = pair.done(&[]);
    let (bytes, requests) = pair.sent();
    assert!(
        bytes <= 3000 && requests <= 2,
        "{bytes} bytes, {requests} requests"
    );
    assert_eq!(synced["unchanged"], 9);
    assert_eq!(synced["bytes_fetched"], bytes);
    let after = fs::metadata(pair.here("library.sapwood.sync")).unwrap();
    assert_eq!(after.ino(), before.ino(), "the state was written again");
    pair.must_be_equal();
}

/// A file that was a little larger than a small one took four requests, a part and a journal.
#[test]
fn a_new_file_of_two_blocks_takes_one_request() {
    let pair = Pair::empty();
    pair.write("photo", 1, 100_000);
    pair.write("film", 2, 200_000);
    pair.publish(&[]);
    let lie = Lie::FlipAt(70_000);
    pair.origin
        .lie("/media/photo", Asks::Anything, Of::First(1), lie);
    pair.sync(&[]).must(0);
    pair.must_be_equal();
    let log = pair.origin.log();
    let of_photo = log.iter().filter(|asked| asked.path == "/media/photo");
    assert_eq!(of_photo.count(), 2, "the first response was wrong");
    let manifests = log
        .iter()
        .filter(|asked| asked.path.contains("library.sapwood.d"));
    let mut manifests: Vec<&str> = manifests.map(|asked| &asked.path[..]).collect();
    manifests.dedup();
    assert_eq!(manifests.len(), 1, "that of the film: {manifests:?}");
    // Of an update only what differs is fetched.
    pair.origin.forget_log();
    let mut bytes = paint::bytes(1_000_000, 100_000);
    bytes[70_000] ^= 1;
    pair.write_bytes("photo", &bytes);
    pair.publish(&[]);
    pair.sync(&[]).must(0);
    pair.must_be_equal();
    assert!(pair.origin.sent("/media/photo") < 10_000);
}

#[test]
fn of_a_changed_file_only_what_changed_is_fetched() {
    let pair = Pair::empty();
    for number in 0..4 {
        pair.write(&format!("large {number}"), number, 3_000_000);
        pair.write(&format!("small {number}"), 10 + number, 60_000);
    }
    pair.publish(&[]);
    pair.sync(&[]).must(0);
    pair.origin.forget_log();
    let mut bytes = paint::bytes(0, 3_000_000);
    bytes.splice(1_500_000..1_500_000, *b"inserted");
    pair.write_bytes("large 0", &bytes);
    let mut bytes = paint::bytes(10_000_000, 60_000);
    bytes[30_000] ^= 1;
    pair.write_bytes("small 0", &bytes);
    pair.publish(&[]);
    let synced = pair.done(&[]);
    pair.must_be_equal();
    assert_eq!(
        (&synced["fetched"], &synced["unchanged"]),
        (&2.into(), &6.into())
    );
    assert_eq!(pair.asked(), ["/media/large%200", "/media/small%200"]);
    let small = pair.origin.log_of("/media/small%200");
    assert_eq!(small.len(), 1);
    assert_eq!(small[0].range, Some(29_696..30_720));
    let large = pair.origin.sent("/media/large%200");
    assert!(large < 300_000, "{large}");
}

#[test]
fn renamed_files_are_moved_and_not_fetched() {
    let pair = Pair::synced();
    pair.rename("films/a.mp4", "cinema/first.mp4");
    pair.rename("notes/one.txt", "notes/1.txt");
    // Two names are swapped, and three in a circle.
    pair.rename("films/deep/y", "x");
    pair.rename("films/deep/er/x", "films/deep/y");
    pair.rename("x", "films/deep/er/x");
    pair.publish(&[]);
    let ended = pair.sync(&["--delete"]).must(0);
    let synced = ended.event("synced");
    pair.must_be_equal();
    assert_eq!(pair.asked(), Vec::<String>::new());
    assert_eq!(synced["moved"], 4);
    assert_eq!(
        (&synced["deleted"], &synced["fetched"]),
        (&0.into(), &0.into())
    );
    assert_eq!(ended.all("moved").len(), 4);
    assert_eq!(ended.all("published").len(), 4);
    pair.origin.forget_log();
    pair.done(&["--delete"]);
    assert_eq!(pair.sent().1, 1);
}

#[test]
fn copies_are_made_here() {
    let pair = Pair::new();
    // Two of one content are fetched once, small and large.
    for name in ["films/a.mp4", "notes/one.txt"] {
        fs::copy(pair.remote(name), pair.remote(&format!("{name} copy"))).unwrap();
    }
    pair.publish(&[]);
    pair.done(&[]);
    pair.must_be_equal();
    assert_eq!(pair.asked().len(), 8, "{:?}", pair.asked());
    // Without --delete nothing goes, so what has a new name is copied.
    pair.origin.forget_log();
    pair.rename("films/b.mp4", "films/c.mp4");
    pair.publish(&[]);
    let synced = pair.done(&[]);
    assert_eq!(
        (&synced["copied"], &synced["fetched"]),
        (&1.into(), &0.into())
    );
    assert_eq!(pair.asked(), Vec::<String>::new());
    let (old, new) = (pair.here("films/b.mp4"), pair.here("films/c.mp4"));
    assert!(fs::read(&old).unwrap() == fs::read(&new).unwrap());
    assert_ne!(
        fs::metadata(&old).unwrap().ino(),
        fs::metadata(&new).unwrap().ino()
    );
}

#[test]
fn what_is_not_listed_goes_to_the_trash_and_folders_with_it() {
    let pair = Pair::synced();
    pair.remove("films/deep/er/x");
    pair.remove("empty");
    write(&pair.here("mine/own"), b"mine");
    pair.publish(&[]);
    assert_eq!(pair.done(&[])["deleted"], 0);
    assert!(pair.here("films/deep/er/x").exists());
    let ended = pair.sync(&["--delete"]).must(0);
    assert_eq!(ended.event("synced")["deleted"], 3);
    let trash = names(&pair.here("library.sapwood.trash"));
    assert_eq!(trash.len(), 1);
    let trash = pair.here("library.sapwood.trash").join(&trash[0]);
    let kept = fs::read(trash.join("films/deep/er/x")).unwrap();
    assert!(kept == paint::bytes(3_000_000, 65_536));
    assert_eq!(fs::read(trash.join("mine/own")).unwrap(), b"mine");
    for event in ended.all("deleted") {
        let kept = pair.folder.path().join(event["trash"].as_str().unwrap());
        assert!(kept.is_file(), "{event}");
    }
    assert!(!pair.here("films/deep/er").exists() && !pair.here("mine").exists());
    fs::remove_dir_all(pair.here("library.sapwood.trash")).unwrap();
    pair.must_be_equal();
    // For good.
    pair.remove("notes/one.txt");
    pair.publish(&[]);
    pair.sync(&["--delete", "--no-trash"]).must(0);
    pair.must_be_equal();
}

#[test]
fn more_deletions_than_allowed_change_nothing() {
    let pair = Pair::synced();
    for name in [
        "films/a.mp4",
        "films/b.mp4",
        "films/a-b",
        "empty",
        "notes/one.txt",
    ] {
        pair.remove(name);
    }
    pair.write("new", 77, 1000);
    pair.publish(&[]);
    let before = (tree(&pair.here("")), names(&pair.here("")));
    for more in [&[][..], &["--delete-max", "4"], &["--delete-max", "55%"]] {
        let ended = pair.sync(&[&["--delete"][..], more].concat()).must(6);
        assert!(
            ended.stderr.contains("5 of the 9 files"),
            "{}",
            ended.stderr
        );
        let staged: Vec<String> = names(&pair.here(""));
        assert_eq!((tree(&pair.here("")), staged), before);
    }
    pair.sync(&["--delete", "--delete-max", "5", "--no-trash"])
        .must(0);
    pair.must_be_equal();
}

#[test]
fn an_empty_index_deletes_nothing() {
    let pair = Pair::synced();
    let before = tree(&pair.here(""));
    for (path, _) in tree(&pair.remote("")) {
        pair.remove(&path);
    }
    pair.publish(&[]);
    pair.sync(&["--delete"]).must(6);
    pair.sync(&["--delete", "--delete-max", "1000"]).must(6);
    assert!(tree(&pair.here("")) == before);
    pair.sync(&["--delete", "--delete-max", "100%", "--no-trash"])
        .must(0);
    assert!(tree(&pair.here("")).is_empty());
}

#[test]
fn what_is_filtered_out_is_not_touched() {
    let pair = Pair::new();
    let synced = pair.done(&["--include", "films", "--exclude", "deep/"]);
    assert_eq!(synced["files_total"], 3);
    let here: Vec<String> = tree(&pair.here("")).into_keys().collect();
    assert_eq!(here, ["films/a-b", "films/a.mp4", "films/b.mp4"]);
    write(&pair.here("films/own.tmp"), b"mine");
    write(&pair.here("notes/one.txt"), b"mine");
    pair.remove("films/b.mp4");
    pair.publish(&[]);
    pair.sync(&[
        "--delete",
        "--no-trash",
        "--exclude",
        "*.tmp",
        "--exclude",
        "notes",
    ])
    .must(0);
    assert_eq!(fs::read(pair.here("films/own.tmp")).unwrap(), b"mine");
    assert_eq!(fs::read(pair.here("notes/one.txt")).unwrap(), b"mine");
    assert!(!pair.here("films/b.mp4").exists() && pair.here("films/deep/y").exists());
    pair.sync(&["--exclude", "a{b"]).must(2);
}

#[test]
fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let pair = Pair::new();
    let synced = pair.done(&["--dry-run"]);
    assert_eq!(
        (&synced["fetched"], &synced["bytes_to_fetch"]),
        (&9.into(), &686_074.into())
    );
    assert!(!pair.here("").exists());
    pair.sync(&[]).must(0);
    pair.rename("films/a.mp4", "films/A.mp4");
    pair.write("notes/one.txt", 99, 20_000);
    pair.write("new", 98, 100);
    pair.remove("empty");
    pair.publish(&[]);
    let all = || {
        let read = |name: &String| (name.clone(), fs::read(pair.here(name)).unwrap_or_default());
        let own: Vec<_> = names(&pair.here("")).iter().map(read).collect();
        (tree(&pair.here("")), own)
    };
    let before = all();
    let ended = pair.sync(&["--dry-run", "--delete"]).must(0);
    assert!(all() == before);
    let mut intended: Vec<(String, String)> = ended
        .all("intended")
        .iter()
        .map(|event| {
            let text = |name: &str| event[name].as_str().unwrap().to_owned();
            (text("action"), text("path"))
        })
        .collect();
    intended.sort();
    let expected = [
        ("delete", "copy/empty"),
        ("fetch", "copy/new"),
        ("move", "copy/films/A.mp4"),
        ("update", "copy/notes/one.txt"),
    ];
    let expected = expected.map(|(action, path)| (action.to_owned(), path.to_owned()));
    assert_eq!(intended, expected);
    assert_eq!(ended.event("synced")["bytes_to_fetch"], 20_100);
    let mut text = sapwood(pair.folder.path());
    let url = pair.origin.url("/media");
    text.args(["sync", &url, "copy", "--dry-run", "--delete"]);
    let text = run(text).must(0).stdout;
    assert!(text.contains("move    copy/films/A.mp4"), "{text}");
    assert!(
        text.contains("would be: fetched 2, moved 1, deleted 1"),
        "{text}"
    );
    // More than may be deleted, which the message says that a dry run shows.
    let ended = pair.sync(&["--dry-run", "--delete", "--delete-max", "0"]);
    let intended = ended.must(6).all("intended").len();
    assert_eq!(intended, expected.len());
    assert!(all() == before);
}

#[test]
fn a_run_that_was_stopped_or_killed_goes_on() {
    for is_killed in [false, true] {
        let pair = Pair::empty();
        for number in 0..40 {
            pair.write(&format!("small {number}"), number, 10_000);
        }
        pair.write("large", 50, 8_000_000);
        pair.publish(&[]);
        pair.origin.allow("/media/large", 3_000_000);
        let mut running = start(pair.command(&[]));
        running.wait_for("the small files, and some of the large one", |events| {
            let published = |event: &&Value| event["event"] == "published";
            events.iter().filter(published).count() == 40 && pair.origin.is_spent("/media/large")
        });
        match is_killed {
            true => drop(running.kill()),
            false => {
                running.signal(Signal::TERM);
                let ended = running.finish().must(5);
                assert!(ended.stderr.contains("stopped"), "{}", ended.stderr);
            }
        }
        pair.origin.wait_until_idle();
        assert!(!pair.here("large").exists());
        pair.origin.allow_all();
        let (before, _) = pair.sent();
        let sent_before = pair.origin.sent("/media/large");
        pair.origin.forget_log();
        pair.sync(&[]).must(0);
        pair.must_be_equal();
        assert_eq!(pair.asked(), ["/media/large"], "killed: {is_killed}");
        // What was on its way into blocks comes again: at most one a connection.
        let sent = sent_before + pair.origin.sent("/media/large");
        assert!(sent < 8_000_000 + 16 * 65_536, "{sent} ({before})");
    }
}

#[test]
fn one_damaged_file_on_the_server_does_not_stop_the_others() {
    let pair = Pair::synced();
    pair.write("films/b.mp4", 60, 200_000);
    pair.write("notes/one.txt", 61, 20_000);
    pair.write("notes/two.txt", 62, 30_000);
    pair.remove("empty");
    pair.publish(&[]);
    pair.origin.lie(
        "/media/notes/one.txt",
        Asks::Anything,
        Of::All,
        Lie::FlipAt(7),
    );
    pair.origin.lie(
        "/media/films/b.mp4",
        Asks::Anything,
        Of::All,
        Lie::FlipAt(7),
    );
    let ended = pair.sync(&["--delete"]).must(3);
    let synced = ended.event("synced");
    assert_eq!(
        (&synced["failed"], &synced["fetched"]),
        (&2.into(), &1.into())
    );
    // With a failure nothing is deleted.
    assert_eq!(synced["deleted"], 0);
    assert!(pair.here("empty").exists());
    let mut failed: Vec<String> = ended
        .all("failed")
        .iter()
        .map(|event| event["path"].as_str().unwrap().to_owned())
        .collect();
    failed.sort();
    assert_eq!(failed, ["copy/films/b.mp4", "copy/notes/one.txt"]);
    // The old versions are whole.
    assert!(fs::read(pair.here("notes/one.txt")).unwrap() == paint::bytes(7_000_000, 20_000));
    assert!(fs::read(pair.here("films/b.mp4")).unwrap() == paint::bytes(1_000_000, 200_000));
    pair.origin.be_honest();
    pair.sync(&["--delete", "--no-trash"]).must(0);
    pair.must_be_equal();
}

#[test]
fn an_index_that_is_not_that_of_its_manifest_changes_nothing() {
    let pair = Pair::synced();
    let before = tree(&pair.here(""));
    let index = fs::read(pair.remote("library.sapwood")).unwrap();
    pair.write("films/b.mp4", 60, 200_000);
    pair.publish(&[]);
    // The manifest is new, the index old.
    let new = fs::read(pair.remote("library.sapwood")).unwrap();
    fs::write(pair.remote("library.sapwood"), index).unwrap();
    for more in [&[][..], &["--delete"], &["--no-store"]] {
        pair.sync(more).must(4);
        assert!(tree(&pair.here("")) == before);
    }
    fs::write(pair.remote("library.sapwood"), new).unwrap();
    pair.sync(&[]).must(0);
    pair.must_be_equal();
}

#[test]
fn an_older_library_is_refused_with_and_without_a_store() {
    let pair = Pair::empty();
    for name in ["studio", "other"] {
        pair.run(&["keygen", "--no-password", "-o", name]).must(0);
    }
    let versions: Vec<(Vec<u8>, Vec<u8>)> = (1..=3)
        .map(|version| {
            pair.write("a", version, 5000);
            let sequence = version.to_string();
            pair.publish(&["--sign", "studio.key", "--seq", &sequence]);
            let read = |name: &str| fs::read(pair.remote(name)).unwrap();
            (read("library.sapwood"), read("library.sapwood.sapwood"))
        })
        .collect();
    let serve = |(index, manifest): &(Vec<u8>, Vec<u8>)| {
        fs::write(pair.remote("library.sapwood"), index).unwrap();
        fs::write(pair.remote("library.sapwood.sapwood"), manifest).unwrap();
    };
    let key = ["--key", "studio.pub"];
    assert_eq!(pair.done(&key)["trust"], "signed");
    pair.must_be_equal();
    let before = tree(&pair.here(""));
    let refused = |more: &[&str]| {
        let ended = pair.sync(&[&key[..], more].concat()).must(3);
        assert!(tree(&pair.here("")) == before, "{more:?}");
        ended.stderr
    };
    serve(&versions[1]);
    for more in [
        &[][..],
        &["--no-store"],
        &["--dry-run"],
        &["--store", "elsewhere"],
    ] {
        let said = refused(more);
        assert!(said.contains("sequence number 2"), "{said}");
    }
    // Without the copy in the folder, the store knows.
    fs::remove_file(pair.here("library.sapwood.sapwood")).unwrap();
    refused(&[]);
    // Signed by another key, or not at all, or for another name, or expired.
    serve(&versions[2]);
    pair.sync(&["--key", "other.pub"]).must(3);
    pair.publish(&["--seq", "9"]);
    refused(&[]);
    pair.publish(&["--sign", "studio.key", "--seq", "9", "--name", "elsewhere"]);
    refused(&[]);
    pair.publish(&["--sign", "studio.key", "--seq", "9", "--expires", "1s"]);
    std::thread::sleep(Duration::from_millis(2100));
    refused(&[]);
    pair.publish(&["--sign", "studio.key", "--seq", "9"]);
    pair.sync(&key).must(0);
}

/// `manifest` replaces the copies of index and manifest.
#[test]
fn an_older_library_is_refused_by_a_copy_that_became_a_library() {
    let pair = Pair::empty();
    pair.run(&["keygen", "--no-password", "-o", "studio"])
        .must(0);
    let publish = |version: u64| {
        pair.write("a", version, 5000);
        let sequence = version.to_string();
        // A publisher that remembers signs no lower sequence number.
        let store = format!("publisher-{version}");
        pair.publish(&[
            "--sign",
            "studio.key",
            "--seq",
            &sequence,
            "--store",
            &store,
        ]);
    };
    let arguments = ["--key", "studio.pub", "--no-store"];
    publish(2);
    pair.sync(&arguments[2..]).must(0);
    // The first run with the key fetches no index again, and remembers what the key accepted.
    pair.sync(&arguments).must(0);
    pair.origin.forget_log();
    pair.sync(&arguments).must(0);
    assert_eq!(pair.sent(), (1536, 1));
    pair.run(&["manifest", "copy"]).must(0);
    let before = tree(&pair.here(""));
    publish(1);
    let ended = pair.sync(&arguments).must(3);
    assert!(
        ended.stderr.contains("sequence number 1"),
        "{}",
        ended.stderr
    );
    assert!(tree(&pair.here("")) == before);
    publish(3);
    pair.sync(&arguments).must(0);
    pair.must_be_equal();
}

#[test]
fn an_index_that_is_refused_changes_nothing() {
    let pair = Pair::synced();
    let before = tree(&pair.here(""));
    let mut index = fs::read(pair.remote("library.sapwood")).unwrap();
    // The flags of the first entry.
    index[66] = 9;
    fs::write(pair.remote("library.sapwood"), index).unwrap();
    pair.run(&["manifest", "media/library.sapwood"]).must(0);
    let ended = pair.sync(&["--delete"]).must(3);
    assert!(ended.stderr.contains("is refused"), "{}", ended.stderr);
    assert!(tree(&pair.here("")) == before);
    fs::write(
        pair.remote("library.sapwood.sapwood"),
        b"\x89SAPW not a manifest",
    )
    .unwrap();
    pair.sync(&["--delete"]).must(3);
    assert!(tree(&pair.here("")) == before);
}

#[test]
fn a_folder_is_made_with_all_above_it_or_not_at_all() {
    let pair = Pair::new();
    let sync = |url: &str, folder: &str| {
        let mut command = sapwood(pair.folder.path());
        command.args(["--json", "sync", url, folder]);
        run(command)
    };
    let path = |name: &str| pair.folder.path().join(name);
    fs::create_dir(path("there")).unwrap();
    // There is no library.
    sync(&pair.origin.url("/none"), "new/a/b").must(1);
    sync(&pair.origin.url("/none"), "there/b/c").must(1);
    sync(&pair.origin.url("/none"), "there").must(1);
    assert!(!path("new").exists());
    assert!(path("there").read_dir().unwrap().next().is_none());
    sync(&pair.origin.url("/media"), "new/a/b").must(0);
    assert!(tree(&path("new/a/b")) == tree(&pair.remote("")));
}

#[test]
fn a_server_without_a_library_or_none_at_all() {
    let pair = Pair::synced();
    fs::remove_file(pair.remote("library.sapwood.sapwood")).unwrap();
    let ended = pair.sync(&["--delete"]).must(1);
    assert!(
        ended.stderr.contains("sapwood manifest FOLDER"),
        "{}",
        ended.stderr
    );
    let mut command = sapwood(pair.folder.path());
    let port = super::support::nginx::free_port();
    let url = format!("http://127.0.0.1:{port}/media");
    command.args(["--json", "sync", &url, "copy", "--patience", "1"]);
    run(command).must(5);
    pair.run(&["sync", "ftp://h/x", "copy"]).must(6);
    pair.run(&["sync", "nowhere", "copy"]).must(2);
    assert_eq!(tree(&pair.here("")).len(), 9);
}

#[test]
fn a_second_run_touches_nothing() {
    let pair = Pair::new();
    pair.origin.allow("/media/films/a.mp4", 10);
    let mut first = start(pair.command(&[]));
    first.wait_for("some files", |events| {
        events.iter().any(|event| event["event"] == "published")
    });
    let asked = pair.origin.log().len();
    pair.sync(&[]).must(5);
    pair.sync(&["--dry-run"]).must(5);
    assert!(pair.origin.log().len() <= asked + 2);
    pair.origin.allow_all();
    first.finish().must(0);
    pair.must_be_equal();
}

#[test]
fn a_file_in_the_place_of_the_folder_stays() {
    let pair = Pair::new();
    fs::write(pair.folder.path().join("copy"), b"mine").unwrap();
    let ended = pair.sync(&[]);
    assert!([Some(2), Some(6)].contains(&ended.exit), "{ended:?}");
    assert_eq!(fs::read(pair.folder.path().join("copy")).unwrap(), b"mine");
    fs::remove_file(pair.folder.path().join("copy")).unwrap();
    // A file of the user in the place of the index is not replaced.
    write(&pair.here("library.sapwood"), b"mine");
    pair.sync(&[]).must(6);
    assert_eq!(fs::read(pair.here("library.sapwood")).unwrap(), b"mine");
    // A dry run would not make it either.
    fs::remove_dir_all(pair.here("")).unwrap();
    fs::write(pair.folder.path().join("copy"), b"mine").unwrap();
    pair.sync(&["--dry-run"]).must(6);
}

#[test]
fn a_file_that_was_changed_here_is_mended() {
    let pair = Pair::synced();
    let path = pair.here("films/a.mp4");
    // Not even its time shows it.
    change_unseen(&path);
    fs::write(pair.here("notes/one.txt"), b"mine").unwrap();
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(pair.here("notes/two.txt"), mode).unwrap();
    write(&pair.here("films/a-b"), &paint::bytes(2_000_000, 1));
    let synced = pair.done(&[]);
    pair.must_be_equal();
    assert_eq!(
        (&synced["fetched"], &synced["unchanged"]),
        (&2.into(), &7.into())
    );
    let large = pair.origin.sent("/media/films/a.mp4");
    assert!(large <= 65_536, "{large}");
    pair.origin.forget_log();
    assert_eq!(pair.done(&[])["unchanged"], 9);
    assert_eq!(pair.sent().1, 1);
}

/// Found: touched later, it made the run believe a file that had changed meanwhile. A state of the future does too.
#[test]
fn a_state_with_a_time_that_no_run_gave_it_is_not_believed() {
    for later in [Duration::ZERO, Duration::from_secs(3600)] {
        let pair = Pair::synced();
        change_unseen(&pair.here("films/a.mp4"));
        std::thread::sleep(Duration::from_millis(100));
        let state = pair.here("library.sapwood.sync");
        let state = File::options().append(true).open(state).unwrap();
        state.set_modified(SystemTime::now() + later).unwrap();
        assert_eq!(pair.done(&[])["fetched"], 1);
        pair.must_be_equal();
    }
}

/// Flips a bit, and restores the time.
fn change_unseen(path: &Path) {
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    let mut bytes = fs::read(path).unwrap();
    bytes[70_000] ^= 1;
    fs::write(path, bytes).unwrap();
    let file = File::options().append(true).open(path).unwrap();
    file.set_modified(modified).unwrap();
}

/// Found: after a power cut these were files like any other.
#[test]
fn what_killed_runs_were_writing_is_no_file_of_a_library() {
    let pair = Pair::new();
    // One process runs, the other number is above the highest.
    let (running, ended) = (".sapwood-1-2", ".sapwood-4194305-u3");
    for name in [running, ended] {
        pair.write_bytes(name, b"half of");
    }
    pair.publish(&[]);
    assert_eq!(pair.done(&[])["files_total"], 9);
    for name in [running, ended] {
        write(&pair.here(name), b"half of");
    }
    assert_eq!(pair.done(&["--delete"])["deleted"], 0);
    assert!(pair.here(running).exists() && !pair.here(ended).exists());
}

/// Found: a run that was killed after a file had its new name, and before the old one was deleted, left the staging folder for ever.
#[test]
fn what_killed_runs_left_of_files_that_are_done_goes() {
    let pair = Pair::synced();
    let large = pair.remote("films/a.mp4");
    let root = blake3::hash(&fs::read(large).unwrap()).to_string();
    let staging = pair.here("library.sapwood.staging");
    for name in [root.clone(), format!("{root}.part")] {
        write(&staging.join(name), b"old");
        fs::set_permissions(&staging, fs::Permissions::from_mode(0o700)).unwrap();
        pair.done(&[]);
        pair.must_be_equal();
    }
}

#[test]
fn what_a_user_may_have_meant_is_said() {
    let pair = Pair::new();
    let url = pair.origin.url("/media");
    pair.run(&["sync", &url, "-"]).must(2);
    let first = pair.sync(&[]).must(0);
    // Found: the index of the last run, which a first one cannot have, was missed.
    assert!(first.all("warning").is_empty(), "{}", first.stdout);
    let nothing = pair.sync(&["--include", "*.tyt"]).must(0);
    assert_eq!(nothing.all("warning").len(), 1);
}

#[test]
fn a_file_that_cannot_be_written_fails_and_others_go_on() {
    let pair = Pair::new();
    // Blocks of 512 bytes: one file is larger.
    let limited = "ulimit -f 400; exec \"$@\"";
    let program = pair.command(&["--no-store"]);
    let mut command = command("sh", pair.folder.path());
    command
        .args(["-c", limited, "sh"])
        .arg(program.get_program())
        .args(program.get_args());
    let ended = run(command).must(7);
    let synced = ended.event("synced");
    assert_eq!(
        (&synced["fetched"], &synced["failed"]),
        (&8.into(), &1.into())
    );
    let failed = ended.event("failed");
    assert_eq!(failed["path"], "copy/films/a.mp4");
    // As every other `failed`: they were missing.
    assert_eq!(
        (&failed["exit"], &failed["class"]),
        (&7.into(), &"disk".into())
    );
    // A user knows nothing of the file that was being written for it.
    let message = failed["message"].as_str().unwrap();
    assert!(message.contains("write copy/films/a.mp4"), "{message}");
    assert!(!ended.stderr.contains("staging"), "{}", ended.stderr);
    pair.sync(&[]).must(0);
    pair.must_be_equal();
}

#[test]
fn names_are_made_as_they_are_written_or_not_at_all() {
    let pair = Pair::empty();
    let odd = [
        "a:b", "CON", "con ", "e\u{301}", "\u{e9}", "-rf", "~", "a.", " b", "$(x)",
    ];
    for (number, name) in odd.iter().enumerate() {
        pair.write(name, number as u64, 100);
    }
    pair.write("in\u{200b}visible", 51, 100);
    let long = "n".repeat(255);
    pair.write(&long, 50, 100);
    pair.publish(&[]);
    let url = pair.origin.url("/media");
    let shown = pair
        .run(&["sync", &url, "copy", "--dry-run"])
        .must(0)
        .stdout;
    assert!(shown.contains("in\\u{200b}visible"), "{shown}");
    pair.sync(&[]).must(0);
    pair.must_be_equal();
    // What a library cannot list stays, also with --delete.
    for name in ["new\nline", "x.part", "back\\slash"] {
        write(&pair.here(name), b"mine");
    }
    symlink("nowhere", pair.here("link")).unwrap();
    pair.remove("CON");
    pair.publish(&[]);
    pair.sync(&["--delete", "--no-trash"]).must(0);
    for name in ["new\nline", "x.part", "back\\slash"] {
        assert_eq!(fs::read(pair.here(name)).unwrap(), b"mine");
    }
    assert!(pair.here("link").is_symlink() && !pair.here("CON").exists());
}

#[test]
fn links_are_never_followed_nor_replaced() {
    let pair = Pair::new();
    let outside = pair.folder.path().join("outside");
    write(&outside.join("a.mp4"), b"outside");
    fs::create_dir(pair.folder.path().join("copy")).unwrap();
    symlink(&outside, pair.here("films")).unwrap();
    symlink(outside.join("a.mp4"), pair.here("empty")).unwrap();
    fs::create_dir(pair.here("library.sapwood.trash")).unwrap();
    symlink(&outside, pair.here("notes")).unwrap();
    fs::remove_dir(pair.here("library.sapwood.trash")).unwrap();
    let ended = pair.sync(&["--delete", "--delete-max", "100%"]).must(6);
    assert_eq!(names(&outside), ["a.mp4"]);
    assert_eq!(fs::read(outside.join("a.mp4")).unwrap(), b"outside");
    let synced = ended.event("synced");
    assert_eq!(
        (&synced["fetched"], &synced["failed"]),
        (&1.into(), &8.into())
    );
    // The staging folder as a link, too.
    fs::remove_file(pair.here("films")).unwrap();
    symlink(&outside, pair.here("library.sapwood.staging")).unwrap();
    pair.sync(&[]).must(6);
    assert_eq!(names(&outside), ["a.mp4"]);
}

#[test]
fn a_file_becomes_a_folder_and_a_folder_a_file() {
    let pair = Pair::synced();
    pair.remove("empty");
    pair.write("empty/not", 60, 100);
    for name in ["notes/one.txt", "notes/two.txt"] {
        pair.remove(name);
    }
    fs::remove_dir(pair.remote("notes")).unwrap();
    pair.write("notes", 61, 100);
    pair.publish(&[]);
    // Only what may be deleted gives way.
    let ended = pair.sync(&[]).must(6);
    assert_eq!(ended.event("synced")["failed"], 2);
    assert!(ended.stderr.contains("in its way"), "{}", ended.stderr);
    pair.sync(&["--delete", "--no-trash"]).must(0);
    pair.must_be_equal();
}

#[test]
fn a_copy_verifies() {
    let pair = Pair::synced();
    let verified = pair.run(&["--json", "verify", "copy"]).must(0);
    assert_eq!(verified.event("verified")["bytes_total"], 686_074);
    assert!(verified.all("warning").is_empty());
    let mut bytes = fs::read(pair.here("films/a.mp4")).unwrap();
    bytes[70_000] ^= 1;
    fs::write(pair.here("films/a.mp4"), bytes).unwrap();
    let ended = pair.run(&["--json", "verify", "copy"]).must(3);
    assert_eq!(ended.all("damaged").len(), 1);
}

/// A copy has no manifests of its files; the store may know their leaves.
#[test]
fn a_damaged_block_of_a_copy_is_named_if_its_leaves_are_known() {
    let pair = Pair::synced();
    let mut bytes = fs::read(pair.here("films/a.mp4")).unwrap();
    bytes[150_000] ^= 1;
    fs::write(pair.here("films/a.mp4"), &bytes).unwrap();
    let verify = || {
        let ended = pair.run(&["--json", "verify", "copy"]).must(3);
        let damaged = ended.event("damaged");
        let field = |name: &str| damaged[name].as_u64();
        (field("block"), field("offset"), field("length"))
    };
    assert_eq!(verify(), (None, Some(0), Some(300_000)));
    pair.run(&["store", "add", "media/films/a.mp4"]).must(0);
    assert_eq!(verify(), (Some(2), Some(131_072), Some(65_536)));
    // A part of it is missing.
    bytes[150_000] ^= 1;
    bytes.truncate(270_000);
    fs::write(pair.here("films/a.mp4"), &bytes).unwrap();
    assert_eq!(verify(), (Some(4), Some(262_144), Some(37_856)));
}

#[test]
fn a_library_that_is_published_meanwhile_is_read_again() {
    let pair = Pair::synced();
    let index = fs::read(pair.remote("library.sapwood")).unwrap();
    pair.write("new", 60, 100);
    pair.publish(&[]);
    // The first reading gets the old index with the new manifest.
    pair.origin.put("/old", index);
    pair.origin
        .lie(INDEX, Asks::Anything, Of::First(2), Lie::Instead("/old"));
    let synced = pair.sync(&[]);
    assert_eq!(synced.exit, Some(0), "{synced:?}");
    pair.must_be_equal();
    assert!(pair.origin.log_of(MANIFEST).len() >= 2);
}

/// Packs of a library: frames of a new file, pieces of a changed one.
#[test]
fn packed_files_are_fewer_bytes() {
    let pair = Pair::empty();
    let mut text = packed::text(3 << 20);
    pair.write_bytes("words.txt", &text);
    pair.write("noise", 1, 100_000);
    pair.publish(&["--pack"]);
    pair.sync(&[]).must(0);
    pair.must_be_equal();
    let (sent, _) = pair.sent();
    assert!(sent < (1 << 20) + 100_000, "{sent}");
    for at in (5_000..text.len()).step_by(40_000) {
        text[at..at + 4].copy_from_slice(b"pear");
    }
    pair.write_bytes("words.txt", &text);
    pair.publish(&["--pack"]);
    pair.origin.forget_log();
    pair.sync(&[]).must(0);
    pair.must_be_equal();
    let asked = pair.origin.log();
    let is_of = |end: &str| asked.iter().any(|asked| asked.path.ends_with(end));
    assert!(is_of(".pack"));
    let plain = asked
        .iter()
        .filter(|asked| asked.path.ends_with("words.txt"));
    let plain: u64 = plain.map(|asked| asked.bytes_sent).sum();
    assert!(plain <= 2, "{plain}");
}
