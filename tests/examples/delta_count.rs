//! Counts what a delta would move: `delta_count OLD NEW [--block-size BYTES] [--gap BYTES]`.
//!
//! Describes both files, descends in the manifest of NEW with OLD as the only seed, puts NEW together as a fetch would, judges every
//! block, and prints one line of JSON. Nothing goes over a network: a range that is read of the new manifest or of NEW counts as moved.
//! Ranges with gaps below `--gap` between them are taken as one, gap included. `bodies` are the bytes of all these ranges;
//! `with_headers` adds what nginx sends around them: 250 bytes an answer, and 120 for each part of one that has several.

use std::{
    collections::BTreeMap,
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use sapwood::{
    format::{
        anchors,
        geometry::{BlockIndex, BlockRange, BlockSize, ByteRange, Geometry},
        judge::{self, Leaves},
        layout::{FRONT_BYTES, Layout},
        manifest::{self, Particulars, Tree},
        pieces,
        tree::{self, Cv, PartHasher},
    },
    policy::descent::{Descent, Find, Local, Part, SeedIndex, Source, without_doubtful},
};

/// What nginx sends around one answer, and around each part of an answer with several ranges.
const ANSWER_BYTES: u64 = 250;
const PART_BYTES: u64 = 120;
/// Ranges that go as one request.
const PARTS_MAX: usize = 100;

/// Gaps that are read along: a part of an answer costs as much.
const GAP: u64 = 128;

type Failure = Box<dyn std::error::Error>;

/// The old file, and what was done with it.
struct OldFile {
    file: File,
    windows: u64,
    bytes_read: u64,
    hashes: u64,
    bytes_hashed: u64,
}

impl Local for OldFile {
    fn read(&mut self, _: SeedIndex, place: u64, into: &mut [u8]) -> bool {
        self.windows += u64::from(into.len() == 64);
        self.bytes_read += into.len() as u64;
        self.file.read_exact_at(into, place).is_ok()
    }

    fn value(&mut self, _: SeedIndex, bytes: ByteRange, offset: u64, root: bool) -> Option<Cv> {
        self.hashes += 1;
        self.bytes_hashed += bytes.length();
        let mut hasher = PartHasher::new(offset);
        let mut buffer = vec![0; 256 * 1024];
        let mut at = bytes.start;
        while at < bytes.end {
            let count = (bytes.end - at).min(buffer.len() as u64) as usize;
            self.file.read_exact_at(&mut buffer[..count], at).ok()?;
            hasher.update(&buffer[..count]);
            at += count as u64;
        }
        Some(if root {
            hasher.root().0
        } else {
            hasher.value()
        })
    }
}

/// Bytes moved in one exchange.
#[derive(Default)]
struct Moved {
    bodies: u64,
    ranges: u64,
    requests: u64,
}

impl Moved {
    /// Counts these ascending ranges as one exchange.
    fn add(&mut self, ranges: &[ByteRange], gap: u64) {
        let mut merged: Vec<ByteRange> = Vec::new();
        for range in ranges {
            match merged.last_mut() {
                Some(last) if range.start <= last.end + gap => last.end = range.end,
                _ => merged.push(*range),
            }
        }
        self.bodies += merged.iter().map(|range| range.length()).sum::<u64>();
        self.ranges += merged.len() as u64;
        self.requests += merged.len().div_ceil(PARTS_MAX) as u64;
    }

    fn with_headers(&self) -> u64 {
        let parts = if self.ranges > self.requests {
            self.ranges
        } else {
            0
        };
        self.bodies + self.requests * ANSWER_BYTES + parts * PART_BYTES
    }
}

fn main() -> Result<(), Failure> {
    let mut paths: Vec<PathBuf> = Vec::new();
    let (mut block_size, mut gap) = (BlockSize::DEFAULT, GAP);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || -> Result<u64, Failure> {
            Ok(arguments.next().ok_or("a number is missing")?.parse()?)
        };
        match argument.as_str() {
            "--block-size" => block_size = BlockSize::new(number()?).ok_or("no block size")?,
            "--gap" => gap = number()?,
            "--version" => {
                println!("delta_count {}", env!("CARGO_PKG_VERSION"));
                return Ok(());
            }
            _ => paths.push(argument.into()),
        }
    }
    let [old, new] = paths.as_slice() else {
        return Err("usage: delta_count OLD NEW".into());
    };
    let (old_tree, _) = describe(old, block_size)?;
    let (new_tree, manifest) = describe(new, block_size)?;
    count(old, &old_tree, new, &new_tree, &manifest, gap)
}

