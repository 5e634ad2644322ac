//! Transfers an object into a part. Meanwhile judges claims in the background, writes the journal, and computes digests of the
//! whole object.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::{
    disk::{
        destination::Opened,
        error::DiskError,
        journal::Journal,
        part::{Part, StoredBlocks},
    },
    engine::{
        blocking::{self, Group, Threads, Work},
        context::Context,
        error::Error,
        events::{Event, Events, Progress},
    },
    format::{
        digests::{Algorithm, Digest},
        geometry::{BlockIndex, BlockRange, Geometry},
        judge::Verified,
    },
};

use super::{
    claims::{Claim, judge_claims},
    digests::DigestFollower,
    driver::{Driver, TransferObject, Turn},
    sink::{PartSink, SharedJournal},
};

/// A checkpoint of the journal is due after this many proven bytes, or after this time.
const CHECKPOINT_BYTES: u64 = 64 << 20;
const CHECKPOINT_TIME: Duration = Duration::from_secs(2);
/// Without a manifest the journal is written this often: only the journal has the leaves, and a write without a sync is cheap.
const LEAVES_TIME: Duration = Duration::from_millis(250);
/// Time between two progress events.
const PROGRESS_TIME: Duration = Duration::from_secs(1);

/// What to transfer into a part.
pub struct PartTransfer {
    pub object: TransferObject,
    /// Blocks that were found locally, and are in the part already.
    pub copied: StoredBlocks,
    /// Digests of the whole object to compute.
    pub digests: Vec<Algorithm>,
}

/// A part that holds all of the object, and is settled.
pub struct Transferred {
    pub part: Arc<Part>,
    pub journal: Journal,
    /// Verified bytes that earlier runs left.
    pub bytes_resumed: u64,
    pub digests: Vec<Digest>,
}

impl PartTransfer {
    /// Runs until every block is held. Dropping the future is a clean stop: proven blocks are in the journal.
    pub async fn run(
        self,
        context: &Context,
        opened: Opened,
        events: &mut dyn Events,
    ) -> Result<Transferred, Error> {
        // Dropping this future drops `running`, and then `last_checkpoint`, which records all proven blocks.
        let (last_checkpoint, mut running) = self.start(context, opened);
        let outcome = running.run_until_done(events).await;
        let journal_outcome = running.notes.finish().await;
        let Running {
            driver,
            geometry,
            group,
            part,
            journal,
            bytes_resumed,
            follower,
            ..
        } = running;
        let idle = driver.shutdown().await;
        drop(last_checkpoint);
        outcome?;
        journal_outcome?;
        let digests = follower.finish(&group, &part, geometry.length()).await?;
        drop(group);
        // Work of a cancelled span ends a little later; it holds the journal and the part.
        idle.wait().await;
        let settled = part.clone();
        blocking::on_disk(move || settled.settle(geometry.length())).await?;
        let journal = Arc::into_inner(journal).expect("all work that holds it has ended");
        Ok(Transferred {
            part,
            journal: journal.into_inner(),
            bytes_resumed,
            digests,
        })
    }

    fn start(self, context: &Context, opened: Opened) -> (LastCheckpoint, Running) {
        let Opened {
            part,
            mut journal,
            mut claimed,
            ..
        } = opened;
        let leaves = self.object.leaves.clone();
        let geometry = *leaves.geometry();
        if geometry.length() == 0 {
            // The only block is empty: claim it, so that it is judged and not fetched.
            claimed.insert(geometry.last());
        }
        claimed.remove_all(self.copied.blocks());
        if leaves.are_first_use() {
            journal.record_leaves(leaves.clone());
        }
        let journal = Arc::new(Mutex::new(journal));
        let stop = Arc::new(AtomicBool::new(false));
        let last_checkpoint = LastCheckpoint {
            journal: journal.clone(),
            stop: stop.clone(),
        };
        let sink = Arc::new(PartSink {
            part: part.clone(),
            journal: journal.clone(),
        });
        let mut driver = Driver::new(context, self.object, sink.clone(), claimed.clone());
        for stored in self.copied.ranges() {
            driver.held(stored.verified());
        }
        let group = driver.group().clone();
        let (sender, claims) = mpsc::unbounded_channel();
        let judging = group.start(Threads::Blocking, move || {
            judge_claims(&leaves, &sink, &claimed, &stop, |claim| {
                // The receiver is gone when the run has ended.
                let _ = sender.send(claim);
            })
        });
        let running = Running {
            driver,
            geometry,
            group,
            part,
            journal,
            claims,
            judging: Some(judging),
            notes: JournalWrites::new(),
            progressed: None,
            bytes_resumed: 0,
            follower: DigestFollower::new(&self.digests),
        };
        (last_checkpoint, running)
    }
}

