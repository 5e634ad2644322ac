//! Fetching over files that are here: only what is nowhere on this machine moves, whatever hints say, and the old version stays
//! until the new one is whole.

use std::{collections::HashSet, fs, path::Path};

use sapwood::format::{
    anchors::{BlockAnchor, Tag},
    manifest::{self, Particulars, Tree},
    paint, pieces,
};

use crate::support::{
    lies::Lie,
    nginx::Nginx,
    objects::Content,
    origin::{Asks, Of},
    program::{self, Ended, sapwood},
    scene::{MANIFEST, OBJECT, Scene},
};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const BLOCK: u64 = 16 * KIB as u64;
/// Of a manifest of 8 MiB in blocks of 16 KiB: its front, tree and pages with anchors.
const TREE: u64 = 1536 + 512 * 40 + 2 * 48;

/// Bytes that no other place of any file has.
fn fresh(seed: u64, length: usize) -> Vec<u8> {
    paint::bytes(seed << 40, length)
}

/// Anything that may happen to a file between two versions.
fn changes() -> Vec<(&'static str, Vec<u8>, u64)> {
    let old = old();
    let with = |at: usize, bytes: &[u8]| {
        let mut new = old.clone();
        new[at..at + bytes.len()].copy_from_slice(bytes);
        new
    };
    let at = |range: std::ops::Range<usize>| &old[range];
    let mut zeros = old.clone();
    zeros[3 * MIB..5 * MIB].fill(0);
    vec![
        ("one page", with(3 * MIB + 4096, &fresh(1, 4096)), 4096),
        ("one byte", with(5 * MIB + 77, b"!"), 1024),
        (
            "a few bytes in front",
            [&fresh(2, 65), at(0..8 * MIB)].concat(),
            17 * 1024,
        ),
        (
            "a head that is gone",
            at(100_001..8 * MIB).to_vec(),
            17 * 1024,
        ),
        (
            "an end that is gone",
            at(0..5 * MIB + 5).to_vec(),
            17 * 1024,
        ),
        (
            "more at the end",
            [at(0..8 * MIB), &fresh(3, 70_000)].concat(),
            90_000,
        ),
        (
            "halves that changed places",
            [at(4 * MIB + 9..8 * MIB), at(0..4 * MIB + 9)].concat(),
            40_000,
        ),
        ("zeros in the middle", zeros, 0),
    ]
}

fn old() -> Vec<u8> {
    fresh(9, 8 * MIB)
}

/// An object with a manifest with all hints.
fn scene(new: &[u8]) -> Scene {
    let content = Content::Bytes(new.to_vec());
    let scene = Scene::of(content.clone(), BLOCK);
    scene.origin.put(MANIFEST, manifest_with_hints(new, |_| ()));
    scene
}

/// `lie` may change the checks of the pieces.
fn manifest_with_hints(bytes: &[u8], lie: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    manifest_with(bytes, |_| (), lie)
}

/// A manifest whose anchors and checks may lie; the rest of it is sound.
fn manifest_with(
    bytes: &[u8],
    lie_of_anchors: impl Fn(&mut Vec<BlockAnchor>),
    lie: impl Fn(&mut Vec<u8>),
) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("f"), bytes).unwrap();
    let mut command = sapwood(folder.path());
    command.args([
        "--quiet",
        "manifest",
        "f",
        "--block-size",
        "16KiB",
        "-o",
        "m",
    ]);
    program::run(command).must(0);
    let made = fs::read(folder.path().join("m")).unwrap();
    let read = sapwood::format::reader::Manifest::from_bytes(&made).unwrap();
    let mut checks = Vec::new();
    pieces::append_pieces(bytes, &mut checks);
    lie(&mut checks);
    let mut anchors = read.tree.anchors().to_vec();
    lie_of_anchors(&mut anchors);
    let tree = Tree::new(
        *read.tree.geometry(),
        read.tree.leaves().to_vec(),
        Some(anchors),
    );
    manifest::to_bytes(&tree, Some(&checks), Particulars::default())
}

fn number(ended: &Ended, name: &str) -> u64 {
    ended.event("published")[name].as_u64().unwrap()
}

