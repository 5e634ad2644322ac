//! Fetching from a pack: fewer bytes where it is good, and the object all the same where it is not.

use std::{
    fs,
    time::{Duration, Instant},
};

use sapwood::{
    engine::{
        create::{self, CreateOptions, Input, Output},
        manifest_file, pack,
    },
    format::{
        compression::PackOptions,
        geometry::BlockSize,
        manifest,
        pack::FRONT_BYTES,
        paint,
        statement::{self, Statement},
    },
};

use crate::support::{
    objects::Content,
    origin::{Asks, FIRST_BYTES, Lie, Of, Origin},
    program::{Ended, anonymous_memory_of, sapwood},
    scene::{MANIFEST, OBJECT, Scene},
};

pub const PACK: &str = "/object.bin.sapwood.pack";
const BLOCK: u64 = 64 << 10;
const MIB: usize = 1 << 20;

/// Text; frames 3 and 4 are noise, which is not packed.
pub fn text(length: usize) -> Vec<u8> {
    let lines =
        (0u32..).flat_map(|n| format!("{n}: {} pears\n", u64::from(n) * 7919 % 1009).into_bytes());
    let mut bytes: Vec<u8> = lines.take(length).collect();
    if length > 5 * MIB {
        bytes[3 * MIB..5 * MIB].copy_from_slice(&paint::bytes(0, 2 * MIB));
    }
    bytes
}

const QUICK: PackOptions = PackOptions {
    level: 3,
    whole: false,
};

/// The manifest and the pack of these bytes.
fn packed(bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (manifest, pack) = described(bytes, Some(QUICK), None);
    (manifest, pack.expect("it compresses"))
}

/// The same; `None` for the pack: without one.
fn described(
    bytes: &[u8],
    pack: Option<PackOptions>,
    block_size: Option<BlockSize>,
) -> (Vec<u8>, Option<Vec<u8>>) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("object.bin");
    fs::write(&path, bytes).expect("a file");
    let manifest = manifest_file::beside(&path);
    let options = CreateOptions {
        pack,
        block_size,
        ..CreateOptions::default()
    };
    let (input, output) = (Input::File(path), Output::File(manifest.clone()));
    create::create(input, output, &options, None).expect("a manifest");
    let pack = fs::read(pack::beside(&manifest)).ok();
    (fs::read(manifest).expect("it was made"), pack)
}

pub fn scene(bytes: Vec<u8>) -> Scene {
    let (manifest, pack) = packed(&bytes);
    let scene = Scene::of(Content::Bytes(bytes), BLOCK);
    scene.origin.put(MANIFEST, manifest);
    scene.origin.put(PACK, pack);
    scene
}

fn fetched(ended: &Ended) -> u64 {
    ended.event("published")["bytes_fetched"]
        .as_u64()
        .expect("a number")
}

/// Bytes of the object after the first ones that were sent.
fn sent_plain(origin: &Origin) -> u64 {
    let bodies = origin.later_bodies_of(OBJECT);
    bodies.iter().map(|asked| asked.bytes_sent).sum()
}

#[test]
fn frames_come_packed_and_the_others_plain() {
    let scene = scene(text(12 * MIB + 70_001));
    let ended = scene.fetch(&[]).must(0);
    scene.must_be_published();
    let (plain, pack) = (sent_plain(&scene.origin), scene.origin.sent(PACK));
    // Two frames that are not packed, and the last block.
    assert!(
        (2 * MIB as u64..2 * MIB as u64 + 4 * BLOCK).contains(&plain),
        "{plain}"
    );
    assert!((10_000..5 * MIB as u64).contains(&pack), "{pack}");
    let all = plain + pack + FIRST_BYTES + scene.origin.sent(MANIFEST);
    assert!(fetched(&ended) <= all + 1, "{} of {all}", fetched(&ended));
    // No frame was moved twice.
    let mut ranges: Vec<_> = (scene.origin.bodies_of(PACK).into_iter())
        .map(|asked| asked.range.expect("a range"))
        .collect();
    ranges.sort_by_key(|range| range.start);
    assert!(ranges.is_sorted_by(|a, b| a.end <= b.start), "{ranges:?}");
}

