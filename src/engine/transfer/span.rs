//! One span: a range request and the processing of its body.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    sync::{Notify, mpsc::UnboundedSender, watch},
    time::sleep_until,
};

use crate::{
    disk::error::DiskError,
    engine::{
        blocking::{self, Group, Threads},
        remote::source::{Extent, Source, SourceRequest, SourceResponse},
    },
    format::{
        geometry::{BlockIndex, BlockRange, ByteRange},
        judge::{Leaves, Mismatch, Verified},
        validators::Validators,
    },
    net::error::NetError,
    policy::{recovery::Failure, schedule::SpanId},
};

use super::{
    assembler::{Assembler, Judged},
    sink::BlockSink,
};

/// The size of a batch: bytes that are judged and written together, while the next ones arrive.
const BATCH_BYTES: usize = 1 << 20;
/// The size of a batch on [`Threads::Runtime`], where nothing arrives meanwhile.
const BATCH_BYTES_ON_RUNTIME: usize = 256 << 10;
/// The longest time that received bytes wait for their batch to fill.
const BATCH_TIME: Duration = Duration::from_millis(50);

/// What a span reports to the driver.
pub enum SpanEvent {
    Opened,
    /// The body is the whole object although a range was requested. The span waits for permission before it reads the body.
    WholeBody,
    Bytes(u64),
    Verified(Verified),
    Wrong(Mismatch),
    Ended,
    Failed(NetError),
    Disk(DiskError),
}

/// The state that all spans of a transfer share.
pub struct Shared {
    pub leaves: Arc<Leaves>,
    pub sink: Arc<dyn BlockSink>,
    /// Without a manifest: the validators that every response must have.
    pub version: Option<Validators>,
    /// Which threads judge bytes and put them into the sink.
    pub threads: Threads,
    /// The group of that work.
    pub group: Group,
}

/// One request, and the blocks to read of its response.
pub struct Span {
    pub id: SpanId,
    pub source: Source,
    pub blocks: BlockRange,
    /// Request the whole object, without a range.
    pub whole: bool,
    /// The block before which to stop reading; may change while the span runs.
    pub end: Arc<AtomicU32>,
    /// The driver's permission to read a whole-object body after [`SpanEvent::WholeBody`].
    pub may_read_whole: Arc<Notify>,
    /// Which bytes of a whole-object body to read. Reading pauses at the end of this range, so that memory stays bounded: flow
    /// control holds back the rest.
    pub read_window: watch::Receiver<ByteRange>,
    pub shared: Arc<Shared>,
    pub sender: UnboundedSender<(SpanId, SpanEvent)>,
}

/// Work that judges a batch and puts its blocks into the sink. Returns the assembler, for the next batch, and the verdicts.
type Work = blocking::Work<Result<(Assembler, Vec<Judged>), DiskError>>;

/// Received bytes that wait to be judged together.
struct Batch {
    chunks: Vec<Bytes>,
    bytes: usize,
    /// When the first of them arrived.
    since: Instant,
    /// The work on the previous batch. `None` only while its end is awaited.
    work: Option<Work>,
}

impl Batch {
    fn new(assembler: Assembler) -> Batch {
        Batch {
            chunks: Vec::new(),
            bytes: 0,
            since: Instant::now(),
            work: Some(Work::Done(Ok((assembler, Vec::new())))),
        }
    }

    fn push(&mut self, chunk: Bytes) {
        if self.bytes == 0 {
            self.since = Instant::now();
        }
        self.bytes += chunk.len();
        self.chunks.push(chunk);
    }

    /// Whether bytes wait to be judged, or verdicts to be reported.
    fn is_pending(&self) -> bool {
        self.bytes > 0 || matches!(self.work, Some(Work::Running(_)))
    }
}

enum Fault {
    Net(NetError),
    Disk(DiskError),
}

impl From<NetError> for Fault {
    fn from(cause: NetError) -> Fault {
        Fault::Net(cause)
    }
}

impl From<DiskError> for Fault {
    fn from(cause: DiskError) -> Fault {
        Fault::Disk(cause)
    }
}

impl Span {
    /// Runs to its end and reports what happened. May be dropped at any time.
    pub async fn run(mut self) {
        let event = match self.fetch().await {
            Ok(()) => SpanEvent::Ended,
            Err(Fault::Net(cause)) => SpanEvent::Failed(cause),
            Err(Fault::Disk(cause)) => SpanEvent::Disk(cause),
        };
        self.send(event);
    }

    fn send(&self, event: SpanEvent) {
        // The receiver is gone when the transfer has ended; then there is nothing to report.
        let _ = self.sender.send((self.id, event));
    }

    async fn fetch(&mut self) -> Result<(), Fault> {
        let geometry = *self.shared.leaves.geometry();
        let wanted = geometry.bytes_of_range(self.blocks);
        let range = (!self.whole && !wanted.is_empty()).then_some(wanted);
        let mut response = self
            .source
            .open(SourceRequest {
                range,
                length: Some(geometry.length()),
                version: self.shared.version.as_ref(),
                // Without a manifest no leaf is known in advance.
                unproven: self.shared.leaves.are_first_use(),
                ..SourceRequest::default()
            })
            .await?;
        self.send(SpanEvent::Opened);
        let first = match response.extent() {
            Extent::Whole { .. } => {
                if !self.whole && wanted != geometry.bytes_of_range(geometry.all()) {
                    self.wait_to_read_whole().await;
                }
                let from = self.read_window.borrow().start;
                let first = geometry.block_at(from.min(geometry.length().saturating_sub(1)));
                response.skip_to(geometry.bytes_of(first).start);
                first
            }
            Extent::Range { .. } | Extent::Parts | Extent::Joined => BlockIndex(self.blocks.start),
        };
        self.receive(&mut response, first).await
    }