/// The tree of a file and the bytes of its manifest.
fn describe(path: &Path, block_size: BlockSize) -> Result<(Tree, Vec<u8>), Failure> {
    let file = File::open(path)?;
    let geometry = Geometry::new(file.metadata()?.len(), block_size).ok_or("too many blocks")?;
    let (mut leaves, mut anchors, mut checks) = (Vec::new(), Vec::new(), Vec::new());
    let mut buffer = vec![0; block_size.bytes() as usize];
    for block in geometry.all().iter() {
        let place = geometry.bytes_of(block);
        let bytes = &mut buffer[..place.length() as usize];
        file.read_exact_at(bytes, place.start)?;
        leaves.push(tree::leaf_of(&geometry, block, bytes));
        anchors.push(anchors::anchor_of(bytes));
        pieces::append_pieces(bytes, &mut checks);
    }
    let tree = Tree::new(geometry, leaves, Some(anchors));
    let manifest = manifest::to_bytes(&tree, Some(&checks), Particulars::default());
    Ok((tree, manifest))
}

fn count(
    old: &Path,
    old_tree: &Tree,
    new: &Path,
    tree: &Tree,
    manifest: &[u8],
    gap: u64,
) -> Result<(), Failure> {
    let layout = tree.layout();
    let mut local = OldFile {
        file: File::open(old)?,
        windows: 0,
        bytes_read: 0,
        hashes: 0,
        bytes_hashed: 0,
    };
    let new = File::open(new)?;
    let mut moved: BTreeMap<&str, Moved> = BTreeMap::new();
    moved
        .entry("front")
        .or_default()
        .add(&[ByteRange::new(0, FRONT_BYTES as u64)], 0);

    let started = Instant::now();
    let mut descent = Descent::new(layout, tree.root(), vec![Arc::new(old_tree.clone())]);
    let mut finds = Vec::new();
    while !descent.is_done() {
        let wants = descent.wants();
        for want in &wants {
            descent.give(*want, &manifest[want.start as usize..want.end as usize])?;
        }
        if let Some(first) = wants.first() {
            moved
                .entry(section(&layout, *first))
                .or_default()
                .add(&wants, gap);
        }
        descent.advance(&mut local);
        finds.append(&mut descent.take_finds());
    }
    finds.append(&mut descent.take_finds());
    let milliseconds = started.elapsed().as_millis() as u64;

    let landed = land(&finds, tree, &mut local.file, &new)?;
    moved.entry("object").or_default().add(&landed.fetched, gap);
    moved
        .entry("refused")
        .or_default()
        .add(&landed.refetched, gap);
    let sum = |of: fn(&Moved) -> u64| moved.values().map(of).sum::<u64>();
    let kinds: Vec<String> = moved
        .iter()
        .map(|(kind, moved)| format!("{kind:?}: {}", moved.bodies))
        .collect();
    let figures = [
        ("bodies", sum(|moved| moved.bodies)),
        ("with_headers", sum(Moved::with_headers)),
        ("requests", sum(|moved| moved.requests)),
        ("ranges", sum(|moved| moved.ranges)),
        ("whole_blocks", landed.whole),
        ("patched_blocks", landed.patched),
        ("missing_blocks", landed.missing),
        ("refused_blocks", landed.refused),
        ("windows", local.windows),
        ("hashes", local.hashes),
        ("hashed_bytes", local.bytes_hashed),
        ("read_bytes", local.bytes_read),
        ("descent_ms", milliseconds),
    ];
    let figures: Vec<String> = figures
        .iter()
        .map(|(name, figure)| format!("{name:?}: {figure}"))
        .collect();
    println!(
        "{{{}, \"kinds\": {{{}}}}}",
        figures.join(", "),
        kinds.join(", ")
    );
    Ok(())
}

