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
        remote::source::{Extent, Source, SourceRequest, SourceResponse, packed::Pack},
    },
    format::{
        geometry::{BlockIndex, BlockRange, ByteRange, Geometry},
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

/// After a response that ended early with at least this many bytes, the smallest block, the span goes on from its last byte. With
/// fewer it fails.
const GOES_ON_BYTES_MIN: u64 = 16 << 10;

/// What a span reports to the driver.
pub enum SpanEvent {
    /// The pack of the object took so many milliseconds before its source was requested.
    Late(u64),
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
    /// A response that came before the transfer: it is read before anything is requested.
    pub first: Option<Box<SourceResponse>>,
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
    /// The pack, once any bytes came from it.
    pack: Option<Pack>,
    /// The work on the previous batch. `None` only while its end is awaited.
    work: Option<Work>,
}

impl Batch {
    fn new(assembler: Assembler) -> Batch {
        Batch {
            chunks: Vec::new(),
            bytes: 0,
            since: Instant::now(),
            pack: None,
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

/// What the responses of a span delivered.
struct Progress {
    /// The offset of the next byte.
    at: u64,
    /// The bytes before it whose block is not complete.
    batch: Batch,
}

impl Progress {
    fn new(geometry: &Geometry, first: BlockIndex) -> Progress {
        Progress {
            at: geometry.bytes_of(first).start,
            batch: Batch::new(Assembler::new(geometry, first)),
        }
    }
}

/// How much of the rest of a span a response delivered.
enum Received {
    All,
    Some,
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
        let first = BlockIndex(self.blocks.start);
        let mut progress = Progress::new(&geometry, first);
        let mut opened = false;
        loop {
            let mut response = match self.first.take() {
                Some(first) => *first,
                None => {
                    let rest = ByteRange::new(progress.at, self.end().max(progress.at));
                    let response = self.request(rest).await?;
                    if !std::mem::replace(&mut opened, true) {
                        if response.late_ms() > 0 {
                            self.send(SpanEvent::Late(response.late_ms()));
                        }
                        self.send(SpanEvent::Opened);
                    }
                    response
                }
            };
            if matches!(response.extent(), Extent::Whole { .. }) {
                if !self.whole && wanted != geometry.bytes_of_range(geometry.all()) {
                    self.wait_to_read_whole().await;
                }
                let from = self.read_window.borrow().start;
                let first = geometry.block_at(from.min(geometry.length().saturating_sub(1)));
                progress = Progress::new(&geometry, first);
                response.skip_to(progress.at);
            }
            if let Received::All = self.receive(&mut response, &mut progress).await? {
                return Ok(());
            }
        }
    }

    /// Requests this range, or everything.
    async fn request(&self, rest: ByteRange) -> Result<SourceResponse, NetError> {
        let request = SourceRequest {
            range: (!self.whole && !rest.is_empty()).then_some(rest),
            length: Some(self.shared.leaves.geometry().length()),
            version: self.shared.version.as_ref(),
            // Without a manifest no leaf is known in advance.
            unproven: self.shared.leaves.are_first_use(),
            ..SourceRequest::default()
        };
        self.source.open(request).await
    }

    /// The offset at which to stop reading; may change while the span runs.
    fn end(&self) -> u64 {
        let blocks = BlockRange::new(0, self.end.load(Ordering::Relaxed));
        self.shared.leaves.geometry().bytes_of_range(blocks).end
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
        progress: &mut Progress,
    ) -> Result<Received, Fault> {
        let Progress { at, batch } = progress;
        if let Some(pack) = response.pack() {
            batch.pack = Some(pack.clone());
        }
        let is_whole = matches!(response.extent(), Extent::Whole { .. });
        let first = *at;
        let batch_bytes = match self.shared.threads {
            Threads::Blocking => BATCH_BYTES,
            Threads::Runtime => BATCH_BYTES_ON_RUNTIME,
        };
        // Received bytes beyond the read window.
        let mut ahead = Bytes::new();
        loop {
            let end = self.end();
            if *at >= end {
                self.flush(batch, true).await?;
                return Ok(Received::All);
            }
            if is_whole && *at >= self.read_window.borrow_and_update().end {
                self.flush(batch, true).await?;
                if *at >= self.read_window.borrow_and_update().end
                    && self.read_window.changed().await.is_err()
                {
                    // The driver is gone, and this span ends with it.
                    return Ok(Received::All);
                }
                continue;
            }
            if batch.bytes >= batch_bytes
                || (batch.bytes > 0 && batch.since.elapsed() >= BATCH_TIME)
            {
                self.flush(batch, false).await?;
            }
            let next = match ahead.is_empty() {
                true => self.next(response, batch).await?,
                false => Ok(Some(std::mem::take(&mut ahead))),
            };
            let Ok(Some(mut chunk)) = next else {
                // The body ended early, as it declared (RFC 9110, 15.3.7) or not: complete blocks count.
                self.flush(batch, true).await?;
                let broken = || NetError::new(response.location(), Failure::Broken);
                let cause = next.err().unwrap_or_else(broken);
                let goes_on = !is_whole
                    && cause.failure == Failure::Broken
                    && (*at - first >= GOES_ON_BYTES_MIN || response.is_received());
                return match goes_on {
                    true => Ok(Received::Some),
                    false => Err(cause.into()),
                };
            };
            // Bytes after the end are not wanted.
            chunk.truncate(usize::try_from(end - *at).unwrap_or(usize::MAX));
            if is_whole {
                let readable = self.read_window.borrow().end.saturating_sub(*at);
                let within = usize::try_from(readable)
                    .unwrap_or(usize::MAX)
                    .min(chunk.len());
                ahead = chunk.split_off(within);
            }
            *at += chunk.len() as u64;
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
                Judged::Wrong(mismatch) => {
                    // What a pack gave says nothing about the source of the object, which is requested instead.
                    if let Some(pack) = &batch.pack {
                        pack.note_wrong();
                        return Err(NetError::new(self.source.location(), Failure::Broken).into());
                    }
                    SpanEvent::Wrong(mismatch)
                }
            });
        }
        Ok(assembler)
    }
}
