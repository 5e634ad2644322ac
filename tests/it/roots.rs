//! The root is the BLAKE3 hash of the object, at every block size.

use std::collections::BTreeMap;

use sapwood::format::{
    geometry::{BlockIndex, BlockSize, Geometry},
    paint,
    tree::{self, Cv},
};
use serde_json::Value;

use super::support::{
    long,
    painted::{block_sizes, lengths, tree_and_pieces},
    programs::{b3sum, output_of, repository, sapwood},
};

/// What the short form covers: everything up to 256 KiB blocks, and two blocks of all the others.
const SHORT_LENGTH_MAX: u64 = 80 << 20;

/// The BLAKE3 hashes of painted objects, in one pass over the longest.
fn blake3_of_painted(mut lengths: Vec<u64>) -> BTreeMap<u64, blake3::Hash> {
    lengths.sort();
    let mut hasher = blake3::Hasher::new();
    let (mut at, mut buffer) = (0, Vec::new());
    let mut hash = |length: u64| {
        while at < length {
            buffer.resize((length - at).min(1 << 18) as usize, 0);
            paint::fill(at, &mut buffer);
            hasher.update(&buffer);
            at += buffer.len() as u64;
        }
        (length, hasher.finalize())
    };
    lengths.into_iter().map(&mut hash).collect()
}

#[test]
fn of_all_block_sizes_up_to_80_mib_and_with_sapwood_long_up_to_257_blocks_of_16_mib() {
    let length_max = if long() { u64::MAX } else { SHORT_LENGTH_MAX };
    let lengths = |size| {
        lengths(size)
            .into_iter()
            .filter(move |length| *length <= length_max)
    };
    let expected = blake3_of_painted(block_sizes().flat_map(lengths).collect());
    for size in block_sizes() {
        for length in lengths(size) {
            let (tree, _) = tree_and_pieces(length, size, false);
            assert_eq!(
                tree.root().0,
                *expected[&length].as_bytes(),
                "{length} bytes in {size:?}"
            );
            assert_eq!(tree.geometry().length(), length);
        }
    }
}

#[test]
fn b3sum_and_sapwood_print_the_same_for_files() {
    let folder = tempfile::tempdir().unwrap();
    let mut all: Vec<u64> = [BlockSize::MIN, BlockSize::DEFAULT]
        .into_iter()
        .flat_map(lengths)
        .collect();
    all.retain(|length| *length <= 5 << 20);
    all.sort();
    all.dedup();
    let names: Vec<String> = all.iter().map(u64::to_string).collect();
    for (name, length) in names.iter().zip(&all) {
        std::fs::write(folder.path().join(name), paint::bytes(0, *length as usize)).unwrap();
    }
    let lines = |output: Vec<u8>| -> Vec<String> {
        String::from_utf8(output)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    };
    let expected = lines(output_of(b3sum().args(&names).current_dir(&folder), b""));
    assert_eq!(expected.len(), names.len());
    for size in ["16KiB", "64KiB", "1MiB", "auto"] {
        let ours = output_of(
            sapwood()
                .args(["manifest", "--block-size", size])
                .args(&names)
                .current_dir(&folder),
            b"",
        );
        let ours: Vec<String> = lines(ours)
            .iter()
            .map(|line| line.replace(".sapwood", ""))
            .collect();
        assert_eq!(ours, expected, "{size}");
    }
}

/// The published hashes of others: the input of each list is a function of the place.
#[test]
fn published_hashes_of_blake3_and_bao() {
    let published: Value = serde_json::from_slice(
        &std::fs::read(repository("fixtures/published-hashes.json")).unwrap(),
    )
    .unwrap();
    let bao = |length: usize| {
        (1u32..)
            .flat_map(u32::to_le_bytes)
            .take(length)
            .collect::<Vec<u8>>()
    };
    let blake3 = |length: usize| (0..length).map(|i| (i % 251) as u8).collect::<Vec<u8>>();
    for (list, count, input) in [
        ("blake3", 35, &blake3 as &dyn Fn(usize) -> Vec<u8>),
        ("bao", 13, &bao),
    ] {
        let cases = published[list].as_array().unwrap();
        assert_eq!(cases.len(), count);
        for case in cases {
            let bytes = input(case["length"].as_u64().unwrap() as usize);
            for size in [
                BlockSize::MIN,
                BlockSize::new(1 << 15).unwrap(),
                BlockSize::DEFAULT,
            ] {
                assert_eq!(
                    root_from_blocks(&bytes, size),
                    case["root"],
                    "{list}, {} bytes in {size:?}",
                    bytes.len()
                );
            }
        }
    }
}

/// The root as a fetch proves it: from the leaves of the blocks.
fn root_from_blocks(bytes: &[u8], size: BlockSize) -> String {
    let geometry = Geometry::new(bytes.len() as u64, size).unwrap();
    let leaf = |block: BlockIndex| {
        let at = geometry.bytes_of(block);
        tree::leaf_of(&geometry, block, &bytes[at.start as usize..at.end as usize])
    };
    let leaves: Vec<Cv> = geometry.all().iter().map(leaf).collect();
    tree::root_of(&leaves).to_string()
}
