//! The error of a transfer that ended early.

use std::collections::BTreeMap;

use crate::{
    engine::{error::Error, remote::source::Source},
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

/// A transfer that ended without all wanted blocks.
pub struct Ended<'a> {
    pub outcome: Outcome,
    pub sources: &'a [Source],
    pub geometry: &'a Geometry,
    pub limits: &'a Limits,
    /// The last wrong bytes of each block, and their source.
    pub wrong: &'a BTreeMap<BlockIndex, (Mismatch, SourceId)>,
    pub last: Option<&'a NetError>,
    pub now: Millis,
}

/// The error of a transfer that ended this way.
pub fn error(ended: Ended<'_>) -> Error {
    let first = ended.sources[0].location();
    let error = |failure: Failure| {
        let last = ended.last.filter(|error| error.failure == failure);
        last.cloned()
            .unwrap_or_else(|| NetError::new(first, failure))
    };
    match ended.outcome {
        Outcome::Done => unreachable!("it has not ended without what was wanted"),
        Outcome::Wrong { block } => {
            let (mismatch, source) = ended.wrong[&block];
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
