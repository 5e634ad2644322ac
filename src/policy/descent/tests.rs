use std::{collections::HashSet, sync::Arc};

use proptest::prelude::*;

use crate::format::{
    anchors,
    geometry::{BlockSize, Geometry},
    judge::{self, Leaves},
    manifest::{self, Particulars},
    paint, pieces,
    tree::{self, PartHasher},
};

use super::{search::PLACES_MAX, *};

const B: usize = 16 * 1024;

/// Seeds in memory, and what was done with them.
#[derive(Default)]
#[allow(clippy::struct_field_names, reason = "they are files")]
struct Files {
    files: Vec<Vec<u8>>,
    bytes_read: u64,
    bytes_hashed: u64,
    /// What was hashed, by seed, shift and place, and the ends of ranges that were hashed twice.
    hashed: HashSet<(SeedIndex, u64, u64, u64)>,
    hashed_twice: Vec<u64>,
    /// Work that is allowed before the time is up.
    patience: Option<u32>,
}

impl Local for Files {
    fn read(&mut self, seed: SeedIndex, place: u64, into: &mut [u8]) -> bool {
        self.bytes_read += into.len() as u64;
        let file = &self.files[usize::from(seed.0)];
        match file.get(place as usize..place as usize + into.len()) {
            Some(bytes) => into.copy_from_slice(bytes),
            None => return false,
        }
        true
    }

    fn value(&mut self, seed: SeedIndex, bytes: ByteRange, offset: u64, root: bool) -> Option<Cv> {
        self.bytes_hashed += bytes.length();
        if !self.hashed.insert((seed, bytes.start, bytes.end, offset)) {
            self.hashed_twice.push(offset + bytes.length());
        }
        let mut hasher = PartHasher::new(offset);
        hasher
            .update(self.files[usize::from(seed.0)].get(bytes.start as usize..bytes.end as usize)?);
        Some(if root {
            hasher.root().0
        } else {
            hasher.value()
        })
    }

    fn may_continue(&mut self) -> bool {
        let Some(patience) = &mut self.patience else {
            return true;
        };
        *patience = patience.saturating_sub(1);
        *patience > 0
    }
}

fn describe(bytes: &[u8], hints: bool) -> (Tree, Vec<u8>) {
    let geometry = Geometry::new(bytes.len() as u64, BlockSize::MIN).unwrap();
    let part = |block| {
        &bytes[geometry.bytes_of(block).start as usize..geometry.bytes_of(block).end as usize]
    };
    let leaves = geometry
        .all()
        .iter()
        .map(|block| tree::leaf_of(&geometry, block, part(block)))
        .collect();
    let anchors = geometry
        .all()
        .iter()
        .map(|block| anchors::anchor_of(part(block)))
        .collect();
    let mut checks = Vec::new();
    pieces::append_pieces(bytes, &mut checks);
    let tree = Tree::new(geometry, leaves, hints.then_some(anchors));
    let manifest = manifest::to_bytes(&tree, hints.then_some(&checks), Particulars::default());
    (tree, manifest)
}

/// What a delta took.
#[derive(Debug)]
struct Delta {
    manifest_read: u64,
    fetched: u64,
    refused: u32,
    holes: u32,
}

