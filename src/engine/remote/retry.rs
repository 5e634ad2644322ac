//! Retries of single requests; the scheduler retries those of a transfer.

use std::time::{Duration, Instant};

use tokio::{
    sync::mpsc::{UnboundedSender, unbounded_channel},
    time::sleep,
};

use crate::{
    engine::{
        error::Error,
        events::{Event, Events, Retry},
    },
    net::{error::NetError, hosts::Hosts},
    policy::{
        attempts::{self, Next},
        schedule::Limits,
    },
};

/// Retries a request, an expression whose value is a future, by the recovery policy, within tries and patience. A macro, because
/// the compiler does not see that the future of a function with an async closure is `Send`.
macro_rules! retried {
    ($limits:expr, $request:expr) => {{
        let mut attempts = $crate::engine::remote::retry::Attempts::new($limits);
        loop {
            match $request.await {
                Ok(value) => break Ok(value),
                Err(error) => {
                    if let Err(error) = attempts.wait_after(error).await {
                        break Err(error);
                    }
                }
            }
        }
    }};
}

tokio::task_local! {
    /// Where the waits of this task's requests are reported; see [`reported`].
    static WAITS: UnboundedSender<Event>;
}

/// Runs `work`, and reports at once what its requests wait for. A task-local, because requests are retried far below the code
/// that has the events, several at a time.
pub async fn reported<T>(events: &mut dyn Events, work: impl Future<Output = T>) -> T {
    let (sender, mut waits) = unbounded_channel();
    // Boxed, to keep the futures of callers small.
    let mut work = Box::pin(WAITS.scope(sender, work));
    loop {
        tokio::select! {
            biased;
            Some(wait) = waits.recv() => events.event(wait),
            done = &mut work => {
                while let Ok(event) = waits.try_recv() {
                    events.event(event);
                }
                return done;
            }
        }
    }
}

/// Reports something that happens in the work that [`reported`] runs. Elsewhere nothing is reported.
pub fn tell(event: Event) {
    let _ = WAITS.try_with(|waits| drop(waits.send(event)));
}

/// The failed attempts of one request. [`attempts::Attempts`] decides, this waits.
pub struct Attempts {
    decisions: attempts::Attempts,
    patience_s: u64,
    began: Instant,
    /// A failure that only patience limits was reported since the last bytes.
    told: bool,
}

impl Attempts {
    /// No attempts yet.
    pub fn new(limits: &Limits) -> Attempts {
        Attempts {
            decisions: attempts::Attempts::new(limits),
            patience_s: limits.patience_ms / 1000,
            began: Instant::now(),
            told: false,
        }
    }

    /// Bytes arrived: patience starts anew. Breaks within the same request still count.
    pub fn progress(&mut self) {
        let now = self.began.elapsed().as_millis() as u64;
        self.decisions.progress(now);
        self.told = false;
    }

    /// What is reported of a failure before the wait of `wait_ms`.
    fn retry(&mut self, error: &NetError, wait_ms: u64, now: u64) -> Retry {
        let is_first = error.failure.lasts() && !self.told;
        self.told |= is_first;
        let left_ms = self.decisions.patience_ends().saturating_sub(now);
        Retry {
            source: error.location.to_string(),
            class: error.failure.class(),
            attempt: self.decisions.tries(),
            wait_ms,
            idle: true,
            reason: error.to_string(),
            is_first,
            until_ms: Hosts::now_ms() + left_ms,
        }
    }

    /// Waits until the next attempt, or returns the error that ends the request.
    pub async fn wait_after(&mut self, error: NetError) -> Result<(), Error> {
        let now = self.began.elapsed().as_millis() as u64;
        match self.decisions.after(error.failure, now) {
            Next::Wait { ms } => {
                tell(Event::Retry(self.retry(&error, ms, now)));
                sleep(Duration::from_millis(ms)).await;
                Ok(())
            }
            Next::Stop { tries } => Err(match Error::from(error) {
                Error::Net { cause, .. } => Error::Net { cause, tries },
                other => other,
            }),
            Next::Patience => Err(Error::Patience {
                patience_s: self.patience_s,
                last: Some(Box::new(error)),
            }),
            Next::MustWait { ms } => Err(Error::MustWait {
                place: error.location.to_string(),
                wait_s: ms.div_ceil(1000),
            }),
        }
    }
}
