//! Many small files: how many requests they cost, what a kill leaves, and small objects in memory.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt,
    process::Command,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use sapwood::{
    engine::{
        context::Context,
        error::Error,
        small::{self, Expected},
    },
    format::geometry::ByteRange,
    net::location::Location,
};
use tempfile::TempDir;

use crate::support::{
    objects::{Content, manifest_of, tree_of},
    origin::{Asks, FIRST_BYTES, Lie, Of, Origin},
    program::{self, Ended, run, run_with_input, sapwood},
    scene::names,
};

const KIB: u64 = 1024;

/// Small files on an origin, and a folder with a store for them.
struct Many {
    origin: Origin,
    folder: TempDir,
    count: u64,
}

impl Many {
    /// `each_manifest`: every so many have a manifest.
    fn new(count: u64, each_manifest: u64) -> Many {
        let origin = Origin::start();
        for number in 0..count {
            let content = Many::content(number);
            origin.put(&format!("/{number}"), content.clone());
            if number % each_manifest == 0 {
                origin.put(
                    &format!("/{number}.sapwood"),
                    manifest_of(&content, 16 * KIB),
                );
            }
        }
        let folder = TempDir::new().unwrap();
        fs::create_dir(folder.path().join("out")).unwrap();
        Many {
            origin,
            folder,
            count,
        }
    }

    /// No two are equal, and there are empty ones, and one that fills the first response.
    fn content(number: u64) -> Content {
        let mut bytes = Content::Painted(number * 1000 % (FIRST_BYTES + 1)).all();
        bytes.extend(
            number
                .to_le_bytes()
                .iter()
                .take(8 * usize::from(number > 0)),
        );
        bytes.truncate(FIRST_BYTES as usize);
        Content::Bytes(bytes)
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = sapwood(self.folder.path());
        command
            .args([
                "--json", "--store", "store", "fetch", "-i", "-", "-o", "out",
            ])
            .args(more);
        command
    }

    fn list(&self) -> String {
        let line = |number| self.origin.url(&format!("/{number}")) + "\n";
        (0..self.count).map(line).collect()
    }

    fn fetch(&self, more: &[&str]) -> Ended {
        run_with_input(self.command(more), self.list().as_bytes())
    }

    fn path(&self, number: u64) -> std::path::PathBuf {
        self.folder.path().join(format!("out/{number}"))
    }

    #[track_caller]
    fn must_be_there(&self) {
        for number in 0..self.count {
            let found = fs::read(self.path(number)).unwrap();
            assert!(found == Many::content(number).all(), "{number}");
        }
        assert_eq!(
            names(&self.folder.path().join("out")).len() as u64,
            self.count
        );
    }

    fn requests(&self, number: u64) -> Vec<Option<std::ops::Range<u64>>> {
        let asked = self.origin.log_of(&format!("/{number}"));
        asked.into_iter().map(|asked| asked.range).collect()
    }
}

/// After the first file the store knew the origin: the others began with one byte, and took four requests each.
#[test]
fn a_small_file_takes_one_request_and_one_for_its_manifest() {
    let many = Many::new(60, 2);
    let ended = many.fetch(&[]).must(0);
    many.must_be_there();
    // Of the empty ones there is no first byte: they are requested once more.
    for number in (0..many.count).filter(|number| Many::content(*number).length() > 0) {
        assert_eq!(many.requests(number), [Some(0..FIRST_BYTES)], "{number}");
        let manifest = many.origin.log_of(&format!("/{number}.sapwood"));
        assert_eq!(manifest.len(), 1, "{number}");
    }
    let sidecars = many.origin.log();
    let sidecars = sidecars
        .iter()
        .filter(|asked| asked.path.ends_with(".sha256"));
    let sidecars = sidecars.count();
    assert!(
        (16..30).contains(&sidecars),
        "{sidecars} digest files were requested"
    );
    for event in ended.all("published") {
        let number: u64 = event["path"].as_str().unwrap()[4..].parse().unwrap();
        let trust = if number.is_multiple_of(2) {
            "manifest"
        } else {
            "none"
        };
        assert_eq!(event["trust"], trust, "{event}");
        let root = tree_of(&Many::content(number), 16 * KIB).root().to_string();
        assert_eq!(event["root"], root);
    }
    // The events of each are those of a larger one.
    for name in ["planned", "blocks_verified", "published"] {
        assert_eq!(ended.all(name).len(), 60, "{name}");
    }
}

