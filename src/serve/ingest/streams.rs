//! Bytes of which the client says nothing but where they belong (upload-clients.md): one request at a time writes them, and the latest
//! one wins, since an earlier one may belong to a connection that is gone.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::body::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::{Mutex as Turn, OwnedMutexGuard, watch},
    time::Instant,
};

use crate::{
    engine::{
        ingest::IngestError,
        storage::{PartAppender, StorageError, UnknownPart},
    },
    format::upload::SessionId,
    policy::{
        parts::PartPlan,
        upload::{FinishedPart, Owner},
    },
};

use super::{Uploads, arrivals::Arrivals, cut::Cut};

/// A part that is open and gets no bytes for so long is closed: what is durable of it stays.
const IDLE_TIME: Duration = Duration::from_secs(600);
/// So many parts are open at a time, besides those that get bytes. In S3 each has a file of at most one part.
const OPEN_MAX: usize = 256;
/// Of an open part so many bytes more are made durable while they arrive.
const NOTE_BYTES: u64 = 64 << 20;

/// The stream of a session, or one of its parts.
pub type Key = (SessionId, Option<u32>);

/// What is being written, and what a later request goes on with.
#[derive(Default)]
pub struct Streams(Mutex<HashMap<Key, Arc<Live>>>);

struct Live {
    /// Counts the requests.
    newest: watch::Sender<u64>,
    open: Arc<Turn<Option<Open>>>,
    used: Mutex<Instant>,
    /// What a request said later than the creation.
    length: Mutex<Option<u64>>,
}

/// A part that takes bytes.
struct Open {
    index: u32,
    start: u64,
    longest: u64,
    appender: Box<dyn PartAppender>,
    /// So many bytes are durable.
    noted: u64,
}

/// The right to write, until a later request wants it.
pub struct Held {
    live: Arc<Live>,
    open: OwnedMutexGuard<Option<Open>>,
    newest: watch::Receiver<u64>,
    mine: u64,
}

impl Streams {
    /// Ends the request that writes, and waits for it.
    pub async fn take(&self, key: Key) -> Result<Held, Cut> {
        let (live, newest) = {
            let mut all = self.0.lock();
            shrink(&mut all);
            let live = all.entry(key).or_insert_with(|| {
                Arc::new(Live {
                    newest: watch::Sender::new(0),
                    open: Arc::default(),
                    used: Mutex::new(Instant::now()),
                    length: Mutex::default(),
                })
            });
            *live.used.lock() = Instant::now();
            live.newest.send_modify(|number| *number += 1);
            (live.clone(), live.newest.subscribe())
        };
        let mine = *newest.borrow();
        let held = Held {
            open: live.open.clone().lock_owned().await,
            live,
            newest,
            mine,
        };
        match held.is_superseded() {
            true => Err(Cut::Superseded),
            false => Ok(held),
        }
    }

    /// Closes what is open of a session that has ended.
    pub fn forget(&self, id: SessionId) {
        self.0.lock().retain(|(session, _), _| *session != id);
    }

    /// Closes what gets no bytes any more.
    pub fn close_idle(&self) {
        let is_idle = |live: &Arc<Live>| live.is_free() && live.used.lock().elapsed() > IDLE_TIME;
        self.0.lock().retain(|_, live| !is_idle(live));
    }
}

/// Makes room for one more.
fn shrink(all: &mut HashMap<Key, Arc<Live>>) {
    if all.len() < OPEN_MAX {
        return;
    }
    let free = all.iter().filter(|(_, live)| live.is_free());
    let oldest = free.min_by_key(|(_, live)| *live.used.lock());
    if let Some(key) = oldest.map(|(key, _)| *key) {
        all.remove(&key);
    }
}

impl Live {
    /// No request has it.
    fn is_free(&self) -> bool {
        Arc::strong_count(&self.open) == 1
    }
}

impl Held {
    fn is_superseded(&self) -> bool {
        *self.newest.borrow() != self.mine
    }

    /// Where the open part ends, if there is one with this index.
    pub fn offset(&mut self, index: u32) -> Option<u64> {
        if self.open.as_ref().is_some_and(|open| open.index != index) {
            *self.open = None;
        }
        let open = self.open.as_ref()?;
        Some(open.start + open.appender.length())
    }

    /// The length of the object, if a request said it later than the creation, and nothing was forgotten since.
    pub fn told_length(&self) -> Option<u64> {
        *self.live.length.lock()
    }

    /// See [`Held::told_length`].
    pub fn tell_length(&self, length: u64) {
        *self.live.length.lock() = Some(length);
    }

    /// What is open is not needed.
    pub fn close(&mut self) {
        *self.open = None;
    }

    /// The next bytes, unless a later request wants to write.
    async fn next(&mut self, arrivals: &mut Arrivals<'_>) -> Result<Option<Bytes>, Cut> {
        let mine = self.mine;
        let superseded = async {
            // The sender lives as long as the map has it, or nobody can want more.
            if self
                .newest
                .wait_for(|newest| *newest != mine)
                .await
                .is_err()
            {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            () = superseded => Err(Cut::Superseded),
            next = arrivals.next() => next,
        }
    }
}

/// Where the bytes of a stream go.
pub struct Run<'a> {
    pub uploads: &'a Uploads,
    pub owner: &'a Owner,
    pub id: SessionId,
    pub plan: PartPlan,
    pub held: &'a mut Held,
    /// The part that is next, and where the stream is.
    pub index: u32,
    pub offset: u64,
    /// The parts of this run begin at their start, whatever is here.
    pub is_new: bool,
    /// What the client says of the body.
    pub declared: Option<u64>,
}