struct Running {
    driver: Driver,
    geometry: Geometry,
    group: Group,
    part: Arc<Part>,
    journal: SharedJournal,
    claims: mpsc::UnboundedReceiver<Claim>,
    judging: Option<Work<Result<(), DiskError>>>,
    notes: JournalWrites,
    progressed: Option<Instant>,
    /// Bytes of claims that verified.
    bytes_resumed: u64,
    follower: DigestFollower,
}

impl Running {
    async fn run_until_done(&mut self, events: &mut dyn Events) -> Result<(), Error> {
        self.progress(events);
        loop {
            self.housekeeping(events).await?;
            tokio::select! {
                biased;
                Some(claim) = self.claims.recv() => {
                    self.on_claim(claim);
                    while let Ok(claim) = self.claims.try_recv() {
                        self.on_claim(claim);
                    }
                }
                turn = self.driver.next(events) => match turn? {
                    Turn::Verified(verified) => self.notes.add(verified),
                    Turn::Idle => (),
                    Turn::Done => {
                        self.progress(events);
                        return Ok(());
                    }
                },
            }
        }
    }

    fn on_claim(&mut self, claim: Claim) {
        match claim {
            Claim::Held(verified) => {
                self.bytes_resumed += verified.bytes().length();
                self.notes.add(verified);
                self.driver.held(verified);
            }
            Claim::Failed(block) => self.driver.claim_failed(block),
        }
    }

    /// Advances journal, digests and progress reports when they are due.
    async fn housekeeping(&mut self, events: &mut dyn Events) -> Result<(), Error> {
        if let Some(judging) = self.judging.take_if(|work| work.is_finished()) {
            judging.finish().await?;
        }
        let first_use = self.driver.leaves().are_first_use();
        let bytes_done = self.bytes_done();
        let written = self.notes.advance(
            &self.group,
            &self.journal,
            &self.part,
            first_use,
            bytes_done,
        );
        if let Some(bytes_done) = written.await? {
            events.event(Event::Checkpoint { bytes_done });
        }
        let held = self.driver.held_blocks();
        // A digest needs the bytes in order: those before the first missing block.
        let missing = held.next_missing(BlockIndex(0));
        let blocks = BlockRange::new(0, missing.map_or(held.blocks(), |block| block.0));
        let bytes = self.geometry.bytes_of_range(blocks).end;
        self.follower.follow(&self.group, &self.part, bytes).await?;
        if self
            .progressed
            .is_none_or(|last| last.elapsed() >= PROGRESS_TIME)
        {
            self.progress(events);
        }
        Ok(())
    }

    fn bytes_done(&self) -> u64 {
        let claimed = self.driver.claimed_blocks().bytes(&self.geometry);
        self.driver.held_blocks().bytes(&self.geometry) + claimed
    }

    fn progress(&mut self, events: &mut dyn Events) {
        self.progressed = Some(Instant::now());
        events.event(Event::Progress(Progress {
            bytes_done: self.bytes_done(),
            bytes_total: self.geometry.length(),
            bytes_fetched: self.driver.bytes_fetched(),
            bytes_proven: self.driver.held_blocks().bytes(&self.geometry),
            rate_bps: self.driver.bytes_per_second(),
            files: None,
        }));
    }
}