/// aiohttp and Werkzeug have 416 for several ranges, varnish 503.
#[test]
fn a_server_that_refuses_several_ranges_gets_single_ones() {
    let mut new = old();
    for place in (0..16).map(|number| number * 512 * 1024 + 77) {
        new[place] ^= 1;
    }
    for status in [416, 503, 400, 501] {
        let scene = scene(&new);
        for path in [OBJECT, MANIFEST] {
            let refusal = Lie::Status(status);
            scene.origin.lie(path, Asks::Several, Of::All, refusal);
        }
        fs::write(scene.target(), old()).unwrap();
        let ended = scene.fetch(&[]).must(0);
        scene.must_be_published();
        assert!(number(&ended, "bytes_fetched") < MIB as u64, "{status}");
        let log = scene.origin.log();
        let several = log.iter().filter(|asked| asked.status == status);
        assert!((1..=8).contains(&several.count()), "{status}");
        assert!(ended.all("retry").is_empty(), "{status}: {}", ended.stdout);
    }
}

#[test]
fn only_what_changed_moves() {
    for (what, new, least) in changes() {
        for several in [true, false] {
            let nginx = Nginx::start(0);
            let scene = scene(&new);
            fs::write(nginx.www("object.bin"), &new).unwrap();
            fs::write(
                nginx.www("object.bin.sapwood"),
                manifest_with_hints(&new, |_| ()),
            )
            .unwrap();
            let url = if several {
                nginx.url("object.bin")
            } else {
                scene.url()
            };
            fs::write(scene.target(), old()).unwrap();
            let mut command = sapwood(scene.folder.path());
            command.args(["--json", "fetch", &url, "-o", "out"]);
            let ended = program::run(command).must(0);
            scene.must_be_published();
            let (fetched, manifest) = (
                number(&ended, "bytes_fetched"),
                number(&ended, "bytes_manifest"),
            );
            // Pieces are read of blocks that are nowhere whole: 32 bytes a block.
            let most = TREE + least + 16 * 1024;
            assert!(
                fetched <= most,
                "{what}, several ranges {several}: {fetched} bytes, {manifest} of them of the manifest, not {most}"
            );
            assert_eq!(number(&ended, "bytes_total"), new.len() as u64);
            let reused = number(&ended, "bytes_reused");
            assert!(
                reused + fetched >= new.len() as u64,
                "{what}: {reused} bytes reused"
            );
            let planned = ended.event("planned");
            assert!(
                planned["bytes_local"].as_u64().unwrap() >= reused,
                "{what}: {planned}"
            );
        }
    }
}

#[test]
fn seeds_are_files_and_folders_and_none_must_be_there() {
    let new = [fresh(5, 300_000), old()[MIB..7 * MIB].to_vec()].concat();
    let scene = scene(&new);
    fs::create_dir(scene.path("versions")).unwrap();
    fs::write(scene.path("versions/1"), &old()[..4 * MIB]).unwrap();
    fs::write(scene.path("versions/2"), &old()[3 * MIB..]).unwrap();
    fs::write(scene.path("single"), fresh(5, 300_000)).unwrap();
    let before: Vec<_> = ["versions/1", "versions/2", "single"]
        .map(|name| fs::read(scene.path(name)).unwrap())
        .into();
    let ended = scene
        .fetch(&["--seed", "versions", "--seed", "single", "--seed", "gone"])
        .must(0);
    scene.must_be_published();
    assert!(
        ended.stdout.contains("a seed is left out"),
        "{}",
        ended.stdout
    );
    // Of the piece in which two seeds meet neither has all.
    assert!(scene.origin.sent(OBJECT) <= 1024);
    let after: Vec<_> = ["versions/1", "versions/2", "single"]
        .map(|name| fs::read(scene.path(name)).unwrap())
        .into();
    assert!(before == after, "a seed was written to");
}