impl Run<'_> {
    /// Takes all that comes. What has come is durable then, where the storage can, also if not all came.
    pub async fn take_all(&mut self, arrivals: &mut Arrivals<'_>) -> Result<(), Cut> {
        let taken = self.take(arrivals).await;
        if matches!(
            taken,
            Err(Cut::Ingest(_) | Cut::Offset { .. } | Cut::TooLong)
        ) {
            // It may be in any state, or be of an object that has another length than was said.
            self.held.close();
        }
        if let Some(open) = self.held.open.as_mut()
            && let Err(cause) = open.pause().await
        {
            self.held.close();
            taken?;
            return Err(cause.into());
        }
        taken
    }

    async fn take(&mut self, arrivals: &mut Arrivals<'_>) -> Result<(), Cut> {
        if self.held.open.is_some() {
            self.count(arrivals.arrived).await?;
        }
        while let Some(mut chunk) = self.held.next(arrivals).await? {
            while !chunk.is_empty() {
                self.open(arrivals.arrived - chunk.len() as u64).await?;
                let Some(open) = self.held.open.as_mut() else {
                    // That was whole, and is finished now.
                    continue;
                };
                let room = open.longest - open.appender.length();
                if room == 0 {
                    return Err(Cut::TooLong);
                }
                let some =
                    chunk.split_to(chunk.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
                self.offset += some.len() as u64;
                open.appender.write(some).await?;
                if open.appender.length() == open.longest {
                    // More than all may come in a body of which no length is said: that is no object.
                    if self.declared.is_some() || self.plan.length() != Some(self.offset) {
                        self.finish_part().await?;
                    }
                } else if open.appender.length() - open.noted >= NOTE_BYTES {
                    open.pause().await?;
                }
            }
        }
        let arrived = arrivals.arrived;
        match self.declared.is_none_or(|declared| declared == arrived) {
            true => Ok(()),
            false => Err(Cut::TooShort),
        }
    }

    /// The stream ends here: its last part is finished.
    pub async fn finish(&mut self) -> Result<(), Cut> {
        let is_begun = self
            .plan
            .part(self.index)
            .is_some_and(|part| part.start < self.offset);
        if self.held.open.is_none() && (is_begun || self.offset == 0) {
            self.open(0).await?;
        }
        match self.held.open.is_some() {
            true => self.finish_part().await,
            false => Ok(()),
        }
    }

    /// Opens the part that is next, if none is open. `arrived`: what has come of the body before.
    async fn open(&mut self, arrived: u64) -> Result<(), Cut> {
        if self.held.open.is_some() {
            return Ok(());
        }
        let planned = self.plan.part(self.index).ok_or(Cut::TooLong)?;
        let part = UnknownPart {
            index: self.index,
            longest: planned.length(),
            is_new: self.is_new,
        };
        let appender = self.uploads.ingest.append(self.id, part).await?;
        let expected = planned.start + appender.length();
        if expected != self.offset {
            return Err(Cut::Offset { expected });
        }
        *self.held.open = Some(Open {
            index: self.index,
            start: planned.start,
            longest: planned.length(),
            noted: appender.length(),
            appender,
        });
        self.count(arrived).await?;
        // It was whole, and not noted as finished.
        match planned.end == self.offset && planned.length() > 0 {
            true => self.finish_part().await,
            false => Ok(()),
        }
    }

    /// Counts what the open part gets.
    async fn count(&self, arrived: u64) -> Result<(), Cut> {
        let Some(open) = self.held.open.as_ref() else {
            return Ok(());
        };
        let length = open.appender.length();
        let coming = self
            .declared
            .map(|declared| declared.saturating_sub(arrived));
        let then = coming.map_or(open.longest, |coming| open.longest.min(length + coming));
        let counting = self
            .uploads
            .ingest
            .count(self.id, open.index, then, open.appender.adds());
        Ok(counting.await?)
    }

    async fn finish_part(&mut self) -> Result<(), Cut> {
        let Some(open) = self.held.open.take() else {
            return Ok(());
        };
        let part = open.appender.finish().await?;
        self.uploads.finished(self.owner, self.id, part).await?;
        self.index = open.index + 1;
        // What was noted of later parts is of an earlier run.
        self.is_new = true;
        Ok(())
    }
}

impl Open {
    async fn pause(&mut self) -> Result<(), StorageError> {
        self.appender.pause().await?;
        self.noted = self.appender.length();
        Ok(())
    }
}

impl Uploads {
    /// Notes a part whose SHA-256 the storage computed.
    pub(super) async fn finished(
        &self,
        owner: &Owner,
        id: SessionId,
        part: FinishedPart,
    ) -> Result<FinishedPart, IngestError> {
        let replaces = true;
        self.ingest.checkpoint(owner, id, part, replaces).await
    }

    /// Takes a whole part of this length.
    pub(super) async fn take_part(
        &self,
        owner: &Owner,
        held: &mut Held,
        (id, index, length): (SessionId, u32, u64),
        arrivals: &mut Arrivals<'_>,
    ) -> Result<FinishedPart, Cut> {
        let part = UnknownPart {
            index,
            longest: length,
            is_new: true,
        };
        let mut appender = self.ingest.append(id, part).await?;
        self.ingest
            .count(id, index, length, appender.adds())
            .await?;
        while let Some(chunk) = held.next(arrivals).await? {
            appender.write(chunk).await?;
        }
        if appender.length() != length {
            return Err(Cut::TooShort);
        }
        let part = appender.finish().await?;
        Ok(self.finished(owner, id, part).await?)
    }
}