#[test]
fn what_is_held_is_not_fetched_packed_either() {
    let bytes = text(12 * MIB);
    let scene = scene(bytes.clone());
    // All but the first and the last frames is here.
    let mut old = bytes;
    for place in [100..MIB - 100, 11 * MIB + 100..12 * MIB - 100] {
        old[place.clone()].copy_from_slice(&paint::bytes(0, place.len()));
    }
    fs::write(scene.target(), old).expect("a file");
    scene.fetch(&[]).must(0);
    scene.must_be_published();
    let first = scene.origin.bodies_of(PACK);
    assert!(first.len() <= 2, "{first:?}");
}

#[test]
fn a_pack_that_is_not_there_costs_two_requests() {
    let scene = scene(text(3 * MIB));
    scene.origin.remove(PACK);
    scene.fetch(&["--connections", "1"]).must(0);
    scene.must_be_published();
    assert!(scene.origin.log_of(PACK).len() <= 2);
}

/// A stale pack: the one of another object.
#[test]
fn a_pack_of_another_object_costs_little() {
    let length = 8 * MIB;
    let scene = scene(text(length));
    let mut other = text(length);
    other.rotate_left(11);
    let (_, stale) = packed(&other);
    let (_, mut good) = packed(&text(length));
    // The same lengths are needed, or the total length shows it at once.
    let shorter = stale.len().min(good.len());
    good[FIRST_BYTES as usize / 2..shorter]
        .copy_from_slice(&stale[FIRST_BYTES as usize / 2..shorter]);
    for bytes in [stale, good] {
        scene.origin.put(PACK, bytes);
        scene.origin.forget_log();
        let ended = scene.fetch(&[]).must(0);
        scene.must_be_published();
        let most = length as u64 + 3 * MIB as u64;
        assert!(fetched(&ended) < most, "{}", fetched(&ended));
        assert!(!ended.stdout.contains("source_dropped"), "{}", ended.stdout);
        fs::remove_file(scene.target()).expect("it was published");
    }
}

/// A manifest whose tree is that of one object, and whose index is that of a pack of another one: every frame decodes, to other
/// bytes. That is no fault of the source of the object.
#[test]
fn a_pack_that_lies_is_left_alone() {
    let length = 6 * MIB;
    let lie = text(length)
        .iter()
        .map(|byte| byte ^ u8::from(byte.is_ascii_digit()))
        .collect::<Vec<u8>>();
    let (mut manifest, _) = packed(&text(length));
    let (of_lie, pack) = packed(&lie);
    let header_of = |bytes: &[u8]| {
        let (statement, _) = statement::read_front(bytes).expect("a manifest");
        statement.header().clone()
    };
    let (mut header, of_lie_header) = (header_of(&manifest), header_of(&of_lie));
    let index = of_lie_header.pack().expect("an index").clone();
    let bytes = index.bytes.start as usize..index.bytes.end as usize;
    manifest[bytes.clone()].copy_from_slice(&of_lie[bytes]);
    *header.sections.last_mut().expect("an index") = index;
    let front = manifest::front(&Statement::new(header), None);
    manifest[..front.len()].copy_from_slice(&front);
    let scene = scene(text(length));
    scene.origin.put(PACK, pack);
    scene.origin.put(MANIFEST, manifest);
    let ended = scene.fetch(&[]).must(0);
    scene.must_be_published();
    assert!(!scene.origin.bodies_of(PACK).is_empty());
    assert!(!ended.stdout.contains("source_dropped"), "{}", ended.stdout);
    assert!(!ended.stdout.contains("block_wrong"), "{}", ended.stdout);
    assert!(fetched(&ended) < length as u64 + 3 * MIB as u64);
}

#[test]
fn faults_of_the_server_of_a_pack_end_nothing() {
    let lies = [
        Lie::NoRanges,
        Lie::Status(404),
        Lie::Status(503),
        Lie::Refuse,
        Lie::CloseAfter(50_000),
        Lie::ResetAfter(50_000),
        Lie::Shift(1),
        Lie::FlipInPassing(100_000),
        Lie::EndEarly(10_000),
        Lie::Start(1),
        Lie::Total("7".to_owned()),
    ];
    for lie in lies {
        for of in [Of::First(1), Of::All] {
            let scene = scene(text(4 * MIB));
            scene.origin.lie(PACK, Asks::Anything, of, lie.clone());
            let ended = scene.fetch(&[]).must(0);
            scene.must_be_published();
            let most = 4 * MIB as u64 + 3 * MIB as u64;
            assert!(
                fetched(&ended) < most,
                "{lie:?}, {of:?}: {}",
                fetched(&ended)
            );
        }
    }
}

