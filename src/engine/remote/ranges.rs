//! Reading ranges of one version of a representation in few requests: the groups and pieces of a manifest that a search needs,
//! and the pieces of an object that no local file has.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{task::JoinSet, time::timeout};

use crate::{
    engine::{blocking::joined, connections, context::Context, error::Error},
    format::{geometry::ByteRange, validators::Validators},
    net::{error::NetError, request::Refusals},
    policy::{
        recovery::{BadResponse, Failure},
        requests::{self, Cost, Link},
        schedule::Limits,
    },
};

use super::{
    retry::Attempts,
    source::{Extent, Source, SourceRequest, SourceResponse},
};

/// The assumed rate for reading everything, 100 Mbit/s: the real one is unknown before the first try.
const BYTES_PER_MS: f64 = 12_500.0;
/// If a server sends the whole representation for a range, the most bytes that are discarded before the range.
const WHOLE_SKIP_MAX: u64 = 1 << 20;
/// After this many responses with several ranges that broke off, ranges are requested one by one.
const CUTS_MAX: u32 = 2;
/// A response of an optional representation with fewer bytes a second than this, after this time, is given up.
const DRIBBLE_BYTES_PER_S: u64 = 4 << 10;
const DRIBBLE_TIME: Duration = Duration::from_secs(5);
/// Up to this many ranges go into separate requests, unless the server is known to send several ranges in one response.
const UNTRIED_MAX: usize = 8;

/// What a range that arrived is given to.
type Take<'a> = dyn FnMut(ByteRange, Vec<u8>) + Send + 'a;

/// Reads ranges of one version of a representation.
pub struct RangeReader {
    shared: Arc<Shared>,
    /// The length of the whole representation.
    length: u64,
}

struct Shared {
    source: Source,
    version: Option<Validators>,
    /// See [`RangeReader::optional`].
    is_optional: bool,
    /// Put several ranges into one request.
    several: AtomicBool,
    /// How many responses with several ranges broke off.
    cuts: AtomicU32,
    /// If not, join ranges with gaps up to this many bytes.
    gap: AtomicU64,
}

/// The result of one request.
struct RangeResponse {
    whole: Vec<(ByteRange, Vec<u8>)>,
    /// Ranges that did not arrive, or not completely.
    rest: Vec<ByteRange>,
    error: Option<NetError>,
    /// It was a request for several ranges.
    several: bool,
}

impl RangeReader {
    /// `version`: the only acceptable one, if responses declare theirs.
    pub fn new(source: Source, version: Option<Validators>, length: u64) -> RangeReader {
        RangeReader::of(source, version, length, false)
    }

    /// Of a representation without which it goes too: a server that sends all of it for a range is an error, and what stalls, or
    /// fails without any progress, is not tried again.
    pub fn optional(source: Source, length: u64) -> RangeReader {
        RangeReader::of(source, None, length, true)
    }

    fn of(
        source: Source,
        version: Option<Validators>,
        length: u64,
        is_optional: bool,
    ) -> RangeReader {
        RangeReader {
            shared: Arc::new(Shared {
                source,
                version,
                is_optional,
                several: AtomicBool::new(false),
                cuts: AtomicU32::new(0),
                gap: AtomicU64::new(Cost::SINGLE.gap),
            }),
            length,
        }
    }

    /// Requests one range of the version. The response may be the whole representation.
    pub async fn open(&self, range: ByteRange) -> Result<SourceResponse, NetError> {
        self.shared.open(range, &[]).await
    }

    /// Reads these ascending ranges; calls `take` with each when it is complete, in any order.
    pub async fn read(
        &self,
        context: &Context,
        wants: &[ByteRange],
        mut take: impl FnMut(ByteRange, Vec<u8>) + Send,
    ) -> Result<(), Error> {
        self.read_to(context, wants, &mut take).await
    }

    /// The same, compiled once.
    async fn read_to(
        &self,
        context: &Context,
        wants: &[ByteRange],
        take: &mut Take<'_>,
    ) -> Result<(), Error> {
        let source = &self.shared.source;
        let count = |wants: &[ByteRange]| requests::merged(wants, Cost::SINGLE.gap).len();
        // A server without multi-range support begins to send everything, which costs more than a few requests.
        let known = source.client().sends_multi_range(source.location());
        let several = known.unwrap_or(count(wants) > UNTRIED_MAX);
        self.shared.several.store(several, Ordering::Relaxed);
        let mut rest = wants;
        if several && known.is_none() {
            // One such server must not begin with everything on several connections at once.
            let first = requests::requests(wants, &Cost::SEVERAL);
            let (trial, others) = wants.split_at(first.first().map_or(0, Vec::len));
            self.read_all(context, trial, take).await?;
            rest = others;
        }
        let several = self.shared.several.load(Ordering::Relaxed);
        let rest = match rest.split_first() {
            // Many separate requests may take longer than reading everything. The time of the first one shows which is faster.
            Some((first, others)) if !several && count(rest) > UNTRIED_MAX => {
                let began = Instant::now();
                self.read_all(context, &[*first], take).await?;
                self.widen_gaps(context, others, began.elapsed());
                others
            }
            _ => rest,
        };
        self.read_all(context, rest, take).await
    }

