//! Packs: made while a file is hashed, and checked against it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use sapwood::{
    engine::{
        create::{self, CreateOptions, Input, Made, Output},
        error::Error,
        manifest_file::{self, ManifestFile},
        pack,
    },
    format::{
        compression::PackOptions,
        digests::Algorithm,
        geometry::BlockSize,
        pack::{BadPack, PackIndex},
        paint,
    },
};

use crate::support::{
    self,
    program::{self, sapwood},
};

const QUICK: PackOptions = PackOptions {
    level: 3,
    whole: false,
};
const MIB: usize = 1 << 20;

/// Text that compresses, with a stretch of noise in it that does not.
fn mixed(length: usize) -> Vec<u8> {
    let lines =
        (0u32..).flat_map(|n| format!("{n}: {} apples\n", u64::from(n) * 7919 % 1009).into_bytes());
    let mut bytes: Vec<u8> = lines.take(length).collect();
    let noise = length / 3..length / 2;
    bytes[noise.clone()].copy_from_slice(&paint::bytes(0, noise.len()));
    bytes
}

struct Site(tempfile::TempDir);

impl Site {
    fn new() -> Site {
        Site(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn make(&self, bytes: &[u8], options: CreateOptions) -> Result<Made, Error> {
        fs::write(self.path("f"), bytes).expect("a file");
        let input = Input::File(self.path("f"));
        self.make_of(input, "f", options)
    }

    fn make_of(&self, input: Input, name: &str, options: CreateOptions) -> Result<Made, Error> {
        let output = Output::File(manifest_file::beside(&self.path(name)));
        let pack = options.pack.or(Some(QUICK));
        create::create(input, output, &CreateOptions { pack, ..options }, None)
    }

    /// The index in the manifest of a file.
    fn index(&self, name: &str) -> Option<Vec<u8>> {
        let path = manifest_file::beside(&self.path(name));
        let manifest = ManifestFile::open(&path).expect("a manifest").manifest;
        let section = manifest.statement.header().pack()?.bytes;
        let bytes = fs::read(path).expect("a manifest");
        Some(bytes[section.start as usize..section.end as usize].to_vec())
    }

    fn pack_path(&self, name: &str) -> PathBuf {
        pack::beside(&manifest_file::beside(&self.path(name)))
    }

    fn check(&self, name: &str) -> Result<(), Error> {
        let manifest = ManifestFile::open(&manifest_file::beside(&self.path(name)))?;
        let root = manifest.manifest.statement.header().root;
        let index = self.index(name).expect("a pack");
        pack::check(&self.path(name), root, &index, &self.pack_path(name))
    }
}

#[test]
fn packs_of_all_lengths_are_those_of_their_objects() {
    for length in [
        1_000,
        1_024,
        65_535,
        65_537,
        MIB - 1,
        MIB,
        MIB + 1,
        3 * MIB + 70_001,
    ] {
        let site = Site::new();
        let made = site
            .make(&mixed(length), CreateOptions::default())
            .expect("a manifest");
        let found = fs::metadata(site.pack_path("f")).expect("a pack").len();
        assert_eq!(made.pack_bytes, Some(found), "{length}");
        site.check("f")
            .unwrap_or_else(|error| panic!("{length}: {error}"));
        let index = PackIndex::from_bytes(&site.index("f").expect("an index"), length as u64);
        let lengths = index.expect("well-formed").lengths;
        assert!(lengths.pieces_bytes() > 0, "{length}");
        assert!(lengths.frames_bytes() < length as u64 * 3 / 4, "{length}");
    }
}

/// The words of a user: made, listed nowhere, checked.
#[test]
fn the_program_makes_and_checks_packs() {
    let site = Site::new();
    let run = |words: &[&str]| {
        let mut command = sapwood(site.0.path());
        program::run({
            command.args(words);
            command
        })
    };
    fs::write(site.path("f"), mixed(2 * MIB)).expect("a file");
    let made = run(&["manifest", "f", "--pack", "--level", "3", "--json"]).must(0);
    let length = fs::metadata(site.pack_path("f")).expect("a pack").len();
    assert_eq!(made.event("manifest")["pack_bytes"], length);
    run(&["verify", "f", "--hints"]).must(0);
    let mut pack = fs::read(site.pack_path("f")).expect("a pack");
    pack[length as usize / 2] ^= 1;
    fs::write(site.pack_path("f"), &pack).expect("a file");
    run(&["verify", "f"]).must(0);
    let told = run(&["verify", "f", "--hints"]).must(3).stderr;
    assert!(told.contains("f.sapwood.pack"), "{told}");
    fs::remove_file(site.pack_path("f")).expect("it was there");
    run(&["verify", "f", "--hints"]).must(0);
    run(&["manifest", "f", "--pack"]).must(0);
    // A library has the file alone.
    let made = run(&["manifest", ".", "--json"]).must(0);
    assert_eq!(made.event("library")["files"], 1);
    fs::write(site.path("g"), paint::bytes(0, MIB)).expect("a file");
    let told = run(&["manifest", "g", "--pack"]).must(0).stderr;
    assert!(told.contains("no pack"), "{told}");
    for words in [
        &["manifest", "f", "--pack", "-o", "-"][..],
        &["manifest", "f", "--level", "3"],
        &["manifest", "f", "--whole"],
        &["manifest", ".", "--pack", "--whole"],
        &["manifest", "f", "--pack", "--level", "23"],
        &["manifest", "f", "--pack", "--range", "0-", "-o", "x"],
    ] {
        run(words).must(2);
    }
}

#[test]
fn what_does_not_compress_has_no_pack() {
    for bytes in [paint::bytes(0, 3 * MIB), Vec::new(), vec![7]] {
        let site = Site::new();
        let made = site
            .make(&bytes, CreateOptions::default())
            .expect("a manifest");
        assert_eq!(made.pack_bytes, None);
        assert!(!site.pack_path("f").exists() && site.index("f").is_none());
        // The bytes of the manifest are those without the word.
        let packed = fs::read(manifest_file::beside(&site.path("f"))).expect("a manifest");
        let output = Output::File(site.path("plain"));
        let input = Input::File(site.path("f"));
        create::create(input, output, &CreateOptions::default(), None).expect("a manifest");
        assert!(packed == fs::read(site.path("plain")).expect("a manifest"));
    }
}

#[test]
fn the_same_object_gives_the_same_pack() {
    let bytes = mixed(2 * MIB + 5);
    let site = Site::new();
    site.make(&bytes, CreateOptions::default())
        .expect("a manifest");
    let (index, pack) = (
        site.index("f"),
        fs::read(site.pack_path("f")).expect("a pack"),
    );
    // Read in order, for a digest; from a stream; with larger blocks; without hints.
    let digests = CreateOptions {
        digests: vec![Algorithm::Sha256],
        ..CreateOptions::default()
    };
    let large = CreateOptions {
        block_size: BlockSize::new(4 << 20),
        ..CreateOptions::default()
    };
    let bare = CreateOptions {
        no_hints: true,
        ..CreateOptions::default()
    };
    for options in [digests, large, bare, CreateOptions::default()] {
        let stream = Input::Stream(Box::new(std::io::Cursor::new(bytes.clone())));
        fs::write(site.path("g"), &bytes).expect("a file");
        for input in [Input::File(site.path("g")), stream] {
            site.make_of(input, "g", options.clone())
                .expect("a manifest");
            assert!(site.index("g") == index);
            assert!(fs::read(site.pack_path("g")).expect("a pack") == pack);
            site.check("g").expect("it is that of the object");
        }
    }
}

#[test]
fn small_blocks_have_frames_alone() {
    let site = Site::new();
    let options = CreateOptions {
        block_size: BlockSize::new(32 << 10),
        ..CreateOptions::default()
    };
    let bytes = mixed(MIB + 9);
    site.make(&bytes, options).expect("a manifest");
    let index = PackIndex::from_bytes(&site.index("f").expect("an index"), bytes.len() as u64);
    let lengths = index.expect("well-formed").lengths;
    assert!(lengths.pieces_bytes() == 0 && lengths.frames_bytes() > 0);
    site.check("f").expect("it is that of the object");
}

#[test]
fn holes_are_packed_like_zeros() {
    let site = Site::new();
    fs::write(site.path("f"), vec![0; 2 * MIB + 3]).expect("a file");
    let sparse = fs::File::create(site.path("sparse")).expect("a file");
    sparse.set_len(2 * MIB as u64 + 3).expect("a hole");
    for name in ["f", "sparse"] {
        let input = Input::File(site.path(name));
        site.make_of(input, name, CreateOptions::default())
            .expect("a manifest");
        site.check(name).expect("it is that of the object");
    }
    assert!(site.index("f") == site.index("sparse"));
}

/// Nothing that is no pack is replaced, and nothing else changes then.
#[test]
fn a_file_with_the_name_of_the_pack_stays() {
    let site = Site::new();
    fs::write(site.pack_path("f"), b"notes").expect("a file");
    let made = site.make(&mixed(MIB), CreateOptions::default());
    assert!(matches!(made, Err(Error::Disk(_))));
    assert_eq!(fs::read(site.pack_path("f")).expect("a file"), b"notes");
    assert!(!manifest_file::beside(&site.path("f")).exists());
    // The object itself has the name of the pack.
    fs::write(site.pack_path("g"), mixed(MIB)).expect("a file");
    let made = site.make_of(
        Input::File(site.pack_path("g")),
        "g",
        CreateOptions::default(),
    );
    assert!(matches!(made, Err(Error::Disk(_))));
    assert!(fs::read(site.pack_path("g")).expect("a file") == mixed(MIB));
    // A pack is replaced.
    fs::remove_file(site.pack_path("f")).expect("it was there");
    for length in [MIB, 2 * MIB] {
        site.make(&mixed(length), CreateOptions::default())
            .expect("a manifest");
        site.check("f").expect("it is that of the object");
    }
    // What no longer compresses keeps none of an earlier version.
    let made = site.make(&paint::bytes(0, MIB), CreateOptions::default());
    assert_eq!(made.expect("a manifest").pack_bytes, None);
    assert!(!site.pack_path("f").exists());
}

#[test]
fn every_changed_byte_of_a_pack_is_noticed() {
    let site = Site::new();
    let bytes = mixed(70_000);
    site.make(&bytes, CreateOptions::default())
        .expect("a manifest");
    let good = fs::read(site.pack_path("f")).expect("a pack");
    let bad_after = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut pack = good.clone();
        change(&mut pack);
        fs::write(site.pack_path("f"), pack).expect("a file");
        match site.check("f") {
            Err(Error::Pack { cause, .. }) => cause,
            other => panic!("{other:?}"),
        }
    };
    for at in (0..good.len()).step_by(97).chain(0..200) {
        bad_after(&|pack| pack[at] ^= 0x10);
    }
    assert_eq!(bad_after(&|pack| pack[40] ^= 1), BadPack::Front);
    let (expected, found) = (good.len() as u64, good.len() as u64 - 1);
    assert_eq!(
        bad_after(&|pack| _ = pack.pop()),
        BadPack::Length { expected, found }
    );
    // Damage that decodes to the same bytes: the length of one piece is moved to its neighbour that was not packed, say.
    let content = bad_after(&|pack| *pack.last_mut().expect("bytes") ^= 1);
    assert!(
        matches!(content, BadPack::Content(_) | BadPack::Checksum),
        "{content:?}"
    );
    fs::write(site.pack_path("f"), &good).expect("a file");
    site.check("f").expect("it was good");
    // The pack of another object of the same length.
    let mut other = bytes.clone();
    other[5] ^= 1;
    fs::write(site.path("f"), &other).expect("a file");
    assert!(matches!(
        site.check("f"),
        Err(Error::Pack {
            cause: BadPack::Content(_),
            ..
        })
    ));
}

/// A pack is written in its place at once, or not at all.
#[test]
fn no_unfinished_pack_stays() {
    let site = Site::new();
    let only = |folder: &Path| {
        let names = fs::read_dir(folder).expect("a folder");
        let mut names: Vec<_> = names
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        names.sort();
        names
    };
    site.make(&mixed(MIB), CreateOptions::default())
        .expect("a manifest");
    assert_eq!(only(site.0.path()), ["f", "f.sapwood", "f.sapwood.pack"]);
}

fn reference(site: &Site, words: &[&str]) -> program::Ended {
    let mut command = std::process::Command::new("python3");
    command
        .arg("-B")
        .arg(support::programs::repository("tools/sapwood_pack.py"));
    command.current_dir(site.0.path()).args(words);
    program::run(command)
}

/// Each of the two implementations reads what the other one wrote.
#[test]
fn the_second_implementation_agrees() {
    for (length, whole) in [
        (1_000, false),
        (65_537, true),
        (2 * MIB + 70_001, false),
        (2 * MIB + 1, true),
    ] {
        let site = Site::new();
        let bytes = mixed(length);
        let pack = Some(PackOptions { whole, ..QUICK });
        let options = CreateOptions {
            pack,
            ..CreateOptions::default()
        };
        site.make(&bytes, options).expect("a manifest");
        let ours = ["f", "f.sapwood", "f.sapwood.pack"];
        let check = [&["check"][..], &ours].concat();
        reference(&site, &check).must(0);
        // A whole pack needs no object.
        let object: &[&str] = if whole { &[] } else { &["--object", "f"] };
        let unpack = [&["unpack", ours[1], ours[2], "out"], object].concat();
        reference(&site, &unpack).must(0);
        assert!(fs::read(site.path("out")).expect("it was written") == bytes);
        let mut damaged = fs::read(site.pack_path("f")).expect("a pack");
        *damaged.last_mut().expect("bytes") ^= 1;
        fs::write(site.pack_path("f"), damaged).expect("a file");
        reference(&site, &check).must(3);

        fs::write(site.path("g"), &bytes).expect("a file");
        let make = ["make", "g", "g.sapwood", "--level", "3"];
        let whole: &[&str] = if whole { &["--whole"] } else { &[] };
        reference(&site, &[&make[..], whole].concat()).must(0);
        site.check("g")
            .unwrap_or_else(|error| panic!("{length}: {error}"));
    }
}

/// Found: the manifest of a file that another one replaced while it was read was published, beside the other one.
#[test]
fn a_file_that_is_replaced_while_it_is_read_gets_no_manifest() {
    for (of_folder, is_replaced) in [(false, true), (false, false), (true, true)] {
        let site = Site::new();
        let folder = site.path("folder");
        fs::create_dir(&folder).expect("a folder");
        let (file, other) = (folder.join("f"), site.path("other"));
        fs::write(&file, mixed(8 * MIB)).expect("a file");
        fs::write(&other, mixed(8 * MIB + 1)).expect("a file");
        let mut command = sapwood(&folder);
        let what = if of_folder { "." } else { "f" };
        command.args(["manifest", what, "--pack", "--level", "19"]);
        let mut running = program::start(command);
        wait_until_read(running.id(), &file);
        match is_replaced {
            true => fs::rename(&other, &file),
            false => fs::remove_file(&file),
        }
        .expect("its folder can be written");
        let ended = running.finish().must(4);
        assert!(ended.stderr.contains("changed while it was read"));
        let left = fs::read_dir(&folder).expect("a folder");
        let mut left: Vec<_> = left.map(|entry| entry.expect("it").file_name()).collect();
        left.retain(|name| name != "f");
        assert!(left.is_empty(), "{left:?}");
    }
}

/// Waits until a process reads a file: it is open for longer than a first look takes.
fn wait_until_read(process: u32, file: &Path) {
    let is_open = || {
        let open = fs::read_dir(format!("/proc/{process}/fd")).expect("it runs");
        let mut open = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        open.any(|open| open == file)
    };
    let looks = std::iter::repeat_with(|| {
        std::thread::sleep(Duration::from_millis(20));
        is_open()
    });
    let mut seen = 0;
    for look in looks.take(500) {
        seen = if look { seen + 1 } else { 0 };
        if seen == 3 {
            return;
        }
    }
    panic!("{} is not read", file.display());
}
