//! Finding on this machine what need not be fetched: the descent in the new manifest over local files, what it found copied into
//! the part and judged there, and blocks put together from pieces.

mod land;
mod patch;
mod search;
mod seeds;

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    core::{
        anchors::{BlockAnchor, NodeAnchor, Tag},
        blockset::BlockSet,
        descent::{self, Source},
        geometry::{BlockIndex, BlockRange, Geometry},
        judge::{Gathered, Leaves, Verified},
        keys::PublicKey,
        layout::{Group, Layout},
        manifest::Tree,
        samples,
        statement::Header,
        tree::Cv,
    },
    disk::{
        destination::{Locked, Opened},
        seed::Seed,
        state::{Allowed, Wanted},
        store::{self, Store},
    },
    net::location::Location,
};

use super::{
    super::{
        error::Error,
        events::{Event, Progress},
    },
    Fetch, joined,
    remote_manifest::{Front, ManifestPlace, Pages},
    scattered::Scattered,
};
use land::land;
use patch::Patches;
use search::{Search, Whole, search};
use seeds::{Seeds, wanted_seeds};

/// Holdings that are searched at the same time.
const STORED_MAX: usize = 8;
/// The least time that a search may take.
const SEARCH_TIME_MIN: Duration = Duration::from_secs(2);
/// And as long as fetching would take at this rate, for how fast that would be is not known yet: 100 Mbit/s.
const FETCH_BYTES_PER_S: u64 = 12_500_000;

/// Ends work on files when the fetch is dropped.
#[derive(Default)]
pub struct StopWhenDropped(Arc<AtomicBool>);

impl Drop for StopWhenDropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What is in the part, and judged, before anything is transferred.
pub struct Landing {
    pub leaves: Gathered,
    pub verified: Vec<Verified>,
    pub bytes_reused: u64,
    pub bytes_resumed: u64,
}

impl Search {
    /// Bytes of the object that it found.
    pub fn bytes_local(&self, geometry: &Geometry) -> u64 {
        let whole = self.whole.iter();
        let whole: u64 = whole
            .map(|find| geometry.bytes_of_range(find.blocks).length())
            .sum();
        whole + patch::bytes_local(&self.patched)
    }
}