    fn widen_gaps(&self, context: &Context, wants: &[ByteRange], first_response: Duration) {
        let link = Link {
            response_ms: first_response.as_secs_f64() * 1000.0,
            connections: self.connections(&context.limits_now()),
            bytes_per_ms: BYTES_PER_MS,
        };
        let least = Cost::SINGLE.gap;
        let ranges = requests::merged(wants, least);
        let gap = requests::gap_in_time(&ranges, least, self.length, &link);
        self.shared.gap.store(gap, Ordering::Relaxed);
    }

    async fn read_all(
        &self,
        context: &Context,
        wants: &[ByteRange],
        take: &mut Take<'_>,
    ) -> Result<(), Error> {
        let limits = context.limits_now();
        let connections = self.connections(&limits) as usize;
        let mut queue: VecDeque<(Vec<ByteRange>, Attempts)> = VecDeque::new();
        self.plan(&limits, wants, &mut queue);
        let mut running = JoinSet::new();
        loop {
            while running.len() < connections
                && let Some((wants, attempts)) = queue.pop_front()
            {
                let shared = self.shared.clone();
                running.spawn(async move { (shared.fetch_ranges(wants).await, attempts) });
            }
            let Some(ended) = running.join_next().await else {
                return Ok(());
            };
            let (response, mut attempts) = joined(std::future::ready(ended)).await;
            let progressed = !response.whole.is_empty();
            for (range, bytes) in response.whole {
                take(range, bytes);
            }
            if response.rest.is_empty() {
                continue;
            }
            if let Some(error) = &response.error
                && response.several
                && self.shared.gives_up_several(error.failure)
            {
                self.plan(&limits, &response.rest, &mut queue);
                continue;
            }
            match response.error {
                // A server that sent less than requested sends the rest when it is requested.
                None if progressed => self.plan(&limits, &response.rest, &mut queue),
                // The response to several ranges showed that the server does not support them.
                None if !self.shared.several.load(Ordering::Relaxed)
                    && requests::merged(&response.rest, self.shared.cost().gap).len() > 1 =>
                {
                    self.plan(&limits, &response.rest, &mut queue);
                }
                error => {
                    if progressed {
                        attempts = Attempts::new(&limits);
                    }
                    let broken = || NetError::new(self.shared.source.location(), Failure::Broken);
                    let error = error.unwrap_or_else(broken);
                    let stalled = error.failure == Failure::Stalled;
                    if self.shared.is_optional && (stalled || !progressed) {
                        return Err(error.into());
                    }
                    attempts.wait_after(error).await?;
                    queue.push_front((response.rest, attempts));
                }
            }
        }
    }

    /// How many requests may run at a time.
    pub fn connections(&self, limits: &Limits) -> u32 {
        let source = &self.shared.source;
        connections::for_single_requests(source.client(), source.location(), limits)
    }

    fn plan(
        &self,
        limits: &Limits,
        wants: &[ByteRange],
        queue: &mut VecDeque<(Vec<ByteRange>, Attempts)>,
    ) {
        let requests = requests::requests(wants, &self.shared.cost());
        queue.extend(
            requests
                .into_iter()
                .map(|wants| (wants, Attempts::new(limits))),
        );
    }
}

impl Shared {
    fn cost(&self) -> Cost {
        match self.several.load(Ordering::Relaxed) {
            true => Cost::SEVERAL,
            false => Cost {
                gap: self.gap.load(Ordering::Relaxed),
                ..Cost::SINGLE
            },
        }
    }

    /// Sends one request and collects its result.
    async fn fetch_ranges(&self, wants: Vec<ByteRange>) -> RangeResponse {
        let several = requests::merged(&wants, self.cost().gap).len() > 1;
        let mut buffers = RangeBuffers::new(wants);
        let error = self.fill(&mut buffers).await.err();
        let (whole, rest) = buffers.into_whole_and_rest();
        RangeResponse {
            whole,
            rest,
            error,
            several,
        }
    }

    /// Whether a request for several ranges failed because of them: the server refused it, or responses break off. From then on
    /// this host gets requests for one range.
    fn gives_up_several(&self, failure: Failure) -> bool {
        let gives_up = match failure {
            Failure::Broken | Failure::Stalled => {
                self.cuts.fetch_add(1, Ordering::Relaxed) + 1 >= CUTS_MAX
            }
            Failure::Unreachable
            | Failure::TooMany { status: 429, .. }
            | Failure::RetryAfter { .. }
            | Failure::Changed(_) => false,
            _ => true,
        };
        if gives_up {
            self.several.store(false, Ordering::Relaxed);
            let client = self.source.client();
            client.refuses_multi_range(self.source.location());
        }
        gives_up
    }