/// A kill costs no frame that was proven.
#[test]
fn a_killed_fetch_goes_on_from_the_pack() {
    let scene = scene(text(12 * MIB));
    scene.origin.pace(Some(400_000));
    let mut running = scene.start(&["--connections", "2"]);
    running.wait_for("some frames", |events| {
        crate::support::program::verified(events).len() > 40
    });
    let held = crate::support::program::verified(&running.kill()).len() as u64;
    scene.origin.wait_until_idle();
    scene.origin.pace(None);
    scene.origin.forget_log();
    let ended = scene.fetch(&[]).must(0);
    scene.must_be_published();
    let resumed = ended.event("published")["bytes_resumed"]
        .as_u64()
        .expect("a number");
    assert!(
        resumed + 16 * MIB as u64 / 4 >= held * BLOCK,
        "{resumed} of {held} blocks"
    );
}

/// The same with other bytes here and there.
fn edited(bytes: &[u8]) -> Vec<u8> {
    let mut edited = bytes.to_vec();
    for at in (5_000..bytes.len() - 5_000).step_by(40_000) {
        edited[at..at + 2_000].copy_from_slice(&paint::bytes(at as u64 / 8 * 8, 2_000));
    }
    edited
}

/// A few words changed here and there: what is missing is fetched piece by piece, packed.
#[test]
fn an_update_takes_pieces_from_the_pack() {
    let new = text(3 * MIB);
    let old = edited(&new);
    let scene = scene(new);
    fs::write(scene.target(), &old).expect("a file");
    let ended = scene.fetch(&[]).must(0);
    scene.must_be_published();
    let plain = sent_plain(&scene.origin);
    assert!(plain < 2 * BLOCK, "{plain}");
    assert!(scene.origin.sent(PACK) > 0);
    let fetched = fetched(&ended) - FIRST_BYTES;
    assert!(fetched < 150_000, "{fetched}");
}

/// Found: a 503 with `Retry-After` for the pack was taken for one of its host, so that the fetch ended with exit 5.
#[test]
fn a_pack_that_is_to_be_waited_for_is_left_alone() {
    let bytes = text(3 * MIB);
    for old in [None, Some(bytes.iter().rev().copied().collect::<Vec<u8>>())] {
        let scene = scene(bytes.clone());
        for status in [429, 503] {
            let fields = vec![("Retry-After", "3600".to_owned())];
            let lie = Lie::StatusWith(status, fields);
            scene.origin.lie(PACK, Asks::Anything, Of::All, lie);
            match &old {
                Some(old) => fs::write(scene.target(), old).expect("a file"),
                None => _ = fs::remove_file(scene.target()),
            }
            scene.fetch(&["--patience", "20s"]).must(0);
            scene.must_be_published();
            assert!(scene.origin.log_of(PACK).len() < 20);
            scene.origin.forget_log();
        }
    }
}

/// Found: what comes too slowly is no failure, so that a fetch took from a slow pack what it had of patience, or hours.
#[test]
fn a_pack_that_dribbles_or_is_silent_is_given_up() {
    let bytes = text(4 * MIB);
    let old = edited(&bytes);
    for lie in [
        Lie::Trickle(0, Duration::from_millis(20)),
        Lie::SilentHeaders,
        Lie::StallAfter(5_000),
    ] {
        for old in [None, Some(&old)] {
            let scene = scene(bytes.clone());
            scene.origin.lie(PACK, Asks::Anything, Of::All, lie.clone());
            if let Some(old) = old {
                fs::write(scene.target(), old).expect("a file");
            }
            let began = Instant::now();
            scene.fetch(&["--patience", "20s"]).must(0);
            scene.must_be_published();
            let seconds = began.elapsed().as_secs();
            println!("{lie:?}, update: {}: {seconds} s", old.is_some());
            assert!(seconds < 40, "{lie:?}: {seconds} s");
        }
    }
}

/// Found: with blocks of less than a cluster, ranges of two blocks were joined, and their blocks fetched again.
#[test]
fn an_update_of_small_blocks_is_what_it_is_without_a_pack() {
    let new = text(4 * MIB);
    let mut old = new.clone();
    for at in (5_000..old.len() - 30_000).step_by(200_000) {
        old[at..at + 20_000].copy_from_slice(&paint::bytes(at as u64 / 8 * 8, 20_000));
    }
    let fetched_with = |pack: Option<PackOptions>| {
        let (manifest, pack) = described(&new, pack, BlockSize::new(16 << 10));
        let scene = Scene::of(Content::Bytes(new.clone()), BLOCK);
        scene.origin.put(MANIFEST, manifest);
        if let Some(pack) = pack {
            scene.origin.put(PACK, pack);
        }
        fs::write(scene.target(), &old).expect("a file");
        let ended = scene.fetch(&[]).must(0);
        scene.must_be_published();
        fetched(&ended)
    };
    let (with, without) = (fetched_with(Some(QUICK)), fetched_with(None));
    assert!(
        with < without + without / 10,
        "{with}, without a pack {without}"
    );
}

