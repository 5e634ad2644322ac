//! Fetching with a manifest: fresh, unchanged, interrupted, beside foreign files, and from origins that lie.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sapwood::format::digests::{Algorithm, DigestHasher};
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{FileTypeExt, PermissionsExt, symlink},
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use sapwood::{
    disk::{journal::MemoryKeeper, part::Part},
    engine::{
        connections::Connections,
        context::Context,
        error::Error,
        events::{Event, Published},
        fetch::{FetchOptions, ManifestPlace, fetch},
    },
    format::{
        geometry::{BlockIndex, BlockRange},
        journal::{self, Claims, Identity, Record, RecordWriter},
        trust::Trust,
    },
    net::location::Location,
};
use serde_json::Value;

use crate::support::{
    objects::{Content, geometry, manifest_of, manifest_with_false_geometry, tree_of},
    origin::{Asks, FIRST_BYTES, Lie, Of, Origin},
    program::{self, bytes_of, run_with_input, sapwood, verified},
    scene::{MANIFEST, OBJECT, Scene, names},
};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

// ---- whole objects

#[test]
fn a_fresh_fetch_lands_whole_and_proven() {
    let scene = Scene::new(3 * MIB + 17, 64 * KIB);
    let ended = scene.fetch(&[]).must(0);
    scene.must_be_published();
    let planned = ended.event("planned");
    assert_eq!(planned["bytes_total"], scene.length());
    assert_eq!(planned["bytes_held"], 0);
    assert_eq!(planned["bytes_local"], 0);
    assert_eq!(planned["bytes_to_fetch"], scene.length());
    assert_eq!(planned["block_size"], scene.block);
    assert_eq!(planned["trust"], "manifest");
    assert_eq!(planned["root"], scene.root());
    let published = ended.event("published");
    assert_eq!(published["path"], "out");
    assert_eq!(published["url"], scene.url());
    assert_eq!(published["root"], scene.root());
    assert_eq!(published["trust"], "manifest");
    assert_eq!(published["bytes_total"], scene.length());
    assert_eq!(
        (&published["bytes_reused"], &published["bytes_resumed"]),
        (&0.into(), &0.into())
    );
    assert_eq!(published["unchanged"], false);
    assert!(published["elapsed_ms"].is_u64());
    let manifest = manifest_of(&scene.content, scene.block).len() as u64;
    assert_eq!(published["bytes_manifest"], manifest);
    assert_eq!(published["bytes_fetched"], scene.length() + manifest);
    let done = ended.event("done");
    assert_eq!(
        (&done["published"], &done["failed"]),
        (&1.into(), &0.into())
    );
    assert_eq!(done["bytes_fetched"], published["bytes_fetched"]);
    for event in ended.events() {
        let about_the_run = event["event"] == "done";
        assert_eq!(event["path"].is_string(), !about_the_run, "{event}");
    }
    assert_eq!(
        verified(&ended.events()).len() as u64,
        scene.length().div_ceil(scene.block)
    );
}

#[test]
fn an_unchanged_file_costs_one_look_at_the_manifest() {
    let scene = Scene::new(MIB, 64 * KIB);
    scene.fetch(&[]).must(0);
    scene.origin.forget_log();
    let before = fs::metadata(scene.target()).unwrap().modified().unwrap();
    let ended = scene.fetch(&[]).must(0);
    let published = ended.event("published");
    assert_eq!(published["unchanged"], true);
    assert_eq!(published["bytes_fetched"], 1536 + 1);
    assert_eq!(scene.origin.bodies_of(OBJECT).len(), 0);
    assert_eq!(
        fs::metadata(scene.target()).unwrap().modified().unwrap(),
        before
    );
    scene.must_be_published();
}

#[test]
fn a_changed_file_is_replaced_and_keeps_its_mode() {
    let scene = Scene::new(MIB, 64 * KIB);
    fs::write(scene.target(), b"an older version").unwrap();
    fs::set_permissions(scene.target(), fs::Permissions::from_mode(0o640)).unwrap();
    scene.fetch(&[]).must(0);
    scene.must_be_published();
    assert_eq!(
        fs::metadata(scene.target()).unwrap().permissions().mode() & 0o7777,
        0o640
    );
}

#[test]
fn a_new_file_has_the_mode_that_the_umask_leaves() {
    for (umask, mode) in [("027", 0o640), ("077", 0o600), ("000", 0o666)] {
        let scene = Scene::new(100 * KIB, 64 * KIB);
        let script = format!(
            "umask {umask}; exec {} fetch {} -o out",
            env!("CARGO_BIN_EXE_sapwood"),
            scene.url()
        );
        let mut shell = program::command("sh", scene.folder.path());
        shell.args(["-c", &script]);
        program::run(shell).must(0);
        scene.must_be_published();
        assert_eq!(
            fs::metadata(scene.target()).unwrap().permissions().mode() & 0o7777,
            mode,
            "{umask}"
        );
    }
}

#[test]
fn objects_of_every_awkward_length() {
    for block in [16 * KIB, 64 * KIB] {
        for length in [
            0,
            1,
            block - 1,
            block,
            block + 1,
            2 * block - 1,
            2 * block,
            2 * block + 1,
            5 * block,
            300 * block / 2 + 7,
        ] {
            check(length, block);
        }
    }
}

/// Fetches an object afresh, again, and with its first half there as a part without a journal.
fn check(length: u64, block: u64) {
    let scene = Scene::new(length, block);
    let published =
        in_process(&scene, |_| ()).unwrap_or_else(|error| panic!("{length} in {block}: {error}"));
    assert_eq!(
        (published.bytes_total, published.unchanged),
        (length, false),
        "{length} in {block}"
    );
    scene.must_be_published();
    assert!(
        in_process(&scene, |_| ()).unwrap().unchanged,
        "{length} in {block}"
    );
    scene.must_be_published();
    fs::remove_file(scene.target()).unwrap();
    fs::write(scene.part(), scene.content.read(0..length / 2)).unwrap();
    let published = in_process(&scene, |_| ()).unwrap();
    scene.must_be_published();
    assert_eq!(
        published.bytes_resumed,
        length / 2 / block * block,
        "{length} in {block}"
    );
}

/// A fetch by the library on a runtime with one thread.
fn in_process(scene: &Scene, change: impl FnOnce(&mut FetchOptions)) -> Result<Published, Error> {
    let mut options = FetchOptions::new(Location::parse(&scene.url()).unwrap(), scene.target());
    change(&mut options);
    let context = Context::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(fetch(&context, options, &mut |_event: Event| ()))
}

// ---- interrupted runs

#[test]
fn killed_at_twenty_points_and_resumed_each_time() {
    const KILLS: u64 = 20;
    let scene = Scene::new(16 * MIB + 12_345, 16 * KIB);
    let step = scene.length() / (KILLS + 1);
    let mut held = BTreeSet::new();
    let mut sent = 0;
    for _ in 0..KILLS {
        // Every kill comes when the origin has sent a step and the judge saw all of it but one block a connection.
        let (verified, bytes) = scene.killed_at(step);
        assert!(verified.is_disjoint(&held), "proven twice");
        held.extend(verified);
        sent += bytes;
        assert!(!scene.target().exists(), "a final name before the end");
        assert_eq!(
            fs::metadata(scene.part()).unwrap().permissions().mode() & 0o7777,
            0o600
        );
    }
    let ended = scene.fetch(&[]).must(0);
    scene.must_not_have_asked_for(&held);
    scene.must_be_published();
    assert!(
        ended.event("published")["bytes_resumed"].as_u64().unwrap()
            >= bytes_of(&held, scene.block, scene.length())
    );
    sent += scene.origin.sent(OBJECT);
    let again = sent - scene.length();
    println!(
        "{KILLS} kills: {} bytes fetched again per kill",
        again / KILLS
    );
    // Eight connections, each with what it collects before it is judged, and a block.
    assert!(
        again <= KILLS * 8 * (MIB + scene.block),
        "{again} bytes were fetched again"
    );
}

