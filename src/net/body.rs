//! The body of an answer, piece by piece, with an eye on stalls, the rate and the count of all that arrived.

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
    STALL_BYTES, STALL_MS, error::NetError, hosts::Asking, location::Location, rate_limit::Pace,
};

/// See the module.
pub struct Body {
    response: reqwest::Response,
    location: Location,
    /// Until it is read or dropped the host is at work for us.
    asking: Asking,
    pace: Arc<Pace>,
    /// Counts every byte of every body, wanted or not.
    counter: Arc<AtomicU64>,
    /// Bytes that came and were not handed out.
    ahead: Option<Bytes>,
    /// Time spent waiting for bytes, and bytes, since the last time enough had come.
    waited: Duration,
    came: u64,
}

impl Body {
    pub(super) fn new(
        response: reqwest::Response,
        location: Location,
        asking: Asking,
        pace: Arc<Pace>,
        counter: Arc<AtomicU64>,
    ) -> Body {
        Body {
            response,
            location,
            asking,
            pace,
            counter,
            ahead: None,
            waited: Duration::ZERO,
            came: 0,
        }
    }

    /// The next bytes; `None` at the end that the server declared.
    pub async fn next(&mut self) -> Result<Option<Bytes>, NetError> {
        if let Some(ahead) = self.ahead.take() {
            return Ok(Some(ahead));
        }
        let limit = Duration::from_millis(STALL_MS);
        let since = Instant::now();
        let left = limit.saturating_sub(self.waited);
        let chunk = match timeout(left, self.response.chunk()).await {
            Ok(Ok(chunk)) => chunk,
            Ok(Err(cause)) => return Err(NetError::from_reqwest(&self.location, &cause)),
            Err(_) => {
                self.asking.was_in_vain();
                return Err(NetError::new(&self.location, Failure::Stalled));
            }
        };
        let Some(chunk) = chunk else { return Ok(None) };
        self.waited += since.elapsed();
        self.came += chunk.len() as u64;
        if self.came >= STALL_BYTES {
            (self.waited, self.came) = (Duration::ZERO, 0);
        }
        self.counter
            .fetch_add(chunk.len() as u64, Ordering::Relaxed);
        self.pace.take(chunk.len()).await;
        Ok(Some(chunk))
    }

    /// All of the body, if it is not longer than this; cut there.
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

    /// Reads over so many bytes.
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

    /// Where it comes from, after redirects.
    pub fn location(&self) -> &Location {
        &self.location
    }
}
