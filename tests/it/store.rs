//! The store: files that were fetched are known again, whatever becomes of them or of the index.

use std::{
    fs,
    os::unix::fs::{FileExt, MetadataExt, symlink},
    path::{Path, PathBuf},
    process::Output,
};

use serde_json::Value;

use sapwood::{
    disk::{
        state::{Holding, State},
        store::Store,
    },
    format::tree::Root,
};

use crate::support::{
    objects::Content,
    origin::{Asks, Lie, Of},
    program::{self, Ended, sapwood},
    scene::{MANIFEST, OBJECT, Scene, names},
};

const MIB: u64 = 1 << 20;
const KIB: u64 = 1 << 10;

/// The same store for all runs of a test.
const STORE: &[&str] = &["--store", "store"];

fn holdings(scene: &Scene) -> Vec<Holding> {
    let state = State::open(&scene.path("store")).expect("the state opens");
    state.holdings().expect("it can be read")
}

fn root_of(scene: &Scene) -> Root {
    scene.root().parse().expect("a root")
}

#[test]
fn what_was_fetched_is_adopted() {
    for manifest in [true, false] {
        let scene = Scene::new(MIB, 64 * KIB);
        if !manifest {
            scene.origin.remove(MANIFEST);
        }
        scene.fetch(STORE).must(0);
        let found = holdings(&scene);
        assert_eq!(found.len(), 1, "manifest: {manifest}");
        let holding = &found[0];
        assert_eq!(holding.root, root_of(&scene));
        assert_eq!(holding.path, scene.target().canonicalize().unwrap());
        assert_eq!((holding.bytes, holding.own), (MIB, false));
        let origin = scene.origin.url("");
        let came = &holding.provenance;
        assert_eq!(came.origin.as_deref(), Some(&*origin));
        assert_eq!(came.url, Some(scene.url()));
        assert_eq!(came.name.as_deref(), Some(OBJECT.trim_start_matches('/')));
        let mut store = Store::open(&scene.path("store")).unwrap();
        let tree = store
            .tree_of(holding)
            .unwrap()
            .expect("its leaves are known");
        assert_eq!(tree.root(), holding.root);
        assert!(store.open_holding(holding).unwrap().is_some());
        // Once more, unchanged: still one holding, and it was of use just now.
        scene.fetch(STORE).must(0);
        assert_eq!(holdings(&scene).len(), 1);
        // Another version under the same name takes its place.
        scene.origin.put(OBJECT, Content::Painted(2 * MIB));
        scene.origin.remove(MANIFEST);
        scene.fetch(STORE).must(0);
        let found = holdings(&scene);
        assert_eq!((found.len(), found[0].bytes), (1, 2 * MIB));
    }
}

#[test]
fn a_file_that_was_there_already_is_adopted() {
    let scene = Scene::new(MIB, 64 * KIB);
    scene.fetch(&["--no-store"]).must(0);
    let ended = scene.fetch(STORE).must(0);
    assert_eq!(ended.event("published")["unchanged"], true);
    assert_eq!(holdings(&scene).len(), 1);
}

#[test]
fn an_object_of_a_length_that_nobody_tells_is_adopted() {
    for length in [1, MIB - 1, MIB, MIB + 1, 3 * MIB] {
        let scene = Scene::new(length, 64 * KIB);
        scene.origin.remove(MANIFEST);
        for lie in [Lie::NoRanges, Lie::Chunked] {
            scene.origin.lie(OBJECT, Asks::Anything, Of::All, lie);
        }
        let ended = scene.fetch(STORE);
        assert_eq!(ended.exit, Some(0), "{length}: {ended:?}");
        scene.must_be_published();
        let holding = holdings(&scene).remove(0);
        assert_eq!(holding.root, root_of(&scene), "{length}");
        let store = Store::open(&scene.path("store")).unwrap();
        let tree = store.tree_of(&holding).unwrap();
        assert!(
            tree.is_some_and(|tree| tree.root() == holding.root),
            "{length}"
        );
    }
}