#[test]
fn signals_stop_cleanly_and_the_next_run_goes_on() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let scene = Scene::new(8 * MIB, 16 * KIB);
        let point = scene.length() * 6 / 10;
        let mut running = scene.run_until(scene.command(&[]), point);
        running.signal(signal);
        let ended = running.finish().must(5);
        assert_eq!(ended.event("failed")["exit"], 5);
        let held = verified(&ended.events());
        // The journal names all of it, whatever the part looks like.
        let claims = claims_of(&scene);
        assert!(
            held.iter()
                .all(|block| claims.claimed.contains(BlockIndex(*block as u32))),
            "{signal:?}"
        );
        scene.origin.allow_all();
        scene.origin.forget_log();
        let ended = scene.fetch(&[]).must(0);
        scene.must_not_have_asked_for(&held);
        let resumed = ended.event("resumed")["bytes_held"].as_u64().unwrap();
        let first = ended.all("progress")[0]["bytes_done"].as_u64().unwrap();
        assert_eq!(ended.event("planned")["bytes_held"], resumed);
        assert!(
            first >= scene.length() * 55 / 100,
            "{signal:?}: the first progress says {first}"
        );
        scene.must_be_published();
    }
}

/// What the journal of the scene says, read by the library.
fn claims_of(scene: &Scene) -> Claims {
    let part = Part::new(fs::File::open(scene.part()).unwrap(), scene.part());
    journal::read(&fs::read(scene.journal()).unwrap(), &part.place().unwrap()).expect("a journal")
}

#[test]
fn after_a_kill_progress_begins_where_it_was() {
    let scene = Scene::new(8 * MIB, 16 * KIB);
    scene.killed_at(scene.length() * 6 / 10);
    let ended = scene.fetch(&[]).must(0);
    let first = &ended.all("progress")[0];
    assert!(
        first["bytes_done"].as_u64().unwrap() >= scene.length() * 55 / 100,
        "{first}"
    );
    let done: Vec<u64> = ended
        .all("progress")
        .iter()
        .map(|event| event["bytes_done"].as_u64().unwrap())
        .collect();
    assert!(done.is_sorted(), "progress fell: {done:?}");
    assert_eq!(*done.last().unwrap(), scene.length());
}

#[test]
fn bytes_of_a_silent_connection_are_proven_before_it_is_given_up() {
    // The last block, then half of what one connection is to bring, then silence.
    let scene = Scene::new(MIB, 16 * KIB);
    scene.origin.allow(OBJECT, MIB / 2);
    let mut running = scene.start(&["--connections", "1"]);
    running.wait_until_verified(MIB / 2 - scene.block, scene.block, scene.length());
    running.signal(Signal::TERM);
    let ended = running.finish().must(5);
    assert!(
        ended.all("retry").is_empty(),
        "only the end of the connection brought them"
    );
}

#[test]
fn a_dropped_future_leaves_a_checkpoint() {
    let scene = Scene::new(4 * MIB, 16 * KIB);
    let keeper = MemoryKeeper::default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let options = || {
        let mut options = FetchOptions::new(Location::parse(&scene.url()).unwrap(), scene.target());
        options.journal = Some(Box::new(keeper.clone()));
        options
    };
    // With one connection it is certain how many of the bytes that were sent are proven.
    let context = Context {
        connections: Connections::at_most(1),
        ..Context::default()
    };
    let point = scene.length() / 2;
    scene.origin.allow(OBJECT, point);
    let proven = Arc::new(Mutex::new(BTreeSet::new()));
    let mut hear = |event: Event| {
        if let Event::BlocksVerified { first, count, .. } = event {
            proven
                .lock()
                .unwrap()
                .extend(u64::from(first.0)..u64::from(first.0 + count));
        }
    };
    let enough = async {
        while bytes_of(&proven.lock().unwrap(), scene.block, scene.length())
            < point - scene.unproven()
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    runtime.block_on(async {
        tokio::select! {
            outcome = fetch(&context, options(), &mut hear) => panic!("it ended: {outcome:?}"),
            () = enough => (),
        }
    });
    let held = proven.lock().unwrap().clone();
    let bytes = sapwood::disk::journal::JournalKeeper::read(&mut keeper.clone()).unwrap();
    let part = Part::new(fs::File::open(scene.part()).unwrap(), scene.part());
    let claims = journal::read(&bytes, &part.place().unwrap()).expect("a journal in memory");
    assert!(
        held.iter()
            .all(|block| claims.claimed.contains(BlockIndex(*block as u32)))
    );
    scene.origin.allow_all();
    scene.origin.forget_log();
    let published = runtime
        .block_on(fetch(&context, options(), &mut |_: Event| ()))
        .unwrap();
    assert!(published.bytes_resumed >= point - scene.unproven());
    scene.must_not_have_asked_for(&held);
    scene.must_be_published();
}

#[test]
fn a_second_run_on_the_same_destination_ends_at_once() {
    let scene = Scene::new(4 * MIB, 16 * KIB);
    // With another connection the first run would ask again for what is silent.
    let mut first = scene.run_until(scene.command(&["--connections", "1"]), 2 * MIB);
    let requests = scene.origin.log().len();
    // What came before the silence is perhaps still on its way into the part.
    let mut part = fs::read(scene.part()).unwrap();
    loop {
        std::thread::sleep(Duration::from_millis(300));
        let before = std::mem::replace(&mut part, fs::read(scene.part()).unwrap());
        if before == part {
            break;
        }
    }
    let second = scene.fetch(&[]).must(5);
    assert!(
        second.stderr.contains("in use by another run"),
        "{}",
        second.stderr
    );
    assert_eq!(
        scene.origin.log().len(),
        requests,
        "the second run asked for something"
    );
    assert!(
        fs::read(scene.part()).unwrap() == part,
        "the second run changed the part"
    );
    scene.origin.allow_all();
    first.finish().must(0);
    scene.must_be_published();
}

// ---- what lies in the place of the part

/// Something foreign under a name; returns how to see that it is untouched.
type Foreign = fn(&Path, &Path);

const FOREIGN: [(&str, Foreign); 5] = [
    ("symbolic link", |at, elsewhere| {
        symlink(elsewhere, at).unwrap()
    }),
    ("dangling link", |at, _| symlink("nowhere", at).unwrap()),
    ("hard link", |at, elsewhere| {
        fs::hard_link(elsewhere, at).unwrap()
    }),
    ("pipe", |at, _| {
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at,
            rustix::fs::FileType::Fifo,
            0o600.into(),
            0,
        )
        .unwrap();
    }),
    ("folder", |at, _| fs::create_dir(at).unwrap()),
];

#[test]
fn foreign_things_in_the_place_of_part_or_journal_are_left_alone() {
    for name in ["out.part", "out.part.journal"] {
        for (what, make) in FOREIGN {
            // Also when the object is not even there, and when somebody else's file is empty.
            for (missing, content) in [
                (false, "precious"),
                (true, "precious"),
                (false, ""),
                (true, ""),
            ] {
                let scene = Scene::new(100 * KIB, 16 * KIB);
                if missing {
                    scene.origin.remove(OBJECT);
                }
                let precious = scene.path("precious");
                fs::write(&precious, content).unwrap();
                make(&scene.path(name), &precious);
                let before = fs::symlink_metadata(scene.path(name)).unwrap();
                let ended = scene.fetch(&[]);
                let case = format!("{what} as {name}, missing: {missing}, {content:?}: {ended:?}");
                assert!(
                    ended.exit == Some(6) || (missing && ended.exit == Some(1)),
                    "{case}"
                );
                let after = fs::symlink_metadata(scene.path(name))
                    .unwrap_or_else(|_| panic!("removed: {case}"));
                assert_eq!(before.file_type(), after.file_type(), "{case}");
                assert_eq!(fs::read_to_string(&precious).unwrap(), content, "{case}");
                let left: Vec<String> = names(scene.folder.path());
                assert_eq!(left, [name, "precious"], "{case}");
            }
        }
    }
}

#[test]
fn a_target_that_is_no_regular_file_is_refused_before_anything_is_asked() {
    for (what, make) in FOREIGN
        .into_iter()
        .filter(|(what, _)| *what != "hard link" && *what != "folder")
    {
        let scene = Scene::new(100 * KIB, 16 * KIB);
        fs::write(scene.path("precious"), "precious").unwrap();
        make(&scene.target(), &scene.path("precious"));
        let ended = scene.fetch(&[]).must(6);
        assert!(
            ended.stderr.contains("out") && ended.stderr.contains("-o"),
            "{what}: {}",
            ended.stderr
        );
        assert!(scene.origin.log().is_empty(), "{what}");
        let kind = fs::symlink_metadata(scene.target()).unwrap().file_type();
        assert!(kind.is_symlink() || kind.is_fifo(), "{what}");
    }
}