/// Words of 16 bytes that repeat at long distances: a packed frame is far shorter than its packed pieces.
fn far_words(length: usize) -> Vec<u8> {
    const WORDS: usize = 4_000;
    let words = paint::bytes(0, WORDS * 16);
    let words = words.as_chunks::<16>().0;
    let mut random = 1_u64;
    let next = || {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        words[(random >> 33) as usize % WORDS]
    };
    let words = std::iter::repeat_with(next).take(length / 16);
    words.flatten().collect()
}

/// Found: blocks that were to come with a frame were fetched whole without it, with all that was here of them.
#[test]
fn an_update_without_its_frames_fetches_what_is_missing() {
    let new = far_words(4 * MIB);
    let mut old = new.clone();
    for at in (0..new.len()).step_by(BLOCK as usize) {
        old[at..at + 40_960].copy_from_slice(&paint::bytes((MIB + at) as u64, 40_960));
    }
    let fetched_with = |scene: &Scene| {
        fs::write(scene.target(), &old).expect("a file");
        let ended = scene.fetch(&["--patience", "20s"]).must(0);
        scene.must_be_published();
        fetched(&ended)
    };
    let (manifest, _) = described(&new, None, None);
    let without_pack = Scene::of(Content::Bytes(new.clone()), BLOCK);
    without_pack.origin.put(MANIFEST, manifest);
    let without_pack = fetched_with(&without_pack);
    let with_pack = fetched_with(&scene(new.clone()));
    println!("without a pack: {without_pack}, with one: {with_pack}");
    for (lie, more) in [
        (Lie::Status(404), 0),
        (Lie::CloseAfter(100), 0),
        (Lie::FlipEach(512), with_pack),
        (Lie::NoRanges, with_pack),
    ] {
        let scene = scene(new.clone());
        scene.origin.lie(PACK, Asks::Anything, Of::All, lie.clone());
        let fetched = fetched_with(&scene);
        println!("{lie:?}: {fetched}");
        assert!(
            fetched < without_pack + more + 100_000,
            "{lie:?}: {fetched}"
        );
    }
}

/// The same with faults of the pack: every fault costs bytes of the object alone.
#[test]
fn an_update_goes_on_without_its_pack() {
    for lie in [
        Lie::Status(404),
        Lie::NoRanges,
        Lie::FlipEach(512),
        Lie::Shift(1),
        Lie::CloseAfter(100),
    ] {
        let new = text(3 * MIB);
        let old = edited(&new);
        let scene = scene(new);
        fs::write(scene.target(), &old).expect("a file");
        scene.origin.lie(PACK, Asks::Anything, Of::All, lie.clone());
        let ended = scene.fetch(&["--patience", "20s"]).must(0);
        scene.must_be_published();
        assert!(
            fetched(&ended) < 3 * MIB as u64,
            "{lie:?}: {}",
            fetched(&ended)
        );
    }
}

