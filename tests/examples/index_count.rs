//! Fills the index over contents and looks things up in it: `index_count FOLDER [--blocks N]`.
//!
//! Objects of 10,000 blocks of 64 KiB, as far as the index can tell: leaves and anchors are made up, with hashes that are spread
//! as those of real blocks are. Then objects are looked up that share one run of blocks with one of them, by what their
//! manifests tell first (the anchors of nodes) and by a sample of all their anchors, as a whole manifest gives. An index with
//! every anchor would find all of them. Prints one line of JSON.

use std::{path::PathBuf, time::Instant};

use sapwood::{
    disk::{
        files::Stamp,
        state::{Adopted, Allowed, Provenance, State, Wanted},
    },
    format::{
        anchors::{BlockAnchor, Tag},
        geometry::{BlockSize, Geometry},
        manifest::Tree,
        tree::Cv,
    },
    policy::samples,
};

const BLOCKS_OF_OBJECT: u32 = 10_000;
/// Windows of a block of 64 KiB: its anchor is the smallest of so many hashes.
const WINDOWS: f64 = 65_536.0;
const RUNS: [u32; 5] = [16, 64, 256, 512, 1024];
const LOOK_UPS: u32 = 200;
const SEEDS: usize = 16;

type Failure = Box<dyn std::error::Error>;

/// A block by what is in it: the same number is the same content.
#[derive(Clone, Copy)]
struct Content(u64);

impl Content {
    fn hash(self, what: &str) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(what.as_bytes()).update(&self.0.to_le_bytes());
        *hasher.finalize().as_bytes()
    }

    fn number(self, what: &str) -> u64 {
        let hash = self.hash(what);
        u64::from_le_bytes(*hash.first_chunk().expect("it has 32 bytes"))
    }

    fn anchor(self) -> BlockAnchor {
        // The smallest of many even numbers is spread exponentially.
        let even = (self.number("anchor") >> 11) as f64 / (1u64 << 53) as f64;
        let smallest = -(1.0 - even).ln() / WINDOWS * u64::MAX as f64;
        BlockAnchor::new(Tag::of(smallest as u64), (self.0 % 60_000) as u32)
    }
}

/// An object whose blocks are its own, but for a run that another one has too.
fn object(number: u32, run: Option<(u32, u32, u32, u32)>) -> Tree {
    let length = u64::from(BLOCKS_OF_OBJECT) * BlockSize::DEFAULT.bytes();
    let geometry = Geometry::new(length, BlockSize::DEFAULT).expect("few blocks");
    let content = |block: u32| match run {
        Some((other, theirs, ours, count)) if (ours..ours + count).contains(&block) => {
            Content(u64::from(other) << 32 | u64::from(theirs + block - ours))
        }
        _ => Content(u64::from(number) << 32 | u64::from(block)),
    };
    let leaves: Vec<Cv> = (0..BLOCKS_OF_OBJECT)
        .map(|block| content(block).hash("leaf"))
        .collect();
    let anchors = (0..BLOCKS_OF_OBJECT)
        .map(|block| content(block).anchor())
        .collect();
    Tree::new(geometry, leaves, Some(anchors))
}

fn adopt(state: &mut State, number: u32, tree: &Tree) -> Result<(), Failure> {
    let stamp = Stamp {
        device: 1,
        inode: u64::from(number),
        length: tree.geometry().length(),
        changed: (1, 0),
    };
    let adopted = Adopted {
        path: PathBuf::from(format!("/films/{number}")),
        stamp,
        provenance: Provenance::default(),
        at: u64::from(number),
    };
    Ok(state.adopt(&adopted, tree)?)
}

/// Whether the holding with the run is among those that would be looked at.
fn is_found(state: &State, tree: &Tree, tags: Vec<Tag>, other: u32) -> Result<bool, Failure> {
    let wanted = Wanted {
        root: tree.root(),
        url: None,
        tags,
    };
    let all = Allowed {
        all: true,
        ..Allowed::default()
    };
    let found = state.candidates(&all, &wanted, SEEDS)?;
    let path = PathBuf::from(format!("/films/{other}"));
    Ok(found
        .iter()
        .any(|one| one.holding.path == path && one.merit.hits > 0))
}

fn main() -> Result<(), Failure> {
    let (mut folder, mut blocks) = (None, 10_000_000u32);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--blocks" => blocks = arguments.next().ok_or("a number is missing")?.parse()?,
            "--version" => {
                println!("index_count {}", env!("CARGO_PKG_VERSION"));
                return Ok(());
            }
            _ => folder = Some(PathBuf::from(argument)),
        }
    }
    let folder = folder.ok_or("usage: index_count FOLDER [--blocks N]")?;
    let mut state = State::open(&folder)?;
    let objects = (blocks / BLOCKS_OF_OBJECT).max(2);
    let mut inserting = std::time::Duration::ZERO;
    for number in 0..objects {
        let tree = object(number, None);
        let began = Instant::now();
        adopt(&mut state, number, &tree)?;
        inserting += began.elapsed();
    }
    let (mut looking, mut looked_up) = (std::time::Duration::ZERO, 0u32);
    let mut recalls = Vec::new();
    for run in RUNS {
        let (mut by_nodes, mut by_sample) = (0, 0);
        for number in 0..LOOK_UPS {
            let random = |what| Content(u64::from(run) << 32 | u64::from(number)).number(what);
            let other = (random("other") % u64::from(objects)) as u32;
            let place = |what| (random(what) % u64::from(BLOCKS_OF_OBJECT - run)) as u32;
            let shared = (other, place("theirs"), place("ours"), run);
            let tree = object(objects + number, Some(shared));
            let nodes = samples::of_nodes(tree.levels()[0].anchors.iter().copied());
            let sample = samples::sampled(tree.anchors());
            let began = Instant::now();
            by_nodes += u32::from(is_found(&state, &tree, nodes, other)?);
            by_sample += u32::from(is_found(&state, &tree, sample, other)?);
            looking += began.elapsed();
            looked_up += 2;
        }
        let percent = |found: u32| f64::from(found) * 100.0 / f64::from(LOOK_UPS);
        recalls.push(format!(
            "{:?}: [{:.1}, {:.1}]",
            run.to_string(),
            percent(by_nodes),
            percent(by_sample)
        ));
    }
    let indexed = f64::from(objects * BLOCKS_OF_OBJECT);
    let figures = [
        ("blocks", indexed),
        ("samples", state.samples()? as f64),
        ("inserted_a_second", indexed / inserting.as_secs_f64()),
        (
            "looked_up_a_second",
            f64::from(looked_up) / looking.as_secs_f64(),
        ),
        ("bytes_a_block", state.bytes()? as f64 / indexed),
        ("peak_bytes", peak_bytes()? as f64),
    ];
    let figures: Vec<String> = figures
        .iter()
        .map(|(name, figure)| format!("{name:?}: {figure:.1}"))
        .collect();
    // Of each length of a run: the percentage that was found by nodes, and by a sample of all anchors.
    println!(
        "{{{}, \"recall\": {{{}}}}}",
        figures.join(", "),
        recalls.join(", ")
    );
    Ok(())
}

/// The most memory that this process had.
fn peak_bytes() -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: u64 = line
        .and_then(|line| line.split_whitespace().next())
        .ok_or("the kernel does not tell")?
        .parse()?;
    Ok(kib * 1024)
}
