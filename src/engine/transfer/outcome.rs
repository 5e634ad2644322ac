//! What the end of a transfer means for whoever asked for it.

use crate::{
    engine::error::Error,
    net::error::NetError,
    policy::{recovery::Failure, schedule::Outcome},
};

use super::driver::Running;

impl Running<'_> {
    /// The error that stands for the end of a run.
    pub(super) fn failure(&mut self, outcome: Outcome) -> Error {
        let place = self.sources[0].to_string();
        let error = |failure: Failure| {
            self.last_error
                .clone()
                .filter(|error| error.failure == failure)
                .unwrap_or_else(|| NetError::new(&self.sources[0], failure))
        };
        match outcome {
            Outcome::Done => unreachable!("handled by the caller"),
            Outcome::Wrong { block } => {
                let (mismatch, source) = self.wrong[&block];
                Error::Wrong {
                    block,
                    bytes: self.shared.leaves.geometry().bytes_of(block),
                    expected: Box::new(mismatch.expected),
                    found: Box::new(mismatch.found),
                    source_name: self.sources[source.0].to_string(),
                }
            }
            Outcome::Changed(failure) | Outcome::NoSource(failure) => error(failure).into(),
            Outcome::Tries(failure) => Error::Net {
                cause: error(failure),
                tries: self.scheduler.limits().tries,
            },
            Outcome::Patience(failure) => Error::Patience {
                patience_s: self.scheduler.limits().patience_ms / 1000,
                last: failure.map(|failure| Box::new(error(failure))),
            },
            Outcome::MustWait { until } => Error::MustWait {
                place,
                wait_s: until.saturating_sub(self.now()).div_ceil(1000),
            },
        }
    }
}
