//! The golden manifest of version 1: made today as then, and refused with any damage, by both implementations. The golden pack:
//! read today as then.

use std::process::Command;

use sapwood::format::{
    compression,
    geometry::BlockSize,
    manifest::{self, Particulars},
    pack::{PackIndex, PackLayout},
    paint,
    reader::Manifest,
};

use super::{
    packed,
    support::{
        long,
        painted::tree_and_pieces,
        programs::{output_of, reference, repository, run, sapwood},
    },
};

const CLIP: &str = "fixtures/media/clip.mp4";
const GOLDEN: &str = "fixtures/media/clip.mp4.sapwood";

fn golden() -> Vec<u8> {
    std::fs::read(repository(GOLDEN)).unwrap()
}

#[test]
fn the_program_makes_it_today() {
    let made = output_of(
        sapwood()
            .arg("manifest")
            .arg(repository(CLIP))
            .args(["-o", "-"]),
        b"",
    );
    assert!(
        made == golden(),
        "the golden manifest differs from what is made of its file"
    );
}

#[test]
fn python_makes_it_and_verifies_it() {
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("made");
    output_of(
        reference().arg("write").arg(repository(CLIP)).arg(&made),
        b"",
    );
    assert!(std::fs::read(made).unwrap() == golden());
    output_of(
        reference()
            .arg("verify")
            .args([CLIP, GOLDEN].map(repository)),
        b"",
    );
}

#[test]
fn the_same_file_and_flags_give_the_same_bytes_from_file_and_pipe() {
    let clip = std::fs::read(repository(CLIP)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for flags in [
        &["--name", "n"][..],
        &["--name", "n", "--no-hints"],
        &[
            "--name",
            "n",
            "--block-size",
            "16KiB",
            "--digest",
            "md5",
            "--digest",
            "sha-256",
            "--digest",
            "md5",
        ],
        &["--name", "", "--block-size", "16MiB", "--digest", "blake3"],
    ] {
        let path = repository(CLIP);
        let path = path.to_str().unwrap();
        let first = output_of(
            sapwood().args(["manifest", path, "-o", "-"]).args(flags),
            b"",
        );
        Manifest::from_bytes(&first).unwrap();
        let out = folder.path().join("out");
        for (input, stdin) in [(path, &b""[..]), ("-", &clip[..])] {
            output_of(
                sapwood()
                    .args(["manifest", input, "-o"])
                    .arg(&out)
                    .args(flags),
                stdin,
            );
            assert!(std::fs::read(&out).unwrap() == first, "{input} {flags:?}");
        }
    }
}

/// Found: every check of a file made all hints again, which took 2.8 times as long as its hash.
#[test]
fn hints_that_are_not_those_of_the_file_are_refused_only_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("object");
    let length = 40_000;
    std::fs::write(&file, paint::bytes(0, length)).unwrap();
    let (tree, mut pieces) = tree_and_pieces(length as u64, BlockSize::MIN, true);
    for (honest, exit) in [(true, 0), (false, 3)] {
        pieces[7] ^= u8::from(!honest);
        let manifest = manifest::to_bytes(&tree, Some(&pieces), Particulars::default());
        std::fs::write(folder.path().join("object.sapwood"), manifest).unwrap();
        let verify = |more: &[&str]| {
            let mut sapwood = sapwood();
            sapwood.arg("verify").arg(&file).args(more);
            run(&mut sapwood, b"").status.code()
        };
        assert_eq!((verify(&[]), verify(&["--hints"])), (Some(0), Some(exit)));
    }
}

/// Found: control characters, backslashes and characters that turn text were written into manifests.
#[test]
fn a_file_whose_name_is_not_allowed_has_a_manifest_without_a_name() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a\\b", "a\tb", "a\u{202e}4pm"] {
        let file = folder.path().join(name);
        std::fs::write(&file, b"1").unwrap();
        let by_python = folder.path().join("made");
        let made = output_of(sapwood().arg("manifest").arg(&file).args(["-o", "-"]), b"");
        output_of(reference().arg("write").arg(&file).arg(&by_python), b"");
        assert!(std::fs::read(by_python).unwrap() == made, "{name:?}");
        let manifest = Manifest::from_bytes(&made).unwrap();
        assert_eq!(manifest.statement.header().name, "", "{name:?}");
        let mut named = sapwood();
        named.args(["manifest", "-", "-o", "-", "--name", name]);
        assert_eq!(run(&mut named, b"").status.code(), Some(2), "{name:?}");
    }
}