/// Finds `new` in the seeds, puts it together, and checks everything that must hold whatever the seeds and hints are.
#[allow(clippy::too_many_lines, reason = "one loop that plays the engine")]
fn delta(new: &[u8], files: &mut Files, tree: &Tree, manifest: &[u8]) -> Delta {
    let seeds: Vec<Arc<Tree>> = files
        .files
        .iter()
        .map(|file| Arc::new(describe(file, true).0))
        .collect();
    let mut descent = Descent::new(tree.layout(), tree.root(), seeds);
    let mut delta = Delta {
        manifest_read: 0,
        fetched: 0,
        refused: 0,
        holes: 0,
    };
    let mut finds = descent.take_finds();
    while !descent.is_done() {
        let wants = descent.wants();
        assert!(wants.is_sorted_by_key(|want| want.start));
        for want in wants {
            delta.manifest_read += want.length();
            descent
                .give(want, &manifest[want.start as usize..want.end as usize])
                .unwrap();
        }
        descent.advance(files);
        finds.extend(descent.take_finds());
    }
    let geometry = *tree.geometry();
    let leaves = Leaves::new(geometry, tree.leaves().to_vec());
    let mut result: Vec<Option<Vec<u8>>> = vec![None; geometry.blocks() as usize];
    let of_new = |bytes: ByteRange| new[bytes.start as usize..bytes.end as usize].to_vec();
    let mut of = |from: Source, bytes: ByteRange| {
        let mut found = vec![0; bytes.length() as usize];
        if let Source::Seed(shift) = from {
            assert!(files.read(
                shift.seed,
                bytes.start.checked_add_signed(shift.by).unwrap(),
                &mut found
            ));
        }
        found
    };
    let mut put = |block: BlockIndex, bytes: Vec<u8>| {
        assert!(
            result[block.0 as usize].replace(bytes).is_none(),
            "block {block} was found twice"
        );
    };
    for find in finds {
        match find {
            Find::Whole { blocks, from, .. } => {
                for block in blocks.iter() {
                    let bytes = of(from, geometry.bytes_of(block));
                    judge::verify(&leaves, block, &bytes).expect("what was found whole was hashed");
                    delta.holes += u32::from(from == Source::Zeros);
                    put(block, bytes);
                }
            }
            Find::Patched { block, parts } => {
                let mut bytes = Vec::new();
                for part in parts {
                    assert_eq!(
                        part.bytes.start,
                        geometry.bytes_of(block).start + bytes.len() as u64
                    );
                    delta.fetched += if part.from.is_none() {
                        part.bytes.length()
                    } else {
                        0
                    };
                    bytes.extend(
                        part.from
                            .map_or_else(|| of_new(part.bytes), |from| of(from, part.bytes)),
                    );
                }
                if judge::verify(&leaves, block, &bytes).is_err() {
                    delta.refused += 1;
                    delta.fetched += geometry.bytes_of(block).length();
                    bytes = of_new(geometry.bytes_of(block));
                }
                put(block, bytes);
            }
            Find::Missing { blocks } => {
                for block in blocks.iter() {
                    delta.fetched += geometry.bytes_of(block).length();
                    put(block, of_new(geometry.bytes_of(block)));
                }
            }
        }
    }
    let result: Vec<u8> = result
        .into_iter()
        .flat_map(|block| block.expect("every block is found out about"))
        .collect();
    assert!(result == new, "the result is another object");
    // Only a node at the right edge may have one child and so the bytes of another node.
    assert!(
        files
            .hashed_twice
            .iter()
            .all(|end| *end == geometry.length()),
        "hashed twice up to {:?}",
        files.hashed_twice
    );
    // Each level may be hashed once for each place that is tried.
    let places = (PLACES_MAX + 8) as u64
        * u64::from(geometry.levels() + 1)
        * files.files.len().max(1) as u64;
    assert!(
        files.bytes_hashed <= places * geometry.length(),
        "{} bytes hashed",
        files.bytes_hashed
    );
    delta
}

fn check(new: &[u8], olds: &[&[u8]]) -> Delta {
    let (tree, manifest) = describe(new, true);
    let mut files = Files {
        files: olds.iter().map(|old| old.to_vec()).collect(),
        ..Files::default()
    };
    delta(new, &mut files, &tree, &manifest)
}

#[test]
fn an_unchanged_object_needs_nothing() {
    for length in [0, 1, 63, 64, B, B + 1, 3 * B] {
        let object = paint::bytes(0, length);
        let found = check(&object, &[&[], &object]);
        assert_eq!((found.manifest_read, found.fetched), (0, 0), "{length}");
    }
}

#[test]
fn nothing_at_hand_fetches_all() {
    for length in [1, 64, B, 2 * B + 1] {
        let object = paint::bytes(0, length);
        for olds in [
            &[][..],
            &[&[][..]],
            &[&[1][..], &object[..length / 2][..length / 4]],
        ] {
            assert!(
                check(&object, olds).fetched >= length as u64 / 2,
                "{length}"
            );
        }
    }
}

#[test]
fn sixty_five_bytes_in_front_cost_one_piece() {
    for blocks in [4, 300] {
        let old = paint::bytes(0, blocks * B + 77);
        let new = [&[9; 65], &old[..]].concat();
        let found = check(&new, &[&old]);
        assert_eq!(found.fetched, 1024);
        // The top group, the first page and the pieces of one block.
        assert!(found.manifest_read <= 2 * 48 + 256 * 40 + 32, "{found:?}");
        let found = check(&old, &[&new]);
        assert_eq!(found.fetched, 0);
    }
}

