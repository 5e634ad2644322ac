//! What went wrong with a request, and what follows from it.
//!
//! [`remedy`] is the policy: one total function of the failure, of where in a fetch it happened, and of what happened before.
//! The scheduler of a transfer and the attempts of single requests both use it; nothing else decides.
//!
//! | failure | request by itself | span, another source is left | span of the last source | version as a whole |
//! |---|---|---|---|---|
//! | unreachable | probe every second | probe | probe | stop: later |
//! | stalled | again, no try | again, no try | again, no try | stop: later |
//! | broken, 5xx, 408, 425 | again, a try; then stop: later | again, a try; then drop | again, a try; then stop: later | stop: later |
//! | refused: 429, 503 with Retry-After, bare 503 of a host that serves; its Retry-After has not passed | later | later | later | stop: later |
//! | response in several parts, to one range | again once; then stop: failed | one stream | one stream | stop: failed |
//! | any other bad response | again once; then stop: failed | again once; then drop | again once; then stop: failed | stop: failed |
//! | changed | stop: changed | drop | stop: changed | start over once; then stop: changed |
//! | 416 inside the object | again, a try; then stop: failed | again, a try; then drop | again, a try; then stop: failed | stop: later |
//! | 400, 403, 431, 501 to a range | as 4xx and 5xx | as 4xx and 5xx | one stream | as 4xx and 5xx |
//! | other 4xx, TLS, no TLS, no HTTP/2, redirects, unsafe, too large | stop: failed | drop | stop: failed | stop: failed |
//!
//! "Again" waits for a backoff that doubles, and at least for the `Retry-After` of a 5xx; "later" as [`refusals`](super::refusals)
//! says. What is no try counts against patience only. 400, 401, 403, 404 and 410 behind a redirect are failures only after the
//! first URL was requested once more.

/// Why a request, or the rest of its body, failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each message says what it is")]
pub enum Failure {
    /// No connection: name not found, refused, no route, connect timeout.
    Unreachable,
    /// The connection broke, or the response was not HTTP, before the body was complete.
    Broken,
    /// Too few bytes for too long.
    Stalled,
    /// 5xx, 408 or 425.
    Server {
        status: u16,
        retry_after_ms: Option<u64>,
    },
    /// 429, 503 with Retry-After, or 503 of a host that serves other requests.
    TooMany {
        status: u16,
        retry_after_ms: Option<u64>,
        /// The host serves other requests.
        serves: bool,
    },
    /// The Retry-After of the host has not passed: no request was sent.
    RetryAfter { wait_ms: u64 },
    /// A status, header or body that breaks the rules: it is not used.
    BadResponse(BadResponse),
    /// The server has another version of the object now.
    Changed(Changed),
    /// Any other 4xx.
    Refused { status: u16 },
    /// The server's certificate or its TLS is not acceptable.
    Tls,
    /// The server does not speak TLS.
    NoTls,
    /// The user requires HTTP/2, and the server has none.
    NoHttp2,
    /// More redirects than are followed, or one that leads nowhere.
    Redirects,
    /// A server led to a forbidden address or scheme.
    Unsafe,
    /// More bytes than the user allows.
    TooLarge,
}

/// How a response violates the protocol or the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what it is")]
pub enum BadResponse {
    #[error("it sent the unexpected status {0}")]
    Status(u16),
    #[error("its Content-Range is missing or invalid")]
    ContentRange,
    #[error("it sent a later part than was requested")]
    LaterPart,
    #[error("it sent a part that begins long before the requested one")]
    EarlierPart,
    #[error("it sent several parts although one was requested")]
    Multipart,
    #[error("it does not declare the length of the object")]
    NoLength,
    #[error("its headers are too large or malformed")]
    Headers,
    #[error("it did not respond with HTTP; perhaps this port is for https, or for something else")]
    NotHttp,
    #[error("it declares the length of its body in two ways")]
    TwoLengths,
    #[error("it sent a part of the object although all of it was requested")]
    NotWhole,
    #[error(
        "it sent a web page or an XML message instead of the file; perhaps it requires a login, see the URL in a browser"
    )]
    Page,
    #[error("it sends the whole object with another length than the one expected")]
    WholeLength,
}