#[test]
fn a_part_without_a_journal_is_a_seed() {
    let scene = Scene::new(2 * MIB + 5, 16 * KIB);
    let mut seed = scene.content.read(0..MIB);
    // One block of it is damaged.
    seed[100_000] ^= 1;
    fs::write(scene.part(), &seed).unwrap();
    let ended = scene.fetch(&[]).must(0);
    assert_eq!(ended.event("part_reused")["bytes"], MIB);
    let good: BTreeSet<u64> = (0..64)
        .filter(|block| *block != 100_000 / scene.block)
        .collect();
    scene.must_not_have_asked_for(&good);
    assert_eq!(ended.event("published")["bytes_resumed"], MIB - scene.block);
    scene.must_be_published();
}

#[test]
fn a_part_of_another_root_is_a_seed() {
    let scene = Scene::new(2 * MIB, 16 * KIB);
    let (held, _) = scene.killed_at(MIB);
    // A new version: everything but the first block is the same.
    let mut bytes = scene.content.all();
    bytes[..16].fill(0);
    let content = Content::Bytes(bytes);
    scene.origin.put(OBJECT, content.clone());
    scene
        .origin
        .put(MANIFEST, manifest_of(&content, scene.block));
    let ended = scene.fetch(&[]).must(0);
    ended.event("part_reused");
    assert!(ended.all("resumed").is_empty());
    scene.must_not_have_asked_for(&held.into_iter().filter(|block| *block > 0).collect());
    scene.must_hold(&content);
    assert!(!scene.part().exists() && !scene.journal().exists());
}

#[test]
fn a_journal_that_claims_everything_is_not_believed() {
    let zeros = |length: u64| move |path: &Path| fs::write(path, vec![0; length as usize]).unwrap();
    let hole =
        |length: u64| move |path: &Path| fs::File::create(path).unwrap().set_len(length).unwrap();
    let length = MIB + 100;
    let parts: [(&str, Box<dyn Fn(&Path)>); 4] = [
        ("zeros", Box::new(zeros(length))),
        ("a hole", Box::new(hole(length))),
        ("too short", Box::new(zeros(length / 3))),
        ("too long", Box::new(hole(3 * length))),
    ];
    for (what, make) in parts {
        let scene = Scene::new(length, 16 * KIB);
        make(&scene.part());
        write_journal(&scene, geometry(length, scene.block).all());
        let ended = scene.fetch(&[]).must(0);
        assert_eq!(ended.event("published")["bytes_resumed"], 0, "{what}");
        scene.must_be_published();
    }
}

/// A journal for the part of a scene that claims these blocks.
fn write_journal(scene: &Scene, blocks: BlockRange) {
    let part = Part::new(fs::File::open(scene.part()).unwrap(), scene.part());
    let identity = Identity {
        root: Some(tree_of(&scene.content, scene.block).root()),
        geometry: geometry(scene.length(), scene.block),
        etag: None,
        last_modified: None,
    };
    let (header, mut writer) = RecordWriter::begin();
    let mut bytes = header.to_vec();
    bytes.extend(writer.append(&Record::Begin {
        identity,
        url: scene.url(),
    }));
    bytes.extend(writer.append(&Record::Run {
        place: part.place().unwrap(),
        time: 1,
    }));
    bytes.extend(writer.append(&Record::Blocks(vec![blocks])));
    fs::write(scene.journal(), bytes).unwrap();
}

#[test]
fn a_part_that_was_cut_or_lengthened_meanwhile() {
    for length in [0, 1, 16 * KIB, MIB / 3, 5 * MIB] {
        let scene = Scene::new(2 * MIB, 16 * KIB);
        scene.killed_at(MIB);
        fs::File::options()
            .write(true)
            .open(scene.part())
            .unwrap()
            .set_len(length)
            .unwrap();
        scene.fetch(&[]).must(0);
        scene.must_be_published();
    }
    // Junk behind the end, not only a hole.
    let scene = Scene::new(2 * MIB, 16 * KIB);
    scene.killed_at(MIB);
    let mut part = fs::read(scene.part()).unwrap();
    part.resize(3 * MIB as usize, 0xAA);
    fs::write(scene.part(), part).unwrap();
    scene.fetch(&[]).must(0);
    scene.must_be_published();
}

#[test]
fn an_empty_part_and_a_journal_without_a_part_are_nothing() {
    let scene = Scene::new(100 * KIB, 16 * KIB);
    fs::write(scene.part(), b"").unwrap();
    scene.fetch(&[]).must(0);
    scene.must_be_published();

    let scene = Scene::new(MIB, 16 * KIB);
    scene.killed_at(MIB / 2);
    fs::remove_file(scene.part()).unwrap();
    let ended = scene.fetch(&[]).must(0);
    assert!(ended.all("resumed").is_empty());
    scene.must_be_published();

    // An empty part is also gone when nothing could be fetched.
    let scene = Scene::new(100 * KIB, 16 * KIB);
    fs::write(scene.part(), b"").unwrap();
    scene.origin.remove(MANIFEST);
    scene.origin.remove(OBJECT);
    scene.fetch(&[]).must(1);
    scene.must_be_empty();
}

#[test]
fn journals_that_are_no_journals_are_ignored() {
    for bytes in [&b""[..], b"x", b"\x89SAPWJRN", &[0; 4096], &[0xFF; 100_000]] {
        let scene = Scene::new(MIB, 16 * KIB);
        let (held, _) = scene.killed_at(MIB / 2);
        fs::write(scene.journal(), bytes).unwrap();
        let ended = scene.fetch(&[]).must(0);
        // The part without a journal is a seed.
        ended.event("part_reused");
        scene.must_not_have_asked_for(&held);
        scene.must_be_published();
    }
}

#[test]
fn leftovers_beside_a_proven_file_go() {
    // Of this object: part and journal.
    let scene = Scene::new(MIB, 16 * KIB);
    scene.killed_at(MIB / 2);
    fs::write(scene.target(), scene.content.all()).unwrap();
    scene.fetch(&[]).must(0);
    scene.must_be_published();

    // The journal alone.
    let scene = Scene::new(MIB, 16 * KIB);
    scene.killed_at(MIB / 2);
    fs::rename(scene.part(), scene.target()).unwrap();
    fs::write(scene.target(), scene.content.all()).unwrap();
    scene.fetch(&[]).must(0);
    scene.must_be_published();
}

#[test]
fn somebody_elses_part_beside_a_proven_file_stays() {
    let scene = Scene::new(100 * KIB, 16 * KIB);
    fs::write(scene.target(), scene.content.all()).unwrap();
    fs::write(scene.part(), "precious").unwrap();
    scene.fetch(&[]).must(0);
    scene.must_hold(&scene.content);
    assert_eq!(fs::read_to_string(scene.part()).unwrap(), "precious");
    assert_eq!(names(scene.folder.path()), ["out", "out.part"]);
}

#[test]
fn no_clobber_leaves_an_existing_file_alone() {
    let scene = Scene::new(100 * KIB, 16 * KIB);
    fs::write(scene.target(), "mine").unwrap();
    let ended = scene.fetch(&["--no-clobber"]).must(6);
    assert!(ended.stderr.contains("out exists"), "{}", ended.stderr);
    assert_eq!(fs::read_to_string(scene.target()).unwrap(), "mine");
    assert!(scene.origin.log().is_empty());
    assert_eq!(names(scene.folder.path()), ["out"]);
    fs::remove_file(scene.target()).unwrap();
    scene.fetch(&["--no-clobber"]).must(0);
    scene.must_be_published();
}

// ---- trust

#[test]
fn another_root_is_refused_before_any_byte_of_the_body() {
    let scene = Scene::new(MIB, 16 * KIB);
    let other = "1".repeat(64);
    let ended = scene.fetch(&["--root", &other]).must(3);
    assert!(
        ended.stderr.contains(&other) && ended.stderr.contains(&scene.root()),
        "{}",
        ended.stderr
    );
    assert!(scene.origin.bodies_of(OBJECT).is_empty());
    scene.must_be_empty();
    let ended = scene.fetch(&["--root", &scene.root()]).must(0);
    assert_eq!(ended.event("published")["trust"], "root");
    scene.must_be_published();
}

#[test]
fn trust_below_what_is_required_is_refused_before_any_byte_of_the_body() {
    let root = |scene: &Scene| scene.root();
    for (require, with_root, exit) in [
        ("none", false, 0),
        ("digest", false, 0),
        ("manifest", false, 0),
        ("root", false, 3),
        ("signed", false, 3),
        ("root", true, 0),
        ("signed", true, 3),
    ] {
        let scene = Scene::new(100 * KIB, 16 * KIB);
        let root = root(&scene);
        let mut flags = vec!["--require", require];
        if with_root {
            flags.extend(["--root", &root]);
        }
        scene.fetch(&flags).must(exit);
        if exit == 0 {
            scene.must_be_published();
        } else {
            assert!(scene.origin.bodies_of(OBJECT).is_empty(), "{require}");
            scene.must_be_empty();
        }
    }
}