/// A small file that was there was asked for twice or three times, and hashed on all cores; and one whose manifest shows that it is
/// the object took a request for a byte of the object too.
#[test]
fn an_unchanged_small_file_takes_its_manifest_or_one_byte_too() {
    let many = Many::new(30, 3);
    let before = many.fetch(&[]).must(0);
    many.origin.forget_log();
    let ended = many.fetch(&[]).must(0);
    many.must_be_there();
    for number in 1..many.count {
        let of_object: &[_] = match number.is_multiple_of(3) {
            true => &[],
            false => &[Some(0..1)],
        };
        assert_eq!(many.requests(number), of_object, "{number}");
        let of_manifest = many.origin.log_of(&format!("/{number}.sapwood"));
        assert_eq!(of_manifest.len(), 1, "{number}");
    }
    let trusts = |ended: &Ended| -> BTreeSet<String> {
        let trust = |event: &serde_json::Value| format!("{} {}", event["path"], event["trust"]);
        ended.all("published").iter().map(trust).collect()
    };
    assert_eq!(trusts(&before), trusts(&ended));
    assert!(
        ended
            .all("published")
            .iter()
            .all(|event| event["unchanged"] == true)
    );
    // What needs a manifest requests it.
    many.origin.forget_log();
    many.fetch(&["--require", "manifest"]).must(3);
    assert_eq!(many.origin.log_of("/1.sapwood").len(), 1);
    // A manifest that came later counts.
    let manifest = manifest_of(&Many::content(1), 16 * KIB);
    many.origin.put("/1.sapwood", manifest);
    let ended = many.fetch(&[]).must(0);
    let first = ended.all("published").into_iter();
    let first = first.filter(|event| event["path"] == "out/1");
    let trusts: Vec<_> = first.map(|event| event["trust"].clone()).collect();
    assert_eq!(trusts, ["manifest"]);
    // So does a new one under the old validators.
    let other = Content::Bytes(vec![1; Many::content(6).length() as usize]);
    let before = manifest_of(&Many::content(6), 16 * KIB);
    many.origin.put("/6.sapwood", manifest_of(&other, 16 * KIB));
    many.fetch(&[]).must(3);
    many.origin.put("/6.sapwood", before);
    // Damaged here, with the old time; replaced there; gone there.
    let path = many.path(3);
    let (mut bytes, modified) = (
        fs::read(&path).unwrap(),
        fs::metadata(&path).unwrap().modified(),
    );
    bytes[100] ^= 1;
    fs::write(&path, bytes).unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(modified.unwrap()).unwrap();
    many.origin.put("/4", Content::Bytes(vec![7; 4008]));
    many.origin.remove("/5");
    let ended = many.fetch(&[]).must(1);
    assert_eq!(fs::read(path).unwrap(), Many::content(3).all());
    assert_eq!(fs::read(many.path(4)).unwrap(), vec![7; 4008]);
    assert_eq!(ended.all("failed").len(), 1);
    let changed = ended.all("published").into_iter();
    let changed: BTreeSet<String> = changed
        .filter(|event| event["unchanged"] == false)
        .map(|event| event["path"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        changed,
        BTreeSet::from(["out/3".to_owned(), "out/4".to_owned()])
    );
}

/// With a part, a journal and syncs of its own.
#[test]
fn small_files_that_could_be_refused_take_one_request_more() {
    let many = Many::new(20, 1);
    many.fetch(&["--require", "manifest"]).must(0);
    many.must_be_there();
    for number in 1..many.count {
        assert_eq!(
            many.requests(number),
            [Some(0..1), Some(0..FIRST_BYTES)],
            "{number}"
        );
    }
    let many = Many::new(5, 1);
    many.fetch(&["--max-size", "2500"]).must(1);
    assert!(many.path(2).exists() && !many.path(3).exists());
    assert!(many.origin.bodies_of("/3").is_empty());
}

/// To search files for a small object takes longer than to fetch it, but one that is known to be the object is copied.
#[test]
fn a_small_file_that_is_here_under_another_name_is_not_fetched_again() {
    let many = Many::new(12, 1);
    many.fetch(&[]).must(0);
    many.origin.put("/new", Content::Painted(5000));
    many.origin.forget_log();
    let list = format!(
        "{}\n{}\tcopy\n",
        many.origin.url("/new"),
        many.origin.url("/7")
    );
    // One after the other: the first shows that objects are small.
    let ended = run_with_input(many.command(&["--connections", "1"]), list.as_bytes());
    ended.must(0);
    assert_eq!(
        fs::read(many.folder.path().join("out/copy")).unwrap(),
        Many::content(7).all()
    );
    assert_eq!(many.origin.sent("/7"), 0);
}

/// The file is whole under its name, or there is none. Nothing is left but what the next run takes.
#[test]
fn kills_among_small_files_leave_whole_ones() {
    let many = Many::new(150, 5);
    for number in 0..many.count {
        let late = Lie::Late(Duration::from_millis(number % 7));
        many.origin
            .lie(&format!("/{number}"), Asks::Anything, Of::All, late);
    }
    let list = many.folder.path().join("list");
    fs::write(&list, many.list()).unwrap();
    let mut fewest = 0;
    for kill in 0..8u64 {
        let mut command = sapwood(many.folder.path());
        command.args([
            "--json", "--store", "store", "fetch", "-i", "list", "-o", "out",
        ]);
        let mut running = program::start(command);
        let published = |events: &[serde_json::Value]| {
            let is_new = |event: &&serde_json::Value| {
                event["event"] == "published" && event["unchanged"] == false
            };
            events.iter().filter(is_new).count() as u64
        };
        running.wait_for("files", |events| published(events) >= 3 + kill);
        running.kill();
        let mut whole = 0;
        for name in names(&many.folder.path().join("out")) {
            let Ok(number) = name.parse() else {
                assert!(name.contains(".part"), "{name}");
                continue;
            };
            assert!(
                fs::read(many.path(number)).unwrap() == Many::content(number).all(),
                "{number}"
            );
            whole += 1;
        }
        // What the store noted of files of the last moment may be lost with a kill: they are fetched again, and are there meanwhile.
        assert!(whole >= fewest && whole >= 3, "{whole}");
        fewest = whole;
    }
    many.fetch(&[]).must(0);
    many.must_be_there();
}

/// Up to 512 were noted at the end of the run alone, and all fetched again after a kill.
#[test]
fn small_files_are_noted_while_others_are_fetched() {
    let many = Many::new(12, 1);
    let late = Lie::Late(Duration::from_secs(60));
    many.origin.lie("/11", Asks::Anything, Of::All, late);
    fs::write(many.folder.path().join("list"), many.list()).unwrap();
    let mut command = sapwood(many.folder.path());
    command.args([
        "--json", "--store", "store", "fetch", "-i", "list", "-o", "out",
    ]);
    let mut running = program::start(command);
    running.wait_for("files", |events| {
        let published = |event: &&serde_json::Value| event["event"] == "published";
        events.iter().filter(published).count() == 11
    });
    let noted = || {
        let mut command = sapwood(many.folder.path());
        command.args(["--json", "--store", "store", "store", "list"]);
        run(command).must(0).all("holding").len()
    };
    let until = Instant::now() + Duration::from_secs(20);
    while noted() < 11 {
        assert!(Instant::now() < until, "{}", noted());
        std::thread::sleep(Duration::from_millis(50));
    }
    running.kill();
    many.origin.be_honest();
    let again = many.fetch(&[]).must(0);
    let unchanged = again.all("published").into_iter();
    let unchanged = unchanged.filter(|event| event["unchanged"] == true).count();
    assert_eq!(unchanged, 11);
    many.must_be_there();
}

#[test]
fn a_small_file_is_locked_while_it_is_fetched() {
    let many = Many::new(2, 1);
    let late = Lie::Late(Duration::from_millis(700));
    many.origin.lie("/1", Asks::Anything, Of::First(1), late);
    let url = many.origin.url("/1");
    let fetch = || {
        let mut command = sapwood(many.folder.path());
        command.args(["--json", "fetch", &url, "-o", "out/"]);
        command
    };
    let mut first = program::start(fetch());
    while !many.folder.path().join("out/1.part.journal").exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    run(fetch()).must(5);
    first.finish().must(0);
    assert_eq!(names(&many.folder.path().join("out")), ["1"]);
}

/// A file that appears while the object comes keeps its permissions, or the object does not land.
#[test]
fn a_file_that_appears_meanwhile_is_replaced_as_any_other() {
    for (more, exit) in [(&[][..], 0), (&["--no-clobber"][..], 6)] {
        let many = Many::new(2, 3);
        let late = Lie::Late(Duration::from_millis(500));
        many.origin.lie("/1", Asks::Anything, Of::First(1), late);
        let mut command = sapwood(many.folder.path());
        command
            .args(["--json", "fetch", &many.origin.url("/1"), "-o", "out/"])
            .args(more);
        let mut running = program::start(command);
        while !many.folder.path().join("out/1.part.journal").exists() {
            std::thread::sleep(Duration::from_millis(1));
        }
        fs::write(many.path(1), b"of somebody").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o640);
        fs::set_permissions(many.path(1), mode).unwrap();
        running.finish().must(exit);
        let found = fs::read(many.path(1)).unwrap();
        assert_eq!(found == Many::content(1).all(), exit == 0);
        assert_eq!(fs::metadata(many.path(1)).unwrap().mode() & 0o777, 0o640);
        assert_eq!(names(&many.folder.path().join("out")), ["1"]);
    }
}

