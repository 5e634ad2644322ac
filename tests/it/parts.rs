//! `sapwood manifest --range` and `--join`: manifests by many machines (manifest-spec/part.md).

use std::{
    fs,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    process::Command,
};

use sapwood::format::paint;
use tempfile::TempDir;

use super::support::{
    program::{Ended, run, sapwood},
    programs::{output_of, repository},
};

const BLOCK: u64 = 16 << 10;

struct Object {
    folder: TempDir,
    options: Vec<String>,
}

impl Object {
    fn new(length: u64, options: &[&str]) -> Object {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("film"), paint::bytes(0, length as usize)).unwrap();
        Object::of(folder, options)
    }

    fn of(folder: TempDir, options: &[&str]) -> Object {
        Object {
            folder,
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn manifest(&self, words: &[&str]) -> Ended {
        let mut command = sapwood(self.folder.path());
        command.arg("manifest").args(words);
        run(command)
    }

    fn part(&self, range: &str, out: &str) -> Ended {
        let mut words = vec!["film", "--range", range, "-o", out];
        words.extend(self.options.iter().map(String::as_str));
        self.manifest(&words)
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    fn whole(&self) -> Vec<u8> {
        let mut words = vec!["film", "-o", "whole"];
        words.extend(self.options.iter().map(String::as_str));
        self.manifest(&words).must(0);
        self.bytes("whole")
    }
}

/// Holes are not read. What is made of them must be what is made of the same zeros.
#[test]
fn a_file_with_holes_has_the_manifest_of_its_bytes() {
    let region = 256 * 1024;
    let length = 12 * region + 77_777;
    // Regions 1, 5 and 11 have data, some of it zeros; the last one is not whole and a hole.
    let data = [
        (region + 3, 70_000),
        (5 * region, region),
        (11 * region + 999, 1),
    ];
    let mut bytes = vec![0; length];
    for (at, count) in data {
        bytes[at..at + count].copy_from_slice(&paint::bytes(at as u64, count));
    }
    // In memory, where holes are believed on every Linux.
    let folder = || TempDir::new_in("/dev/shm").unwrap();
    for options in [
        &[][..],
        &["--no-hints"],
        &["--block-size", "16KiB"],
        &["--block-size", "1MiB"],
        &["--block-size", "16MiB"],
        &["--digest", "sha-256"],
    ] {
        let (full, sparse) = (folder(), folder());
        fs::write(full.path().join("film"), &bytes).unwrap();
        let film = fs::File::create(sparse.path().join("film")).unwrap();
        film.set_len(length as u64).unwrap();
        for (at, count) in data {
            film.write_all_at(&bytes[at..at + count], at as u64)
                .unwrap();
        }
        let room = |folder: &TempDir| fs::metadata(folder.path().join("film")).unwrap().blocks();
        assert!(room(&sparse) < room(&full) / 4);
        let (full, sparse) = (Object::of(full, options), Object::of(sparse, options));
        assert!(sparse.whole() == full.whole(), "{options:?}");
        if options.first() != Some(&"--digest") && options != ["--block-size", "16MiB"] {
            let border = 8 * region;
            sparse.part(&format!("0-{}", border - 1), "1").must(0);
            sparse.part(&format!("{border}-"), "2").must(0);
            sparse
                .manifest(&["--join", "1", "2", "-o", "film.sapwood"])
                .must(0);
            assert!(sparse.bytes("film.sapwood") == full.bytes("whole"));
        }
        let verify = |exit| {
            let mut command = sapwood(sparse.folder.path());
            command.args(["verify", "film", "--manifest", "whole"]);
            run(command).must(exit);
        };
        verify(0);
        film.write_all_at(b"x", 9 * region as u64).unwrap();
        verify(3);
    }
}

fn reference(folder: &Path) -> Command {
    let mut command = Command::new("python3");
    command.arg("-B").arg(repository("tools/sapwood_part.py"));
    command.current_dir(folder);
    command
}

#[test]
fn parts_joined_are_the_manifest_of_one_run() {
    let region = 256 << 10;
    for (length, options, borders) in [
        (0, &["--block-size", "16KiB"][..], &[][..]),
        (5, &["--block-size", "16KiB"], &[]),
        (BLOCK, &["--block-size", "16KiB"], &[]),
        (BLOCK + 1, &["--block-size", "16KiB"], &[BLOCK]),
        (
            40 * BLOCK - 5,
            &["--block-size", "16KiB"],
            &[BLOCK, 7 * BLOCK, 39 * BLOCK],
        ),
        (
            40 * BLOCK,
            &["--block-size", "16KiB", "--no-hints"],
            &[20 * BLOCK],
        ),
        (
            300 * BLOCK,
            &["--block-size", "16KiB"],
            &[256 * BLOCK, 257 * BLOCK],
        ),
        // Blocks that are larger than what is read at a time.
        (
            9 * region + 77,
            &["--block-size", "1MiB"],
            &[4 * region, 8 * region],
        ),
        (5 * region, &["--block-size", "16MiB"], &[]),
        (3 * region, &[], &[region]),
    ] {
        let object = Object::new(length, options);
        let mut starts = vec![0];
        starts.extend(borders);
        let ends = borders.iter().copied().chain([length]);
        let mut names = Vec::new();
        for (number, (start, end)) in starts.iter().zip(ends).enumerate() {
            let name = format!("part-{number}");
            // The last one as HTTP also says it.
            let range = match end == length {
                true => format!("{start}-"),
                false => format!("{start}-{}", end - 1),
            };
            object.part(&range, &name).must(0);
            let (start, end) = (start.to_string(), end.to_string());
            let mut command = reference(object.folder.path());
            command.args(["part", "film", &start, &end, "theirs"]);
            for option in options {
                let bytes = match *option {
                    "16KiB" => "16384",
                    "1MiB" => "1048576",
                    "16MiB" => "16777216",
                    other => other,
                };
                command.arg(bytes);
            }
            output_of(&mut command, b"");
            assert!(
                object.bytes(&name) == object.bytes("theirs"),
                "{length} {name}"
            );
            names.push(name);
        }
        // In any order.
        names.reverse();
        let mut words = vec!["--join"];
        words.extend(names.iter().map(String::as_str));
        words.extend(["-o", "film.sapwood"]);
        object.manifest(&words).must(0);
        assert!(object.bytes("film.sapwood") == object.whole(), "{length}");
        let mut command = reference(object.folder.path());
        command
            .arg("join")
            .args(&names)
            .args(["joined", "--name", "film"]);
        output_of(&mut command, b"");
        assert!(object.bytes("joined") == object.whole(), "{length}");
    }
}

#[test]
fn parts_that_are_not_all_of_one_object_are_refused() {
    let object = Object::new(10 * BLOCK + 5, &["--block-size", "16KiB"]);
    object.part("0-81919", "a").must(0);
    object.part("81920-", "b").must(0);
    object.part("65536-98303", "overlap").must(0);
    object.part("-5", "last").must(0);
    let other = Object::new(10 * BLOCK + 6, &["--block-size", "16KiB"]);
    other.part("81920-", "b").must(0);
    fs::copy(other.path("b"), object.path("other")).unwrap();
    let join = |parts: &[&str]| {
        let mut words = vec!["--join"];
        words.extend(parts);
        words.extend(["-o", "film.sapwood"]);
        object.manifest(&words)
    };
    for (parts, said) in [
        (&["a"][..], "bytes 81920 to 163845 are in no part"),
        (&["b"], "bytes 0 to 81920 are in no part"),
        (&["a", "last"], "bytes 81920 to 163840 are in no part"),
        (
            &["a", "overlap", "b"],
            "bytes from 65536 on are in another part",
        ),
        (&["a", "b", "b"], "bytes from 81920 on are in another part"),
        (&["a", "other"], "another length"),
    ] {
        let ended = join(parts).must(2);
        assert!(ended.stderr.contains(said), "{ended:?}");
    }
    for at in [0, 8, 10, 16, 24, 63, 64, 400] {
        let mut bytes = object.bytes("a");
        bytes[at] ^= 1;
        fs::write(object.path("damaged"), bytes).unwrap();
        join(&["damaged", "b"]).must(3);
    }
    let bytes = object.bytes("a");
    fs::write(object.path("damaged"), &bytes[..bytes.len() - 1]).unwrap();
    join(&["damaged", "b"]).must(3);
    join(&["film", "b"]).must(3);
    assert!(!object.path("film.sapwood").exists());
    join(&["b", "a"]).must(0);
}

#[test]
fn ranges_and_options_without_meaning_are_refused() {
    let object = Object::new(10 * BLOCK, &["--block-size", "16KiB"]);
    for range in ["1-16383", "0-16382", "163840-", "0-1"] {
        object.part(range, "out").must(2);
    }
    for words in [
        &["film", "--range", "0-"][..],
        &["film", "--range", "0-", "-o", "out", "--name", "x"],
        &["film", "--range", "0-", "-o", "out", "--seq", "1"],
        &["film", "--range", "0-", "-o", "out", "--digest", "md5"],
        &["film", "--range", "0-", "-o", "-"],
        &["-", "--range", "0-", "-o", "out"],
        &["film", "--range", "0-", "-o", "film"],
        &["--join", "a"],
        &["--join", "a", "-o", "out", "--no-hints"],
        &["--join", "a", "-o", "out", "--range", "0-"],
        &["film", "film", "--range", "0-", "-o", "out"],
    ] {
        let ended = object.manifest(words);
        assert_eq!(ended.exit, Some(2), "{words:?}: {ended:?}");
    }
    assert!(!object.path("out").exists());
    // What is no part is not replaced by one.
    fs::write(object.path("mine"), b"mine").unwrap();
    object.part("0-", "mine").must(6);
    object
        .manifest(&["nothing", "--range", "0-", "-o", "out"])
        .must(1);
}

#[test]
fn what_is_joined_can_be_signed() {
    let object = Object::new(3 * BLOCK, &["--block-size", "16KiB"]);
    let mut command = sapwood(object.folder.path());
    command.args(["keygen", "--no-password", "-o", "studio"]);
    run(command).must(0);
    object.part("0-", "all").must(0);
    let words = [
        "--join",
        "all",
        "-o",
        "film.sapwood",
        "--sign",
        "studio.key",
        "--seq",
        "3",
    ];
    object.manifest(&words).must(0);
    let mut command = sapwood(object.folder.path());
    command.args(["verify", "film", "--key", "studio.pub"]);
    run(command).must(0);
}
