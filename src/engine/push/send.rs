//! Sending the parts of a source: they are read ahead, targets are requested for several at once, some are sent at a time.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::{
    disk::error::DiskError,
    engine::{
        events::{Event, PushProgress},
        remote::retry::tell,
        transfer::rate::Rate,
        upload::content::Counters,
    },
    format::{
        ingest::{Finished, REQUEST_LEAVES_MAX, State, TARGETS_MAX, Target},
        tree::{self, Cv, Root},
    },
};

use super::{
    PushOptions,
    api::Api,
    base::Base,
    check_size,
    failed::Failed,
    growing::Growing,
    part::{Had, PartFailed, Sending, offer, offered_leaves},
    sessions::Session,
    source::{Reader, SourceFile, SourcePart, Whole},
};

/// Parts that are described before they can be sent, beyond those that are being sent.
const AHEAD: usize = 2;
/// Requests for targets at a time, where the storage copies for them.
const REQUESTS_AT_ONCE: usize = 3;
/// Parts of such a request: its response comes when all are copied, and must not take long.
const COPIED_AT_ONCE: usize = 4;
/// The most bytes of parts that are described and not stored: those of a stream lie on the disk.
const AHEAD_BYTES_MAX: u64 = 1 << 30;

/// The parts of a push, as far as they are known.
pub struct Sender<'a> {
    pub api: Api<'a>,
    pub session: Session,
    /// `None`: a stream, or a file that grows.
    file: Option<Arc<SourceFile>>,
    growing: Option<Arc<Growing>>,
    at_once: usize,
    run: Counters,
    described: BTreeMap<u32, (Finished, Arc<[Cv]>)>,
    /// What is known to have been read.
    end: u64,
    done: Done,
    rate: Rate,
    ticks: Interval,
    base: Option<Arc<Base>>,
}

/// Bytes of parts that the storage has.
#[derive(Default)]
struct Done {
    stored: u64,
    /// Those of them that this run did not send.
    had: Had,
}

type Stored = (Arc<SourcePart>, Result<Had, PartFailed>);
type Requested = (Vec<Arc<SourcePart>>, Result<Vec<Target>, Failed>);

/// Parts on their way.
#[derive(Default)]
struct Queues<'f> {
    /// Described.
    ready: VecDeque<Arc<SourcePart>>,
    requested: FuturesUnordered<BoxFuture<'f, Requested>>,
    targeted: VecDeque<(Arc<SourcePart>, Target)>,
    sending: FuturesUnordered<BoxFuture<'f, Stored>>,
    /// Of all of them.
    count: usize,
    bytes: u64,
    /// What was sent of each part that is being sent.
    counters: BTreeMap<u32, Counters>,
}

/// At most so many parts for one request for targets.
fn batch(ready: &mut VecDeque<Arc<SourcePart>>, most: usize) -> Vec<Arc<SourcePart>> {
    let (mut parts, mut leaves) = (Vec::new(), 0);
    while let Some(part) = ready.front() {
        leaves += offered_leaves(part);
        if parts.len() == most || !parts.is_empty() && leaves > REQUEST_LEAVES_MAX {
            break;
        }
        parts.extend(ready.pop_front());
    }
    parts
}