/// Each of many files was synced by itself, after the file system had been.
#[test]
fn files_that_are_complete_together_are_synced_together() {
    if !sapwood::disk::machine::syncfs_reports_failures() {
        return;
    }
    let many = Many::new(60, 2);
    let inner = many.command(&["--no-store"]);
    let mut command = program::command("strace", many.folder.path());
    command.args(["-f", "-qq", "-o", "calls", "-e", "trace=fsync,syncfs"]);
    // The first one is synced by itself. Meanwhile the others come.
    command.args(["-e", "inject=fsync:delay_enter=300000"]);
    command.arg(inner.get_program()).args(inner.get_args());
    run_with_input(command, many.list().as_bytes()).must(0);
    many.must_be_there();
    let calls = fs::read_to_string(many.folder.path().join("calls")).unwrap();
    let count = |call: &str| calls.lines().filter(|line| line.contains(call)).count();
    assert!(count(" syncfs(") > 0, "{calls}");
    assert!(count(" fsync(") < 30, "{calls}");
}

/// Where files cannot be without names, a part is used.
#[test]
fn small_files_land_where_no_file_is_without_a_name() {
    let many = Many::new(6, 2);
    let inner = many.command(&[]);
    let mut command = program::command("strace", many.folder.path());
    command.args([
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-P",
        ".",
        "-e",
        "trace=openat",
    ]);
    command.args(["-e", "inject=openat:error=EOPNOTSUPP"]);
    command.arg(inner.get_program()).args(inner.get_args());
    run_with_input(command, many.list().as_bytes()).must(0);
    many.must_be_there();
}