impl Fetch<'_> {
    /// Reads of the manifest what is needed to find what is here and to judge what is not.
    pub(super) async fn look_around(
        &mut self,
        locked: &Locked,
        front: &mut Front,
        place: &ManifestPlace,
    ) -> Result<Search, Error> {
        let header = front.statement.header().clone();
        let (client, limits) = (self.client.clone(), self.limits());
        let before = self.client.bytes_fetched();
        let (mut seeds, mut top) = (Seeds::new(Arc::default(), Duration::ZERO), None);
        if front.has_ranges() {
            let mut candidates = self.named_seeds(locked);
            if self.store_has_any(&header).await {
                let group = header.layout().group(header.geometry.levels(), 0);
                let wants = [group.bytes];
                let read = front.read_ranges(&client, place, &limits, &wants);
                top = read.await?.pop();
                let tags = top.as_ref().map(|(_, bytes)| tags_of(&group, bytes));
                candidates.stored = self.stored_seeds(&header, tags.unwrap_or_default()).await;
            }
            seeds = self.open_seeds(candidates, header.layout()).await;
        }
        let found = if seeds.is_empty() {
            let pages = front.read_leaves(&client, place, &limits, &mut 0).await;
            pages.map(|pages| self.without_seeds(&header, pages, seeds))
        } else {
            let what = (header.layout(), header.root);
            search(front, &client, place, &limits, what, seeds, top).await
        };
        self.bytes_manifest += self.client.bytes_fetched() - before;
        found
    }

    /// The file that the object is to replace, and those that the user names.
    fn named_seeds(&mut self, locked: &Locked) -> Candidates {
        let mut candidates = Candidates::default();
        if matches!(locked.destination().existing(), Ok(Some(_))) {
            candidates.named.push(locked.destination().path());
        }
        for path in &self.options.seeds {
            match wanted_seeds(path) {
                Ok(found) => candidates.named.extend(found),
                Err(error) => candidates.failed.push(error.to_string()),
            }
        }
        candidates
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
    async fn store_has_any(&mut self, header: &Header) -> bool {
        let (allowed, wanted) = (self.allowed(), self.looked_for(header, Vec::new()));
        let look = move |folder: PathBuf| Store::open(&folder)?.seeds(&allowed, &wanted, 1);
        self.in_state(look)
            .await
            .is_some_and(|found| !found.is_empty())
    }

    /// The holdings that are worth a search. Of those without anchors nobody knows what is in them: they are worth one only if they
    /// are the object, or came from the same URL, or the user says so.
    async fn stored_seeds(&mut self, header: &Header, tags: Vec<Tag>) -> Vec<store::Seed> {
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
    async fn open_seeds(&mut self, candidates: Candidates, layout: Layout) -> Seeds {
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

    /// Without any seed all leaves are read at once. Blocks of zeros need no source.
    fn without_seeds(&mut self, header: &Header, pages: Pages, seeds: Seeds) -> Search {
        let geometry = header.geometry;
        let mut leaves = Gathered::new(geometry);
        leaves.insert(BlockIndex(0), &pages.leaves);
        let zeros = |(block, anchor): (u32, &BlockAnchor)| {
            let value: Cv = pages.leaves[block as usize];
            let block = BlockIndex(block);
            descent::is_zero_block(&geometry, block, *anchor, value).then_some(Whole {
                blocks: BlockRange::one(block),
                value,
                from: Source::Zeros,
            })
        };
        let whole = (0..).zip(&pages.anchors).filter_map(zeros).collect();
        if header.layout().hints {
            self.anchors = Some(pages.anchors);
        }
        Search {
            seeds,
            whole,
            patched: Vec::new(),
            leaves,
        }
    }

    /// Copies what was found into the part and judges it there, and puts blocks together whose pieces are partly here.
    pub(super) async fn land(
        &mut self,
        search: Search,
        opened: &mut Opened,
        source: &Location,
    ) -> Result<Landing, Error> {
        let Search {
            seeds,
            whole,
            patched,
            mut leaves,
        } = search;
        let mut landing = Landing {
            verified: Vec::new(),
            bytes_reused: 0,
            bytes_resumed: 0,
            leaves: leaves.clone(),
        };
        if whole.is_empty() && patched.is_empty() {
            return Ok(landing);
        }
        let geometry = *leaves.geometry();
        let (part, claimed) = (opened.part.clone(), opened.claimed.clone());
        let landed = tokio::task::spawn_blocking(move || {
            let landed = land(&part, &seeds, geometry, whole, &claimed, &mut leaves);
            landed.map(|landed| (landed, leaves, seeds))
        });
        let (landed, leaves, seeds) = joined(landed).await?;
        (landing.bytes_reused, landing.bytes_resumed) = (landed.bytes_reused, landed.bytes_resumed);
        for verified in landed.verified {
            opened.journal.note(verified);
            landing.verified.push(verified);
        }
        opened.journal.checkpoint()?;
        self.patch((seeds, leaves, patched), opened, source, &mut landing)
            .await?;
        Ok(landing)
    }

    async fn patch(
        &mut self,
        (seeds, leaves, mut blocks): (Seeds, Gathered, patch::Blocks),
        opened: &mut Opened,
        source: &Location,
        landing: &mut Landing,
    ) -> Result<(), Error> {
        landing.leaves = leaves.clone();
        blocks.retain(|(block, _)| !opened.claimed.contains(*block));
        let geometry = *leaves.geometry();
        let patches = Patches {
            geometry,
            seeds: Arc::new(seeds),
            part: opened.part.clone(),
            leaves: Arc::new(leaves),
            blocks,
        };
        let source = Scattered::new(&self.client, source, None, &self.limits());
        let mut held = BlockSet::empty(geometry.blocks());
        for verified in &landing.verified {
            held.insert_range(verified.blocks());
        }
        let (began, before) = (Instant::now(), self.client.bytes_fetched());
        let (client, events) = (&self.client, &mut *self.events);
        let done = |patched: patch::Patched| {
            landing.bytes_reused += patched.bytes_reused;
            for verified in patched.verified {
                opened.journal.note(verified);
                held.insert_range(verified.blocks());
                landing.verified.push(verified);
            }
            opened.journal.checkpoint()?;
            let fetched = client.bytes_fetched();
            let seconds = began.elapsed().as_secs_f64().max(0.001);
            events.event(Event::Progress(Progress {
                bytes_done: held.bytes(&geometry) + opened.claimed.bytes(&geometry),
                bytes_total: geometry.length(),
                bytes_fetched: fetched,
                bytes_proven: held.bytes(&geometry),
                rate_bps: ((fetched - before) as f64 / seconds) as u64,
            }));
            Ok(())
        };
        patches.run(&source, done).await
    }

    /// All leaves, when some of what the search found is not there any more.
    pub(super) async fn all_leaves(
        &mut self,
        front: &mut Front,
        place: &ManifestPlace,
    ) -> Result<Leaves, Error> {
        let (client, limits) = (self.client.clone(), self.limits());
        let geometry = front.statement.header().geometry;
        let pages = front.read_leaves(&client, place, &limits, &mut self.bytes_manifest);
        Ok(Leaves::new(geometry, pages.await?.leaves))
    }
}

/// Local files that may be searched, the likeliest first.
#[derive(Default)]
struct Candidates {
    named: Vec<PathBuf>,
    stored: Vec<store::Seed>,
    /// Why others are not among them.
    failed: Vec<String>,
}

impl Candidates {
    /// Of all of them together.
    fn bytes(&self) -> u64 {
        let named = self.named.iter().filter_map(|path| Seed::open(path).ok());
        let named: u64 = named.map(|seed| seed.length()).sum();
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
    let named = candidates.named.into_iter().map(|path| (path, None));
    let stored = candidates.stored.into_iter();
    let stored = stored.map(|seed| (seed.holding.path.clone(), Some(seed.file)));
    for (path, file) in named.chain(stored) {
        let of_store = file.is_some();
        let opened = match file {
            Some(file) => Seed::of(file, &path),
            None => Seed::open(&path),
        };
        let opened = opened.map_err(Error::from).and_then(|seed| {
            let known = seeds.has(&seed) || seed.length() == 0;
            let tree = (!known).then(|| tree_of(&seed, layout, &seeds, store.as_deref_mut()));
            Ok(tree.transpose()?.map(|tree| (seed, tree)))
        });
        match opened {
            Ok(Some((seed, tree))) if seed.length() == tree.geometry().length() => {
                seeds.add(seed, Arc::new(tree));
            }
            Ok(_) => (),
            // What the store said is nobody's wish.
            Err(_) if of_store => (),
            Err(error) => failed.push(error.to_string()),
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
        return seeds.survey(seed.path(), layout.geometry.block_size(), layout.hints);
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
            let tree = seeds.survey(seed.path(), block_size, layout.hints)?;
            // A store that cannot be written costs the same pass the next time.
            let _ = store.keep_anchors(&tree);
            Ok(tree)
        }
    }
}

/// The tags by which the store is asked for what is like an object, from the first group of its tree.
fn tags_of(group: &Group, bytes: &[u8]) -> Vec<Tag> {
    let hints = bytes.get(group.count as usize * 32..).unwrap_or_default();
    let (words, _) = hints.as_chunks::<8>();
    let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
    match group.level {
        0 => {
            let anchors: Vec<BlockAnchor> = words.into_iter().map(BlockAnchor).collect();
            samples::sampled(&anchors)
        }
        _ => samples::of_nodes(words.chunks_exact(2).map(|pair| NodeAnchor {
            tag: pair[0],
            place: pair[1],
        })),
    }
}

/// Does numbered work with all cores and returns what came of it in its order; `None` as soon as one says so.
fn in_parallel<T: Send>(count: u64, work: impl Fn(u64) -> Option<T> + Sync) -> Option<Vec<T>> {
    let (next, stopped) = (AtomicU64::new(0), AtomicU64::new(0));
    let done: Mutex<Vec<(u64, T)>> = Mutex::new(Vec::with_capacity(count as usize));
    let worker = || {
        let mut mine = Vec::new();
        while stopped.load(Ordering::Relaxed) == 0 {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                break;
            }
            match work(number) {
                Some(outcome) => mine.push((number, outcome)),
                None => stopped.store(1, Ordering::Relaxed),
            }
        }
        done.lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .append(&mut mine);
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 1..workers.min(count as usize) {
            scope.spawn(worker);
        }
        worker();
    });
    let mut done = done
        .into_inner()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    done.sort_unstable_by_key(|(number, _)| *number);
    (stopped.into_inner() == 0).then(|| done.into_iter().map(|(_, outcome)| outcome).collect())
}