#[test]
fn what_fails_is_not_adopted() {
    let scene = Scene::new(MIB, 64 * KIB);
    let other = "00".repeat(32);
    let more = [STORE, &["--root", &other]].concat();
    scene.fetch(&more).must(3);
    assert_eq!(holdings(&scene), []);
}

#[test]
fn no_store_leaves_no_trace() {
    let scene = Scene::new(MIB, 64 * KIB);
    for manifest in [true, false] {
        if !manifest {
            scene.origin.remove(MANIFEST);
        }
        let run = |command: &[&str]| {
            let mut program = sapwood(scene.folder.path());
            program
                .env("XDG_STATE_HOME", scene.path("state"))
                .env("HOME", scene.path("home"))
                .env("SAPWOOD_STORE", scene.path("store"))
                .args(command);
            program::run(program)
        };
        run(&["fetch", &scene.url(), "-o", "out", "--no-store"]).must(0);
        run(&["fetch", &scene.url(), "-o", "out", "--no-store"]).must(0);
        if manifest {
            run(&["cat", &scene.url(), "--no-store"]).must(0);
        }
        assert_eq!(names(scene.folder.path()), ["out"]);
    }
}

/// What can happen to the database, and whether it costs a warning.
type Spoil = fn(&Path);
const SPOILS: [(&str, bool, Spoil); 7] = [
    ("removed", false, |path| fs::remove_file(path).unwrap()),
    ("empty", false, |path| fs::write(path, b"").unwrap()),
    ("cut", true, |path| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    }),
    ("garbage", true, |path| {
        fs::write(path, vec![b'x'; 9000]).unwrap()
    }),
    ("of a later version", true, |path| {
        // The version is at byte 60 of the file.
        let mut bytes = fs::read(path).unwrap();
        bytes[60..64].copy_from_slice(&99u32.to_be_bytes());
        fs::write(path, bytes).unwrap();
    }),
    ("without a place for its log", true, |path| {
        fs::create_dir(path.with_file_name("state.sqlite-wal")).unwrap();
    }),
    ("a folder", true, |path| {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    }),
];

#[test]
fn whatever_became_of_the_database_the_fetch_works() {
    for (what, warns, spoil) in SPOILS {
        for manifest in [true, false] {
            let scene = Scene::new(MIB, 64 * KIB);
            if !manifest {
                scene.origin.remove(MANIFEST);
            }
            scene.fetch(STORE).must(0);
            // What is in the log of the database would bring it back.
            for name in ["state.sqlite-wal", "state.sqlite-shm"] {
                let _ = fs::remove_file(scene.path("store").join(name));
            }
            spoil(&scene.path("store").join("state.sqlite"));
            fs::remove_file(scene.target()).unwrap();
            let ended = scene.fetch(STORE).must(0);
            scene.must_be_published();
            let warnings = ended.all("warning").len();
            assert_eq!(warnings, usize::from(warns), "{what}: {}", ended.stdout);
            if !warns {
                assert_eq!(holdings(&scene).len(), 1, "{what}");
            }
        }
    }
}

#[test]
fn a_holding_that_is_gone_or_changed_is_no_error() {
    type Change = fn(PathBuf);
    let changes: [(&str, Change); 3] = [
        ("removed", |path| fs::remove_file(path).unwrap()),
        ("changed", |path| {
            fs::write(path, b"something else").unwrap()
        }),
        ("a link", |path| {
            fs::rename(&path, path.with_extension("moved")).unwrap();
            symlink("out.moved", path).unwrap();
        }),
    ];
    for (what, change) in changes {
        let scene = Scene::new(MIB, 64 * KIB);
        scene.fetch(STORE).must(0);
        change(scene.target());
        // To another name: what was noted is of no use, and nothing is said about it.
        let mut command = sapwood(scene.folder.path());
        command
            .args(["--json", "fetch", &scene.url(), "-o", "other"])
            .args(STORE);
        let ended = program::run(command).must(0);
        assert!(ended.all("warning").is_empty(), "{what}");
        assert_eq!(
            fs::read(scene.path("other")).unwrap(),
            scene.content.all(),
            "{what}"
        );
    }
}