// ---- manifests

#[test]
fn manifests_from_a_file_a_url_and_standard_input() {
    let scene = Scene::new(MIB, 16 * KIB);
    let manifest = manifest_of(&scene.content, scene.block);
    scene.origin.remove(MANIFEST);
    scene.origin.put("/elsewhere", manifest.clone());
    fs::write(scene.path("m"), &manifest).unwrap();
    for place in ["m", &scene.origin.url("/elsewhere")] {
        scene.fetch(&["--manifest", place]).must(0);
        scene.must_hold(&scene.content);
        fs::remove_file(scene.target()).unwrap();
    }
    run_with_input(scene.command(&["--manifest", "-"]), &manifest).must(0);
    scene.must_hold(&scene.content);
    fs::remove_file(scene.target()).unwrap();
    // It must be there, and be one.
    scene
        .fetch(&["--manifest", &scene.origin.url("/nowhere")])
        .must(1);
    scene.fetch(&["--manifest", "nowhere"]).must(1);
    scene.origin.put("/page", b"<html>hello</html>".to_vec());
    scene
        .fetch(&["--manifest", &scene.origin.url("/page")])
        .must(3);
    fs::write(scene.path("page"), b"<html>hello</html>").unwrap();
    scene.fetch(&["--manifest", "page"]).must(3);
    run_with_input(scene.command(&["--manifest", "-"]), b"").must(3);
    run_with_input(
        scene.command(&["--manifest", "-"]),
        &manifest[..manifest.len() - 1],
    )
    .must(3);
    assert_eq!(names(scene.folder.path()), ["m", "page"]);
}

#[test]
fn no_manifest_and_malformed_ones() {
    let good = manifest_of(&Content::Painted(MIB), 16 * KIB);
    let mut flipped = good.clone();
    flipped[200] ^= 1;
    let mut wrong_leaf = good.clone();
    let at = wrong_leaf.len() - 5;
    wrong_leaf[at] ^= 1;
    for (what, body) in [
        ("the magic and a page", [&good[..8], b"<html>"].concat()),
        ("the magic alone", good[..8].to_vec()),
        ("one byte of the magic", good[..1].to_vec()),
        ("seven bytes of the magic", good[..7].to_vec()),
        ("a flipped bit", flipped),
        ("a wrong leaf", wrong_leaf),
        ("one with something behind it", [&good[..], b"x"].concat()),
        ("half of one", good[..good.len() / 2].to_vec()),
    ] {
        for ranges in [true, false] {
            let scene = Scene::new(MIB, 16 * KIB);
            scene.origin.put(MANIFEST, body.clone());
            if !ranges {
                scene
                    .origin
                    .lie(MANIFEST, Asks::Anything, Of::All, Lie::NoRanges);
            }
            let ended = scene.fetch(&["--tries", "2"]);
            assert_eq!(ended.exit, Some(3), "{what}, ranges: {ranges}: {ended:?}");
            assert!(
                ended.stderr.contains(&scene.origin.url(MANIFEST)),
                "{what}: {}",
                ended.stderr
            );
            assert!(scene.origin.later_bodies_of(OBJECT).is_empty(), "{what}");
            scene.must_be_empty();
        }
    }
}

#[test]
fn what_is_no_manifest_means_that_there_is_none() {
    for (what, body) in [
        ("a page", b"<html>not found</html>".to_vec()),
        ("nothing", vec![]),
        ("a long page", vec![b'x'; 100_000]),
    ] {
        for ranges in [true, false] {
            let scene = Scene::new(MIB, 16 * KIB);
            scene.origin.put(MANIFEST, body.clone());
            if !ranges {
                scene
                    .origin
                    .lie(MANIFEST, Asks::Anything, Of::All, Lie::NoRanges);
            }
            let ended = scene.fetch(&[]).must(0);
            assert_eq!(
                ended.event("published")["trust"],
                "none",
                "{what}, ranges: {ranges}"
            );
            scene.must_be_published();
            // The user says that it must be there: then it is an error.
            let manifest = scene.origin.url(MANIFEST);
            scene.fetch(&["--manifest", &manifest]).must(3);
        }
    }
}

#[test]
fn statuses_of_the_manifest() {
    for status in [400, 401, 403, 404, 410, 451] {
        let scene = Scene::new(100 * KIB, 16 * KIB);
        scene
            .origin
            .lie(MANIFEST, Asks::Anything, Of::All, Lie::Status(status));
        let ended = scene.fetch(&[]).must(0);
        assert_eq!(ended.event("published")["trust"], "none", "{status}");
        // Less than what the user requires is refused before any byte of the body.
        let scene = Scene::new(100 * KIB, 16 * KIB);
        scene
            .origin
            .lie(MANIFEST, Asks::Anything, Of::All, Lie::Status(status));
        scene.fetch(&["--require", "manifest"]).must(3);
        // What may be for the Range is requested once more without it.
        let requests = 1 + usize::from(matches!(status, 400 | 403));
        assert_eq!(scene.origin.log_of(MANIFEST).len(), requests, "{status}");
        assert!(scene.origin.bodies_of(OBJECT).is_empty(), "{status}");
        scene.must_be_empty();
        // A manifest that the user names must be there.
        let manifest = scene.origin.url(MANIFEST);
        scene.fetch(&["--manifest", &manifest]).must(1);
    }
    for status in [500, 502, 504, 408, 425] {
        let scene = Scene::new(100 * KIB, 16 * KIB);
        scene
            .origin
            .lie(MANIFEST, Asks::Anything, Of::All, Lie::Status(status));
        scene
            .fetch(&["--require", "manifest", "--patience", "2s"])
            .must(5);
        assert!(scene.origin.log_of(MANIFEST).len() > 1, "{status}");
        assert!(scene.origin.bodies_of(OBJECT).is_empty(), "{status}");
        scene.must_be_empty();
    }
    // Trouble that passes.
    let scene = Scene::new(100 * KIB, 16 * KIB);
    scene
        .origin
        .lie(MANIFEST, Asks::Anything, Of::First(2), Lie::Status(500));
    scene
        .origin
        .lie(MANIFEST, Asks::Anything, Of::Nth(4), Lie::ResetAfter(100));
    scene.fetch(&[]).must(0);
    scene.must_be_published();
}

#[test]
fn a_manifest_that_is_replaced_while_it_is_read_is_read_once_more() {
    let scene = Scene::new(MIB, 16 * KIB);
    // The second one is without the condition.
    for nth in [2, 3] {
        scene
            .origin
            .lie(MANIFEST, Asks::Anything, Of::Nth(nth), Lie::Status(412));
    }
    scene.fetch(&[]).must(0);
    scene.must_be_published();
    // Again and again: then it is changed.
    let scene = Scene::new(MIB, 16 * KIB);
    for nth in [2, 3, 5, 6] {
        scene
            .origin
            .lie(MANIFEST, Asks::Anything, Of::Nth(nth), Lie::Status(412));
    }
    scene.fetch(&[]).must(4);
}

#[test]
fn a_digest_of_the_version_before_proves_nothing_of_the_one_that_came() {
    let scene = Scene::new(MIB, 16 * KIB);
    scene.origin.remove(MANIFEST);
    let mut hasher = DigestHasher::new(Algorithm::Md5);
    hasher.update(&scene.content.all());
    let md5 = STANDARD.encode(hasher.finish().value());
    // Offered with the first answer only; then the object is said to have changed.
    let offer = Lie::Header("Content-MD5", md5);
    scene
        .origin
        .lie(OBJECT, Asks::Anything, Of::Nth(1), offer.clone());
    for nth in [2, 3] {
        scene
            .origin
            .lie(OBJECT, Asks::Anything, Of::Nth(nth), Lie::Status(412));
    }
    let ended = scene.fetch(&[]).must(0);
    assert_eq!(ended.event("published")["trust"], "none");
    scene.must_be_published();
    // Without the change it proves what came.
    fs::remove_file(scene.target()).unwrap();
    scene.origin.be_honest();
    scene.origin.lie(OBJECT, Asks::Anything, Of::All, offer);
    let ended = scene.fetch(&[]).must(0);
    assert_eq!(ended.event("published")["trust"], "digest");
}

