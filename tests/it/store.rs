//! The store: files that were fetched are known again, whatever becomes of them or of the index.

use std::{
    fs,
    path::{Path, PathBuf},
};

use sapwood::{
    core::tree::Root,
    disk::{
        state::{Holding, State},
        store::Store,
    },
};

use crate::support::{
    objects::Content,
    program::{self, sapwood},
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
const SPOILS: [(&str, bool, Spoil); 6] = [
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
            std::os::unix::fs::symlink("out.moved", path).unwrap();
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
