//! Ranges of a large remote object as a stream: every byte right, and little more fetched than asked for.

use std::{fs::File, os::unix::fs::FileExt};

use sapwood::format::paint;

use crate::support::{
    nginx::Nginx,
    program::{self, sapwood},
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