    /// Requests ranges of the version. A server that refuses a single one gets a plain GET.
    async fn open(&self, range: ByteRange, more: &[ByteRange]) -> Result<SourceResponse, NetError> {
        let whole = SourceRequest {
            version: self.version.as_ref(),
            refusals: match self.is_optional {
                true => Refusals::OfTheTarget,
                false => Refusals::OfTheHost,
            },
            ..SourceRequest::default()
        };
        let ranged = SourceRequest {
            range: Some(range),
            more,
            ..whole
        };
        let opened = match self.is_optional {
            true => timeout(DRIBBLE_TIME, self.source.open(ranged))
                .await
                .unwrap_or_else(|_| Err(NetError::new(self.source.location(), Failure::Stalled))),
            false => self.source.open(ranged).await,
        };
        match opened {
            Err(error)
                if error.failure.may_be_for_the_range() && more.is_empty() && !self.is_optional =>
            {
                self.source.open(whole).await
            }
            other => other,
        }
    }

    async fn fill(&self, buffers: &mut RangeBuffers) -> Result<(), NetError> {
        let ranges = requests::merged(&buffers.wants, self.cost().gap);
        let (Some((first, more)), true) = (
            ranges.split_first(),
            self.several.load(Ordering::Relaxed) || ranges.len() == 1,
        ) else {
            // Planned before the server showed that it does not support several ranges.
            return Ok(());
        };
        let (began, mut received) = (Instant::now(), 0);
        let mut response = self.open(*first, more).await?;
        let end = match response.extent() {
            Extent::Parts => u64::MAX,
            Extent::Range { .. } => first.end,
            Extent::Whole { .. }
                if more.is_empty() && first.start <= WHOLE_SKIP_MAX && !self.is_optional =>
            {
                response.skip_to(first.start);
                first.end
            }
            Extent::Whole { .. } if more.is_empty() => {
                let how = Failure::BadResponse(BadResponse::EarlierPart);
                return Err(NetError::new(self.source.location(), how));
            }
            Extent::Whole { .. } | Extent::Joined => 0,
        };
        if !more.is_empty() && response.extent() != Extent::Parts {
            self.several.store(false, Ordering::Relaxed);
        }
        let mut place = 0;
        while place < end
            && let Some((offset, bytes)) = response.next().await?
        {
            buffers.take(offset, &bytes);
            received += bytes.len() as u64;
            if self.is_optional && dribbles(received, began.elapsed()) {
                return Err(NetError::new(self.source.location(), Failure::Stalled));
            }
            place = match response.extent() {
                Extent::Parts => 0,
                _ => offset + bytes.len() as u64,
            };
        }
        Ok(())
    }
}

/// Whether a response brings so few bytes that they are better requested elsewhere.
fn dribbles(received: u64, time: Duration) -> bool {
    time > DRIBBLE_TIME && received < time.as_secs() * DRIBBLE_BYTES_PER_S
}

/// Ranges and the bytes received of each.
struct RangeBuffers {
    wants: Vec<ByteRange>,
    bytes: Vec<Vec<u8>>,
}

impl RangeBuffers {
    fn new(wants: Vec<ByteRange>) -> RangeBuffers {
        RangeBuffers {
            bytes: vec![Vec::new(); wants.len()],
            wants,
        }
    }

    /// Takes bytes at an offset of the object. Ignores bytes that do not continue what a range has.
    fn take(&mut self, place: u64, bytes: &[u8]) {
        let end = place + bytes.len() as u64;
        let first = self.wants.partition_point(|want| want.end <= place);
        for (want, into) in self.wants.iter().zip(&mut self.bytes).skip(first) {
            if want.start >= end {
                break;
            }
            let next = want.start + into.len() as u64;
            if (place..end).contains(&next) {
                let to = end.min(want.end) - place;
                into.extend_from_slice(&bytes[(next - place) as usize..to as usize]);
            }
        }
    }

    fn into_whole_and_rest(self) -> (Vec<(ByteRange, Vec<u8>)>, Vec<ByteRange>) {
        let (mut whole, mut rest) = (Vec::new(), Vec::new());
        for (want, bytes) in self.wants.into_iter().zip(self.bytes) {
            match bytes.len() as u64 == want.length() {
                true => whole.push((want, bytes)),
                false => rest.push(want),
            }
        }
        (whole, rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_to_the_ranges_that_want_them() {
        let range = ByteRange::new;
        let mut buffers =
            RangeBuffers::new(vec![range(2, 5), range(5, 8), range(20, 22), range(30, 31)]);
        let bytes: Vec<u8> = (0..40).collect();
        buffers.take(0, &bytes[..4]);
        buffers.take(4, &bytes[4..10]);
        buffers.take(4, &bytes[4..10]);
        buffers.take(21, &bytes[21..25]);
        let (whole, rest) = buffers.into_whole_and_rest();
        let expected = [(range(2, 5), vec![2, 3, 4]), (range(5, 8), vec![5, 6, 7])];
        assert_eq!(whole, expected);
        assert_eq!(rest, [range(20, 22), range(30, 31)]);
    }
}
