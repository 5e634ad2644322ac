//! The error of a transfer that ended early.

use std::collections::{BTreeMap, HashMap};

use crate::{
    engine::{error::Error, events::Retry, remote::source::Source},
    format::{
        geometry::{BlockIndex, Geometry},
        judge::Mismatch,
    },
    net::error::NetError,
    policy::{
        recovery::Failure,
        schedule::{Limits, Millis, Outcome, SourceId},
    },
};

/// The last failures of a transfer.
#[derive(Default)]
pub struct Failures {
    /// The last wrong bytes of each block, and their source.
    pub wrong: BTreeMap<BlockIndex, (Mismatch, SourceId)>,
    last: Option<NetError>,
    /// By the numbers of their sources, until these respond.
    of_sources: HashMap<usize, NetError>,
    /// How many blocks were proven when a failure that only patience limits was reported.
    told: Option<u32>,
}

impl Failures {
    pub fn failed(&mut self, source: SourceId, cause: NetError) {
        self.of_sources.insert(source.0, cause.clone());
        self.last = Some(cause);
    }

    pub fn responded(&mut self, source: SourceId) {
        self.of_sources.remove(&source.0);
    }

    /// Says what is wrong with a source, and whether that is to be told: nothing else is under way, only patience limits it, and
    /// nothing was told since the last proven block. `proven`: how many there are.
    pub fn explain(&mut self, source: SourceId, proven: u32, retry: &mut Retry) {
        let cause = self.of_sources.get(&source.0);
        let lasts = cause.is_some_and(|cause| cause.failure.lasts());
        retry.is_first = retry.idle && lasts && self.told != Some(proven);
        if retry.is_first {
            self.told = Some(proven);
        }
        // What is silent did not fail.
        let silent = || format!("{}: it has sent nothing for a while", retry.source);
        retry.reason = cause.map_or_else(silent, ToString::to_string);
    }
}

/// A transfer that ended without all wanted blocks.
pub struct Ended<'a> {
    pub outcome: Outcome,
    pub sources: &'a [Source],
    pub geometry: &'a Geometry,
    pub limits: &'a Limits,
    pub failures: &'a Failures,
    pub now: Millis,
}

/// The error of a transfer that ended this way.
pub fn error(ended: Ended<'_>) -> Error {
    let first = ended.sources[0].location();
    let error = |failure: Failure| {
        let last = ended.failures.last.as_ref();
        last.filter(|error| error.failure == failure)
            .cloned()
            .unwrap_or_else(|| NetError::new(first, failure))
    };
    match ended.outcome {
        Outcome::Done => unreachable!("it has not ended without what was wanted"),
        Outcome::Wrong { block } => {
            let (mismatch, source) = ended.failures.wrong[&block];
            Error::Wrong {
                block,
                bytes: ended.geometry.bytes_of(block),
                expected: Box::new(mismatch.expected),
                found: Box::new(mismatch.found),
                source_name: ended.sources[source.0].name(),
            }
        }
        Outcome::Changed(failure) | Outcome::NoSource(failure) => error(failure).into(),
        Outcome::Tries(failure) => Error::Net {
            cause: error(failure),
            tries: ended.limits.tries,
        },
        Outcome::Patience(failure) => Error::Patience {
            patience_s: ended.limits.patience_ms / 1000,
            last: failure.map(|failure| Box::new(error(failure))),
        },
        Outcome::MustWait { until } => Error::MustWait {
            place: first.to_string(),
            wait_s: until.saturating_sub(ended.now).div_ceil(1000),
        },
    }
}