#[test]
fn a_signal_among_small_files_stops_cleanly() {
    let many = Many::new(100, 5);
    for number in 0..many.count {
        let late = Lie::Late(Duration::from_millis(20));
        many.origin
            .lie(&format!("/{number}"), Asks::Anything, Of::All, late);
    }
    fs::write(many.folder.path().join("list"), many.list()).unwrap();
    let mut command = sapwood(many.folder.path());
    command.args([
        "--json", "--store", "store", "fetch", "-i", "list", "-o", "out",
    ]);
    let mut running = program::start(command);
    let published = |events: &[serde_json::Value]| {
        events
            .iter()
            .filter(|event| event["event"] == "published")
            .count()
    };
    running.wait_for("files", |events| published(events) >= 10);
    running.signal(Signal::TERM);
    let ended = running.finish().must(5);
    let (done, stopped) = (ended.all("published").len(), ended.all("failed").len());
    assert_eq!(done + stopped, 100);
    // The store was told of those that landed.
    many.origin.be_honest();
    many.origin.forget_log();
    let again = many.fetch(&[]).must(0);
    let unchanged = again.all("published").into_iter();
    let unchanged = unchanged.filter(|event| event["unchanged"] == true).count();
    assert!(unchanged >= done, "{unchanged} of {done}");
    many.must_be_there();
}

