//! The memory of the program does not grow with what a server sends.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use sapwood::format::{
    anchors,
    geometry::{BlockSize, Geometry},
    layout::Layout,
    manifest, paint,
    statement::Statement,
    tree::Root,
};

use crate::support::{
    claims::{header_of_claims, manifest_of_claims},
    faults::{Fault, Place},
    long,
    objects::{Content, manifest_of},
    origin::{Asks, Lie, Of},
    program::{run_measured, run_timed, sapwood},
    scene::{MANIFEST, OBJECT, Scene},
};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const LENGTH: u64 = 2 * MIB + 17;
const BLOCK: u64 = 16 * KIB;
/// The program itself, bytes on their way of eight connections, and room. No header of 10 MB fits beside that, let alone a
/// manifest of a gigabyte.
const PEAK_MAX: u64 = 24 * MIB;

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
        assert!(peak <= PEAK_MAX, "{id}, {manifest}: {} MiB", peak / MIB);
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
        assert!(peak <= PEAK_MAX, "{what}: {} MiB", peak / MIB);
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
    assert!(peak <= PEAK_MAX, "{} MiB", peak / MIB);
    assert!(fs::read(scene.target()).expect("the old file") == old);
}

/// A part of an earlier run is there, so that what is left to fetch, and the room that it needs, is known only later. With room for
/// all of it the run goes on until the bytes of the server are wrong.
fn beside_old_data(blocks: u32, collides: bool) -> (u64, Duration) {
    let length = u64::from(blocks) * BLOCK;
    let block_size = BlockSize::new(BLOCK).expect("a block size");
    let geometry = Geometry::new(length, block_size).expect("it is allowed");
    let scene = Scene::new(LENGTH, BLOCK);
    let unit = paint::bytes(0, BLOCK as usize);
    let tag = match collides {
        true => anchors::anchor_of(&unit),
        false => anchors::anchor_of(&paint::bytes(1 << 40, BLOCK as usize)),
    };
    scene
        .origin
        .put(MANIFEST, manifest_of_claims(geometry, tag));
    scene.origin.put(OBJECT, Content::Zeros(length));
    // Each of its blocks has the same anchor.
    let old = unit.repeat((64 * MIB / BLOCK) as usize);
    fs::write(scene.target(), &old).expect("a file");
    fs::write(scene.part(), b"a part").expect("a file");
    let began = Instant::now();
    let (ended, peak, cpu) = run_timed(&scene.command(&["--tries", "1"]));
    println!(
        "{} MiB, {cpu:?} of processors, {:?}: {blocks} blocks, the anchors collide: {collides}; exit {:?}",
        peak / MIB,
        began.elapsed(),
        ended.exit
    );
    println!("{}", ended.stderr);
    assert!(matches!(ended.exit, Some(3 | 7)), "{ended:?}");
    assert!(fs::read(scene.target()).expect("the old file") == old);
    (peak, cpu)
}

/// A manifest of 2^24 blocks took 4.4 GB beside an old file, and one of 2^20 blocks 390 MB.
#[test]
fn blocks_that_a_manifest_claims_take_no_memory() {
    let blocks = match long() {
        true => 1 << 24,
        false => 1 << 20,
    };
    for collides in [false, true] {
        let (peak, _) = beside_old_data(blocks, collides);
        assert!(peak <= CLAIMS_PEAK_MAX, "{} MiB", peak / MIB);
    }
}

/// What these tests measure with sees what is taken.
#[test]
fn memory_that_is_taken_is_seen() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let path = folder.path().join("large");
    fs::write(&path, vec![1; 2 * PEAK_MAX as usize]).expect("a file");
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
    assert!(peak > 2 * PEAK_MAX, "{peak}");
}
