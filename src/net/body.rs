//! The body of a response, chunk by chunk: counted, within the rate limit, and with a timeout for stalls.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::time::timeout;

use crate::policy::recovery::Failure;

use super::{
    STALL_BYTES, STALL_MS, error::NetError, hosts::InFlight, location::Location,
    rate_limit::RateLimit,
};

/// The body of a response.
pub struct Body {
    response: reqwest::Response,
    location: Location,
    /// The request counts as running until the body is dropped.
    in_flight: InFlight,
    rate_limit: Arc<RateLimit>,
    /// Counts every byte of every body, wanted or not.
    counter: Arc<AtomicU64>,
    /// Bytes that arrived and were not returned yet.
    ahead: Option<Bytes>,
    /// Time spent waiting, and the bytes that arrived in it, since the last [`STALL_BYTES`] were complete.
    waited: Duration,
    arrived: u64,
}

impl Body {
    pub(super) fn new(
        response: reqwest::Response,
        location: Location,
        in_flight: InFlight,
        rate_limit: Arc<RateLimit>,
        counter: Arc<AtomicU64>,
    ) -> Body {
        Body {
            response,
            location,
            in_flight,
            rate_limit,
            counter,
            ahead: None,
            waited: Duration::ZERO,
            arrived: 0,
        }
    }

    /// The next bytes; `None` at the end of the body as its framing declares it.
    pub async fn next(&mut self) -> Result<Option<Bytes>, NetError> {
        if let Some(ahead) = self.ahead.take() {
            return Ok(Some(ahead));
        }
        let limit = Duration::from_millis(STALL_MS);
        let since = Instant::now();
        let left = limit.saturating_sub(self.waited);
        let chunk = match timeout(left, self.response.chunk()).await {
            Ok(Ok(chunk)) => chunk,
            Ok(Err(cause)) => return Err(NetError::from_reqwest(&self.location, None, &cause)),
            Err(_) => {
                self.in_flight.mark_unreachable();
                return Err(NetError::new(&self.location, Failure::Stalled));
            }
        };
        let Some(chunk) = chunk else { return Ok(None) };
        self.waited += since.elapsed();
        self.arrived += chunk.len() as u64;
        if self.arrived >= STALL_BYTES {
            (self.waited, self.arrived) = (Duration::ZERO, 0);
        }
        self.counter
            .fetch_add(chunk.len() as u64, Ordering::Relaxed);
        self.rate_limit.take(chunk.len()).await;
        Ok(Some(chunk))
    }

    /// The first bytes, which [`Body::next`] still returns; empty at the end.
    pub async fn peek(&mut self) -> Result<&[u8], NetError> {
        self.ahead = self.next().await?;
        Ok(self.ahead.as_deref().unwrap_or_default())
    }

    /// The body, cut at this length.
    pub async fn read_up_to(&mut self, most: usize) -> Result<Vec<u8>, NetError> {
        let mut bytes = Vec::new();
        while bytes.len() < most {
            let Some(chunk) = self.next().await? else {
                break;
            };
            bytes.extend_from_slice(&chunk[..chunk.len().min(most - bytes.len())]);
        }
        Ok(bytes)
    }

    /// Skips this many bytes.
    pub async fn skip(&mut self, count: u64) -> Result<(), NetError> {
        let mut left = count;
        while left > 0 {
            let Some(mut chunk) = self.next().await? else {
                return Err(NetError::new(&self.location, Failure::Broken));
            };
            let over = left.min(chunk.len() as u64);
            left -= over;
            let rest = chunk.split_off(over as usize);
            if !rest.is_empty() {
                self.ahead = Some(rest);
            }
        }
        Ok(())
    }

    /// The URL of the response, after redirects.
    pub fn location(&self) -> &Location {
        &self.location
    }
}