/// What shows that the object changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what it is")]
pub enum Changed {
    #[error("its length differs")]
    Length,
    #[error("its entity tag or its date differs")]
    Validator,
    #[error("the precondition failed (412)")]
    Precondition,
    #[error("its manifest names another root")]
    Root,
    #[error("the same part came with other bytes")]
    Content,
    #[error(
        "it is a web page or an XML message instead of the file; perhaps it requires a login, see the URL in a browser"
    )]
    Page,
}

/// How a failure is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The same request may succeed soon.
    Again,
    /// The host limits requests: the same one later.
    Slower,
    /// This source does not serve the request; another one may.
    Elsewhere,
    /// The object is another one now.
    Changed,
    /// No repetition helps.
    Stop,
}

impl Class {
    /// Its name in events.
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
            Failure::Unreachable
            | Failure::Broken
            | Failure::Stalled
            | Failure::Server { .. }
            | Failure::Refused { status: 416 } => Class::Again,
            Failure::TooMany { .. } | Failure::RetryAfter { .. } => Class::Slower,
            Failure::BadResponse(_) => Class::Elsewhere,
            Failure::Changed(_) => Class::Changed,
            Failure::Refused { .. }
            | Failure::Tls
            | Failure::NoTls
            | Failure::NoHttp2
            | Failure::Redirects
            | Failure::Unsafe
            | Failure::TooLarge => Class::Stop,
        }
    }

    /// Whether it counts against the tries of its span: a broken connection, a server error, a 416 or a bad response. An
    /// unreachable host, a stall and a refusal count against patience only.
    pub fn counts_as_try(self) -> bool {
        matches!(
            self,
            Failure::Broken
                | Failure::Server { .. }
                | Failure::Refused { status: 416 }
                | Failure::BadResponse(_)
        )
    }

    /// Whether the host gives no sign of life: only patience limits how often it is requested again.
    pub fn lasts(self) -> bool {
        matches!(self, Failure::Unreachable | Failure::Stalled)
    }

    /// Whether the same request may succeed without its Range and its conditions: some servers refuse any.
    pub fn may_be_for_the_range(self) -> bool {
        matches!(
            self,
            Failure::Refused {
                status: 400 | 403 | 431
            } | Failure::Server { status: 501, .. }
        )
    }

    /// The failure that a status stands for, if it is one. `serves`: the host serves other requests.
    pub fn of_status(status: u16, retry_after_ms: Option<u64>, serves: bool) -> Option<Failure> {
        match status {
            200 | 203 | 206 => None,
            429 => Some(Failure::TooMany {
                status,
                retry_after_ms,
                serves,
            }),
            503 if serves || retry_after_ms.is_some() => Some(Failure::TooMany {
                status,
                retry_after_ms,
                serves,
            }),
            408 | 425 | 500..=599 => Some(Failure::Server {
                status,
                retry_after_ms,
            }),
            412 => Some(Failure::Changed(Changed::Precondition)),
            400..=499 => Some(Failure::Refused { status }),
            _ => Some(Failure::BadResponse(BadResponse::Status(status))),
        }
    }
}

/// Where in a fetch a failure happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// A request by itself: the first look at an object, its manifest, bytes for `cat`, an object of unknown length.
    Single,
    /// A span of a transfer.
    Span {
        /// Another source is left.
        others: bool,
        /// It is the whole object, because its source has no ranges.
        whole: bool,
    },
    /// All requests for one version of an object or manifest.
    Version {
        /// The run has started over already, from another version.
        started_over: bool,
    },
}

/// What happened to the same request before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Before {
    /// Failures in a row that count as tries, this one included.
    pub tries: u32,
    /// How many of them the user allows.
    pub tries_max: u32,
    /// Invalid responses of the source in a row, this one included.
    pub bad_responses: u32,
}

