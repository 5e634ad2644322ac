//! Ranges of a large remote object as a stream: every byte right, and little more fetched than asked for.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::FileExt,
    process::{Command, Stdio},
    time::Duration,
};

use sapwood::format::paint;
use serde_json::Value;

use crate::support::{
    nginx::Nginx,
    objects::{Content, manifest_of},
    origin::{Asks, Lie, Of},
    program::{self, sapwood},
    scene::{MANIFEST, OBJECT, Scene},
};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const LENGTH: u64 = 1024 * MIB;
const BLOCK: u64 = 64 * KIB;
const RANGES: usize = 100;

/// Of the manifest: its front; at most one group of 256 nodes a level, which is two levels here; and pages of 256 leaves.
const FRONT: u64 = 1536;
const NODES: u64 = 64 * 32;
const PAGE: u64 = 256 * 32;

/// SplitMix64: the same ranges in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }
}

#[test]
fn random_ranges_cost_little_more_than_themselves() {
    let nginx = Nginx::start(0);
    // A gigabyte with holes: every eighth MiB is painted.
    let file = File::create_new(nginx.www("object.bin")).unwrap();
    file.set_len(LENGTH).unwrap();
    for at in (0..LENGTH).step_by(8 * MIB as usize) {
        file.write_all_at(&paint::bytes(at, MIB as usize), at)
            .unwrap();
    }
    file.write_all_at(&paint::bytes(LENGTH - MIB, MIB as usize), LENGTH - MIB)
        .unwrap();
    let mut command = sapwood(nginx.folder.path());
    command.args([
        "manifest",
        "www/object.bin",
        "--no-hints",
        "--block-size",
        "64KiB",
    ]);
    program::run(command).must(0);
    let file = File::open(nginx.www("object.bin")).unwrap();
    let mut random = Random(4);
    let mut ranges = vec![
        (0, 1),
        (LENGTH - 1, LENGTH),
        (BLOCK - 1, BLOCK + 1),
        (256 * BLOCK - 1, 256 * BLOCK + 1),
    ];
    while ranges.len() < RANGES {
        // Where something is painted, more often than not, and of all lengths.
        let start = match random.below(4) {
            0 => random.below(LENGTH),
            _ => random.below(LENGTH / (8 * MIB)) * 8 * MIB + random.below(MIB),
        };
        let bits = 1 + random.below(19);
        let length = 1 + random.below(1 << bits);
        ranges.push((start, (start + length).min(LENGTH)));
    }
    for (number, (start, end)) in ranges.iter().enumerate() {
        let mut command = sapwood(nginx.folder.path());
        // The query tells the requests of the runs apart.
        let url = nginx.url(&format!("object.bin?{number}"));
        let range = format!("{start}-{}", end - 1);
        command.args(["cat", &url, "--no-store", "--range", &range]);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{start}..{end}: {said}");
        let mut expected = vec![0; (end - start) as usize];
        file.read_exact_at(&mut expected, *start).unwrap();
        assert!(output.stdout == expected, "{start}..{end} differs");
    }
    let log = nginx.finish();
    let (mut wanted, mut sent) = (0, 0);
    for (number, (start, end)) in ranges.iter().enumerate() {
        let of = |name: &str| -> u64 {
            let path = format!("/{name}?{number}");
            log.iter()
                .filter(|line| line.path == path)
                .map(|line| line.body_bytes)
                .sum()
        };
        let (of_object, of_manifest) = (of("object.bin"), of("object.bin.sapwood"));
        assert!(
            of_object >= end - start && of_manifest >= FRONT,
            "{start}..{end} is not in the log"
        );
        assert!(
            of_object <= end - start + 2 * BLOCK,
            "{start}..{end}: {of_object} bytes of the object"
        );
        let pages = (end - 1) / (256 * BLOCK) - start / (256 * BLOCK) + 1;
        assert!(
            of_manifest <= FRONT + NODES + pages * PAGE,
            "{start}..{end}: {of_manifest} bytes of the manifest"
        );
        (wanted, sent) = (wanted + end - start, sent + of_object + of_manifest);
    }
    println!(
        "{RANGES} ranges of {wanted} bytes in all: {sent} bytes sent, {} more a range",
        (sent - wanted) / RANGES as u64
    );
}

/// A cat that is over.
struct Streamed {
    exit: Option<i32>,
    bytes: Vec<u8>,
    /// Its events are told on standard error.
    stderr: String,
}

impl Streamed {
    #[track_caller]
    fn must(self, exit: i32) -> Streamed {
        assert_eq!(self.exit, Some(exit), "{}", self.stderr);
        self
    }

    /// Body bytes that it says it fetched, those of the manifest too.
    fn bytes_fetched(&self) -> u64 {
        let mut events = self.stderr.lines().filter_map(|line| {
            let event: Value = serde_json::from_str(line).ok()?;
            (event["event"] == "done").then(|| event["bytes_fetched"].as_u64())?
        });
        events.next_back().expect("it says how many it fetched")
    }
}

