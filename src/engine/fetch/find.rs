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
        anchors::BlockAnchor,
        blockset::BlockSet,
        descent::{self, Source},
        geometry::{BlockIndex, BlockRange, Geometry},
        judge::{Gathered, Leaves, Verified},
        layout::Layout,
        statement::Header,
        tree::Cv,
    },
    disk::{
        destination::{Locked, Opened},
        seed::Seed,
    },
    net::location::Location,
};

use super::{
    super::{
        error::Error,
        events::{Event, Progress},
    },
    Fetch, bytes_of_set, joined,
    remote_manifest::{Front, ManifestPlace, Pages},
    scattered::Scattered,
};
use land::land;
use patch::Patches;
use search::{Search, Whole, search};
use seeds::{Seeds, wanted_seeds};

/// The least time that a search may take.
const SEARCH_TIME_MIN: Duration = Duration::from_secs(2);
/// And as long as fetching would take at this rate, for how fast that would be is not known yet.
const FETCH_BYTES_PER_S: u64 = 100_000_000;

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
        let seeds = match front.has_ranges() {
            true => self.seeds(locked, &header).await,
            false => self.no_seeds(),
        };
        if seeds.is_empty() {
            let mut bytes_manifest = 0;
            let pages = front.read_leaves(&client, place, &limits, &mut bytes_manifest);
            let pages = pages.await;
            self.bytes_manifest += bytes_manifest;
            return Ok(without_seeds(&header, pages?, seeds));
        }
        let before = self.client.bytes_fetched();
        let what = (header.layout(), header.root);
        let found = search(front, &client, place, &limits, what, seeds).await;
        self.bytes_manifest += self.client.bytes_fetched() - before;
        found
    }

    fn no_seeds(&self) -> Seeds {
        Seeds::new(Arc::default(), Instant::now())
    }

    /// The local files that may hold bytes of the object: the one that it is to replace, and those that the user names.
    async fn seeds(&mut self, locked: &Locked, header: &Header) -> Seeds {
        let mut paths: Vec<PathBuf> = Vec::new();
        if matches!(locked.destination().existing(), Ok(Some(_))) {
            paths.push(locked.destination().path());
        }
        let mut missing = Vec::new();
        for path in &self.options.seeds {
            match wanted_seeds(path) {
                Ok(found) => paths.extend(found),
                Err(error) => missing.push(error.to_string()),
            }
        }
        let (layout, length) = (header.layout(), header.geometry.length());
        let stop = self.stop.0.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let time = Duration::from_secs(length / FETCH_BYTES_PER_S).max(SEARCH_TIME_MIN);
            open_seeds(paths, layout, Seeds::new(stop, Instant::now() + time))
        });
        let (seeds, failed) = joined(opened).await;
        for error in missing.into_iter().chain(failed) {
            let message = format!("a seed is left out: {error}");
            self.events.event(Event::Warning { message });
        }
        seeds
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
                bytes_done: bytes_of_set(&geometry, &held)
                    + bytes_of_set(&geometry, &opened.claimed),
                bytes_total: geometry.length(),
                bytes_fetched: fetched,
                bytes_proven: bytes_of_set(&geometry, &held),
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

/// Opens seeds and makes their trees. What cannot be used is left out, and told.
fn open_seeds(paths: Vec<PathBuf>, layout: Layout, mut seeds: Seeds) -> (Seeds, Vec<String>) {
    let mut failed = Vec::new();
    for path in paths {
        let opened = || -> Result<_, Error> {
            let seed = Seed::open(&path)?;
            if seed.length() == 0 {
                return Ok(None);
            }
            let tree = seeds.survey(&path, layout.geometry.block_size(), layout.hints)?;
            Ok(Some((seed, Arc::new(tree))))
        };
        match opened() {
            Ok(Some((seed, tree))) if seed.length() == tree.geometry().length() => {
                seeds.add(seed, tree);
            }
            Ok(_) => (),
            Err(error) => failed.push(error.to_string()),
        }
    }
    (seeds, failed)
}

/// Without any seed all leaves are read at once. Blocks of zeros need no source.
fn without_seeds(header: &Header, pages: Pages, seeds: Seeds) -> Search {
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
    Search {
        seeds,
        whole: (0..).zip(&pages.anchors).filter_map(zeros).collect(),
        patched: Vec::new(),
        leaves,
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