#[test]
fn an_object_that_lost_its_end_needs_the_top_group_only() {
    let old = paint::bytes(0, 300 * B);
    let found = check(&old[..300 * B - 100], &[&old]);
    assert_eq!((found.manifest_read, found.fetched), (2 * 48, 0));
}

#[test]
fn without_a_matching_window_nothing_is_hashed() {
    let new = paint::bytes(0, 300 * B);
    let (tree, manifest) = describe(&new, true);
    let mut files = Files {
        files: vec![paint::bytes(1 << 40, 300 * B + 8)],
        ..Files::default()
    };
    assert!(delta(&new, &mut files, &tree, &manifest).fetched >= 299 * B as u64);
    assert_eq!(files.bytes_hashed, 0);
}

#[test]
fn a_changed_byte_costs_one_piece() {
    let old = paint::bytes(0, 600 * B);
    for place in [0, 5 * B + 1023, 256 * B, 600 * B - 1] {
        let mut new = old.clone();
        new[place] ^= 1;
        let found = check(&new, &[&old]);
        assert_eq!(found.fetched, 1024);
        assert!(found.manifest_read <= 3 * 48 + 256 * 40 + 32, "{found:?}");
    }
}

#[test]
fn a_page_that_moved_after_all_gets_its_anchors() {
    // The smallest anchor of the first page stays at its place, and most of the rest moves by shifts of its own.
    let old = paint::bytes(0, 520 * B);
    let anchor = describe(&old, true).0.levels()[0].anchors[0].place as usize / B * B;
    let (mut new, mut at) = (Vec::new(), 0);
    for (number, part) in old.chunks(3 * B).enumerate() {
        let stays = (at..at + part.len()).contains(&anchor) || at > 300 * B;
        match stays {
            true => new.extend_from_slice(part),
            // The same length, or what stays would move too.
            false => new.extend([&part[number..], &part[..number]].concat()),
        }
        at += part.len();
    }
    let found = check(&new, &[&old]);
    assert!(found.fetched <= 100 * 3 * 1024, "{found:?}");
    // The top group, both pages, and the pieces of at most half of their blocks.
    assert!(
        found.manifest_read <= 3 * 48 + 512 * 40 + 256 * 32,
        "{found:?}"
    );
}

#[test]
fn parts_that_changed_places_are_found() {
    let old = paint::bytes(0, 40 * B);
    let (a, rest) = old.split_at(7 * B + 300);
    let (b, c) = rest.split_at(13 * B + 11);
    let found = check(&[c, a, b].concat(), &[&old]);
    assert!(found.fetched <= 4 * 1024, "{found:?}");
    // The same from two seeds.
    let found = check(&[c, a, b].concat(), &[&[a, b].concat(), c]);
    assert!(found.fetched <= 4 * 1024, "{found:?}");
}

#[test]
fn a_frame_between_two_known_ones_is_found_byte_by_byte() {
    // As in a remux: every 5 KiB seven new bytes, so that most blocks hold stretches at three or four shifts.
    let old = paint::bytes(0, 30 * B);
    let new: Vec<u8> = old
        .chunks(5 * 1024)
        .flat_map(|frame| [&[7; 7][..], frame].concat())
        .collect();
    let found = check(&new, &[&old]);
    let frames = old.len() / (5 * 1024);
    assert!(found.fetched <= frames as u64 * 1024 * 3 / 2, "{found:?}");
}

#[test]
fn zeros_are_holes() {
    let mut new = vec![0; 520 * B];
    new[400 * B + 5] = 1;
    let found = check(&new, &[]);
    assert_eq!((found.fetched, found.holes), (1024, 519));
    let found = check(&[0; 70], &[]);
    assert_eq!((found.fetched, found.holes), (0, 1));
}

#[test]
fn without_hints_whole_blocks_are_found() {
    let old = paint::bytes(0, 20 * B);
    let mut new = old.clone();
    new[9 * B] ^= 1;
    let (tree, manifest) = describe(&new, false);
    let mut files = Files {
        files: vec![old],
        ..Files::default()
    };
    assert_eq!(delta(&new, &mut files, &tree, &manifest).fetched, B as u64);
}