/// It was told only where seeds were searched.
#[test]
fn a_seed_that_is_not_there_is_told() {
    let small = fresh(6, 1000);
    let scene = scene(&small);
    for more in [&[][..], &["--no-manifest"]] {
        let ended = scene.fetch(&[&["--seed", "gone"], more].concat()).must(0);
        let warning = "a seed is left out: there is no gone";
        assert!(ended.stdout.contains(warning), "{}", ended.stdout);
    }
}

#[test]
fn an_unchanged_file_is_two_small_requests() {
    let new = old();
    let scene = scene(&new);
    fs::write(scene.target(), &new).unwrap();
    let ended = scene.fetch(&[]).must(0);
    assert_eq!(scene.origin.log().len(), 2);
    assert!(number(&ended, "bytes_fetched") < 3000);
    assert_eq!(ended.event("published")["unchanged"], true);
}

#[test]
fn damage_is_repaired_piece_by_piece() {
    let new = old();
    let scene = scene(&new);
    let mut damaged = new.clone();
    for at in [5, 2 * MIB + 3, 8 * MIB - 1] {
        damaged[at] ^= 1;
    }
    fs::write(scene.target(), damaged).unwrap();
    let ended = scene.fetch(&[]).must(0);
    scene.must_be_published();
    assert!(
        scene.origin.sent(OBJECT) < 4 * 1024,
        "{}",
        scene.origin.sent(OBJECT)
    );
    assert!(number(&ended, "bytes_reused") > 8 * MIB as u64 - 4 * 1024);
}

/// What hints say is never believed, and costs no more than fetching.
#[test]
fn lying_hints_cost_bytes_and_nothing_else() {
    let mut new = old();
    for at in (0..8 * MIB).step_by(200 * KIB) {
        new[at..at + 100].copy_from_slice(&fresh(7, 100));
    }
    let lies: [(&str, fn(&mut Vec<u8>)); 3] = [
        ("all zeros", |checks| checks.fill(0)),
        ("all of the old file", |checks| {
            checks.clear();
            pieces::append_pieces(&old(), checks);
        }),
        ("shifted by one", |checks| checks.rotate_left(2)),
    ];
    for (what, lie) in lies {
        let scene = scene(&new);
        scene.origin.put(MANIFEST, manifest_with_hints(&new, lie));
        fs::write(scene.target(), old()).unwrap();
        let ended = scene.fetch(&[]).must(0);
        scene.must_be_published();
        let fetched = number(&ended, "bytes_fetched");
        // 41 of 512 blocks changed; each is fetched whole at the worst, after pieces of it.
        assert!(fetched < 41 * 3 * BLOCK + TREE, "{what}: {fetched}");
    }
}

/// Anchors that lead elsewhere, nowhere, or all to one place: what is still found is found by neighbours and pieces.
#[test]
fn lying_anchors_cost_little_more() {
    let new = [fresh(5, 70_000), old()].concat();
    let tag = |hash: u64| BlockAnchor::new(Tag::of(hash), 77);
    let lies: [(&str, Box<dyn Fn(&mut Vec<BlockAnchor>)>); 4] = [
        ("turned round", Box::new(|anchors| anchors.reverse())),
        ("none", Box::new(|anchors| anchors.fill(BlockAnchor::NONE))),
        (
            "all one",
            Box::new(move |anchors| anchors.fill(tag(1 << 40))),
        ),
        ("of zeros", Box::new(move |anchors| anchors.fill(tag(1)))),
    ];
    for (what, lie) in lies {
        let scene = scene(&new);
        scene.origin.put(MANIFEST, manifest_with(&new, lie, |_| ()));
        fs::write(scene.target(), old()).unwrap();
        // On a busy machine several connections fetch some bytes twice.
        let ended = scene.fetch(&["--connections", "1"]).must(0);
        scene.must_be_published();
        let fetched = number(&ended, "bytes_fetched");
        // All of the object, all pieces and the tree: never more.
        let most = new.len() as u64 + TREE * 2 + 512 * 40;
        assert!(fetched <= most, "{what}: {fetched}");
    }
}

