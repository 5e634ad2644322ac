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
    task::JoinHandle,
    time::sleep_until,
};

use crate::{
    disk::{error::DiskError, part::Part},
    engine::{
        blocking::{Threads, joined},
        remote::EARLY_BYTES_MAX,
    },
    format::{
        geometry::{BlockIndex, BlockRange},
        judge::{Leaves, Mismatch, Verified},
    },
    net::{
        client::Client,
        error::NetError,
        location::Location,
        request::Request,
        response::{Content, Response},
        validators::Validators,
    },
    policy::{
        recovery::{BadAnswer, Changed, Failure},
        schedule::SpanId,
    },
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
    Proven(Verified),
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
    /// Where bytes are judged and written.
    pub work_on: Threads,
}

/// One request.
pub struct Span {
    pub id: SpanId,
    pub location: Location,
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
type Work = JoinHandle<Result<(Assembler, Vec<Judged>), DiskError>>;

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
        let request = Request {
            range,
            version: self.shared.version.as_ref(),
            ..Request::whole(&self.location)
        };
        let answer = self.shared.client.send(request).await?;
        let (first, skip) = self.first_block(&answer).await?;
        self.receive(answer, first, skip).await
    }

    /// The block that the body begins with, and how many bytes come before it.
    async fn first_block(&self, answer: &Response) -> Result<(BlockIndex, u64), Fault> {
        let geometry = self.shared.leaves.geometry();
        let bad = |how| NetError::new(answer.body.location(), Failure::BadAnswer(how));
        let wanted = geometry.bytes_of_range(self.blocks);
        match answer.content {
            Content::Part { bytes, total } => {
                let location = answer.body.location();
                match total {
                    Some(total) if total != geometry.length() => {
                        return Err(NetError::changed(location, Changed::Length).into());
                    }
                    // Without a manifest nothing else shows that it is a part of the same object.
                    None if self.shared.leaves.are_first_use() => {
                        return Err(bad(BadAnswer::NoLength).into());
                    }
                    Some(_) | None => (),
                }
                if self.whole && bytes != wanted {
                    return Err(bad(BadAnswer::NotWhole).into());
                }
                // Bytes go where the answer says they belong; more at the front is read over, less cannot be used.
                let skip = wanted
                    .start
                    .checked_sub(bytes.start)
                    .ok_or_else(|| bad(BadAnswer::LaterPart))?;
                let all = bytes == geometry.bytes_of_range(geometry.all());
                if skip > EARLY_BYTES_MAX && !all {
                    return Err(bad(BadAnswer::EarlierPart).into());
                }
                self.tell(Told::Opened);
                if !self.whole && all && bytes != wanted {
                    return Ok(self.take_whole().await);
                }
                Ok((BlockIndex(self.blocks.start), skip))
            }
            Content::Whole { length } => {
                if length.is_some_and(|length| length != geometry.length()) {
                    return Err(match self.shared.leaves.are_first_use() {
                        _ if answer.is_page => bad(BadAnswer::Page),
                        true => NetError::changed(answer.body.location(), Changed::Length),
                        false => bad(BadAnswer::WholeLength),
                    }
                    .into());
                }
                self.tell(Told::Opened);
                if !self.whole && wanted != geometry.bytes_of_range(geometry.all()) {
                    return Ok(self.take_whole().await);
                }
                Ok((BlockIndex(0), 0))
            }
        }
    }

    /// The whole object comes, whatever was asked for: all of it is taken, by one of the spans to which that happens. The others
    /// are cancelled before they have read any of it.
    async fn take_whole(&self) -> (BlockIndex, u64) {
        let blocks = self.shared.leaves.geometry().blocks();
        self.end.store(blocks, Ordering::Relaxed);
        self.tell(Told::WholeBody);
        self.go.notified().await;
        (BlockIndex(0), 0)
    }

    async fn receive(
        &self,
        mut answer: Response,
        first: BlockIndex,
        skip: u64,
    ) -> Result<(), Fault> {
        let geometry = self.shared.leaves.geometry();
        let mut at = geometry.bytes_of(first).start - skip;
        let start = at + skip;
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
                let mut next = pin!(answer.body.next());
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
                Ok(Some(chunk)) => chunk,
                // The server ends early: what came whole counts, the rest is asked for again.
                early => {
                    let ready = self.ready(&mut work, &mut assembler).await?;
                    (_, work) = self.judge(ready, batch)?;
                    self.finish(&mut work).await?;
                    early?;
                    // A server may send less than it is asked for, if it says so. What it never sends a block of, it breaks.
                    let less =
                        matches!(answer.content, Content::Part { bytes, .. } if bytes.end == at);
                    let enough = at >= geometry.bytes_of(first).end;
                    if less && enough && !self.whole {
                        return Ok(());
                    }
                    return Err(NetError::new(answer.body.location(), Failure::Broken).into());
                }
            };
            self.tell(Told::Bytes(chunk.len() as u64));
            // Nothing behind the end is wanted, and nothing before the start.
            chunk.truncate(usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX));
            let before = start.saturating_sub(at).min(chunk.len() as u64);
            at += chunk.len() as u64;
            let chunk = chunk.split_off(before as usize);
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
        let work = tokio::task::spawn_blocking(move || {
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
        let (assembler, judged) = joined(work).await?;
        self.tell_judged(judged);
        Ok(Some(assembler))
    }

    fn tell_judged(&self, judged: Vec<Judged>) {
        let mut run: Option<Verified> = None;
        for judged in judged {
            match judged {
                Judged::Proven(verified) => match run.map(|run| run.joined(verified).ok_or(run)) {
                    None => run = Some(verified),
                    Some(Ok(joined)) => run = Some(joined),
                    Some(Err(before)) => {
                        self.tell(Told::Proven(before));
                        run = Some(verified);
                    }
                },
                Judged::Wrong(mismatch) => {
                    if let Some(run) = run.take() {
                        self.tell(Told::Proven(run));
                    }
                    self.tell(Told::Wrong(mismatch));
                }
            }
        }
        if let Some(run) = run {
            self.tell(Told::Proven(run));
        }
    }
}