fn cat(scene: &Scene, more: &[&str]) -> Vec<u8> {
    let mut command = sapwood(scene.folder.path());
    command.args(["cat", &scene.url(), "--no-store"]).args(more);
    let output = command.output().expect("it runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    output.stdout
}

#[test]
fn cat_takes_each_frame_once() {
    let bytes = text(12 * MIB + 70_001);
    let scene = scene(bytes.clone());
    assert!(cat(&scene, &[]) == bytes);
    let plain: u64 = scene.origin.sent(OBJECT);
    assert!(plain < 2 * MIB as u64 + 4 * BLOCK, "{plain}");
    let asked = scene.origin.bodies_of(PACK).into_iter();
    let mut ranges: Vec<_> = asked.map(|asked| asked.range.expect("a range")).collect();
    ranges.sort_by_key(|range| range.start);
    assert!(ranges.is_sorted_by(|a, b| a.end <= b.start), "{ranges:?}");
    // A range within a frame: less is to be moved of the object itself.
    scene.origin.forget_log();
    let within = &bytes[5 * MIB + 100..5 * MIB + 5_000];
    let range = format!("{}-{}", 5 * MIB + 100, 5 * MIB + 4_999);
    assert!(cat(&scene, &["--range", &range]) == within);
    assert_eq!(scene.origin.sent(PACK), 0);
    assert!(scene.origin.sent(OBJECT) <= 2 * BLOCK);
}

#[test]
fn cat_goes_on_without_its_pack() {
    let bytes = text(6 * MIB);
    for lie in [
        Lie::Status(404),
        Lie::NoRanges,
        Lie::FlipEach(512),
        Lie::Shift(1),
        Lie::CloseAfter(100),
    ] {
        let scene = scene(bytes.clone());
        scene.origin.lie(PACK, Asks::Anything, Of::All, lie.clone());
        assert!(cat(&scene, &["--patience", "20s"]) == bytes, "{lie:?}");
    }
}

/// Bytes in the place of a packed frame: they repeat up to its length.
fn hostile() -> Vec<(&'static str, Vec<u8>)> {
    let block = |bytes: u32, kind: u32| (bytes << 3 | kind << 1).to_le_bytes()[..3].to_vec();
    let window = |exponent: u8| vec![0, exponent << 3];
    let rle = [block(128 << 10, 1), vec![7]].concat();
    // Literals and sequences with tables of their own: as much work a byte as the format has.
    let tables = [block(9, 2), vec![0, 1, 0b1010_1000, 0, 0, 0, 0, 0, 1]].concat();
    vec![
        (
            "RLE blocks of 128 KiB",
            [window(10), rle.repeat(300_000)].concat(),
        ),
        (
            "empty blocks",
            [window(10), block(0, 0).repeat(400_000)].concat(),
        ),
        (
            "compressed blocks with tables",
            [window(10), tables.repeat(100_000)].concat(),
        ),
        (
            "a window of 2 TiB",
            [window(31), block(1000, 0), vec![7; 1 << 20]].concat(),
        ),
        (
            "a window of 2 MiB",
            [window(11), block(1000, 0), vec![7; 1 << 20]].concat(),
        ),
        (
            "skippable frames",
            [0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0].repeat(150_000),
        ),
        (
            "a dictionary",
            [vec![3, 80, 1, 2, 3, 4], vec![7; 1 << 20]].concat(),
        ),
        (
            "one raw block after the other",
            [window(10), [block(1, 0), vec![7]].concat().repeat(300_000)].concat(),
        ),
        ("noise", paint::bytes(0, 1 << 20)),
        ("zeros", vec![0; 1 << 20]),
    ]
}

/// A table: `cargo test --test it -- --nocapture hostile_frames`.
#[test]
fn hostile_frames_cost_little_memory_and_time() {
    let length = 8 * MIB;
    let bytes = text(length);
    let (_, good) = packed(&bytes);
    let fetch = |frames: Option<&[u8]>| {
        let scene = scene(bytes.clone());
        let mut pack = good.clone();
        if let Some(hostile) = frames {
            // All frames; the pieces behind them are not read by a fetch of all.
            let first = FRONT_BYTES + 2 * (length / 1024);
            let count = (pack.len() - first).min(hostile.len());
            pack[first..first + count].copy_from_slice(&hostile[..count]);
        }
        scene.origin.put(PACK, pack);
        let began = Instant::now();
        let mut running = scene.start(&["--connections", "2"]);
        let mut peak = 0;
        while let Some(now) = anonymous_memory_of(running.id()) {
            peak = peak.max(now);
            std::thread::sleep(Duration::from_millis(2));
        }
        let seconds = began.elapsed().as_secs_f64();
        let ended = running.finish().must(0);
        scene.must_be_published();
        (peak >> 20, seconds, fetched(&ended))
    };
    println!("| frames | memory, MiB | seconds | fetched, bytes |\n|---|---|---|---|");
    let show = |what: &str, frames: Option<&[u8]>| {
        let (peak, seconds, fetched) = fetch(frames);
        println!("| {what} | {peak} | {seconds:.2} | {fetched} |");
        assert!(peak < 64, "{what}: {peak} MiB");
        assert!(seconds < 20.0, "{what}: {seconds} s");
        assert!(
            fetched < length as u64 + 3 * MIB as u64,
            "{what}: {fetched}"
        );
    };
    show("good ones", None);
    for (what, frames) in hostile() {
        show(what, Some(&frames));
    }
}