/// Leaves and nodes of another object do not lead to the root, and nothing is taken from them.
#[test]
fn a_tree_that_does_not_lead_to_its_root_is_refused() {
    let new = fresh(6, 2 * MIB);
    let scene = scene(&new);
    let mut lying = manifest_with_hints(&new, |_| ());
    lying[1536 + 40] ^= 1;
    scene.origin.put(MANIFEST, lying);
    fs::write(scene.target(), old()).unwrap();
    scene.fetch(&[]).must(3);
    assert_eq!(fs::read(scene.target()).unwrap(), old());
}

#[test]
fn a_delta_that_fails_leaves_the_old_version() {
    let mut new = old();
    new[..2 * MIB].copy_from_slice(&fresh(4, 2 * MIB));
    let scene = scene(&new);
    fs::write(scene.target(), old()).unwrap();
    scene
        .origin
        .lie(OBJECT, Asks::Body, Of::All, Lie::Status(404));
    scene.fetch(&[]).must(1);
    assert!(
        fs::read(scene.target()).unwrap() == old(),
        "the old version is gone"
    );
    scene.origin.be_honest();
    scene.origin.forget_log();
    let ended = scene.fetch(&[]).must(0);
    scene.must_be_published();
    assert!(scene.origin.sent(OBJECT) < 2 * MIB as u64 + 64 * 1024);
    let (resumed, reused) = (
        number(&ended, "bytes_resumed"),
        number(&ended, "bytes_reused"),
    );
    assert!(
        resumed + reused >= 6 * MIB as u64 - 2 * BLOCK,
        "{resumed} {reused}"
    );
}

#[test]
fn a_delta_that_was_killed_goes_on() {
    let mut new = old();
    new[..4 * MIB].copy_from_slice(&fresh(4, 4 * MIB));
    let scene = scene(&new);
    fs::write(scene.target(), old()).unwrap();
    let running = scene.run_until(scene.command(&[]), MIB as u64);
    running.kill();
    scene.origin.wait_until_idle();
    assert!(
        fs::read(scene.target()).unwrap() == old(),
        "the old version is gone"
    );
    let sent = scene.origin.sent(OBJECT);
    scene.origin.allow_all();
    scene.fetch(&[]).must(0);
    scene.must_be_published();
    let all = scene.origin.sent(OBJECT);
    assert!(all < 5 * MIB as u64, "{sent} bytes, then {all} in all");
}

/// A server that never sends a range to its end is given up, here like anywhere else.
#[test]
fn ranges_that_always_end_early_come_to_an_end() {
    let mut new = old();
    for at in (0..8 * MIB).step_by(300 * KIB) {
        new[at..at + 10].copy_from_slice(&fresh(7, 10));
    }
    for path in [OBJECT, MANIFEST] {
        let scene = scene(&new);
        fs::write(scene.target(), old()).unwrap();
        for lie in [Lie::EndEarly(1), Lie::CloseAfter(1)] {
            scene.origin.be_honest();
            scene.origin.lie(path, Asks::Body, Of::All, lie);
            let ended = scene.fetch(&["--tries", "2", "--patience", "20s"]);
            assert!(
                matches!(ended.exit, Some(0 | 1 | 3 | 5)),
                "{path}: {:?}",
                ended.exit
            );
        }
        scene.origin.be_honest();
        scene.fetch(&[]).must(0);
        scene.must_be_published();
    }
}

/// A seed that is cut short while it is searched is no source any more, and no error.
#[test]
fn a_seed_that_vanishes_is_no_error() {
    let new = [fresh(5, 100_000), old()].concat();
    let scene = scene(&new);
    fs::write(scene.path("seed"), old()).unwrap();
    // It becomes shorter when the manifest is read, after its tree was made.
    let mut running = program::start(scene.command(&["--seed", "seed"]));
    let file = fs::OpenOptions::new()
        .write(true)
        .open(scene.path("seed"))
        .unwrap();
    running.wait_for("a plan", |events| {
        events.iter().any(|event| event["event"] == "planned")
    });
    file.set_len(1000).unwrap();
    running.finish().must(0);
    scene.must_be_published();
}

