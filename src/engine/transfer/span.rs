//! One span: a ranged request and what becomes of its bytes.

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
    sync::{Notify, mpsc::UnboundedSender},
    time::sleep_until,
};

use crate::{
    disk::{
        error::DiskError,
        part::{Part, Stored},
    },
    engine::{
        blocking::{self, Group, Threads},
        remote::source::{Arriving, Ask, Extent, Source},
    },
    format::{
        geometry::{BlockIndex, BlockRange},
        judge::{Leaves, Mismatch},
    },
    net::{client::Client, error::NetError, validators::Validators},
    policy::{recovery::Failure, schedule::SpanId},
};

use super::assembler::{Assembler, Judged};

/// Bytes that are judged and written in one go; the next ones arrive meanwhile.
const BATCH_BYTES: usize = 1 << 20;
/// The same where nothing arrives meanwhile.
const BATCH_BYTES_ON_RUNTIME: usize = 256 << 10;
/// A slow connection's bytes do not wait longer than this for others.
const BATCH_TIME: Duration = Duration::from_millis(50);

/// What a span tells the transfer.
pub enum Told {
    Opened,
    /// The whole object comes although a range was asked for. It is not read before the span is let go on.
    WholeBody,
    Bytes(u64),
    Proven(Stored),
    Wrong(Mismatch),
    Ended,
    Failed(NetError),
    Disk(DiskError),
}

/// What all spans of a run share.
pub struct Shared {
    pub client: Client,
    pub leaves: Arc<Leaves>,
    pub part: Arc<Part>,
    /// Without a manifest: the version that all parts must be of.
    pub version: Option<Validators>,
    /// Where bytes are judged and written, and what waits for the end of it.
    pub work_on: Threads,
    pub group: Group,
}

/// One request.
pub struct Span {
    pub id: SpanId,
    pub source: Source,
    pub blocks: BlockRange,
    pub whole: bool,
    /// Where it ends; may move forward while it runs.
    pub end: Arc<AtomicU32>,
    /// Lets a span go on whose answer is the whole object.
    pub go: Arc<Notify>,
    pub shared: Arc<Shared>,
    pub tell: UnboundedSender<(SpanId, Told)>,
}

