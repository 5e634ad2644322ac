//! Reading many ranges of one version of something, in as few requests as is sensible: the groups and pieces of a manifest that a
//! search wants, and the pieces of an object that are nowhere here.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use crate::{
    engine::{blocking::joined, connections, error::Error},
    format::geometry::ByteRange,
    net::{
        client::{Answer, Client, Content, Request, Several, Validators},
        error::NetError,
        location::Location,
    },
    policy::{
        recovery::{BadAnswer, Failure},
        requests::{self, Cost, Link},
        schedule::Limits,
    },
};

use super::{EARLY_BYTES_MAX, retry::Attempts};

/// A server may put ranges with small gaps between them together. What comes beyond this is not read.
const MORE_BYTES_MAX: u64 = 1 << 20;
/// How fast everything would come, 100 Mbit/s; it is not known before it is tried.
const BYTES_PER_MS: f64 = 12_500.0;
/// So few ranges are asked for one by one, unless it is known that the server sends several.
const UNTRIED_MAX: usize = 8;

/// Where the ranges are.
pub struct Scattered {
    source: Arc<Source>,
    limits: Limits,
    /// Of everything that is there.
    length: u64,
}

struct Source {
    client: Client,
    location: Location,
    version: Option<Validators>,
    /// Several ranges are asked for at once.
    several: AtomicBool,
    /// If not, gaps up to this many bytes are read along.
    gap: AtomicU64,
}

/// What one request brought.
struct Brought {
    whole: Vec<(ByteRange, Vec<u8>)>,
    /// What it did not bring.
    rest: Vec<ByteRange>,
    error: Option<NetError>,
}

impl Scattered {
    /// `version`: the only one that is wanted, as far as the server can tell.
    pub fn new(
        client: &Client,
        location: &Location,
        version: Option<&Validators>,
        limits: &Limits,
        length: u64,
    ) -> Scattered {
        Scattered {
            source: Arc::new(Source {
                client: client.clone(),
                location: location.clone(),
                version: version.cloned(),
                several: AtomicBool::new(false),
                gap: AtomicU64::new(Cost::SINGLE.gap),
            }),
            limits: *limits,
            length,
        }
    }

    /// Reads these ascending ranges; `take` gets each when all of it is here, in any order.
    pub async fn read(
        &self,
        wants: &[ByteRange],
        mut take: impl FnMut(ByteRange, Vec<u8>),
    ) -> Result<(), Error> {
        let Source {
            client, location, ..
        } = &*self.source;
        let count = requests::merged(wants, Cost::SINGLE.gap).len();
        // A server that does not know how to send several ranges begins to send everything, which costs more than a few requests.
        let several = client
            .sends_several(location)
            .unwrap_or(count > UNTRIED_MAX);
        self.source.several.store(several, Ordering::Relaxed);
        let rest = match wants.split_first() {
            // One by one, many of them may take longer than everything would. The first one tells.
            Some((first, rest)) if !several && count > UNTRIED_MAX => {
                let began = Instant::now();
                self.read_all(&[*first], &mut take).await?;
                self.widen_gaps(rest, began.elapsed());
                rest
            }
            _ => wants,
        };
        self.read_all(rest, &mut take).await
    }

    fn widen_gaps(&self, wants: &[ByteRange], answer: Duration) {
        let link = Link {
            answer_ms: answer.as_secs_f64() * 1000.0,
            connections: self.connections(),
            bytes_per_ms: BYTES_PER_MS,
        };
        let least = Cost::SINGLE.gap;
        let ranges = requests::merged(wants, least);
        let gap = requests::gap_in_time(&ranges, least, self.length, &link);
        self.source.gap.store(gap, Ordering::Relaxed);
    }

    async fn read_all(
        &self,
        wants: &[ByteRange],
        take: &mut impl FnMut(ByteRange, Vec<u8>),
    ) -> Result<(), Error> {
        let connections = self.connections() as usize;
        let mut queue: VecDeque<(Vec<ByteRange>, Attempts)> = VecDeque::new();
        self.plan(wants, &mut queue);
        let mut running = JoinSet::new();
        loop {
            while running.len() < connections
                && let Some((wants, failures)) = queue.pop_front()
            {
                let source = self.source.clone();
                running.spawn(async move { (source.bring(wants).await, failures) });
            }
            let Some(ended) = running.join_next().await else {
                return Ok(());
            };
            let (brought, mut failures) = joined(std::future::ready(ended)).await;
            let came = !brought.whole.is_empty();
            for (range, bytes) in brought.whole {
                take(range, bytes);
            }
            if brought.rest.is_empty() {
                continue;
            }
            match brought.error {
                // A server that sent less than was asked for sends the rest when it is asked for that.
                None if came => self.plan(&brought.rest, &mut queue),
                // It was asked for several ranges, and showed that it cannot send them.
                None if !self.source.several.load(Ordering::Relaxed)
                    && requests::merged(&brought.rest, self.source.cost().gap).len() > 1 =>
                {
                    self.plan(&brought.rest, &mut queue);
                }
                error => {
                    if came {
                        failures = Attempts::new(&self.limits);
                    }
                    let broken = || NetError::new(&self.source.location, Failure::Broken);
                    failures.wait_after(error.unwrap_or_else(broken)).await?;
                    queue.push_front((brought.rest, failures));
                }
            }
        }
    }