#[test]
fn a_missing_hints_section_still_finds_what_stayed_in_place() {
    let mut new = old();
    new[MIB..MIB + 10].copy_from_slice(b"0123456789");
    let scene = Scene::of(Content::Bytes(new), BLOCK);
    fs::write(scene.target(), old()).unwrap();
    scene.fetch(&[]).must(0);
    scene.must_be_published();
    assert_eq!(scene.origin.sent(OBJECT), BLOCK);
}

#[test]
fn zeros_are_not_fetched() {
    let mut new = fresh(8, 64 * KIB);
    new.resize(4 * MIB, 0);
    new.extend(fresh(9, 64 * KIB));
    new.resize(8 * MIB, 0);
    let scene = scene(&new);
    scene.fetch(&[]).must(0);
    scene.must_be_published();
    assert!(scene.origin.sent(OBJECT) <= 128 * KIB as u64 + 1);
    assert!(
        blocks_on_disk(&scene.target()) < 1024 * KIB as u64,
        "holes are data"
    );
}

fn blocks_on_disk(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(&fs::metadata(path).unwrap()) * 512
}

/// Two files that share stretches at odd places, as two films with the same trailer do.
fn relatives() -> (Vec<u8>, Vec<u8>, u64) {
    let shared: Vec<Vec<u8>> = (0..8)
        .map(|i| fresh(100 + i, 300_000 + 41_011 * i as usize))
        .collect();
    let with = |first: u64, fresh_bytes: usize| -> Vec<u8> {
        let parts = (0..).zip(&shared);
        let parts = parts.map(|(i, shared)| {
            [
                fresh(first + i, fresh_bytes + 777 * i as usize),
                shared.clone(),
            ]
            .concat()
        });
        parts.collect::<Vec<_>>().concat()
    };
    let bytes = shared.iter().map(|shared| shared.len() as u64).sum();
    (with(200, 700_001), with(300, 650_003), bytes)
}

#[test]
fn what_two_files_of_one_origin_share_is_fetched_once() {
    let (one, two, shared) = relatives();
    let scene = scene(&one);
    scene.origin.put("/two.bin", Content::Bytes(two.clone()));
    scene
        .origin
        .put("/two.bin.sapwood", manifest_with_hints(&two, |_| ()));
    let fetch = |name: &str, more: &[&str]| {
        let mut command = sapwood(scene.folder.path());
        let url = scene.origin.url(name);
        command
            .args(["--json", "--store", "store", "fetch", &url])
            .args(more);
        program::run(command).must(0)
    };
    fetch("/object.bin", &[]);
    let ended = fetch("/two.bin", &[]);
    assert!(fs::read(scene.path("two.bin")).unwrap() == two);
    let moved = number(&ended, "bytes_fetched");
    let least = two.len() as u64 - shared;
    assert!(
        moved < least + two.len() as u64 / 50,
        "{moved} bytes moved, {least} are new"
    );
    // The very object under another name: nothing of it moves.
    scene
        .origin
        .put("/renamed.bin", Content::Bytes(one.clone()));
    scene
        .origin
        .put("/renamed.bin.sapwood", manifest_with_hints(&one, |_| ()));
    fetch("/renamed.bin", &[]);
    assert!(fs::read(scene.path("renamed.bin")).unwrap() == one);
    assert_eq!(scene.origin.sent("/renamed.bin"), 0);
    // Without the store nothing is known.
    scene.origin.forget_log();
    let one_connection = ["--connections", "1"];
    let more = ["--no-store", "-o", "again.bin"];
    fetch("/renamed.bin", &[&more[..], &one_connection].concat());
    assert_eq!(scene.origin.sent("/renamed.bin"), one.len() as u64);
}