#[test]
fn a_manifest_from_an_unreliable_server_is_read_unaided() {
    for (what, lies) in [
        (
            "breaks in the leaves",
            vec![(Of::Nth(2), Lie::CloseAfter(1000))],
        ),
        (
            "breaks in the front",
            vec![(Of::Nth(1), Lie::CloseAfter(1000))],
        ),
        (
            "ends the front early",
            vec![(Of::Nth(1), Lie::EndEarly(1000))],
        ),
        (
            "ends the leaves early",
            vec![(Of::Nth(2), Lie::EndEarly(1000))],
        ),
        ("has no ranges", vec![(Of::All, Lie::NoRanges)]),
        (
            "has no ranges for the leaves",
            vec![(Of::From(2), Lie::NoRanges)],
        ),
        (
            "has no ranges and breaks in the leaves",
            vec![
                (Of::All, Lie::NoRanges),
                (Of::First(2), Lie::CloseAfter(3000)),
            ],
        ),
        ("starts earlier", vec![(Of::All, Lie::Start(-100))]),
        (
            "does not tell lengths",
            vec![(Of::All, Lie::Chunked), (Of::All, Lie::Total("*".into()))],
        ),
    ] {
        let scene = Scene::new(4 * MIB, 16 * KIB);
        for (of, lie) in lies {
            scene.origin.lie(MANIFEST, Asks::Anything, of, lie);
        }
        let ended = scene.fetch(&[]);
        assert_eq!(ended.exit, Some(0), "{what}: {ended:?}");
        scene.must_be_published();
    }
}

/// Leaves are read on several connections where there are many of them. Whatever one of them does, the others' work stays.
#[test]
fn a_long_manifest_comes_in_parts() {
    let (blocks, pages) = (20_000, 20_000 * 32);
    for (what, lies, most) in [
        ("keeps to the rules", vec![], 0),
        (
            "breaks one, ends one early, starts one earlier",
            vec![
                (Of::Nth(2), Lie::CloseAfter(100_000)),
                (Of::Nth(3), Lie::EndEarly(200_000)),
                (Of::Nth(4), Lie::Start(-100)),
            ],
            2 * 64 * KIB,
        ),
        (
            "has no ranges after the front",
            vec![(Of::From(2), Lie::NoRanges)],
            3 * pages,
        ),
        (
            "has no ranges all of a sudden",
            vec![(Of::From(3), Lie::NoRanges)],
            3 * pages,
        ),
    ] {
        let scene = Scene::of(Content::Zeros(blocks * 16 * KIB), 16 * KIB);
        for (of, lie) in lies {
            scene.origin.lie(MANIFEST, Asks::Anything, of, lie);
        }
        // All leaves are proven before the object is asked for more than its first bytes and its last block.
        scene
            .origin
            .lie(OBJECT, Asks::Byte(FIRST_BYTES), Of::All, Lie::Status(404));
        let ended = scene.fetch(&[]).must(1);
        assert_eq!(ended.event("planned")["bytes_total"], scene.length());
        let asked = scene.origin.bodies_of(MANIFEST);
        // A response with everything may end the other requests before they are sent.
        let least = if what.starts_with("has no ranges") {
            2
        } else {
            4
        };
        assert!(asked.len() >= least, "{what}: {} requests", asked.len());
        let sent: u64 = asked.iter().map(|asked| asked.bytes_sent).sum();
        let length = pages + pages / 256 + 1536;
        assert!(
            sent <= length + 32 * KIB + most,
            "{what}: {sent} of {length}"
        );
    }
}

#[test]
fn a_long_manifest_that_is_wrong_somewhere_is_refused() {
    let scene = Scene::of(Content::Zeros(20_000 * 16 * KIB), 16 * KIB);
    let mut manifest = manifest_of(&scene.content, 16 * KIB);
    let last = manifest.len() - 1;
    manifest[last] ^= 1;
    scene.origin.put(MANIFEST, manifest);
    let failed = scene.fetch(&[]).must(3).event("failed");
    assert!(
        failed["message"].as_str().unwrap().contains("level 0"),
        "{failed}"
    );
    scene.must_be_empty();
}

#[test]
fn too_many_requests_within_patience_and_beyond() {
    let slow = |seconds: &str| Lie::StatusWith(429, vec![("Retry-After", seconds.to_owned())]);
    let scene = Scene::new(100 * KIB, 16 * KIB);
    scene
        .origin
        .lie(MANIFEST, Asks::Anything, Of::First(1), slow("1"));
    scene.origin.lie(
        OBJECT,
        Asks::Body,
        Of::First(1),
        Lie::StatusWith(503, vec![("Retry-After", "1".into())]),
    );
    let ended = scene.fetch(&[]).must(0);
    assert_eq!(ended.all("host_slowed").len(), 1);
    scene.must_be_published();

    for (path, asks) in [
        (MANIFEST, Asks::Anything),
        (OBJECT, Asks::Preflight),
        (OBJECT, Asks::Body),
    ] {
        let scene = Scene::new(100 * KIB, 16 * KIB);
        scene.origin.lie(path, asks, Of::All, slow("200"));
        let ended = scene.fetch(&["--patience", "30s"]).must(5);
        assert!(
            ended.event("failed")["retry_at"].is_string(),
            "{path}: {}",
            ended.stdout
        );
        scene.must_be_empty();
    }
}

#[test]
fn an_object_of_another_length_is_read_once_more_with_its_manifest() {
    let scene = Scene::new(100 * KIB, 16 * KIB);
    scene.origin.put(OBJECT, Content::Painted(100 * KIB + 1));
    let ended = scene.fetch(&[]).must(4);
    for length in ["102401 bytes", "102400 bytes"] {
        assert!(ended.stderr.contains(length), "{}", ended.stderr);
    }
    assert_eq!(scene.origin.log_of(MANIFEST).len(), 2);
    assert!(scene.origin.later_bodies_of(OBJECT).is_empty());
    scene.must_be_empty();

    // It was just replaced.
    let scene = Scene::new(100 * KIB, 16 * KIB);
    scene
        .origin
        .put("/old", manifest_of(&Content::Painted(50 * KIB), 16 * KIB));
    scene
        .origin
        .lie(MANIFEST, Asks::Anything, Of::First(1), Lie::Instead("/old"));
    scene.fetch(&[]).must(0);
    scene.must_be_published();

    // The object came before its manifest.
    let scene = Scene::new(100 * KIB, 16 * KIB);
    scene.origin.put("/old", Content::Painted(50 * KIB));
    let old = Lie::Instead("/old");
    scene.origin.lie(OBJECT, Asks::Anything, Of::First(1), old);
    scene.fetch(&[]).must(0);
    scene.must_be_published();
}

#[test]
fn the_last_block_is_asked_for_first() {
    let scene = Scene::new(2 * MIB + 1, 16 * KIB);
    scene.fetch(&[]).must(0);
    let bodies = scene.origin.later_bodies_of(OBJECT);
    assert_eq!(bodies[0].range, Some(2 * MIB..2 * MIB + 1));
    assert!(
        bodies.len() > 1
            && bodies[1..]
                .iter()
                .all(|asked| asked.range.clone().unwrap().end <= 2 * MIB)
    );
}

#[test]
fn a_false_length_or_block_size_is_found_by_the_last_block_before_any_other_is_asked_for() {
    let (length, block) = (10 * 16 * KIB, 16 * KIB);
    for claimed in [
        geometry(length - 5, block),
        geometry(length - block + 1, block),
        geometry(2 * length, 2 * block),
        geometry(2 * length - block, 2 * block),
        geometry(1024 * length, 1024 * block),
    ] {
        let scene = Scene::new(length, block);
        let manifest = manifest_with_false_geometry(&scene.content, block, claimed);
        scene.origin.put(MANIFEST, manifest);
        // The server plays along.
        scene.origin.put(OBJECT, Content::Painted(claimed.length()));
        let ended = scene.fetch(&[]).must(3);
        let last = claimed.bytes_of(claimed.last());
        let failed = ended.event("failed");
        assert_eq!(
            (&failed["block"], &failed["offset"]),
            (&claimed.last().0.into(), &last.start.into())
        );
        for asked in scene.origin.later_bodies_of(OBJECT) {
            assert_eq!(asked.range, Some(last.start..last.end), "{claimed:?}");
        }
        scene.must_be_empty();
    }
}

#[test]
fn an_object_larger_than_allowed_is_refused() {
    let scene = Scene::new(MIB, 16 * KIB);
    let ended = scene.fetch(&["--max-size", "1048575"]).must(1);
    assert!(ended.stderr.contains("--max-size"), "{}", ended.stderr);
    assert!(scene.origin.bodies_of(OBJECT).is_empty());
    scene.must_be_empty();
    scene.fetch(&["--max-size", "1MiB"]).must(0);
}