fn command(scene: &Scene, more: &[&str]) -> Command {
    let mut command = sapwood(scene.folder.path());
    command
        .args(["--json", "cat", &scene.url(), "--no-store"])
        .args(more);
    command
}

fn cat(scene: &Scene, more: &[&str]) -> Streamed {
    let output = command(scene, more).output().expect("it runs");
    Streamed {
        exit: output.status.code(),
        bytes: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// So many painted bytes, with a manifest, from a server that answers every request with all of them.
fn without_ranges(length: u64) -> Scene {
    let scene = Scene::of(Content::Bytes(paint::bytes(0, length as usize)), BLOCK);
    let origin = &scene.origin;
    origin.lie(OBJECT, Asks::Anything, Of::All, Lie::NoRanges);
    scene
}

/// Found: every step of 4 MiB asked anew for all of the object, so the bytes grew with the square of its length.
#[test]
fn a_server_without_ranges_sends_little_more_than_the_object_once() {
    let length = 32 * MIB;
    let scene = without_ranges(length);
    let all = scene.content.all();
    let most = |bytes: u64| bytes + bytes / 10;
    // By itself the stream begins with several requests at a time, and all of them bring everything.
    for connections in [&[][..], &["--connections", "1"]] {
        scene.origin.forget_log();
        let ended = cat(&scene, connections).must(0);
        assert!(ended.bytes == all, "{connections:?}: other bytes");
        let fetched = ended.bytes_fetched();
        assert!(fetched <= most(length), "{connections:?}: {fetched}");
    }
    // No more is read than up to the end of the range.
    for (start, end) in [(20 * MIB + 5, 21 * MIB + 7), (9 * MIB, 26 * MIB + 1)] {
        scene.origin.forget_log();
        let range = format!("{start}-{}", end - 1);
        let ended = cat(&scene, &["--range", &range]).must(0);
        assert!(
            ended.bytes == all[start as usize..end as usize],
            "{range}: other bytes"
        );
        let fetched = ended.bytes_fetched();
        assert!(fetched <= most(end + BLOCK), "{range}: {fetched}");
    }
}

/// All bodies have begun before the first of them is read on.
#[test]
fn of_several_whole_bodies_at_once_one_is_read() {
    let scene = without_ranges(12 * MIB);
    let late = Lie::Late(Duration::from_millis(300));
    scene.origin.lie(OBJECT, Asks::Anything, Of::All, late);
    for range in [None, Some((5 * MIB, 11 * MIB))] {
        scene.origin.forget_log();
        let (start, end) = range.unwrap_or((0, 12 * MIB));
        let range = format!("{start}-{}", end - 1);
        let ended = cat(&scene, &["--range", &range]).must(0);
        assert!(
            ended.bytes == scene.content.read(start..end),
            "{range}: other bytes"
        );
        let requests = scene.origin.bodies_of(OBJECT).len();
        assert!(requests > 1, "{range}: no several bodies at once");
        let fetched = ended.bytes_fetched();
        assert!(fetched <= 12 * MIB + 12 * MIB / 10, "{range}: {fetched}");
    }
}

/// What a reader did not take yet waits at the server, with and without ranges.
#[test]
fn a_slow_reader_costs_no_memory() {
    let length = 128 * MIB;
    let mebibyte = paint::bytes(0, MIB as usize);
    let content = Content::Bytes(mebibyte.repeat(128));
    for ranges in [true, false] {
        let scene = Scene::of(content.clone(), BLOCK);
        if !ranges {
            let origin = &scene.origin;
            origin.lie(OBJECT, Asks::Anything, Of::All, Lie::NoRanges);
        }
        let mut child = command(&scene, &[])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it runs");
        let mut stdout = child.stdout.take().expect("it is piped");
        // A reader that does nothing for a while, and then reads slower than the server sends.
        std::thread::sleep(Duration::from_secs(2));
        let mut buffer = vec![0; MIB as usize];
        let mut peak = 0;
        for _ in 1..128 {
            // What is left is more than a pipe holds, so it still runs.
            peak = peak.max(program::anonymous_memory_of(child.id()).expect("it runs"));
            stdout.read_exact(&mut buffer).expect("the next bytes");
            assert!(buffer == mebibyte, "other bytes");
            std::thread::sleep(Duration::from_millis(10));
        }
        stdout.read_exact(&mut buffer).expect("the last bytes");
        assert!(child.wait().expect("it is our child").success());
        println!("ranges: {ranges}: {} MiB", peak / MIB);
        assert!(peak <= 48 * MIB, "ranges: {ranges}: {} MiB", peak / MIB);
        assert!(scene.origin.sent(OBJECT) >= length);
    }
}

/// Found: a whole body that was read from the middle on never counted as passed. With a wrong block in it, it waited for the
/// reader and the reader for it, until patience ended.
#[test]
fn a_wrong_block_in_the_middle_of_a_whole_body_is_asked_for_again() {
    let scene = without_ranges(32 * MIB);
    let wrong = Lie::FlipAt(12 * MIB + 1);
    scene
        .origin
        .lie(OBJECT, Asks::Anything, Of::First(4), wrong);
    let range = format!("{}-{}", 10 * MIB, 31 * MIB - 1);
    let ended = cat(&scene, &["--range", &range, "--patience", "20s"]).must(0);
    assert!(ended.bytes == scene.content.read(10 * MIB..31 * MIB));
    assert!(ended.stderr.contains("block_wrong"), "{}", ended.stderr);
}

#[test]
fn the_size_limit_is_that_of_a_fetch() {
    let scene = Scene::new(MIB, BLOCK);
    for (limit, exit) in [("1MiB", 0), ("1048575", 1)] {
        scene.origin.forget_log();
        let ended = cat(&scene, &["--max-size", limit]).must(exit);
        assert_eq!(ended.bytes.is_empty(), exit != 0, "{limit}");
        let asked = !scene.origin.log_of(OBJECT).is_empty();
        assert_eq!(asked, exit == 0, "{limit}: body requests");
        scene.fetch(&["--max-size", limit, "--no-store"]).must(exit);
        let _ = fs::remove_file(scene.target());
    }
    // It is about the object, not about the range of it.
    cat(&scene, &["--max-size", "1000", "--range", "0-9"]).must(1);
}

#[test]
fn a_stream_opens_no_more_connections_than_allowed() {
    let scene = Scene::new(24 * MIB, BLOCK);
    // Only bodies are counted: the manifest is a local file.
    fs::write(scene.path("m"), manifest_of(&scene.content, BLOCK)).unwrap();
    // Slow enough for several requests to be worth it.
    scene.origin.pace(Some(12 * MIB));
    let late = Lie::Late(Duration::from_millis(50));
    scene.origin.lie(OBJECT, Asks::Anything, Of::All, late);
    let most = |connections: &str| {
        scene.origin.wait_until_idle();
        scene.origin.forget_log();
        let ended = cat(&scene, &["--manifest", "m", "--connections", connections]).must(0);
        assert!(ended.bytes == scene.content.all(), "other bytes");
        scene.origin.most_at_a_time()
    };
    // On a busy machine, one that was given up may still be answered when the next one comes. A reader in order has no use for more
    // than four.
    for (connections, allowed) in [("1", 1..=1), ("2", 2..=2), ("16", 3..=4)] {
        let seen: Vec<u64> = (0..3)
            .map(|_| most(connections))
            .take_while(|most| !allowed.contains(most))
            .collect();
        assert!(seen.len() < 3, "{connections}: {seen:?} requests at a time");
    }
}

/// Found: it was exit 3, and the manifest was blamed.
#[test]
fn an_object_replaced_midway_is_told_as_changed() {
    let length = 32 * MIB;
    let other = Content::Bytes(vec![7; length as usize]);
    // The manifest of the small blocks has pages that are read only later.
    for block in [16 * KIB, 256 * KIB] {
        for ranges in [true, false] {
            let what = format!("blocks of {block}, ranges: {ranges}");
            let scene = Scene::new(length, block);
            let mut more = vec!["--tries", "2", "--patience", "60s"];
            // What was under way before goes on with the bytes of before.
            scene.origin.allow(OBJECT, 12 * MIB);
            if !ranges {
                let (origin, cut) = (&scene.origin, Lie::CloseAfter(10 * MIB));
                origin.lie(OBJECT, Asks::Anything, Of::All, Lie::NoRanges);
                origin.lie(OBJECT, Asks::Anything, Of::First(1), cut);
                origin.allow(OBJECT, 4 * MIB);
                more.extend(["--connections", "1"]);
            }
            let mut child = command(&scene, &more)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("it runs");
            let mut stdout = child.stdout.take().expect("it is piped");
            let mut stderr = child.stderr.take().expect("it is piped");
            // An event for each wrong block fills a pipe that nobody reads.
            let said = std::thread::spawn(move || {
                let mut said = String::new();
                stderr.read_to_string(&mut said).map(|_| said)
            });
            let mut bytes = vec![0; KIB as usize];
            stdout.read_exact(&mut bytes).expect("the first bytes");
            let old = scene.content.clone();
            scene.origin.put(OBJECT, other.clone());
            scene.origin.put(MANIFEST, manifest_of(&other, block));
            scene.origin.allow_all();
            stdout.read_to_end(&mut bytes).expect("the rest");
            let status = child.wait().expect("it is our child");
            let said = said.join().expect("no panic").expect("it is text");
            assert_eq!(status.code(), Some(4), "{what}: {said}");
            assert!(said.contains("changed"), "{what}: {said}");
            // All that came is of the object that was there first.
            assert!((bytes.len() as u64) < length, "{what}");
            assert!(bytes == old.read(0..bytes.len() as u64), "{what}");
        }
    }
}