/// Who writes a manifest and sees the requests could ask for what is on this machine.
#[test]
fn another_origin_learns_nothing_of_what_is_here() {
    let object = old();
    let scene = scene(&object);
    let stranger = self::scene(&object);
    let fetch = |origin: &Scene, name: &str, more: &[&str]| {
        let mut command = sapwood(scene.folder.path());
        command.args([
            "--json",
            "--store",
            "store",
            "fetch",
            &origin.url(),
            "-o",
            name,
        ]);
        command.args(more);
        program::run(command).must(0)
    };
    fetch(&scene, "secret", &[]);
    fetch(&stranger, "probed", &[]);
    assert_eq!(stranger.origin.sent(OBJECT), object.len() as u64);
    stranger.origin.forget_log();
    fs::remove_file(scene.path("probed")).unwrap();
    // The user may open all, and who names the root knows it already.
    let other = self::scene(&object);
    fetch(&other, "opened", &["--seed-store"]);
    assert_eq!(other.origin.sent(OBJECT), 0);
    let named = self::scene(&object);
    fetch(&named, "named", &["--root", &named.root()]);
    assert_eq!(named.origin.sent(OBJECT), 0);
}

/// A file that changed behind the index is no source, and no error.
#[test]
fn a_holding_that_changed_is_dropped() {
    let object = old();
    let scene = scene(&object);
    scene
        .origin
        .put("/next.bin", Content::Bytes(object.clone()));
    scene
        .origin
        .put("/next.bin.sapwood", manifest_with_hints(&object, |_| ()));
    let fetch = |name: &str| {
        let mut command = sapwood(scene.folder.path());
        let url = scene.origin.url(name);
        command.args(["--json", "--store", "store", "fetch", &url]);
        program::run(command).must(0)
    };
    fetch("/object.bin");
    fs::write(scene.path("object.bin"), fresh(77, object.len())).unwrap();
    fetch("/next.bin");
    assert!(fs::read(scene.path("next.bin")).unwrap() == object);
    assert_eq!(scene.origin.sent("/next.bin"), object.len() as u64);
}

/// Two versions of an archive of small files: each has a header that changed, some have other content, and all lie elsewhere.
/// And how many bytes of the new one are nowhere in the old one.
fn archives() -> (Vec<u8>, Vec<u8>, u64) {
    const FILES: usize = 600;
    let length = |number: usize| 2500 + number * 7919 % 6000;
    let version = |changed: bool, order: &dyn Fn(usize) -> usize| -> Vec<u8> {
        let file = |place: usize| {
            let number = order(place);
            let is_other = changed && number.is_multiple_of(5);
            let header = fresh(2000 + number as u64 * 2 + u64::from(changed), 30);
            let content = fresh(
                5000 + number as u64 * 2 + u64::from(is_other),
                length(number),
            );
            [header, content].concat()
        };
        (0..FILES).flat_map(file).collect()
    };
    let changed = (0..FILES).filter(|number| number.is_multiple_of(5));
    let bytes = changed.map(|number| length(number) as u64).sum::<u64>();
    // Each file has two ends, in pieces that hold something else, too.
    let new = version(true, &|place| place * 77 % FILES);
    (version(false, &|place| place), new, bytes + 600 * 1024)
}

/// The bytes of an object that an update fetches from a server that sends several ranges at once.
fn fetched_by_update(old: &[u8], new: &[u8]) -> u64 {
    let (nginx, scene) = (Nginx::start(0), scene(new));
    fs::write(nginx.www("object.bin"), new).unwrap();
    let manifest = manifest_with_hints(new, |_| ());
    fs::write(nginx.www("object.bin.sapwood"), manifest).unwrap();
    fs::write(scene.target(), old).unwrap();
    let mut command = sapwood(scene.folder.path());
    command.args(["--json", "fetch", &nginx.url("object.bin"), "-o", "out"]);
    let ended = program::run(command).must(0);
    scene.must_be_published();
    number(&ended, "bytes_fetched") - number(&ended, "bytes_manifest")
}

/// Several stretches of a block moved, each by a shift of its own, and a block has one anchor.
#[test]
fn small_files_that_moved_within_an_archive_were_fetched() {
    let (old, new, most) = archives();
    let fetched = fetched_by_update(&old, &new);
    assert!(
        fetched < most,
        "{fetched} of {} bytes, not {most}",
        new.len()
    );
}

