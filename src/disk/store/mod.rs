//! The store: an index over files that hold objects, so that what is here is not fetched again.
//!
//! It holds no second copy of what the user has: his files are noted by reference and only read. Whatever is read from a
//! holding may be wrong (the user edits and deletes as he likes), so it is judged before it counts, and a holding that is
//! gone, or is another file by now, is forgotten and no more is said.

use std::{fs::File, path::Path};

use crate::core::manifest::Tree;

use super::{
    files::{self, Stamp},
    state::{Adopted, Allowed, Holding, Provenance, State, StateError, Wanted},
};

/// So many candidates are looked at for each seed that is wanted: some of them may be gone.
const CANDIDATES_A_SEED: usize = 4;

/// The open store of a folder.
#[derive(Debug)]
pub struct Store {
    state: State,
}

/// A holding that may have bytes of the wanted object, open.
#[derive(Debug)]
pub struct Seed {
    /// What the index knows of it.
    pub holding: Holding,
    /// Regular, and the version that was noted. It can change at any time; it is to be read, not mapped.
    pub file: File,
}

impl Store {
    /// Opens the store in this folder, making it if it is not there.
    pub fn open(folder: &Path) -> Result<Store, StateError> {
        let state = State::open(folder)?;
        Ok(Store { state })
    }

    /// What is remembered beside the holdings.
    pub fn state(&mut self) -> &mut State {
        &mut self.state
    }

    /// Notes that a file of the user's is all of the object of this tree. Returns whether it could be: a file that is gone by
    /// now, or has another length, cannot.
    pub fn adopt(
        &mut self,
        path: &Path,
        tree: &Tree,
        provenance: Provenance,
        at: u64,
    ) -> Result<bool, StateError> {
        let Some(path) = files::noted_path(path) else {
            return Ok(false);
        };
        let length = tree.geometry().length();
        let found = files::open_noted(&path).filter(|(_, entry)| entry.length == length);
        let Some((_, entry)) = found else {
            return Ok(false);
        };
        let adopted = Adopted {
            path,
            stamp: entry.stamp(),
            provenance,
            at,
        };
        self.state.adopt(&adopted, tree)?;
        Ok(true)
    }

    /// The holdings that are most likely to have bytes of a wanted object, best first and open; at most so many.
    pub fn seeds(
        &mut self,
        allowed: &Allowed,
        wanted: &Wanted,
        most: usize,
    ) -> Result<Vec<Seed>, StateError> {
        let candidates = self
            .state
            .candidates(allowed, wanted, most * CANDIDATES_A_SEED)?;
        let mut seeds = Vec::new();
        for candidate in candidates {
            if seeds.len() == most {
                break;
            }
            let holding = candidate.holding;
            let file = self.open_holding(&holding)?;
            seeds.extend(file.map(|file| Seed { holding, file }));
        }
        Ok(seeds)
    }

    /// Opens a holding. One that is gone, is no regular file, or was written to since it was noted is forgotten.
    pub fn open_holding(&mut self, holding: &Holding) -> Result<Option<File>, StateError> {
        match files::open_noted(&holding.path) {
            Some((file, entry)) if holding.own || entry.stamp() == holding.stamp => Ok(Some(file)),
            _ => {
                self.state.forget(holding)?;
                Ok(None)
            }
        }
    }

    /// The tree of a holding's object, if all of it is known; with anchors if they were ever made.
    pub fn tree_of(&self, holding: &Holding) -> Result<Option<Tree>, StateError> {
        self.state.tree_of(holding)
    }

    /// The tree of a file of the user's that was noted in this very version, under whatever name.
    pub fn tree_of_file(&self, stamp: &Stamp) -> Result<Option<Tree>, StateError> {
        match self.state.holding_with(stamp)? {
            Some(holding) => self.state.tree_of(&holding),
            None => Ok(None),
        }
    }

    /// Keeps the anchors of an object that were made for the first time, so that it is found by them from now on. Does nothing
    /// if there is no holding of it with this block size.
    pub fn keep_anchors(&mut self, tree: &Tree) -> Result<(), StateError> {
        self.state.keep_anchors(tree)
    }

    /// Forgets a holding that turned out not to be what the index says.
    pub fn forget(&mut self, holding: &Holding) -> Result<(), StateError> {
        self.state.forget(holding).map(drop)
    }

    /// Notes that a holding was of use.
    pub fn note_used(&mut self, holding: &Holding, at: u64) -> Result<(), StateError> {
        self.state.note_used(holding, at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        anchors,
        geometry::{BlockSize, Geometry},
        paint, samples, tree,
    };
    use std::{fs, os::unix::fs::symlink, path::PathBuf};
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
        let wanted = wanted(&new, "http://a/film");
        let all = Allowed {
            all: true,
            ..Allowed::default()
        };
        let of_a = Allowed {
            origin: Some("http://a".to_owned()),
            ..Allowed::default()
        };
        let found = scene.seeds(&of_a, &wanted);
        assert_eq!(found[0], "old", "the same URL first");
        assert!(
            !found.contains(&"elsewhere".to_owned()),
            "it came from another host"
        );
        assert!(scene.seeds(&all, &wanted).contains(&"elsewhere".to_owned()));
        assert_eq!(scene.seeds(&Allowed::default(), &wanted), [""; 0]);
        // What shares nothing is not looked at, unless nobody can know.
        let strange = Wanted {
            url: None,
            ..self::wanted(&tree_of(&paint::bytes(1 << 41, MIB), true), "")
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
}
