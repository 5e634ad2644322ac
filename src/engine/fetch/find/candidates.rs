//! Which local files are searched: the one that is to be replaced, those that the user names, and what the store knows and may be asked
//! for.

use std::{path::PathBuf, sync::Arc, time::Duration};

use crate::{
    disk::{
        destination::Locked,
        seed::Seed,
        state::{Allowed, Wanted},
        store::{self, Store},
    },
    engine::{blocking::joined, error::Error, events::Event, fetch::Fetch, store::files_of},
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
    pub stored: Vec<store::Seed>,
    /// Why others are not among them.
    failed: Vec<String>,
}

impl Fetch<'_> {
    /// The file that the object is to replace, and those that the user names.
    pub(super) async fn named_seeds(&self, locked: &Locked) -> Candidates {
        let target = locked.destination().path();
        let named = self.options.seeds.clone();
        joined(tokio::task::spawn_blocking(move || {
            Candidates::named(target, &named)
        }))
        .await
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
        let look = move |folder: PathBuf| Store::open(&folder)?.seeds(&allowed, &wanted, 1);
        self.in_state(look)
            .await
            .is_some_and(|found| !found.is_empty())
    }

    /// The holdings that are worth a search. Of those without anchors nobody knows what is in them: they are worth one only if they
    /// are the object, or came from the same URL, or the user says so.
    pub(super) async fn stored_seeds(
        &mut self,
        header: &Header,
        tags: Vec<Tag>,
    ) -> Vec<store::Seed> {
        let (allowed, wanted) = (self.allowed(), self.looked_for(header, tags));
        let look = move |folder: PathBuf| {
            let mut found = Store::open(&folder)?.seeds(&allowed, &wanted, STORED_MAX)?;
            found.retain(|seed| {
                let holding = &seed.holding;
                holding.has_anchors
                    || allowed.all
                    || holding.root == wanted.root
                    || holding.provenance.url == wanted.url
            });
            Ok(found)
        };
        self.in_state(look).await.unwrap_or_default()
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
        let state = self.options.state.clone();
        let opened = tokio::task::spawn_blocking(move || {
            // A store that cannot be opened was told before.
            let mut store = state.and_then(|folder| Store::open(&folder).ok());
            open_seeds(candidates, layout, seeds, store.as_mut())
        });
        let (seeds, failed) = joined(opened).await;
        for error in failed {
            let message = format!("a seed is left out: {error}");
            self.events.event(Event::Warning { message });
        }
        seeds
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
        let named: u64 = self.named.iter().map(Seed::length).sum();
        let stored = self.stored.iter().map(|seed| seed.holding.stamp.length);
        named + stored.sum::<u64>()
    }
}

/// Opens files and gets their trees, from the store or in one pass over them. What cannot be used is left out, and told.
fn open_seeds(
    candidates: Candidates,
    layout: Layout,
    mut seeds: Seeds,
    mut store: Option<&mut Store>,
) -> (Seeds, Vec<String>) {
    let mut failed = candidates.failed;
    let named = candidates.named.into_iter().map(|seed| (seed, true));
    let stored = candidates.stored.into_iter();
    let stored = stored.filter_map(|seed| Seed::of(seed.file, &seed.holding.path).ok());
    for (seed, is_named) in named.chain(stored.map(|seed| (seed, false))) {
        if seed.length() == 0 || seeds.has(&seed) {
            continue;
        }
        match tree_of(&seed, layout, &seeds, store.as_deref_mut()) {
            Ok(tree) if seed.length() == tree.geometry().length() => {
                seeds.add(seed, Arc::new(tree));
            }
            Err(error) if is_named => failed.push(error.to_string()),
            // It changed meanwhile, and what the store said is nobody's wish.
            Ok(_) | Err(_) => (),
        }
    }
    (seeds, failed)
}

/// The tree that the store keeps of this very version of a file, else a new one, which it keeps from then on.
fn tree_of(
    seed: &Seed,
    layout: Layout,
    seeds: &Seeds,
    store: Option<&mut Store>,
) -> Result<Tree, Error> {
    let Some(store) = store else {
        return seeds.survey(seed, layout.geometry.block_size(), layout.hints);
    };
    let kept = store.tree_of_file(&seed.stamp()).ok().flatten();
    let enough = |tree: &Tree| !layout.hints || !tree.anchors().is_empty();
    let block_size = match &kept {
        Some(tree) => tree.geometry().block_size(),
        None => layout.geometry.block_size(),
    };
    match kept.filter(enough) {
        Some(tree) => Ok(tree),
        None => {
            let tree = seeds.survey(seed, block_size, layout.hints)?;
            // A store that cannot be written costs the same pass the next time.
            let _ = store.keep_anchors(&tree);
            Ok(tree)
        }
    }
}
