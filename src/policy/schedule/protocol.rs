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

/// The number of a span; none is used twice in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpanId(pub u64);

/// The number of a source in the order in which they were given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub usize);

/// What the user allows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most connections at a time, over all sources.
    pub connections: u32,
    /// Failures in a row of one span from a host that answers.
    pub tries: u32,
    /// Time without a newly proven byte.
    pub patience_ms: u64,
    /// Where the jitter of waits begins; any number.
    pub seed: u64,
}

/// What happened.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "fields are named after their types")]
pub enum Event {
    /// An answer that can be used came: its host is there.
    Opened {
        span: SpanId,
    },
    /// The answer is the whole object although a range was asked for: this source has no ranges.
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
    /// A block came, whole and wrong.
    Wrong {
        span: SpanId,
        block: BlockIndex,
    },
    /// The span came to its end.
    Ended {
        span: SpanId,
    },
    Failed {
        span: SpanId,
        failure: Failure,
    },
    /// Blocks were found at home: claimed ones that proved, or copies.
    Held(Verified),
    /// A claimed block is not there after all.
    ClaimFailed {
        block: BlockIndex,
    },
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields are named after their types")]
pub enum Command {
    /// Ask this source for these blocks; of a source without ranges, for the whole object.
    Start {
        span: SpanId,
        source: SourceId,
        blocks: BlockRange,
        whole: bool,
    },
    /// Its end was moved forward: another span has the rest.
    Shrink { span: SpanId, end: BlockIndex },
    /// Nothing of it is wanted any more.
    Cancel { span: SpanId },
    /// For those who watch: a span will be asked again.
    Retry {
        source: SourceId,
        class: Class,
        attempt: u32,
        wait_ms: u64,
    },
    /// For those who watch: a host wants fewer connections.
    Slowed {
        source: SourceId,
        connections: u32,
        until: Millis,
    },
    /// For those who watch: a source is not used any more.
    Dropped { source: SourceId, why: Why },
    /// Nothing to do until an event comes, or this time.
    Wait { until: Option<Millis> },
    /// The end; every running span is to be stopped.
    Finish(Outcome),
}

/// Why a source is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields are named after their types")]
pub enum Why {
    /// This block came wrong.
    Lied {
        block: BlockIndex,
    },
    Failed(Failure),
}

/// How a run ends.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields are named after their types")]
pub enum Outcome {
    /// All blocks are held.
    Done,
    /// A block came wrong from everywhere.
    Wrong {
        block: BlockIndex,
    },
    Changed(Failure),
    /// No source is left; the last one failed like this.
    NoSource(Failure),
    /// One span failed too often in a row.
    Tries(Failure),
    /// Nothing new was proven for as long as the user is patient; the last failure, if there was one.
    Patience(Option<Failure>),
    /// A host wants to be left alone for longer than the user is patient.
    MustWait {
        until: Millis,
    },
}