impl<'a> Sender<'a> {
    pub fn new(
        api: Api<'a>,
        session: Session,
        (file, growing): (Option<Arc<SourceFile>>, Option<Arc<Growing>>),
        at_once: u32,
        run: Counters,
    ) -> Sender<'a> {
        let second = Duration::from_secs(1);
        let mut ticks = interval_at(Instant::now() + second, second);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Sender {
            api,
            session,
            file,
            growing,
            at_once: at_once.max(1) as usize,
            run,
            described: BTreeMap::new(),
            end: 0,
            done: Done::default(),
            rate: Rate::new(),
            ticks,
            base: None,
        }
    }

    /// The length of what was read.
    pub fn length(&self) -> u64 {
        self.end
    }

    /// The root of what was read, from the first part to the last.
    pub fn root(&self) -> Root {
        tree::root_of(&self.leaves())
    }

    fn leaves(&self) -> Vec<Cv> {
        let leaves = self
            .described
            .values()
            .flat_map(|(_, leaves)| leaves.iter());
        leaves.copied().collect()
    }

    /// All that was read.
    pub fn whole(&self) -> Whole {
        Whole {
            parts: self.described.values().map(|(part, _)| *part).collect(),
            leaves: self.leaves(),
        }
    }

    /// Copies what this object has of the parts that follow.
    pub fn set_base(&mut self, base: Option<Base>) {
        self.base = base.map(Arc::new);
    }

    /// Bytes that were copied from an earlier object.
    pub fn bytes_copied(&self) -> u64 {
        self.done.had.copied
    }

    /// Bytes that the storage had before, or copied.
    pub fn bytes_reused(&self) -> u64 {
        self.done.had.bytes
    }

    /// Reads all parts of the reader, and sends those that the storage does not have.
    pub async fn send_all(
        &mut self,
        mut reader: Reader,
        options: &PushOptions,
    ) -> Result<(), PartFailed> {
        let api = self.api;
        let mut queues = Queues::default();
        let mut is_reading = true;
        loop {
            self.start(&api, &mut queues);
            let has_room = queues.count == 0
                || queues.count < self.at_once + AHEAD && queues.bytes < AHEAD_BYTES_MAX;
            if !is_reading && queues.count == 0 {
                return Ok(());
            }
            tokio::select! {
                biased;
                Some((part, outcome)) = queues.sending.next() => {
                    self.sent(&mut queues, &part, &outcome?);
                }
                Some((parts, targets)) = queues.requested.next() => {
                    queues.targeted.extend(parts.into_iter().zip(targets?));
                }
                part = reader.next(), if is_reading && has_room => match part? {
                    Some(part) => {
                        // Of a stream the length shows only now.
                        check_size(part.bytes.end, options)?;
                        self.described(&mut queues, part)?;
                    }
                    None => is_reading = false,
                },
                _ = self.ticks.tick() => self.tell_progress(&queues),
            }
        }
    }

    /// Starts what can be started.
    fn start<'f>(&mut self, api: &Api<'f>, queues: &mut Queues<'f>)
    where
        'a: 'f,
    {
        let id = self.session.id;
        // A storage that copies takes longer: others are sent meanwhile.
        let (requests, most) = match &self.base {
            Some(_) => (REQUESTS_AT_ONCE, COPIED_AT_ONCE),
            None => (1, TARGETS_MAX),
        };
        while queues.requested.len() < requests && !queues.ready.is_empty() {
            let parts = batch(&mut queues.ready, most);
            let (api, base) = (*api, self.base.clone());
            let request = async move {
                let base = base.as_deref();
                let offers: Vec<_> = parts.iter().map(|part| offer(part, base)).collect();
                let targets = api.targets(id, base.map(Base::object), &offers).await;
                (parts, targets)
            };
            queues.requested.push(request.boxed());
        }
        while queues.sending.len() < self.at_once
            && let Some((part, target)) = queues.targeted.pop_front()
        {
            let counters = Counters {
                run: self.run.run.clone(),
                ..Counters::default()
            };
            queues.counters.insert(part.index, counters.clone());
            let sending = Sending {
                api: *api,
                session: id,
                is_own: self.session.is_own,
                part: part.clone(),
                base: self.base.clone(),
                file: self.file.clone(),
                counters,
            };
            let sent = async move {
                let outcome = sending.run(target).await;
                (part, outcome)
            };
            queues.sending.push(sent.boxed());
        }
    }

    /// Takes a part that was read. One that the storage has is not sent.
    fn described(&mut self, queues: &mut Queues<'_>, part: SourcePart) -> Result<(), PartFailed> {
        let length = part.bytes.length();
        let described = Finished {
            index: part.index,
            length,
            sha256: part.sha256,
        };
        let described = (described, part.leaves.clone());
        let earlier = self.described.insert(part.index, described);
        if earlier.is_some_and(|(_, leaves)| leaves != part.leaves) {
            let path = part.stored.path.to_path_buf();
            return Err(PartFailed::Error(
                DiskError::ChangedWhileRead { path }.into(),
            ));
        }
        self.end = self.end.max(part.bytes.end);
        // The server has all parts of a session that it publishes, or tells which ones are missing.
        let is_closed = self.session.state != State::Open;
        match self.session.finished.get(&part.index) {
            Some(finished) if finished.sha256 == part.sha256 && finished.length == length => {
                self.done.stored += length;
                self.done.had.bytes += length;
                Ok(())
            }
            Some(_) if !self.session.is_own => Err(PartFailed::OtherSession),
            _ if is_closed => Ok(()),
            _ => {
                queues.count += 1;
                queues.bytes += length;
                queues.ready.push_back(Arc::new(part));
                Ok(())
            }
        }
    }

    /// Counts a part that the storage has now.
    fn sent(&mut self, queues: &mut Queues<'_>, part: &SourcePart, had: &Had) {
        let length = part.bytes.length();
        queues.count -= 1;
        queues.bytes -= length;
        queues.counters.remove(&part.index);
        self.done.stored += length;
        self.done.had.bytes += had.bytes;
        self.done.had.copied += had.copied;
        if self.growing.is_some() {
            // It is compared with the file once more.
            let (part, _) = &self.described[&part.index];
            self.session.finished.insert(part.index, *part);
        }
        tell(Event::Checkpoint {
            bytes_done: self.done.stored,
        });
    }

    fn tell_progress(&mut self, queues: &Queues<'_>) {
        let on_the_way = queues.counters.values();
        let on_the_way: u64 = on_the_way.map(|of| of.part.load(Ordering::Relaxed)).sum();
        let sent = self.run.run.load(Ordering::Relaxed);
        self.rate.set(sent);
        tell(Event::PushProgress(PushProgress {
            bytes_done: self.done.stored + on_the_way,
            bytes_total: self.session.plan.length(),
            bytes_recorded: self.growing.as_ref().map(|growing| growing.length()),
            bytes_sent: sent,
            rate_bps: self.rate.bytes_per_second(),
        }));
    }

    /// The server says that it lacks these parts, or has them with other bytes.
    pub fn send_again(&mut self, parts: &[u32]) {
        self.session.state = State::Open;
        for index in parts {
            if let Some(part) = self.session.finished.remove(index) {
                self.done.stored = self.done.stored.saturating_sub(part.length);
                self.done.had.bytes = self.done.had.bytes.saturating_sub(part.length);
            }
        }
    }
}