// ---- the commands

fn store(scene: &Scene, more: &[&str]) -> Ended {
    let mut command = sapwood(scene.folder.path());
    command.args(["--json", "store"]).args(more).args(STORE);
    program::run(command)
}

fn bytes_of(event: &Value, name: &str) -> u64 {
    event[name]
        .as_u64()
        .unwrap_or_else(|| panic!("{name} in {event}"))
}

#[test]
fn files_and_folders_are_added_listed_and_forgotten() {
    let scene = Scene::new(MIB, 64 * KIB);
    let films = scene.path("films");
    fs::create_dir_all(films.join("old")).unwrap();
    for (name, length) in [
        ("a.mp4", 3 * MIB),
        ("old/b.mp4", MIB),
        ("a.mp4.sapwood", 5),
        ("c.part", 5),
    ] {
        fs::write(films.join(name), Content::Painted(length).all()).unwrap();
    }
    symlink("/etc/passwd", films.join("link")).unwrap();
    let added = store(&scene, &["add", "films"]).must(0).all("added");
    let paths: Vec<PathBuf> = added
        .iter()
        .map(|one| one["path"].as_str().unwrap().into())
        .collect();
    let films = films.canonicalize().unwrap();
    assert_eq!(paths, [films.join("a.mp4"), films.join("old/b.mp4")]);
    assert_eq!(
        added[0]["root"],
        blake3::hash(&Content::Painted(3 * MIB).all())
            .to_hex()
            .as_str()
    );
    assert!(added.iter().all(|one| one["known"] == false));
    // Known in this very version, it is not read again.
    let again = store(&scene, &["add", "films/a.mp4"])
        .must(0)
        .event("added");
    assert_eq!(again["known"], true);
    let listed = store(&scene, &["list"]).must(0).all("holding");
    assert_eq!(listed.len(), 2);
    assert!(
        listed
            .iter()
            .all(|one| one["own"] == false && one["bytes_held"] == one["bytes_total"])
    );
    let status = store(&scene, &["status"]).must(0).event("store");
    assert_eq!(
        (
            bytes_of(&status, "files"),
            bytes_of(&status, "bytes_of_files")
        ),
        (2, 4 * MIB)
    );
    assert!(bytes_of(&status, "samples") >= 8 && bytes_of(&status, "own_objects") == 0);
    fs::remove_file(films.join("a.mp4")).unwrap();
    let forgotten = store(&scene, &["gc"]).must(0).event("forgotten");
    assert_eq!(forgotten["reason"], "gone");
    assert_eq!(store(&scene, &["list"]).must(0).all("holding").len(), 1);
}

#[test]
fn what_is_forgotten_is_not_used_and_stays_where_it_is() {
    let scene = Scene::new(MIB, 64 * KIB);
    let films = scene.path("films");
    fs::create_dir_all(films.join("old")).unwrap();
    for name in ["a.mp4", "old/b.mp4", "old/c.mp4", "older.mp4"] {
        fs::write(
            films.join(name),
            Content::Painted(MIB + name.len() as u64).all(),
        )
        .unwrap();
    }
    store(&scene, &["add", "films"]).must(0);
    // Gone, and still to be forgotten by its name.
    fs::remove_file(films.join("a.mp4")).unwrap();
    let forgotten = store(&scene, &["forget", "films/a.mp4", "films/old"]).must(0);
    let forgotten = forgotten.all("forgotten");
    assert_eq!(forgotten.len(), 3);
    assert!(forgotten.iter().all(|one| one["reason"] == "told"));
    let listed = store(&scene, &["list"]).must(0).all("holding");
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert!(
        listed[0]["path"]
            .as_str()
            .unwrap()
            .ends_with("films/older.mp4")
    );
    assert!(films.join("old/b.mp4").exists());
    let unknown = store(&scene, &["forget", "films/old", "films/older.mp4"]).must(1);
    assert_eq!(
        (unknown.all("failed").len(), unknown.all("forgotten").len()),
        (1, 1)
    );
}

