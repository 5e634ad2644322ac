//! Which local files are searched: the one that is to be replaced, those that the user names, and what the store knows and may be asked
//! for.

use std::{path::PathBuf, sync::Arc, time::Duration};

use crate::{
    disk::{
        destination::Locked,
        files::Stamp,
        seed::Seed,
        state::{Allowed, Wanted},
        store::Store,
    },
    engine::{blocking, events::Event, fetch::Fetch, store::files_of},
    format::{anchors::Tag, keys::PublicKey, layout::Layout, manifest::Tree, statement::Header},
};

use super::seeds::Seeds;

/// Holdings that are searched at the same time.
const STORED_MAX: usize = 8;
/// Files that the user may name, one by one or by their folders: all of them are read through.
const NAMED_MAX: usize = 256;
/// The least time that a search may take.
const SEARCH_TIME_MIN: Duration = Duration::from_secs(2);
/// And as long as fetching would take at this rate, for how fast that would be is not known yet: 100 Mbit/s.
const FETCH_BYTES_PER_S: u64 = 12_500_000;

/// Local files that may be searched, the likeliest first.
#[derive(Default)]
pub struct Candidates {
    named: Vec<Seed>,
    pub stored: Vec<Seed>,
    /// Why others are not among them.
    failed: Vec<String>,
}

impl Fetch<'_> {
    /// The file that the object is to replace, and those that the user names.
    pub(super) async fn named_seeds(&self, locked: &Locked) -> Candidates {
        let target = locked.destination().path();
        let named = self.options.seeds.clone();
        blocking::run(move || Candidates::named(target, &named)).await
    }

    /// What may be searched of what the store knows: hints are an oracle about local files for whoever writes them and sees our
    /// requests, so only what came from the same origin, or under the same key, unless the user opens all. Who names the root
    /// knows it from elsewhere.
    fn allowed(&self) -> Allowed {
        Allowed {
            origin: Some(self.options.url.origin()),
            key_id: self.options.key.as_ref().map(PublicKey::id_hex),
            same_object: self.options.root.is_some() || self.options.key.is_some(),
            all: self.options.seed_store,
        }
    }

    fn looked_for(&self, header: &Header, tags: Vec<Tag>) -> Wanted {
        Wanted {
            root: header.root,
            url: Some(self.options.url.to_string()),
            tags,
        }
    }

    /// Whether the store knows anything that may be searched.
    pub(super) async fn store_has_any(&mut self, header: &Header) -> bool {
        let (allowed, wanted) = (self.allowed(), self.looked_for(header, Vec::new()));
        let look = move |store: &mut Store| Ok(store.seeds(&allowed, &wanted, 1)?);
        self.in_store(look)
            .await
            .is_some_and(|found| !found.is_empty())
    }

    /// The holdings that are worth a search. Of those without anchors nobody knows what is in them: they are worth one only if they
    /// are the object, or came from the same URL, or the user says so.
    pub(super) async fn stored_seeds(&mut self, header: &Header, tags: Vec<Tag>) -> Vec<Seed> {
        let (allowed, wanted) = (self.allowed(), self.looked_for(header, tags));
        let look = move |store: &mut Store| {
            let mut found = store.seeds(&allowed, &wanted, STORED_MAX)?;
            found.retain(|seed| {
                let holding = &seed.holding;
                holding.has_anchors
                    || allowed.all
                    || holding.root == wanted.root
                    || holding.provenance.url == wanted.url
            });
            let opened = found.into_iter();
            Ok(opened
                .filter_map(|seed| Seed::of(seed.file, &seed.holding.path).ok())
                .collect())
        };
        self.in_store(look).await.unwrap_or_default()
    }

    /// Opens candidates and gets their trees.
    pub(super) async fn open_seeds(&mut self, candidates: Candidates, layout: Layout) -> Seeds {
        let length = layout.geometry.length();
        let time = Duration::from_secs(length / FETCH_BYTES_PER_S).max(SEARCH_TIME_MIN);
        let seeds = Seeds::new(self.stop.0.clone(), time);
        let bytes = candidates.bytes();
        if bytes > 0 {
            self.events.event(Event::Searching { bytes });
        }
        let (candidates, known) = self.known_trees(candidates).await;
        let opened = blocking::run(move || open_seeds(candidates, known, layout, seeds));
        let (seeds, failed, made) = opened.await;
        if !made.is_empty() {
            // A store that cannot be written costs the same pass the next time.
            let keep = move |store: &mut Store| {
                made.iter().try_for_each(|tree| store.keep_anchors(tree))?;
                Ok(())
            };
            self.in_store(keep).await;
        }
        for error in failed {
            let message = format!("a seed is left out: {error}");
            self.events.event(Event::Warning { message });
        }
        seeds
    }

    /// The trees that the store keeps of these very versions of the candidates. Looked up at once: no file is hashed meanwhile.
    async fn known_trees(&mut self, candidates: Candidates) -> (Candidates, Vec<Option<Tree>>) {
        let stamps: Vec<Stamp> = candidates.files().map(Seed::stamp).collect();
        let count = stamps.len();
        let look = move |store: &mut Store| {
            let trees = stamps
                .iter()
                .map(|stamp| store.tree_of_file(stamp).ok().flatten());
            Ok(trees.collect::<Vec<_>>())
        };
        let known = match count {
            0 => None,
            _ => self.in_store(look).await,
        };
        (candidates, known.unwrap_or_else(|| vec![None; count]))
    }
}

