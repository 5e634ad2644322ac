//! Long runs and large objects: many kills, many records, bounded memory.
//!
//! With SAPWOOD_LONG=1 (`tools/torture --only long-tests`) they have the promised sizes: a gigabyte and more. Without, the same
//! code runs on smaller objects, so that nothing is ever skipped. Figures are printed (`--nocapture`); only what does not
//! depend on the speed of the machine, or is far beyond any machine's, can fail.

use std::{collections::BTreeSet, fs, io::Write, time::Duration};

use rustix::process::Signal;
use sapwood::{
    disk::part::Part,
    format::{
        geometry::BlockRange,
        journal::{Identity, Record, RecordWriter},
        paint,
    },
};
use tempfile::TempDir;

use crate::support::{
    nginx::{self, Nginx},
    objects::{Content, geometry, tree_of},
    program::{self, Running, bytes_of, sapwood, verified},
    scene::{OBJECT, Scene},
};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const MEMORY_MAX: u64 = 100 * MIB;

/// The promised size, or a smaller one.
fn sized<T>(long: T, short: T) -> T {
    if std::env::var_os("SAPWOOD_LONG").is_some_and(|value| value == "1") {
        long
    } else {
        short
    }
}

#[test]
fn killed_at_many_moments_of_a_long_fetch() {
    let (length, kills, rate) = sized((GIB, 20, 2_400_000), (16 * MIB, 4, 700_000));
    let block = 64 * KIB;
    let nginx = Nginx::start(rate);
    let mut file = fs::File::create(nginx.www("object.bin")).unwrap();
    for start in (0..length).step_by(MIB as usize) {
        file.write_all(&paint::bytes(start, MIB as usize)).unwrap();
    }
    drop(file);
    let mut command = sapwood(nginx.folder.path());
    command.args(["manifest", "www/object.bin"]);
    program::run(command).must(0);

    let folder = TempDir::new().unwrap();
    let fetch = || {
        let mut command = sapwood(folder.path());
        command.args(["--json", "fetch", &nginx.url("object.bin"), "-o", "out"]);
        program::start(command)
    };
    let mut held = BTreeSet::new();
    for kill in 0..kills {
        // From 5 to 95 %.
        let point = length * (5 + 90 * kill / (kills - 1)) / 100;
        let mut running = fetch();
        // What was written just before a kill is there, also if nobody was told.
        running.wait_for(&format!("{point} bytes"), |events| {
            let planned = events.iter().find(|event| event["event"] == "planned");
            planned.is_some_and(|planned| {
                planned["bytes_held"].as_u64().expect("a count")
                    + bytes_of(&verified(events), block, length)
                    >= point
            })
        });
        let proven = verified(&running.kill());
        assert!(proven.is_disjoint(&held), "proven twice");
        held.extend(proven);
    }
    let ended = fetch().finish().must(0);
    assert!(verified(&ended.events()).is_disjoint(&held), "proven twice");
    let sum = program::command(nginx::program("b3sum"), folder.path())
        .args(["--no-names", "out"])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&sum.stdout).trim(),
        ended.event("published")["root"]
    );
    let sent = sent(&nginx);
    let again = sent - length;
    println!(
        "{kills} kills of a fetch of {length} bytes: nginx sent {again} bytes more, {} per kill",
        again / kills
    );
    // Eight connections, each with a batch of 1 MiB, a block, and what lies in the buffers of sockets.
    assert!(again <= kills * 8 * 8 * MIB, "{again} bytes came again");
}

/// The body bytes that nginx sent, when it has noticed all the connections that were killed.
fn sent(nginx: &Nginx) -> u64 {
    let sum = || {
        nginx
            .log_of("object.bin")
            .iter()
            .map(|sent| sent.body_bytes)
            .sum::<u64>()
    };
    loop {
        let before = sum();
        std::thread::sleep(Duration::from_secs(3));
        if sum() == before {
            return before;
        }
    }
}

