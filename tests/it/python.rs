//! The program and the second implementation, tools/sapwood_ref.py, write the same bytes and read each other's.

use std::path::{Path, PathBuf};

use sapwood::{
    engine::manifest_file::ManifestFile,
    format::{
        geometry::BlockSize,
        manifest::{self, Particulars},
        paint,
    },
};
use serde_json::{Value, json};

use super::support::{
    painted::lengths,
    programs::{output_of, reference, sapwood},
};

/// Runs many commands of the second implementation in one process, and returns the lines that they print.
fn python(commands: &[Vec<String>]) -> Vec<String> {
    let lines: String = commands
        .iter()
        .map(|words| format!("{}\n", json!(words)))
        .collect();
    let said = output_of(reference().arg("batch"), lines.as_bytes());
    String::from_utf8(said)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn inspect(manifest: &Path) -> Value {
    serde_json::from_slice(&output_of(
        sapwood().args(["inspect", "--json"]).arg(manifest),
        b"",
    ))
    .unwrap()
}

/// A painted file of this length, and flags that both programs understand.
struct Case {
    length: u64,
    block_size: u64,
    more: Vec<String>,
}

impl Case {
    /// Writes with ours; returns the commands with which Python writes and reads ours, and the paths of both.
    fn ours(&self, folder: &Path, index: usize) -> (Vec<Vec<String>>, PathBuf, PathBuf) {
        let object = folder.join(format!("gemälde-{}", self.length));
        if !object.exists() {
            std::fs::write(&object, paint::bytes(0, self.length as usize)).unwrap();
        }
        let (ours, theirs) = (
            folder.join(format!("{index}.rust")),
            folder.join(format!("{index}.python")),
        );
        let size = self.block_size.to_string();
        let mut command = sapwood();
        command
            .arg("manifest")
            .arg(&object)
            .arg("-o")
            .arg(&ours)
            .args(["--block-size", &size])
            .args(&self.more);
        output_of(&mut command, b"");
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        let mut write = words(&[
            "write",
            &path(&object),
            &path(&theirs),
            "--block-size",
            &size,
        ]);
        write.extend(self.more.iter().cloned());
        (vec![write, words(&["read", &path(&ours)])], ours, theirs)
    }
}

/// Checks that both programs agree on all of these.
fn agree(cases: &[Case]) {
    let folder = tempfile::tempdir().unwrap();
    let made: Vec<_> = cases
        .iter()
        .enumerate()
        .map(|(index, case)| case.ours(folder.path(), index))
        .collect();
    let commands: Vec<Vec<String>> = made
        .iter()
        .flat_map(|(commands, ..)| commands.clone())
        .collect();
    let read = python(&commands);
    assert_eq!(read.len(), cases.len());
    for ((case, (_, ours, theirs)), read) in cases.iter().zip(&made).zip(read) {
        let name = format!(
            "{} bytes in blocks of {} {:?}",
            case.length, case.block_size, case.more
        );
        assert!(
            std::fs::read(ours).unwrap() == std::fs::read(theirs).unwrap(),
            "{name}"
        );
        let read: Value = serde_json::from_str(&read).unwrap();
        assert_eq!(inspect(theirs), read, "{name}");
    }
}

#[test]
fn blocks_of_16_kib_up_to_257_blocks_and_of_64_kib_up_to_two() {
    let mut cases = Vec::new();
    for (size, length_max) in [
        (BlockSize::MIN, u64::MAX),
        (BlockSize::DEFAULT, (2 << 16) + 1),
    ] {
        for length in lengths(size)
            .into_iter()
            .filter(|length| *length <= length_max)
        {
            for more in [&[][..], &["--no-hints"]] {
                cases.push(Case {
                    length,
                    block_size: size.bytes(),
                    more: words(more),
                });
            }
        }
    }
    agree(&cases);
}

#[test]
fn names_and_digests() {
    let all = [
        "sha-256",
        "sha-512",
        "sha-1",
        "md5",
        "crc32c",
        "crc64nvme",
        "blake3",
    ];
    let each = |names: &[&str]| {
        names
            .iter()
            .flat_map(|name| words(&["--digest", name]))
            .collect::<Vec<String>>()
    };
    let mut cases = Vec::new();
    for length in [0, 1, 1025, 65_537, (1 << 20) + 1] {
        cases.push(Case {
            length,
            block_size: 1 << 16,
            more: each(&all),
        });
    }
    let reversed: Vec<&str> = all.into_iter().rev().collect();
    cases.push(Case {
        length: 5,
        block_size: 1 << 24,
        more: each(&reversed),
    });
    for name in all {
        cases.push(Case {
            length: 40_000,
            block_size: 1 << 14,
            more: each(&[name, name]),
        });
    }
    for name in [
        "",
        "a",
        "with spaces, and more",
        "日本語",
        &"é".repeat(127),
        &"n".repeat(255),
    ] {
        cases.push(Case {
            length: 100,
            block_size: 1 << 15,
            more: vec![format!("--name={name}")],
        });
    }
    agree(&cases);
}

#[test]
fn sequence_and_times() {
    let folder = tempfile::tempdir().unwrap();
    let [object, ours, theirs] = ["object", "ours", "theirs"].map(|name| folder.path().join(name));
    std::fs::write(&object, paint::bytes(0, 70_000)).unwrap();
    let flags = ["--seq", "7", "--expires", "2100-01-01T00:00:00Z"];
    output_of(
        sapwood()
            .arg("manifest")
            .arg(&object)
            .arg("-o")
            .arg(&ours)
            .args(flags),
        b"",
    );
    let published = inspect(&ours)["published"].as_u64().unwrap();
    assert!(published > 1_700_000_000, "now is after 2023");
    let numbers = [
        "--seq",
        "7",
        "--expires",
        "4102444800",
        "--published",
        &published.to_string(),
    ];
    output_of(
        reference()
            .arg("write")
            .args([&object, &theirs])
            .args(numbers),
        b"",
    );
    assert!(std::fs::read(&ours).unwrap() == std::fs::read(&theirs).unwrap());
}

#[test]
fn a_coarser_manifest_is_the_one_made_directly() {
    let folder = tempfile::tempdir().unwrap();
    let b = BlockSize::MIN.bytes();
    let (mut commands, mut pairs) = (Vec::new(), Vec::new());
    for (index, length) in [0, 1, b, b + 1, 2 * b + 1, 5 * b + 20, 257 * b + 5]
        .into_iter()
        .enumerate()
    {
        for more in [&["--digest", "md5"][..], &["--no-hints", "--name", "n"]] {
            let mut finer: Option<PathBuf> = None;
            for bits in 14..=18 {
                let case = Case {
                    length,
                    block_size: 1 << bits,
                    more: words(more),
                };
                let (_, direct, _) =
                    case.ours(folder.path(), index * 100 + bits * 2 + more.len() % 2);
                if let Some(finer) = finer {
                    assert!(
                        coarsened(&finer) == std::fs::read(&direct).unwrap(),
                        "{length} at {} {more:?}",
                        1 << bits
                    );
                    let made = direct.with_extension("coarser");
                    commands.push(words(&[
                        "coarsen",
                        finer.to_str().unwrap(),
                        made.to_str().unwrap(),
                    ]));
                    pairs.push((made, direct.clone()));
                }
                finer = Some(direct);
            }
        }
    }
    assert_eq!(python(&commands), Vec::<String>::new());
    for (made, direct) in pairs {
        assert!(
            std::fs::read(&made).unwrap() == std::fs::read(&direct).unwrap(),
            "{}",
            made.display()
        );
    }
}

/// The manifest at twice the block size, from a manifest alone.
fn coarsened(finer: &Path) -> Vec<u8> {
    let file = ManifestFile::open(finer).unwrap();
    let header = file.manifest.statement.header();
    let tree = file.manifest.tree.coarser().unwrap();
    let mut pieces = vec![0; file.manifest.tree.layout().pieces().length() as usize];
    file.read_pieces(0, &mut pieces).unwrap();
    let particulars = Particulars {
        name: header.name.clone(),
        digests: header.digests.clone(),
        ..Particulars::default()
    };
    manifest::to_bytes(&tree, header.hints().then_some(&pieces), particulars)
}