// ---- headers, redirects, secrets

#[test]
fn headers_go_to_the_origin_that_was_named_and_to_no_other() {
    let scene = Scene::new(MIB, 16 * KIB);
    let other = Origin::start();
    other.put("/moved", scene.content.clone());
    scene.origin.lie(
        OBJECT,
        Asks::Anything,
        Of::All,
        Lie::Redirect(302, other.url("/moved")),
    );
    fs::write(scene.path("headers"), "X-From-File: yes\n\n").unwrap();
    let user = scene.url().replace("http://", "http://user:pw@");
    let mut command = sapwood(scene.folder.path());
    command.args([
        "fetch",
        &user,
        "-o",
        "out",
        "-H",
        "X-Planted: yes",
        "-H",
        "@headers",
        "-H",
        "Cookie: c=1",
    ]);
    program::run(command).must(0);
    scene.must_be_published();
    for asked in scene.origin.log() {
        for name in ["X-Planted", "X-From-File", "Cookie", "Authorization"] {
            assert!(
                asked.header(name).is_some(),
                "{name} is missing in {asked:?}"
            );
        }
    }
    assert!(other.bodies_of("/moved").len() > 1);
    for asked in other.log() {
        for name in [
            "X-Planted",
            "X-From-File",
            "Cookie",
            "Authorization",
            "Referer",
        ] {
            assert_eq!(asked.header(name), None, "{asked:?}");
        }
        assert_eq!(asked.header("Accept-Encoding"), Some("identity"));
    }
}

#[test]
fn redirects_within_the_rules_and_beyond() {
    let scene = |hops: u32| {
        let scene = Scene::new(100 * KIB, 16 * KIB);
        for hop in 0..hops {
            let from = if hop == 0 {
                OBJECT.to_owned()
            } else {
                format!("/hop{hop}")
            };
            // Relative ones too.
            let to = if hop + 1 == hops {
                "/there".to_owned()
            } else {
                format!("/hop{}", hop + 1)
            };
            let status = [301, 302, 303, 307, 308][hop as usize % 5];
            scene
                .origin
                .lie(&from, Asks::Anything, Of::All, Lie::Redirect(status, to));
        }
        scene.origin.put("/there", scene.content.clone());
        scene
    };
    let five = scene(5);
    five.fetch(&[]).must(0);
    five.must_be_published();
    let six = scene(6);
    let ended = six.fetch(&[]).must(1);
    assert!(ended.stderr.contains("redirects"), "{}", ended.stderr);
    six.must_be_empty();
    for (target, exit) in [
        (OBJECT, 1),
        ("", 1),
        ("http://", 1),
        ("file:///etc/passwd", 6),
        ("ftp://127.0.0.1/x", 6),
        ("data:text/plain,x", 6),
        ("javascript:alert(1)", 6),
    ] {
        for path in [OBJECT, MANIFEST] {
            let scene = Scene::new(100 * KIB, 16 * KIB);
            let target = target.replace(OBJECT, path);
            scene.origin.lie(
                path,
                Asks::Anything,
                Of::All,
                Lie::Redirect(302, target.clone()),
            );
            // A manifest may be out of reach for a moment.
            let (more, exit) = match (path, exit) {
                (MANIFEST, 1) => (&["--require", "manifest", "--patience", "1s"][..], 5),
                _ => (&[][..], exit),
            };
            let ended = scene.fetch(more);
            assert_eq!(ended.exit, Some(exit), "{path} to {target:?}: {ended:?}");
            scene.must_be_empty();
        }
    }
}

#[test]
fn secrets_of_urls_and_headers_are_never_shown_or_kept() {
    const SECRET: &str = "PLANTED-4711";
    let scene = Scene::new(MIB, 16 * KIB);
    let url = format!(
        "http://u{SECRET}:p{SECRET}@{}{OBJECT}?sig={SECRET}#{SECRET}",
        scene.origin.address()
    );
    let header = format!("X-Token: {SECRET}");
    let command = |json: bool, more: &[&str]| {
        let mut command = sapwood(scene.folder.path());
        command
            .args([
                "-vvv", "fetch", &url, "-o", "out", "-H", &header, "--tries", "2",
            ])
            .args(more);
        if json {
            command.arg("--json");
        }
        command
    };
    let clean =
        |what: &str, text: &str| assert!(!text.contains(SECRET), "{what} shows the secret: {text}");
    let mut running = scene.run_until(command(true, &[]), MIB / 2);
    running.signal(Signal::TERM);
    let ended = running.finish().must(5);
    clean(
        "a stopped run",
        &format!("{}{}", ended.stdout, ended.stderr),
    );
    clean(
        "the journal",
        &String::from_utf8_lossy(&fs::read(scene.journal()).unwrap()),
    );
    scene.origin.allow_all();
    let asked = scene.origin.log().swap_remove(0);
    assert!(
        asked.query.unwrap().contains(SECRET),
        "the secret was not even sent"
    );
    let redirect = format!("http://127.0.0.1:1/?{SECRET}");
    for json in [true, false] {
        for (lie, exit) in [
            (Lie::Status(404), 1),
            (Lie::Status(403), 1),
            (Lie::Status(500), 5),
            (Lie::Refuse, 5),
            (Lie::Raw(b"no http".to_vec()), 1),
            (Lie::Redirect(302, redirect.clone()), 5),
            (Lie::FlipEach(1000), 3),
        ] {
            for path in [OBJECT, MANIFEST] {
                if path == MANIFEST && matches!(lie, Lie::FlipEach(_)) {
                    continue;
                }
                scene.origin.be_honest();
                scene.origin.lie(path, Asks::Anything, Of::All, lie.clone());
                let ended = program::run(command(json, &["--patience", "1s"]));
                clean(
                    &format!("{lie:?}"),
                    &format!("{}{}", ended.stdout, ended.stderr),
                );
                // Without a manifest the object is fetched all the same.
                let plain = path == MANIFEST && ended.exit == Some(0);
                assert!(
                    plain || ended.exit == Some(exit) || ended.exit == Some(5),
                    "{lie:?} of {path}: {ended:?}"
                );
                if plain {
                    fs::remove_file(scene.target()).unwrap();
                }
            }
        }
    }
    scene.origin.be_honest();
    let ended = program::run(command(false, &[])).must(0);
    clean("a whole run", &format!("{}{}", ended.stdout, ended.stderr));
    scene.must_be_published();
}

// ---- rates and events

#[test]
fn the_rate_and_the_events_keep_their_limits() {
    let scene = Scene::new(900_000, 16 * KIB);
    // No limit, as in curl.
    scene.fetch(&["--limit-rate", "0"]).must(0);
    fs::remove_file(scene.target()).unwrap();
    let began = Instant::now();
    let ended = scene.fetch(&["--limit-rate", "300kB"]).must(0);
    // What may come at once is a fifth of a second's worth.
    let took = began.elapsed().as_secs_f64();
    assert!(took >= 900.0 / 300.0 - 0.2, "{took}");
    scene.must_be_published();
    let events = ended.events();
    let ms = |event: &Value| event["time_ms"].as_u64().unwrap();
    let seconds = (ms(events.last().unwrap()) - ms(&events[0])) / 1000;
    let progress = ended.all("progress");
    // Once a second, and the first and the last.
    assert!(
        progress.len() as u64 <= seconds + 3,
        "{} in {seconds} s",
        progress.len()
    );
    assert_eq!(progress[0]["bytes_done"], 0);
    assert_eq!(progress.last().unwrap()["bytes_done"], scene.length());
    for event in &progress {
        assert!(
            ["bytes_done", "bytes_total", "bytes_fetched", "rate_bps"]
                .iter()
                .all(|name| event[name].is_u64()),
            "{event}"
        );
    }
    assert!(events.iter().map(ms).is_sorted());
}

#[test]
fn done_counts_the_bytes_of_runs_that_fail_too() {
    let scene = Scene::new(MIB, 16 * KIB);
    scene
        .origin
        .lie(OBJECT, Asks::Byte(FIRST_BYTES), Of::All, Lie::Status(404));
    let ended = scene.fetch(&["--connections", "1"]).must(1);
    let fetched = ended.event("done")["bytes_fetched"].as_u64().unwrap();
    assert!(
        fetched >= scene.block + manifest_of(&scene.content, scene.block).len() as u64,
        "{fetched}"
    );
}

// ---- origins that lie