impl Candidates {
    fn named(target: PathBuf, seeds: &[PathBuf]) -> Candidates {
        let mut candidates = Candidates::default();
        // Nothing there is the usual case, and what is no file is refused elsewhere.
        candidates.named.extend(Seed::open(&target));
        let mut left_out = 0;
        for path in seeds {
            let files = match files_of(path) {
                Ok(files) => files,
                Err(error) => {
                    candidates.failed.push(error.to_string());
                    continue;
                }
            };
            for file in files {
                match Seed::open(&file) {
                    Ok(_) if candidates.named.len() >= NAMED_MAX => left_out += 1,
                    Ok(seed) => candidates.named.push(seed),
                    Err(error) => candidates.failed.push(error.to_string()),
                }
            }
        }
        if left_out > 0 {
            let why = format!("{left_out} files; {NAMED_MAX} are enough, name the likeliest ones");
            candidates.failed.push(why);
        }
        candidates
    }

    /// Of all of them together.
    fn bytes(&self) -> u64 {
        self.files().map(Seed::length).sum()
    }

    fn files(&self) -> impl Iterator<Item = &Seed> {
        self.named.iter().chain(&self.stored)
    }
}

/// Gets the trees of files: known ones, or new ones in one pass over each file. What cannot be used is left out, with its reason.
/// Returns the new trees too.
fn open_seeds(
    candidates: Candidates,
    known: Vec<Option<Tree>>,
    layout: Layout,
    mut seeds: Seeds,
) -> (Seeds, Vec<String>, Vec<Arc<Tree>>) {
    let (mut failed, mut made) = (candidates.failed, Vec::new());
    let named = candidates.named.into_iter().map(|seed| (seed, true));
    let stored = candidates.stored.into_iter().map(|seed| (seed, false));
    for ((seed, is_named), known) in named.chain(stored).zip(known) {
        if seed.length() == 0 || seeds.has(&seed) {
            continue;
        }
        let block_size = match &known {
            Some(tree) => tree.geometry().block_size(),
            None => layout.geometry.block_size(),
        };
        let enough = |tree: &Tree| !layout.hints || !tree.anchors().is_empty();
        let tree = match known.filter(enough) {
            Some(tree) => Ok(Arc::new(tree)),
            None => seeds.survey(&seed, block_size, layout.hints).map(|tree| {
                let tree = Arc::new(tree);
                made.push(tree.clone());
                tree
            }),
        };
        match tree {
            Ok(tree) if seed.length() == tree.geometry().length() => seeds.add(seed, tree),
            Err(error) if is_named => failed.push(error.to_string()),
            // It changed meanwhile. The user did not name it, so this is no news.
            Ok(_) | Err(_) => (),
        }
    }
    (seeds, failed, made)
}