#[test]
fn a_resume_with_many_records_asks_at_once() {
    const BLOCKS: u32 = 32_768;
    let block = sized(64 * KIB, 16 * KIB);
    let length = u64::from(BLOCKS) * block;
    let scene = Scene::of(Content::Zeros(length), block);
    // A hole is as good as zeros.
    fs::File::create(scene.part())
        .unwrap()
        .set_len(length)
        .unwrap();
    let part = Part::new(fs::File::open(scene.part()).unwrap(), scene.part());
    let identity = Identity {
        root: Some(tree_of(&scene.content, block).root()),
        geometry: geometry(length, block),
        etag: None,
        last_modified: None,
    };
    let missing = BlockRange::new(20_000, 20_100);
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
    for index in 0..BLOCKS {
        let claimed = if (missing.start..missing.end).contains(&index) {
            0
        } else {
            index
        };
        bytes.extend(writer.append(&Record::Blocks(vec![BlockRange::new(claimed, claimed + 1)])));
        if index % 2 == 0 {
            bytes.extend(writer.append(&Record::Barrier {
                records: writer.records(),
            }));
        }
    }
    let mut waits = Vec::new();
    for _ in 0..5 {
        fs::write(scene.journal(), &bytes).unwrap();
        scene.origin.forget_log();
        // What it asks for never comes, so that every time is like the first.
        scene.origin.allow(OBJECT, 0);
        let mut running = scene.start(&[]);
        let first = u64::from(missing.start) * block;
        let asked = loop {
            // Requests of one moment come in any order.
            let asked = scene.origin.bodies_of(OBJECT);
            assert!(
                asked.iter().all(|asked| asked
                    .range
                    .clone()
                    .is_some_and(|range| range.start >= first)),
                "{asked:?}"
            );
            if let Some(asked) = asked.into_iter().find(|asked| {
                asked
                    .range
                    .clone()
                    .is_some_and(|range| range.start == first)
            }) {
                break asked;
            }
            assert!(
                running.started.elapsed() < program::LONG_ENOUGH,
                "it was not asked for"
            );
            std::thread::sleep(Duration::from_millis(1));
        };
        waits.push(asked.at.duration_since(running.started));
        running.signal(Signal::TERM);
        running.finish().must(5);
        scene.origin.wait_until_idle();
    }
    waits.sort();
    println!(
        "a journal of {BLOCKS} records: first missing byte asked for after {:?} (of five: {waits:?})",
        waits[2]
    );
    assert!(waits[0] < Duration::from_secs(30), "{waits:?}");
    scene.origin.allow_all();
    let ended = scene.fetch(&[]).must(0);
    assert_eq!(
        ended.event("published")["bytes_resumed"],
        length - u64::from(missing.count()) * block
    );
}

#[test]
fn a_fetch_needs_little_memory() {
    let length = sized(2 * GIB, 256 * MIB);
    let scene = Scene::of(Content::Zeros(length), 64 * KIB);
    let mut running = scene.start(&[]);
    let peak = peak_until_the_end(&mut running);
    running.finish().must(0);
    println!(
        "a fetch of {length} bytes: at most {} MiB of memory",
        peak / MIB
    );
    assert!(peak < MEMORY_MAX, "{peak}");
}

#[test]
fn a_manifest_needs_little_memory() {
    let length = sized(64 * GIB, 256 * MIB);
    let folder = TempDir::new().unwrap();
    fs::File::create(folder.path().join("sparse"))
        .unwrap()
        .set_len(length)
        .unwrap();
    let mut command = sapwood(folder.path());
    command.args(["--json", "manifest", "sparse"]);
    let mut running = program::start(command);
    let peak = peak_until_the_end(&mut running);
    running.finish().must(0);
    println!(
        "a manifest of {length} bytes: at most {} MiB of memory, in {:?}",
        peak / MIB,
        running.started.elapsed()
    );
    assert!(peak < MEMORY_MAX, "{peak}");
}

/// The most memory of a run; looked at until it ends.
fn peak_until_the_end(running: &mut Running) -> u64 {
    let mut peak = 0;
    while let Some(now) = running.peak_memory() {
        peak = peak.max(now);
        std::thread::sleep(Duration::from_millis(2));
    }
    peak
}