    /// Reports that the body is the whole object, and waits for permission to read it. If several spans get one, the driver lets
    /// one go on and cancels the others.
    async fn wait_to_read_whole(&self) {
        let blocks = self.shared.leaves.geometry().blocks();
        self.end.store(blocks, Ordering::Relaxed);
        self.send(SpanEvent::WholeBody);
        self.may_read_whole.notified().await;
    }

    async fn receive(
        &mut self,
        response: &mut SourceResponse,
        first: BlockIndex,
    ) -> Result<(), Fault> {
        let geometry = *self.shared.leaves.geometry();
        let is_whole = matches!(response.extent(), Extent::Whole { .. });
        let mut at = geometry.bytes_of(first).start;
        let mut batch = Batch::new(Assembler::new(&geometry, first));
        let batch_bytes = match self.shared.threads {
            Threads::Blocking => BATCH_BYTES,
            Threads::Runtime => BATCH_BYTES_ON_RUNTIME,
        };
        // Received bytes beyond the read window.
        let mut ahead = Bytes::new();
        loop {
            // The end may have changed meanwhile.
            let blocks = BlockRange::new(0, self.end.load(Ordering::Relaxed));
            let end = geometry.bytes_of_range(blocks).end;
            if at >= end {
                return self.flush(&mut batch, true).await;
            }
            if is_whole && at >= self.read_window.borrow_and_update().end {
                self.flush(&mut batch, true).await?;
                if at >= self.read_window.borrow_and_update().end
                    && self.read_window.changed().await.is_err()
                {
                    // The driver is gone, and this span ends with it.
                    return Ok(());
                }
                continue;
            }
            if batch.bytes >= batch_bytes
                || (batch.bytes > 0 && batch.since.elapsed() >= BATCH_TIME)
            {
                self.flush(&mut batch, false).await?;
            }
            let next = match ahead.is_empty() {
                true => self.next(response, &mut batch).await?,
                false => Ok(Some(std::mem::take(&mut ahead))),
            };
            let Ok(Some(mut chunk)) = next else {
                // The body ended early: complete blocks count, the rest is requested again.
                self.flush(&mut batch, true).await?;
                next?;
                // A 206 response may declare a shorter range than requested. Without one complete block it is a failure.
                let as_declared =
                    matches!(response.extent(), Extent::Range { until } if until == at);
                let has_block = at >= geometry.bytes_of(first).end;
                return match as_declared && has_block && !self.whole {
                    true => Ok(()),
                    false => Err(NetError::new(response.location(), Failure::Broken).into()),
                };
            };
            // Bytes after the end are not wanted.
            chunk.truncate(usize::try_from(end - at).unwrap_or(usize::MAX));
            if is_whole {
                let readable = self.read_window.borrow().end.saturating_sub(at);
                let within = usize::try_from(readable)
                    .unwrap_or(usize::MAX)
                    .min(chunk.len());
                ahead = chunk.split_off(within);
            }
            at += chunk.len() as u64;
            batch.push(chunk);
        }
    }

    /// Receives the next bytes. If none arrive for a while, judges the received ones, so that a stop loses none of them.
    ///
    /// The outer error comes from the sink, the inner one from the network: then complete blocks still count.
    async fn next(
        &self,
        response: &mut SourceResponse,
        batch: &mut Batch,
    ) -> Result<Result<Option<Bytes>, NetError>, Fault> {
        let mut next = pin!(response.next());
        let next = loop {
            tokio::select! {
                biased;
                next = &mut next => break next,
                () = sleep_until((batch.since + BATCH_TIME).into()), if batch.is_pending() => {
                    self.flush(batch, true).await?;
                }
            }
        };
        let chunk = next.map(|next| next.map(|(_, chunk)| chunk));
        if let Ok(Some(chunk)) = &chunk {
            self.send(SpanEvent::Bytes(chunk.len() as u64));
        }
        Ok(chunk)
    }

    /// Waits for the work on the previous batch, then starts to judge this one and to put its proven blocks into the sink. With
    /// `wait`, waits for that too.
    async fn flush(&self, batch: &mut Batch, wait: bool) -> Result<(), Fault> {
        let assembler = self.settle(batch).await?;
        let (chunks, shared) = (std::mem::take(&mut batch.chunks), self.shared.clone());
        batch.bytes = 0;
        let work = move || {
            let mut assembler = assembler;
            let judged = assembler.take(chunks, &shared.leaves, &*shared.sink)?;
            Ok((assembler, judged))
        };
        batch.work = Some(self.shared.group.start(self.shared.threads, work));
        if wait || self.shared.threads == Threads::Runtime {
            let assembler = self.settle(batch).await?;
            batch.work = Some(Work::Done(Ok((assembler, Vec::new()))));
        }
        Ok(())
    }

    /// Waits for the current work and reports its verdicts.
    async fn settle(&self, batch: &mut Batch) -> Result<Assembler, Fault> {
        let work = batch.work.take().expect("nothing else awaits its end");
        let (assembler, judged) = work.finish().await?;
        for judged in judged {
            self.send(match judged {
                Judged::Held(verified) => SpanEvent::Verified(verified),
                Judged::Wrong(mismatch) => SpanEvent::Wrong(mismatch),
            });
        }
        Ok(assembler)
    }
}