#[test]
fn when_the_time_is_up_the_rest_is_missing() {
    let old = paint::bytes(0, 300 * B);
    let new: Vec<u8> = old
        .chunks(3 * B)
        .flat_map(|part| [part, &[5]].concat())
        .collect();
    let (tree, manifest) = describe(&new, true);
    let mut last = u64::MAX;
    for patience in [1, 2, 50, 150, 300, 100_000] {
        let mut files = Files {
            files: vec![old.clone()],
            patience: Some(patience),
            ..Files::default()
        };
        let fetched = delta(&new, &mut files, &tree, &manifest).fetched;
        assert!(fetched <= last, "{patience}");
        last = fetched;
    }
    assert!(last < new.len() as u64 / 10);
}

#[test]
fn a_group_that_does_not_prove_is_refused() {
    let new = paint::bytes(0, 300 * B);
    let (tree, mut manifest) = describe(&new, true);
    for level in [1, 0] {
        let group = tree.layout().group(level, 0).bytes;
        manifest[group.start as usize] ^= 1;
        let mut descent = Descent::new(tree.layout(), tree.root(), Vec::new());
        let refused = loop {
            let want = descent.wants()[0];
            if let Err(refused) =
                descent.give(want, &manifest[want.start as usize..want.end as usize])
            {
                break refused;
            }
            for want in descent.wants() {
                descent
                    .give(want, &manifest[want.start as usize..want.end as usize])
                    .unwrap();
            }
            descent.advance(&mut Files::default());
        };
        assert_eq!(refused, Refused::Tree { level, index: 0 });
        manifest[group.start as usize] ^= 1;
    }
}

/// Makes every block differ from what a seed that repeats itself holds everywhere.
#[test]
fn content_that_is_everywhere_costs_linear_time() {
    for period in [1usize, 7, 64, 1024] {
        let old: Vec<u8> = (0..600 * B)
            .map(|at| ((at % period) as u8).wrapping_add(1))
            .collect();
        let mut new = old.clone();
        new.iter_mut().step_by(B).for_each(|byte| *byte ^= 0x80);
        let found = check(&new, &[&old]);
        assert!(found.fetched <= 600 * 1024, "{period}: {found:?}");
    }
}

/// Replaces all hints in a manifest by what `lie` makes of them, eight bytes at a time.
fn with_lies(tree: &Tree, manifest: &[u8], mut lie: impl FnMut(u64) -> u64) -> Vec<u8> {
    let mut lying = manifest.to_vec();
    let layout = tree.layout();
    let mut replace = |bytes: ByteRange| {
        for word in lying[bytes.start as usize..bytes.end as usize].chunks_exact_mut(8) {
            let told = lie(u64::from_le_bytes(word.try_into().unwrap()));
            word.copy_from_slice(&told.to_le_bytes());
        }
    };
    for level in 0..=tree.geometry().levels() {
        for index in 0..layout.groups(level) {
            let group = layout.group(level, index);
            replace(ByteRange::new(
                group.bytes.start + u64::from(group.count) * 32,
                group.bytes.end,
            ));
        }
    }
    replace(layout.pieces());
    lying
}

#[test]
fn lies_cost_bounded_work() {
    let old = paint::bytes(0, 300 * B);
    let new = [&[1; 100], &old[..]].concat();
    let (tree, manifest) = describe(&new, true);
    let known = describe(&old, true).0.anchors()[17].0;
    let lies: [&dyn Fn(u64) -> u64; 5] = [
        &|_| 0,
        &|_| u64::MAX,
        &|told| told ^ 1,
        &|_| known,
        &|told| told.rotate_left(9),
    ];
    for lie in lies {
        let lying = with_lies(&tree, &manifest, lie);
        let mut files = Files {
            files: vec![old.clone()],
            ..Files::default()
        };
        delta(&new, &mut files, &tree, &lying);
        let most = 40 * new.len() as u64;
        assert!(
            files.bytes_read + files.bytes_hashed < most,
            "{} read, {} hashed",
            files.bytes_read,
            files.bytes_hashed
        );
    }
}