#[test]
fn a_line_that_flips_bits_costs_only_the_damaged_blocks() {
    let scene = Scene::new(16 * MIB, 64 * KIB);
    scene
        .origin
        .lie(OBJECT, Asks::Body, Of::All, Lie::FlipInPassing(MIB));
    let ended = scene.fetch(&[]).must(0);
    scene.must_be_published();
    let wrong = ended.all("block_wrong");
    assert!(wrong.len() >= 8, "{}", wrong.len());
    for event in &wrong {
        assert_eq!(event["source"], scene.url());
        assert_ne!(event["expected"], event["found"]);
        let (block, offset) = (
            event["block"].as_u64().unwrap(),
            event["offset"].as_u64().unwrap(),
        );
        assert_eq!(
            (offset, event["length"].as_u64().unwrap()),
            (block * scene.block, scene.block)
        );
        let asked_again = scene
            .origin
            .bodies_of(OBJECT)
            .iter()
            .filter(|asked| asked.range == Some(offset..offset + scene.block))
            .count();
        assert!(asked_again >= 1, "block {block} was not asked for alone");
    }
    // Nothing but those blocks came twice, and spans that end early waste at most what is on its way.
    let fetched = ended.event("published")["bytes_fetched"].as_u64().unwrap();
    let most = scene.length() + wrong.len() as u64 * scene.block + 4 * MIB;
    assert!(fetched <= most, "{fetched} > {most}");
}

#[test]
fn an_origin_that_damages_every_block_is_named_with_block_and_hashes() {
    let scene = Scene::new(MIB, 16 * KIB);
    scene
        .origin
        .lie(OBJECT, Asks::Body, Of::All, Lie::FlipEach(1000));
    let ended = scene.fetch(&[]).must(3);
    let failed = ended.event("failed");
    assert_eq!(
        (&failed["block"], &failed["offset"], &failed["length"]),
        (&63.into(), &(63 * 16 * KIB).into(), &(16 * KIB).into())
    );
    for name in ["expected", "found"] {
        let hash = failed[name].as_str().unwrap();
        assert_eq!(hash.len(), 64);
        assert!(ended.stderr.contains(hash), "{name}: {}", ended.stderr);
    }
    assert!(
        ended.stderr.contains("block 63")
            && ended.stderr.contains("1032192-1048575")
            && ended.stderr.contains(&scene.url())
    );
    assert_eq!(ended.all("block_wrong").len(), 4);
    scene.must_be_empty();
}

#[test]
fn a_block_that_is_always_wrong_stops_the_run_and_keeps_the_others() {
    let scene = Scene::new(MIB, 16 * KIB);
    scene
        .origin
        .lie(OBJECT, Asks::Body, Of::All, Lie::FlipAt(500_000));
    let ended = scene.fetch(&[]).must(3);
    assert_eq!(ended.event("failed")["block"], 500_000 / scene.block);
    assert!(!scene.target().exists());
    scene.origin.be_honest();
    scene.origin.forget_log();
    scene.fetch(&[]).must(0);
    scene.must_not_have_asked_for(&verified(&ended.events()));
    scene.must_be_published();
}

/// An object and its manifest, under names beside those that are fetched.
fn put_pair(scene: &Scene, path: &'static str, manifest: &'static str, content: &Content) {
    scene.origin.put(path, content.clone());
    scene
        .origin
        .put(manifest, manifest_of(content, scene.block));
}

#[test]
fn an_object_replaced_in_the_middle_is_begun_again_and_what_proves_is_kept() {
    for (what, length, ranges) in [
        ("as long", 4 * MIB, true),
        ("longer", 4 * MIB + 100 * KIB, true),
        ("shorter", 4 * MIB - 100 * KIB, true),
        ("longer, without ranges", 4 * MIB + 100 * KIB, false),
    ] {
        let scene = Scene::new(4 * MIB, 16 * KIB);
        // One block is another one.
        let mut bytes = Content::Painted(length).all();
        bytes[MIB as usize] ^= 1;
        let other = Content::Bytes(bytes);
        put_pair(&scene, "/other", "/other.sapwood", &other);
        if !ranges {
            let break_off = Lie::ResetAfter(2 * MIB);
            scene
                .origin
                .lie(OBJECT, Asks::Body, Of::First(1), break_off);
            scene
                .origin
                .lie(OBJECT, Asks::Anything, Of::All, Lie::NoRanges);
        }
        for (path, asks, of, now) in [
            (OBJECT, Asks::Body, Of::From(2), "/other"),
            (OBJECT, Asks::Preflight, Of::From(2), "/other"),
            (MANIFEST, Asks::Anything, Of::From(3), "/other.sapwood"),
        ] {
            scene.origin.lie(path, asks, of, Lie::Instead(now));
        }
        let ended = scene.fetch(&[]);
        assert_eq!(ended.exit, Some(0), "{what}: {ended:?}");
        scene.must_hold(&other);
        assert_eq!(names(scene.folder.path()), ["out"]);
        assert_eq!(ended.all("replaced").len(), 1);
        // Of the others only one block may have come before.
        if what == "as long" || !ranges {
            let resumed = ended.event("published")["bytes_resumed"].as_u64();
            assert!(resumed > Some(MIB), "{what}: {}", ended.stdout);
        }
        let fetched = ended.event("done")["bytes_fetched"].as_u64();
        assert!(!ranges || fetched < Some(5 * MIB), "{what}: {fetched:?}");
    }
}

#[test]
fn an_object_replaced_again_and_again_is_told_as_changed() {
    let scene = Scene::new(MIB, 16 * KIB);
    let content = |byte: u8| Content::Bytes(vec![byte; MIB as usize]);
    put_pair(&scene, "/2", "/2.sapwood", &content(2));
    put_pair(&scene, "/3", "/3.sapwood", &content(3));
    let third = Lie::Instead("/3");
    scene.origin.lie(OBJECT, Asks::Body, Of::From(2), third);
    for (of, path) in [(Of::From(3), "/2.sapwood"), (Of::From(5), "/3.sapwood")] {
        scene
            .origin
            .lie(MANIFEST, Asks::Anything, of, Lie::Instead(path));
    }
    let ended = scene.fetch(&[]).must(4);
    assert!(ended.stderr.contains("another root"), "{}", ended.stderr);
    assert!(!scene.target().exists());
    // The same command again, as it says.
    scene.origin.be_honest();
    scene.origin.put(OBJECT, content(3));
    scene
        .origin
        .put(MANIFEST, manifest_of(&content(3), scene.block));
    scene.fetch(&[]).must(0);
    scene.must_hold(&content(3));
}

/// Who says what it must be is not given another object.
#[test]
fn an_object_with_a_given_root_or_digest_is_not_begun_again_as_another_one() {
    for given in ["--root", "--sha256"] {
        let scene = Scene::new(MIB, 16 * KIB);
        let other = Content::Bytes(vec![2; MIB as usize]);
        put_pair(&scene, "/2", "/2.sapwood", &other);
        let replaced = Lie::Instead("/2");
        scene.origin.lie(OBJECT, Asks::Body, Of::From(2), replaced);
        let replaced = Lie::Instead("/2.sapwood");
        scene
            .origin
            .lie(MANIFEST, Asks::Anything, Of::From(3), replaced);
        let mut hasher = DigestHasher::new(Algorithm::Sha256);
        hasher.update(&scene.content.all());
        let value = match given {
            "--root" => scene.root(),
            _ => hasher.finish().hex(),
        };
        scene.fetch(&[given, &value]).must(4);
        assert!(!scene.target().exists());
    }
}

#[test]
fn answers_that_are_used_as_far_as_they_go() {
    for lie in [
        Lie::Start(-1000),
        Lie::Start(-16 * 1024),
        Lie::EndEarly(100_000),
        Lie::CloseAfter(100_000),
        Lie::ResetAfter(100_000),
        Lie::Total("*".into()),
        Lie::Longer(10),
        Lie::Chunked,
        Lie::NoRanges,
        Lie::Without("ETag"),
        Lie::Header("ETag", "W/\"weak\"".into()),
    ] {
        let scene = Scene::new(2 * MIB, 16 * KIB);
        scene.origin.lie(OBJECT, Asks::Body, Of::All, lie.clone());
        let ended = scene.fetch(&["--connections", "2"]);
        assert_eq!(ended.exit, Some(0), "{lie:?}: {ended:?}");
        scene.must_be_published();
    }
}

