//! The memory of the program does not grow with what a server sends.

use std::{fs, io::Write, process::Command, sync::OnceLock};

use sapwood::format::{
    anchors::{self, BlockAnchor, Tag},
    geometry::{BlockSize, Geometry},
    layout::Layout,
    manifest, paint, pieces,
    statement::Statement,
    tree::Root,
};

use crate::support::{
    claims::{header_of_claims, manifest_of_claims},
    faults::{Fault, Place},
    long,
    objects::{Content, geometry, manifest_of},
    origin::{Asks, Lie, Of},
    program::{run_measured, run_timed, sapwood},
    scene::{MANIFEST, OBJECT, Scene},
};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const LENGTH: u64 = 2 * MIB + 17;
const BLOCK: u64 = 16 * KIB;
/// More than a run without faults: bytes on their way of eight connections, and room. No header of 10 MB fits into that, let
/// alone a manifest of a gigabyte.
const GROWTH_MAX: u64 = 8 * MIB;

/// With as many blocks as a manifest can claim, beside 64 MiB of old data.
const CLAIMS_PEAK_MAX: u64 = 100 * MIB;

fn fetch(scene: &Scene) -> Command {
    let mut command = sapwood(scene.folder.path());
    let url = scene.url();
    command
        .args(["--json", "fetch", &url, "-o", "out", "--tries", "2"])
        .args(["--patience", "30s", "--max-size", "1GB"]);
    command
}

/// The most that a run may have: what one has that fetches an object of `LENGTH` without faults, most of it the program itself
/// with its debug information, and `GROWTH_MAX`.
fn peak_max() -> u64 {
    static PEAK_MAX: OnceLock<u64> = OnceLock::new();
    *PEAK_MAX.get_or_init(|| peak("no fault", &Scene::new(LENGTH, BLOCK), 0) + GROWTH_MAX)
}

/// Runs, and returns what the program had.
#[track_caller]
fn peak(what: &str, scene: &Scene, exit: i32) -> u64 {
    let (ended, peak) = run_measured(&fetch(scene));
    assert_eq!(ended.exit, Some(exit), "{what}: {ended:?}");
    println!("{:3} MiB: {what}", peak / MIB);
    peak
}

/// S25 and S26.
#[test]
fn headers_and_bodies_without_end_take_no_memory() {
    for (id, manifest, exit) in [
        ("S25a", true, 1),
        ("S25a", false, 1),
        ("S25b", true, 1),
        ("S25b", false, 1),
        ("S26a", true, 0),
        // All that the user allows comes, and goes to the disk.
        ("S26a", false, 1),
        ("S26b", true, 0),
    ] {
        let scene = Scene::new(LENGTH, BLOCK);
        if !manifest {
            scene.origin.remove(MANIFEST);
        }
        let place = Place {
            path: OBJECT.into(),
            length: LENGTH,
            at: LENGTH / 2,
            seed: 1,
            secret: "",
        };
        let fault = Fault::named(id).expect("it is in the list");
        for lie in fault.lies(&place) {
            scene.origin.lie(OBJECT, fault.asks, Of::All, lie);
        }
        let peak = peak(
            &format!("{}, manifest: {manifest}", fault.does),
            &scene,
            exit,
        );
        assert!(peak <= peak_max(), "{id}, {manifest}: {} MiB", peak / MIB);
    }
}

/// S37.
#[test]
fn a_manifest_of_a_gigabyte_takes_no_memory() {
    let giga = 1_000_000_000;
    let whole = || vec![Lie::NoRanges];
    let total = || vec![Lie::Total(giga.to_string())];
    let content = Content::Painted(LENGTH);
    for (what, manifest, lies, exit) in [
        ("zeros", None, vec![], 0),
        ("zeros, whole", None, whole(), 0),
        ("zeros, endless", None, vec![Lie::NoRanges, Lie::Endless], 0),
        (
            "a longer one than it says",
            Some(manifest_of(&content, BLOCK)),
            total(),
            3,
        ),
    ] {
        let scene = Scene::of(content.clone(), BLOCK);
        match manifest {
            Some(manifest) => scene.origin.put(MANIFEST, manifest),
            None => scene.origin.put(MANIFEST, Content::Zeros(giga)),
        }
        for lie in lies {
            scene.origin.lie(MANIFEST, Asks::Anything, Of::All, lie);
        }
        let peak = peak(&format!("a manifest: {what}"), &scene, exit);
        assert!(peak <= peak_max(), "{what}: {} MiB", peak / MIB);
    }
}