#[test]
fn what_cannot_be_added_says_why() {
    let scene = Scene::new(MIB, 64 * KIB);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        scene.path("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    fs::write(scene.path("file"), b"something").unwrap();
    store(&scene, &["add", "missing"]).must(1);
    store(&scene, &["add", "fifo"]).must(6);
    let mixed = store(&scene, &["add", "missing", "file", "fifo"]).must(6);
    assert_eq!(
        (mixed.all("added").len(), mixed.all("failed").len()),
        (1, 2)
    );
    let mut command = sapwood(scene.folder.path());
    command.args(["store", "add"]);
    program::run(command).must(2);
    fs::remove_dir_all(scene.path("store")).unwrap();
    fs::write(scene.path("store"), b"a file").unwrap();
    store(&scene, &["status"]).must(1);
}

/// Writes over a byte, and makes the file look as if nobody had.
fn damage_silently(path: &Path, at: u64) {
    let before = fs::metadata(path).unwrap();
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
    assert_eq!(
        fs::metadata(path).unwrap().mtime_nsec(),
        before.mtime_nsec()
    );
}

#[test]
fn verify_tells_edits_from_damage() {
    let scene = Scene::new(MIB, 64 * KIB);
    for name in ["sound", "edited", "gone", "damaged"] {
        let mut bytes = Content::Painted(MIB).all();
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        fs::write(scene.path(name), bytes).unwrap();
        store(&scene, &["add", name]).must(0);
    }
    assert_eq!(store(&scene, &["verify"]).must(0).all("verified").len(), 4);
    fs::write(scene.path("edited"), b"by its owner").unwrap();
    fs::remove_file(scene.path("gone")).unwrap();
    damage_silently(&scene.path("damaged"), 5 * 64 * KIB + 9);
    let ended = store(&scene, &["verify"]).must(3);
    assert_eq!(ended.all("verified").len(), 1);
    let damaged = ended.event("damaged");
    assert_eq!(
        (bytes_of(&damaged, "block"), bytes_of(&damaged, "offset")),
        (5, 5 * 64 * KIB)
    );
    let mut reasons: Vec<String> = ended
        .all("forgotten")
        .iter()
        .map(|one| one["reason"].to_string())
        .collect();
    reasons.sort();
    assert_eq!(reasons, ["\"changed\"", "\"gone\""]);
    // What is not right is not used any more; the files are as they were.
    assert_eq!(store(&scene, &["verify"]).must(0).all("verified").len(), 1);
    assert_eq!(fs::read(scene.path("edited")).unwrap(), b"by its owner");
}

// ---- cat and its own objects

#[test]
fn one_rotten_byte_in_a_known_file_costs_one_block() {
    let scene = Scene::new(16 * MIB, 64 * KIB);
    scene.fetch(STORE).must(0);
    damage_silently(&scene.target(), 5 * MIB);
    let published = scene.fetch(STORE).must(0).event("published");
    scene.must_be_published();
    let fetched = bytes_of(&published, "bytes_fetched");
    assert!(fetched < 128 * KIB, "{published}");
}

fn cat(scene: &Scene, more: &[&str]) -> Output {
    let mut command = sapwood(scene.folder.path());
    command.args(["cat", &scene.url()]).args(more);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    output
}

fn must_stream(scene: &Scene, start: u64, end: u64) {
    let range = format!("{start}-{}", end - 1);
    let output = cat(scene, &[STORE, &["--range", &range]].concat());
    assert!(
        output.stdout == scene.content.all()[start as usize..end as usize],
        "{range}"
    );
}

/// The bytes of the object that were sent since this was asked last.
fn sent(scene: &Scene) -> u64 {
    let length = |range: std::ops::Range<u64>| range.end - range.start;
    let asked = scene.origin.bodies_of(OBJECT).into_iter();
    let sent = asked.filter_map(|asked| asked.range).map(length).sum();
    scene.origin.forget_log();
    sent
}

fn own_object(scene: &Scene) -> PathBuf {
    scene.path("store/objects").join(scene.root())
}

#[test]
fn what_was_streamed_is_not_fetched_again() {
    let scene = Scene::new(MIB, 64 * KIB);
    must_stream(&scene, 100_000, 300_000);
    assert_eq!(sent(&scene), 4 * 64 * KIB, "the blocks that are touched");
    must_stream(&scene, 100_000, 300_000);
    must_stream(&scene, 65_536, 327_680);
    assert_eq!(sent(&scene), 0);
    must_stream(&scene, 0, MIB);
    assert_eq!(sent(&scene), 12 * 64 * KIB);
    let listed = store(&scene, &["list"]).must(0).event("holding");
    assert_eq!(
        (&listed["own"], bytes_of(&listed, "bytes_held")),
        (&true.into(), MIB)
    );
    // The index is lost; what it knew is found again.
    for name in ["state.sqlite", "state.sqlite-wal", "state.sqlite-shm"] {
        let _ = fs::remove_file(scene.path("store").join(name));
    }
    must_stream(&scene, 0, MIB);
    assert_eq!(sent(&scene), 0);
    // Without the store all of it is fetched.
    let all = cat(&scene, &["--no-store"]);
    assert!(all.stdout == scene.content.all());
    assert_eq!(sent(&scene), MIB);
}

#[test]
fn a_flipped_bit_in_an_own_object_is_noticed() {
    let scene = Scene::new(MIB, 64 * KIB);
    must_stream(&scene, 0, MIB);
    sent(&scene);
    damage_silently(&own_object(&scene), 7 * 64 * KIB + 1);
    must_stream(&scene, 0, MIB);
    assert_eq!(sent(&scene), 64 * KIB);
    damage_silently(&own_object(&scene), 3 * 64 * KIB);
    let ended = store(&scene, &["verify"]).must(3);
    assert_eq!(bytes_of(&ended.event("damaged"), "block"), 3);
    store(&scene, &["verify"]).must(0);
    must_stream(&scene, 0, MIB);
    assert_eq!(sent(&scene), 64 * KIB);
    // A leaf beside it that is wrong costs its block, too.
    let leaves = scene.path("store/objects").join(scene.root() + ".leaves");
    damage_silently(&leaves, 4096 + 5 * 32);
    store(&scene, &["verify"]).must(3);
    must_stream(&scene, 0, MIB);
    assert_eq!(sent(&scene), 64 * KIB);
}

#[test]
fn own_objects_keep_within_their_limit() {
    let scene = Scene::new(MIB, 64 * KIB);
    must_stream(&scene, 0, MIB);
    let ended = store(&scene, &["gc", "--max-size", "256KiB"]).must(0);
    assert_eq!(bytes_of(&ended.event("evicted"), "bytes"), 12 * 64 * KIB);
    assert_eq!(bytes_of(&ended.event("store"), "bytes_own"), 256 * KIB);
    let on_disk = fs::metadata(own_object(&scene)).unwrap().blocks() * 512;
    assert!(on_disk <= 256 * KIB, "{on_disk}");
    sent(&scene);
    must_stream(&scene, 0, MIB);
    assert_eq!(sent(&scene), 12 * 64 * KIB);
    store(&scene, &["gc", "--max-size", "0"]).must(0);
    assert_eq!(names(&scene.path("store/objects")), [""; 0]);
}

#[test]
fn cat_reads_from_a_file_that_was_fetched() {
    let scene = Scene::new(MIB, 64 * KIB);
    scene.fetch(STORE).must(0);
    scene.origin.forget_log();
    must_stream(&scene, 0, MIB);
    assert_eq!(sent(&scene), 0);
    // Its owner edits it, unnoticed: what is still right is used.
    damage_silently(&scene.target(), 9 * 64 * KIB);
    must_stream(&scene, 0, MIB);
    assert_eq!(sent(&scene), 64 * KIB);
    fs::remove_file(scene.target()).unwrap();
    must_stream(&scene, 0, MIB);
    assert_eq!(sent(&scene), MIB);
}