/// Decides when to write the journal, and runs the work that writes it.
struct JournalWrites {
    /// Bytes proven since the last checkpoint.
    bytes_since_checkpoint: u64,
    checkpoint_began: Instant,
    /// The start of the last write of any kind.
    write_began: Instant,
    /// Writes records. Returns the number of records so far: a later sync makes their claims durable.
    writing: Option<Work<Result<u64, DiskError>>>,
    /// The bytes that no kill can lose once the current write ends. `None`: it is only an early write of leaves.
    checkpoint: Option<u64>,
    /// Syncs the part, then marks claims as durable.
    syncing: Option<Work<Result<(), DiskError>>>,
}

impl JournalWrites {
    fn new() -> JournalWrites {
        JournalWrites {
            bytes_since_checkpoint: 0,
            checkpoint_began: Instant::now(),
            write_began: Instant::now(),
            writing: None,
            checkpoint: None,
            syncing: None,
        }
    }

    fn add(&mut self, verified: Verified) {
        self.bytes_since_checkpoint += verified.bytes().length();
    }

    /// Starts work that is due and collects work that is done. `bytes_done`: proven or claimed now. Returns that count of a
    /// checkpoint whose write has ended: from now on a kill loses none of these bytes.
    async fn advance(
        &mut self,
        group: &Group,
        journal: &SharedJournal,
        part: &Arc<Part>,
        first_use: bool,
        bytes_done: u64,
    ) -> Result<Option<u64>, DiskError> {
        if let Some(syncing) = self.syncing.take_if(|work| work.is_finished()) {
            syncing.finish().await?;
        }
        let mut checkpoint = None;
        if let Some(writing) = self.writing.take_if(|work| work.is_finished()) {
            let records = writing.finish().await?;
            checkpoint = self.checkpoint;
            // The written claims survive a kill; after the sync they survive a power cut too.
            if checkpoint.is_some() && self.syncing.is_none() {
                let (journal, part) = (journal.clone(), part.clone());
                let work = move || sync(&journal, &part, records);
                self.syncing = Some(group.start(Threads::Blocking, work));
            }
        }
        let due = self.bytes_since_checkpoint >= CHECKPOINT_BYTES
            || (self.bytes_since_checkpoint > 0
                && self.checkpoint_began.elapsed() >= CHECKPOINT_TIME);
        let leaves_due = first_use && self.write_began.elapsed() >= LEAVES_TIME;
        if (due || leaves_due) && self.writing.is_none() {
            self.write_began = Instant::now();
            self.checkpoint = due.then_some(bytes_done);
            if due {
                (self.bytes_since_checkpoint, self.checkpoint_began) = (0, Instant::now());
            }
            let journal = journal.clone();
            let work = move || journal.lock().checkpoint();
            self.writing = Some(group.start(Threads::Blocking, work));
        }
        Ok(checkpoint)
    }

    async fn finish(&mut self) -> Result<(), DiskError> {
        if let Some(writing) = self.writing.take() {
            writing.finish().await?;
        }
        match self.syncing.take() {
            Some(syncing) => syncing.finish().await,
            None => Ok(()),
        }
    }
}

/// Syncs the part and marks the claims of the first `records` records as durable. A failed sync withdraws those claims.
fn sync(journal: &SharedJournal, part: &Part, records: u64) -> Result<(), DiskError> {
    match part.sync_data() {
        Ok(()) => journal.lock().barrier(records),
        Err(cause) => {
            journal.lock().sync_failed()?;
            Err(cause)
        }
    }
}

/// When dropped, stops the judging of claims and records all proven blocks in the journal. So a run that is dropped loses none.
struct LastCheckpoint {
    journal: SharedJournal,
    stop: Arc<AtomicBool>,
}

impl Drop for LastCheckpoint {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // If the journal cannot be written, the next run fetches these blocks again.
        let _ = self.journal.lock().checkpoint();
    }
}