/// What to do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// The same request again, after a backoff of at least this long.
    Again {
        /// Milliseconds.
        least_ms: u64,
    },
    /// The same request again every second.
    Probe,
    /// Again after the wait for a host that limits requests.
    Later,
    /// No more ranges of this source: the whole object in one response.
    OneStream,
    /// This source is no longer used.
    Drop,
    /// Once more from the start, whatever version is there now.
    StartOver,
    /// The end.
    Stop(End),
}

/// How a failure ends a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Transient: the same command resumes later.
    Later,
    /// The object is another one now.
    Changed,
    /// No source serves the request.
    Failed,
}

/// A source is no longer used after this many invalid responses in a row.
const BAD_ANSWERS_MAX: u32 = 2;

/// The policy; see the module. Every failure has a remedy in every phase.
pub fn remedy(failure: Failure, phase: Phase, before: Before) -> Remedy {
    let give_up = |end| match phase {
        Phase::Span { others: true, .. } => Remedy::Drop,
        _ => Remedy::Stop(end),
    };
    if let Phase::Version { started_over } = phase {
        return match failure.class() {
            Class::Again | Class::Slower => Remedy::Stop(End::Later),
            Class::Changed if !started_over => Remedy::StartOver,
            Class::Changed => Remedy::Stop(End::Changed),
            Class::Elsewhere | Class::Stop => Remedy::Stop(End::Failed),
        };
    }
    let last_ranged = Phase::Span {
        others: false,
        whole: false,
    };
    match failure {
        refused if refused.may_be_for_the_range() && phase == last_ranged => Remedy::OneStream,
        Failure::Unreachable => Remedy::Probe,
        Failure::Stalled => Remedy::Again { least_ms: 0 },
        Failure::Broken | Failure::Server { .. } if before.tries >= before.tries_max => {
            give_up(End::Later)
        }
        Failure::Refused { status: 416 } if before.tries >= before.tries_max => {
            give_up(End::Failed)
        }
        Failure::Broken | Failure::Refused { status: 416 } => Remedy::Again { least_ms: 0 },
        Failure::Server { retry_after_ms, .. } => Remedy::Again {
            least_ms: retry_after_ms.unwrap_or(0).min(COOLDOWN_MAX_MS),
        },
        Failure::TooMany { .. } | Failure::RetryAfter { .. } => Remedy::Later,
        Failure::BadResponse(BadResponse::Multipart)
            if matches!(phase, Phase::Span { whole: false, .. }) =>
        {
            Remedy::OneStream
        }
        Failure::BadResponse(_) if before.bad_responses >= BAD_ANSWERS_MAX => give_up(End::Failed),
        Failure::BadResponse(_) => Remedy::Again { least_ms: 0 },
        Failure::Changed(_) => give_up(End::Changed),
        Failure::Refused { .. }
        | Failure::Tls
        | Failure::NoTls
        | Failure::NoHttp2
        | Failure::Redirects
        | Failure::Unsafe
        | Failure::TooLarge => give_up(End::Failed),
    }
}

/// The first wait after a failure is up to this long; each further one up to twice as long.
const BACKOFF_FIRST_MS: u64 = 500;
/// No wait between two tries is longer.
const BACKOFF_MAX_MS: u64 = 30_000;
/// The interval at which an unreachable host is probed.
pub const PROBE_EVERY_MS: u64 = 1_000;
/// The first cooldown of a host that limits requests: the time in which the number of its connections is not raised again.
pub const COOLDOWN_MIN_MS: u64 = 60_000;
/// No cooldown is longer.
pub const COOLDOWN_MAX_MS: u64 = 300_000;

/// Backoff with full jitter: evenly spread between nothing and a bound that doubles. `random` is any number.
pub fn backoff_ms(failures: u32, random: u64) -> u64 {
    random % (backoff_bound_ms(failures) + 1)
}

/// The longest backoff after this many failures.
pub fn backoff_bound_ms(failures: u32) -> u64 {
    BACKOFF_FIRST_MS
        .saturating_mul(1 << failures.saturating_sub(1).min(16))
        .min(BACKOFF_MAX_MS)
}

/// The cooldown after the n-th reduction of the connections to a host: a minute more each time.
pub fn cooldown_ms(times: u32) -> u64 {
    (COOLDOWN_MIN_MS * u64::from(times.max(1))).min(COOLDOWN_MAX_MS)
}