/// 2^24 blocks, which no disk of today has room for, beside old data.
#[test]
fn a_manifest_that_claims_more_than_the_disk_has_takes_nothing() {
    let geometry = Geometry::new(1 << 48, BlockSize::MAX).expect("it is allowed");
    let layout = Layout {
        geometry,
        hints: true,
    };
    let header = header_of_claims(layout, Root([7; 32]));
    let scene = Scene::new(LENGTH, BLOCK);
    let path = scene.path("claims");
    let length = header.sections_end();
    fs::write(&path, manifest::front(&Statement::new(header), None)).expect("a file");
    let file = fs::File::options().write(true).open(&path);
    file.and_then(|file| file.set_len(length)).expect("a hole");
    scene.origin.put(MANIFEST, Content::File(path, length));
    scene.origin.put(OBJECT, Content::Zeros(geometry.length()));
    let old = vec![3; 64 * MIB as usize];
    fs::write(scene.target(), &old).expect("a file");
    let (ended, peak) = run_measured(&scene.command(&[]));
    let ended = ended.must(7);
    assert!(ended.stderr.contains("free on its disk"), "{ended:?}");
    assert!(ended.all("searching").is_empty(), "{ended:?}");
    assert!(peak <= peak_max(), "{} MiB", peak / MIB);
    assert!(fs::read(scene.target()).expect("the old file") == old);
}

/// A manifest of many blocks, all of which have these hints.
struct Attack {
    what: &'static str,
    anchor: BlockAnchor,
    pieces: Vec<u16>,
    /// The user gives it as a file.
    local: bool,
}

/// A part of an earlier run is there, so that what is left to fetch, and the room that it needs, is known only later. With room for
/// all of it the run goes on until the bytes of the server are wrong.
fn beside_old_data(attack: &Attack, blocks: u32) -> u64 {
    let Attack {
        what,
        anchor,
        pieces,
        local,
    } = attack;
    let length = u64::from(blocks) * BLOCK;
    let scene = Scene::new(LENGTH, BLOCK);
    let manifest = manifest_of_claims(geometry(length, BLOCK), *anchor, pieces);
    let mut arguments = vec!["--tries", "1"];
    if *local {
        let mut file = fs::File::create(scene.path("claims")).expect("a file");
        for start in (0..manifest.length()).step_by(MIB as usize) {
            let end = manifest.length().min(start + MIB);
            file.write_all(&manifest.read(start..end)).expect("a write");
        }
        arguments.extend(["--manifest", "claims"]);
    }
    scene.origin.put(MANIFEST, manifest);
    scene.origin.put(OBJECT, Content::Zeros(length));
    // Each of its blocks has the same anchor.
    let old = paint::bytes(0, BLOCK as usize).repeat((64 * MIB / BLOCK) as usize);
    fs::write(scene.target(), &old).expect("a file");
    fs::write(scene.part(), b"a part").expect("a file");
    let (ended, peak, cpu) = run_timed(&scene.command(&arguments));
    println!(
        "{:4} MiB, {cpu:?} of processors: {what}, {blocks} blocks, exit {:?}",
        peak / MIB,
        ended.exit
    );
    assert!(matches!(ended.exit, Some(3 | 7)), "{ended:?}");
    assert_eq!(ended.all("searching").len(), 1, "{ended:?}");
    assert!(fs::read(scene.target()).expect("the old file") == old);
    peak
}

/// A manifest of 2^24 blocks took 4.4 GB beside an old file.
#[test]
fn blocks_that_a_manifest_claims_take_no_memory() {
    let blocks = match long() {
        true => 1 << 24,
        false => 1 << 19,
    };
    let block = |from| paint::bytes(from, BLOCK as usize);
    let other = anchors::anchor_of(&block(1 << 40));
    let same = anchors::anchor_of(&block(0));
    let zeros = anchors::anchor_of(&vec![0; BLOCK as usize]);
    let zero = pieces::piece_of(&[0; 1024]);
    let attack = |what, anchor| Attack {
        what,
        anchor,
        pieces: vec![7],
        local: false,
    };
    let mut attacks = vec![
        attack("anchors of other data", other),
        attack("anchors of the old data", same),
        attack("anchors of zeros", zeros),
        Attack {
            local: true,
            ..attack("a local manifest", same)
        },
    ];
    if long() {
        // With room for all of it, their pieces would be fetched one by one.
        attacks.push(Attack {
            pieces: vec![zero, zero, 7, 7],
            ..attack("pieces of zeros", other)
        });
    }
    let attacks = attacks.iter();
    let peaks: Vec<u64> = attacks
        .map(|attack| beside_old_data(attack, blocks))
        .collect();
    assert!(peaks.iter().all(|peak| *peak <= CLAIMS_PEAK_MAX));
}