fn section(layout: &Layout, range: ByteRange) -> &'static str {
    if range.start >= layout.pieces().start && layout.hints {
        "pieces"
    } else if range.start >= layout.pages().start {
        "pages"
    } else {
        "tree"
    }
}

/// What putting the object together took.
#[derive(Default)]
struct Landed {
    fetched: Vec<ByteRange>,
    /// Bytes of patched blocks that were taken from here and refused.
    refetched: Vec<ByteRange>,
    whole: u64,
    patched: u64,
    missing: u64,
    refused: u64,
}

fn land(finds: &[Find], tree: &Tree, old: &mut File, new: &File) -> Result<Landed, Failure> {
    let geometry = *tree.geometry();
    let leaves = Leaves::new(geometry, tree.leaves().to_vec());
    let mut landed = Landed::default();
    let mut seen = vec![false; geometry.blocks() as usize];
    let mut see = |blocks: BlockRange| {
        blocks
            .iter()
            .all(|block| !std::mem::replace(&mut seen[block.0 as usize], true))
            .then_some(())
            .ok_or("found twice")
    };
    let read_old = |from: Source, bytes: ByteRange| -> Result<Vec<u8>, Failure> {
        let mut found = vec![0; bytes.length() as usize];
        if let Source::Seed(shift) = from {
            old.read_exact_at(
                &mut found,
                bytes
                    .start
                    .checked_add_signed(shift.by)
                    .ok_or("before the seed")?,
            )?;
        }
        Ok(found)
    };
    for find in finds {
        match find {
            Find::Whole { blocks, from, .. } => {
                see(*blocks)?;
                for block in blocks.iter() {
                    let bytes = read_old(*from, geometry.bytes_of(block))?;
                    judge::verify(&leaves, block, &bytes)
                        .map_err(|_| format!("block {block} is not whole"))?;
                }
                landed.whole += u64::from(blocks.count());
            }
            Find::Patched { block, parts } => {
                see(BlockRange::one(*block))?;
                let mut bytes = Vec::new();
                for part in parts {
                    match part.from {
                        Some(from) => bytes.extend(read_old(from, part.bytes)?),
                        None => {
                            landed.fetched.push(part.bytes);
                            bytes.extend(read_new(new, part.bytes)?);
                        }
                    }
                }
                landed.patched += 1;
                let again = repair(&leaves, *block, bytes, parts, new)?;
                landed.refused += u64::from(!again.is_empty());
                landed.refetched.extend(again);
            }
            Find::Missing { blocks } => {
                see(*blocks)?;
                landed.missing += u64::from(blocks.count());
                landed.fetched.push(geometry.bytes_of_range(*blocks));
            }
        }
    }
    if let Some(block) = seen.iter().position(|seen| !seen) {
        return Err(format!("block {} was not found out about", BlockIndex(block as u32)).into());
    }
    landed.fetched.sort_by_key(|range| range.start);
    landed.refetched.sort_by_key(|range| range.start);
    Ok(landed)
}

/// What is fetched again of a block: doubtful parts until it verifies, all of it in the end.
fn repair(
    leaves: &Leaves,
    block: BlockIndex,
    mut bytes: Vec<u8>,
    parts: &[Part],
    new: &File,
) -> Result<Vec<ByteRange>, Failure> {
    let place = leaves.geometry().bytes_of(block);
    let (mut parts, mut fetched) = (parts.to_vec(), Vec::new());
    while judge::verify(leaves, block, &bytes).is_err() {
        let Some(retried) = without_doubtful(&parts) else {
            fetched = vec![place];
            break;
        };
        for (part, before) in retried.iter().zip(&parts) {
            if part.from != before.from {
                let within = (part.bytes.start - place.start) as usize
                    ..(part.bytes.end - place.start) as usize;
                bytes[within].copy_from_slice(&read_new(new, part.bytes)?);
                fetched.push(part.bytes);
            }
        }
        parts = retried;
    }
    Ok(fetched)
}

fn read_new(new: &File, bytes: ByteRange) -> Result<Vec<u8>, Failure> {
    let mut found = vec![0; bytes.length() as usize];
    new.read_exact_at(&mut found, bytes.start)?;
    Ok(found)
}