    fn connections(&self) -> u32 {
        connections::of_single_requests(&self.source.client, &self.source.location, &self.limits)
    }

    fn plan(&self, wants: &[ByteRange], queue: &mut VecDeque<(Vec<ByteRange>, Attempts)>) {
        let requests = requests::requests(wants, &self.source.cost());
        queue.extend(
            requests
                .into_iter()
                .map(|wants| (wants, Attempts::new(&self.limits))),
        );
    }
}

impl Source {
    fn cost(&self) -> Cost {
        match self.several.load(Ordering::Relaxed) {
            true => Cost::SEVERAL,
            false => Cost {
                gap: self.gap.load(Ordering::Relaxed),
                ..Cost::SINGLE
            },
        }
    }

    /// One request, and whatever comes of it.
    async fn bring(&self, wants: Vec<ByteRange>) -> Brought {
        let mut filled = Filled::new(wants);
        let error = self.fill(&mut filled).await.err();
        let (whole, rest) = filled.into_whole_and_rest();
        Brought { whole, rest, error }
    }

    async fn fill(&self, filled: &mut Filled) -> Result<(), NetError> {
        let ranges = requests::merged(&filled.wants, self.cost().gap);
        let (Some((first, more)), true) = (
            ranges.split_first(),
            self.several.load(Ordering::Relaxed) || ranges.len() == 1,
        ) else {
            // Planned before the server showed that it cannot do this.
            return Ok(());
        };
        let request = Request {
            location: &self.location,
            range: Some(*first),
            more,
            version: self.version.as_ref(),
        };
        if more.is_empty() {
            let answer = self.client.get(request).await?;
            return self.fill_from_one(answer, *first, filled).await;
        }
        match self.client.get_several(request).await? {
            Several::Parts(mut parts) => {
                let wanted: u64 = ranges.iter().map(|range| range.length()).sum();
                let mut came = 0;
                while let Some((place, bytes, _)) = parts.next().await? {
                    filled.take(place, &bytes);
                    came += bytes.len() as u64;
                    // Parts that nobody asked for could go on for ever.
                    if came > wanted + MORE_BYTES_MAX {
                        let how = Failure::BadAnswer(BadAnswer::Multipart);
                        return Err(NetError::new(&self.location, how));
                    }
                }
                Ok(())
            }
            Several::One(answer) => {
                self.several.store(false, Ordering::Relaxed);
                match answer.content {
                    // It sends the first of several only, or puts them together.
                    Content::Part { bytes, .. } if bytes.end <= first.end => {
                        self.fill_from_one(*answer, *first, filled).await
                    }
                    Content::Part { .. } | Content::Whole { .. } => Ok(()),
                }
            }
        }
    }

    async fn fill_from_one(
        &self,
        mut answer: Answer,
        range: ByteRange,
        filled: &mut Filled,
    ) -> Result<(), NetError> {
        let bad = |how| NetError::new(&self.location, Failure::BadAnswer(how));
        let (mut place, end) = match answer.content {
            Content::Part { bytes, .. } if bytes.start > range.start => {
                return Err(bad(BadAnswer::LaterPart));
            }
            Content::Part { bytes, .. } => (bytes.start, bytes.end.min(range.end)),
            Content::Whole { .. } => (0, range.end),
        };
        if range.start - place > EARLY_BYTES_MAX {
            return Err(bad(BadAnswer::EarlierPart));
        }
        while place < end {
            let Some(bytes) = answer.body.next().await? else {
                return Err(NetError::new(&self.location, Failure::Broken));
            };
            filled.take(place, &bytes);
            place += bytes.len() as u64;
        }
        Ok(())
    }
}

/// Ranges and what came of each so far.
struct Filled {
    wants: Vec<ByteRange>,
    bytes: Vec<Vec<u8>>,
}

impl Filled {
    fn new(wants: Vec<ByteRange>) -> Filled {
        Filled {
            bytes: vec![Vec::new(); wants.len()],
            wants,
        }
    }

    /// Takes bytes that lie at a place of the object. What does not follow what came before is left out.
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
        let mut filled = Filled::new(vec![range(2, 5), range(5, 8), range(20, 22), range(30, 31)]);
        let bytes: Vec<u8> = (0..40).collect();
        filled.take(0, &bytes[..4]);
        filled.take(4, &bytes[4..10]);
        filled.take(4, &bytes[4..10]);
        filled.take(21, &bytes[21..25]);
        let (whole, rest) = filled.into_whole_and_rest();
        let expected = [(range(2, 5), vec![2, 3, 4]), (range(5, 8), vec![5, 6, 7])];
        assert_eq!(whole, expected);
        assert_eq!(rest, [range(20, 22), range(30, 31)]);
    }
}
