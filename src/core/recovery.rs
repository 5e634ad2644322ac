//! What went wrong with a request, and what follows: every failure has one class, every class one treatment.

/// Why a request, or the rest of its body, failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each message says what it is")]
pub enum Failure {
    /// No connection: name not found, refused, no route, no answer to the connect.
    Unreachable,
    /// The connection broke, or the answer was no HTTP, before the body was whole.
    Broken,
    /// Too few bytes for too long.
    Stalled,
    /// 5xx, 408 or 425.
    Server {
        status: u16,
        retry_after_ms: Option<u64>,
    },
    /// 429, or 503 with Retry-After.
    TooMany {
        status: u16,
        retry_after_ms: Option<u64>,
    },
    /// The host wanted fewer requests before, and is still left alone: it was not asked.
    Resting { rest_ms: u64 },
    /// A status, header or body that breaks the rules: it is not used.
    BadAnswer(BadAnswer),
    /// Another version of the object is there now.
    Changed(Changed),
    /// Any other 4xx.
    Refused { status: u16 },
    /// The server's certificate or its TLS is not acceptable.
    Tls,
    /// More redirects than are followed, or one that leads nowhere.
    Redirects,
    /// A server led to an address or a scheme that it may not lead to.
    Unsafe,
    /// More bytes than the user allows.
    TooLarge,
}

/// How an answer broke the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what it is")]
pub enum BadAnswer {
    #[error("it answered with status {0}, which fits no request of ours")]
    Status(u16),
    #[error("its Content-Range is missing or senseless")]
    ContentRange,
    #[error("it sent a later part than was asked for")]
    LaterPart,
    #[error("it sent an encoded body although the plain one was asked for")]
    Encoded,
    #[error("it sent several parts although one was asked for")]
    Multipart,
    #[error("it does not tell the length of the object")]
    NoLength,
    #[error("its headers are too large")]
    Headers,
    #[error("it sends the whole object with another length than the one expected")]
    WholeLength,
}

/// What shows that the object changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what it is")]
pub enum Changed {
    #[error("its length is another")]
    Length,
    #[error("its entity tag is another")]
    Validator,
    #[error("the server says so (412)")]
    Precondition,
    #[error("its manifest names another root")]
    Root,
    #[error("the same part came with other bytes")]
    Content,
}

/// How a failure is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The same request may succeed soon.
    Again,
    /// The host wants fewer requests, later.
    Slower,
    /// This source does not serve what is asked; another may.
    Elsewhere,
    /// The object is another one now.
    Changed,
    /// No repetition helps.
    Stop,
}

impl Class {
    /// Its word in events.
    pub fn name(self) -> &'static str {
        match self {
            Class::Again => "again",
            Class::Slower => "slower",
            Class::Elsewhere => "elsewhere",
            Class::Changed => "changed",
            Class::Stop => "stop",
        }
    }
}

impl Failure {
    /// Total: every failure has a class.
    pub fn class(self) -> Class {
        match self {
            Failure::Unreachable | Failure::Broken | Failure::Stalled | Failure::Server { .. } => {
                Class::Again
            }
            Failure::TooMany { .. } | Failure::Resting { .. } => Class::Slower,
            Failure::BadAnswer(_) => Class::Elsewhere,
            Failure::Changed(_) => Class::Changed,
            Failure::Refused { .. }
            | Failure::Tls
            | Failure::Redirects
            | Failure::Unsafe
            | Failure::TooLarge => Class::Stop,
        }
    }

    /// Whether it counts against the tries of its span. What says nothing about the host's answers counts against
    /// patience only.
    pub fn counts_as_try(self) -> bool {
        matches!(
            self,
            Failure::Broken | Failure::Server { .. } | Failure::BadAnswer(_)
        )
    }

    /// The failure that a status stands for, if it is one.
    pub fn of_status(status: u16, retry_after_ms: Option<u64>) -> Option<Failure> {
        match status {
            200 | 206 => None,
            429 => Some(Failure::TooMany {
                status,
                retry_after_ms,
            }),
            503 if retry_after_ms.is_some() => Some(Failure::TooMany {
                status,
                retry_after_ms,
            }),
            408 | 425 | 500..=599 => Some(Failure::Server {
                status,
                retry_after_ms,
            }),
            412 => Some(Failure::Changed(Changed::Precondition)),
            400..=499 => Some(Failure::Refused { status }),
            _ => Some(Failure::BadAnswer(BadAnswer::Status(status))),
        }
    }
}

/// The first wait after a failure is up to this long; each further one up to twice as long.
const BACKOFF_FIRST_MS: u64 = 500;
/// No wait between two tries is longer.
const BACKOFF_MAX_MS: u64 = 30_000;
/// An unreachable host is asked again this often.
pub const PROBE_EVERY_MS: u64 = 1_000;
/// The shortest and the longest cooldown of a host that wants fewer requests.
pub const COOLDOWN_MIN_MS: u64 = 60_000;
/// No host is left alone for longer than five minutes, whatever it asks for.
pub const COOLDOWN_MAX_MS: u64 = 300_000;

/// Backoff with full jitter: evenly spread between nothing and a bound that doubles. `random` is any number.
pub fn backoff_ms(failures: u32, random: u64) -> u64 {
    let bound = BACKOFF_FIRST_MS
        .saturating_mul(1 << failures.saturating_sub(1).min(16))
        .min(BACKOFF_MAX_MS);
    random % (bound + 1)
}

/// How long a host is left alone after its n-th "too many": what it asks for within a cap, else growing by a minute each time.
pub fn cooldown_ms(times: u32, retry_after_ms: Option<u64>) -> u64 {
    match retry_after_ms {
        Some(asked) => asked.min(COOLDOWN_MAX_MS),
        None => (COOLDOWN_MIN_MS * u64::from(times.max(1))).min(COOLDOWN_MAX_MS),
    }
}

/// The number of connections after a host wanted fewer: 8, 4, 2, 1.
pub fn fewer_connections(now: u32) -> u32 {
    match now {
        9.. => 8,
        5..=8 => 4,
        3..=4 => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_is_decided() {
        for status in 100..1000 {
            let failure = Failure::of_status(status, None);
            assert_eq!(
                failure.is_none(),
                status == 200 || status == 206,
                "{status}"
            );
            let class = failure.map(Failure::class);
            match status {
                408 | 425 | 500..=599 => assert_eq!(class, Some(Class::Again)),
                429 => assert_eq!(class, Some(Class::Slower)),
                412 => assert_eq!(class, Some(Class::Changed)),
                400..=499 => assert_eq!(class, Some(Class::Stop)),
                _ => assert!(failure.is_none() || class == Some(Class::Elsewhere)),
            }
        }
        assert_eq!(
            Failure::of_status(503, Some(1)).map(Failure::class),
            Some(Class::Slower)
        );
    }

    #[test]
    fn waits_are_bounded() {
        for failures in 0..100 {
            for random in [0, 1, 12345, u64::MAX] {
                assert!(backoff_ms(failures, random) <= BACKOFF_MAX_MS);
            }
            assert!((COOLDOWN_MIN_MS..=COOLDOWN_MAX_MS).contains(&cooldown_ms(failures, None)));
        }
        assert_eq!(cooldown_ms(1, Some(5_000)), 5_000);
        assert_eq!(cooldown_ms(1, Some(u64::MAX)), COOLDOWN_MAX_MS);
        let steps: Vec<u32> = std::iter::successors(Some(16), |n| Some(fewer_connections(*n)))
            .take(6)
            .collect();
        assert_eq!(steps, [16, 8, 4, 2, 1, 1]);
    }
}