/// Runs a future of the library.
fn wait<T>(work: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap().block_on(work)
}

#[test]
fn a_small_object_is_proven_in_memory() {
    let origin = Origin::start();
    let content = Content::Painted(40_000);
    origin.put("/x", content.clone());
    let (url, context) = (
        Location::parse(&origin.url("/x")).unwrap(),
        Context::default(),
    );
    let root = tree_of(&content, 16 * KIB).root();
    let get = |expected| wait(small::get(&context, &url, expected));
    let expected = |length| Some(Expected { root, length });
    let object = get(expected(40_000)).unwrap();
    assert_eq!((object.bytes.to_vec(), object.root), (content.all(), root));
    assert!(object.validators.are_strong());
    assert_eq!(origin.log().len(), 1);
    assert_eq!(get(None).unwrap().root, root);
    // Wrong once: requested again. Wrong each time; another length; broken off; refused for a moment; gone; not small.
    origin.lie("/x", Asks::Anything, Of::First(1), Lie::FlipAt(5));
    assert!(get(expected(40_000)).is_ok());
    origin.be_honest();
    origin.lie("/x", Asks::Anything, Of::All, Lie::FlipAt(5));
    assert!(matches!(get(expected(40_000)), Err(Error::Wrong { .. })));
    origin.be_honest();
    assert!(matches!(get(expected(39_999)), Err(Error::Changed { .. })));
    origin.lie("/x", Asks::Anything, Of::First(1), Lie::ResetAfter(100));
    assert!(get(expected(40_000)).is_ok());
    origin.be_honest();
    origin.lie("/x", Asks::Anything, Of::First(1), Lie::Status(503));
    assert!(get(expected(40_000)).is_ok());
    origin.remove("/x");
    assert!(matches!(get(expected(40_000)), Err(Error::Net { .. })));
    origin.put("/x", Content::Painted(small::SMALL_BYTES_MAX + 1));
    origin.forget_log();
    assert!(matches!(get(None), Err(Error::TooLarge { .. })));
    assert_eq!(origin.log().len(), 1);
    origin.lie("/x", Asks::Anything, Of::All, Lie::Chunked);
    assert!(matches!(get(None), Err(Error::TooLarge { .. })));
}

#[test]
fn pieces_of_a_small_object_come_in_few_requests() {
    let origin = Origin::start();
    let content = Content::Painted(60_000);
    origin.put("/x", content.clone());
    let (url, context) = (
        Location::parse(&origin.url("/x")).unwrap(),
        Context::default(),
    );
    let wants = [ByteRange::new(0, 1024), ByteRange::new(30_720, 32_768)];
    let given = small::get_ranges(&context, &url, &wants, 60_000, None);
    let mut given = wait(given).unwrap();
    given.sort_by_key(|(range, _)| range.start);
    for ((range, bytes), want) in given.iter().zip(wants) {
        assert_eq!(*range, want);
        assert_eq!(*bytes, content.read(want.start..want.end));
    }
    assert_eq!(given.len(), 2);
    assert!(origin.log().len() <= 2);
}