/// The number of connections after a refusal: 8, 4, 2, 1.
pub fn fewer_connections(now: u32) -> u32 {
    match now {
        9.. => 8,
        5..=8 => 4,
        3..=4 => 2,
        _ => 1,
    }
}

/// Whether a run whose version is gone starts over with the current one.
pub fn starts_over(how: Changed, started_over: bool) -> bool {
    let phase = Phase::Version { started_over };
    remedy(Failure::Changed(how), phase, Before::default()) == Remedy::StartOver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_is_decided() {
        for status in 100..1000 {
            let failure = Failure::of_status(status, None, false);
            assert_eq!(
                failure.is_none(),
                matches!(status, 200 | 203 | 206),
                "{status}"
            );
            let class = failure.map(Failure::class);
            match status {
                408 | 416 | 425 | 500..=599 => assert_eq!(class, Some(Class::Again)),
                429 => assert_eq!(class, Some(Class::Slower)),
                412 => assert_eq!(class, Some(Class::Changed)),
                400..=499 => assert_eq!(class, Some(Class::Stop)),
                _ => assert!(failure.is_none() || class == Some(Class::Elsewhere)),
            }
        }
        for (retry_after_ms, serves) in [(Some(1), false), (None, true), (Some(1), true)] {
            let failure = Failure::of_status(503, retry_after_ms, serves);
            assert_eq!(failure.map(Failure::class), Some(Class::Slower));
        }
    }

    /// The table of the module, combination by combination, before the last try and at it.
    #[test]
    #[allow(clippy::too_many_lines, reason = "a table, row by row")]
    fn every_failure_has_a_remedy_in_every_phase() {
        let again = Remedy::Again { least_ms: 0 };
        let stop = Remedy::Stop;
        let server = |retry_after_ms| Failure::Server {
            status: 503,
            retry_after_ms,
        };
        let refusals = [
            Failure::TooMany {
                status: 429,
                retry_after_ms: None,
                serves: false,
            },
            Failure::RetryAfter { wait_ms: 1 },
        ];
        let stops = [
            Failure::Refused { status: 404 },
            Failure::Tls,
            Failure::NoTls,
            Failure::NoHttp2,
            Failure::Redirects,
            Failure::Unsafe,
            Failure::TooLarge,
        ];
        let bad = BAD_ANSWERS.map(Failure::BadResponse);
        let changed = CHANGES.map(Failure::Changed);
        let multipart = Failure::BadResponse(BadResponse::Multipart);
        let of = |failures: &[Failure], by: [Remedy; 4], spent: [Remedy; 4]| {
            for failure in failures {
                for (before, row) in [(1, by), (3, spent)] {
                    let before = Before {
                        tries: before,
                        tries_max: 3,
                        bad_responses: before,
                    };
                    for (phase, expected) in PHASES.into_iter().zip(row) {
                        let found = remedy(*failure, phase, before);
                        assert_eq!(found, expected, "{failure:?} in {phase:?} after {before:?}");
                    }
                }
            }
        };
        let later = stop(End::Later);
        let failed = stop(End::Failed);
        let all = |remedy| [remedy, remedy, remedy, later];
        of(
            &[Failure::Unreachable],
            all(Remedy::Probe),
            all(Remedy::Probe),
        );
        of(&[Failure::Stalled], all(again), all(again));
        let tried = [later, Remedy::Drop, later, later];
        of(&[Failure::Broken, server(None)], all(again), tried);
        of(
            &[server(Some(7_000))],
            all(Remedy::Again { least_ms: 7_000 }),
            tried,
        );
        of(
            &[server(Some(u64::MAX))],
            all(Remedy::Again {
                least_ms: COOLDOWN_MAX_MS,
            }),
            tried,
        );
        of(&refusals, all(Remedy::Later), all(Remedy::Later));
        let dropped = [failed, Remedy::Drop, failed, failed];
        let unsatisfiable = Failure::Refused { status: 416 };
        let given_up = [failed, Remedy::Drop, failed, later];
        of(&[unsatisfiable], all(again), given_up);
        of(&bad, [again, again, again, failed], dropped);
        let stream = Remedy::OneStream;
        of(
            &[multipart],
            [again, stream, stream, failed],
            [failed, stream, stream, failed],
        );
        for (status, single, spent) in [(403, failed, failed), (501, again, later)] {
            let refused = Failure::of_status(status, None, false).unwrap();
            let version = if status == 403 { failed } else { later };
            let first = if status == 403 { Remedy::Drop } else { again };
            let last = [spent, Remedy::Drop, stream, version];
            of(&[refused], [single, first, stream, version], last);
        }
        let other = [
            stop(End::Changed),
            Remedy::Drop,
            stop(End::Changed),
            Remedy::StartOver,
        ];
        of(&changed, other, other);
        of(&stops, dropped, dropped);
        // What is not in the four columns: a stream, and a version after another one.
        let before = Before::default();
        for others in [false, true] {
            let whole = Phase::Span {
                others,
                whole: true,
            };
            for failure in bad.into_iter().chain(changed).chain(refusals).chain(stops) {
                let ranged = Phase::Span {
                    others,
                    whole: false,
                };
                assert_eq!(
                    remedy(failure, whole, before),
                    remedy(failure, ranged, before)
                );
            }
            assert_eq!(remedy(multipart, whole, before), again);
        }
        let again_changed = Phase::Version { started_over: true };
        for failure in changed {
            assert_eq!(
                remedy(failure, again_changed, before),
                stop(End::Changed),
                "once"
            );
        }
    }

    const PHASES: [Phase; 4] = [
        Phase::Single,
        Phase::Span {
            others: true,
            whole: false,
        },
        Phase::Span {
            others: false,
            whole: false,
        },
        Phase::Version {
            started_over: false,
        },
    ];
    /// All but that of several parts.
    const BAD_ANSWERS: [BadResponse; 11] = [
        BadResponse::Status(204),
        BadResponse::ContentRange,
        BadResponse::LaterPart,
        BadResponse::EarlierPart,
        BadResponse::NoLength,
        BadResponse::Headers,
        BadResponse::NotHttp,
        BadResponse::TwoLengths,
        BadResponse::NotWhole,
        BadResponse::Page,
        BadResponse::WholeLength,
    ];
    const CHANGES: [Changed; 6] = [
        Changed::Length,
        Changed::Validator,
        Changed::Precondition,
        Changed::Root,
        Changed::Content,
        Changed::Page,
    ];

    /// A failure that is new has no row above; this does not compile without it, and says where to add one.
    #[test]
    fn the_rows_above_are_all_failures() {
        for failure in BAD_ANSWERS.map(Failure::BadResponse) {
            let Failure::BadResponse(how) = failure else {
                continue;
            };
            match how {
                BadResponse::Status(_)
                | BadResponse::ContentRange
                | BadResponse::LaterPart
                | BadResponse::EarlierPart
                | BadResponse::Multipart
                | BadResponse::NoLength
                | BadResponse::Headers
                | BadResponse::NotHttp
                | BadResponse::TwoLengths
                | BadResponse::NotWhole
                | BadResponse::Page
                | BadResponse::WholeLength => (),
            }
        }
        for how in CHANGES {
            match how {
                Changed::Length
                | Changed::Validator
                | Changed::Precondition
                | Changed::Root
                | Changed::Content
                | Changed::Page => (),
            }
        }
    }

    #[test]
    fn waits_are_bounded() {
        for failures in 0..100 {
            for random in [0, 1, 12345, u64::MAX] {
                assert!(backoff_ms(failures, random) <= BACKOFF_MAX_MS);
            }
            assert!((COOLDOWN_MIN_MS..=COOLDOWN_MAX_MS).contains(&cooldown_ms(failures)));
        }
        let steps: Vec<u32> = std::iter::successors(Some(16), |n| Some(fewer_connections(*n)))
            .take(6)
            .collect();
        assert_eq!(steps, [16, 8, 4, 2, 1, 1]);
    }
}
