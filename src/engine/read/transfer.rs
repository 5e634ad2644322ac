//! Fetches what the readers of an object need.

use std::sync::Arc;

use futures_util::stream::{FuturesUnordered, StreamExt};

use crate::{
    engine::{
        context::Context,
        error::Error,
        events::{Event, Events},
        remote::{
            manifest::{self, ManifestPlace},
            source::{Source, packed::Pack},
        },
        transfer::driver::{Driver, TransferObject, Turn},
    },
    format::{
        blockset::BlockSet,
        geometry::{BlockIndex, BlockRange},
        judge::{self, Proven},
        tree::Root,
    },
    net::location::Location,
    policy::schedule::Want,
};

use super::{
    pages::{Pages, PagesFailed, PagesRead},
    plan::Plan,
    shared::Shared,
    state::WrongBlock,
};

/// Runs the transfer of a [`super::SharedObject`]. Nothing is fetched unless [`Transfer::run`] is polled.
pub struct Transfer {
    context: Context,
    shared: Arc<Shared>,
    origin: Arc<Origin>,
    pages: Pages,
    /// `None` until something is missing, and after a failure.
    driver: Option<Driver>,
    /// What the driver wants, and how many of these ranges are for readers that just sought.
    wanted: Vec<BlockRange>,
    sought: usize,
    /// The last block is being read from the cache.
    is_reading_last: bool,
    /// The driver has nothing to do.
    is_idle: bool,
    jobs: FuturesUnordered<futures_util::future::BoxFuture<'static, Job>>,
}

/// Where an object comes from.
pub struct Origin {
    pub root: Root,
    pub sources: Vec<Location>,
    pub place: ManifestPlace,
    pub pack: Option<Pack>,
}

/// The end of work that runs beside the driver.
enum Job {
    Pages(Box<PagesRead>),
    /// The last block, which proves the length, from the cache.
    LastRead(Vec<Proven>),
    /// A block that every source sent wrong, and what that means.
    Explained(BlockIndex, Error),
}

impl Transfer {
    pub(super) fn new(
        context: Context,
        shared: Arc<Shared>,
        origin: Origin,
        pages: Pages,
    ) -> Transfer {
        Transfer {
            context,
            shared,
            origin: Arc::new(origin),
            pages,
            driver: None,
            wanted: Vec::new(),
            sought: 0,
            is_reading_last: false,
            is_idle: true,
            jobs: FuturesUnordered::new(),
        }
    }