/// Two versions of a table as text: each change makes the text a little longer or shorter. And the pieces that hold a change.
fn tables() -> (Vec<u8>, Vec<u8>, u64) {
    let (mut old, mut new, mut changed) = (String::new(), Vec::new(), HashSet::new());
    let numbers = fresh(42, 64 * 40_000);
    let (numbers, _) = numbers.as_chunks::<8>();
    for (row, number) in numbers[..30_000]
        .iter()
        .map(|bytes| u64::from_le_bytes(*bytes))
        .enumerate()
    {
        let line = |value: u64| {
            format!(
                "{{\"id\": {row}, \"value\": {value}, \"name\": \"n{}\"}}, ",
                number >> 20
            )
        };
        old.push_str(&line(number % 99_991));
        let start = new.len() as u64;
        let is_changed = number >> 56 < 16;
        let value = if is_changed {
            number >> 16 & 0xFF_FFFF
        } else {
            number % 99_991
        };
        new.extend_from_slice(line(value).as_bytes());
        if is_changed {
            changed.extend([start / 1024, (new.len() as u64 - 1) / 1024]);
        }
    }
    (old.into_bytes(), new, changed.len() as u64 * 1024)
}

/// Between two changes there is often one piece, at a shift of its own.
#[test]
fn single_pieces_between_changes_of_a_text_were_fetched() {
    let (old, new, changed) = tables();
    let fetched = fetched_by_update(&old, &new);
    assert!(
        fetched < changed + changed / 20,
        "{fetched} of {} bytes, {changed} of them in pieces that changed",
        new.len()
    );
}

/// Where two checks agree by chance, what they suggested is fetched, and not all of the block.
#[test]
fn a_wrong_piece_cost_its_whole_block() {
    // Ten KiB and 7 bytes in place of ten KiB: they take part in eleven pieces.
    let (before, after) = (&old()[..MIB], &old()[MIB + 10 * KIB..]);
    let new = [before, &fresh(7, 10 * KIB + 7), after].concat();
    let scene = scene(&new);
    // Two pieces in the middle agree with old bytes that are nowhere else in the new version.
    let lying = manifest_with_hints(&new, |checks| {
        let mut agreeing = Vec::new();
        let start = MIB + 3 * KIB + 500;
        pieces::append_pieces(&old()[start..start + 2 * KIB], &mut agreeing);
        let at = (MIB / KIB + 3) * 2;
        checks[at..at + 4].copy_from_slice(&agreeing);
    });
    scene.origin.put(MANIFEST, lying);
    fs::write(scene.target(), old()).unwrap();
    scene.fetch(&[]).must(0);
    scene.must_be_published();
    assert_eq!(scene.origin.sent(OBJECT), 11 * KIB as u64);
}

/// Where no anchor is here, pieces are not read.
#[test]
fn pieces_were_read_of_a_file_that_has_nothing_in_common() {
    let new = old();
    let scene = scene(&new);
    fs::write(scene.target(), fresh(77, 8 * MIB)).unwrap();
    let ended = scene.fetch(&[]).must(0);
    scene.must_be_published();
    let manifest = number(&ended, "bytes_manifest");
    assert!(manifest <= TREE, "{manifest} bytes of the manifest");
}

/// The help did not say how many files of a folder are searched.
#[test]
fn a_folder_of_more_seeds_than_are_searched_is_used_as_far_as_it_goes() {
    let scene = Scene::new(1 << 20, 64 * 1024);
    fs::create_dir(scene.path("many")).unwrap();
    let content = scene.content.all();
    for index in 0..300 {
        let bytes = match index {
            0 => content[..512 * 1024].to_vec(),
            _ => fresh(index, 100),
        };
        fs::write(scene.path("many").join(format!("{index:03}")), bytes).unwrap();
    }
    let ended = scene.fetch(&["--seed", "many"]).must(0);
    let warning = ended.event("warning")["message"].to_string();
    assert!(warning.contains("44 of the files"), "{warning}");
    assert!(warning.contains("at most 256"), "{warning}");
    let reused = ended.event("published")["bytes_reused"].as_u64();
    assert!(reused >= Some(400_000), "{reused:?}");
    let mut help = sapwood(scene.folder.path());
    help.args(["fetch", "--help"]);
    let help = program::run(help).must(0).stdout;
    assert!(help.contains("At most 256 files"), "{help}");
}
