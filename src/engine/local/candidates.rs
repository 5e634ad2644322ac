//! Chooses the local files to search: the one to be replaced, those that the user names, and those in the store that may be
//! searched.

use std::{path::PathBuf, sync::Arc};

use crate::{
    disk::{
        files::Stamp,
        seed::Seed,
        state::{Allowed, Wanted},
        store::Store,
    },
    engine::{
        blocking::{self, StopWhenDropped},
        context::Context,
        events::{Event, Events},
        store::files_of,
        trust::warned,
    },
    format::{anchors::Tag, layout::Layout, manifest::Tree, statement::Header},
};

use super::{FindRequest, seeds::Seeds, time::SearchTime};

/// The most holdings of the store that are searched.
const STORED_MAX: usize = 8;
/// The most files that the user may name, singly or by their folders: each is read completely.
const NAMED_MAX: usize = 256;

/// Local files to search, the likeliest first.
#[derive(Default)]
pub struct Candidates {
    named: Vec<Seed>,
    pub stored: Vec<Seed>,
    /// Why other files are not among them.
    failed: Vec<String>,
    /// How many were too many.
    left_out: usize,
}

/// The file that the object will replace, and those that the user names.
pub async fn named_seeds(request: &FindRequest) -> Candidates {
    let (target, named) = (request.target.clone(), request.seeds.clone());
    blocking::run(move || Candidates::named(target, &named)).await
}

/// Which holdings of the store may be searched. Hints are an oracle about local files for a publisher that sees our requests. So
/// only files from the same origin or under the same key are searched, unless the user allows all. A user that gives the root got
/// it from a trusted place.
fn allowed(request: &FindRequest) -> Allowed {
    Allowed {
        origin: Some(request.url.origin()),
        key_id: request.key_id.clone(),
        same_object: request.root_given || request.key_id.is_some(),
        all: request.seed_store,
    }
}

fn wanted(request: &FindRequest, header: &Header, tags: Vec<Tag>) -> Wanted {
    Wanted {
        root: header.root,
        url: Some(request.url.to_string()),
        tags,
    }
}

/// Whether the store knows any file that may be searched.
pub async fn store_has_any(
    context: &Context,
    request: &FindRequest,
    header: &Header,
    events: &mut dyn Events,
) -> bool {
    let (allowed, wanted) = (allowed(request), wanted(request, header, Vec::new()));
    let look_up = move |store: &mut Store| Ok(store.seeds(&allowed, &wanted, 1)?);
    let found = warned(context.store.with(look_up).await, events);
    found.is_some_and(|found| !found.is_empty())
}

/// The holdings that are worth a search. The content of those without anchors is unknown: they are searched only if they are the
/// object, or came from the same URL, or the user allows all.
pub async fn stored_seeds(
    context: &Context,
    request: &FindRequest,
    header: &Header,
    tags: Vec<Tag>,
    events: &mut dyn Events,
) -> Vec<Seed> {
    let (allowed, wanted) = (allowed(request), wanted(request, header, tags));
    let look_up = move |store: &mut Store| {
        let mut found = store.seeds(&allowed, &wanted, STORED_MAX)?;
        found.retain(|seed| {
            let holding = &seed.holding;
            holding.has_anchors
                || allowed.all
                || holding.root == wanted.root
                || holding.provenance.url == wanted.url
        });
        let opened = found.into_iter();
        let opened = opened.filter_map(|seed| Seed::of(seed.file, &seed.holding.path).ok());
        Ok(opened.collect())
    };
    warned(context.store.with(look_up).await, events).unwrap_or_default()
}

/// Opens the candidates and gets their trees.
pub async fn open_seeds(
    context: &Context,
    candidates: Candidates,
    layout: Layout,
    stop: &StopWhenDropped,
    events: &mut dyn Events,
) -> Seeds {
    let bytes = candidates.bytes();
    // No more can be found than there is, whatever length the manifest claims.
    let most = layout.geometry.length().min(bytes);
    let time = SearchTime::new(most, context.client.limit_rate());
    let seeds = Seeds::new(stop.0.clone(), time);
    if candidates.left_out > 0 {
        let message = format!(
            "{} of the files that may hold its bytes are left out: at most {NAMED_MAX} are searched; name the likeliest ones",
            candidates.left_out
        );
        events.event(Event::Warning { message });
    }
    if bytes > 0 {
        events.event(Event::Searching { bytes });
    }
    let (candidates, known) = known_trees(context, candidates, events).await;
    let (seeds, failed, made) =
        blocking::run(move || trees_of(candidates, known, layout, seeds)).await;
    if !made.is_empty() {
        // If the store cannot be written, the next run hashes these files again.
        let keep = move |store: &mut Store| {
            made.iter().try_for_each(|tree| store.keep_anchors(tree))?;
            Ok(())
        };
        warned(context.store.with(keep).await, events);
    }
    for error in failed {
        let message = format!("a seed is left out: {error}");
        events.event(Event::Warning { message });
    }
    seeds
}

/// The trees that the store has of these versions of the candidates. They are looked up together, because no other task can use
/// the store meanwhile; files are hashed afterwards.
async fn known_trees(
    context: &Context,
    candidates: Candidates,
    events: &mut dyn Events,
) -> (Candidates, Vec<Option<Tree>>) {
    let stamps: Vec<Stamp> = candidates.files().map(Seed::stamp).collect();
    let count = stamps.len();
    let look_up = move |store: &mut Store| {
        let tree = |stamp| store.tree_of_file(stamp).ok().flatten();
        Ok(stamps.iter().map(tree).collect::<Vec<_>>())
    };
    let known = match count {
        0 => None,
        _ => warned(context.store.with(look_up).await, events),
    };
    (candidates, known.unwrap_or_else(|| vec![None; count]))
}

impl Candidates {
    /// This file alone; none if it cannot be opened.
    pub fn of_file(path: PathBuf) -> Candidates {
        Candidates::named(path, &[])
    }

    fn named(target: PathBuf, seeds: &[PathBuf]) -> Candidates {
        let mut candidates = Candidates::default();
        // A missing target is the usual case; a target that is not a file is refused elsewhere.
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
            candidates.left_out = left_out;
        }
        candidates
    }

    /// The total size of the files.
    pub fn bytes(&self) -> u64 {
        self.files().map(Seed::length).sum()
    }

    fn files(&self) -> impl Iterator<Item = &Seed> {
        self.named.iter().chain(&self.stored)
    }
}

/// Gets the trees of files: known ones, or new ones in one pass over each file. An unusable file is left out, with its reason.
/// Returns the new trees too.
fn trees_of(
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
            None => seeds
                .hash_tree(&seed, block_size, layout.hints)
                .map(|tree| {
                    let tree = Arc::new(tree);
                    made.push(tree.clone());
                    tree
                }),
        };
        match tree {
            Ok(tree) if seed.length() == tree.geometry().length() => seeds.add(seed, tree),
            Err(error) if is_named => failed.push(error.to_string()),
            // The file changed meanwhile. The user did not name it, so there is no warning.
            Ok(_) | Err(_) => (),
        }
    }
    (seeds, failed, made)
}