/// Bytes being judged and written elsewhere.
type Work = blocking::Work<Result<(Assembler, Vec<Judged>), DiskError>>;

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
    /// Runs to its end and tells what happened. May be dropped at any time.
    pub async fn run(self) {
        let told = match self.fetch().await {
            Ok(()) => Told::Ended,
            Err(Fault::Net(cause)) => Told::Failed(cause),
            Err(Fault::Disk(cause)) => Told::Disk(cause),
        };
        self.tell(told);
    }

    fn tell(&self, told: Told) {
        // Nobody listens any more when the run has ended; then nothing is to be told.
        let _ = self.tell.send((self.id, told));
    }

    async fn fetch(&self) -> Result<(), Fault> {
        let geometry = self.shared.leaves.geometry();
        let wanted = geometry.bytes_of_range(self.blocks);
        let range = (!self.whole && !wanted.is_empty()).then_some(wanted);
        let mut arriving = self
            .source
            .open(Ask {
                range,
                length: Some(geometry.length()),
                version: self.shared.version.as_ref(),
                // Without a manifest only the length shows that parts belong to the same object.
                unproven: self.shared.leaves.are_first_use(),
                ..Ask::default()
            })
            .await?;
        self.tell(Told::Opened);
        let first = match arriving.extent() {
            Extent::Whole { .. }
                if !self.whole && wanted != geometry.bytes_of_range(geometry.all()) =>
            {
                self.take_whole().await
            }
            Extent::Whole { .. } => BlockIndex(0),
            Extent::Asked { .. } | Extent::Parts | Extent::Joined => BlockIndex(self.blocks.start),
        };
        self.receive(&mut arriving, first).await
    }

    /// The whole object comes, whatever was asked for: all of it is taken, by one of the spans to which that happens. The others
    /// are cancelled before they have read any of it.
    async fn take_whole(&self) -> BlockIndex {
        let blocks = self.shared.leaves.geometry().blocks();
        self.end.store(blocks, Ordering::Relaxed);
        self.tell(Told::WholeBody);
        self.go.notified().await;
        BlockIndex(0)
    }

    async fn receive(&self, arriving: &mut Arriving, first: BlockIndex) -> Result<(), Fault> {
        let geometry = self.shared.leaves.geometry();
        let mut at = geometry.bytes_of(first).start;
        let mut work: Option<Work> = None;
        let mut assembler = Some(Assembler::new(geometry, first));
        let mut batch: Vec<Bytes> = Vec::new();
        let mut batched = 0;
        let mut since = Instant::now();
        let batch_bytes = match self.shared.work_on {
            Threads::Blocking => BATCH_BYTES,
            Threads::Runtime => BATCH_BYTES_ON_RUNTIME,
        };
        loop {
            // It may have been moved while we waited.
            let end = geometry
                .bytes_of_range(BlockRange::new(0, self.end.load(Ordering::Relaxed)))
                .end;
            let ended = at >= end;
            if ended || batched >= batch_bytes || (batched > 0 && since.elapsed() >= BATCH_TIME) {
                let ready = self.ready(&mut work, &mut assembler).await?;
                (assembler, work) = self.judge(ready, std::mem::take(&mut batch))?;
                batched = 0;
            }
            if ended {
                self.finish(&mut work).await?;
                return Ok(());
            }
            let next = {
                let mut next = pin!(arriving.next());
                loop {
                    tokio::select! {
                        biased;
                        next = &mut next => break next,
                        // Nothing comes: what is here is not kept waiting, and a stop loses none of it.
                        () = sleep_until((since + BATCH_TIME).into()), if batched > 0 || work.is_some() => {
                            let ready = self.ready(&mut work, &mut assembler).await?;
                            (assembler, work) = self.judge(ready, std::mem::take(&mut batch))?;
                            assembler = Some(self.ready(&mut work, &mut assembler).await?);
                            batched = 0;
                        }
                    }
                }
            };
            let mut chunk = match next {
                Ok(Some((_, chunk))) => chunk,
                // The server ends early: what came whole counts, the rest is asked for again.
                early => {
                    let ready = self.ready(&mut work, &mut assembler).await?;
                    (_, work) = self.judge(ready, batch)?;
                    self.finish(&mut work).await?;
                    early?;
                    // A server may send less than it is asked for, if it says so. What it never sends a block of, it breaks.
                    let less = matches!(arriving.extent(), Extent::Asked { until } if until == at);
                    let enough = at >= geometry.bytes_of(first).end;
                    if less && enough && !self.whole {
                        return Ok(());
                    }
                    return Err(NetError::new(arriving.location(), Failure::Broken).into());
                }
            };
            self.tell(Told::Bytes(chunk.len() as u64));
            // Nothing behind the end is wanted.
            chunk.truncate(usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX));
            at += chunk.len() as u64;
            if batched == 0 {
                since = Instant::now();
            }
            batched += chunk.len();
            batch.push(chunk);
        }
    }

    /// Judges and writes a batch. The assembler comes back at once, or with the work.
    fn judge(
        &self,
        mut assembler: Assembler,
        batch: Vec<Bytes>,
    ) -> Result<(Option<Assembler>, Option<Work>), DiskError> {
        if self.shared.work_on == Threads::Runtime {
            let judged = assembler.take(batch, &self.shared.leaves, &self.shared.part)?;
            self.tell_judged(judged);
            return Ok((Some(assembler), None));
        }
        let shared = self.shared.clone();
        let work = self.shared.group.start(Threads::Blocking, move || {
            let judged = assembler.take(batch, &shared.leaves, &shared.part)?;
            Ok((assembler, judged))
        });
        Ok((None, Some(work)))
    }

    /// The assembler, as soon as it has nothing to do.
    async fn ready(
        &self,
        work: &mut Option<Work>,
        assembler: &mut Option<Assembler>,
    ) -> Result<Assembler, Fault> {
        let finished = self.finish(work).await?;
        Ok(finished
            .or(assembler.take())
            .expect("it is either here or at work"))
    }

    /// Waits for bytes at work and tells what became of them.
    async fn finish(&self, work: &mut Option<Work>) -> Result<Option<Assembler>, Fault> {
        let Some(work) = work.take() else {
            return Ok(None);
        };
        let (assembler, judged) = work.finish().await?;
        self.tell_judged(judged);
        Ok(Some(assembler))
    }

    fn tell_judged(&self, judged: Vec<Judged>) {
        for judged in judged {
            self.tell(match judged {
                Judged::Stored(stored) => Told::Proven(stored),
                Judged::Wrong(mismatch) => Told::Wrong(mismatch),
            });
        }
    }
}