#[test]
fn every_changed_bit_and_every_truncation_is_refused() {
    let golden = golden();
    assert!(Manifest::from_bytes(&golden).is_ok());
    for bit in 0..golden.len() * 8 {
        let mut bad = golden.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(
            Manifest::from_bytes(&bad).is_err(),
            "accepted with bit {} of byte {} changed",
            bit % 8,
            bit / 8
        );
    }
    for length in 0..golden.len() {
        assert!(
            Manifest::from_bytes(&golden[..length]).is_err(),
            "accepted when cut to {length} bytes"
        );
    }
    assert!(Manifest::from_bytes(&[&golden[..], b"\0"].concat()).is_err());
}

#[test]
fn python_refuses_one_changed_bit_of_each_byte_and_with_sapwood_long_all_of_them() {
    let all: &[&str] = if long() {
        &["--all-bits"]
    } else {
        &["--seed", "1"]
    };
    let said = output_of(
        reference().arg("damage").args(all).arg(repository(GOLDEN)),
        b"",
    );
    let tried = golden().len() * if long() { 9 } else { 2 };
    assert_eq!(
        String::from_utf8(said).unwrap(),
        format!("{tried} damaged manifests, all refused\n")
    );
}

const PACKED: [&str; 2] = ["words.txt.sapwood", "words.txt.sapwood.pack"];

/// A folder with the golden pack, its manifest and the object.
fn words() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("words.txt"), packed::text(70_001)).unwrap();
    for name in PACKED {
        let golden = repository("fixtures/packs").join(name);
        std::fs::copy(golden, folder.path().join(name)).unwrap();
    }
    folder
}

#[test]
fn both_implementations_verify_the_golden_pack() {
    let folder = words();
    let verify = || {
        let mut sapwood = sapwood();
        sapwood.current_dir(folder.path());
        sapwood.args(["verify", "words.txt", "--hints"]);
        run(&mut sapwood, b"").status.code()
    };
    assert_eq!(verify(), Some(0));
    let mut python = Command::new("python3");
    python
        .arg("-B")
        .arg(repository("tools/sapwood_pack.py"))
        .args(["check", "words.txt"])
        .args(PACKED)
        .current_dir(folder.path());
    output_of(&mut python, b"");
    let place = folder.path().join(PACKED[1]);
    let mut pack = std::fs::read(&place).unwrap();
    *pack.last_mut().unwrap() ^= 1;
    std::fs::write(place, pack).unwrap();
    assert_eq!(verify(), Some(3));
}

#[test]
fn the_golden_pack_decodes() {
    let plain = packed::text(70_001);
    let [manifest, pack] =
        PACKED.map(|name| std::fs::read(repository("fixtures/packs").join(name)).unwrap());
    let read = Manifest::from_bytes(&manifest).unwrap();
    let section = read.statement.header().pack().unwrap().bytes;
    let index = &manifest[section.start as usize..section.end as usize];
    let index = PackIndex::from_bytes(index, plain.len() as u64).unwrap();
    assert_eq!(index.head.length, pack.len() as u64);
    assert_eq!(index.head.blake3, *blake3::hash(&pack).as_bytes());
    let layout = PackLayout::new(plain.len() as u64).unwrap();
    let (frame, pieces) = index.places(layout)[0];
    let frame = &pack[frame.start as usize..frame.end as usize];
    assert!(compression::unpack(frame, &[], plain.len()).as_deref() == Some(&plain));
    let table = layout.table();
    let table = &pack[table.start as usize..table.end as usize];
    let mut packed = &pack[pieces.start as usize..pieces.end as usize];
    let lengths = table.as_chunks().0.iter().copied().map(u16::from_le_bytes);
    for (number, length) in lengths.enumerate() {
        let (start, end) = (number << 10, plain.len().min((number + 1) << 10));
        let prefix = &plain[start / 65_536 * 65_536..start];
        let (piece, rest) = packed.split_at(length.into());
        let piece = compression::unpack(piece, prefix, end - start);
        assert_eq!(piece.as_deref(), Some(&plain[start..end]), "piece {number}");
        packed = rest;
    }
    assert!(packed.is_empty());
}
