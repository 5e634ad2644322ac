//! What goes into the scheduler and what comes out of it.

use crate::{
    format::{
        geometry::{BlockIndex, BlockRange},
        judge::Verified,
    },
    policy::recovery::{Class, Failure},
};

/// Milliseconds since the start of the run.
pub type Millis = u64;

/// The number of a span, unique in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpanId(pub u64);

/// The number of a source, in the order in which the caller named them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub usize);

/// The limits of a run.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most connections at a time, over all sources.
    pub connections: u32,
    /// The most consecutive failures of one span from a host that responds.
    pub tries: u32,
    /// The longest time without a newly proven block.
    pub patience_ms: u64,
    /// The seed of the jitter of waits; any number.
    pub seed: u64,
}

/// What happened.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "fields are named after their types")]
pub enum Event {
    /// The source of this span was requested so much later than the span began.
    Late {
        span: SpanId,
        late_ms: u64,
    },
    /// A usable response arrived: its host is reachable.
    Opened {
        span: SpanId,
    },
    /// The response is the whole object although a range was requested: this source has no ranges. From now on every block of it
    /// is judged and reported, wanted or not.
    WholeBody {
        span: SpanId,
    },
    /// Bytes of the body arrived, proven or not.
    Bytes {
        span: SpanId,
        count: u64,
    },
    /// Blocks of the span were proven and written.
    Proven {
        span: SpanId,
        verified: Verified,
    },
    /// A block arrived complete and did not match its leaf.
    Wrong {
        span: SpanId,
        block: BlockIndex,
    },
    /// The span ended as planned.
    Ended {
        span: SpanId,
    },
    Failed {
        span: SpanId,
        failure: Failure,
    },
    /// Blocks were proven without a request: claimed ones, or copies of local bytes.
    Held(Verified),
    /// Held blocks are no longer where the caller keeps them: they are to be requested again if they are wanted.
    Lost {
        blocks: BlockRange,
    },
    /// A claimed block is missing or wrong on disk.
    ClaimFailed {
        block: BlockIndex,
    },
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields are named after their types")]
pub enum Command {
    /// Request these blocks from this source; of a source without ranges, the whole object.
    Start {
        span: SpanId,
        source: SourceId,
        blocks: BlockRange,
        whole: bool,
    },
    /// End the span earlier: another span delivers the rest, or it is not wanted any more.
    Shrink { span: SpanId, end: BlockIndex },
    /// Stop the span. What it proved before that still counts as [`Event::Held`].
    Cancel { span: SpanId },
    /// For display: a span will be requested again.
    Retry {
        source: SourceId,
        class: Class,
        attempt: u32,
        wait_ms: u64,
    },
    /// For display: a host limits requests. The number of connections is not raised before `until`. What was refused waits, and
    /// any other request too unless the host serves some.
    Slowed {
        source: SourceId,
        connections: u32,
        until: Millis,
        wait_ms: u64,
        serves: bool,
    },
    /// For display: a source is no longer used.
    Dropped { source: SourceId, why: DropReason },
    /// Nothing to do until an event or this time.
    Wait { until: Option<Millis> },
    /// The end; every running span is to be stopped.
    Finish(Outcome),
}

/// The reason why a source is no longer used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields are named after their types")]
pub enum DropReason {
    /// This block came wrong.
    WrongBlock {
        block: BlockIndex,
    },
    Failed(Failure),
}

/// How a run ends.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields are named after their types")]
pub enum Outcome {
    /// All wanted blocks are held, and no more will be wanted.
    Done,
    /// A block came wrong from every source.
    Wrong {
        block: BlockIndex,
    },
    Changed(Failure),
    /// No source is left; the last one failed like this.
    NoSource(Failure),
    /// One span failed too often in a row.
    Tries(Failure),
    /// Nothing new was proven within the patience limit; the last failure, if there was one.
    Patience(Option<Failure>),
    /// Every host refuses requests until a time after the patience limit.
    MustWait {
        until: Millis,
    },
}
