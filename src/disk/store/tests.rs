//! The store as a whole.

use crate::{
    disk::state::Own,
    format::{
        anchors,
        blockset::BlockSet,
        geometry::{BlockIndex, BlockRange, BlockSize, Geometry},
        judge::{self, Leaves},
        paint, tree,
    },
    policy::samples,
};

use super::*;
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::PathBuf,
};
use tempfile::TempDir;

fn tree_of(bytes: &[u8], hints: bool) -> Tree {
    let geometry = Geometry::new(bytes.len() as u64, BlockSize::MIN).unwrap();
    let blocks = || bytes.chunks(BlockSize::MIN.bytes() as usize);
    let leaves = geometry.all().iter().zip(blocks());
    let leaves = leaves.map(|(block, bytes)| tree::leaf_of(&geometry, block, bytes));
    let anchors = hints.then(|| blocks().map(anchors::anchor_of).collect());
    Tree::new(geometry, leaves.collect(), anchors)
}

struct Scene {
    folder: TempDir,
    store: Store,
}

impl Scene {
    fn new() -> Scene {
        let folder = TempDir::new().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        Scene { folder, store }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    /// A file with this content, adopted as if it came from there.
    fn adopt(&mut self, name: &str, bytes: &[u8], url: &str, at: u64) -> Tree {
        fs::write(self.path(name), bytes).unwrap();
        let tree = tree_of(bytes, true);
        let provenance = Provenance {
            origin: url.rsplit_once('/').map(|(origin, _)| origin.to_owned()),
            url: Some(url.to_owned()),
            ..Provenance::default()
        };
        let path = self.path(name);
        assert!(self.store.adopt(&path, &tree, provenance, at).unwrap());
        tree
    }

    fn seeds(&mut self, allowed: &Allowed, wanted: &Wanted) -> Vec<String> {
        let seeds = self.store.seeds(allowed, wanted, 3).unwrap();
        let name = |seed: Seed| seed.holding.path.file_name().unwrap().to_owned();
        seeds
            .into_iter()
            .map(|seed| name(seed).into_string().unwrap())
            .collect()
    }
}

fn wanted(tree: &Tree, url: &str) -> Wanted {
    Wanted {
        root: tree.root(),
        url: Some(url.to_owned()),
        tags: samples::sampled(tree.anchors()),
    }
}

const MIB: usize = 1 << 20;

#[test]
fn what_is_adopted_is_found_again() {
    let mut scene = Scene::new();
    let (old, other) = (paint::bytes(0, MIB), paint::bytes(1 << 40, MIB));
    let tree = scene.adopt("old", &old, "http://a/film", 1);
    scene.adopt("other", &other, "http://a/other", 2);
    scene.adopt("elsewhere", &old[..MIB / 4 * 3], "http://b/film", 3);
    let new = tree_of(&[&old[..MIB / 4 * 3], &other[..MIB / 4]].concat(), true);
    let looked_for = wanted(&new, "http://a/film");
    let all = Allowed {
        all: true,
        ..Allowed::default()
    };
    let of_a = Allowed {
        origin: Some("http://a".to_owned()),
        ..Allowed::default()
    };
    let found = scene.seeds(&of_a, &looked_for);
    assert_eq!(found[0], "old", "the same URL first");
    assert!(
        !found.contains(&"elsewhere".to_owned()),
        "it came from another host"
    );
    assert!(
        scene
            .seeds(&all, &looked_for)
            .contains(&"elsewhere".to_owned())
    );
    assert_eq!(scene.seeds(&Allowed::default(), &looked_for), [""; 0]);
    // What shares nothing is not looked at, unless nobody can know.
    let strange = Wanted {
        url: None,
        ..wanted(&tree_of(&paint::bytes(1 << 41, MIB), true), "")
    };
    assert_eq!(scene.seeds(&all, &strange), [""; 0]);
    let unknown = Wanted {
        tags: Vec::new(),
        ..strange
    };
    assert_eq!(scene.seeds(&all, &unknown).len(), 3);
    // The object itself, wherever it came from, if that is allowed.
    let same = Allowed {
        same_object: true,
        ..Allowed::default()
    };
    let object = Wanted {
        root: tree.root(),
        ..unknown
    };
    assert_eq!(scene.seeds(&same, &object), ["old"]);
    let holding = scene
        .store
        .state
        .holding_at(&scene.path("old"))
        .unwrap()
        .unwrap();
    assert_eq!(scene.store.tree_of(&holding).unwrap(), Some(tree.clone()));
    assert_eq!(
        scene.store.tree_of_file(&holding.stamp).unwrap(),
        Some(tree)
    );
}

#[test]
fn anchors_that_are_made_later_are_kept() {
    let mut scene = Scene::new();
    let bytes = paint::bytes(0, MIB);
    fs::write(scene.path("file"), &bytes).unwrap();
    let (bare, full) = (tree_of(&bytes, false), tree_of(&bytes, true));
    let path = scene.path("file");
    scene.store.keep_anchors(&full).unwrap();
    assert_eq!(scene.store.state.holdings().unwrap(), []);
    scene
        .store
        .adopt(&path, &bare, Provenance::default(), 1)
        .unwrap();
    let holding = |scene: &Scene| scene.store.state.holding_at(&path).unwrap().unwrap();
    assert!(!holding(&scene).has_anchors);
    scene.store.keep_anchors(&full).unwrap();
    assert_eq!(
        scene.store.tree_of(&holding(&scene)).unwrap(),
        Some(full.clone())
    );
    let all = Allowed {
        all: true,
        ..Allowed::default()
    };
    let wanted = Wanted {
        root: tree_of(b"x", false).root(),
        ..wanted(&full, "")
    };
    assert_eq!(scene.seeds(&all, &wanted), ["file"]);
    // Adopted again without them, from another place: they stay, and so does where it came from.
    let url = Some("http://a/file".to_owned());
    let provenance = Provenance {
        url: url.clone(),
        ..Provenance::default()
    };
    scene.store.adopt(&path, &bare, provenance, 2).unwrap();
    scene
        .store
        .adopt(&path, &bare, Provenance::default(), 3)
        .unwrap();
    let noted = holding(&scene);
    assert!(noted.has_anchors && noted.used == 3);
    assert_eq!(noted.provenance.url, url);
    // Another object under that name is another holding.
    let other = tree_of(&bytes[1..], true);
    fs::write(&path, &bytes[1..]).unwrap();
    scene
        .store
        .adopt(&path, &other, Provenance::default(), 4)
        .unwrap();
    assert_eq!(holding(&scene).provenance, Provenance::default());
    assert_eq!(
        scene.seeds(&all, &wanted),
        ["file"],
        "it is like the other one"
    );
    scene.store.forget(&holding(&scene)).unwrap();
    assert_eq!(
        scene.seeds(&all, &wanted),
        [""; 0],
        "nothing is left of either"
    );
}

type Spoil = fn(&Path);

#[test]
fn what_is_not_what_it_was_is_forgotten() {
    let bytes = paint::bytes(0, MIB);
    let spoils: [(&str, Spoil); 6] = [
        ("removed", |path| fs::remove_file(path).unwrap()),
        ("written to", |path| {
            let mut bytes = fs::read(path).unwrap();
            bytes[7] ^= 1;
            fs::write(path, bytes).unwrap();
        }),
        ("replaced by a copy", |path| {
            let copy = path.with_extension("copy");
            fs::copy(path, &copy).unwrap();
            fs::rename(copy, path).unwrap();
        }),
        ("a link", |path| {
            let moved = path.with_extension("moved");
            fs::rename(path, &moved).unwrap();
            symlink(moved, path).unwrap();
        }),
        ("a folder", |path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
        ("a FIFO", |path| {
            fs::remove_file(path).unwrap();
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            let kind = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
        }),
    ];
    for (what, spoil) in spoils {
        let mut scene = Scene::new();
        let tree = scene.adopt("file", &bytes, "http://a/film", 1);
        let wanted = wanted(&tree, "http://a/film");
        let all = Allowed {
            all: true,
            ..Allowed::default()
        };
        assert_eq!(scene.seeds(&all, &wanted), ["file"], "{what}");
        spoil(&scene.path("file"));
        assert_eq!(scene.seeds(&all, &wanted), [""; 0], "{what}");
        assert_eq!(scene.store.state.holdings().unwrap(), [], "{what}");
    }
}

#[test]
fn a_link_in_the_path_is_not_followed() {
    let mut scene = Scene::new();
    fs::create_dir(scene.path("films")).unwrap();
    let tree = scene.adopt("films/film", &paint::bytes(0, MIB), "http://a/film", 1);
    fs::rename(scene.path("films"), scene.path("moved")).unwrap();
    symlink(scene.path("moved"), scene.path("films")).unwrap();
    let all = Allowed {
        all: true,
        ..Allowed::default()
    };
    assert_eq!(scene.seeds(&all, &wanted(&tree, "")), [""; 0]);
}

#[test]
fn files_that_are_not_the_object_are_not_adopted() {
    let mut scene = Scene::new();
    let tree = tree_of(&paint::bytes(0, MIB), false);
    fs::write(scene.path("short"), b"short").unwrap();
    symlink(scene.path("short"), scene.path("link")).unwrap();
    for name in ["short", "link", "missing", "."] {
        let path = scene.path(name);
        assert!(
            !scene
                .store
                .adopt(&path, &tree, Provenance::default(), 1)
                .unwrap(),
            "{name}"
        );
    }
}

// ---- own objects

const BLOCK: u64 = 16 << 10;

impl Scene {
    /// Streams these blocks of an object, as if they came from a network, and returns how many were here before.
    fn stream(&mut self, bytes: &[u8], blocks: BlockRange) -> u32 {
        let tree = tree_of(bytes, false);
        let geometry = *tree.geometry();
        let own = self
            .store
            .own_object(tree.root(), geometry, Provenance::default());
        let own = own.unwrap().expect("nobody else has it");
        let leaves = Leaves::new(geometry, tree.leaves().to_vec());
        let mut here = 0;
        for block in blocks.iter() {
            let place = geometry.bytes_of(block);
            let right = &bytes[place.start as usize..place.end as usize];
            if let Some(read) = own.read(&leaves, block, Reads::default()) {
                assert_eq!(read.chunks().concat(), right);
                here += 1;
                continue;
            }
            let proven = judge::prove(&leaves, block, right.to_vec()).unwrap();
            own.keep(&proven, &leaves).unwrap();
        }
        self.store.note_cached(&own).unwrap();
        here
    }

    fn object_path(&self, bytes: &[u8]) -> PathBuf {
        self.path("store/objects")
            .join(tree_of(bytes, false).root().to_string())
    }

    fn own_blocks(&self, bytes: &[u8]) -> Option<BlockSet> {
        let holding = self
            .store
            .state
            .holding_at(&self.object_path(bytes))
            .unwrap();
        holding.map(|holding| holding.blocks.expect("own objects list their blocks"))
    }

    fn collect(&mut self, most: Option<u64>) -> Vec<HoldingChange> {
        let mut change = Vec::new();
        self.store
            .collect(most, &mut |one| change.push(one))
            .unwrap();
        change
    }

    /// What the file takes on the disk.
    fn bytes_on_disk(&self, bytes: &[u8]) -> u64 {
        fs::metadata(self.object_path(bytes)).map_or(0, |file| file.blocks() * 512)
    }
}

#[test]
fn streamed_blocks_are_kept_and_judged() {
    let mut scene = Scene::new();
    let bytes = paint::bytes(0, 10 * BLOCK as usize + 99);
    assert_eq!(scene.stream(&bytes, BlockRange::new(2, 5)), 0);
    assert_eq!(scene.stream(&bytes, BlockRange::new(0, 11)), 3);
    assert_eq!(scene.stream(&bytes, BlockRange::new(0, 11)), 11);
    let holding = scene.store.state.own_objects().unwrap().remove(0);
    assert_eq!(holding.bytes, bytes.len() as u64);
    assert_eq!(
        scene.store.tree_of(&holding).unwrap(),
        Some(tree_of(&bytes, false))
    );
    let path = scene.object_path(&bytes);
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    // Damaged: not believed, and written anew.
    let mut damaged = fs::read(&path).unwrap();
    damaged[3 * BLOCK as usize] ^= 1;
    fs::write(&path, damaged).unwrap();
    assert_eq!(scene.stream(&bytes, BlockRange::new(0, 11)), 10);
    assert_eq!(scene.stream(&bytes, BlockRange::new(0, 11)), 11);
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn damage_is_found_and_taken_away() {
    let mut scene = Scene::new();
    let bytes = paint::bytes(0, 10 * BLOCK as usize);
    scene.stream(&bytes, BlockRange::new(1, 9));
    let path = scene.object_path(&bytes);
    let verify = |scene: &mut Scene| {
        let holding = scene.store.state.holding_at(&path).unwrap().unwrap();
        let mut damages = Vec::new();
        let sound = scene
            .store
            .verify_own(&holding, &mut |damage| damages.push(damage.block.0));
        (sound.unwrap(), damages)
    };
    assert_eq!(verify(&mut scene), (Some(true), vec![]));
    let mut damaged = fs::read(&path).unwrap();
    damaged[4 * BLOCK as usize + 5] ^= 0x10;
    fs::write(&path, damaged).unwrap();
    assert_eq!(verify(&mut scene), (Some(false), vec![4]));
    let mut left = BlockSet::empty(10);
    left.insert_range(BlockRange::new(1, 9));
    left.remove(BlockIndex(4));
    assert_eq!(scene.own_blocks(&bytes), Some(left));
    assert_eq!(verify(&mut scene), (Some(true), vec![]));
    // While somebody has it open nothing is taken away.
    let tree = tree_of(&bytes, false);
    let open = scene
        .store
        .own_object(tree.root(), *tree.geometry(), Provenance::default());
    let open = open.unwrap().unwrap();
    assert_eq!(verify(&mut scene).0, None);
    drop(open);
    assert_eq!(verify(&mut scene).0, Some(true));
}

#[test]
fn what_was_not_used_for_longest_goes_first() {
    let mut scene = Scene::new();
    let objects: Vec<Vec<u8>> = (0..3)
        .map(|i| paint::bytes(i << 40, 8 * BLOCK as usize))
        .collect();
    let all = BlockRange::new(0, 8);
    for bytes in &objects {
        scene.stream(bytes, all);
    }
    for (at, bytes) in [(30, &objects[0]), (10, &objects[1]), (20, &objects[2])] {
        let path = scene.object_path(bytes);
        let holding = scene.store.state.holding_at(&path).unwrap().unwrap();
        let mut noted = Own::of(&holding);
        noted.at = at;
        // Times only grow, so it is noted anew.
        let blocks = BlockSet::full(8);
        scene
            .store
            .state
            .set_own(&noted, &BlockSet::empty(8))
            .unwrap();
        scene.store.state.set_own(&noted, &blocks).unwrap();
    }
    let file = paint::bytes(7 << 40, 8 * BLOCK as usize);
    scene.adopt("mine", &file, "http://a/mine", 1);
    // What is open stays, whatever its age; so the next one gives.
    let tree = tree_of(&objects[1], false);
    let open = scene
        .store
        .own_object(tree.root(), *tree.geometry(), Provenance::default());
    let open = open.unwrap().unwrap();
    scene.store.evict(23 * BLOCK, &mut |_, _| ()).unwrap();
    assert_eq!(scene.own_blocks(&objects[1]), Some(BlockSet::full(8)));
    let mut seven = BlockSet::full(8);
    seven.remove(BlockIndex(7));
    assert_eq!(scene.own_blocks(&objects[2]), Some(seven));
    assert_eq!(scene.bytes_on_disk(&objects[2]), 7 * BLOCK);
    drop(open);
    // The rest of it, and then all that was used before the last one.
    assert_eq!(scene.collect(Some(8 * BLOCK)).len(), 2);
    assert_eq!(scene.store.state.own_bytes().unwrap(), 8 * BLOCK);
    assert!(!scene.object_path(&objects[2]).exists());
    scene.collect(Some(0));
    let left = fs::read_dir(scene.path("store/objects")).unwrap().count();
    assert_eq!(left, 0);
    assert_eq!(fs::read(scene.path("mine")).unwrap(), file);
    assert_eq!(scene.store.state.holdings().unwrap().len(), 1);
}

#[test]
fn a_lost_index_is_made_anew() {
    let mut scene = Scene::new();
    let bytes = paint::bytes(0, 10 * BLOCK as usize);
    scene.stream(&bytes, BlockRange::new(2, 7));
    let before = scene.own_blocks(&bytes);
    let folder = scene.path("store");
    let strange = "ab".repeat(32);
    fs::write(folder.join("objects").join(&strange), b"nobody knows what").unwrap();
    fs::write(folder.join("objects/notes.txt"), b"of the user").unwrap();
    drop(scene.store);
    for name in ["state.sqlite", "state.sqlite-wal", "state.sqlite-shm"] {
        let _ = fs::remove_file(folder.join(name));
    }
    scene.store = Store::open(&folder).unwrap();
    assert_eq!(scene.own_blocks(&bytes), before);
    assert!(!folder.join("objects").join(&strange).exists());
    assert!(
        folder.join("objects/notes.txt").exists(),
        "it has no name of ours"
    );
    assert_eq!(scene.stream(&bytes, BlockRange::new(0, 10)), 5);
}

#[test]
fn what_a_kill_left_is_brought_together() {
    let mut scene = Scene::new();
    let bytes = paint::bytes(0, 10 * BLOCK as usize);
    scene.stream(&bytes, BlockRange::new(0, 4));
    let path = scene.object_path(&bytes);
    // Claimed, and taken away since; and written, but not claimed: whole with its leaf, and in part.
    let holding = scene.store.state.holding_at(&path).unwrap().unwrap();
    let noted = Own::of(&holding);
    let mut claimed = BlockSet::empty(10);
    claimed.insert_range(BlockRange::new(1, 4));
    claimed.insert(BlockIndex(9));
    scene.store.state.set_own(&noted, &claimed).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[1; 4096], 6 * BLOCK).unwrap();
    scene.collect(None);
    let mut there = BlockSet::empty(10);
    there.insert_range(BlockRange::new(0, 4));
    assert_eq!(scene.own_blocks(&bytes), Some(there));
    assert_eq!(scene.bytes_on_disk(&bytes), 4 * BLOCK);
    // Its files are gone.
    fs::remove_file(&path).unwrap();
    assert!(matches!(
        scene.collect(None)[..],
        [HoldingChange::Removed(_)]
    ));
    assert_eq!(scene.own_blocks(&bytes), None);
    assert_eq!(
        fs::read_dir(scene.path("store/objects")).unwrap().count(),
        0
    );
}

#[test]
fn another_geometry_of_the_same_object_is_not_mixed_in() {
    let mut scene = Scene::new();
    let bytes = paint::bytes(0, 10 * BLOCK as usize);
    scene.stream(&bytes, BlockRange::new(0, 4));
    let root = tree_of(&bytes, false).root();
    for (length, block_size) in [(10 * BLOCK, 2 * BLOCK), (11 * BLOCK, BLOCK)] {
        let geometry = Geometry::new(length, BlockSize::new(block_size).unwrap()).unwrap();
        let own = scene
            .store
            .own_object(root, geometry, Provenance::default());
        assert!(own.unwrap().is_none());
    }
}