/// All its leaves were in memory: 800 MB for the most blocks.
#[test]
fn a_manifest_of_many_blocks_takes_no_memory_to_inspect() {
    let length = BLOCK << 20;
    let scene = Scene::new(LENGTH, BLOCK);
    let anchor = anchors::anchor_of(&paint::bytes(0, BLOCK as usize));
    let manifest = manifest_of_claims(geometry(length, BLOCK), anchor, &[7]);
    let mut file = fs::File::create(scene.path("claims")).expect("a file");
    for start in (0..manifest.length()).step_by(MIB as usize) {
        let end = manifest.length().min(start + MIB);
        file.write_all(&manifest.read(start..end)).expect("a write");
    }
    scene.origin.put(MANIFEST, manifest);
    let url = scene.origin.url(MANIFEST);
    for (place, form) in [
        ("claims", "--json"),
        ("claims", "--leaves"),
        (&url, "--json"),
        (&url, "--leaves"),
    ] {
        let mut command = sapwood(scene.folder.path());
        command.args(["inspect", place, form]);
        let (ended, peak) = run_measured(&command);
        let lines = ended.must(0).stdout.lines().count();
        assert_eq!(lines, if form == "--leaves" { 1 << 20 } else { 1 });
        assert!(peak <= peak_max(), "{place} {form}: {} MiB", peak / MIB);
    }
}

/// Anybody can claim any length; only who has the object has its last block.
#[test]
fn nothing_is_searched_for_an_object_whose_last_block_cannot_be_had() {
    let length = 1024 * BLOCK;
    for (lies, searched) in [(false, 1), (true, 0)] {
        let scene = Scene::new(LENGTH, BLOCK);
        let manifest = manifest_of_claims(
            geometry(length, BLOCK),
            BlockAnchor::new(Tag::of(9), 0),
            &[7],
        );
        scene.origin.put(MANIFEST, manifest);
        scene.origin.put(OBJECT, Content::Zeros(length));
        if lies {
            let lie = Lie::FlipAt(length - 1);
            scene.origin.lie(OBJECT, Asks::Anything, Of::All, lie);
        }
        fs::write(scene.target(), paint::bytes(0, 999)).expect("a file");
        let ended = scene.fetch(&["--tries", "1"]).must(3);
        assert_eq!(ended.all("searching").len(), searched, "{ended:?}");
    }
}

/// The last block that was fetched before a search is not fetched again, in this run or a later one.
#[test]
fn the_block_that_proves_the_length_is_fetched_once() {
    let length = 400 * BLOCK + 17;
    let scene = Scene::new(length, BLOCK);
    let old = paint::bytes(5 * BLOCK, 3 * BLOCK as usize);
    let times = || {
        let bodies = scene.origin.bodies_of(OBJECT).into_iter();
        let ends = bodies.filter_map(|asked| Some(asked.range?.end));
        ends.filter(|end| *end >= length).count()
    };
    fs::write(scene.target(), &old).expect("a file");
    scene.fetch(&[]).must(0);
    assert_eq!(times(), 1);
    scene.must_be_published();
    fs::write(scene.target(), &old).expect("a file");
    let (first, _) = scene.killed_at(length / 2);
    assert!(first.len() > 10 && scene.part().exists());
    let ended = scene.fetch(&[]).must(0);
    assert_eq!(ended.all("searching").len(), 1);
    assert_eq!(times(), 0);
    scene.must_be_published();
}

/// What these tests measure with sees what is taken.
#[test]
fn memory_that_is_taken_is_seen() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let path = folder.path().join("large");
    let length = 2 * peak_max();
    fs::write(&path, vec![1; length as usize]).expect("a file");
    let python = std::env::var_os("PATH").into_iter();
    let python = python
        .flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>())
        .map(|folder| folder.join("python3"))
        .find(|path| path.exists())
        .expect("a python");
    let mut command = Command::new(python);
    command
        .args(["-c", "import sys; open(sys.argv[1], 'rb').read()"])
        .arg(&path);
    let (ended, peak) = run_measured(&command);
    ended.must(0);
    assert!(peak > length, "{peak}");
}