    /// Fetches what readers need, until all [`super::SharedObject`]s and readers are gone.
    ///
    /// A failure ends the readers that wait for what failed. The transfer goes on: the next reader that waits tries again.
    /// Cancel-safe.
    pub async fn run(&mut self, events: &mut dyn Events) {
        while !self.shared.is_closed() {
            if let Some(plan) = self.shared.plan(|page| self.pages.knows(page)) {
                self.apply(plan);
            }
            let shared = self.shared.clone();
            let mut noted = NoteWrong {
                shared: &shared,
                events,
            };
            let driver = self.driver.as_mut().filter(|_| !self.is_idle);
            let turn = async {
                match driver {
                    Some(driver) => driver.next(&mut noted).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = shared.changed.notified() => (),
                Some(job) = self.jobs.next() => self.job_ended(job),
                turn = turn => self.turn_ended(turn).await,
            }
        }
    }

    /// Ends the transfer, and waits until what arrived is in the store.
    pub async fn finish(mut self) {
        if let Some(driver) = self.driver.take() {
            driver.shutdown().await.wait().await;
        }
        self.shared.cache.note().await;
    }

    /// Wants what is planned.
    fn apply(&mut self, plan: Plan) {
        if let Some(reading) = self.pages.need(&self.context, &plan.pages) {
            self.jobs
                .push(Box::pin(async move { Job::Pages(Box::new(reading.await)) }));
        }
        if plan.reads_last && !self.is_reading_last {
            self.is_reading_last = true;
            let last = BlockRange::one(self.shared.geometry().last());
            let cache = self.shared.cache.clone();
            self.jobs.push(Box::pin(
                async move { Job::LastRead(cache.read(last).await) },
            ));
        }
        let is_held = |driver: &Driver, range: &BlockRange| {
            let held = driver.held_blocks().next(BlockIndex(range.start));
            held.is_some_and(|block| block.0 < range.end)
        };
        let driver = self.driver.as_ref();
        let is_lost =
            driver.is_some_and(|driver| plan.absent.iter().any(|range| is_held(driver, range)));
        if plan.adds_nothing_to(&self.wanted) && !is_lost {
            // A reader that was there begins to wait: the ranges are the same, their urgency is not.
            if plan.ranges == self.wanted {
                self.sought = plan.sought;
            }
            return;
        }
        if self.driver.is_none() && !plan.ranges.is_empty() {
            self.driver = Some(self.new_driver());
        }
        if let Some(driver) = &mut self.driver {
            for range in &plan.absent {
                driver.lost(*range);
            }
            driver.want(Want {
                ranges: plan.ranges.clone(),
                more: true,
            });
            (self.wanted, self.sought, self.is_idle) = (plan.ranges, plan.sought, false);
        }
    }

    fn new_driver(&self) -> Driver {
        let client = &self.context.client;
        let sources = self.origin.sources.iter();
        let pack = &self.origin.pack;
        let object = TransferObject {
            leaves: self.shared.leaves.clone(),
            sources: sources
                .map(|url| Source::http(client, url).with_pack(pack.clone()))
                .collect(),
            // Whether the source serves ranges is unknown: there was no preflight.
            ranges: true,
            first: None,
            length_proven: self.shared.length_is_proven(),
            version: None,
            connections_max: self.shared.tuning.connections_max,
        };
        let claimed = BlockSet::empty(self.shared.geometry().blocks());
        let mut driver = Driver::new(&self.context, object, self.shared.clone(), claimed);
        for verified in self.shared.in_memory() {
            driver.held(verified);
        }
        driver
    }

    fn job_ended(&mut self, job: Job) {
        match job {
            Job::Pages(read) => {
                if let Err(failed) = self.pages.read(*read) {
                    let PagesFailed { pages, error } = *failed;
                    self.shared.fail_pages(&pages, error);
                }
                self.shared.wake_cached();
                if self.shared.geometry().length() == 0
                    && judge::verify(&self.shared.leaves, BlockIndex(0), &[]).is_ok()
                {
                    self.shared.note_length_proven();
                }
            }
            Job::LastRead(read) => {
                self.is_reading_last = false;
                for run in read {
                    self.shared.note_proven(run.verified());
                    if let Some(driver) = &mut self.driver {
                        driver.held(run.verified());
                    }
                }
            }
            Job::Explained(block, error) => self.shared.fail_block(block, error),
        }
        self.shared.plan_again();
    }

    /// Gives a reader that just sought a connection: those of the read-ahead are given up if no other one is free.
    fn make_room(&mut self) {
        let sought = &self.wanted[..self.sought.min(self.wanted.len())];
        let (Some(driver), Some(first)) = (&mut self.driver, sought.first()) else {
            return;
        };
        if driver.waits_for_connection(BlockIndex(first.start)) {
            let want = |ranges: &[BlockRange]| Want {
                ranges: ranges.to_vec(),
                more: true,
            };
            driver.want(want(sought));
            driver.want(want(&self.wanted));
        }
        self.sought = 0;
    }

    async fn turn_ended(&mut self, turn: Result<Turn, Error>) {
        self.make_room();
        match turn {
            Ok(Turn::Verified(verified)) => self.shared.plan_again_without(verified),
            Ok(Turn::Idle | Turn::Done) => {
                self.is_idle = self.driver.as_ref().is_none_or(Driver::is_idle);
            }
            Err(error) => {
                self.wanted.clear();
                if let Some(driver) = self.driver.take() {
                    // Its work may still put blocks. The readers end when there is none.
                    driver.shutdown().await.wait().await;
                }
                let Error::Wrong { block, .. } = error else {
                    self.shared.fail(error);
                    return;
                };
                self.shared.begin_to_fail(block);
                let (context, origin) = (self.context.clone(), self.origin.clone());
                self.jobs.push(Box::pin(async move {
                    let Origin {
                        root,
                        sources,
                        place,
                        ..
                    } = &*origin;
                    let error = manifest::explain(&context, error, *root, place, &sources[0]).await;
                    Job::Explained(block, error)
                }));
            }
        }
    }
}

/// Remembers wrong blocks for the state of the object.
struct NoteWrong<'a> {
    shared: &'a Shared,
    events: &'a mut dyn Events,
}

impl Events for NoteWrong<'_> {
    fn event(&mut self, event: Event) {
        if let Event::BlockWrong {
            block,
            bytes,
            expected,
            found,
            source,
        } = &event
        {
            self.shared.note_wrong(WrongBlock {
                block: *block,
                bytes: *bytes,
                source: source.clone(),
                expected: *expected,
                found: *found,
            });
        }
        self.events.event(event);
    }
}