/// One change that makes a new version of an old one.
#[derive(Clone, Debug)]
enum Edit {
    Insert {
        at: usize,
        bytes: usize,
    },
    Remove {
        at: usize,
        bytes: usize,
    },
    Overwrite {
        at: usize,
        bytes: usize,
        with: u8,
    },
    Move {
        from: usize,
        bytes: usize,
        to: usize,
    },
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let place = 0..400_000usize;
    let bytes = prop_oneof![1..100usize, 1000..5000usize, 10_000..60_000usize];
    let edit = prop_oneof![
        (place.clone(), bytes.clone()).prop_map(|(at, bytes)| Edit::Insert { at, bytes }),
        (place.clone(), bytes.clone()).prop_map(|(at, bytes)| Edit::Remove { at, bytes }),
        (place.clone(), bytes.clone(), 0..3u8).prop_map(|(at, bytes, with)| Edit::Overwrite {
            at,
            bytes,
            with
        }),
        (place.clone(), bytes, place).prop_map(|(from, bytes, to)| Edit::Move { from, bytes, to }),
    ];
    prop::collection::vec(edit, 0..6)
}

fn edited(old: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut new = old.to_vec();
    for edit in edits {
        let part =
            |at: usize, bytes: usize, new: &Vec<u8>| at.min(new.len())..(at + bytes).min(new.len());
        match *edit {
            Edit::Insert { at, bytes } => {
                let at = at.min(new.len());
                new.splice(at..at, paint::bytes(1 << 40, bytes));
            }
            Edit::Remove { at, bytes } => drop(new.drain(part(at, bytes, &new))),
            Edit::Overwrite { at, bytes, with } => {
                let range = part(at, bytes, &new);
                new[range].fill(with);
            }
            Edit::Move { from, bytes, to } => {
                let taken: Vec<u8> = new.drain(part(from, bytes, &new)).collect();
                let to = to.min(new.len());
                new.splice(to..to, taken);
            }
        }
    }
    new
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn few_edits_cost_little(edits in edits(), length in 0..400_000usize) {
        let old = paint::bytes(0, length);
        let new = edited(&old, &edits);
        let inserted: usize = edits.iter().map(|edit| match edit {
            Edit::Insert { bytes, .. } => *bytes,
            // A part that moved may be too short for an anchor of its own, or for both its blocks.
            Edit::Move { bytes, .. } => (*bytes).min(3 * B),
            Edit::Overwrite { bytes, with: 1.., .. } => *bytes,
            _ => 0,
        }).sum();
        let found = check(&new, &[&old]);
        // Each edit has two ends, and what lies around them may be shorter than a block.
        prop_assert!(found.fetched <= (inserted + edits.len() * 4 * B) as u64, "{:?} {:?}", found, edits);
    }

    #[test]
    fn whatever_the_hints_say_the_result_is_right(
        edits in edits(),
        lies in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>()), 0..40),
        other in any::<bool>(),
    ) {
        let old = paint::bytes(0, 300_000);
        let new = edited(&old, &edits);
        let (tree, manifest) = describe(&new, true);
        let words = tree.layout().pieces().end as usize / 8;
        let mut at = 0;
        let lies: Vec<(usize, u64)> = lies.iter().map(|(index, lie)| (index.index(words), *lie)).collect();
        let manifest = with_lies(&tree, &manifest, |told| {
            at += 1;
            lies.iter().find(|(place, _)| at % place.max(&1) == 0).map_or(told, |(_, lie)| *lie)
        });
        let seeds = if other { vec![paint::bytes(8, 100_000), old] } else { vec![old] };
        delta(&new, &mut Files { files: seeds, ..Files::default() }, &tree, &manifest);
    }
}

#[test]
fn of_a_refused_block_the_doubtful_parts_are_fetched_first() {
    let seed = |by| {
        Some(Source::Seed(Shift {
            seed: SeedIndex(0),
            by,
        }))
    };
    let parts = |froms: &[(u64, Option<Source>)]| -> Vec<Part> {
        let mut at = 0;
        let mut part = |(pieces, from): &(u64, Option<Source>)| {
            let bytes = ByteRange::new(at * 1024, (at + pieces) * 1024);
            at += pieces;
            Part { bytes, from: *from }
        };
        froms.iter().map(&mut part).collect()
    };
    let block = parts(&[
        (9, seed(0)),
        (1, None),
        (2, seed(5)),
        (7, seed(9)),
        (1, seed(0)),
    ]);
    let first = without_doubtful(&block).unwrap();
    assert_eq!(
        first,
        parts(&[
            (9, seed(0)),
            (1, None),
            (2, None),
            (7, seed(9)),
            (1, seed(0))
        ])
    );
    let second = without_doubtful(&first).unwrap();
    assert_eq!(
        second,
        parts(&[(9, seed(0)), (1, None), (2, None), (7, None), (1, seed(0))])
    );
    assert_eq!(without_doubtful(&second), None);
}