/// A server that sends so few bytes a response, or cuts each one there, still brings every block.
#[test]
fn responses_that_stop_inside_a_block_never_ended() {
    for (block, bytes) in [(64 * KIB, 50_000), (MIB, 500_000)] {
        for lie in [Lie::EndEarly(bytes), Lie::CloseAfter(bytes)] {
            for manifest in [true, false] {
                let scene = Scene::new(64 * block, block);
                if !manifest {
                    scene.origin.remove(MANIFEST);
                }
                scene.origin.lie(OBJECT, Asks::Body, Of::All, lie.clone());
                let ended = scene.fetch(&["--patience", "20s"]);
                let what = format!("{lie:?} of blocks of {block}, manifest: {manifest}");
                assert_eq!(ended.exit, Some(0), "{what}: {}", ended.stderr);
                scene.must_be_published();
                let moved = ended.event("published")["bytes_fetched"].as_u64().unwrap();
                assert!(moved * 100 <= scene.length() * 105, "{what}: {moved} bytes");
            }
        }
    }
}

#[test]
fn answers_that_are_refused_once_and_dropped_when_they_come_again() {
    for lie in [
        Lie::Start(1),
        Lie::Header("Content-Range", "bytes 5-3/10".into()),
        Lie::Header("Content-Range", "bytes 0-18446744073709551616/*".into()),
        Lie::Header("Content-Range", "items 0-5/10".into()),
        Lie::StatusWith(206, vec![("Content-Range", "".into())]),
        Lie::Status(204),
        Lie::Status(304),
    ] {
        for (of, exit) in [(Of::Nth(2), 0), (Of::From(2), 1)] {
            let scene = Scene::new(2 * MIB, 16 * KIB);
            scene.origin.lie(OBJECT, Asks::Body, of, lie.clone());
            let ended = scene.fetch(&[]);
            assert_eq!(ended.exit, Some(exit), "{lie:?}, {of:?}: {ended:?}");
            match exit {
                0 => scene.must_be_published(),
                _ => assert!(!scene.target().exists(), "{lie:?}"),
            }
        }
    }
}

#[test]
fn a_whole_body_in_answer_to_a_range_is_never_appended() {
    // From the first request on, from the second one on, and in the middle of a resume.
    for from in [1, 2] {
        let scene = Scene::new(2 * MIB, 16 * KIB);
        scene
            .origin
            .lie(OBJECT, Asks::Body, Of::From(from), Lie::NoRanges);
        scene.fetch(&[]).must(0);
        scene.must_be_published();
    }
    let scene = Scene::new(2 * MIB, 16 * KIB);
    scene.killed_at(MIB);
    scene
        .origin
        .lie(OBJECT, Asks::Anything, Of::All, Lie::NoRanges);
    scene.fetch(&[]).must(0);
    scene.must_be_published();
    assert!(
        scene
            .origin
            .bodies_of(OBJECT)
            .iter()
            .all(|asked| asked.status == 200)
    );
    // One of another length is not used at all.
    let scene = Scene::new(2 * MIB, 16 * KIB);
    scene.origin.put("/page", b"<html>log in</html>".to_vec());
    scene
        .origin
        .lie(OBJECT, Asks::Body, Of::From(2), Lie::NoRanges);
    scene
        .origin
        .lie(OBJECT, Asks::Body, Of::From(2), Lie::Instead("/page"));
    scene.fetch(&[]).must(1);
    assert!(!scene.target().exists());
}

#[test]
fn no_416_is_an_end_of_file() {
    let scene = Scene::new(2 * MIB, 16 * KIB);
    scene.origin.lie(
        OBJECT,
        Asks::Byte(MIB),
        Of::All,
        Lie::StatusWith(416, vec![("Content-Range", format!("bytes */{MIB}"))]),
    );
    let ended = scene.fetch(&[]);
    assert_ne!(ended.exit, Some(0));
    assert!(!scene.target().exists());
    scene.origin.be_honest();
    scene.fetch(&[]).must(0);
    scene.must_be_published();
}

#[test]
fn another_total_is_another_object() {
    let scene = Scene::new(2 * MIB, 16 * KIB);
    scene.origin.lie(
        OBJECT,
        Asks::Body,
        Of::From(3),
        Lie::Total((2 * MIB + 1).to_string()),
    );
    scene.fetch(&[]).must(4);
    assert!(!scene.target().exists());
}

#[test]
fn what_is_not_there_leaves_nothing() {
    for (status, exit) in [(404, 1), (403, 1), (410, 1), (451, 1), (400, 1)] {
        let scene = Scene::new(MIB, 16 * KIB);
        scene
            .origin
            .lie(OBJECT, Asks::Anything, Of::All, Lie::Status(status));
        let ended = scene.fetch(&[]).must(exit);
        assert!(
            ended.stderr.contains(&scene.url()) && ended.stderr.contains(&status.to_string()),
            "{}",
            ended.stderr
        );
        scene.must_be_empty();
        // Also when it goes before the first body byte.
        let scene = Scene::new(MIB, 16 * KIB);
        scene
            .origin
            .lie(OBJECT, Asks::Body, Of::All, Lie::Status(status));
        scene.fetch(&[]).must(exit);
        scene.must_be_empty();
    }
}

#[test]
fn trouble_that_passes_needs_no_user() {
    for lie in [
        Lie::Refuse,
        Lie::Status(500),
        Lie::Status(503),
        Lie::Status(408),
        Lie::ResetAfter(0),
        Lie::CloseAfter(5000),
    ] {
        for asks in [Asks::Preflight, Asks::Body] {
            let scene = Scene::new(2 * MIB, 16 * KIB);
            scene.origin.lie(OBJECT, asks, Of::First(2), lie.clone());
            let ended = scene.fetch(&[]);
            assert_eq!(ended.exit, Some(0), "{lie:?} for {asks:?}: {ended:?}");
            scene.must_be_published();
        }
    }
}

#[test]
fn trouble_that_stays_is_exit_5_after_the_tries() {
    for lie in [Lie::Refuse, Lie::Status(500), Lie::ResetAfter(0)] {
        let scene = Scene::new(2 * MIB, 16 * KIB);
        scene.origin.lie(OBJECT, Asks::Body, Of::All, lie.clone());
        let ended = scene.fetch(&["--tries", "2"]);
        assert_eq!(ended.exit, Some(5), "{lie:?}: {ended:?}");
        // One more where the connection was a kept one, which may have been closed for other reasons.
        let asked = scene.origin.later_bodies_of(OBJECT).len();
        assert!((2..=3).contains(&asked), "{lie:?}: {asked}");
        scene.must_be_empty();
    }
}

#[test]
fn silence_is_noticed() {
    // By another connection that is idle, or after the time in which something must come.
    for connections in ["16", "1"] {
        let scene = Scene::new(2 * MIB, 16 * KIB);
        scene
            .origin
            .lie(OBJECT, Asks::Body, Of::Nth(2), Lie::StallAfter(1000));
        scene
            .origin
            .lie(MANIFEST, Asks::Anything, Of::First(1), Lie::SilentHeaders);
        let ended = scene.fetch(&["--connections", connections]).must(0);
        let retries = ended.all("retry").len();
        assert!((1..=2).contains(&retries), "{}", ended.stdout);
        scene.must_be_published();
    }
}

#[test]
fn an_object_that_only_says_its_name_gets_the_name_of_the_url() {
    let scene = Scene::new(100, 16 * KIB);
    let mut command = sapwood(scene.folder.path());
    command.args(["fetch", &scene.url()]);
    program::run(command).must(0);
    assert_eq!(names(scene.folder.path()), ["object.bin"]);
    fs::create_dir(scene.path("d")).unwrap();
    for folder in ["d", "d/"] {
        let mut command = sapwood(scene.folder.path());
        command.args(["fetch", &scene.url(), "-o", folder]);
        program::run(command).must(0);
        assert_eq!(names(&scene.path("d")), ["object.bin"]);
    }
}

#[test]
fn the_library_takes_manifests_and_trust_as_the_program_does() {
    let scene = Scene::new(300 * KIB, 16 * KIB);
    let manifest = manifest_of(&scene.content, scene.block);
    scene.origin.remove(MANIFEST);
    let error = in_process(&scene, |options| options.require = Trust::Manifest).unwrap_err();
    assert!(matches!(error, Error::BelowRequired { .. }), "{error}");
    let published = in_process(&scene, |options| {
        options.manifest = Some(ManifestPlace::Bytes(manifest.into()));
        options.root = Some(tree_of(&scene.content, scene.block).root());
        options.require = Trust::Root;
    });
    assert_eq!(published.unwrap().trust, Trust::Root);
    scene.must_be_published();
}
